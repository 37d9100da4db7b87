"""Where and how a study is shown in MLflow: the settings that every part of the tracker shares."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.engine import make_url

from optimizer.candidate import Candidate, Demo, Example
from optimizer.records import StudyView

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def _unchanged(text: str) -> str:
    return text


def without_rows(candidate: Candidate) -> Candidate:
    """Return the candidate with the id of each row that it shows in place of the row."""

    def marked(demo: Demo) -> Demo:
        mark = f"[row {demo.example_id}]"
        return replace(
            demo, inputs=dict.fromkeys(demo.inputs, mark), outputs=dict.fromkeys(demo.outputs, mark), reasoning=None
        )

    parts = [replace(part, demos=tuple(map(marked, part.demos))) for part in candidate.parts]
    return replace(candidate, parts=tuple(parts))


def _no_rows() -> Mapping[str, Example]:
    return {}


def _no_files(view: StudyView) -> Mapping[str, str]:
    del view
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitInput:
    """One split of the data, to be listed among the run's dataset inputs. `digest` is our own content hash."""

    split: str
    n_rows: int
    digest: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """How to show a study.

    Attributes:
        uri: tracking URI; relative SQLite paths are made absolute when it is used.
        artifact_root: folder for artifacts when `uri` is a database; a server decides for itself.
        storage_id: tells two studies of one name apart, see `optimizer.track.outbox.storage_id`.
        render: the exact prompt text of a candidate.
        template: the registry's form of a candidate, one text or chat messages; default: `render`.
        rows: the examples by id, where they are at hand; asked for when the study has ended.
        extra_files: further texts by path for a study that has ended: its report and plots.
        n_traces: rows of the final comparison that are shown as traces.
        redact: applied to every text before it leaves; removes secrets.
        hides_rows: rows appear as their ids; remarks that may quote one are left out.
    """

    uri: str
    artifact_root: Path
    storage_id: str
    render: Callable[[Candidate], str]
    experiment: str = "prompt-optimizer"
    register: bool = True
    splits: tuple[SplitInput, ...] = ()
    template: Callable[[Candidate], str | list[dict[str, str]]] | None = None
    rows: Callable[[], Mapping[str, Example]] = _no_rows
    extra_files: Callable[[StudyView], Mapping[str, str]] = _no_files
    n_traces: int = 0
    redact: Callable[[str], str] = _unchanged
    hides_rows: bool = False

    def shown(self, candidate: Candidate) -> Candidate:
        """The candidate as it may be shown."""
        return without_rows(candidate) if self.hides_rows else candidate

    def study_id(self, name: str) -> str:
        """The identity of a study's parent run."""
        return f"{name}.{self.storage_id}"

    def clean(self, text: str) -> str:
        """Return text that every store takes: no secrets, no lone surrogates, no NUL characters."""
        paired = self.redact(text).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return paired.replace("\0", REPLACEMENT)

    def preview(self, text: str, n_chars: int) -> str:
        """Return at most `n_chars` of the cleaned text on one line. Cleaned first: a cut could hide half a secret."""
        line = " ".join(self.clean(text).split())
        return line if len(line) <= n_chars else line[: n_chars - 1] + "…"


def default_uri(runs_dir: Path) -> str:
    """The SQLite store that all studies of a runs folder share."""
    return f"sqlite:///{runs_dir.resolve() / 'mlflow.db'}"


def default_artifact_root(runs_dir: Path) -> Path:
    return runs_dir.resolve() / "artifacts"


def is_server(uri: str) -> bool:
    """Whether `uri` names a running MLflow server rather than a database."""
    return uri.startswith(("http://", "https://", "databricks"))


def absolute_uri(uri: str) -> str:
    """Make the path of an SQLite URI absolute, so that the working folder does not matter later."""
    if not uri.startswith("sqlite:///"):
        return uri
    url = make_url(uri)
    return f"{url.drivername}:///{Path(url.database).resolve()}" if url.database else uri


def shown_uri(text: str) -> str:
    """Remove user names and passwords from the URIs in `text`, for messages."""
    return re.sub(r"://[^/\s@]+@", "://", text)
