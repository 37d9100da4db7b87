"""A chat server on loopback that takes a set time to answer, in a process of its own. Counts what reaches it.

    with LatencyServer(latency_s=0.05) as server:
        ...                                   # api_base: server.url
        print(server.stats())

It speaks just enough of OpenAI's protocol, straight on asyncio, so that it takes little of the processor that it shares
with what is measured. A reply depends on the prompt alone: the label named by the prompt's last line, or, when asked
to write a prompt, a sentence that has not been written before.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from typing import Any

LABELS = ("red", "green", "blue")


class Stats:
    """What has reached the server since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.n_calls = self.n_open = self.max_open = 0
        self.first_at = self.last_at = 0.0
        self.open_s = 0.0  # sum over calls of the time that each was in hand
        self.prompts: Counter[str] = Counter()

    def to_json(self) -> dict[str, Any]:
        return {
            "calls": self.n_calls,
            "different": len(self.prompts),
            "max_in_flight": self.max_open,
            "span_s": self.last_at - self.first_at,
            "busy_s": self.open_s,
            "cpu_s": time.process_time(),
        }


def answer(body: dict[str, Any]) -> str:
    """Return what the model says: right in most cases, by the content of the prompt alone."""
    text = "\n".join(str(message["content"]) for message in body["messages"])
    digest = hashlib.sha256(text.encode()).digest()
    if "max_tokens" in body and int(body["max_tokens"]) > 100:  # asked to write a prompt
        return f"Name the colour of thing {digest[:3].hex()}, with care and in one word."
    right = answer_of(str(body["messages"][-1]["content"]))
    said = right if digest[0] < 150 else LABELS[digest[1] % 3]
    if "[[ ## " in text:  # DSPy's own layout
        return f"[[ ## colour ## ]]\n{said}\n\n[[ ## completed ## ]]"
    return said


def answer_of(text: str) -> str:
    """Return the right colour of the last `thing NUMBER` in a text."""
    return LABELS[hashlib.sha256(text.rpartition("thing ")[2][:6].encode()).digest()[0] % 3]


class Protocol(asyncio.Protocol):
    """One connection, kept alive."""

    def __init__(self, stats: Stats, latency_s: float) -> None:
        self.stats, self.latency_s = stats, latency_s
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self.take(head.split(b" ", 2)[1], body)

    def take(self, path: bytes, body: bytes) -> None:
        if path == b"/stats":
            self.send(json.dumps(self.stats.to_json()))
        elif path == b"/reset":
            self.stats.reset()
            self.send("{}")
        else:
            now, stats = asyncio.get_running_loop().time(), self.stats
            stats.first_at = stats.first_at or now
            stats.n_calls, stats.n_open = stats.n_calls + 1, stats.n_open + 1
            stats.max_open = max(stats.max_open, stats.n_open)
            asyncio.get_running_loop().call_later(self.latency_s, self.reply, json.loads(body), now)

    def reply(self, body: dict[str, Any], came_at: float) -> None:
        now, stats = asyncio.get_running_loop().time(), self.stats
        stats.n_open, stats.last_at, stats.open_s = stats.n_open - 1, now, stats.open_s + now - came_at
        stats.prompts[hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:16]] += 1
        text = answer(body)
        n_in = sum(len(str(message["content"])) for message in body["messages"]) // 4
        message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": n_in, "completion_tokens": 3, "total_tokens": n_in + 3}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "loopback"}
        self.send(json.dumps({**head, "choices": [message], "usage": usage}))

    def send(self, text: str) -> None:
        if not self.transport.is_closing():
            payload = text.encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
            self.transport.write(head.encode() + payload)


async def serve(latency_s: float) -> None:
    loop, stats = asyncio.get_running_loop(), Stats()
    server = await loop.create_server(lambda: Protocol(stats, latency_s), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)  # ends with the process that started it
    os._exit(0)


class LatencyServer:
    """The server from outside."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        command = [sys.executable, "-m", "experiments.latency_server", "--latency", str(latency_s)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._root = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.url = f"{self._root}/v1"

    def stats(self) -> dict[str, Any]:
        return self._get("/stats")

    def reset(self) -> None:
        self._get("/reset")

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self._root + path) as response:
            found: dict[str, Any] = json.load(response)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> LatencyServer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.05)
    asyncio.run(serve(parser.parse_args().latency))
