"""Answers as spans of a text: the loss, and SQuAD's scores of a whole held-out set."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config
from t5x_lite.data.question_examples import QuestionExamples
from t5x_lite.errors import UserError
from t5x_lite.evaluation import metrics_reading, metrics_text, reading
from t5x_lite.evaluation.metrics_judged import Judged
from t5x_lite.training.losses import Batch, Metrics, cross_entropy, example_weights


class SpanLoss:
    """The mean of the cross-entropies of an answer's first and last token (Devlin et al., 2018, section 4.2), over the windows of the global batch.

    Raises:
      UserError: a field of classes.
    """

    percentages = True  # are its scores

    def __init__(self, config: Config):
        for name, given in (('data.class_weights', config.data.class_weights), ('label_smoothing', config.label_smoothing)):
            if given:
                raise UserError(f'config.{name} is of classes, and answers are places in a text; leave it out')
        self._config, self._held_out = config, None

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {'loss': jnp.sum(_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        weights = _weights(batch)
        starts, ends = outputs['start_logits'], outputs['end_logits']
        each = (cross_entropy(starts, batch['answer_starts']) + cross_entropy(ends, batch['answer_ends'])) * jnp.float32(0.5)
        right = (jnp.argmax(starts, axis=-1) == batch['answer_starts']) & (jnp.argmax(ends, axis=-1) == batch['answer_ends'])
        total, count = jnp.sum(each * weights), jnp.sum(weights)
        return {'loss': total}, {'cross_entropy': (total, count), 'window_accuracy': (jnp.sum(right.astype(jnp.float32) * weights), count)}

    def collect(self, outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """What `summarize` needs of each window, at one width whatever the batch's."""
        more = [(0, 0), (0, self._config.data.seq_len - batch['tokens'].shape[1])]
        padded = {name: jnp.pad(outputs[f'{name}_logits'], more) for name in ('start', 'end')}
        return padded | {'weights': example_weights(batch)}

    def summarize(self, collected: dict[str, np.ndarray]) -> dict[str, float]:
        """Percentages: em and f1 of SQuAD 1.1; with config.data.no_answers those of SQuAD 2.0 (`metrics_reading.squad_v2`), at the threshold
        config.data.no_answer_threshold and at the best one. Of a part of the windows, those questions are scored whose windows are all there."""
        targets, texts, margins = self._replies(collected)
        if not targets:
            return {'exact' if self._config.data.no_answers else 'em': float('nan'), 'f1': float('nan')}
        if self._config.data.no_answers:
            return metrics_reading.squad_v2(targets, texts, margins, self._config.data.no_answer_threshold)
        return metrics_text.squad(targets, texts)

    def judged(self, collected: dict[str, np.ndarray]) -> Judged:
        """Exact match and F1, question by question."""
        each = []
        for wanted, text, margin in zip(*self._replies(collected), strict=True):
            if self._config.data.no_answers:
                found = metrics_reading.squad_v2([wanted], [text], [margin], self._config.data.no_answer_threshold)
                each.append({name: found[name] for name in ('exact', 'f1')})
            else:
                each.append(metrics_text.squad([wanted], [text]))
        values = {name: np.array([found[name] for found in each], np.float64) for name in (each[0] if each else ())}
        return Judged(len(each), 'questions', lambda rows: {name: float(value[rows].mean()) for name, value in values.items()})

    def _replies(self, collected: dict[str, np.ndarray]) -> tuple[list[list[str]], list[str], list[float]]:
        """(right answers, answer, how much more likely none is) of the questions whose windows are all there."""
        if self._held_out is None:
            self._held_out = QuestionExamples(self._config, 'validation', self._config.seed, self._config.data.seq_len).windows
        windows, data = self._held_out, self._config.data
        real = collected['weights'] > 0
        starts, ends = collected['start'][real], collected['end'][real]
        there = len(starts)
        starts, ends = (np.concatenate([part[: len(windows)], np.zeros((max(0, len(windows) - there), part.shape[1]))]) for part in (starts, ends))
        found = reading.replies(windows, starts, ends, max_answer=data.max_answer, null=data.no_answers, threshold=float('inf'))
        scored = [(question, reply) for question, reply, last in zip(windows.questions, found, windows.first_windows[1:], strict=True) if last <= there]
        targets = [[answer.text for answer in question.answers] for question, _ in scored]
        return targets, [reply.text for _, reply in scored], [reply.null_margin for _, reply in scored]


def _weights(batch: Batch) -> jax.Array:
    weights = example_weights(batch)
    return weights * batch['answer_weights'] if 'answer_weights' in batch else weights
