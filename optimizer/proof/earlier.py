"""Test rows that an earlier study has had before: found by content, and said wherever the verdict is shown. Pure.

An earlier study is one that a warm start or a fork names, or a finished one of the same runs folder. Its final test has
told people which prompt wins on these rows; where splits differ, its search may even have chosen prompts by them. Rows
are known by ids made of their content.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from optimizer.records import SeenBefore, StudyView

MAX_NAMES = 3


def seen_before(view: StudyView, test_ids: Collection[str], *, takes_prompts: bool) -> tuple[SeenBefore, ...]:
    """Return which of a new study's test rows a forerunner, or its own ones, had.

    Args:
        takes_prompts: prompts come over, and with them what was learned from dev rows; a fork begins without.
    """
    wanted, verdict = frozenset(test_ids), view.verdict
    opened = {outcome.example_id for outcome in verdict.seed_outcomes} if verdict else set[str]()
    searched = {outcome.example_id for trial in view.trials for outcome in trial.outcomes} if takes_prompts else set()
    own = SeenBefore(study=view.name, opened=_kept(opened, wanted), searched=_kept(searched, wanted))
    return among((own, *view.seen_before), wanted)


def opened_by(study: str, opened: Collection[str], test_ids: Collection[str]) -> SeenBefore:
    """Return which of a new study's test rows a study that it does not build on has opened in its final test."""
    return SeenBefore(study=study, opened=_kept(opened, frozenset(test_ids)), searched=())


def among(seen: Sequence[SeenBefore], rows: Collection[str]) -> tuple[SeenBefore, ...]:
    """Return what the studies had of these rows alone; those that had none of them are left out."""
    wanted = frozenset(rows)
    found = (
        SeenBefore(study=each.study, opened=_kept(each.opened, wanted), searched=_kept(each.searched, wanted))
        for each in seen
    )
    return tuple(each for each in found if each.opened or each.searched)


def of_test(view: StudyView) -> tuple[SeenBefore, ...]:
    """Return what earlier studies had of the rows that the verdict rests on; before there is one, of all test rows."""
    if view.verdict is None:
        return view.seen_before
    return among(view.seen_before, [outcome.example_id for outcome in view.verdict.seed_outcomes])


def label(seen: Sequence[SeenBefore]) -> str:
    """Return what the line of the test scores is called."""
    if not seen:
        return "test, never seen"
    return f"test, {'searched on' if _is_searched(seen) else 'opened before'} by {_names(seen)}"


def tested_on(seen: Sequence[SeenBefore]) -> str:
    """Return what the verdict says of the examples that it rests on."""
    if not seen:
        return "examples that the search never saw"
    return f"test examples that {_names(seen)} had {'searched on' if _is_searched(seen) else 'opened before'}"


def warning(seen: Sequence[SeenBefore]) -> str:
    """Return a sentence on what that does to the verdict, and what a fresh test takes; empty when it is fresh."""
    if not seen:
        return ""
    opened = {row for each in seen for row in each.opened}
    searched = {row for each in seen for row in each.searched}
    how = f"{len(opened)} test rows were opened before, in the final test of {_names(seen)}: the interval is a little"
    if searched:
        how = f"{len(searched)} test rows are among those that {_names(seen)} searched on: the interval is too"
    how += " optimistic."
    return f"{how} Fresh test rows are new ones, or those of another data.seed in a study without --warm-start."


def _kept(rows: Collection[str], wanted: frozenset[str]) -> tuple[str, ...]:
    return tuple(sorted(wanted & set(rows)))


def _is_searched(seen: Sequence[SeenBefore]) -> bool:
    return any(each.searched for each in seen)


def _names(seen: Sequence[SeenBefore]) -> str:
    names = [each.study for each in seen]
    if len(names) > MAX_NAMES:
        return f"{', '.join(names[:MAX_NAMES])} and {len(names) - MAX_NAMES} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
