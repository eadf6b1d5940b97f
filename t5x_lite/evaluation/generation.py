"""Text from language models: one decoding for decoders and encoder-decoders, with a cache that is filled in one pass and as long as it must be."""

import bisect
from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config, DecodeConfig, Decoding, Layout, Positions
from t5x_lite.data.tokenizers import Tokenizer
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.evaluation import search
from t5x_lite.models.attention import Cache
from t5x_lite.models.placing import placed_by
from t5x_lite.models.inference import to_read
from t5x_lite.training import processes

_WIDTHS = (8, 16, 32, 64, 128, 256, 512)  # of prompts, so that few shapes are compiled; then multiples of 512
_LOOK_EVERY = 16  # tokens between looks for stop texts
_USUAL_LENGTH = 128  # of an answer where the config does not say


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was generated for a prompt.

    Attributes:
      text: without special tokens, ending before the first stop text.
      tokens: as generated, the end token included.
      log_prob: sum over `tokens`, in nats, in the model's own distribution.
      score: by which beams are ranked; `log_prob` for other methods.
      ended: whether it ended by itself, by an end token or a stop text.
    """

    text: str
    tokens: tuple[int, ...]
    log_prob: float
    score: float
    ended: bool


@dataclasses.dataclass(frozen=True)
class Scored:
    """A given continuation: the sum of its tokens' log-probabilities in nats, and how many there are."""

    log_prob: float
    tokens: int


class Generator:
    """Continues prompts (decoders) or answers inputs (encoder-decoders), and scores given continuations.

    Args:
      config: of the run, complete.
      params: its parameters, already on `mesh` where there is one; they may be set anew, as attribute, while a model learns.
      mesh: the cache is sharded on it as the model is.

    Raises:
      UserError: the model is no language model.
    """

    def __init__(self, config: Config, params: Any, tokenizer: Tokenizer, mesh: Mesh | None = None, batch_size: int = 8):
        self.module = resolve(config.model.module, 'config.model.module', 'apply')(config.model)
        if not hasattr(self.module, 'decode'):
            raise UserError(f'{config.model.module} cannot generate text; name a run of a decoder or an encoder-decoder')
        self.config, self.tokenizer, self.mesh, self.batch_size = config, tokenizer, mesh, batch_size
        self.params = params
        self.has_encoder = self.module.layout == Layout.encoder_decoder
        source = resolve(config.data.source, 'config.data.source', 'get') if config.data.source else None
        # As the data that it learnt from were laid out: text-to-text tasks and denoising end their inputs, and a decoder reads them from both sides.
        self._ends_inputs = getattr(source, 'ends_inputs', self.has_encoder)
        self._prefix = not self.has_encoder and getattr(source, 'reads_inputs', False)
        # A decoder that learnt documents one by one expects their beginning; one that learnt windows of a stream, or elsewhere, does not.
        self._starts = not self.has_encoder and source is not None and (self._prefix or not config.data.concatenate)
        self._compiled: dict[Any, Any] = {}

    @property
    def params(self) -> Any:
        return self._params

    @params.setter
    def params(self, params: Any) -> None:
        alone = self.mesh is None or self.mesh.size == 1
        self._params, self._read = params, to_read(self.config.model, params, few_rows=True) if params is not None and alone else params

    def __call__(self, prompts: Sequence[str], decode: DecodeConfig, seed: int = 0, first: int = 0) -> list[list[Answer]]:
        """Of each prompt `decode.samples` answers, or `decode.beams` of them for beam search, the best first.

        Args:
          first: the number of the first prompt; prompt i draws by (seed, i).

        Raises:
          UserError: a prompt that is empty, or that the model's positions do not hold.
        """
        ids = [self._asked(prompt, decode) for prompt in prompts]
        limits = [self._limit(row, decode) for row in ids]
        stops = self._stop_ids(decode)
        answers: list[list[Answer]] = [[] for _ in ids]
        for start in range(0, len(ids), self.batch_size):
            chunk = range(start, min(len(ids), start + self.batch_size))
            if decode.method == Decoding.beam:
                for limit in sorted({limits[row] for row in chunk}):  # beams of a row end together
                    rows = [row for row in chunk if limits[row] == limit]
                    for row, found in zip(rows, self._beams(self._filled([ids[row] for row in rows]), decode, stops, limit)):
                        answers[row] = found
                continue
            some, most = self._filled([ids[row] for row in chunk]), self._filled([limits[row] for row in chunk])
            for sample in range(decode.samples if decode.method == Decoding.sample else 1):
                for last in self._extended(some, decode, stops, most, seed, first + start, sample, _LOOK_EVERY if decode.stop else max(most)):
                    pass
                for row, (tokens, log_probs) in zip(chunk, last):
                    answers[row].append(self._answer(tokens, log_probs, decode))
        if decode.method == Decoding.beam:
            return answers  # those that have not ended stand behind the others, whatever their score
        return [sorted(found, key=lambda answer: -answer.score) for found in answers]

    def check(self, prompt: str, decode: DecodeConfig) -> None:
        """Raises UserError for a prompt that `__call__` would refuse."""
        self._limit(self._asked(prompt, decode), decode)

    def cut(self, prompt: str, decode: DecodeConfig) -> int:
        """How many tokens are read of a prompt that is too long; 0: all."""
        ids = self._asked(prompt, decode)
        return len(ids) if len(ids) < len(self._ids(prompt)) else 0

    def _filled(self, rows: list) -> list:
        """Rows of a batch of the usual size, so that few shapes are compiled."""
        return rows + rows[:1] * (self._rows(len(rows)) - len(rows))

    def stream(self, prompt: str, decode: DecodeConfig, seed: int = 0) -> Iterator[str]:
        """The answer to one prompt in pieces, as it is generated; greedy and sampling only."""
        ids = [self._asked(prompt, decode)]
        shown = ''
        for rows in self._extended(ids, decode, self._stop_ids(decode), [self._limit(ids[0], decode)], seed, 0, 0, 1):
            answer = self._answer(*rows[0], decode)
            # Half of a character, and what may become a stop text, wait.
            held = max((n for stop in decode.stop for n in range(1, len(stop)) if answer.text.endswith(stop[:n])), default=0) if not answer.ended else 0
            ready = answer.text[: len(answer.text) - held]
            if ready.startswith(shown) and not ready.endswith('\ufffd'):
                yield ready[len(shown) :]
                shown = ready
        yield answer.text[len(shown) :]

    def score(self, prompts: Sequence[str], continuations: Sequence[str], *, ended: bool | None = None) -> list[Scored]:
        """Log-probabilities of each continuation after its prompt, which may be empty where the model has a beginning token.

        Args:
          ended: whether the end token counts too; by default where the model learnt answers, not continuations.
        """
        ended = self._ends_inputs if ended is None else ended
        rows = []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            targets = self.tokenizer.encode(continuation) + [self.tokenizer.end_id] * ended
            given = self._ids(prompt, may_be_empty=True)
            if not targets:
                raise UserError(f'nothing to score after {prompt[-60:]!r}: the continuation is empty')
            self._check_positions(len(targets) if self.has_encoder else len(given) + len(targets), f'{prompt[:40]!r} with {continuation[:40]!r}')
            rows.append((given, targets))
        found: list[Scored] = []
        for first in range(0, len(rows), self.batch_size):
            chunk = rows[first : first + self.batch_size]
            filled = chunk + [chunk[0]] * (self._rows(len(chunk)) - len(chunk))
            batch = self._teacher_forced(filled)
            log_probs = processes.fetched(self._jit('score', self._target_log_probs)(self._read, batch))
            found += [Scored(float(log_probs[row].sum()), len(targets)) for row, (_, targets) in enumerate(chunk)]
        return found

    # From texts to ids.

    def _ids(self, prompt: str, may_be_empty: bool = False) -> list[int]:
        ids = self.tokenizer.encode(prompt)
        if not ids and not may_be_empty:
            raise UserError('the prompt is empty; give some text to begin with')
        if self._ends_inputs:
            ids = ids + [self.tokenizer.end_id]
        if self._starts:
            ids = [self.tokenizer.start_id] + ids
        if not ids:
            raise UserError('the prompt is empty, and this model has no token to begin with; give some text')
        return ids

    def _asked(self, prompt: str, decode: DecodeConfig) -> list[int]:
        """As the model reads it: of a run that learnt with config.data.tasks.keep_end the end, where the answer would have no room."""
        ids, most = self._ids(prompt), self.config.model.max_positions
        if self.has_encoder or not self.config.data.tasks.keep_end or self.config.model.positions != Positions.learned:
            return ids
        room = most - (decode.max_new_tokens or min(_USUAL_LENGTH, most // 2))
        return ids if room < 2 or len(ids) <= room else ids[: self._starts] + ids[len(ids) - room + self._starts :]

    def _stop_ids(self, decode: DecodeConfig) -> tuple[int, ...]:
        ids = {self.tokenizer.end_id} | {i for stop in decode.stop for i in self.tokenizer.special_ids if self.tokenizer.token(i) == stop}
        return tuple(sorted(i for i in ids if i is not None))

    def _limit(self, ids: list[int], decode: DecodeConfig) -> int:
        """Tokens to generate after a prompt, or UserError where the positions do not hold them."""
        usual = (self.has_encoder and self.config.data.target_len) or _USUAL_LENGTH
        if self.config.model.positions != Positions.learned:
            return decode.max_new_tokens or usual
        length = 1 if self.has_encoder else len(ids)
        room = self.config.model.max_positions - length
        if room < 1:
            raise UserError(f'a prompt of {length:,} tokens leaves nothing of the {self.config.model.max_positions:,} positions of the model; shorten it')
        if decode.max_new_tokens > room:
            raise UserError(
                f'config.decode.max_new_tokens={decode.max_new_tokens} after a prompt of {length:,} tokens needs more than the '
                f'{self.config.model.max_positions:,} positions of the model; give at most {room}, or 0 for as many as fit'
            )
        return decode.max_new_tokens or min(usual, room)

    def _check_positions(self, length: int, shown: str) -> None:
        if self.config.model.positions == Positions.learned and length > self.config.model.max_positions:
            raise UserError(f'{shown} has {length:,} tokens, more than the {self.config.model.max_positions:,} positions of the model; shorten it')

    def _rows(self, wanted: int) -> int:
        shards = 1 if self.mesh is None else self.mesh.shape['data'] * self.mesh.shape['fsdp']
        return -(-(self.batch_size if wanted > 1 else 1) // shards) * shards

    # Passes of the model.

    def _jit(self, name: Any, function: Any) -> Any:
        """Compiled once for each name, to be called inside the mesh and with the logical axes of the config."""
        if name not in self._compiled:
            self._compiled[name] = jax.jit(function)

        def call(*args):
            with contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh), placed_by(self.config.mesh):
                return self._compiled[name](*args)

        return call

    def _prompts(self, ids: list[list[int]], steps: int) -> dict[str, np.ndarray]:
        """Rows as a first pass reads them. A decoder's prompts end together, with padding on the left, so that all rows grow in the same place."""
        longest = max(map(len, ids))
        width = next((size for size in _WIDTHS if size >= longest), -(-longest // 512) * 512)
        if self.has_encoder:
            tokens = np.array([row + [self.tokenizer.pad_id or 0] * (width - len(row)) for row in ids], np.int32)
            present = np.array([[1] * len(row) + [0] * (width - len(row)) for row in ids], np.int32)
            start = np.full((len(ids), 1), self.tokenizer.start_id, np.int32)
            return {'tokens': tokens, 'sequence_ids': present, 'first': start, 'keys': np.ones((len(ids), 1 + steps), bool)}
        skipped = np.array([width - len(row) for row in ids])
        tokens = np.array([[self.tokenizer.pad_id or 0] * (width - len(row)) + row for row in ids], np.int32)
        keys = np.arange(width + steps)[None] >= skipped[:, None]
        return {'first': tokens, 'keys': keys, 'skipped': skipped.astype(np.int32)}

    def _fill(self, params: Any, rows: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
        """The first pass: logits after each prompt, and the state that `_step` goes on with."""
        first, keys = rows['first'], rows['keys']
        variables, memory = {'params': params}, {}
        if self.has_encoder:
            encoded = self.module.apply(variables, {name: rows[name] for name in ('tokens', 'sequence_ids')}, method='encode')
            memory = {'memory_BMD': encoded, 'memory_keys_BM': rows['sequence_ids'] > 0}
            skipped = jnp.zeros(len(first), jnp.int32)
        else:
            skipped = rows['skipped']
            if self._prefix:
                memory = {'prefix_BM': jnp.broadcast_to(jnp.arange(keys.shape[1])[None] < first.shape[1], keys.shape)}
        positions = jnp.maximum(jnp.arange(first.shape[1], dtype=jnp.int32)[None] - skipped[:, None], 0)
        cache = Cache(jnp.int32(0), keys.shape[1], filling=True)
        logits, kept = self.module.apply(variables, first, positions, keys, cache, **memory, method='decode', mutable=['cache'])
        memory.pop('memory_BMD', None)
        state = {'cache': kept['cache'], 'rows': {'keys': keys, 'skipped': skipped, **memory}, 'place': jnp.int32(first.shape[1])}
        return logits[:, -1], state

    def _step(self, params: Any, state: Any, tokens_B: jax.Array) -> tuple[jax.Array, Any]:
        rows = dict(state['rows'])
        keys, skipped = rows.pop('keys'), rows.pop('skipped')
        cache = Cache(state['place'], keys.shape[1], filling=False)
        # A row that is done goes on beside longer ones, and could leave the positions there are.
        positions = jnp.minimum(state['place'] - skipped, self.config.model.max_positions - 1)[:, None]
        variables = {'params': params, 'cache': state['cache']}
        logits, kept = self.module.apply(variables, tokens_B[:, None], positions, keys, cache, **rows, method='decode', mutable=['cache'])
        return logits[:, 0], state | {'cache': kept['cache'], 'place': state['place'] + 1}

    def _begun(self, params: Any, rows: dict[str, jax.Array], steps: int, remember: bool) -> search.Answers:
        logits, state = self._fill(params, rows)
        seen = self._seen(rows, logits.shape[-1]) if remember else None
        return search.begin(logits, state, steps, self.tokenizer.pad_id or 0, seen)

    def _seen(self, rows: dict[str, jax.Array], vocabulary: int) -> jax.Array:
        first, count = rows['first'], rows['first'].shape[0]
        ids = jnp.where(rows['keys'][:, : first.shape[1]], first, vocabulary)  # padding falls outside
        return jnp.zeros((count, vocabulary), bool).at[jnp.arange(count)[:, None], ids].set(True, mode='drop')

    def _extended(
        self, ids: list[list[int]], decode: DecodeConfig, stops: tuple[int, ...], limits: list[int], seed: int, first: int, sample: int, every: int
    ) -> Iterator[list[tuple[list[int], np.ndarray]]]:
        """The (tokens, log-probabilities) of all rows, again after each `every` tokens until all rows are done, each at its limit at the latest."""
        steps = max(limits)
        rows = self._prompts(ids, steps)
        drawn = (decode.method, decode.temperature, decode.top_k, decode.top_p, decode.min_p, decode.repetition_penalty)
        remember = decode.repetition_penalty != 1.0
        begin = self._jit(('begin', steps, remember), functools.partial(self._begun, steps=steps, remember=remember))

        def extend(params, answers, keys, until, most):
            return search.extend(functools.partial(self._step, params), answers, decode, keys, stops, until, most)

        extend = self._jit(('extend', drawn, stops), extend)
        root = jax.random.fold_in(jax.random.key(seed), sample)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(root, first + jnp.arange(len(ids)))
        answers = begin(self._read, rows)
        done = np.zeros(len(ids), bool)
        until = 0
        while until < steps and not done.all():
            until = min(steps, until + every)
            answers = extend(self._read, answers, keys, jnp.int32(until), np.asarray(limits, np.int32))
            tokens, log_probs, done = processes.fetched((answers.tokens_BT, answers.log_probs_BT, answers.done_B))
            found = [self._until_end(tokens[row][: min(until, limits[row])], log_probs[row], stops, decode) for row in range(len(ids))]
            if decode.stop:
                done = done | np.array([self._cut(self._text(part), decode)[1] for part, _ in found])
                answers = answers.replace(done_B=processes.everywhere(done, self.mesh))
            yield found

    def _until_end(self, tokens: np.ndarray, log_probs: np.ndarray, stops: tuple[int, ...], decode: DecodeConfig) -> tuple[list[int], np.ndarray]:
        """Up to an end token, or to the token that completes a stop text."""
        ends = np.flatnonzero(np.isin(tokens, stops))
        length = int(ends[0]) + 1 if len(ends) else len(tokens)
        ids = tokens[:length].tolist()
        if decode.stop and self._cut(self._text(ids), decode)[1]:
            length = bisect.bisect_left(range(1, length + 1), True, key=lambda n: self._cut(self._text(ids[:n]), decode)[1]) + 1
        return ids[:length], log_probs[:length]

    def _beams(self, ids: list[list[int]], decode: DecodeConfig, stops: tuple[int, ...], steps: int) -> list[list[Answer]]:
        remember = decode.repetition_penalty != 1.0

        def run(params, rows):
            logits, state = self._fill(params, rows)
            seen = self._seen(rows, logits.shape[-1]) if remember else None
            return search.beam_search(functools.partial(self._step, params), _reorder, logits, state, decode, stops, steps, self.tokenizer.pad_id or 0, seen)

        name = ('beams', decode.beams, decode.length_penalty, decode.beam_score, decode.early_stopping, decode.repetition_penalty, stops, steps)
        tokens, scores, sums = processes.fetched(self._jit(name, run)(self._read, self._prompts(ids, steps)))
        answers = []
        for row in range(len(ids)):
            found = []
            for beam in np.flatnonzero(scores[row] > search.TAKEN).tolist():
                part, _ = self._until_end(tokens[row, beam], np.zeros(steps), stops, decode)
                text, stopped = self._cut(self._text(part), decode)
                total, score = float(sums[row, beam]), float(scores[row, beam])
                if stopped:  # what followed the stop text is no part of the answer
                    again = self._teacher_forced(self._filled([(ids[row], part)]))
                    total = float(processes.fetched(self._jit('score', self._target_log_probs)(self._read, again))[0].sum())
                    score = total / float(search.length_penalty(len(part), decode.length_penalty, decode.beam_score))
                found.append(Answer(text, tuple(part), total, score, stopped or part[-1] in stops))
            answers.append(found)
        return answers

    def _answer(self, tokens: list[int], log_probs: np.ndarray, decode: DecodeConfig) -> Answer:
        text, stopped = self._cut(self._text(tokens), decode)
        total = float(log_probs.sum())
        return Answer(text, tuple(tokens), total, total, stopped or bool(tokens) and tokens[-1] in self._stop_ids(decode))

    def _text(self, tokens: Sequence[int]) -> str:
        """Without special tokens; sentinels, which tell spans apart, stay."""
        tokenizer = self.tokenizer
        return tokenizer.decode([t for t in tokens if t not in tokenizer.special_ids or t in tokenizer.sentinel_ids], skip_special=False)

    @staticmethod
    def _cut(text: str, decode: DecodeConfig) -> tuple[str, bool]:
        """The text before the first stop, and whether there is one."""
        places = [place for stop in decode.stop if (place := text.find(stop)) >= 0]
        return (text[: min(places)], True) if places else (text, False)

    # Scores of given continuations.

    def _teacher_forced(self, rows: list[tuple[list[int], list[int]]]) -> dict[str, np.ndarray]:
        def padded(parts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
            longest = max(map(len, parts))
            width = next((size for size in _WIDTHS if size >= longest), -(-longest // 512) * 512)
            if self.config.model.positions == Positions.learned:
                width = min(width, self.config.model.max_positions)
            values = np.array([part + [0] * (width - len(part)) for part in parts], np.int32)
            return values, np.array([[1] * len(part) + [0] * (width - len(part)) for part in parts], np.int32)

        if self.has_encoder:
            tokens, present = padded([given for given, _ in rows])
            targets, counted = padded([targets for _, targets in rows])
            shifted, _ = padded([[self.tokenizer.start_id, *targets[:-1]] for _, targets in rows])
            decoder = {'decoder_tokens': shifted, 'decoder_sequence_ids': counted, 'targets': targets, 'target_weights': counted.astype(np.float32)}
            return {'tokens': tokens, 'sequence_ids': present} | decoder
        tokens, present = padded([given + targets[:-1] for given, targets in rows])
        targets, _ = padded([given[1:] + targets for given, targets in rows])
        columns, begins = np.arange(tokens.shape[1]), np.array([len(given) - 1 for given, _ in rows])[:, None]
        counted = (columns >= begins) & (present > 0)
        batch = {'tokens': tokens, 'sequence_ids': present, 'targets': targets, 'target_weights': counted.astype(np.float32)}
        return batch | ({'prefix': (columns <= begins).astype(np.int32)} if self._prefix else {})

    def _target_log_probs(self, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        logits = self.module.apply({'params': params}, batch)['lm_logits']
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch['targets'][:, :, None], axis=-1)[:, :, 0]
        return picked * batch['target_weights']


def _reorder(state: Any, rows: jax.Array) -> Any:
    """Of a state of `_fill`; a cache's arrays are [N, B, M, H, K], or [B, M, H, K] of a layer."""
    cache = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=leaf.ndim - 4), state['cache'])
    return state | {'cache': cache, 'rows': jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), state['rows'])}
