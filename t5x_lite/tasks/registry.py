"""Tasks and mixtures by name, those of tasks/builtin.py and of people's own files; and the rates of what a config names.

    # my_tasks.py
    from t5x_lite.tasks import registry
    registry.register(registry.Task('reviews', ...))
    registry.register(registry.Mixture('all', ('reviews', 'glue_sst2')))

    --config.data.tasks.files=my_tasks.py --config.data.tasks.names=all
"""

from collections.abc import Callable, Mapping, Sequence
import importlib.util
import inspect
import os
import traceback

from t5x_lite import remote
from t5x_lite.config import Rates, TaskConfig
from t5x_lite.errors import UserError, nearest
from t5x_lite.tasks.builtin import BUILTIN
from t5x_lite.tasks.task import Mixture, Task

_KNOWN: dict[str, tuple[Task | Mixture, str]] = {item.name: (item, 'tasks/builtin.py') for item in BUILTIN}
_LOADED: dict[str, tuple[int, int]] = {}  # file -> its state when it was read


def register(item: Task | Mixture) -> Task | Mixture:
    """Makes it known by its name.

    Raises:
      UserError: the name is taken, with file and line of both.
    """
    caller = inspect.currentframe().f_back
    where = f'{caller.f_code.co_filename}:{caller.f_lineno}'
    if item.name in _KNOWN:
        raise UserError(f'{where}: {item.name!r} is registered already, in {_KNOWN[item.name][1]}; give it another name')
    _KNOWN[item.name] = item, where
    return item


def find(name: str) -> Task | Mixture:
    if name not in _KNOWN:
        raise UserError(f'no task or mixture {name!r}, {nearest(name, _KNOWN)}; yours are read from --config.data.tasks.files')
    return _KNOWN[name][0]


def known() -> list[str]:
    return sorted(_KNOWN)


def load(files: Sequence[str]) -> None:
    """Runs Python files that register tasks; one that was read before only if it has changed.

    Raises:
      UserError: naming file and line of whatever goes wrong in one.
    """
    for given in files:
        path = os.path.realpath(remote.local(given))
        if not os.path.isfile(path):
            raise UserError(f'--config.data.tasks.files={given}: no such file')
        state = os.stat(path).st_mtime_ns, os.stat(path).st_size
        if _LOADED.get(path) == state:
            continue
        before = dict(_KNOWN)
        for name in [name for name, (_, where) in _KNOWN.items() if where.rpartition(':')[0] == path]:
            del _KNOWN[name]
        try:
            _run(path)
        except Exception:
            _KNOWN.clear()
            _KNOWN.update(before)
            raise
        _LOADED[path] = state


def _run(path: str) -> None:
    try:
        spec = importlib.util.spec_from_file_location('tasks_file', path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except SyntaxError as error:
        raise UserError(f'{error.filename}:{error.lineno}: {error.msg}') from error
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where, said = f'{path}:{lines[-1] if lines else 1}: ', str(error)
        if isinstance(error, UserError):
            raise UserError(said if said.startswith(where) else where + said) from error
        raise UserError(f'{where}{type(error).__name__}: {said}') from error


def tasks_of(names: Sequence[str]) -> list[Task]:
    """The tasks that names stand for, mixtures taken apart, each once, in their order."""
    found: dict[str, Task] = {}

    def take(name, above):
        if name in above:
            raise UserError(f'mixture {name} holds itself ({" > ".join([*above, name])}); take it out of one of them')
        item = find(name)
        if isinstance(item, Task):
            found[name] = item
        else:
            for part in item.parts:
                take(part, (*above, name))

    for name in names:
        take(name, ())
    return list(found.values())


def mixing_rate(examples: float, maximum: float | None = None, temperature: float = 1.0) -> float:
    """min(examples, maximum) ** (1 / temperature) (Raffel et al., 2020, section 3.5.2)."""
    return (examples if maximum is None else min(examples, maximum)) ** (1 / temperature)


def rates(config: TaskConfig, size: Callable[[str], int]) -> dict[str, float]:
    """{task: rate} of config.names by config.rates; a task reached more than once adds up.

    A mixture's share is divided by its own rates. Under `proportional` it counts as many examples as its tasks together.

    Args:
      size: training examples of a task; asked only where it counts.
    """
    if config.rates == Rates.given and len(config.weights) != len(config.names):
        raise UserError(
            f'--config.data.tasks.weights has {len(config.weights)} values for {len(config.names)} names; with rates=given, give one a name'
        )
    weights: dict[str, float] | None = None
    if config.rates == Rates.given:
        weights = dict.fromkeys(config.names, 0.0)
        for name, weight in zip(config.names, config.weights):
            weights[name] += weight
    total: dict[str, float] = {}
    for name, rate in _shares(config.names, weights, config.rates, config.maximum, config.temperature, size).items():
        for task, part in _divided(name, rate, size).items():
            total[task] = total.get(task, 0.0) + part
    return total


def check_alone(config: TaskConfig) -> None:
    """Raises UserError for settings between names where there is one, a mixture, which has its own."""
    only = find(config.names[0]) if len(config.names) == 1 else None
    wrong = [name for name in ('maximum', 'temperature') if getattr(config, name) != getattr(TaskConfig, name)]
    if isinstance(only, Mixture) and wrong:
        raise UserError(
            f'config.data.tasks.{wrong[0]} is between several names, and the mixture {only.name} has its own; give its tasks instead, '
            f'--config.data.tasks.names={",".join(task.name for task in tasks_of([only.name]))}, or set it in the Mixture'
        )


def _divided(name: str, rate: float, size: Callable[[str], int]) -> dict[str, float]:
    item = find(name)
    if isinstance(item, Task):
        return {name: rate}
    weights = item.parts if item.rates == Rates.given else None
    shares = _shares(tuple(item.parts), weights, item.rates, item.maximum, item.temperature, size)
    whole, found = sum(shares.values()), {}
    if whole <= 0:
        raise UserError(f'mixture {name}: all its rates are 0, so nothing is learnt')
    for part, share in shares.items():
        for task, own in _divided(part, rate * share / whole, size).items() if share else {task.name: 0.0 for task in tasks_of([part])}.items():
            found[task] = found.get(task, 0.0) + own
    return found


def _shares(
    names: Sequence[str], weights: Mapping[str, float] | None, kind: Rates, maximum: int, temperature: float, size: Callable[[str], int]
) -> dict[str, float]:
    if kind == Rates.given:
        wrong = [name for name, weight in weights.items() if not 0 <= weight < float('inf')]
        if wrong:
            raise UserError(f'the rate of {wrong[0]} is {weights[wrong[0]]}; it must be at least 0')
        return {name: float(weights[name]) for name in names}
    if kind == Rates.equal:
        return dict.fromkeys(names, 1.0)
    return {name: mixing_rate(sum(size(task.name) for task in tasks_of([name])), maximum, temperature) for name in names}
