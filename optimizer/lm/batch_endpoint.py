"""The Batch API as OpenAI shaped it, which other providers copy: a file up, a job, a look now and then, files down.

Translates and sends once; what is done about a failure is decided in `optimizer.lm.batch`. Rows are sent with the body
that a live call would have, so that replies are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import openai
from dspy import lm15

from optimizer.config.keys import LM
from optimizer.errors import ConfigError
from optimizer.lm.backend import AttemptError, Backend, CallRequest, Reply
from optimizer.lm.keys import read_key
from optimizer.lm.provider import ProviderBackend, reply_of
from optimizer.lm.provider_errors import MAX_MESSAGE_CHARS
from optimizer.privacy.redaction import redact

if TYPE_CHECKING:
    from openai.types import Batch

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TAG = "optimizer_batch"  # the metadata key by which a batch is found again
PURPOSE: Literal["batch"] = "batch"
PREFIX = "openai/"
LISTED = 300  # so many of the latest batches are looked through for one of ours
TIMEOUT_S = 600.0  # of one request; files are large
ENDED = ("completed", "failed", "expired", "cancelled")
PASSING_CODES = ("batch_expired", "batch_cancelled", "server_error", "rate_limit_exceeded", "token_limit_exceeded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaw:
    """Why a whole batch was refused; `line` counts its rows from 1, None when none is to blame."""

    code: str
    message: str
    line: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """What the endpoint says of a batch. `n_done` counts rows that were answered or failed."""

    id: str
    status: str
    n_done: int
    file_ids: tuple[str, ...]
    flaws: tuple[Flaw, ...]

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED


class BatchEndpoint:
    """One endpoint and key.

    Args:
        backend: makes the bodies of requests and reads those of replies, as for live calls.

    Raises:
        AttemptError: from every method, when the endpoint fails or refuses.
    """

    def __init__(self, client: openai.OpenAI, model: str, backend: ProviderBackend) -> None:
        self._client, self._model, self._backend = client, model, backend
        self._bodies = lm15.OpenAIChatLM(api_key="only bodies are made", transport=_NoTransport())

    def line(self, key: str, request: CallRequest) -> bytes:
        """Return one row of the file that goes up."""
        made = self._bodies.build_request(self._backend.request_of(request, model=self._model), stream=False)
        row = {"custom_id": key, "method": "POST", "url": ENDPOINT, "body": json.loads(made.body)}
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"

    def upload(self, tag: str, lines: Iterable[bytes]) -> str:
        """Send the rows up and return the id of their file."""
        with _errors():
            return self._client.files.create(file=(f"{tag}.jsonl", b"".join(lines)), purpose=PURPOSE).id

    def create(self, tag: str, file_id: str) -> str:
        """Begin a batch and return its id."""
        with _errors():
            made = self._client.batches.create(
                input_file_id=file_id, endpoint=ENDPOINT, completion_window="24h", metadata={TAG: tag}
            )
        return made.id

    def find(self, tag: str) -> str | None:
        """Return the id of the batch that was begun under a tag, None if there is none."""
        with _errors():
            for number, each in enumerate(self._client.batches.list(limit=100)):
                if (each.metadata or {}).get(TAG) == tag:
                    return each.id
                if number >= LISTED:
                    break
        return None

    def look(self, batch_id: str) -> BatchState:
        with _errors():
            return _state(self._client.batches.retrieve(batch_id))

    def cancel(self, batch_id: str) -> None:
        """Ask for its end; rows that are done by then can still be had."""
        with _errors():
            self._client.batches.cancel(batch_id)

    def results(self, file_ids: Iterable[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield key and row of everything that came down, in whatever order; what is no row is left out."""
        for file_id in file_ids:
            with _errors():
                text = self._client.files.content(file_id).content
            for line in text.splitlines():
                row = _json_object(line)
                if isinstance(row.get("custom_id"), str):
                    yield row["custom_id"], row

    def reply(self, row: Mapping[str, Any], *, tokens_in_at_most: int) -> Reply:
        """Read one row.

        Raises:
            AttemptError: it holds an error, or nothing that can be read.
        """
        response = _dict(row.get("response"))
        body, status = _dict(response.get("body")), response.get("status_code")
        if not is_answer(row):
            raise _row_error(_dict(row.get("error")) or _dict(body.get("error")), status)
        try:
            found = lm15.response_from_openai_chat(body, model=self._model)
        except Exception as error:  # border: a foreign body; type and message are kept
            message = f"a reply that cannot be read: {type(error).__name__}: {str(error)[:MAX_MESSAGE_CHARS]}"
            raise AttemptError("server", message, is_retryable=True, is_billed=True) from None
        return reply_of(found, self._backend.secrets, tokens_in_at_most=tokens_in_at_most)

    def delete(self, file_ids: Iterable[str]) -> None:
        """Take files away that nobody needs any more."""
        for file_id in file_ids:
            with _errors():
                self._client.files.delete(file_id)

    def close(self) -> None:
        self._client.close()


def open_batch_endpoint(settings: LM, backend: Backend) -> BatchEndpoint:
    """Open the batch side of the endpoint that the settings name. Nothing is sent yet.

    Raises:
        ConfigError: the model is not one of an endpoint of this shape, or there is no key.
    """
    if not settings.model.startswith(PREFIX) or not isinstance(backend, ProviderBackend):
        raise ConfigError(
            f"lm.task.mode: batch wants an endpoint with OpenAI's Batch API, and {settings.model!r} is none; give "
            "model: openai/NAME (with api_base for another provider that has one), or mode: live"
        )
    try:
        client = openai.OpenAI(api_key=read_key(settings), base_url=settings.api_base, max_retries=0, timeout=TIMEOUT_S)
    except openai.OpenAIError as error:
        raise ConfigError(f"lm.task: {str(error).splitlines()[0]}") from None
    return BatchEndpoint(client, settings.model.removeprefix(PREFIX), backend)


def is_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row that came down holds an answer, good or bad, and no error."""
    return not row.get("error") and _dict(row.get("response")).get("status_code") == 200


class _NoTransport:
    """Bodies are only made here, never sent."""

    def stream(self, request: object) -> object:
        raise RuntimeError(f"nothing is sent from here, {request!r}")


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except openai.APIStatusError as error:
        raise _status_error(error) from None
    except openai.APIError as error:  # no connection, no time, no JSON
        message = redact(f"{type(error).__name__}: {error}")[:MAX_MESSAGE_CHARS]
        raise AttemptError("transport", message, is_retryable=True, is_billed=True) from None


def _status_error(error: openai.APIStatusError) -> AttemptError:
    body = error.body if isinstance(error.body, Mapping) else {}
    found = _row_error({"code": error.code, "message": body.get("message") or str(error)}, error.status_code)
    with_hint = error.response.headers.get("retry-after", "")
    found.retry_after_s = float(with_hint) if with_hint.replace(".", "", 1).isdigit() else None
    return found


def _row_error(error: Mapping[str, Any], status: object) -> AttemptError:
    """Say what a status and an error in OpenAI's envelope mean. None of them is billed."""
    code = str(error.get("code") or error.get("type") or "")
    message = redact(f"HTTP {status}: {error.get('message') or code or 'no reason given'}")[:MAX_MESSAGE_CHARS]
    if code == "insufficient_quota" or status == 402:
        return AttemptError("billing", message, is_fatal=True)
    if status in (401, 403):
        return AttemptError("auth", message, is_fatal=True)
    if status == 429 or code in PASSING_CODES:
        return AttemptError("rate_limit" if status == 429 else "unavailable", message, is_retryable=True)
    if not isinstance(status, int) or status in (408, 409) or status >= 500:
        return AttemptError("server", message, is_retryable=True)
    if status in (404, 405):
        return AttemptError("unknown_model", message, is_fatal=True)
    return AttemptError("context_length" if code == "context_length_exceeded" else "invalid_request", message)


def _state(batch: Batch) -> BatchState:
    counts, errors = batch.request_counts, (batch.errors.data if batch.errors else None) or []
    return BatchState(
        id=batch.id,
        status=batch.status,
        n_done=counts.completed + counts.failed if counts else 0,
        file_ids=tuple(each for each in (batch.output_file_id, batch.error_file_id) if each),
        flaws=tuple(
            Flaw(code=each.code or "", message=redact(each.message or each.code or ""), line=each.line)
            for each in errors
        ),
    )


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        return _dict(json.loads(line))
    except ValueError:
        return {}


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
