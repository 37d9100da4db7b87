"""What counts as an answer to a question of `init`, or as its flag's value; all else is refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from optimizer.data.text_files import text_of
from optimizer.errors import ConfigError, did_you_mean
from optimizer.init.wishes import Wishes
from optimizer.privacy.local import is_here

YES = frozenset(["yes", "y", "ja", "j", "oui", "si", "sí", "はい"])
NO = frozenset(["no", "n", "nein", "non", "いいえ"])
MODELS = "`embedded`, a .gguf file, or provider/name such as openai/gpt-4.1-mini"
_PROVIDER_MODEL = re.compile(r"[A-Za-z][\w.-]*/[^\s/]\S*")


def yes_or_no(answer: str) -> bool:
    """Return what was meant. What is neither is refused: a wrong guess might send rows elsewhere."""
    word = answer.casefold().rstrip(".!")
    if word not in YES | NO:
        raise ConfigError(f"{answer!r} is neither yes nor no; type one of the two")
    return word in YES


def model_name(answer: str) -> str:
    """Return the name as configurations have it: a bare .gguf path gets its `gguf:`."""
    if answer == "embedded" or re.fullmatch(r"gguf:.*\S", answer):
        return answer
    if answer.lower().endswith(".gguf"):
        return f"gguf:{answer}"
    if _PROVIDER_MODEL.fullmatch(answer):
        return answer
    raise ConfigError(f"{answer!r} is no model; give {MODELS}.{did_you_mean(answer.lower(), ['embedded'])}")


def address(answer: str, *, must_be_here: bool = False) -> str:
    """Return the address of a server; an empty one stands for none."""
    if answer and not re.fullmatch(r"https?://[^\s/]\S*", answer):
        raise ConfigError(f"{answer!r} is no address; it begins with http:// or https://")
    if must_be_here and not (answer and is_here(answer)):
        raise ConfigError(
            f"{answer!r} is not on this machine, where all rows must stay; give one such as http://localhost:8000/v1"
        )
    return answer


def key_variable(answer: str) -> str:
    """Return the name of a variable, or nothing. What is refused is not repeated: it may be the key itself."""
    if answer and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", answer):
        raise ConfigError("that is no name of a variable; give a name such as OPENAI_API_KEY, never the key itself")
    return answer


def study(answer: str) -> str:
    """Return a name that a study may have."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", answer):
        raise ConfigError(f"{answer!r} cannot name a study; use lower-case letters, digits, dot and dash")
    return answer


def words(answer: str) -> str:
    """Return the answer as it was given; the file of `@FILE` must be there and be text."""
    text_of(answer)
    return answer


def checked(wishes: Wishes) -> Wishes:
    """Return what the flags said, with each value checked before the first question.

    Raises:
        ConfigError: with the flag and the reason.
    """
    return replace(
        wishes,
        goal=flag("--goal", wishes.goal, words),
        prompt=flag("--prompt", wishes.prompt, words),
        model=flag("--model", wishes.model, model_name),
        api_base=flag("--api-base", wishes.api_base, address),
        api_key_env=flag("--api-key-env", wishes.api_key_env, key_variable),
    )


def flag(name: str, value: str | None, read: Callable[[str], str]) -> str | None:
    """Return what a flag's value means; what is wrong with it is told with the flag's name."""
    try:
        return None if value is None else read(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
