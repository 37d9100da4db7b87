"""MLflow as a view of a study that can be rebuilt at any time.

`Tracker` is what the run loop talks to: it marks work in a durable outbox and returns at once; a thread shows it.
`rebuild` shows a whole study from scratch. The truth stays in the study's database: nothing is ever read back
from MLflow but run ids and what was shown before.
"""

from optimizer.track.outbox import Outbox, storage_id
from optimizer.track.projection import Projection, SplitInput, default_artifact_root, default_uri
from optimizer.track.tracker import NoTracker, Tracker, rebuild
from optimizer.track.ui import free_port, study_url, ui_command

__all__ = [
    "NoTracker",
    "Outbox",
    "Projection",
    "SplitInput",
    "Tracker",
    "default_artifact_root",
    "default_uri",
    "free_port",
    "rebuild",
    "storage_id",
    "study_url",
    "ui_command",
]
