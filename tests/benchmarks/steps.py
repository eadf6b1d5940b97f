"""Training steps of configs on batches of random tokens, compiled for one device as `t5x_lite.train` compiles them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from t5x_lite.config import Config
from t5x_lite.training import partitioning
from t5x_lite.training.step import Program, make_program, make_train_step


def make_batch(rows: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    """A batch as MlmNsp gives it, of random pieces."""
    draw, most = np.random.default_rng(0), min(20, -(-length * 15 // 100))
    lengths = np.where(np.arange(rows) % 8 == 7, length // 2, length)
    real = np.arange(length) < lengths[:, None]
    tokens = np.where(real, draw.integers(1000, vocabulary, (rows, length)), 0)
    places, used = np.zeros((rows, most), np.int32), np.arange(most) < np.round(0.15 * lengths)[:, None]
    for row, count in enumerate(used.sum(1)):
        places[row, :count] = np.sort(draw.choice(np.arange(1, lengths[row]), count, replace=False))
    return {
        'tokens': tokens.astype(np.int32),
        'token_types': (real & (np.arange(length) >= lengths[:, None] // 2)).astype(np.int32),
        'sequence_ids': real.astype(np.int32),
        'masked_positions': places,
        'masked_targets': np.where(used, draw.integers(1000, vocabulary, (rows, most)), 0).astype(np.int32),
        'masked_weights': used.astype(np.float32),
        'next_sentence_labels': draw.integers(0, 2, rows).astype(np.int32),
        'example_weights': np.ones(rows, np.float32),
    }


def packed_batch(rows: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    """As PackedMlm gives it: sequences of 32 to 320 tokens end to end, as many as a row takes, and padding behind them; 15 % are masked."""
    draw, most = np.random.default_rng(0), -(-length * 15 // 100)
    ids, positions = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.int32)
    for row in range(rows):
        filled, number = 0, 1
        while filled < length - 8:
            size = min(int(draw.integers(32, 321)), length)
            if size > length - filled:
                break
            ids[row, filled : filled + size], positions[row, filled : filled + size] = number, np.arange(size)
            filled, number = filled + size, number + 1
    tokens = np.where(ids > 0, draw.integers(1000, vocabulary, (rows, length)), 0).astype(np.int32)
    places, used = np.zeros((rows, most), np.int32), np.arange(most) < np.round(0.15 * (ids > 0).sum(1))[:, None]
    for row, count in enumerate(used.sum(1)):
        places[row, :count] = np.sort(draw.choice(np.flatnonzero(ids[row]), count, replace=False))
    return {
        'tokens': tokens,
        'token_types': np.zeros_like(tokens),
        'sequence_ids': ids,
        'positions': positions,
        'masked_positions': places,
        'masked_targets': np.where(used, draw.integers(1000, vocabulary, (rows, most)), 0).astype(np.int32),
        'masked_weights': used.astype(np.float32),
    }


def causal_batch(rows: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Full rows, as CausalLm gives them."""
    tokens = np.random.default_rng(0).integers(1, vocabulary, (rows, length + 1)).astype(np.int32)
    places = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    ones = np.ones((rows, length), np.int32)
    return {'tokens': tokens[:, :-1], 'targets': tokens[:, 1:], 'positions': places.copy(), 'sequence_ids': ones, 'target_weights': ones.astype(np.float32)}


def pair_batch(rows: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    """As SpanCorruption gives it: targets are some 22 % of the inputs; one row in eight is half padding."""
    draw, targets = np.random.default_rng(0), round(length * 114 / 512)
    batch = {}
    for name, size in (('tokens', length), ('targets', targets)):
        real = np.arange(size) < np.where(np.arange(rows) % 8 == 7, size // 2, size)[:, None]
        batch[name] = np.where(real, draw.integers(2, vocabulary, (rows, size)), 0).astype(np.int32)
    real = batch['targets'] > 0
    shifted = np.where(real, np.roll(batch['targets'], 1, 1), 0)
    shifted[:, 0] = 0
    return batch | {
        'sequence_ids': (batch['tokens'] > 0).astype(np.int32),
        'decoder_tokens': shifted.astype(np.int32),
        'decoder_sequence_ids': real.astype(np.int32),
        'target_weights': real.astype(np.float32),
    }


def compiled(config: Config, batch: dict[str, np.ndarray]) -> tuple[Program, Any]:
    """(program, step) of a config that is complete; nothing has been computed."""
    program = make_program(config, partitioning.make_mesh(config, jax.devices()[:1]))
    with jax.set_mesh(program.mesh):
        return program, jax.jit(make_train_step(program), donate_argnums=0).lower(program.abstract, batch).compile()


def running(program: Program, step: Any, *batches: dict[str, np.ndarray]) -> Callable[[], None]:
    """A function that takes a step on each of the batches, and waits for the last."""
    with jax.set_mesh(program.mesh):
        held = [program.init()]

    def run() -> None:
        for batch in batches:
            held[0], metrics = step(held[0], batch)
        jax.block_until_ready((held[0], metrics))

    return run
