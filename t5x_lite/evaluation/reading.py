"""From the scores of starts and ends to answers in the characters of the context.

The rules are those of the original BERT's run_squad.py (Devlin et al., 2018, section 4.2; for questions without an answer, section 4.3): the best starts
and ends of each window make spans, all windows compete by start + end, a span counts in the window that shows its start with the most context around it,
and no answer is given where the score of [CLS] exceeds that of the best span by more than a threshold. Where it differs: padding takes none of the n best
places, so that results do not depend on the width of a batch; the text is that of the tokens' characters; where the n best starts and ends make no span
at all, every span of the context is looked at (the original answers 'empty').
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from t5x_lite.data.reading import Windows

BEST, MAX_ANSWER = 20, 30  # of the original


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Attributes: text, '' for no answer; start, stop: its characters in the context; score: start + end logits; probability among the n best."""

    text: str
    start: int
    stop: int
    score: float
    probability: float


@dataclasses.dataclass(frozen=True)
class Reply:
    """The answer to a question.

    Attributes:
      text, start, stop: of the answer, '', 0, 0 for none.
      null_margin: score of no answer minus that of the best span, what the threshold is held against; inf where there is no span, nan where questions
        without an answer were not asked for.
      best: the n best, highest first; after them no answer, if it may be given and is not among them.
    """

    id: str
    text: str
    start: int
    stop: int
    null_margin: float
    best: tuple[Candidate, ...]


def replies(
    windows: Windows, starts: Sequence[np.ndarray], ends: Sequence[np.ndarray], best: int = BEST, max_answer: int = MAX_ANSWER,
    null: bool = False, threshold: float = 0.0,
) -> Iterator[Reply]:  # fmt: skip
    """The reply to each question of `windows`, in their order.

    Args:
      starts, ends: logits of each window, [W, columns], or W arrays of at least as many columns as its window has tokens.
      best: starts and ends of each window that make spans, and candidates of a reply.
      max_answer: tokens of an answer.
      null: questions may have no answer (SQuAD 2.0).
      threshold: no answer is given where null_margin is above it; inf always gives one, as `metrics_reading.squad_v2` wants to find the best threshold.

    Raises:
      ValueError: not a row for each window, or a row shorter than its window, or not a number in it.
    """
    if not len(windows) == len(starts) == len(ends):
        raise ValueError(f'{len(starts)} rows of starts and {len(ends)} of ends for {len(windows)} windows')
    for number in range(len(windows.questions)):
        rows = range(windows.first_windows[number], windows.first_windows[number + 1])
        logits = [(_row(windows, row, starts[row]), _row(windows, row, ends[row])) for row in rows]
        yield _reply(windows, number, rows, logits, best, max_answer, null, threshold)


def _row(windows: Windows, row: int, logits: np.ndarray) -> np.ndarray:
    length, logits = windows.lengths[row], np.asarray(logits, np.float64)
    if logits.ndim != 1 or len(logits) < length or np.isnan(logits[:length]).any():
        raise ValueError(f'window {row} has {length} tokens; its logits are {logits.shape}, or hold nan')
    return logits[:length]


def _reply(windows: Windows, number: int, rows: range, logits: list, best: int, max_answer: int, null: bool, threshold: float) -> Reply:
    passage, question = windows.passages[number], windows.questions[number]
    shown = windows.most_context(number)
    spans = [_spans(windows, row, *pair, most, best, max_answer) for row, pair, most in zip(rows, logits, shown, strict=True)]
    if not any(len(span) for span in spans):
        spans = [_spans(windows, row, *pair, most, len(pair[0]), max_answer) for row, pair, most in zip(rows, logits, shown, strict=True)]
    # score, first token, last token; first = -1 is no answer, which comes last among equals.
    found = np.concatenate([*spans, np.zeros((0, 3))])
    found = found[np.isfinite(found[:, 0])]  # a head may rule positions out by -inf
    null_score = min(float(start[0] + end[0]) for start, end in logits)
    if null:
        found = np.concatenate([found, [[null_score, -1, -1]]])
    kept, texts, top = [], set(), None
    for score, first, last in found[np.argsort(-found[:, 0], kind='stable')]:
        start, stop = passage.characters(int(first), int(last)) if first >= 0 else (0, 0)
        text = passage.text[start:stop]
        if (first >= 0 and not text) or text in texts:  # tokens of white space are no answer; of equal texts the best counts
            continue
        if text and top is None:
            top = len(kept)
        texts.add(text)
        kept.append((text, start, stop, float(score)))
        if len(kept) >= best and top is not None:
            break
    answer = kept[top] if top is not None else ('', 0, 0, -np.inf)
    # A span that no answer alone pushed out of the n best is known to the margin, not to the list.
    kept = kept[:best]
    if null and '' not in {text for text, *_ in kept}:
        kept.append(('', 0, 0, null_score))
    weights = np.exp(np.array([score for *_, score in kept]) - max((score for *_, score in kept), default=0.0))
    candidates = tuple(Candidate(*each, float(weight)) for each, weight in zip(kept, weights / weights.sum(), strict=True))
    margin = null_score - answer[3] if null else float('nan')
    if null and margin > threshold:
        answer = ('', 0, 0, null_score)
    return Reply(question.id, *answer[:3], margin, candidates)


def _spans(windows: Windows, row: int, starts: np.ndarray, ends: np.ndarray, most: np.ndarray, best: int, max_answer: int) -> np.ndarray:
    """float64 [n, 3]: score, first and last token of the context, in the order of their starts and then of their ends, best first."""
    column, count, first = (int(part[row]) for part in (windows.context_columns, windows.counts, windows.firsts))
    chosen_starts, chosen_ends = (np.argsort(-logits, kind='stable')[:best] - column for logits in (starts, ends))
    chosen_starts = chosen_starts[(chosen_starts >= 0) & (chosen_starts < count)]
    chosen_starts = chosen_starts[most[chosen_starts]]
    chosen_ends = chosen_ends[(chosen_ends >= 0) & (chosen_ends < count)]
    lengths = chosen_ends - chosen_starts[:, None] + 1
    left, right = np.nonzero((lengths >= 1) & (lengths <= max_answer))
    left, right = chosen_starts[left], chosen_ends[right]
    return np.stack([starts[left + column] + ends[right + column], left + first, right + first], axis=1)
