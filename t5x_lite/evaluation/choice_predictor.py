"""The right one of some choices, for questions."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from t5x_lite.config import Config, Positions
from t5x_lite.data.choices import ChoiceRows
from t5x_lite.data.tokenizers import Tokenizer
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.evaluation.batching import TOGETHER, Texts, chunks, of_like_length
from t5x_lite.models.inference import to_read


class ChoicePredictor:
    """`predictor(texts)` yields for each question the choice that is likeliest, and all of them with their probabilities, best first.

    A text is a question (or the two texts that the run was trained with) and, behind it, its choices; with `choices` the question alone.

    Args:
      config: of the run, complete.
      params: its parameters, nested dict of arrays.
      choices: of every question; (): each brings its own.
    """

    def __init__(self, config: Config, params: dict[str, Any], tokenizer: Tokenizer, choices: tuple[str, ...] = (), batch_size: int = 32):
        self._config, self._params, self._tokenizer, self._given, self._batch_size = config, to_read(config.model, params), tokenizer, choices, batch_size
        if len(choices) == 1:
            raise UserError(f'--choices={choices[0]}: one choice; give two or more, separated by |')
        self._texts = len(config.data.text_columns) or 1
        most = config.model.max_positions if config.model.positions == Positions.learned else config.data.seq_len
        self._longest = min(most, config.data.seq_len)
        module = resolve(config.model.module, 'config.model.module', 'apply')(config.model)
        self._apply = jax.jit(lambda params, batch: module.apply({'params': params}, batch)['logits'])

    @property
    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Of a table, where the question and its choices stand; no choices where they are given, nothing where the run has learnt from no table."""
        return tuple(self._config.data.text_columns), () if self._given else tuple(self._config.data.choice_columns)

    @property
    def brings_choices(self) -> bool:
        """Whether each question has its own."""
        return not self._given

    def check(self, text: tuple[str, ...], number: int = 0) -> None:
        """Raises UserError for a text, the `number`-th, that cannot be answered."""
        del number
        shown, needed = repr(' | '.join(text)[:80]), self._texts
        question = 'a question' if needed == 1 else 'two texts of a question (--text and --text_b)'
        if self._given and len(text) != needed:
            raise UserError(f'{len(text)} texts in {shown}; give {question}, whose choices --choices names')
        if not self._given and len(text) < needed + 2:
            raise UserError(f'{len(text)} texts in {shown}; give {question} and its choices: --choices="this|that", or behind tabs in an --input')
        if not all(part.strip() for part in text):
            raise UserError(f'an empty text in {shown}; give {question} and two or more choices')

    def __call__(self, texts: Texts) -> Iterator[dict[str, Any]]:
        for chunk in chunks(texts, TOGETHER * self._batch_size):
            for text in chunk:
                self.check(text)
            yield from self._answer([(text[: self._texts], self._given or text[self._texts :]) for text in chunk])

    def _answer(self, questions: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> Iterator[dict[str, Any]]:
        # Shapes that are met often are compiled once: as many questions as a batch holds, a power of two of choices.
        most = 1 << (max(len(choices) for _, choices in questions) - 1).bit_length()
        filled = [(texts, (*choices, *[None] * (most - len(choices)))) for texts, choices in questions]
        rows = ChoiceRows(self._tokenizer, filled, self._longest, self._config.data.layout)
        logits: dict[int, np.ndarray] = {}
        for chosen, some, width in of_like_length(rows.lengths, self._batch_size, self._longest):
            logits |= zip(chosen.tolist(), np.asarray(self._apply(self._params, rows.features(some, width)), np.float64))
        for number, (texts, choices) in enumerate(questions):
            row = logits[number]
            weights = np.exp(row[: len(choices)] - row[: len(choices)].max())
            ranked = sorted(zip(choices, (weights / weights.sum()).tolist()), key=lambda pair: -pair[1])
            found = [{'text': choice, 'probability': round(chance, 6)} for choice, chance in ranked]
            yield {'text': ' | '.join(texts), 'choice': ranked[0][0], 'choices': found}
