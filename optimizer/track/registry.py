"""The winner in MLflow's prompt registry. Part of `mlflow_view`, which hands it its client.

One prompt a study name, one version a distinct text. The alias `champion` moves at most once a study, and only on
`promote`: rebuilding an older study must not take the place of a newer champion.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from optimizer.records import StudyView
from optimizer.track.projection import Projection

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import PromptVersion
    from mlflow.store.entities import PagedList

T = TypeVar("T")
Template = str | list[dict[str, str]]

CHAMPION, PREVIOUS = "champion", "previous"
MAX_CHARS = 100_000  # the registry's limit for a text prompt
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # codes for an unknown prompt and an unknown alias
EXPERIMENTS_TAG = "_mlflow_experiment_ids"  # what the Prompts tab of an experiment filters by
LINK_THREAD = "link_prompt_to_experiment_thread"


def register_winner(
    client: MlflowClient, view: StudyView, projection: Projection, *, run_id: str, experiment_id: str
) -> dict[str, str]:
    """Register the winner's text unless it is there, tag it, move the alias; return tags for the parent run."""
    template = _cleaned(view, projection)
    text = template if isinstance(template, str) else json.dumps(template)
    if len(text) > MAX_CHARS:
        return {"optimizer.registered": f"no: the prompt has {len(text)} characters, the registry takes {MAX_CHARS}"}
    if not template:
        return {"optimizer.registered": "no: the prompt is empty"}
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    version = _version_of(client, view.name, template, sha256) or _new_version(client, view, template)
    _show_in_experiment(client, view.name, experiment_id)
    _tag(client, version, view, {"sha256": sha256, "run_id": run_id, "study_id": projection.study_id(view.name)})
    if view.verdict is not None and view.verdict.decision == "promote":
        _promote(client, version, projection.study_id(view.name))
    number = str(version.version)
    linked = json.dumps([{"name": view.name, "version": number}])
    return {"optimizer.registered": f"{view.name} version {number}", "mlflow.linkedPrompts": linked}


def _cleaned(view: StudyView, projection: Projection) -> Template:
    """Return the winner as the registry keeps it: a text with `{{ name }}` for inputs, or chat messages with them."""
    template = (projection.template or projection.render)(view.best)
    if isinstance(template, str):
        return projection.clean(template)
    return [{key: projection.clean(value) for key, value in row.items()} for row in template]


def _version_of(client: MlflowClient, name: str, template: Template, sha256: str) -> PromptVersion | None:
    """Return the oldest version with this text. The text itself counts where a crash left no tag."""
    versions = [v for v in _versions(client, name) if v.tags.get("sha256") == sha256 or v.template == template]
    return min(versions, key=lambda version: int(version.version), default=None)


def _versions(client: MlflowClient, name: str) -> list[PromptVersion]:
    if client.get_prompt(name) is None:
        return []
    return all_pages(lambda token: client.search_prompt_versions(name, page_token=token))


def all_pages(fetch: Callable[[str | None], PagedList[T]]) -> list[T]:
    """Collect what a paged MLflow search returns; `fetch` takes the page token."""
    page = fetch(None)
    items = list(page)
    while page.token:
        page = fetch(page.token)
        items += page
    return items


def _new_version(client: MlflowClient, view: StudyView, template: Template) -> PromptVersion:
    """Register without tags: tags given here would also become the prompt's own."""
    version: PromptVersion = client.register_prompt(view.name, template, commit_message=_commit_message(view))
    for thread in threading.enumerate():  # it edits the prompt's tags behind our back, so let it finish first
        if thread.name.startswith(LINK_THREAD):
            thread.join(timeout=10)
    return version


def _commit_message(view: StudyView) -> str:
    test = view.verdict
    scores = f": {test.decision}, test {test.winner_score:.3f} (seed {test.seed_score:.3f})" if test else ""
    return f"study {view.name}{scores}"


def _show_in_experiment(client: MlflowClient, name: str, experiment_id: str) -> None:
    prompt = client.get_prompt(name)
    ids = [part for part in (prompt.tags if prompt else {}).get(EXPERIMENTS_TAG, "").split(",") if part]
    if experiment_id not in ids:
        client.set_prompt_tag(name, EXPERIMENTS_TAG, f",{','.join([*ids, experiment_id])},")


def _tag(client: MlflowClient, version: PromptVersion, view: StudyView, identity: dict[str, str]) -> None:
    """Tag a version with its evidence. The first study that found a text keeps its tags."""
    if version.tags.get("study_id", identity["study_id"]) != identity["study_id"]:
        return
    for key, value in {**identity, **_evidence(view)}.items():
        if version.tags.get(key) != value:
            client.set_prompt_version_tag(view.name, version.version, key, value)


def _evidence(view: StudyView) -> dict[str, str]:
    tags = {"study": view.name, "candidate": view.best.id}
    lms = view.config.get("lm")
    task = lms.get("task") if isinstance(lms, Mapping) else None
    if isinstance(task, Mapping) and task.get("model"):
        tags["model"] = str(task["model"])
    if (test := view.verdict) is not None:
        tags |= {
            "verdict": test.decision,
            "score": f"{test.winner_score:.4f}",
            "seed_score": f"{test.seed_score:.4f}",
            "interval": f"{test.low:+.4f} to {test.high:+.4f} ({test.confidence:.0%}, difference to the seed)",
        }
    return tags


def _promote(client: MlflowClient, version: PromptVersion, study_id: str) -> None:
    """Make `version` the champion, once a study. The tag goes last, so a crash repeats harmless steps."""
    moved_tag = f"promoted.{study_id}"
    if moved_tag in version.tags:
        return
    champion = _alias(client, version.name, CHAMPION)
    if champion != int(version.version):
        if champion is not None:
            client.set_prompt_alias(version.name, PREVIOUS, champion)
        client.set_prompt_alias(version.name, CHAMPION, int(version.version))
    client.set_prompt_version_tag(version.name, version.version, moved_tag, "true")


def _alias(client: MlflowClient, name: str, alias: str) -> int | None:
    """Return the version behind an alias. Asked one by one: prompt versions are listed without their aliases."""
    from mlflow.exceptions import MlflowException

    try:
        return int(client.get_prompt_version_by_alias(name, alias).version)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise
