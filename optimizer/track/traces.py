"""The final comparison as MLflow traces: some of its rows, each with what both prompts answered. Part of `mlflow_view`.

Which rows are shown, and in which ids and times, comes from the study alone. Rows that changed come first, because they
are what a reader looks for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from optimizer.candidate import JsonValue, content_hash
from optimizer.proof.insight import Pair, as_line, pairs, said
from optimizer.records import Outcome, StudyView
from optimizer.track.projection import Projection

if TYPE_CHECKING:
    from mlflow.entities import Span

PREVIEW_CHARS = 200
TEXT_CHARS = 4000  # of one input or reply; traces are to be looked at, the whole is in the study's database
ORDER = ("broken", "fixed", "same", "not compared")


def sampled(view: StudyView, projection: Projection) -> list[Pair]:
    """Return the rows to show: at most `projection.n_traces`, half of them broken or fixed where there are so many."""
    verdict = view.verdict
    if verdict is None or not projection.n_traces:
        return []
    found = pairs(verdict.seed_outcomes, verdict.winner_outcomes, projection.rows())
    half = max(1, projection.n_traces // 4)
    first = [pair for flip in ORDER[:2] for pair in [p for p in found if p.flip == flip][:half]]
    rest = sorted((p for p in found if p not in first), key=lambda p: ORDER.index(p.flip))
    same = [pair for pair in rest if pair.flip == "same"]
    return (first + same + [pair for pair in rest if pair.flip != "same"])[: projection.n_traces]


def write_traces(view: StudyView, projection: Projection, *, uri: str, experiment_id: str, run_id: str) -> int:
    """Write the sampled rows and return how many there are. Writing them again changes nothing."""
    from mlflow.entities import Trace, TraceData, TraceInfo, TraceLocation, TraceState
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.tracing.client import TracingClient
    from mlflow.tracing.utils import TraceJSONEncoder
    from mlflow.tracing.utils.artifact_utils import get_artifact_uri_for_trace

    client, chosen = TracingClient(uri), sampled(view, projection)
    start_ms = round(1000 * max((t.started_s + t.duration_s for t in view.trials), default=0.0))
    for pair in chosen:
        trace_id = f"tr-{content_hash([projection.study_id(view.name), pair.example_id], n_chars=32)}"
        spans = list(_spans(pair, projection, trace_id=trace_id, start_ms=start_ms))
        asked, answered = _asked(pair), {"seed": said(pair.seed), "winner": said(pair.winner), "flip": pair.flip}
        info = TraceInfo(
            trace_id=trace_id,
            trace_location=TraceLocation.from_experiment_id(experiment_id),
            request_time=start_ms,
            state=TraceState.OK,
            request_preview=projection.preview(as_line(asked), PREVIEW_CHARS),
            response_preview=projection.preview(as_line(answered), PREVIEW_CHARS),
            execution_duration=1,
            trace_metadata={"mlflow.sourceRun": run_id, "mlflow.trace_schema.version": "3"},
            tags={"mlflow.traceName": "final comparison", "optimizer.flip": pair.flip, "optimizer.study": view.name},
        )
        trace = Trace(client.start_trace(info), TraceData(spans=spans))
        # `TracingClient` would look for the artifacts of a server at the process's own default store.
        place = get_artifact_repository(get_artifact_uri_for_trace(trace.info), tracking_uri=uri)
        place.upload_trace_data(json.dumps(trace.data.to_dict(), cls=TraceJSONEncoder, ensure_ascii=False))
    return len(chosen)


def _spans(pair: Pair, projection: Projection, *, trace_id: str, start_ms: int) -> Iterator[Span]:
    from mlflow.entities import Span

    root = content_hash([trace_id, "root"], n_chars=16)
    expected = pair.example.outputs if pair.example else {}
    whole: dict[str, JsonValue] = {
        "expected": expected,
        "seed": said(pair.seed),
        "winner": said(pair.winner),
        "flip": pair.flip,
    }
    rows = [("final comparison", root, "", whole)]
    for name, outcome in (("seed", pair.seed), ("winner", pair.winner)):
        rows.append((name, content_hash([trace_id, name], n_chars=16), root, _outcome(outcome)))
    for name, span_id, parent, outputs in rows:
        attributes: Mapping[str, JsonValue] = {
            "mlflow.traceRequestId": trace_id,
            "mlflow.spanType": "CHAIN" if not parent else "LLM",
            "mlflow.spanInputs": _asked(pair),
            "mlflow.spanOutputs": outputs,
        }
        yield Span.from_dict(
            {
                "name": name,
                "trace_id": _base64(trace_id.removeprefix("tr-")),
                "span_id": _base64(span_id),
                "parent_span_id": _base64(parent) if parent else "",
                "start_time_unix_nano": start_ms * 1_000_000,
                "end_time_unix_nano": (start_ms + 1) * 1_000_000,
                "attributes": {key: _text(value, projection) for key, value in attributes.items()},
                "status": {"code": "STATUS_CODE_OK", "message": ""},
                "events": [],
            }
        )


def _asked(pair: Pair) -> Mapping[str, JsonValue]:
    return pair.example.inputs if pair.example else {"row": pair.example_id}


def _outcome(outcome: Outcome) -> dict[str, JsonValue]:
    return {"reply": outcome.text, "answer": dict(outcome.answer), "kind": outcome.kind, "score": outcome.score}


def _text(value: JsonValue, projection: Projection) -> str:
    return projection.clean(json.dumps(_cut(value), ensure_ascii=False))


def _cut(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return value if len(value) <= TEXT_CHARS else value[: TEXT_CHARS - 1] + "…"
    if isinstance(value, Mapping):
        return {key: _cut(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_cut(each) for each in value]
    return value


def _base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()
