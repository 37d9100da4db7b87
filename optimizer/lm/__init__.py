"""Language models: open a backend by name, wrap it into a journalled and metered `Model`."""

from __future__ import annotations

from optimizer.config.keys import LM
from optimizer.lm.backend import Backend, CallRequest, Reply
from optimizer.lm.embedded import open_embedded

__all__ = ["Backend", "CallRequest", "Reply", "open_backend"]


def open_backend(settings: LM) -> Backend:
    """Open the model that the settings name: in-process for `embedded` and `gguf:...`, else through DSPy.

    Raises:
        ConfigError: the model, its file or its key cannot be found.
    """
    if settings.model == "embedded" or settings.model.startswith("gguf:"):
        return open_embedded(settings.model)
    from optimizer.lm.provider import open_provider  # DSPy takes a second to import

    return open_provider(settings)
