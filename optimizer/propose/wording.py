"""Plain words about a task and its instructions, shared by the operators and the starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from optimizer.config.keys import OutputField, Task
from optimizer.prompts.marks import NAME
from optimizer.prompts.spec import PromptSpec
from optimizer.propose.operator import Context, Rejection

_PLACEHOLDER = re.compile(rf"\{{\{{?\s*{NAME}\s*\}}?\}}")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def words_of(text: str) -> list[str]:
    """Return the case-folded words. Signs of scripts without spaces count as one word each."""
    return _WORD.findall(text.casefold())


def normalise(text: str) -> str:
    """Reduce to the words, so that spacing, case and punctuation make no difference."""
    return " ".join(words_of(text))


def one_line(text: str) -> str:
    """Collapse all white space: patterns that end at a newline need texts without one."""
    return " ".join(text.split())


def placeholders(text: str) -> frozenset[str]:
    """Return the `{name}` and `{{name}}` marks with their braces, so that broken escaping shows as a difference."""
    return frozenset(_PLACEHOLDER.findall(text))


def goal_text(task: Task) -> str:
    """Return the task's goal, or a sentence made from its field names when none was given."""
    if task.goal.strip():
        return one_line(task.goal)
    return f"Read the {listed(task.inputs)} and give the {listed(task.outputs)}."


def label_line(task: Task) -> str:
    """Return one sentence that lists the allowed labels of each label field, or an empty string."""
    named = {name: labels_of(output) for name, output in task.outputs.items() if output.kind in ("label", "boolean")}
    if len(named) == 1:
        return f"Answer with one of: {', '.join(next(iter(named.values())))}."
    return " ".join(f"{name} is one of: {', '.join(labels)}." for name, labels in named.items())


def labels_of(output: OutputField) -> tuple[str, ...]:
    """Return the closed set of answers of a label or boolean field; empty for the open kinds."""
    return ("yes", "no") if output.kind == "boolean" else output.choices


def said(context: Context) -> str:
    """Return the parent's instructions, or the goal where the parent says nothing."""
    return context.instructions.strip() or goal_text(context.task)


def head_and_tail(instructions: str) -> tuple[str, str]:
    """Split after the first line: completion patterns mutate the head, lists below it stay as they are."""
    head, _, tail = instructions.strip().partition("\n")
    return head.strip(), tail.strip("\n")


def with_tail(head: str, tail: str) -> str:
    return f"{head}\n{tail}" if tail else head


def rewritten(text: str, context: Context) -> str:
    """Return the whole new instructions: in completion style the text replaces the head only."""
    if context.style == "chat":
        return text
    return with_tail(text, head_and_tail(said(context))[1])


def must_differ(text: str, context: Context) -> str:
    """Return `text`.

    Raises:
        Rejection: it says the same as the parent's instructions.
    """
    if normalise(text) == normalise(context.instructions):
        raise Rejection("nothing changed: the reply repeats the parent's instructions")
    return text


def listed(names: Iterable[str]) -> str:
    """Return field names as spoken: `question, context and date`."""
    spoken = [name.replace("_", " ") for name in names]
    return spoken[0] if len(spoken) == 1 else f"{', '.join(spoken[:-1])} and {spoken[-1]}"


def steps_of(specs: Mapping[str, PromptSpec], task: Task) -> dict[str, str]:
    """Return what predictors read and write that write no output of the task, where others do."""
    writes = {name: [field.name for field in spec.outputs] for name, spec in specs.items()}
    is_last = {name: not task.outputs.keys().isdisjoint(fields) for name, fields in writes.items()}
    if not any(is_last.values()):
        return {}
    return {
        name: f"reads {listed([field.name for field in spec.inputs])} and writes {listed(writes[name])}"
        for name, spec in specs.items()
        if not is_last[name]
    }
