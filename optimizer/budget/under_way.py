"""Calls that are entered at their worst case and have not ended: what they do not use comes back to the caps."""

from __future__ import annotations

import threading

LOOK_S = 1.0  # how often a thread that waits here looks whether the run is to stop


class UnderWay:
    """Counts the calls of all models of a study in this process. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n = 0
        self.n_ended = 0

    def began(self) -> None:
        with self._changed:
            self._n += 1

    def ended(self) -> None:
        """Note the end of a call whose true price is entered, or whose reservation is given back."""
        with self._changed:
            self._n -= 1
            self.n_ended += 1
            self._changed.notify_all()

    def wait_for_one(self, n_ended: int, stop: threading.Event) -> bool:
        """Wait until a call has ended after so many others had; False when none is under way, or the run stops."""
        with self._changed:
            while self.n_ended == n_ended:
                if self._n == 0 or stop.is_set():
                    return False
                self._changed.wait(LOOK_S)
            return True
