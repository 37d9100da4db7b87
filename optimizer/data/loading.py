"""From sources to three disjoint splits: read, check, remove copies, split by hash, refuse what is too small.

`rows.py` reads, `fields.py` checks a row, `splits.py` decides where it goes; this module joins them. Rows come one at a
time and only those that fall in a (capped) split are kept, so a sample of a very large file needs little memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from optimizer.candidate import Example
from optimizer.config.keys import Config, Data, MaxRows, Split, Task
from optimizer.data.fields import BadRow, example_of
from optimizer.data.plan import Plan, Pool
from optimizer.data.refusals import FEW_GROUPS, bad_rows_message, refuse_missing_column, refuse_too_little
from optimizer.data.report import Splits, Tally, assert_disjoint, describe
from optimizer.data.rows import Row, RowLike, Table, open_table, table_of
from optimizer.data.splits import (
    LARGEST,
    SPLIT_NAMES,
    Bin,
    SplitName,
    content_key,
    hash64,
    ordered,
    pick_split,
    pick_unseen,
    split_key,
)
from optimizer.data.withholding import held_back, is_withheld, unclear_words, withheld_ids
from optimizer.errors import DataError

N_KEPT = 100  # descriptions of bad rows


def load_splits(config: Config, *, folder: Path) -> Splits:
    """Read the configured data and split it.

    `data.source` is split by hash. With `data.files` the splits are given; rows whose inputs also occur in test are
    removed from dev and train, and rows of dev from train, so test never changes.

    Args:
        folder: where relative paths start; the configuration's own folder.

    Raises:
        DataError: nothing can be read, a row is bad and may not be skipped, or there is too little to learn from.
    """
    plan = Plan(task=config.task, data=config.data, prefix="data.", scored=config.metric.output)
    return _split(_pools(config, plan, folder=folder), plan)


def places_of(config: Config, ids: Collection[str], *, folder: Path) -> dict[str, tuple[str, ...]]:
    """Return where rows stand in the configured files, by id; of copies every place. The files are read once more.

    Raises:
        DataError: nothing can be read.
    """
    plan = Plan(task=config.task, data=config.data, prefix="data.", scored=config.metric.output)
    found: dict[str, tuple[str, ...]] = {}
    for pool in _pools(config, plan, folder=folder):
        for row in pool.table.rows:
            example = _example(row, plan, plan.columns)
            if isinstance(example, Example) and example.id in ids:
                place = f"{pool.table.unit} {row.number} of {pool.table.name}"
                found[example.id] = (*found.get(example.id, ()), place)
    return found


def _pools(config: Config, plan: Plan, *, folder: Path) -> list[Pool]:
    """The sources in the order in which they are read."""
    sources: list[tuple[str, str, tuple[SplitName, ...]]] = [("data.source", config.data.source or "", SPLIT_NAMES)]
    if (files := config.data.files) is not None:
        given: dict[SplitName, str] = {"test": files.test, "dev": files.dev, "train": files.train}
        sources = [(f"data.files.{name}", source, (name,)) for name, source in given.items()]
    return [
        Pool(table=_open(source, plan, folder=folder, key=key), names=names, key=key) for key, source, names in sources
    ]


def _open(source: str, plan: Plan, *, folder: Path, key: str) -> Table:
    encoding, sheet, columns = plan.data.encoding, plan.data.sheet, plan.columns.values()
    return open_table(source, folder=folder, columns=columns, key=key, encoding=encoding, sheet=sheet)


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
    plan = Plan(task=task, data=settings, prefix="", scored=output)
    given: dict[SplitName, Iterable[RowLike] | None] = {"train": train, "dev": dev, "test": test}
    pools: list[Pool] = []
    for name in SPLIT_NAMES:
        if (rows := given[name]) is not None:
            pools.append(Pool(table=table_of(rows, name=name), names=(name,), key=name))
        else:
            pools[-1] = replace(pools[-1], names=(*pools[-1].names, name))
    return _split(pools[::-1], plan)


def _split(pools: Sequence[Pool], plan: Plan) -> Splits:
    """Read the pools in the order given: rows of an earlier pool are removed from the later ones."""
    sampled = {name for pool in pools if len(pool.names) > 1 for name in pool.names if plan.cap(name) is None}
    bins = {name: Bin(cap=LARGEST[name] if name in sampled else plan.cap(name)) for name in SPLIT_NAMES}
    tally = Tally(withheld_by=tuple(plan.data.withheld_by.values()))
    taken: set[int] = set()
    for pool in pools:
        taken |= _fill(pool, plan, bins=bins, tally=tally, taken=taken, is_last=pool is pools[-1])
    withheld = {name: withheld_ids(bins[name].rows, tally.withheld, keep_digits=plan.keep_digits) for name in bins}
    left_out = [bins["train"].rows.pop(row_id) for row_id in withheld.pop("train")]
    refuse_too_little(pools, plan, bins=bins, tally=tally)
    output = plan.class_output
    rows = {name: ordered(bins[name].rows.values(), output=output, seed=plan.data.seed) for name in SPLIT_NAMES}
    choices = plan.task.outputs[output].choices if output else ()
    report = describe(rows, class_output=output, choices=choices, keep_digits=plan.keep_digits)
    tally.sampled = {name: bins[name].n_left_out + len(rows[name]) for name in SPLIT_NAMES if name in sampled}
    kept = [bins[name].rows[row_id] for name, ids in withheld.items() for row_id in ids]
    splits = Splits(
        **rows,
        report=tally.added_to(report),
        withheld=frozenset(row.id for row in kept),
        held_back=held_back(kept, left_out, plan.data, plan.columns),
    )
    assert_disjoint(splits)
    return splits


def _fill(
    pool: Pool, plan: Plan, *, bins: Mapping[SplitName, Bin], tally: Tally, taken: set[int], is_last: bool
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
            tally.add_unclear(unclear_words(example, plan.data, columns))
            name = pick_unseen(group, shares, seed=seed)
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


def _examples(pool: Pool, plan: Plan, tally: Tally) -> Iterator[Example]:
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
        kind = example.partition("; ")[0]
        if kind in tally.bad_kinds or len(tally.bad_kinds) < N_KEPT:
            tally.bad_kinds[kind] += 1
        if len(bad) < N_KEPT:
            bad.append(f"{pool.table.place(row.number)}: {example}")
    tally.n_read += n_read
    tally.n_bad += n_bad
    tally.bad_rows += bad[: N_KEPT - len(tally.bad_rows)]
    refuse_missing_column(pool, plan, met)
    if n_bad and (n_bad == n_read or not plan.data.skip_bad_rows):
        raise DataError(bad_rows_message(pool, plan, bad=bad, n_bad=n_bad, n_read=n_read))
    if not n_read:
        raise DataError(f"{pool.key}: {pool.table.name!r} has no rows; put in labelled examples, one a row")


def _example(row: Row, plan: Plan, columns: Mapping[str, str]) -> Example | str:
    """Return the example, or what is wrong with the row."""
    if row.problem:
        return row.problem
    try:
        return example_of(row.values, plan.task, columns)
    except BadRow as problem:
        return str(problem)
