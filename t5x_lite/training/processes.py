"""Several processes that train one run, each with devices of its own: how they find each other, agree, and end.

A launcher says in the environment that there are several (launch/README.md); without these variables a process is alone:

    JAX_COORDINATOR_ADDRESS=HOST:PORT JAX_NUM_PROCESSES=4 JAX_PROCESS_ID=0    all of it: launch/local.sh
    T5X_LITE_CLUSTER=auto                                                     what JAX finds out: TPU VMs, GKE, Slurm

    T5X_LITE_STOPPED=75    exit status of a run that a signal stopped, 0 by default: what restarts whatever failed then goes on where it is saved

Files are written by the first process alone, whose mistakes are then everybody's (`by_first`). Collectives are called by the main thread, in the same order by
all, or the processes wait for each other for ever.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import os
import re
import signal
import sys
import traceback
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from t5x_lite.errors import UserError

ADDRESS, COUNT, INDEX, CLUSTER = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID', 'T5X_LITE_CLUSTER'
STOPPED = 'T5X_LITE_STOPPED'
FIND_SECONDS = 'T5X_LITE_FIND_SECONDS'  # within which processes must have found each other; 300
GONE = 75  # exit status of one whose partner is gone (EX_TEMPFAIL of sysexits.h): starting all of them again helps
_TEXT = 4096  # bytes of what a process tells the others
_LOST = re.compile('gloo|coordination|heartbeat|UNAVAILABLE|peer|NCCL|socket closed|barrier|DEADLINE_EXCEEDED', re.IGNORECASE)


def join() -> None:
    """Finds the other processes, where the environment says that there are some. Before JAX touches a device.

    Raises:
      UserError: variables that are incomplete or no numbers; processes that did not find each other.
    """
    given = {name: os.environ[name] for name in (ADDRESS, COUNT, INDEX) if name in os.environ}
    cluster = os.environ[CLUSTER] if CLUSTER in os.environ else ''
    if not cluster and not {COUNT, INDEX} & given.keys():
        return
    seconds = _number(FIND_SECONDS) if FIND_SECONDS in os.environ else 300
    if cluster:
        settings, where = {'cluster_detection_method': None if cluster == 'auto' else cluster}, f'as {CLUSTER}={cluster} has it'
    else:
        if missing := [name for name in (ADDRESS, COUNT, INDEX) if name not in given]:
            raise UserError(f'{" and ".join(given)} are set, and {" and ".join(missing)} not; set all three (as launch/local.sh does), or none')
        count, index = _number(COUNT), _number(INDEX)
        if not index < count:
            raise UserError(f'{INDEX}={index} of {COUNT}={count}; processes count from 0')
        settings = {'coordinator_address': given[ADDRESS], 'num_processes': count, 'process_id': index, 'cluster_detection_method': 'deactivate'}
        where = f'at {given[ADDRESS]}, {count} of them'
    try:
        jax.distributed.initialize(initialization_timeout=seconds, **settings)
    except (RuntimeError, ValueError, KeyError) as error:  # the last: variables that a cluster sets are not there
        raise UserError(f'the processes of this run did not find each other ({where}; {_brief(error)}); start all of them, by a script of launch/') from error


def _number(name: str) -> int:
    if not os.environ[name].isdigit():
        raise UserError(f'{name}={os.environ[name]}: expected a whole number')
    return int(os.environ[name])


def several() -> bool:
    return jax.process_count() > 1


def is_first() -> bool:
    return jax.process_index() == 0


def gone(error: BaseException) -> bool:
    """Whether an error says that another process is there no longer."""
    failed = isinstance(error, RuntimeError | ValueError) and not isinstance(error, UserError)  # a ValueError: what was sent is read as an array
    return several() and failed and _LOST.search(str(error)) is not None


@contextlib.contextmanager
def together(said: Callable[[BaseException], int | None]) -> Iterator[None]:
    """One of several processes: joins, and when something goes wrong leaves at once.

    (At an ordinary exit JAX waits for the others, who wait in the middle of a step for this one.)

    Args:
      said: says what a person can mend; the exit status, or None where it is something else.
    """
    join()
    try:
        yield
    except BaseException as error:
        if not several() or isinstance(error, SystemExit):
            raise
        status = said(error)
        if status is None and gone(error):
            print(
                f'error: another process of this run is gone, see its log; the same command, started again on all, goes on from the newest checkpoint '
                f'({_brief(error)})',
                file=sys.stderr,
            )
            status = GONE
        elif status is None:
            traceback.print_exception(error)
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Calls `handler` when this process, being alone, is asked to end. Of several, JAX takes the SIGTERM of one, and tells the others (`asked_to_stop`)."""
    if several():

        def as_sigterm(number: int, frame: Any) -> None:
            del number, frame
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one does not wait
            os.kill(os.getpid(), signal.SIGTERM)

        handlers = {signal.SIGINT: as_sigterm}
    else:
        handlers = {signal.SIGTERM: handler, signal.SIGINT: handler}
    previous = {number: signal.signal(number, chosen) for number, chosen in handlers.items()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def asked_to_stop(step: int) -> bool:
    """Whether all processes stop after this step, for one of them was asked to end. Each of them asks after every step."""
    return several() and multihost_utils.reached_preemption_sync_point(step)


def stopped_status() -> int:
    """The exit status of a run that was asked to end, and has saved."""
    return _number(STOPPED) if STOPPED in os.environ else 0


def told(text: str) -> list[str]:
    """What each process says, in their order. All must ask."""
    if not several():
        return [text]
    data = text.encode()
    if len(data) > _TEXT:
        data = data[:_TEXT].decode(errors='ignore').encode()
    row = np.zeros(_TEXT, np.uint8)
    row[: len(data)] = np.frombuffer(data, np.uint8)
    return [bytes(one).rstrip(b'\0').decode() for one in np.asarray(multihost_utils.process_allgather(row)).reshape(-1, _TEXT)]


def by_first(function: Callable[[], Any]) -> Any:
    """What `function` returns (JSON, short) in the first process; the others do not call it.

    Raises:
      UserError: in all of them, where it was raised there.
    """
    if not several():
        return function()
    answer, error = None, None
    if is_first():
        try:
            answer = {'value': function()}
        except UserError as raised:
            answer, error = {'error': str(raised)}, raised
    answer = json.loads(told(json.dumps(answer))[0])
    if 'error' in answer:
        raise error or UserError(answer['error'])
    return answer['value']


def all_well(problem: str) -> None:
    """
    Args:
      problem: what is wrong in this process; '' where nothing is.

    Raises:
      UserError: in all processes, with the problem of the first that has one.
    """
    for index, said in enumerate(told(problem)):
        if said:
            raise UserError(f'process {index}: {said}' if several() else said)


def fetched(tree: Any) -> Any:
    """Arrays of the mesh as numpy arrays, whole, in every process."""

    def fetch(value: Any) -> np.ndarray:
        whole = not isinstance(value, jax.Array) or value.is_fully_addressable or value.is_fully_replicated
        return np.asarray(value if whole else multihost_utils.process_allgather(value, tiled=True))

    return jax.tree.map(fetch, tree)


def placed(value: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every process has, on the mesh; each device gets its part alone, and nothing is compared between processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def everywhere(value: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """An array that every process has, whole on each device of the mesh, for a function that was jitted there; as it is where there is one process."""
    if mesh is None or not several():
        return jax.numpy.asarray(value)
    return placed(value, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def _brief(error: Exception) -> str:
    return ' '.join(str(error).split())[:200]
