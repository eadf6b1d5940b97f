"""A BERT small enough to step in milliseconds, and batches for it."""

import dataclasses

import jax
import numpy as np

from t5x_lite.checks import finalize
from t5x_lite.config import Config, DataConfig, MeshConfig, ModelConfig, OptimConfig
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program, make_train_step

VOCAB, ROWS, LENGTH, PREDICTIONS = 100, 16, 16, 3


def config(*, model=None, optim=None, mesh=None, **fields) -> Config:
    sizes = {'vocab_size': VOCAB, 'num_layers': 2, 'd_model': 32, 'num_heads': 8, 'd_ff': 64, 'max_positions': LENGTH}
    base = {'steps': 100, 'batch_size': ROWS, 'loss': 'bert_flax.losses:MlmNspLoss'} | fields
    return finalize(
        Config(
            model=ModelConfig(**({'module': 'bert_flax.bert:BertForPreTraining'} | sizes | (model or {}))),
            data=DataConfig(seq_len=LENGTH),
            # Adam divides a gradient by its own size. Some are zero but for rounding (a key's bias moves all scores of a query alike), and with BERT's eps of
            # 1e-6 their sign would decide a visible update; with 1e-3 rounding stays rounding.
            optim=OptimConfig(**({'learning_rate': 1e-2, 'eps': 1e-3} | (optim or {}))),
            mesh=MeshConfig(**(mesh or {})),
            **base,
        )
    )


def batch(rows: int = ROWS, length: int = LENGTH, seed: int = 0) -> dict[str, np.ndarray]:
    """Pre-training rows of different lengths and different numbers of masks."""
    rng = np.random.default_rng(seed)
    real = rng.integers(length // 2, length + 1, (rows, 1))
    return {
        'tokens': rng.integers(0, VOCAB, (rows, length), dtype=np.int32),
        'token_types': (np.arange(length)[None] > real // 2).astype(np.int32),
        'sequence_ids': (np.arange(length)[None] < real).astype(np.int32),
        'masked_positions': np.stack([rng.permutation(length // 2)[:PREDICTIONS] for _ in range(rows)]).astype(np.int32),
        'masked_targets': rng.integers(0, VOCAB, (rows, PREDICTIONS), dtype=np.int32),
        'masked_weights': (np.arange(PREDICTIONS)[None] < rng.integers(0, PREDICTIONS + 1, (rows, 1))).astype(np.float32),
        'next_sentence_labels': rng.integers(0, 2, rows, dtype=np.int32),
    }


@dataclasses.dataclass
class Outcome:
    """Losses and gradient norms of each step, and the parameters and state after the last."""

    curve: np.ndarray
    state: object


def train(run: Config, steps: int = 3, devices=None, batches=None) -> Outcome:
    mesh = partitioning.make_mesh(run, devices)
    program = make_program(run, mesh)
    batches = batches or [batch(seed=step) for step in range(steps)]
    with jax.set_mesh(mesh):
        state = program.init()
        rows, length = len(batches[0]['tokens']), batches[0]['tokens'].shape[-1]
        shardings = partitioning.batch_shardings(batches[0], mesh, length)
        step = jax.jit(
            make_train_step(program), donate_argnums=0, in_shardings=(program.shardings, shardings), out_shardings=(program.shardings, None)
        )
        curve = []
        for host in batches:
            state, metrics = step(state, partitioning.to_devices(host, shardings, slice(0, rows), rows))
            curve.append((float(metrics['loss']), float(metrics['grad_norm'])))
    return Outcome(np.array(curve), jax.tree.map(np.asarray, state))


def one_device():
    return jax.devices()[:1]


def largest_difference(a, b) -> float:
    """Over all leaves of two trees of arrays."""
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.max(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)), initial=0)), a, b)))
