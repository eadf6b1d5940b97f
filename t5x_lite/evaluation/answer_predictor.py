"""Answers to questions about texts, as spans of them."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from t5x_lite.config import Config
from t5x_lite.data.reading import Windows
from t5x_lite.data.squad_files import Question
from t5x_lite.data.tokenizers import Tokenizer
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.evaluation import reading
from t5x_lite.evaluation.batching import TOGETHER, Texts, chunks, of_like_length
from t5x_lite.models.inference import to_read

_SHOWN = 5  # of the best answers


class AnswerPredictor:
    """`predictor(asked)` yields for each (question, text), or `Question`, the answer, its characters in the text and its probability, and the best others.

    The answer is '' where config.data.no_answers allows that and its score is above the threshold; 'no_answer' is then how probable none is beside the best
    span alone (a logistic of the difference that the threshold is held against). A `Question` with an id has that in its answer.

    Args:
      config: of the run, complete.
      params: its parameters, nested dict of arrays.
    """

    def __init__(self, config: Config, params: dict[str, Any], tokenizer: Tokenizer, batch_size: int = 32):
        self._config, self._params, self._tokenizer, self._batch_size = config, to_read(config.model, params), tokenizer, batch_size
        module = resolve(config.model.module, 'config.model.module', 'apply')(config.model)

        def apply(params: Any, batch: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
            outputs = module.apply({'params': params}, batch)
            return outputs['start_logits'], outputs['end_logits']

        self._apply = jax.jit(apply)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a table, where question and text stand; () where usual names say so."""
        return tuple(self._config.data.text_columns)

    @property
    def no_answers(self) -> bool:
        """Whether questions may have none."""
        return self._config.data.no_answers

    def check(self, asked: tuple[str, ...] | Question, number: int = 0) -> None:
        """Raises UserError for a pair, the `number`-th, that cannot be answered."""
        del number
        text = (asked.question, asked.context) if isinstance(asked, Question) else asked
        if len(text) != 2:
            raise UserError(f'{len(text)} texts in {" | ".join(text)[:80]!r}; give a question and the text that answers it: --text and --text_b, or with a tab')
        for part, what in zip(text, ('question', 'text')):
            if not part.strip():
                raise UserError(f'the {what} is empty; give a question and the text that answers it')

    def __call__(self, texts: Texts) -> Iterator[dict[str, Any]]:
        data = self._config.data
        for chunk in chunks(texts, TOGETHER * self._batch_size):
            for each in chunk:
                self.check(each)
            asked = [each if isinstance(each, Question) else Question('', '', each[1], each[0], (), '') for each in chunk]
            windows = Windows(asked, self._tokenizer, data.seq_len, data.stride, data.max_question)
            starts, ends = self._logits(windows)
            found = reading.replies(windows, starts, ends, max_answer=data.max_answer, null=data.no_answers, threshold=data.no_answer_threshold)
            for question, reply in zip(asked, found, strict=True):
                best = [{'answer': each.text, 'probability': round(each.probability, 6)} for each in reply.best[:_SHOWN]]
                answer = {'id': question.id} if question.id else {}
                answer |= {'text': question.question, 'answer': reply.text, 'start': reply.start, 'stop': reply.stop, 'best': best}
                # Not rounded: whoever looks for the best threshold goes by its order.
                yield answer | ({'no_answer': float(1 / (1 + np.exp(-np.clip(reply.null_margin, -700, 700))))} if data.no_answers else {})

    def _logits(self, windows: Windows) -> tuple[list[np.ndarray], list[np.ndarray]]:
        found: tuple[dict[int, np.ndarray], ...] = {}, {}
        for rows, filled, width in of_like_length(windows.lengths, self._batch_size, windows.seq_len):
            for kept, logits in zip(found, self._apply(self._params, windows.features(filled, width)), strict=True):
                kept |= zip(rows.tolist(), np.asarray(logits))
        return tuple([kept[row] for row in range(len(windows))] for kept in found)
