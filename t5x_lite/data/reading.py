"""Extractive question answering: windows of contexts that fit a model, and where in them the answers stand. (numpy only)

As in the original BERT (Devlin et al., 2018, section 4.2, and its run_squad.py): [CLS] question [SEP] context [SEP], of which only the context is cut, into
windows that begin every `stride` tokens; an answer that a window does not hold points to [CLS]. A worked example, seq_len 9, stride 2, [CLS] 2, [SEP] 3,
question 'who ?' (10 11), context 'it was Bo Li here' (20 21 22 23 24), answer 'Bo Li':

    tokens          2 10 11 3 20 21 22 23 3        2 10 11 3 22 23 24 3 0
    token_types     0  0  0 0  1  1  1  1 1        0  0  0 0  1  1  1 1 0
    sequence_ids    1  1  1 1  1  1  1  1 1        1  1  1 1  1  1  1 1 0
    answer_starts   6                              4
    answer_ends     7                              5

Characters and tokens are matched by the tokenizer's offsets, so any kind will do; where it has neither [CLS] nor [SEP], its end of text stands for them.
Unlike the original, which goes by words between white space first, an answer is the tokens that share characters with it.
"""

from collections.abc import Sequence

import numpy as np

from t5x_lite.data import squad_files
from t5x_lite.data.passages import Passage
from t5x_lite.data.squad_files import Question
from t5x_lite.data.tokenizer import Tokenizer
from t5x_lite.errors import UserError

STRIDE, MAX_QUESTION = 128, 64  # of the original


class Windows:
    """The windows of some questions, tokenised at once; those of a question follow each other.

    Attributes:
      questions: those that have windows, list[Q]; passages: the context of each as tokens.
      owners: int32 [W], the number in `questions` of each window's.
      first_windows: int64 [Q + 1], where the windows of each question begin.
      firsts, counts: int32 [W], the first of the context's tokens in a window, and how many.
      context_columns: int32 [W], where in a row the context begins.
      lengths: int32 [W], tokens of a row.
      answer_starts, answer_ends: int32 [W], the column of the answer's first and last token; 0, [CLS], in a window without it.
      weights: float32 [W], 1; 0 where the file has answers but none that could be found, so that a loss should not count.
      located: where the answers of all questions stand (`squad_files.locate`).
    """

    def __init__(
        self, questions: Sequence[Question], tokenizer: Tokenizer, seq_len: int, stride: int = STRIDE, max_question: int = MAX_QUESTION,
        train: bool = False, drop_without_answer: bool = False,
    ):  # fmt: skip
        """
        Args:
          seq_len: tokens of a row.
          stride: tokens from the beginning of a window to that of the next; at most a window's own, so that none is passed over.
          max_question: tokens of a question that are read.
          train: leave out questions with answers of which none could be found. The target is the first answer that was.
          drop_without_answer: and windows without the answer, of questions that have one.

        Raises:
          UserError: lengths that leave the context no room, a tokenizer without any token to divide, or nothing left to train on.
        """
        if stride < 1 or max_question < 1:
            raise UserError(f'stride={stride} and max_question={max_question} must be above 0')
        if seq_len < max_question + 4:
            raise UserError(
                f'config.data.seq_len={seq_len} leaves a context no room beside a question of up to {max_question} tokens and three special ones; '
                f'give at least {max_question + 4}, better {max_question + 3 + 2 * stride}, or a smaller max_question'
            )
        first = tokenizer.end_id if tokenizer.cls_id is None else tokenizer.cls_id
        separator = tokenizer.end_id if tokenizer.sep_id is None else tokenizer.sep_id
        if first is None or separator is None:
            raise UserError('the tokenizer has neither [CLS] and [SEP] nor an end of text to stand between question and context; give another')
        self.seq_len, self.stride, self.max_question = seq_len, stride, max_question
        self._pad = tokenizer.pad_id or 0
        self.located = squad_files.locate(questions)
        self._asked, self._dropped, self._within = len(questions), 0, []
        self.questions, self.passages, self.cut_questions = [], [], []
        tokenizer = tokenizer.literal()  # '[SEP]' in a context is text
        known: dict[str, Passage] = {}  # questions about one paragraph share it
        rows, table, sizes = [], [], []
        asked = tokenizer.encode_batch([question.question for question in questions])
        for question, ids, spans in zip(questions, asked, self.located.spans, strict=True):
            if question.context not in known:
                known[question.context] = Passage.of(question.context, tokenizer)
            passage = known[question.context]
            target = next(filter(None, (passage.tokens(*span) for span in spans)), None)
            if spans and target is None:
                self._within.append(question)
            lost = bool(question.answers) and target is None
            if train and lost:
                continue
            if len(ids) > max_question:
                self.cut_questions.append(question)
            head = [first, *ids[:max_question], separator]
            made = 0
            for begin, count in cut(len(passage), seq_len - len(head) - 1, stride):
                holds = target is not None and begin <= target[0] and target[1] < begin + count
                if train and drop_without_answer and target is not None and not holds:
                    self._dropped += 1
                    continue
                shift = len(head) - begin
                rows.append(np.concatenate([head, passage.ids[begin : begin + count], [separator]]).astype(np.int32))
                answer = (target[0] + shift, target[1] + shift) if holds else (0, 0)
                table.append((len(self.questions), begin, count, len(head), *answer, not lost))
                made += 1
            if made:
                self.questions.append(question)
                self.passages.append(passage)
                sizes.append(made)
        if train and not rows:
            lines = self.located.describe() or [f'no window of {seq_len} tokens holds a whole answer'] * bool(self._asked)
            raise UserError(f'nothing to learn from: of {self._asked:,} questions none has a window; {"; ".join(lines)}')
        columns = np.array(table, np.int32).reshape(-1, 7).T
        self.owners, self.firsts, self.counts, self.context_columns, self.answer_starts, self.answer_ends = columns[:6]
        self.weights = columns[6].astype(np.float32)
        self.first_windows = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.lengths = np.array([len(row) for row in rows], np.int32)
        self._ids = np.concatenate([*rows, np.zeros(1, np.int32)])
        self._starts = np.cumsum(self.lengths, dtype=np.int64) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def features(self, windows: np.ndarray, width: int = 0) -> dict[str, np.ndarray]:
        """Rows of the windows with these numbers, int64 [n], as in the example above.

        Args:
          width: columns; 0: as many as the longest has.

        Returns:
          tokens, token_types, sequence_ids: int32 [n, width]; answer_starts, answer_ends: int32 [n]; example_weights: float32 [n].
        """
        windows = np.asarray(windows, np.int64)
        longest = int(self.lengths[windows].max(initial=0))
        width = width or longest
        if width < longest:
            raise ValueError(f'width {width} cuts a window of {longest} tokens')
        columns = np.arange(width)
        real = columns < self.lengths[windows][:, None]
        places = np.minimum(self._starts[windows][:, None] + columns, len(self._ids) - 1)
        return {
            'tokens': np.where(real, self._ids[places], self._pad).astype(np.int32),
            'token_types': (real & (columns >= self.context_columns[windows][:, None])).astype(np.int32),
            'sequence_ids': real.astype(np.int32),
            'answer_starts': self.answer_starts[windows],
            'answer_ends': self.answer_ends[windows],
            'example_weights': self.weights[windows],
        }

    def most_context(self, question: int) -> list[np.ndarray]:
        """Of each window of a question bool [count]: whether no other window shows that token with more around it (the first of equals)."""
        part = slice(self.first_windows[question], self.first_windows[question + 1])
        windows = list(zip(self.firsts[part].tolist(), self.counts[part].tolist(), strict=True))
        best, owner = np.full(len(self.passages[question]), -np.inf), np.zeros(len(self.passages[question]), np.int64)
        for number, (first, count) in enumerate(windows):
            place = np.arange(count)
            around = np.minimum(place, count - 1 - place) + 0.01 * count  # the smaller of both sides, and a little for long windows
            better = around > best[first : first + count]
            best[first : first + count][better], owner[first : first + count][better] = around[better], number
        return [owner[first : first + count] == number for number, (first, count) in enumerate(windows)]

    def describe(self) -> list[str]:
        """What was made and what could not be, a line each."""
        answered = int((self.answer_starts > 0).sum())
        none = sum(not question.answers for question in self.questions)
        lines = [
            f'{len(self.questions):,} of {self._asked:,} questions ({none:,} without an answer) in {len(self):,} windows of up to {self.seq_len} tokens, '
            f'every {self.stride}; {answered:,} hold the answer' + (f'; {self._dropped:,} without it are left out' if self._dropped else '')
        ]
        if self.cut_questions:
            lines.append(f'{len(self.cut_questions):,} questions are cut at {self.max_question} tokens: {_names(self.cut_questions)}')
        if self._within:
            lines.append(f'{len(self._within):,} questions have answers that the tokenizer throws away: {_names(self._within)}')
        return lines + self.located.describe()


def cut(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(first token, tokens) of the windows of a context: cut(5, 4, 2) -> [(0, 4), (2, 3)]. An empty context has one, empty."""
    found, first = [], 0
    while True:
        count = min(room, length - first)
        found.append((first, count))
        if first + count >= length:
            return found
        first += min(count, stride)


def _names(questions: Sequence[Question], shown: int = 3) -> str:
    return ', '.join(question.where for question in questions[:shown]) + (', ...' if len(questions) > shown else '')
