"""Fine-tuning examples from questions about texts, answered by a span of the text. (numpy only)

    config.data.source = 't5x_lite.data.question_examples:QuestionExamples', and from flags alone
    --config.data.train=train.json --config.data.validation=dev.json

Files are SQuAD's (t5x_lite.data.squad_files); rows are windows of their contexts (t5x_lite.data.reading, with a worked example), one an example. Beside the
features there: `answer_weights` float32 [B], 0 for held-out windows of questions whose answers could not be found in the context.
"""

import functools
import hashlib
from typing import Any

import numpy as np

from t5x_lite.config import Config
from t5x_lite.data import held_out, squad_files, tables, tokenizers
from t5x_lite.data.in_epochs import InEpochs
from t5x_lite.data.reading import Windows
from t5x_lite.errors import UserError


class QuestionExamples(InEpochs):
    """The windows of one split, made at once, as an endless sequence of examples.

    Attributes:
      windows: the `Windows`; of held-out data they come in their order.
      fingerprint: hexadecimal digits of questions, pieces and answers.

    Raises:
      UserError: a file that cannot be read, no room for contexts, nothing to learn from.
    """

    def __init__(self, config: Config, split: str, seed: int, seq_len: int, max_predictions: int = 0, corpus: Any = None):
        del max_predictions, corpus  # of the objectives on prepared corpora
        data = config.data
        self._begin(config, split, seed, seq_len)
        own = split == 'validation' and data.validation
        path = data.validation if own else data.train
        if not path:
            raise UserError('--config.data.train is empty; give the file to learn from, in the form of SQuAD (json)')
        questions = squad_files.read(path)
        if not data.no_answers and (silent := next((question for question in questions if not question.answers), None)):
            raise UserError(f'{silent.where}: the question has no answer; give one, or say that some have none: --config.data.no_answers=True')
        # Whole contexts are held out: questions about one of them share words.
        numbers = {context: number for number, context in enumerate(dict.fromkeys(question.context for question in questions))}
        about = np.array([numbers[question.context] for question in questions])
        rows, said = held_out.rows_of(split, len(questions), data, seed, path, 'contexts', units=about)
        self._notes = [f'{split}: {path}, {len(questions):,} questions{said}']
        questions = [questions[row] for row in rows]
        self.tokenizer_path = tables.find_tokenizer(config)
        tokenizer = tokenizers.load(self.tokenizer_path)
        self.windows = Windows(questions, tokenizer, seq_len, data.stride, data.max_question, train=split == 'train')

    def row_lengths(self) -> np.ndarray:
        return self.windows.lengths

    @functools.cached_property
    def fingerprint(self) -> str:
        windows, digest = self.windows, hashlib.sha256()
        for question, passage in zip(windows.questions, windows.passages, strict=True):
            digest.update(question.question.encode() + passage.ids.tobytes())
        for values in (windows.firsts, windows.counts, windows.answer_starts, windows.answer_ends):
            digest.update(values.tobytes())
        return digest.hexdigest()[:16]

    def get(self, indices, width: int = 0) -> dict[str, np.ndarray]:
        """Features of int64 [n] indices, padded to `width` columns (0: as these rows need)."""
        rows = self._positions(np.asarray(indices, np.int64))
        return self.windows.features(rows, width or self._width(rows)) | {'answer_weights': self.windows.weights[rows]}

    def describe(self) -> str:
        """What was read and could not be, a line each."""
        return '\n'.join([*self._notes, *self.windows.describe(), f'tokenizer: {self.tokenizer_path}'])
