"""Which held-out score is best, and whether a run still gets better: numbers alone."""

from collections.abc import Mapping
import math
from typing import Any

from t5x_lite.config import Best, CheckpointConfig, Config

# Last words of metrics of which less is better; of all others more is.
_LESS = ('loss', 'entropy', 'error', 'perplexity')


def sign(config: CheckpointConfig) -> float:
    """1 where the highest config.best_metric is best, -1 where the lowest is; Best.auto: by the metric's name."""
    if config.best is Best.auto:
        return -1.0 if config.best_metric.endswith(_LESS) else 1.0
    return -1.0 if config.best is Best.lowest else 1.0


def best_step(scores: Mapping[int, float | None], config: CheckpointConfig) -> int | None:
    """The step, the first of equals, whose score is best; None where there is no finite one."""
    finite = {step: sign(config) * score for step, score in sorted(scores.items()) if score is not None and math.isfinite(score)}
    return max(finite, key=finite.get) if finite else None


class Patience:
    """Early stopping (Prechelt, 1998): after config.eval.patience evaluations in a row without an improvement of at least config.eval.min_improvement.

    An improvement is over the last score that was one, so that many small steps do not add up unseen. A score that is not finite is none.

    Attributes:
      state: JSON that `saved` takes: the best score and its step, that score which has to be improved on, and the evaluations since.
    """

    def __init__(self, config: Config, saved: Mapping[str, Any] | None = None):
        self._checkpoint, self._eval = config.checkpoint, config.eval
        fresh = {'metric': config.checkpoint.best_metric, 'sign': sign(config.checkpoint), 'best': None, 'step': 0, 'to_beat': None, 'waited': 0}
        # config.checkpoint may change between the runs of a workdir; what was best by another metric says nothing of this one.
        same = saved and all(saved[name] == fresh[name] for name in ('metric', 'sign'))
        self.state: dict[str, Any] = dict(saved) if same else fresh

    def add(self, step: int, scores: Mapping[str, float]) -> None:
        """Scores of an evaluation, among them config.checkpoint.best_metric where there is one."""
        if not self._checkpoint.best_metric:
            return
        state, score = self.state, scores[self._checkpoint.best_metric]
        if not math.isfinite(score):
            state['waited'] += 1
            return
        if state['best'] is None or state['sign'] * (score - state['best']) > 0:
            state['best'], state['step'] = score, step
        gain = math.inf if state['to_beat'] is None else state['sign'] * (score - state['to_beat'])
        if gain > 0 and gain >= self._eval.min_improvement:
            state['to_beat'], state['waited'] = score, 0
        else:
            state['waited'] += 1

    @property
    def over(self) -> bool:
        return 0 < self._eval.patience <= self.state['waited']

    @property
    def best(self) -> str:
        """'the best accuracy is 0.91, of step 300'; '' without one."""
        if self.state['best'] is None:
            return ''
        return f'the best {self.state["metric"]} is {self.state["best"]:.4g}, of step {self.state["step"]:,}'
