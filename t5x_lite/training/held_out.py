"""The held-out scores of a run as it goes: measured, written, said; which were best, and whether they still get better."""

from collections.abc import Callable, Mapping
import time
from typing import Any

from t5x_lite.config import Config
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError, nearest
from t5x_lite.training.patience import Patience
from t5x_lite.training.step import Program, TrainState
from t5x_lite.training.telemetry import MetricsLog, duration
from t5x_lite.training.watch import Watch

Evaluate = Callable[[Any], dict[str, float]]


class HeldOut:
    """Evaluations of one run.

    Args:
      make_evaluate: (program, step) -> function of parameters to held-out scores, for batches as they are at that step.
      watch: is told of the scores.
      saved: the `state` of a checkpoint.
    """

    def __init__(
        self, config: Config, data: DataFunction, make_evaluate: Callable[[Program, int], Evaluate], watch: Watch, saved: Mapping[str, Any] | None = None
    ):
        self._config, self._data, self._watch = config, data, watch
        self._make_evaluate, self._evaluates = make_evaluate, {}
        self._patience = Patience(config, saved)

    @property
    def state(self) -> dict[str, Any]:
        return self._patience.state

    def __call__(self, program: Program, state: TrainState, step: int, log: MetricsLog) -> dict[str, float]:
        """Scores after so many steps."""
        began = time.perf_counter()
        stage = self._data.stage_at(step - 1)
        if stage not in self._evaluates:
            self._evaluates[stage] = self._make_evaluate(program, step - 1)
        scores = self._evaluates[stage](state.ema or state.params)
        seconds = time.perf_counter() - began
        log.write(step, {f'eval/{name}': value for name, value in scores.items()} | {'eval_seconds': round(seconds, 3)})
        parts: dict[str, list[str]] = {}  # 'sst2/accuracy' stands in a line of sst2
        for name, value in scores.items():
            part, _, metric = name.rpartition('/')
            parts.setdefault(part, []).append(f'{metric} {value:.4g}')
        print(f'held out at step {step:,}: {"  ".join(parts.pop("", []))}  ({duration(seconds)})')
        print(''.join(f'  {part:<22}{"  ".join(shown)}\n' for part, shown in parts.items()), end='', flush=True)
        self._watch.evaluated(step, scores)
        name = self._config.checkpoint.best_metric
        if not name or name in scores:
            self._patience.add(step, scores)
        return scores

    def check(self, scores: Mapping[str, float] | None) -> None:
        """Raises UserError where config.checkpoint.best_metric is none of the scores."""
        name = self._config.checkpoint.best_metric
        if name and scores is not None and name not in scores:
            raise UserError(f'config.checkpoint.best_metric={name!r} is not a held-out metric; {nearest(name, scores)}')

    @property
    def over(self) -> bool:
        """Whether config.eval.patience has ended."""
        return self._patience.over

    @property
    def ending(self) -> str:
        """What a run says of its scores when it ends; '' without config.checkpoint.best_metric."""
        if not self._patience.best:
            return ''
        return f'; {self._patience.best}, which evaluate, predict, convert and init_from take unless told otherwise'
