"""Hosted and self-hosted models, reached through `dspy.LM`. DSPy's own cache and retries are off."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from threading import Timer
from typing import Literal, cast
from urllib.parse import urlsplit

import dspy
from dspy import lm15
from dspy.clients.errors import error_boundary
from dspy.clients.model_metadata import model_info
from dspy.utils import exceptions as errors

from optimizer.config.keys import LM
from optimizer.errors import ConfigError
from optimizer.lm.attempts import Attempts, GivenUp
from optimizer.lm.backend import AttemptError, CallRequest, FinishReason, Reply, tokens_at_most
from optimizer.lm.grammar import only_json, structured_outputs
from optimizer.lm.keys import read_key
from optimizer.lm.native import load_litellm, native_engine, needs_litellm
from optimizer.lm.provider_errors import attempt_error, secrets_in
from optimizer.lm.quiet import quiet
from optimizer.privacy.redaction import redacted, remember

MAX_STOPS = 4  # OpenAI's limit
DEFAULT_TIMEOUT_S = 600.0
SOCKET_GRACE_S = 5.0  # our own limit comes first, so that it names the error
REASONING_MODELS = re.compile(r"openai/(o\d|gpt-5(?!.*-chat))")  # these refuse `temperature` and `stop`


class ProviderBackend:
    """Any model that DSPy can reach, OpenAI-compatible servers included.

    Args:
        timeout_s: limit of one attempt from its first byte to its last. Sockets only limit the wait for the next byte,
            which a provider that keeps a connection alive with blanks never exceeds.
        secrets: texts that must not appear in an error message.
        owns_lm: close the connections of `lm` with this backend.
    """

    style: Literal["completion", "chat"] = "chat"
    is_local = False
    n_lanes = 1

    def __init__(
        self,
        lm: dspy.LM,
        *,
        identity: str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        secrets: tuple[str, ...] = (),
        sends_schema: bool = False,
        is_vllm: bool = False,
        owns_lm: bool = True,
    ) -> None:
        self.identity = identity
        self._lm = lm
        self._timeout_s = timeout_s
        self.secrets = secrets
        remember(*secrets)
        self._sends_schema, self._is_vllm = sends_schema, is_vllm
        self._owns_lm = owns_lm
        self._native, self._needs_litellm = native_engine(lm), needs_litellm(lm)
        self._attempts: Attempts[CallRequest, Reply] = Attempts(self._attempt)

    def complete(self, request: CallRequest) -> Reply:
        if self._needs_litellm:
            load_litellm()
        try:
            return self._attempts.answer(request, timeout_s=self._timeout_s)
        except GivenUp as error:
            late = f"no complete reply within {self._timeout_s:g} s"
            message = "given up because the run stops" if error.is_told else late
            raise AttemptError("timeout", message, is_retryable=True, is_billed=True) from None

    def use_lane(self, lane: int) -> None:
        """The provider distributes its calls itself."""

    def abandon(self, after_s: float) -> None:
        timer = Timer(after_s, self._attempts.abandon)
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        self._attempts.close()
        if self._native is not None:
            self._native.close()
        if self._owns_lm:
            self._lm.close()

    def _attempt(self, request: CallRequest) -> Reply:
        try:
            response = self._response(self.request_of(request))
        except errors.DSPyError as error:
            # Not chained: the original's text may repeat the key.
            raise attempt_error(error, self.secrets, model=self._lm.model) from None
        except (ValueError, TypeError) as error:  # refused before anything was sent
            raise AttemptError("invalid_request", str(error)) from None
        at_most = tokens_at_most(*(message.content for message in request.messages))
        return reply_of(response, self.secrets, tokens_in_at_most=at_most)

    def _response(self, request: lm15.Request) -> lm15.Response:
        if self._native is not None:
            try:
                with error_boundary(self._lm.model, unexpected=True):
                    return cast(lm15.Response, self._native.complete(request))
            except errors.LMUnsupportedFeatureError:  # found before anything is sent: DSPy may know another way
                self._native = None
        with quiet():
            return cast(lm15.Response, self._lm(request))

    def request_of(self, request: CallRequest, *, model: str | None = None) -> lm15.Request:
        """Return the call in DSPy's terms; `model` as an endpoint calls it, where no router takes its prefix away."""
        for message in request.messages:
            message.content.encode()  # half a character cannot be sent
        is_reasoning = REASONING_MODELS.match(self._lm.model) is not None
        schema = only_json(request.constraint) if self._sends_schema else None
        guided = structured_outputs(request.constraint) if self._is_vllm else None
        config = lm15.Config(
            max_tokens=request.max_tokens,
            temperature=None if is_reasoning else request.temperature,
            stop=() if is_reasoning else request.stop[:MAX_STOPS],
            response_format={"type": "json_schema", "name": "reply", "schema": json.loads(schema)} if schema else None,
            extensions={"structured_outputs": guided} if guided else None,
        )
        system = "\n\n".join(message.content for message in request.messages if message.role == "system")
        turns = tuple(
            lm15.Message.user(message.content) if message.role == "user" else lm15.Message.assistant(message.content)
            for message in request.messages
            if message.role != "system"
        )
        return lm15.Request(model=model or self._lm.model, messages=turns, system=system or None, config=config)


def open_provider(settings: LM) -> ProviderBackend:
    """Open the model that the configuration names. Nothing is sent yet.

    Raises:
        ConfigError: the name or the endpoint is malformed, or the key cannot be had.
    """
    if settings.api_base is not None:
        _check_endpoint(settings.api_base)
    connection = {"api_base": settings.api_base, "api_key": read_key(settings)}
    given = {key: value for key, value in connection.items() if value is not None}
    try:
        lm = dspy.LM(settings.model, cache=False, num_retries=0, timeout=settings.timeout + SOCKET_GRACE_S, **given)
    except (ValueError, errors.LMError) as error:
        raise ConfigError(f"lm: model {settings.model!r}: {str(error).splitlines()[0]}") from error
    return ProviderBackend(
        lm,
        identity=_identity(settings.model, settings.api_base) + ("+guided" if settings.guided == "vllm" else ""),
        timeout_s=settings.timeout,
        secrets=secrets_in(lm.kwargs),
        sends_schema=settings.api_base is None,
        is_vllm=settings.guided == "vllm",
    )


def borrow_provider(lm: dspy.LM) -> ProviderBackend:
    """Use a `dspy.LM` that the caller has configured, without its cache and retries. It stays the caller's to close."""
    base = lm.kwargs.get("api_base") or lm.kwargs.get("base_url")
    timeout = lm.kwargs.get("timeout")
    return ProviderBackend(
        lm.copy(cache=False, num_retries=0),
        identity=_identity(lm.model, str(base) if base else None),
        timeout_s=float(timeout) if isinstance(timeout, int | float) else DEFAULT_TIMEOUT_S,
        secrets=secrets_in(lm.kwargs),
        owns_lm=False,
    )


def listed_price(model: str) -> tuple[float | None, float | None]:
    """Return USD for a million input and output tokens from DSPy's price list, None for what it does not know."""
    provider, _, name = model.partition("/")
    listed = model_info(provider, name) if name else {}
    per_token = listed.get("input_cost_per_token"), listed.get("output_cost_per_token")
    price_in, price_out = (None if price is None else float(price) * 1e6 for price in per_token)
    return price_in, price_out


def reply_of(response: lm15.Response, secrets: Iterable[str], *, tokens_in_at_most: int) -> Reply:
    """Return what came back, or raise `AttemptError` when that is nothing."""
    usage = response.usage
    refusal = next((part.text for part in response.message.parts if isinstance(part, lm15.RefusalPart)), None)
    text = response.text or refusal or ""
    if not text and usage.output_tokens is None:
        raise AttemptError("server", "the reply holds neither text nor usage", is_retryable=True, is_billed=True)
    text = redacted(text, secrets)
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is valid JSON, but no text
    tokens_in, tokens_out = usage.input_tokens, usage.output_tokens
    if tokens_in is None or tokens_out is None:
        tokens_in = tokens_in_at_most
        tokens_out = tokens_at_most(text)
    elif usage.total_tokens is not None:  # some providers report thinking in the total only
        tokens_out = max(tokens_out, usage.total_tokens - tokens_in)
    reasons: dict[str | None, FinishReason] = {"length": "length", "content_filter": "filtered"}
    reason = "filtered" if refusal and not response.text else reasons.get(response.finish_reason, "stop")
    return Reply(text=text, finish_reason=reason, tokens_in=tokens_in, tokens_out=tokens_out)


def _identity(model: str, api_base: str | None) -> str:
    """Name model and endpoint. An endpoint that DSPy takes from the environment counts: it gives other answers."""
    prefix = model.partition("/")[0].upper()
    base = api_base or os.environ.get(f"{prefix}_API_BASE") or os.environ.get(f"{prefix}_BASE_URL")
    return f"{model}@{_without_credentials(base)}" if base else model


def _without_credentials(url: str) -> str:
    """Drop `user:password@`, the query and a last slash, so that the URL can stand in keys and logs."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def _as_written(url: str) -> str:
    """Return what should be a URL without the parts of it that may be secret."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    return f"{scheme}{separator}{rest.partition('?')[0].rpartition('@')[2]}"


def _check_endpoint(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = _as_written(url)
        scheme, rest = re.findall(r"(?:(https?):)?/*(.*)", shown)[0]
        meant = f"{scheme or 'http'}://{rest}"
        hint = "" if "://" in shown or not rest else f"; did you mean {meant!r}?"
        raise ConfigError(f"lm: api_base: {shown!r} is no http:// or https:// address{hint}")
    shown = _without_credentials(url)
    if parts.username or parts.password or parts.query:
        raise ConfigError(
            f"lm: api_base: the address of {shown!r} holds a user, password or query; keep only the address, put the "
            f"key into an environment variable and name it in api_key_env"
        )
