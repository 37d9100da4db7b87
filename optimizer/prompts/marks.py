"""Marks such as `{note}` in a prompt that name an input: the layout adds inputs itself, so they are not sent. Pure.

A line that only brings an input, `Note: {note}`, goes, and with it the line that opens the answer, `Urgency:`, at the
end: a line that names a field or has a usual word for one, and no other. What stands before a mark at the end of a
sentence stays; within a sentence the input's label takes its place.
Other marks belong to the user's own program, which fills them: they stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from optimizer.errors import ConfigError, did_you_mean
from optimizer.prompts.spec import FieldSpec, PromptSpec

NAME = r"[^\W\d](?:\w|[^\x00-\x7f\s])*"  # of any script: vowel signs, as of Hindi, are no word characters of `re`
_MARK = re.compile(rf"\$?\{{\{{?\s*({NAME})\s*\}}?\}}")
_FENCE = re.compile(r"[`\"'#=*-]{3,}\w*|</?[\w-]+>")
_OPENS_ANSWER = re.compile(r"[\s*#_]*(?:[^\W_]\S*\s+){0,3}[^\W_]\S*?[\s*_]*[:\uff1a][\s*_]*")
_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb\u201e<>()[]"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


BESIDE = _set("the a an your my this new current full customer user patient der die das le la les el un")
FOR_INPUT = _set(
    """
    input text question q message mail email document article passage context review sentence query comment note data
    content eingabe frage nachricht entrée texte texto entrada pregunta vraag
    """
)
FOR_ANSWER = _set(
    """
    answer a output response reply result label class category prediction assistant solution antwort ergebnis ausgabe
    kategorie réponse respuesta resposta risposta antwoord
    """
)


def without_input_marks(text: str, spec: PromptSpec) -> str:
    """Return the prompt without the marks that name an input of the predictor."""
    inputs = {field.name: field for field in spec.inputs}
    answers = _words_for(spec.outputs, FOR_ANSWER)
    lines: list[str | None] = list(text.splitlines())
    last = -1
    for i, line in enumerate(text.splitlines()):
        if any(name in inputs for name in _MARK.findall(line)):
            last = i
            lines[i] = _without(line, inputs)
            if lines[i] is None:
                _drop_fences(lines, i)
    if last < 0:
        return text
    kept = [line for line in lines[: last + 1] if line is not None]
    tail = [line for line in lines[last + 1 :] if line is not None]
    while tail and not tail[-1].strip():
        tail.pop()
    if tail and _OPENS_ANSWER.fullmatch(tail[-1]) and _is_one_of(tail[-1], answers):
        tail.pop()
    return re.sub(r"\n{3,}", "\n\n", "\n".join([*kept, *tail])).strip()


def mark_notes(text: str, spec: PromptSpec) -> list[str]:
    """Say, for people, what becomes of the marks in a prompt."""
    inputs = [field.name for field in spec.inputs]
    named = list(dict.fromkeys(_MARK.findall(text)))
    own, others = [name for name in named if name in inputs], [name for name in named if name not in inputs]
    notes = []
    if own:
        notes.append(f"prompt: {_listed(own)} is not sent as it stands: the layout adds the inputs below the prompt")
    if others:
        notes.append(
            f"prompt: {_listed(others)} is none of your inputs ({_listed(inputs)}): the model reads these letters, "
            "no text of a row takes their place. If you meant an input, write its name; if a program of yours fills "
            "them in later, all is well"
        )
    return notes


def marks_for_columns(text: str, names: Mapping[str, str]) -> str:
    """Return a prompt whose marks name fields, where a person wrote the columns that became them.

    Args:
        names: column to the field that it became, of the inputs.

    Raises:
        ConfigError: a mark names neither.
    """
    fields = {spelling.casefold(): field for column, field in names.items() for spelling in (column, field)}
    spellings = "|".join(sorted(map(re.escape, fields), key=len, reverse=True))
    text = re.sub(
        rf"(\{{\{{?\s*)({spellings})(\s*\}}?\}})", lambda m: m[1] + fields[m[2].casefold()] + m[3], text, flags=re.I
    )
    for name in _MARK.findall(text):
        if name not in names.values():
            meant = did_you_mean(name, [*names.values(), *names])
            raise ConfigError(
                f"the prompt's {{{name}}} names no input; inputs: {_listed(list(names.values()))}. Write one of them "
                f"or no braces.{meant} (A mark that your own program fills in goes into the file afterwards.)"
            )
    return text


def _without(line: str, inputs: dict[str, FieldSpec]) -> str | None:
    """The line without marks of inputs; None where nothing of it is left to say."""
    marks = [mark for mark in _MARK.finditer(line) if mark[1] in inputs]
    before, after = line[: marks[0].start()], line[marks[-1].end() :]
    is_last = not re.sub(r"</[\w-]+>", "", after).strip(_QUOTES + " .*")
    if len(marks) == 1 and is_last:
        said = re.sub(r"<[\w-]+>", "", before).strip(_QUOTES + " \t*#-")
        is_label = said.endswith((":", "\uff1a", "=")) and _is_one_of(said, _words_for(inputs.values(), FOR_INPUT))
        if not said or is_label:
            return None
        if said.endswith((":", "\uff1a")):
            return re.sub(r"<[\w-]+>", "", before).rstrip(_QUOTES + " \t*")
    return _MARK.sub(lambda mark: f'"{inputs[mark[1]].label}"' if mark[1] in inputs else mark[0], _unquoted(line))


def _words_for(fields: Iterable[FieldSpec], usual: Collection[str]) -> set[str]:
    """Return what a line may say to bring a field and nothing else."""
    return {_plain(name) for field in fields for name in (field.name, field.label)} | set(usual)


def _is_one_of(said: str, words: Collection[str]) -> bool:
    return (plain := _plain(said)) in words or _without_articles(plain) in words


def _plain(said: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", said.casefold()))


def _without_articles(plain: str) -> str:
    return " ".join(word for word in plain.split() if word not in BESIDE)


def _unquoted(line: str) -> str:
    quote = "[\"'`\u201c\u201d\u00ab\u00bb\u201e]"
    return re.sub(rf"{quote}({_MARK.pattern}){quote}", r"\1", line)


def _drop_fences(lines: list[str | None], i: int) -> None:
    """Drop the lines around a dropped one that only fenced it in."""
    if not 0 < i < len(lines) - 1:
        return
    before, after = lines[i - 1], lines[i + 1]
    if before and after and _FENCE.fullmatch(before.strip()) and _FENCE.fullmatch(after.strip()):
        lines[i - 1] = lines[i + 1] = None


def _listed(names: list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
