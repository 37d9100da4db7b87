"""What MLflow should show of a study, as plain values: run names, tags, params, points, files.

Pure: a `StudyView` in, text and numbers out. Deliberately knows nothing of run ids, stores or when it is
called, so that the same study always gives the same content and a digest can tell whether it was written before.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from optimizer.candidate import Candidate, Example, JsonValue, content_hash
from optimizer.proof import insight
from optimizer.records import Outcome, StudyState, StudyView, TrialRecord, TrialState
from optimizer.track.points import Point, trial_points
from optimizer.track.projection import Projection

RunStatus = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]

# The list of runs shows FINISHED with a green mark and both FAILED and KILLED with a red one. Pruning is how a race
# normally ends and leaves an honest partial score, so it is FINISHED; KILLED means that nothing was scored.
TRIAL_STATUS: Mapping[TrialState, RunStatus] = {
    "running": "RUNNING",
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "rejected": "KILLED",
    "unfinished": "KILLED",
    "failed": "FAILED",
}
STUDY_STATUS: Mapping[StudyState, RunStatus] = {"running": "RUNNING", "paused": "SCHEDULED", "finished": "FINISHED"}

PREVIEW_CHARS = 200
REASON_CHARS = 500
PARAM_CHARS = 500  # far below the store's 6000: a longer value is a text to read, and config.json has it
NO_PARAM = (
    "budget",
    "tracking",
    "storage",
    "notify",
    "prompt",
    "name",
)  # may change between sessions, or are shown elsewhere
FLIP_COLUMNS = ["example_id", "expected", "seed_said", "winner_said", "seed", "winner", "flip"]
PARAM_KEY = re.compile(r"[A-Za-z0-9_\-. :/]{1,250}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContent:
    """Everything that one MLflow run should hold. Files are texts by path."""

    name: str
    status: RunStatus
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: tuple[Point, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of the content: equal digests need no second write."""
        points = [[point.key, point.value, point.step, point.offset_ms] for point in self.points]
        return content_hash([self.name, self.status, self.tags, self.params, points, self.files], n_chars=32)


class Lineage:
    """Which trial made which candidate. Made once for many trials: a candidate's id is a hash of its text."""

    def __init__(self, view: StudyView) -> None:
        self._seed = view.seed
        self._seed_id = view.seed.id
        self._trials: dict[str, TrialRecord] = {}
        for trial in view.trials:
            if trial.candidate is not None:
                self._trials.setdefault(trial.candidate.id, trial)

    def number(self, candidate_id: str) -> int | None:
        """The first trial that evaluated the candidate."""
        trial = self._trials.get(candidate_id)
        return None if trial is None else trial.number

    def candidate(self, candidate_id: str) -> Candidate | None:
        if candidate_id == self._seed_id:
            return self._seed
        trial = self._trials.get(candidate_id)
        return None if trial is None else trial.candidate


def trial_content(view: StudyView, trial: TrialRecord, projection: Projection, lineage: Lineage) -> RunContent:
    """Return the run of one trial. Outcomes appear as example ids and values, never as row texts."""
    later = view.dev_rows(trial)
    return RunContent(
        name=trial_name(trial, view.dev_score(trial)[0], width=number_width(view)),
        status=TRIAL_STATUS[trial.state],
        tags=_trial_tags(view, trial, projection, lineage),
        params={f"recipe.{key}": str(value) for key, value in asdict(trial.recipe).items() if value != ""},
        points=trial_points(trial, block=setting(view, "search", "block", default=10), later=later),
        files=_trial_files(trial, later, projection, lineage),
    )


def study_content(view: StudyView, projection: Projection) -> RunContent:
    """Return what is known of a study from its first second on: settings, facts, the seed prompt.

    Independent of how far the study is, so that following it and rebuilding it end alike.
    """
    seed_text = projection.render(view.seed)
    tags = {
        "optimizer.study": view.name,
        "optimizer.study_id": projection.study_id(view.name),
        "optimizer.kind": "study",
        "optimizer.seed_candidate": view.seed.id,
        "optimizer.seed_preview": projection.preview(seed_text, PREVIEW_CHARS),
        "mlflow.source.name": "optimizer",
        "mlflow.source.type": "LOCAL",
    }
    if isinstance(commit := view.facts.get("git_commit"), str):
        tags["mlflow.source.git.commit"] = commit
    for split in projection.splits:
        tags[f"optimizer.data.{split.split}"] = f"{split.n_rows} rows, {split.digest}"
    return RunContent(
        name=view.name,
        status="RUNNING",
        tags=tags,
        params=dict(config_params(view.config)),
        files={
            "seed_prompt.txt": seed_text,
            "config.json": pretty_json(view.config),
            "facts.json": pretty_json(_facts(view, projection)),
        },
    )


def _facts(view: StudyView, projection: Projection) -> Mapping[str, JsonValue]:
    """Facts for people; warnings may quote a row."""
    return {key: value for key, value in view.facts.items() if key != "warnings" or not projection.hides_rows}


def _reason(trial: TrialRecord, projection: Projection) -> str:
    """Why a trial ended; an error may quote a row."""
    is_hidden = projection.hides_rows and trial.state == "failed"
    return "an error; `optimizer show` says which" if is_hidden else trial.reason


def trial_name(trial: TrialRecord, score: float | None, *, width: int = 2) -> str:
    """Return a name that makes the list of runs readable by itself: `07 demos 0.71`, `08 rewrite rejected`.

    Numbers count from 1, as everywhere that people see them.
    """
    words = [f"{trial.number + 1:0{width}d}", trial.recipe.operator]
    if score is not None and trial.state in ("complete", "pruned"):
        words.append(f"{score:.2f}")
    if trial.state != "complete":
        words.append(trial.state)
    return " ".join(words)


def number_width(view: StudyView) -> int:
    """Digits of the largest trial number, so that names sort as text."""
    return max(2, len(str(setting(view, "search", "trials", default=40))))


def flips_table(seed: Sequence[Outcome], winner: Sequence[Outcome], rows: Mapping[str, Example]) -> str:
    """Return the rows that both prompts answered, as a table file: what was expected and said, both values, the flip.

    Inputs stay out, they are in the data.
    """
    data: list[list[JsonValue]] = [
        [
            pair.example_id,
            insight.as_line(pair.example.outputs) if pair.example else None,
            insight.said(pair.seed) if pair.seed.answer else pair.seed.kind,
            insight.said(pair.winner) if pair.winner.answer else pair.winner.kind,
            pair.seed.value,
            pair.winner.value,
            pair.flip,
        ]
        for pair in insight.pairs(seed, winner, rows)
    ]
    return pretty_json({"columns": FLIP_COLUMNS, "data": data})


def config_params(config: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings as short params with dotted keys. Empty, long and changeable ones are left to config.json."""
    for key, value in config.items():
        path = f"{prefix}{key}"
        if path in NO_PARAM or value is None or value == "" or not PARAM_KEY.fullmatch(path):
            continue
        if isinstance(value, Mapping):
            yield from config_params(value, f"{path}.")
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if len(text) <= PARAM_CHARS:
            yield path, text


def setting(view: StudyView, section: str, key: str, *, default: int) -> int:
    """Read a whole number from the stored configuration; a missing one gives `default`."""
    group = view.config.get(section)
    value = group.get(key) if isinstance(group, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def pretty_json(value: object) -> str:
    """Serialise for people. ASCII, so that any text survives the way through the store unchanged."""
    return json.dumps(value, indent=1, ensure_ascii=True, default=str)


def _trial_tags(view: StudyView, trial: TrialRecord, projection: Projection, lineage: Lineage) -> dict[str, str]:
    width = number_width(view)
    numbers = [number for parent in trial.parents if (number := lineage.number(parent)) is not None]
    tags = {
        "optimizer.study": view.name,
        "optimizer.kind": "trial",
        "optimizer.trial": str(trial.number + 1),
        "optimizer.operator": trial.recipe.operator,
        "optimizer.state": trial.state,
        "optimizer.reason": projection.preview(_reason(trial, projection), REASON_CHARS),
        "optimizer.candidate": trial.candidate.id if trial.candidate else "",
        "optimizer.parents": ",".join(trial.parents),
        "optimizer.parent_trials": ",".join(f"{number + 1:0{width}d}" for number in numbers),
        "optimizer.prompt_preview": (
            projection.preview(projection.render(shown), PREVIEW_CHARS) if (shown := _shown(trial, projection)) else ""
        ),
        "mlflow.source.name": "optimizer",
        "mlflow.source.type": "LOCAL",
    }
    return {key: value for key, value in tags.items() if value}


def _shown(trial: TrialRecord, projection: Projection) -> Candidate | None:
    """The candidate, unless it may quote a row: where rows are hidden, a text that was rejected may be one."""
    return None if projection.hides_rows and trial.state == "rejected" else trial.candidate


def _trial_files(
    trial: TrialRecord, outcomes: Sequence[Outcome], projection: Projection, lineage: Lineage
) -> dict[str, str]:
    files: dict[str, str] = {}
    if outcomes:
        rows = [{"example_id": row.example_id, "kind": row.kind, "value": row.value} for row in outcomes]
        files["outcomes.json"] = pretty_json(rows)
    if (candidate := _shown(trial, projection)) is None:
        return files
    prompt = projection.render(candidate)
    files |= {"prompt.txt": prompt, "candidate.json": pretty_json(projection.shown(candidate).to_json())}
    parent = lineage.candidate(trial.parents[0]) if trial.parents else None
    if parent is not None:
        files["diff.txt"] = prompt_diff(projection.render(parent), prompt, parent.id, candidate.id)
    return files


def prompt_diff(old: str, new: str, old_name: str, new_name: str) -> str:
    """Return the unified diff of two prompts; empty when they are equal."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), old_name, new_name, lineterm="")
    return "\n".join(lines)
