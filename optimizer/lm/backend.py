"""The contract of a model backend: one attempt of one call.

A backend translates, sends once and reports. It does not retry, count, cache or journal: `optimizer.lm.model` does,
once for all backends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from optimizer.prompts.spec import Constraint, Message

FinishReason = Literal["stop", "length", "filtered"]
MAX_REPLY_CHARS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRequest:
    """One request. Equal requests are the same call and share one journalled reply.

    Attributes:
        sample: number of the sample, for repeated draws at a temperature above 0.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    constraint: Constraint = ()
    sample: int = 0

    def to_json(self) -> dict[str, object]:
        return {
            "messages": [[message.role, message.content] for message in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": float(self.temperature),
            "stop": list(self.stop),
            "constraint": [
                [type(each).__name__, {name: getattr(each, name) for name in each.__slots__}]
                for each in self.constraint
            ],
            "sample": self.sample,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back. Tokens that the provider does not report are counted by `tokens_at_most`."""

    text: str
    finish_reason: FinishReason
    tokens_in: int
    tokens_out: int

    @property
    def is_usable(self) -> bool:
        """Whether it says something, of a size that can be kept."""
        return self.finish_reason != "filtered" and bool(self.text.strip()) and len(self.text) <= MAX_REPLY_CHARS

    @property
    def is_valid(self) -> bool:
        """Whether it may be used again: complete and usable."""
        return self.finish_reason == "stop" and self.is_usable


class AttemptError(Exception):
    """One attempt failed.

    Attributes:
        kind: as in `optimizer.errors.CallError`; `unavailable`: the model as a whole is out of reach.
        is_retryable: a later attempt may succeed.
        is_fatal: no call to this model can succeed until a person acts.
        is_billed: whether the provider may have charged for it; when nobody knows, yes.
        retry_after_s: the provider's own hint, or None.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        is_retryable: bool = False,
        is_fatal: bool = False,
        is_billed: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_retryable = is_retryable
        self.is_fatal = is_fatal
        self.is_billed = is_billed
        self.retry_after_s = retry_after_s


def tokens_at_most(*texts: str) -> int:
    """Return more tokens than these messages are likely to take: two bytes a token, and their wrapping.

    English takes four bytes a token, Chinese three, long numbers down to one.
    """
    return sum(len(text.encode("utf-8", "replace")) // 2 + 8 for text in texts)


def no_provider(model: str) -> str:
    """Say what to write in place of a name that does not tell where the model is."""
    name = model.rpartition("/")[2]
    return (
        f"model {model!r} names no provider; write {f'openai/{name}'!r} for an OpenAI-compatible server (with "
        "api_base), 'embedded' for the model in this process, or 'gguf:PATH' for a file"
    )


def no_key(model: str, variable: str) -> str:
    """Say where the key of a provider is looked for, and how to name another place."""
    return (
        f"model {model!r} wants a key: set the environment variable {variable} in the shell that runs this, or name "
        "another one with api_key_env"
    )


class Backend(Protocol):
    """One model at one endpoint.

    Attributes:
        identity: names model and endpoint; part of every journal key, holds no secret.
        style: `completion` for models that continue patterns, `chat` for models that follow requests.
        is_local: costs nothing and sends nothing over the network.
        n_lanes: engines that answer side by side; 1 where the other end decides for itself.
    """

    identity: str
    style: Literal["completion", "chat"]
    is_local: bool
    n_lanes: int

    def use_lane(self, lane: int) -> None:
        """Tell which of its engines should take the calls of this thread."""
        ...

    def complete(self, request: CallRequest) -> Reply:
        """Make one attempt.

        Raises:
            AttemptError: whatever went wrong, classified.
        """
        ...

    def abandon(self, after_s: float) -> None:
        """End the attempts that are still under way after some seconds; none begins after this."""
        ...

    def close(self) -> None:
        """Free what the backend holds; calls after this are errors."""
        ...
