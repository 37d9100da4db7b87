"""A loopback Batch API beside the chat server: files up, jobs, files down; it counts every row that it is paid for.

with FakeBatchServer(answer) as server:
    server.next_batches.append(BatchPlan(status="expired", n_done=3))
    ...
    assert server.paid == Counter(of each request body)
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fake_server import Answer, FakeServer, Fault, Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """How one batch goes.

    Attributes:
        status: in which it ends.
        n_done: rows that are answered before it ends; None for all.
        n_looks: how often it is looked at before it has ended.
        errors: of the batch as a whole.
        n_lost: answered rows that are in no file.
        is_doubled: every row comes down twice, the second time with an error.
        is_held: it ends when `release` is called.
    """

    status: str = "completed"
    n_done: int | None = None
    n_looks: int = 1
    errors: tuple[dict[str, Any], ...] = ()
    n_lost: int = 0
    is_doubled: bool = False
    is_held: bool = False


@dataclass(slots=True, kw_only=True)
class Job:
    """One batch at the server."""

    id: str
    file_id: str
    metadata: dict[str, str]
    rows: list[dict[str, Any]]
    plan: BatchPlan
    status: str = "in_progress"
    n_looks: int = 0
    n_done: int = 0
    output: str | None = None
    errors: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "created_at": 1,
            "input_file_id": self.file_id,
            "status": self.status,
            "metadata": self.metadata,
            "output_file_id": self.output,
            "error_file_id": self.errors,
            "errors": {"object": "list", "data": list(self.plan.errors)} if self.status == "failed" else None,
            "request_counts": {"total": len(self.rows), "completed": self.n_done, "failed": 0},
        }


class FakeBatchServer(FakeServer):
    """Attributes:
    jobs: every batch that was begun, by id.
    paid: how often each request body was paid for in batches.
    next_batches: how the next ones go; then they go well.
    faults: for the next requests whose "METHOD /path" begins so, one each.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, bytes] = {}
        self.paid: Counter[str] = Counter()
        self.next_batches: deque[BatchPlan] = deque()
        self.faults: dict[str, deque[Fault]] = {}
        self.requests: list[str] = []
        self._numbers, self._batch_lock, self._released = iter(range(1, 10**6)), threading.RLock(), threading.Event()
        super().__init__(answer)

    @property
    def handler(self) -> type[Handler]:
        return BatchHandler

    @property
    def n_live(self) -> int:
        """Calls of the task model outside of batches."""
        return sum(call.body["model"] == "task" for call in self.calls)

    def release(self) -> None:
        """Let batches end that are held."""
        self._released.set()

    def carry_out(self, method: str, path: str, query: dict[str, list[str]], raw: bytes) -> Fault | None:
        """Answer a request of the batch side; None for any other."""
        with self._batch_lock:
            self.requests.append(f"{method} {path}")
            for start, faults in self.faults.items():
                if faults and f"{method} {path}".startswith(start):
                    if (fault := faults.popleft()).is_billed:  # it is done, but the answer is lost
                        self._carry_out(method, path, query, raw)
                    return fault
            found = self._carry_out(method, path, query, raw)
        return Fault(payload=found if isinstance(found, bytes) else json.dumps(found).encode()) if found else None

    def _carry_out(self, method: str, path: str, query: dict[str, list[str]], raw: bytes) -> Any:
        match method, path.removeprefix("/v1/").split("/"):
            case "POST", ["files"]:
                number = self._keep(_uploaded(raw))
                return {
                    "id": number,
                    "object": "file",
                    "purpose": "batch",
                    "filename": "x",
                    "bytes": 1,
                    "created_at": 1,
                }
            case "POST", ["batches"]:
                return self._begin(json.loads(raw)).to_json()
            case "POST", ["batches", number, "cancel"]:
                return self._cancel(self.jobs[number]).to_json()
            case "GET", ["batches"]:
                newest_first = [job.to_json() for job in reversed(self.jobs.values())]
                start = next((i + 1 for i, each in enumerate(newest_first) if each["id"] in query.get("after", [])), 0)
                page = newest_first[start : start + 2]
                return {"object": "list", "data": page, "has_more": start + 2 < len(newest_first)}
            case "GET", ["batches", number]:
                return self._look(self.jobs[number]).to_json()
            case "GET", ["files", number, "content"]:
                return self.files[number] or b"\n"
            case "DELETE", ["files", number]:
                del self.files[number]
                return {"id": number, "object": "file", "deleted": True}
        return None

    def _keep(self, content: bytes) -> str:
        number = f"file-{next(self._numbers)}"
        self.files[number] = content
        return number

    def _begin(self, body: dict[str, Any]) -> Job:
        rows = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        plan = self.next_batches.popleft() if self.next_batches else BatchPlan()
        job = Job(
            id=f"batch_{next(self._numbers)}",
            file_id=body["input_file_id"],
            metadata=body["metadata"],
            rows=rows,
            plan=plan,
        )
        assert len({row["custom_id"] for row in rows}) == len(rows)
        self.jobs[job.id] = job
        return job

    def _look(self, job: Job) -> Job:
        job.n_looks += 1
        if job.status == "in_progress" and job.n_looks > job.plan.n_looks:
            if not job.plan.is_held or self._released.is_set():
                self._end(job, job.plan.status, job.plan.n_done)
        elif job.status == "cancelling":
            self._end(job, "cancelled", job.plan.n_done or 0)
        return job

    def _cancel(self, job: Job) -> Job:
        job.status = "cancelling" if job.status == "in_progress" else job.status
        return job

    def _end(self, job: Job, status: str, n_done: int | None) -> None:
        job.status = status
        if status == "failed":
            return
        n_done = len(job.rows) if n_done is None else n_done
        good: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        for row in job.rows[:n_done]:
            line, is_good = self._row(row)
            (good if is_good else bad).append(line)
        job.n_done = n_done
        expired = {"code": f"batch_{status}", "message": "This request could not be executed in time."}
        bad += [
            {"id": "r", "custom_id": row["custom_id"], "response": None, "error": expired} for row in job.rows[n_done:]
        ]
        good = good[job.plan.n_lost :]
        if job.plan.is_doubled:
            bad += [{**line, "response": None, "error": expired} for line in good]
        random.Random(1).shuffle(good)
        job.output, job.errors = self._keep(_lines(good)), self._keep(_lines(bad)) if bad else None

    def _row(self, row: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        fault = self.answered(row["body"])
        if is_good := fault.status == 200:
            self.paid[json.dumps(row["body"], sort_keys=True)] += 1
        response = {"status_code": fault.status, "request_id": "q", "body": json.loads(fault.payload)}
        return {"id": "r", "custom_id": row["custom_id"], "response": response, "error": None}, is_good


class BatchHandler(Handler):
    """Routes of the batch side; all others are the chat server's."""

    server: Any

    def do_POST(self) -> None:
        if urlsplit(self.path).path.startswith(("/v1/files", "/v1/batches")):
            self._batch_side("POST", self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        else:
            super().do_POST()

    def do_GET(self) -> None:
        self._batch_side("GET", b"")

    def do_DELETE(self) -> None:
        self._batch_side("DELETE", b"")

    def _batch_side(self, method: str, raw: bytes) -> None:
        parts = urlsplit(self.path)
        try:
            fault = self.server.owner.carry_out(method, parts.path, parse_qs(parts.query), raw)
        except KeyError:
            fault = None
        self.act(fault or Fault(status=404, payload=b'{"error": {"message": "no such thing"}}'))


def _uploaded(raw: bytes) -> bytes:
    """Return the file of a multipart form."""
    boundary = raw.split(b"\r\n", 1)[0]
    parts = [part for part in raw.split(boundary) if re.search(rb'name="file"', part)]
    return parts[0].split(b"\r\n\r\n", 1)[1].rstrip(b"\r\n")


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
