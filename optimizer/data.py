"""From sources to three disjoint splits: read, check, remove copies, split by hash, refuse what is too small.

`rows.py` reads, `fields.py` checks a row, `splits.py` decides where it goes; this module joins them. Rows come one at a
time and only those that fall in a (capped) split are kept, so a sample of a very large file needs little memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optimizer.candidate import Example
from optimizer.config import Config, Data, MaxRows, Split, Task
from optimizer.data_report import N_SHOWN, DataReport, Splits, Tally, assert_disjoint, describe
from optimizer.errors import DataError, did_you_mean
from optimizer.fields import BadRow, example_of, show
from optimizer.rows import Row, RowLike, Table, open_table, table_of
from optimizer.splits import LARGEST, SPLIT_NAMES, Bin, SplitName, content_key, hash64, ordered, pick_split, split_key
from optimizer.withholding import is_withheld, withheld_ids

__all__ = ["DataReport", "SplitName", "Splits", "assert_disjoint", "load_splits", "splits_from_rows"]

MIN_ROWS: Mapping[SplitName, int] = {"train": 1, "dev": 10, "test": 10}
N_KEPT = 100  # descriptions of bad rows
FEW_GROUPS = 30  # too few different rows to fill three splits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """A table and the splits that its rows may go to. `key` is what the user calls it."""

    table: Table
    names: tuple[SplitName, ...]
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What to do with the rows. `prefix` is `data.` where the settings come from a configuration file."""

    task: Task
    data: Data
    prefix: str
    scored: str | None

    @property
    def columns(self) -> dict[str, str]:
        """Field to column, for every field of the task."""
        return {name: self.data.fields.get(name, name) for name in [*self.task.inputs, *self.task.outputs]}

    @property
    def keep_digits(self) -> bool:
        return any(output.kind == "number" for output in self.task.outputs.values())

    @property
    def class_output(self) -> str | None:
        """The label or boolean output that is scored; the first one if the metric names no output."""
        names = self.task.outputs if self.scored is None else [self.scored]
        return next((name for name in names if self.task.outputs[name].kind in ("label", "boolean")), None)

    def share(self, name: SplitName) -> float:
        return {"train": self.data.split.train, "dev": self.data.split.dev, "test": self.data.split.test}[name]

    def cap(self, name: SplitName) -> int | None:
        caps = self.data.max_rows
        return {"train": caps.train, "dev": caps.dev, "test": caps.test}[name]


def load_splits(config: Config, *, folder: Path) -> Splits:
    """Read the configured data and split it.

    `data.source` is split by hash. With `data.files` the splits are given; rows whose inputs also occur in test are
    removed from dev and train, and rows of dev from train, so test never changes.

    Args:
        folder: where relative paths start; the configuration's own folder.

    Raises:
        DataError: nothing can be read, a row is bad and may not be skipped, or there is too little to learn from.
    """
    data = config.data
    plan = _Plan(task=config.task, data=data, prefix="data.", scored=config.metric.output)
    sources: list[tuple[str, str, tuple[SplitName, ...]]] = [("data.source", data.source or "", SPLIT_NAMES)]
    if (files := data.files) is not None:
        given: dict[SplitName, str] = {"test": files.test, "dev": files.dev, "train": files.train}
        sources = [(f"data.files.{name}", source, (name,)) for name, source in given.items()]
    pools = [
        _Pool(table=_open(source, plan, folder=folder, key=key), names=names, key=key) for key, source, names in sources
    ]
    return _split(pools, plan)


def _open(source: str, plan: _Plan, *, folder: Path, key: str) -> Table:
    data, columns = plan.data, plan.columns.values()
    return open_table(source, folder=folder, columns=columns, key=key, encoding=data.encoding, sheet=data.sheet)


def splits_from_rows(
    train: Iterable[RowLike],
    dev: Iterable[RowLike] | None = None,
    test: Iterable[RowLike] | None = None,
    *,
    task: Task,
    split: Split | None = None,
    max_rows: MaxRows | None = None,
    seed: int = 0,
    skip_bad_rows: bool = False,
    output: str | None = None,
) -> Splits:
    """Split rows that the caller holds: dicts, `dspy.Example`s, or anything else with keys and values.

    A split that is not given is taken by hash from the one before it: dev from train, test from dev (or from train, if
    dev is not given either). Otherwise the rules of `load_splits` hold; ids come from the content, as for files.

    Args:
        output: the output that is scored; default: the first label or boolean one.

    Raises:
        DataError: as for `load_splits`.
    """
    settings = Data(
        source="rows",  # a source must be named; this one is never opened
        split=split or Split(),
        max_rows=max_rows or MaxRows(),
        seed=seed,
        skip_bad_rows=skip_bad_rows,
    )
    plan = _Plan(task=task, data=settings, prefix="", scored=output)
    given: dict[SplitName, Iterable[RowLike] | None] = {"train": train, "dev": dev, "test": test}
    pools: list[_Pool] = []
    for name in SPLIT_NAMES:
        if (rows := given[name]) is not None:
            pools.append(_Pool(table=table_of(rows, name=name), names=(name,), key=name))
        else:
            pools[-1] = replace(pools[-1], names=(*pools[-1].names, name))
    return _split(pools[::-1], plan)


def _split(pools: Sequence[_Pool], plan: _Plan) -> Splits:
    """Read the pools in the order given: rows of an earlier pool are removed from the later ones."""
    sampled = {name for pool in pools if len(pool.names) > 1 for name in pool.names if plan.cap(name) is None}
    bins = {name: Bin(cap=LARGEST[name] if name in sampled else plan.cap(name)) for name in SPLIT_NAMES}
    tally = Tally()
    taken: set[int] = set()
    for pool in pools:
        taken |= _fill(pool, plan, bins=bins, tally=tally, taken=taken, is_last=pool is pools[-1])
    withheld = {name: withheld_ids(bins[name].rows, tally.withheld, keep_digits=plan.keep_digits) for name in bins}
    for row_id in withheld.pop("train"):
        del bins["train"].rows[row_id]
    _refuse_too_little(pools, plan, bins=bins, tally=tally)
    output = plan.class_output
    rows = {name: ordered(bins[name].rows.values(), output=output, seed=plan.data.seed) for name in SPLIT_NAMES}
    choices = plan.task.outputs[output].choices if output else ()
    report = describe(rows, class_output=output, choices=choices, keep_digits=plan.keep_digits)
    tally.sampled = {name: bins[name].n_left_out + len(rows[name]) for name in SPLIT_NAMES if name in sampled}
    splits = Splits(**rows, report=tally.added_to(report), withheld=frozenset().union(*withheld.values()))
    assert_disjoint(splits)
    return splits


def _fill(
    pool: _Pool, plan: _Plan, *, bins: Mapping[SplitName, Bin], tally: Tally, taken: set[int], is_last: bool
) -> set[int]:
    """Read one pool into the bins; return hashes of its inputs, which later pools must not repeat."""
    seed, columns = plan.data.seed, plan.columns
    shares = {name: plan.share(name) for name in pool.names}
    own: set[int] = set()
    seen: set[int] = set()
    for example in _examples(pool, plan, tally):
        group = split_key(example.inputs, keep_digits=plan.keep_digits)
        name = pick_split(group, shares, seed=seed)
        if is_withheld(example, plan.data, columns):
            tally.withheld.add(hash64(group))
            others: dict[SplitName, float] = {other: share for other, share in shares.items() if other != "train"}
            name = pick_split(group, others, seed=seed) if others else name
        if len(tally.groups) < FEW_GROUPS:
            tally.groups.add(group)
        key = hash64(content_key(example.inputs))
        if len(tally.answers) < 2:
            tally.answers.add(content_key(example.outputs))
        if key in taken:
            tally.overlaps[name] += 1
            continue
        if not is_last:  # the last pool is the largest, and nobody asks for its keys
            own.add(key)
        n_seen = len(seen)
        seen.add(int(example.id, 16))
        tally.n_duplicates += len(seen) == n_seen
        bins[name].offer(example, seed=seed)
    return own


def _examples(pool: _Pool, plan: _Plan, tally: Tally) -> Iterator[Example]:
    """Yield the good rows of a pool; at its end, refuse it if a column or all rows are missing, or if a row was bad."""
    columns = plan.columns
    met: dict[str, None] = {}
    bad: list[str] = []
    n_read = n_bad = 0
    for row in pool.table.rows:
        n_read += 1
        met |= dict.fromkeys(row.values)
        example = _example(row, plan, columns)
        if isinstance(example, Example):
            yield example
            continue
        n_bad += 1
        if len(bad) < N_KEPT:
            bad.append(f"{pool.table.place(row.number)}: {example}")
    tally.n_read += n_read
    tally.n_bad += n_bad
    tally.bad_rows += bad[: N_KEPT - len(tally.bad_rows)]
    _refuse_missing_column(pool, plan, met)
    if n_bad and (n_bad == n_read or not plan.data.skip_bad_rows):
        raise DataError(_bad_rows_message(pool, plan, bad=bad, n_bad=n_bad, n_read=n_read))
    if not n_read:
        raise DataError(f"{pool.key}: {pool.table.name!r} has no rows; put in labelled examples, one a row")


def _example(row: Row, plan: _Plan, columns: Mapping[str, str]) -> Example | str:
    """Return the example, or what is wrong with the row."""
    if row.problem:
        return row.problem
    try:
        example = example_of(row.values, plan.task, columns)
        is_withheld(example, plan.data, columns)  # refuses what it does not understand
        return example
    except BadRow as problem:
        return str(problem)


def _refuse_missing_column(pool: _Pool, plan: _Plan, met: Mapping[str, None]) -> None:
    if met and (column := plan.data.withheld_by) is not None and column not in met:
        found = show(", ".join(met), 200)
        raise DataError(f"{plan.data.withheld_key}: {pool.table.name} has no column {column!r}; columns found: {found}")
    for name, column in plan.columns.items():
        if met and column not in met:
            mend = f"set data.fields: {{{name}: COLUMN}}" if plan.prefix else f"name the key {name!r}"
            raise DataError(
                f"{pool.table.name}: no column {column!r} for the field {name!r}; columns found: "
                f"{show(', '.join(met), 200)}; {mend}.{did_you_mean(column, met)}"
            )


def _bad_rows_message(pool: _Pool, plan: _Plan, *, bad: Sequence[str], n_bad: int, n_read: int) -> str:
    counted = f"{n_bad} of {n_read} rows {'is' if n_bad == 1 else 'are'} bad"
    more = f"; and {n_bad - N_SHOWN} more" if n_bad > N_SHOWN else ""
    shown = "; ".join(bad[:N_SHOWN])
    if n_bad == n_read:
        return f"{pool.table.name}: no rows can be used, {counted}: {shown}{more}; mend the rows or the task's fields"
    leave_out = f"{plan.prefix}skip_bad_rows: true" if plan.prefix else "skip_bad_rows=True"
    return f"{pool.table.name}: {counted}: {shown}{more}; mend them, or leave them out with {leave_out}"


def _refuse_too_little(pools: Sequence[_Pool], plan: _Plan, *, bins: Mapping[SplitName, Bin], tally: Tally) -> None:
    n = {name: len(bins[name].rows) for name in SPLIT_NAMES}
    total, source = sum(n.values()), ", ".join(dict.fromkeys(pool.table.name for pool in pools))
    if tally.n_read == 1 or total == 1:
        copies = f" (the other {tally.n_read - 1} are copies or unusable)" if tally.n_read > 1 else ""
        raise DataError(f"{source}: only one row{copies}; a few hundred labelled examples are wanted, 50 are few")
    if len(tally.answers) == 1:
        answer = show(next(iter(tally.answers)))
        raise DataError(f"{source}: every row has the same answer {answer}: nothing to learn; add other answers")
    for pool in pools:
        for name in pool.names:
            if n[name] < MIN_ROWS[name]:
                held = f"{name} has {n[name]} of {total} rows" if n[name] else f"{name} is empty ({total} rows in all)"
                mend = _mend_size(pool, plan, name=name, tally=tally)
                raise DataError(f"{source}: {held}; at least {MIN_ROWS[name]} are needed; {mend}")


def _mend_size(pool: _Pool, plan: _Plan, *, name: SplitName, tally: Tally) -> str:
    """Say which key or which rows make the split larger."""
    cap, least = plan.cap(name), MIN_ROWS[name]
    if cap is not None and cap < least:
        return f"raise {plan.prefix}max_rows.{name}, now {cap}"
    if n_overlap := tally.overlaps[name]:
        return f"{n_overlap} of its rows also occur in another split and were removed; add others to {pool.key}"
    if len(pool.names) == 1:
        return f"add rows to {pool.key}"
    if (n_groups := len(tally.groups)) < min(FEW_GROUPS, tally.n_read // 2):
        counted = "is only 1 different text" if n_groups == 1 else f"are only {n_groups} different texts"
        return (
            f"there {counted} once case, digits and punctuation are ignored, and near-copies share a split; "
            f"add other rows, or give train, dev and test yourself{' with data.files' if plan.prefix else ''}"
        )
    if name == "train" and tally.withheld:
        n, key = len(tally.withheld), plan.data.withheld_key
        return f"{key} keeps {n} kinds of rows out of it; leave a few rows that may be shown"
    share = plan.share(name) / sum(map(plan.share, pool.names))
    # A quarter on top, since a hash deals out shares only roughly.
    wanted = math.ceil(1.25 * least / share)
    raise_share = f"raise {plan.prefix}split.{name}, now {plan.share(name)}"
    return f"add rows to {pool.key} (about {wanted} different ones in all) or {raise_share}"
