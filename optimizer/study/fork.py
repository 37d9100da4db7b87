"""What keeps a study from being continued, said readably, and a new study that reuses what the old one paid for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import sqlalchemy as sa

from optimizer.candidate import JsonValue, canonical_json
from optimizer.command_line import run_command
from optimizer.config.keys import Config
from optimizer.storage.database import reply_table, storage_errors
from optimizer.storage.statements import insert_or_ignore

if TYPE_CHECKING:
    from optimizer.study.job import Job

MAX_SHOWN_CHARS = 120
Record = Mapping[str, JsonValue]


def differences(record: Record, wanted: Record, *, config: Config, facts: Record) -> list[str]:
    """Say what of a study's identity changed, one phrase each; empty when it can be continued.

    A finished study is only shown, so that it does not matter when a later version of this program scores otherwise.

    Args:
        record: the study's.
        wanted: what it is now, as `Job.identity` gives it.
        facts: row counts and fingerprints of the splits, to name those that changed.
    """
    known, known_facts = cast(Record, record["identity"]), cast(Record, record["facts"])
    changed = [key for key in wanted if canonical_json(wanted[key]) != canonical_json(known.get(key))]
    phrases = {key: _phrase(key, known.get(key), wanted[key], known_facts, facts) for key in changed}
    if "metric" in phrases and _is_built_in(config) and _began(record).metric == config.metric:
        if record["state"] == "finished":
            del phrases["metric"]
        else:
            phrases["metric"] = "metric (this version of the program scores answers in another way)"
    return list(phrases.values())


def _is_built_in(config: Config) -> bool:
    return not any(":" in measure.name for measure in config.metric.measures)


def _began(record: Record) -> Config:
    """Return the configuration that a study began with."""
    return Config.model_validate_json(canonical_json(record["config"]))


def changed_study(job: Job, changed: Sequence[str]) -> str:
    """Say that a study cannot be continued and what to do, in the words of whoever began it."""
    name, what = job.config.name, ", ".join(changed)
    if job.is_from_python:
        return (
            f"optimize: study {name!r} in {str(job.runs_dir)!r} was started with another {what}; for a study of "
            f"its own give another name, name='...'; with fork={name!r} as well it uses again the replies that still "
            "apply; undo the change to continue the old one"
        )
    numbers = itertools.count(2)
    free = next(fork for n in numbers if not (job.runs_dir / (fork := f"{name}-{n}")).exists())
    return (
        f"study {name!r} has changed since it was started: {what}; undo the change to continue it, or begin a new "
        f"study, which uses again the replies that still apply: {run_command('--fork', free)}"
    )


def limits_of(config: Config) -> dict[str, JsonValue]:
    """Return the settings that say how far a search goes, by their keys; they may change between runs."""
    budget = {f"budget.{name}": value for name, value in config.budget.model_dump(mode="json").items()}
    return {"search.trials": config.search.trials, **budget}


def raised(record: Record, config: Config) -> list[str]:
    """Say which limits are higher now than when the study was last worked on, one phrase each."""
    old, new = _table(record, "limits"), limits_of(config)
    return [f"{key} ({_change(old[key], new[key])})" for key in new if key in old and _is_higher(old[key], new[key])]


def reshown(record: Record, config: Config) -> list[str]:
    """Say which settings of what may be shown or sent differ from those that a study began with, one phrase each."""
    began = _began(record)
    pairs = {
        "privacy": (began.privacy, config.privacy),
        "tracking.rows": (began.tracking.rows, config.tracking.rows),
        "data.no_demos": (began.data.no_demos, config.data.no_demos),
        "data.demos_only": (began.data.demos_only, config.data.demos_only),
    }
    return [f"{key} ({_change(old, new)})" for key, (old, new) in pairs.items() if old != new]


def _is_higher(old: JsonValue, new: JsonValue) -> bool:
    if old is None or isinstance(old, str) or isinstance(new, str):
        return False  # there was no limit, or it is a time of day
    return new is None or cast(float, new) > cast(float, old)


def _phrase(key: str, old: JsonValue, new: JsonValue, old_facts: Record, facts: Record) -> str:
    if key == "data":
        return f"data ({_changed_splits(old_facts, facts)})"
    if key in ("program", "metric"):
        return f"{key} (its settings or its source code)"
    if isinstance(old, dict) and isinstance(new, dict):
        names = [
            name for name in sorted({*old, *new}) if canonical_json(old.get(name)) != canonical_json(new.get(name))
        ]
        return f"{key} ({', '.join(f'{name}: {_change(old.get(name), new.get(name))}' for name in names)})"
    return f"{key} ({_change(old, new)})"


def _changed_splits(old: Record, new: Record) -> str:
    hashes, old_hashes = _table(new, "fingerprints"), _table(old, "fingerprints")
    n_rows, n_old = _table(new, "n_rows"), _table(old, "n_rows")
    splits = [split for split in hashes if hashes[split] != old_hashes.get(split)]
    told = [
        f"{split}: {_change(n_old.get(split), n_rows.get(split))} rows"
        if n_old.get(split) != n_rows.get(split)
        else f"{split}: other rows"
        for split in splits
    ]
    return ", ".join(told) or "other rows"


def _table(facts: Record, name: str) -> Record:
    return cast(Record, facts.get(name) or {})


def _change(old: JsonValue, new: JsonValue) -> str:
    return f"{_shown(old)} -> {_shown(new)}"


def _shown(value: JsonValue) -> str:
    if value is None:
        return "default"
    text = canonical_json(value)
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."


def copy_replies(source: sa.Engine, target: sa.Engine) -> int:
    """Copy the replies that one journal holds into another and return how many that were.

    Replies are named by everything that they depend on, so those that no longer apply are never asked for.
    """
    if source.url == target.url:
        return 0  # one database of many studies shares its replies anyway
    with storage_errors(), source.connect() as reading:
        rows = [row._asdict() for row in reading.execute(sa.select(reply_table))]
    with storage_errors(), target.begin() as writing:
        insert_or_ignore(writing, reply_table, rows)
    return len(rows)
