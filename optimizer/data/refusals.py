"""What makes rows useless, each in one line: a column that is missing, bad rows, too few of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optimizer.data.classes import N_SHOWN
from optimizer.data.fields import show
from optimizer.data.plan import Plan, Pool
from optimizer.data.report import Tally
from optimizer.data.splits import SPLIT_NAMES, Bin, SplitName
from optimizer.errors import DataError, did_you_mean

MIN_ROWS: Mapping[SplitName, int] = {"train": 1, "dev": 10, "test": 10}
FEW_GROUPS = 30  # too few different rows to fill three splits


def refuse_missing_column(pool: Pool, plan: Plan, met: Mapping[str, None]) -> None:
    for key, column in plan.data.withheld_by.items():
        if met and column not in met:
            found = show(", ".join(met), 200)
            raise DataError(f"{key}: {pool.table.name} has no column {column!r}; columns found: {found}")
    for name, column in plan.columns.items():
        if met and column not in met:
            mend = f"set data.fields: {{{name}: COLUMN}}" if plan.prefix else f"name the key {name!r}"
            raise DataError(
                f"{pool.table.name}: no column {column!r} for the field {name!r}; columns found: "
                f"{show(', '.join(met), 200)}; {mend}.{did_you_mean(column, met)}"
            )


def bad_rows_message(pool: Pool, plan: Plan, *, bad: Sequence[str], n_bad: int, n_read: int) -> str:
    counted = f"{n_bad} of {n_read} rows {'is' if n_bad == 1 else 'are'} bad"
    more = f"; and {n_bad - N_SHOWN} more" if n_bad > N_SHOWN else ""
    shown = "; ".join(bad[:N_SHOWN])
    if n_bad == n_read:
        return f"{pool.table.name}: no rows can be used, {counted}: {shown}{more}; mend the rows or the task's fields"
    leave_out = f"{plan.prefix}skip_bad_rows: true" if plan.prefix else "skip_bad_rows=True"
    return f"{pool.table.name}: {counted}: {shown}{more}; mend them, or leave them out with {leave_out}"


def refuse_too_little(pools: Sequence[Pool], plan: Plan, *, bins: Mapping[SplitName, Bin], tally: Tally) -> None:
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


def _mend_size(pool: Pool, plan: Plan, *, name: SplitName, tally: Tally) -> str:
    """Say which key or which rows make the split larger."""
    cap, least = plan.cap(name), MIN_ROWS[name]
    if cap is not None and cap < least:
        return f"raise {plan.prefix}max_rows.{name}, now {cap}"
    if n_overlap := tally.overlaps[name]:
        return f"{n_overlap} of its rows also occur in another split and were removed; add others to {pool.key}"
    if name == "train" and tally.withheld:
        return _mend_withheld(pool, plan, tally)
    if len(pool.names) == 1:
        return f"add rows to {pool.key}"
    if (n_groups := len(tally.groups)) < min(FEW_GROUPS, tally.n_read // 2):
        counted = "is only 1 different text" if n_groups == 1 else f"are only {n_groups} different texts"
        return (
            f"there {counted} once case, digits and punctuation are ignored, and near-copies share a split; "
            f"add other rows, or give train, dev and test yourself{' with data.files' if plan.prefix else ''}"
        )
    share = plan.share(name) / sum(map(plan.share, pool.names))
    # A quarter on top, since a hash deals out shares only roughly.
    wanted = math.ceil(1.25 * least / share)
    raise_share = f"raise {plan.prefix}split.{name}, now {plan.share(name)}"
    return f"add rows to {pool.key} (about {wanted} different ones in all) or {raise_share}"


def _mend_withheld(pool: Pool, plan: Plan, tally: Tally) -> str:
    """Say how to search when hardly any row may be shown; never to show rows that are held back."""
    held = plan.data.withheld_by
    cells = " and ".join(f"{'nothing' if 'no_demos' in key else 'yes'} in {column!r}" for key, column in held.items())
    unclear = f" ({said})" if (said := tally.unclear_words()) else ""
    return (
        f"{' and '.join(held)} keep{'s' * (len(held) == 1)} {len(tally.withheld)} kinds of rows out of it{unclear}; "
        f"add about twenty rows to {pool.key} that you make up yourself, with {cells}: the search learns from these, "
        "and with search.max_demos: 0 it shows no examples"
    )
