"""Answers for texts: words for masks, labels with probabilities, numbers."""

from collections.abc import Iterator
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config, DecodeConfig, Decoding, Positions
from t5x_lite.data.text_rows import TextRows, rows_of, slots_of, texts_of
from t5x_lite.data.tokenizers import Tokenizer
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.evaluation import asking
from t5x_lite.evaluation.batching import SHARED, TOGETHER, Texts, chunks, of_like_length, sharing_rows
from t5x_lite.evaluation.generation import Generator
from t5x_lite.models.heads import SequenceHead
from t5x_lite.models.inference import to_read
from t5x_lite.tasks import few_shot
from t5x_lite.training.step import dummy_batch


class Predictor:
    """`predictor(texts)` yields an answer, a JSON-able dict, for each text or pair of texts; 'cut' in it says how many tokens were read of a longer one.

    Args:
      config: of the run, complete.
      params: its parameters, nested dict of arrays.
      top: words given for a mask.

    Raises:
      UserError: a model without a head; a text without [MASK] for a masked LM, or with one beyond the model's positions; pairs where the run was
        trained on single texts, or the other way round.
    """

    def __init__(self, config: Config, params: dict[str, Any], tokenizer: Tokenizer, top: int = 5, batch_size: int = 32):
        self._params = to_read(config.model, params, few_rows=batch_size == 1)
        self._config, self._tokenizer, self._top, self._batch_size = config, tokenizer, top, batch_size
        module = resolve(config.model.module, 'config.model.module', 'apply')(config.model)

        def logits(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
            return {name: value for name, value in module.apply({'params': params}, batch).items() if name.endswith('logits')}

        self._apply = jax.jit(logits)
        self._shares_rows = batch_size > 1 and isinstance(module, SequenceHead) and getattr(module.body_class(config.model), 'packs', False)
        heads = jax.eval_shape(self._apply, self._params, dummy_batch())
        if not {'logits', 'mlm_logits'} & heads.keys():
            raise UserError(f'{config.model.module} has no head to predict with; fine-tune it, or convert a folder that has one')
        self._fills_masks = 'logits' not in heads
        # Relative positions have no end; masks are filled in what the model was built for.
        most = config.model.max_positions if config.model.positions == Positions.learned else config.data.seq_len
        self._longest = config.model.max_positions if self._fills_masks else min(most, config.data.seq_len)

    @property
    def columns(self) -> tuple[str, ...]:
        """Of a table, where the texts stand; () where the run has learnt from none."""
        return tuple(self._config.data.text_columns)

    def __call__(self, texts: Texts) -> Iterator[dict[str, Any]]:
        for chunk in chunks(texts, TOGETHER * self._batch_size):
            yield from self._answer(chunk)

    def _answer(self, texts: list[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
        for text in texts:
            self.check(text)
        rows = self._rows(texts)
        answers: dict[int, dict[str, Any]] = {}
        for chosen, places, batch in self._batches(rows):
            outputs, some = self._apply(self._params, batch), [texts[row] for row in chosen]
            if self._fills_masks:
                found = self._words(some, [tokens[:length] for tokens, length in zip(batch['tokens'], rows.lengths[chosen])], outputs['mlm_logits'])
            else:
                found = self._labels(some, np.asarray(outputs['logits'])[places])
            answers |= zip(chosen.tolist(), found, strict=True)
        for row, cut in enumerate(rows.cut):
            yield answers[row] | {'cut': self._longest} if cut else answers[row]

    def _batches(self, rows: TextRows) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
        """(texts, which results are theirs, features) until each text has been there."""
        shares = (rows.lengths <= SHARED) & self._shares_rows
        sharing = np.flatnonzero(shares) if shares.sum() > 1 else np.empty(0, np.int64)
        alone = np.setdiff1d(np.arange(len(rows.lengths)), sharing)
        for chosen, filled, width in of_like_length(rows.lengths[alone], self._batch_size, self._longest):
            yield alone[chosen], np.arange(len(chosen)), rows.features(alone[filled], width)
        for packed, width in sharing_rows(rows.lengths[sharing], self._batch_size) if len(sharing) else ():
            packed.members = sharing[packed.members]
            row, slot = slots_of(packed)
            yield packed.members, row * texts_of(width) + slot, rows.packed(packed, width)

    def _rows(self, texts: list[tuple[str, ...]]) -> TextRows:
        return rows_of(texts, self._tokenizer, self._longest, self._config.data.layout)

    def check(self, text: tuple[str, ...], number: int = 0) -> None:
        """Raises UserError for a text, the `number`-th, that cannot be answered."""
        del number  # by which a `TextPredictor` draws demonstrations
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
            return
        ids = [self._tokenizer.encode(part) for part in text]
        masks = sum(part.count(self._tokenizer.mask_id) for part in ids)
        if not masks:
            raise UserError(f'no [MASK] in {shown}; mark the words to fill in, or name a fine-tuned run with --workdir')
        if (self._rows([text]).ids == self._tokenizer.mask_id).sum() < masks:
            most = self._config.model.max_positions
            raise UserError(
                f'a [MASK] in {shown} lies beyond the {most} tokens that the model reads, of {sum(map(len, ids)):,}; shorten the text'
            )

    def _labels(self, texts: list[tuple[str, ...]], logits: np.ndarray) -> Iterator[dict[str, Any]]:
        for text, row in zip(texts, logits):
            if self._config.data.regression:
                yield {'text': ' | '.join(text), 'value': float(row[0])}
                continue
            names = self._config.data.labels or [str(number) for number in range(len(row))]
            if self._config.data.label_separator:
                chances = 1 / (1 + np.exp(-row.astype(np.float64)))
                ranked = sorted(zip(names, chances.tolist()), key=lambda pair: -pair[1])
                labels = [name for name, chance in zip(names, chances) if chance > self._config.data.label_threshold]
                yield {'text': ' | '.join(text), 'labels': labels, 'probabilities': {name: round(p, 6) for name, p in ranked}}
                continue
            weights = np.exp(row - row.max())
            probabilities = weights / weights.sum()
            ranked = sorted(zip(names, probabilities.tolist()), key=lambda pair: -pair[1])
            yield {'text': ' | '.join(text), 'label': ranked[0][0], 'probabilities': {name: round(p, 6) for name, p in ranked}}

    def _words(self, texts: list[tuple[str, ...]], tokens: list[np.ndarray], logits: jax.Array) -> Iterator[dict[str, Any]]:
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


class TextPredictor:
    """Continuations of prompts, answers to inputs, or the order of given continuations; the same protocol as `Predictor`.

    Args:
      choices: continuations to rank by their log-probability; (): text is generated.
      shots: puts demonstrations of a task in front of a text, which is a question of that task; with decode.rank its classes are ranked.
    """

    def __init__(
        self, generator: Generator, decode: DecodeConfig, seed: int, choices: tuple[str, ...] = (), shots: few_shot.FewShot | None = None
    ):
        self._generator, self._decode, self._seed, self._choices, self._shots = generator, decode, seed, choices, shots
        self._ranks = bool(choices) or decode.rank or decode.calibrate

    @property
    def streams(self) -> bool:
        """Whether there is one answer a prompt, which can be shown as it is generated."""
        return not self._ranks and self._decode.method != Decoding.beam and (self._decode.method == Decoding.greedy or self._decode.samples == 1)

    def stream(self, prompt: str) -> Iterator[str]:
        """The prompt, where the answer continues it, then the answer in pieces."""
        self.check((prompt,))  # before anything is shown
        if not self._generator.has_encoder:
            yield prompt
        answer = ''
        for piece in self._generator.stream(self._asked(prompt, 0), self._decode, self._seed):
            answer += piece
            yield piece
        if (whole := filled(prompt, answer)) != prompt:
            yield f'\n{whole}'
        if cut := self._generator.cut(self._asked(prompt, 0), self._decode):
            yield f'\n{_only_read(cut)}'

    def __call__(self, texts: Texts) -> Iterator[dict[str, Any]]:
        number = 0
        for chunk in chunks(texts, self._generator.batch_size):
            for row, text in enumerate(chunk, number):
                self.check(text, row)
            texts_of_chunk = [text for text, in chunk]
            if self._choices:
                yield from self._ranked(texts_of_chunk, number)
            else:
                yield from (self._classes if self._ranks else self._generated)(texts_of_chunk, number)
            number += len(chunk)

    def _asked(self, text: str, number: int) -> str:
        """With the demonstrations of question `number`."""
        return self._shots.prompt({'inputs': text}, number) if self._shots else text

    def check(self, text: tuple[str, ...], number: int = 0) -> None:
        """Raises UserError for a text, the `number`-th, that cannot be answered."""
        if len(text) > 1:
            raise UserError(f'{len(text)} texts in {" | ".join(text)[:80]!r}, and this run takes one at a time; write them as one')
        if not text[0].strip() and self._shots:
            raise UserError('the question is empty; give some text')
        if not self._choices:
            self._generator.check(self._asked(text[0], number), self._decode)

    def _generated(self, prompts: list[str], first: int) -> Iterator[dict[str, Any]]:
        asked = [self._asked(prompt, number) for number, prompt in enumerate(prompts, first)]
        for number, (prompt, answers) in enumerate(zip(prompts, self._generator(asked, self._decode, self._seed, first)), first):
            found = [
                {'text': answer.text, 'log_prob': round(answer.log_prob, 6), 'tokens': len(answer.tokens), 'ended': answer.ended} for answer in answers
            ]
            for answer in found if re.search(_SENTINEL, prompt) else ():
                answer['filled'] = filled(prompt, answer['text'])
            cut = self._generator.cut(self._asked(prompt, number), self._decode)
            yield {'text': prompt, 'answers': found} | ({'cut': cut} if cut else {})

    def _classes(self, prompts: list[str], first: int) -> Iterator[dict[str, Any]]:
        scores = asking.choice_scores(self._generator, self._shots, self._decode, [{'inputs': prompt} for prompt in prompts], first)
        name = 'calibrated' if self._decode.calibrate else 'log_prob'
        for prompt, row in zip(prompts, scores.tolist()):
            ranked = sorted(zip(self._shots.choices, row), key=lambda pair: -pair[1])
            yield {'text': prompt, 'choices': [{'text': text, name: round(score, 6)} for text, score in ranked]}

    def _ranked(self, prompts: list[str], first: int) -> Iterator[dict[str, Any]]:
        count = len(self._choices)
        asked = [self._asked(prompt, number) for number, prompt in enumerate(prompts, first) for _ in range(count)]
        scores = self._generator.score(asked, list(self._choices) * len(prompts))
        for row, prompt in enumerate(prompts):
            ranked = sorted(zip(self._choices, scores[row * count :]), key=lambda pair: -pair[1].log_prob)
            yield {'text': prompt, 'choices': [{'text': text, 'log_prob': round(score.log_prob, 6), 'tokens': score.tokens} for text, score in ranked]}


_SENTINEL = r'<extra_id_\d+>'


def filled(prompt: str, answer: str) -> str:
    """The prompt with its sentinels replaced by the spans that an answer has for them.

    'a <extra_id_0> of <extra_id_1>', '<extra_id_0> list<extra_id_1> names'  ->  'a list of names'
    """
    spans = re.split(f'({_SENTINEL})', answer)
    found = {name: span.strip() for name, span in zip(spans[1::2], spans[2::2])}
    return re.sub(_SENTINEL, lambda sentinel: found[sentinel[0]] if sentinel[0] in found else sentinel[0], prompt)


def show(answer: dict[str, Any]) -> str:
    """An answer in lines for people."""
    lines = [answer['text']]
    if 'answers' in answer:
        lines += [f'  {found["log_prob"]:9.3f}  {found["filled" if "filled" in found else "text"]}' for found in answer['answers']]
        return '\n'.join(lines + ([_only_read(answer['cut'])] if 'cut' in answer else []))
    if 'choices' in answer:
        for found in answer['choices']:
            if 'probability' in found:
                lines.append(f'  {found["probability"]:6.1%}  {found["text"]}')
                continue
            score = found['calibrated'] if 'calibrated' in found else found['log_prob']
            lines.append(f'  {score:9.3f}' + (f'  {found["tokens"]:3d} tokens' if 'tokens' in found else '') + f'  {found["text"]}')
        return '\n'.join(lines)
    if 'best' in answer:
        lines.append(f'  {answer["answer"] or "(no answer)"}')
        lines += [f'  {each["probability"]:6.1%}  {each["answer"] or "(no answer)"}' for each in answer['best']]
    elif 'words' in answer:
        lines += [f'  {word["word"]:<24} {word["tag"]:<12} {word["probability"]:6.1%}' for word in answer['words']]
    elif 'masks' in answer:
        lines.append(f'  {answer["filled"]}')
        for number, mask in enumerate(answer['masks'], 1):
            lines.append(f'  [MASK] {number}: ' + ', '.join(f'{word["token"]} {word["probability"]:.1%}' for word in mask))
    elif 'value' in answer:
        lines.append(f'  {answer["value"]:.4f}')
    else:
        if 'labels' in answer:
            lines.append(f'  {", ".join(answer["labels"]) or "(no label)"}')
        lines += [f'  {name:<24} {p:6.1%}' for name, p in answer['probabilities'].items()]
    if 'cut' in answer:
        lines.append(_only_read(answer['cut']))
    return '\n'.join(lines)


def _only_read(tokens: int) -> str:
    return f'  (of this text only {tokens:,} tokens were read)'
