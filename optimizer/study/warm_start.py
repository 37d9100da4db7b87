"""What a new study takes over from an earlier one: its best prompts, to begin with instead of finding them again."""

from __future__ import annotations

from pathlib import Path

from optimizer.candidate import Candidate
from optimizer.errors import StudyError
from optimizer.prompts.program import Program
from optimizer.records import StudyView
from optimizer.study.saved import open_saved

MAX_LEARNED = 4


def learned_from(name: str, runs_dir: Path, program: Program, own_name: str) -> tuple[tuple[str, Candidate], ...]:
    """Return the winner of a study and its next best candidates, named for the new study's list of trials.

    They are scored anew, and pass the same gate as any proposal: one whose examples are dev or test rows now is
    rejected.

    Raises:
        StudyError: there is no such study, or it is about other fields.
    """
    if name == own_name:
        raise StudyError(f"--warm-start: {name!r} is this study itself; change `name` to start a new one")
    view = open_saved(runs_dir, name).view()
    _refuse_other_fields(name, view, program)
    return tuple((f"{name} #{n}", candidate) for n, candidate in enumerate(best_of(view), start=1))


def best_of(view: StudyView) -> list[Candidate]:
    """Return the best candidate and those that ran their whole race with the highest scores; never the seed."""
    raced = [trial for trial in view.trials if trial.state == "complete" and trial.candidate is not None]
    ranked = sorted(raced, key=lambda trial: (-(trial.score or 0.0), trial.number))
    found = {each.id: each for each in (view.best, *(trial.candidate for trial in ranked)) if each is not None}
    found.pop(view.seed.id, None)
    return list(found.values())[:MAX_LEARNED]


def _refuse_other_fields(name: str, view: StudyView, program: Program) -> None:
    theirs = [part.predictor for part in view.best.parts]
    if theirs != list(program.specs):
        raise StudyError(f"--warm-start: study {name!r} has the predictors {theirs}, this one {list(program.specs)}")
    for part in view.best.parts:
        spec = program.specs[part.predictor]
        wanted = {field.name for field in (*spec.inputs, *spec.outputs)}
        for demo in part.demos:
            if (known := {*demo.inputs, *demo.outputs}) != wanted:
                raise StudyError(
                    f"--warm-start: study {name!r} is about {', '.join(sorted(known))}, "
                    f"this one about {', '.join(sorted(wanted))}"
                )
