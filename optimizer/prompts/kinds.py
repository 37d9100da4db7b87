"""Reading one value: from words that a model wrote to a label, number, truth value, object or text. Pure.

Lenient about dress (case, quotes, markdown, fences, a sentence around the answer), strict about content: a value that
is not allowed, or two of them, or one that is denied, is no answer. Nothing is guessed. The Python export carries a
copy.
"""
# ruff: noqa: RUF001 - models write typographic quotes and minus signs

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from optimizer.candidate import JsonValue
from optimizer.data.splits import normalise
from optimizer.prompts.numbers import number_in
from optimizer.prompts.objects import decoded, is_storable, object_in, unfenced
from optimizer.prompts.spec import FieldSpec, as_text

_DRESS = " \t\r\n\"'`*_.,;!:()[]{}“”‘’«»「」"
_ASIDE = r"(?!\s+(?:answer|clue|comment|doubt|idea|information|opinion)s?(?!\w))"  # `no idea` is not no
_TRUTH = re.compile(rf"(?<!\w)(?:(yes|true)|no{_ASIDE}|false)(?!\w)")
_CHOICE = re.compile(r"(?<!\w)(?:yes\s*(?:or|/)\s*no|true\s*(?:or|/)\s*false)(?!\w)")  # the question, repeated
_BETWEEN = r"(?:(?!(?:but|so|thus|hence|therefore|aber|sondern|also|mais|donc|pero|sino)\s)[\w'’]+\s+)"
_SURE = r"(?!\s+(?:(?:any|a|aucun|jeden)\s+)?(?:doubt|question|zweifel|doute|d[uú]vida|duda))"
_NEGATION = re.compile(  # right before what is denied: after a word of the first kind with up to three words between
    r"(?:(?<!\w)(?:not|cannot|never|neither|nor|hardly|unable(?:\s+to)?|unlikely|nicht|kein\w*|pas|jamais|niet|geen|nunca"
    rf"|jamás|não|nem)|n['’]t)\s+{_BETWEEN}{{0,3}}\Z"
    rf"|(?<!\w)(?:no{_ASIDE}|(?:without|ohne|aucun\w*|sans|zonder|senza|sem){_SURE}|ning[uú]n\w*|nessun\w*)\s+{_BETWEEN}?\Z"
    r"|(?<!\w)(?:non|semi|quasi|anti)\s+\Z"
)
_LINE_END = re.compile(r"\s*\n\s*")
_WRAPPING = re.compile(r"</?[^\W\d_][\w-]*>|[-=]+>")  # tags and arrows
_COMPARED = re.compile(r"[<>=≤≥]")
_N_CHARS_SHOWN = 60


class UnreadableReply(ValueError):
    """The reply holds no answer in the expected form."""


def read_value(field: FieldSpec, value: JsonValue) -> JsonValue:
    """Turn what stands in a reply into a value of the field's kind.

    Raises:
        UnreadableReply: the value is not allowed.
    """
    if field.kind == "label":
        word = str(value).lower()  # JSON's true or false, where that is a label
        return _read_label(field, word if isinstance(value, bool) and word in field.choices else as_text(value))
    if field.kind == "number":
        return _read_number(field, value)
    if field.kind == "boolean":
        return _read_boolean(field, value)
    if field.kind == "json":
        return _read_json(field, value)
    return as_text(value).strip()


def _unreadable(field: FieldSpec, problem: str, text: str) -> UnreadableReply:
    return UnreadableReply(f"{field.name!r} {problem}: {text.strip()[:_N_CHARS_SHOWN]!r}")


def _read_label(field: FieldSpec, text: str) -> str:
    """Accept the label as it is, in other dress, alone in the first line, or as the only label in a longer text."""
    text = text.strip()
    keys = [bare(choice) for choice in field.choices]
    for heard in (text, text.partition("\n")[0].strip()):
        same = [choice for choice in field.choices if choice.strip() == heard]
        same = same or [choice for choice, key in zip(field.choices, keys, strict=True) if key and key == bare(heard)]
        if len(same) == 1:
            return same[0]
    said = bare(_WRAPPING.sub(" ", _LINE_END.sub(". ", text)))
    mentions = list(_mention(field.choices).finditer(said))
    named = {mention[0] for mention in mentions}
    if any(_NEGATION.search(said[: mention.start()]) for mention in mentions):
        raise _unreadable(field, "says what the label is not", text)
    if len(named) == 1 and keys.count(key := named.pop()) == 1:
        return field.choices[keys.index(key)]
    problem = "names several labels" if named else f"is none of {', '.join(field.choices)}"
    raise _unreadable(field, problem, text)


def bare(text: str) -> str:
    """Reduce to what a label is recognised by: no case, no quotes, one kind of space and of minus."""
    text = normalise(text).strip(_DRESS)
    while text[:1] == "<" and text[-1:] == ">":
        text = text[1:-1].strip(_DRESS)
    text = re.sub(r"(?<!\w)[−–](?=\d)", "-", re.sub(r"(?<=[<>=≤≥])\s+(?=\d)", "", text))
    return re.sub(r"(?<=[^\W_])[_–-]+(?=[^\W_])", " ", text)


@lru_cache(maxsize=256)
def _mention(choices: tuple[str, ...]) -> re.Pattern[str]:
    """Any label as a whole word, longer ones first. Scripts without case are written without spaces between words."""
    keys = sorted(filter(None, map(bare, choices)), key=len, reverse=True)
    signs = "(?<![<>=≤≥])" if any(_COMPARED.match(key) for key in keys) else ""
    return re.compile("|".join(_before(key[0], signs) + re.escape(key) + _after(key) for key in keys) or r"(?!)")


def _before(char: str, signs: str) -> str:
    """What may not stand before a label that begins so: letters, and what would make its number another one."""
    if char.isdigit():
        return rf"(?<!\w)(?<!-)(?<!\d[.,])(?<!\s\.)(?<!^\.){signs}"
    return r"(?<!\w)" if _is_cased(char) else ""


def _after(key: str) -> str:
    if key == "no":
        return rf"(?!\w){_ASIDE}"
    if key[-1].isdigit():
        return r"(?!\w)(?![.,]\d)"
    return r"(?!\w)" if _is_cased(key[-1]) else ""


def _is_cased(char: str) -> bool:
    return char.isdigit() or char.lower() != char.upper()


def _read_number(field: FieldSpec, value: JsonValue) -> int | float:
    """Take the number that the text starts with, unless a sum follows; else the last one."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    number = value if is_number else number_in(as_text(value).strip())
    if not isinstance(number, int | float) or not is_storable(number):
        raise _unreadable(field, "is no number", as_text(value) if number is None else str(number))
    return _whole(number)


def _whole(number: int | float) -> int | float:
    return int(number) if isinstance(number, float) and number.is_integer() and abs(number) < 2**53 else number


def _read_boolean(field: FieldSpec, value: JsonValue) -> bool:
    """Accept a leading yes or no, or a longer text that says only one of them and does not deny it."""
    if isinstance(value, bool):
        return value
    if value in (0, 1):
        return value == 1
    text = _CHOICE.sub("", " ".join(_LINE_END.sub(". ", as_text(value).strip()).casefold().split()))
    words = list(_TRUTH.finditer(text))
    said = {word[1] is not None for word in words}
    if words and not re.search(r"\w", text[: words[0].start()]):
        return words[0][1] is not None
    if len(said) == 1 and not any(word[1] and _NEGATION.search(text[: word.start()]) for word in words):
        return said.pop()
    raise _unreadable(field, "is neither yes nor no", as_text(value))


def _read_json(field: FieldSpec, value: JsonValue) -> JsonValue:
    """An object; with a schema any JSON value, which whoever set the schema has to check."""
    if isinstance(value, Mapping) or (field.schema and not isinstance(value, str)):
        return value
    text = unfenced(as_text(value).strip())
    if field.schema:
        start = re.search(r"[\[{]", text)
        whole = decoded(text, 0)
        loaded = whole if whole is not None or start is None else decoded(text, start.start())
        return text if loaded is None else loaded
    loaded = object_in(text, [key for key, _ in field.keys])
    if loaded is None:
        raise _unreadable(field, "is no JSON object", text)
    return loaded
