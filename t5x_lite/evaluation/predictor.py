"""Answers for texts: words for masks, labels with probabilities, numbers."""

from collections.abc import Iterable, Iterator
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config, UserError, resolve
from t5x_lite.data.tables import encode_texts
from t5x_lite.data.tokenizers import Tokenizer
from t5x_lite.training.step import dummy_batch

_WIDTHS = (16, 32, 64, 128, 256, 512, 1024)  # of batches, so that few shapes are compiled


class Predictor:
    """`predictor(texts)` yields an answer, a JSON-able dict, for each text or pair of texts.

    Args:
      config: of the run, complete.
      params: its parameters, nested dict of arrays.
      top: words given for a mask.

    Raises:
      UserError: a model without a head; a text without [MASK] for a masked LM, or with one beyond the model's positions; pairs where the run was
        trained on single texts, or the other way round.
    """

    def __init__(self, config: Config, params: dict[str, Any], tokenizer: Tokenizer, top: int = 5, batch_size: int = 32):
        self._config, self._params, self._tokenizer, self._top, self._batch_size = config, params, tokenizer, top, batch_size
        module = resolve(config.model.module, 'config.model.module', 'apply')(config.model)
        self._apply = jax.jit(
            lambda params, batch: {k: v for k, v in module.apply({'params': params}, batch).items() if k.endswith('logits')}
        )
        heads = jax.eval_shape(self._apply, params, dummy_batch())
        if not {'logits', 'mlm_logits'} & heads.keys():
            raise UserError(f'{config.model.module} has no head to predict with; fine-tune it, or convert a folder that has one')
        self._fills_masks = 'logits' not in heads

    def __call__(self, texts: Iterable[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
        texts = iter(texts)
        while chunk := list(itertools.islice(texts, self._batch_size)):
            yield from self._answer(chunk)

    def _answer(self, texts: list[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
        self._check(texts)
        limit = self._config.model.max_positions
        batch = encode_texts(texts, self._tokenizer, limit if self._fills_masks else min(limit, self._config.data.seq_len))
        width = next((size for size in _WIDTHS if size >= batch['tokens'].shape[1]), limit)
        size = self._batch_size if len(texts) > 1 else 1
        shape = (size, min(width, limit))
        padded = {name: np.pad(value, [(0, want - have) for want, have in zip(shape, value.shape)]) for name, value in batch.items()}
        outputs = self._apply(self._params, padded)
        if self._fills_masks:
            yield from self._words(texts, batch['tokens'], outputs['mlm_logits'])
        else:
            yield from self._labels(texts, np.asarray(outputs['logits'])[: len(texts)])

    def _check(self, texts: list[tuple[str, ...]]) -> None:
        for text in texts:
            shown, columns = repr(' | '.join(text)[:80]), self._config.data.text_columns
            if len(text) > 2:
                raise UserError(f'{len(text)} texts in {shown}; give one, or two separated by a tab')
            if columns and len(text) != len(columns):
                takes = (
                    'a pair of texts; give --text and --text_b, or two separated by a tab',
                    'one text at a time; leave the second out',
                )[len(columns) == 1]
                raise UserError(f'{len(text)} text{"s" * (len(text) > 1)} in {shown}, and this run takes {takes}')
            if not self._fills_masks:
                continue
            ids = [self._tokenizer.encode(part) for part in text]
            masks = sum(part.count(self._tokenizer.mask_id) for part in ids)
            if not masks:
                raise UserError(f'no [MASK] in {shown}; mark the words to fill in, or name a fine-tuned run with --workdir')
            read = encode_texts([text], self._tokenizer, self._config.model.max_positions)['tokens']
            if (read == self._tokenizer.mask_id).sum() < masks:
                most = self._config.model.max_positions
                raise UserError(
                    f'a [MASK] in {shown} lies beyond the {most} tokens that the model reads, of {sum(map(len, ids)):,}; shorten the text'
                )

    def _labels(self, texts: list[tuple[str, ...]], logits: np.ndarray) -> Iterator[dict[str, Any]]:
        for text, row in zip(texts, logits):
            if self._config.data.regression:
                yield {'text': ' | '.join(text), 'value': float(row[0])}
                continue
            weights = np.exp(row - row.max())
            probabilities = weights / weights.sum()
            names = self._config.data.labels or [str(number) for number in range(len(row))]
            ranked = sorted(zip(names, probabilities.tolist()), key=lambda pair: -pair[1])
            yield {'text': ' | '.join(text), 'label': ranked[0][0], 'probabilities': {name: round(p, 6) for name, p in ranked}}

    def _words(self, texts: list[tuple[str, ...]], tokens: np.ndarray, logits: jax.Array) -> Iterator[dict[str, Any]]:
        for row, text in enumerate(texts):
            places = np.flatnonzero(tokens[row] == self._tokenizer.mask_id)
            probabilities = np.asarray(jax.nn.softmax(logits[row, places, : self._config.model.vocab_size].astype(jnp.float32), axis=-1))
            masks = []
            for p in probabilities:
                best = np.argsort(-p)[: self._top]
                masks.append([{'token': self._tokenizer.token(int(number)), 'probability': round(float(p[number]), 6)} for number in best])
            filled = tokens[row].copy()
            filled[places] = probabilities.argmax(axis=-1)
            yield {'text': ' | '.join(text), 'filled': self._tokenizer.decode([int(number) for number in filled]), 'masks': masks}


def show(answer: dict[str, Any]) -> str:
    """An answer in lines for people."""
    lines = [answer['text']]
    if 'masks' in answer:
        lines.append(f'  {answer["filled"]}')
        for number, mask in enumerate(answer['masks'], 1):
            lines.append(f'  [MASK] {number}: ' + ', '.join(f'{word["token"]} {word["probability"]:.1%}' for word in mask))
    elif 'value' in answer:
        lines.append(f'  {answer["value"]:.4f}')
    else:
        lines += [f'  {name:<24} {p:6.1%}' for name, p in answer['probabilities'].items()]
    return '\n'.join(lines)
