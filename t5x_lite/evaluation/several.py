"""Held-out scores of several heads on one body (t5x_lite/several.py), each as its single run has them."""

import dataclasses
from typing import Any

import numpy as np

from t5x_lite import several
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.several import SeveralData
from t5x_lite.errors import UserError, nearest
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.evaluation.metrics_judged import Judged
from t5x_lite.models.several import params_of
from t5x_lite.training.step import Program

_USUAL = ('accuracy', 'pearson', 'micro_f1')  # what counts in the average where a head does not say


class SeveralEvaluator:
    """`evaluator(params)` -> {'mood/accuracy': 0.91, 'tags/f1': 0.88, ..., 'average': 0.895}.

    The average is over heads, of config.heads.NAME.metric, as a share of 1 (scores that are percentages are divided, a correlation that is none counts as 0).
    """

    def __init__(self, program: Program, data: SeveralData):
        self._program, self._evaluators, self._metrics = program, {}, {}
        for name, one in several.apart(program.config).items():
            alone = dataclasses.replace(program, config=one, module=program.module.modules[name], loss=program.loss.single[name], key=(program.key, name))
            self._evaluators[name] = Evaluator(alone, data.single[name])
            self._metrics[name] = several.find(program.config, name, 'config.heads').metric

    def place(self, params: Any) -> Any:
        return Evaluator.place_on(self._program, params)

    def metrics(self) -> list[str]:
        """The names that a call gives.

        Raises:
          UserError: config.heads.NAME.metric is none of them.
        """
        found = {name: evaluator.metrics(params_of(self._program.abstract.params, name)) for name, evaluator in self._evaluators.items()}
        for name, of_head in found.items():
            if self._counted(name, of_head) not in of_head:
                given = self._metrics[name]
                raise UserError(
                    f'config.heads.{name}.metric={given} is not among its scores; {nearest(given, of_head)}'
                    if given else f'config.heads.{name}.metric is empty; name the score that counts in the average: {", ".join(of_head)}'
                )  # fmt: skip
        return [f'{name}/{metric}' for name, of_head in found.items() for metric in of_head] + ['average']

    def _counted(self, name: str, scores: Any) -> str:
        return self._metrics[name] or next((metric for metric in _USUAL if metric in scores), '')

    def __call__(self, params: Any) -> dict[str, float]:
        return self._together({name: evaluator(params_of(params, name)) for name, evaluator in self._evaluators.items()})

    def in_detail(self, params: Any) -> tuple[dict[str, float], dict[str, Judged]]:
        """(scores, {name of a head: its answers one by one})."""
        found = {name: evaluator.in_detail(params_of(params, name)) for name, evaluator in self._evaluators.items()}
        judged = {name: each for name, (_, of_head) in found.items() for each in of_head.values()}
        return self._together({name: scores for name, (scores, _) in found.items()}), judged

    def _together(self, scores: dict[str, dict[str, float]]) -> dict[str, float]:
        counted = []
        for name, of_head in scores.items():
            percent = getattr(self._program.loss.single[name], 'percentages', False)
            counted.append(of_head[self._counted(name, of_head)] / (100 if percent else 1))
        flat = {f'{name}/{metric}': value for name, of_head in scores.items() for metric, value in of_head.items()}
        return flat | {'average': float(np.mean(np.nan_to_num(counted)))}


def evaluator_of(program: Program, data: DataFunction | SeveralData, step: int = 0) -> Evaluator | SeveralEvaluator:
    """What scores a run; `step` as of `Evaluator`."""
    return SeveralEvaluator(program, data) if isinstance(data, SeveralData) else Evaluator(program, data, step)
