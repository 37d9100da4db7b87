"""A chat server on loopback that answers like OpenAI's, fails as told, and logs every call.

with FakeServer(lambda body: "spam") as server:
    server.script(rate_limited(retry_after=3), reset())   # the first two calls fail, the rest are answered
    ...
    assert len(server.calls) == 3 and server.n_billed == 2
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self

Body = Mapping[str, Any]
Answer = Callable[[Body], "str | Fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to answer a call.

    Attributes:
        payload: the reply's body.
        how: `send` it; `reset` the connection instead; `truncate` it half-way; `drip` one byte at a time, for ever;
            `hang` before the first byte until the server closes.
        is_billed: whether a provider would charge for it.
    """

    status: int = 200
    payload: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    how: Literal["send", "reset", "truncate", "drip", "hang"] = "send"
    is_billed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call as it arrived. `headers` have lower-case names."""

    path: str
    body: Body
    headers: Mapping[str, str]
    fault: Fault

    @property
    def prompt(self) -> str:
        """The last message."""
        return str(self.body["messages"][-1]["content"])


def reply(text: str | None, *, finish_reason: str = "stop", tokens: tuple[int, int] | None = (11, 3)) -> Fault:
    """A well-formed chat completion; `tokens` are those in and out, None leaves the usage away."""
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
    }
    if tokens is not None:
        n_in, n_out = tokens
        body["usage"] = {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}
    return Fault(payload=json.dumps(body).encode())


def raw(payload: bytes, *, status: int = 200, is_billed: bool = True) -> Fault:
    """Any bytes at all."""
    return Fault(status=status, payload=payload, is_billed=is_billed)


def error(
    status: int,
    message: str = "it broke",
    *,
    code: str | None = None,
    kind: str = "server_error",
    headers: Mapping[str, str] | None = None,
    is_billed: bool = False,
) -> Fault:
    """An error in OpenAI's envelope."""
    payload = json.dumps({"error": {"message": message, "type": kind, "code": code}}).encode()
    return Fault(status=status, payload=payload, headers=headers or {}, is_billed=is_billed)


def rate_limited(*, retry_after: float | str | None = None, message: str = "Rate limit reached, slow down") -> Fault:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return error(429, message, code="rate_limit_exceeded", kind="requests", headers=headers)


def quota_used_up() -> Fault:
    return error(429, "You exceeded your current quota", code="insufficient_quota", kind="insufficient_quota")


def reset() -> Fault:
    """The connection breaks after the request was read: nobody knows whether it was billed."""
    return Fault(how="reset")


def truncated() -> Fault:
    """A reply whose second half never comes."""
    return Fault(payload=reply("half of this never arrives").payload, how="truncate")


def hang() -> Fault:
    return Fault(how="hang")


def drip() -> Fault:
    return Fault(how="drip")


class FakeServer:
    """Serves `/v1/chat/completions`. Scripted faults come first, in order of arrival; then `answer` decides.

    Attributes:
        calls: every call that arrived, in order.
    """

    @property
    def handler(self) -> type[Handler]:
        return Handler

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer or (lambda _body: "ok")
        self._script: deque[Fault] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.calls: list[Call] = []
        self._http = _Http(("127.0.0.1", 0), self.handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        """What `api_base` wants."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def n_billed(self) -> int:
        """Calls that a provider would have charged for so far."""
        with self._lock:
            return sum(call.fault.is_billed for call in self.calls)

    def script(self, *faults: Fault) -> None:
        """Answer the next calls like this, one each."""
        with self._lock:
            self._script.extend(faults)

    def forget_script(self) -> None:
        """Let `answer` decide from now on."""
        with self._lock:
            self._script.clear()

    def close(self) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def take(self, path: str, body: Body, headers: Mapping[str, str]) -> Fault:
        """Log one call and return how to answer it."""
        with self._lock:
            scripted = self._script.popleft() if self._script else None
        fault = scripted if scripted is not None else self.answered(body)
        with self._lock:
            self.calls.append(Call(path=path, body=body, headers=headers, fault=fault))
        return fault

    def answered(self, body: Body) -> Fault:
        """Return what the model says to a request."""
        answer = self._answer(body)
        return answer if isinstance(answer, Fault) else reply(answer)

    def wait_for_close(self, timeout_s: float | None = None) -> bool:
        return self._closing.wait(timeout_s)


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: FakeServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what is being tested."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = json.loads(self.rfile.read(length))
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.server.owner.take(self.path, body, headers)
        self.act(fault)

    def act(self, fault: Fault) -> None:
        """Answer like this."""
        if fault.how == "reset":
            self._reset()
        elif fault.how == "hang":
            self.server.owner.wait_for_close()
        else:
            self._send(fault)

    def _send(self, fault: Fault) -> None:
        self.send_response(fault.status)
        self.send_header("Content-Type", "application/json")
        for name, value in fault.headers.items():
            self.send_header(name, value)
        length = 10**9 if fault.how == "drip" else len(fault.payload)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault.how == "send":
            self.wfile.write(fault.payload)
            return
        self.close_connection = True
        if fault.how == "truncate":
            self.wfile.write(fault.payload[: len(fault.payload) // 2])
        while fault.how == "drip" and not self.server.owner.wait_for_close(0.05):
            self.wfile.write(b" ")

    def _reset(self) -> None:
        """Close with RST instead of FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.wfile.close()
        self.rfile.close()
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
