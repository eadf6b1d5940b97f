"""A run that stands still ends: a collective that never returns would otherwise hold its machines until a person looks.

    with stalls.watched(600) as going_on:
        for ...:
            going_on()

Heartbeats do not see it, for every process is alive (github.com/jax-ml/jax/issues/38503).
"""

from collections.abc import Callable, Iterator
import contextlib
import faulthandler
import os
import sys
import threading
import time

from t5x_lite.training.processes import GONE

_GRACE_SECONDS = 30  # after which C ends what even Python's threads cannot


@contextlib.contextmanager
def watched(seconds: float) -> Iterator[Callable[[], None]]:
    """Gives a function that says that something goes on. Where it is not called for `seconds` (0: ever), this process prints where each of its threads is and ends
    with status 75, as one whose partner is gone: launchers start again what ends so. (Status 1 where a thread holds Python's lock for ever.)"""
    if not seconds:
        yield lambda: None
        return
    over, last = threading.Event(), time.monotonic()

    def going_on() -> None:
        nonlocal last
        last = time.monotonic()
        faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, file=2, exit=True)

    def watch() -> None:
        while not over.wait(min(1.0, seconds / 4)):
            if time.monotonic() - last > seconds:
                print(
                    f'error: nothing was done for {seconds:g} s (config.log.stall_seconds); the same command, started again, goes on from the newest checkpoint. '
                    'Where the threads of this process are:',
                    file=sys.stderr,
                    flush=True,
                )
                faulthandler.dump_traceback(file=2)
                os._exit(GONE)

    going_on()
    thread = threading.Thread(target=watch, name='stalls', daemon=True)
    thread.start()
    try:
        yield going_on
    finally:
        over.set()
        thread.join()
        faulthandler.cancel_dump_traceback_later()
