"""Scores of SQuAD 2.0, of questions that may have no answer: percentages. (numpy only)

Equal to the official evaluate-v2.0.py (Rajpurkar et al., 2018) to the last digit: its order of sums is kept. SQuAD 1.1's stand in `metrics_text.squad`.
"""

import math
from collections.abc import Sequence

from t5x_lite.evaluation.metrics_text import normalize_squad, sequence_f1

Scores = dict[str, float]


def squad_v2(
    targets: Sequence[Sequence[str]], predictions: Sequence[str], null_scores: Sequence[float] | None = None, threshold: float = 1.0
) -> Scores:
    """Exact match and F1 of all questions, of those with an answer (HasAns_) and of those without (NoAns_), and how many there are.

    Args:
      targets: the right answers of each question; [] where there is none, and '' is right.
      predictions: the answer to each; '' for none.
      null_scores: how sure it is that each question has no answer: a probability, or the margin of `evaluation.reading`. To find the best threshold the
        predictions should be those that an answer always is given with. None: they are judged as they are.
      threshold: above it a prediction counts as '', whatever it is; the script's default of 1 never is where `null_scores` are probabilities.

    Returns:
      exact, f1, total, and the same with HasAns_ and NoAns_ where there are such questions. With null_scores also best_exact, best_exact_thresh, best_f1,
      best_f1_thresh: the highest scores that a threshold can reach, and that threshold (0 where it is best never to answer, as in the script).

    Raises:
      ValueError: nothing to score, sequences of different lengths, a score that is not a number.
    """
    if not len(targets) == len(predictions) or (null_scores is not None and len(null_scores) != len(targets)):
        raise ValueError(f'{len(targets)} questions, {len(predictions)} predictions' + (f', {len(null_scores)} scores' if null_scores is not None else ''))
    if not len(targets):
        raise ValueError('nothing to score: there are no questions')
    if null_scores is not None and any(map(math.isnan, null_scores)):
        raise ValueError('a score of no answer is nan')
    answered = [bool(len(several)) for several in targets]
    pairs = [_judge(several, prediction) for several, prediction in zip(targets, predictions, strict=True)]
    raw = {'exact': [exact for exact, _ in pairs], 'f1': [f1 for _, f1 in pairs]}
    silent = [score > threshold for score in null_scores] if null_scores is not None else [False] * len(targets)
    judged = {
        name: [float(not has) if none else score for score, none, has in zip(scores, silent, answered, strict=True)] for name, scores in raw.items()
    }
    found = _means(judged, range(len(targets)), '')
    for prefix, wanted in (('HasAns_', True), ('NoAns_', False)):
        chosen = [number for number, has in enumerate(answered) if has == wanted]
        if chosen:
            found |= _means(judged, chosen, prefix)
    if null_scores is not None:
        for name, scores in raw.items():
            found[f'best_{name}'], found[f'best_{name}_thresh'] = _best(scores, predictions, null_scores, answered)
    return found


def _judge(several: Sequence[str], prediction: str) -> tuple[int, float]:
    """Exact match and F1, 0..1, against the best answer. Answers of which nothing is left after normalising are none."""
    found, right = normalize_squad(prediction), [normalize_squad(answer) for answer in several]
    right = [answer for answer in right if answer] or ['']
    return max(int(answer == found) for answer in right), max(sequence_f1(answer.split(), found.split()) for answer in right)


def _means(scores: dict[str, list[float]], chosen: Sequence[int], prefix: str) -> Scores:
    means = {prefix + name: 100.0 * sum(values[number] for number in chosen) / len(chosen) for name, values in scores.items()}
    return means | {f'{prefix}total': len(chosen)}


def _best(scores: list[float], predictions: Sequence[str], null_scores: Sequence[float], answered: list[bool]) -> tuple[float, float]:
    """The highest score over thresholds, and the first that reaches it.

    Answers are given to one question after the other, the surest first; one without an answer costs its point, unless '' was predicted anyway.
    """
    now = best = sum(not has for has in answered)
    threshold = 0.0
    for number in sorted(range(len(scores)), key=null_scores.__getitem__):
        now += scores[number] if answered[number] else -bool(predictions[number])
        if now > best:
            best, threshold = now, float(null_scores[number])
    return 100.0 * best / len(scores), threshold
