"""When the devices of a run have nothing to do, known without making the host wait for them."""

from collections.abc import Callable
import queue
import threading
from typing import Any


class Devices:
    """When they have taken all the steps that they were given. A thread of its own waits for them: the host, which is steps ahead, does not."""

    def __init__(self, monotonic: Callable[[], float]):
        self._monotonic, self._queue = monotonic, queue.SimpleQueue()
        self._count, self._taken = 0, (0, -float('inf'))  # steps given; (of them taken, when the last was)
        self._thread = threading.Thread(target=self._watch, name='goodput', daemon=True)
        self._thread.start()

    @property
    def idle_since(self) -> float | None:
        """When the last step was taken; None while one is under way, -inf before the first."""
        count, when = self._taken
        return when if count == self._count else None

    def given(self, wait: Callable[[], Any]) -> None:
        self._count += 1
        self._queue.put((self._count, wait))

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(1.0)  # a step that never ends, its partners being gone, keeps nobody

    def _watch(self) -> None:
        while (item := self._queue.get()) is not None:
            count, wait = item
            item = None
            try:
                wait()
            except Exception:  # whoever fetches the metrics of the step says so
                return
            wait = None  # nothing of the step is held on to
            self._taken = (count, self._monotonic())
