"""Making batches ahead of time, in threads or in processes that never change what is made. (numpy only)"""

import dataclasses
import functools
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from t5x_lite.errors import UserError

_LEAVE_SECONDS = 30  # that a process goes on after SIGTERM, so that the trainer it feeds can save and leave


def load(make: Callable[[int], Any], first: int, last: int, workers: int, prefetch: int) -> Iterator[tuple[int, Any]]:
    """(i, make(i)) for first <= i < last, in order.

    Args:
      make: a function of its argument alone; it is pickled where there are processes.
      workers: processes; 0: threads of this one.
      prefetch: results made ahead (by each process). 0 without workers: none, and no thread.

    Raises:
      whatever `make` raised, as itself, in place of the result it would have given.
    """
    import grain  # imports jax, which preparing and reading data do without
    from absl import flags

    made = grain.MapDataset.range(first, last).map(_Guarded(make))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain reads its own flags, which only a command has parsed
        # One thread a process: several would share its one interpreter.
        results = made.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=max(1, prefetch)))
        processes = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, prefetch))
        results = results.mp_prefetch(processes, worker_init_fn=functools.partial(_begin_process, os.getpid()))
    else:
        results = made.to_iter_dataset(grain.ReadOptions(num_threads=min(2, prefetch), prefetch_buffer_size=prefetch))
    results = iter(results)
    try:
        for expected in range(first, last):
            number, result = next(results)
            if isinstance(result, _Failure):
                raise result.error
            if number != expected:
                raise RuntimeError(f'the loader gave batch {number} where {expected} was due')
            yield number, result
    finally:
        results.close()  # ends its processes now rather than when memory is next tidied up


@dataclasses.dataclass
class _Failure:
    """What was raised; grain would wrap it, and lose what it is."""

    error: Exception


@dataclasses.dataclass
class _Guarded:
    make: Callable[[int], Any]

    def __call__(self, number):
        number = int(number)
        try:
            return number, self.make(number)
        except UserError as error:
            return number, _Failure(error)
        except Exception as error:
            report = f'while making batch {number}:\n{traceback.format_exc()}'
            try:
                pickle.loads(pickle.dumps(error))  # not every exception crosses processes
            except Exception:
                error = RuntimeError(repr(error))
            error.add_note(report)
            return number, _Failure(error)


def _begin_process(parent: int, index: int, count: int) -> None:
    """Leaves signals to a whole job (Ctrl-C, SIGTERM) to the trainer, which needs batches until it has saved. Ends with it.

    Args:
      parent: its process id; asked of the system here, it might be that of another already, for a trainer can be killed while this starts.
    """
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    threading.Thread(target=_watch, args=(parent, asked), daemon=True).start()


def _watch(parent: int, asked: threading.Event) -> None:
    left = _LEAVE_SECONDS
    while os.getppid() == parent and left > 0:
        time.sleep(1)
        left -= asked.is_set()
    os._exit(0)
