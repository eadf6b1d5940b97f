"""Warnings of a run that goes wrong, in words: on the terminal and in workdir/warnings.txt, each kind once. The last three are known before training.

The judgements are functions of numbers. Their thresholds are far from what healthy runs show, for a warning that comes always is read by nobody:

    diverging     the mean loss of the last steps is above 1.5 times that of the first, by 0.1 nats and four standard errors at least
    forgetting    the loss had fallen to 0.6 of its start, and is back at 0.9: what was learnt, or brought along, is lost again
    over-fitting  the held-out loss rises at three evaluations in a row, to 5 % above the lowest of them, while the training loss falls
    one class     every held-out example gets the same label, at two evaluations in a row or at the last step
    learning rate it is beyond what published recipes use for what learns (training/recipe_rates.py)
    vocabulary    the tokenizer does not fit the text (data/vocabulary_fit.py)
    head NAME     one of several heads has too small a share for a batch in the steps of the run (data/several.py)
"""

from collections.abc import Iterable, Mapping, Sequence
import math
import os
from typing import Any

import numpy as np

from t5x_lite.config import Config
from t5x_lite.data import tokenizers, vocabulary_fit
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.several import SeveralData
from t5x_lite.training import processes, recipe_rates
from t5x_lite.training.tuning import Tuning

FILE = 'warnings.txt'
_LOSSES = ('cross_entropy', 'mean_squared_error', '_loss')
_NO_LOSSES = ('z_loss', 'hamming_loss')  # a penalty, a share of wrong labels
_EVALUATIONS = 4  # that over-fitting is judged by


def window(steps: int) -> int:
    """Steps that the first and the last losses are means over, in a run of so many."""
    return min(max(steps // 20, 5), 50)


def _clearly_apart(first: Sequence[float], last: Sequence[float]) -> bool:
    """By four standard errors of the difference of the means."""
    error = math.sqrt(np.var(first) / len(first) + np.var(last) / len(last))
    return abs(np.mean(last) - np.mean(first)) > 4 * error


def diverging(first: Sequence[float], last: Sequence[float]) -> str:
    """Of the losses of a run's first steps and of its last; '' where all is well."""
    start, now = float(np.mean(first)), float(np.mean(last))
    if now > 1.5 * start and now > start + 0.1 and _clearly_apart(first, last):
        return f'the training loss has risen from {start:.3g} to {now:.3g}; lower config.optim.learning_rate, or lengthen its warm-up'
    return ''


def forgetting(first: Sequence[float], last: Sequence[float], lowest: float) -> str:
    """The same, beside the lowest mean of as many steps in between."""
    start, now = float(np.mean(first)), float(np.mean(last))
    # The distance fallen is no noise either.
    spread = math.sqrt((np.var(first) / len(first) + np.var(last) / len(last)) / 2)
    if lowest <= 0.6 * start and now >= 0.9 * start and now - lowest > max(0.1, 6 * spread):
        return (
            f'the training loss had fallen from {start:.3g} to {lowest:.3g} and is back at {now:.3g}: what the model knew is being lost; '
            'lower config.optim.learning_rate, or hold the weights near their start (config.tune.mixout, config.optim.decay_to_init)'
        )
    return ''


def overfitting(held_out: Sequence[float], trained: Sequence[float]) -> str:
    """Of the held-out losses of evaluations in a row, and the mean training losses before each."""
    if len(held_out) < _EVALUATIONS:
        return ''
    held_out, trained = held_out[-_EVALUATIONS:], trained[-_EVALUATIONS:]
    rises = all(after > before for before, after in zip(held_out, held_out[1:]))
    if rises and held_out[-1] > 1.05 * held_out[0] and trained[-1] < trained[0]:
        return (
            f'the held-out loss has risen from {held_out[0]:.3g} to {held_out[-1]:.3g} over {_EVALUATIONS} evaluations, while that of training fell '
            f'to {trained[-1]:.3g}; more steps make it worse: stop earlier (config.eval.patience), or regularise more (config.model.dropout)'
        )
    return ''


def one_class(scores: Mapping[str, float], num_labels: int) -> bool:
    """Whether the scores of a classifier are those of one that gives every example the same label.

    Its Matthews correlation is 0, and if the label is right for a share a, its F1 of that class is 2 a / (1 + a), of every other 0. For two classes no other
    predictions have these scores, unless all targets are of one class.
    """
    if num_labels < 2 or not {'accuracy', 'matthews'} <= scores.keys() or scores['matthews'] != 0 or not scores['accuracy'] < 1:
        return False
    of_the_class = 2 * scores['accuracy'] / (1 + scores['accuracy'])
    if 'f1' in scores:  # of class 1
        return scores['f1'] == 0 or math.isclose(scores['f1'], of_the_class, rel_tol=1e-9)
    return 'macro_f1' in scores and math.isclose(scores['macro_f1'], of_the_class / num_labels, rel_tol=1e-9, abs_tol=1e-12)


def held_out_loss(scores: Mapping[str, float]) -> float | None:
    """The losses among the scores of an evaluation, added; those of tasks where there are no others. None where there is none, or it is not finite."""
    losses = {name: score for name, score in scores.items() if name.endswith(_LOSSES) and not name.endswith(_NO_LOSSES)}
    whole = {name: score for name, score in losses.items() if '/' not in name}
    total = sum((whole or losses).values())
    return total if losses and math.isfinite(total) else None


def before_training(config: Config, tunings: Iterable[Tuning], data: DataFunction | SeveralData, tokenizer_path: str) -> dict[str, str]:
    """{kind: warning} of what is known before the first step; '' where all is well.

    Args:
      tunings: what learns, at any time of the run.
    """
    given = bool(config.init_from) and config.init_weights
    silent = data.without_batch() if isinstance(data, SeveralData) else {}
    return {f'head {name}': said for name, said in silent.items()} | {
        'learning rate': recipe_rates.of_run(config, tunings),
        'vocabulary': vocabulary_fit.of_run(data, tokenizers.load(tokenizer_path), given),
    }


class Watch:
    """Watches one run.

    Args:
      saved: the `state` of a checkpoint.
      new: the run begins: warnings of one that stood there before go.

    Attributes:
      state: JSON that `saved` takes, so that a resumed run warns as one never stopped.
    """

    def __init__(self, config: Config, workdir: str, saved: Mapping[str, Any] | None = None, *, new: bool = True):
        self._config, self._path = config, os.path.join(workdir, FILE)
        self.state: dict[str, Any] = dict(saved or {'first': [], 'last': [], 'lowest': None, 'since': [0.0, 0], 'held_out': [], 'trained': [], 'one_class': 0})
        self._window = window(config.steps)
        self._writes = processes.is_first()
        if new and self._writes and os.path.exists(self._path):
            os.remove(self._path)
        self._said = set()
        if os.path.exists(self._path):
            with open(self._path, encoding='utf-8') as file:
                self._said = {line.partition(':')[0] for line in file}

    def say(self, kind: str, text: str, step: int = 0) -> None:
        """A warning, unless it is '' or one of its kind was said."""
        if not text or kind in self._said or not self._writes:
            return
        self._said.add(kind)
        line = f'{kind}: {f"at step {step:,} " if step else ""}{text}'
        with open(self._path, 'a', encoding='utf-8') as file:
            file.write(line + '\n')
        print(f'warning: {line}', flush=True)

    def trained(self, step: int, loss: float) -> None:
        """The finite loss of a step."""
        state = self.state
        state['since'] = [state['since'][0] + loss, state['since'][1] + 1]
        if len(state['first']) < self._window:
            state['first'] = [*state['first'], loss]
            return
        state['last'] = [*state['last'], loss][-self._window :]
        if len(state['last']) < self._window:
            return
        self.say('diverging', diverging(state['first'], state['last']), step)
        if state['lowest'] is not None:
            self.say('forgetting', forgetting(state['first'], state['last'], state['lowest']), step)
        mean = float(np.mean(state['last']))
        state['lowest'] = mean if state['lowest'] is None else min(state['lowest'], mean)

    def evaluated(self, step: int, scores: Mapping[str, float]) -> None:
        """The scores of an evaluation after so many steps."""
        state, (total, count) = self.state, self.state['since']
        held_out = held_out_loss(scores)
        if held_out is not None and count:
            state['held_out'] = [*state['held_out'], held_out][-_EVALUATIONS:]
            state['trained'] = [*state['trained'], total / count][-_EVALUATIONS:]
            self.say('over-fitting', overfitting(state['held_out'], state['trained']), step)
        state['since'] = [0.0, 0]
        state['one_class'] = state['one_class'] + 1 if one_class(scores, self._config.model.num_labels) else 0
        if state['one_class'] > 1 or state['one_class'] and step >= self._config.steps:
            text = 'all held-out examples get the same label' + (', and did at the evaluation before' if state['one_class'] > 1 else ', as in a majority vote')
            mend = 'train longer, at another config.optim.learning_rate (--find_learning_rate tries some), or balance the labels'
            self.say('one class', f'{text}; nothing is learnt of the others: {mend}', step)
