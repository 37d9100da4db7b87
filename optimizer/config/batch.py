"""The keys of provider batch endpoints, and what else changes with them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from optimizer.config.data import Model

BATCHED = ("mode", "batch")  # keys of the task model alone: proposals are made one by one
SEARCH = {"in_flight": 16, "block": 10}


class Batch(Model):
    price: float = Field(0.5, ge=0, le=1, description="Price of a row in a batch, as a share of that of a live call.")
    poll: float = Field(60.0, gt=0, description="Seconds between two looks at what is under way.")
    gather: float = Field(
        20.0, gt=0, description="A batch goes up when no candidate has had a further row for so many seconds."
    )
    least: int = Field(10, ge=1, description="Fewer rows than this are asked live, at the full price.")
    max_rows: int = Field(50000, ge=1, le=50000, description="Most rows of one batch.")
    on_stop: Literal["leave", "cancel"] = Field(
        "leave",
        description="What becomes of a running batch when the run stops: it goes on and is collected by the next run, "
        "or it is ended and the next run collects what was done.",
    )


def fitted_to_task_model(config: object) -> object:
    """Set what the search takes over from the task model, unless it is set: the model's temperature is the seed's, and
    where a round of calls takes an hour, more candidates go into each, in larger blocks.

    Args:
        config: as it was read; what is no mapping is left to the validation of types.
    """
    if not isinstance(config, dict) or not isinstance(config.get("lm"), dict):
        return config
    task, search = config["lm"].get("task"), config.get("search") or {}
    if not isinstance(task, dict) or not isinstance(search, dict):
        return config
    fitted: dict[str, object] = dict(SEARCH) if task.get("mode") == "batch" else {}
    if isinstance(temperature := task.get("temperature"), int | float) and 0 <= temperature <= 2:
        fitted["temperatures"] = [temperature]
    return {**config, "search": {**fitted, **search}} if fitted else config
