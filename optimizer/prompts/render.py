"""A candidate's prompt as text for people: what is shown, saved and compared. Exports are in `optimizer.export`."""

from __future__ import annotations

from optimizer.candidate import Candidate
from optimizer.prompts.program import Program
from optimizer.prompts.spec import Message
from optimizer.records import StudyView


def open_messages(program: Program, candidate: Candidate, predictor: str) -> tuple[Message, ...]:
    """Return one predictor's messages with each input left open as `{name}`."""
    inputs = {field.name: f"{{{field.name}}}" for field in program.specs[predictor].inputs}
    return program.messages(candidate, predictor, inputs)


def render(program: Program, candidate: Candidate) -> str:
    """Return the whole prompt as text; the roles are named only where there is more than one message."""
    texts: list[str] = []
    for part in candidate.parts:
        messages = open_messages(program, candidate, part.predictor)
        head = f"## {part.predictor}\n\n" if len(candidate.parts) > 1 else ""
        is_pattern = len(messages) == 1
        body = messages[0].content if is_pattern else "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages)
        texts.append(head + body)
    return "\n\n".join(texts)


def prompts_of(program: Program, view: StudyView) -> dict[str, str]:
    """Return candidate id to prompt text, for the seed and the best of a study."""
    return {candidate.id: render(program, candidate) for candidate in (view.seed, view.best)}
