"""The judge that a metric asks, while its model is opened later than the metric."""

from __future__ import annotations

from optimizer.config.keys import LM
from optimizer.errors import ProgramError
from optimizer.lm.backend import CallRequest
from optimizer.prompts.program import Complete
from optimizer.prompts.spec import Message


class LateJudge:
    """The judge of a metric. Metrics are opened before models are metered; the session puts the model in.

    Args:
        lm: how long a grade may be, and at which temperature it is given.
    """

    def __init__(self, lm: LM) -> None:
        self.complete: Complete | None = None
        self._lm = lm

    def __call__(self, prompt: str) -> str:
        if self.complete is None:
            raise ProgramError("metric: the judge was asked before its model was opened")
        messages, lm = (Message("user", prompt),), self._lm
        return self.complete(CallRequest(messages=messages, max_tokens=lm.max_tokens, temperature=lm.temperature)).text
