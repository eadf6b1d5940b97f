"""The optimiser's update alone, ours beside optax's and torch's fused AdamW: gradients clipped at 1.0, decay, moments and parameters changed in place.

    python -m tests.benchmarks.update [--layers=12] [--width=768] [--threads=2] [--turns=20] [--output=FILE]

Parameters are the kernels of a BERT's feed-forward layers, stacked; gradients are given. Ours is the whole training step (`make_train_step`) of a model that does nothing but
take their gradient: norm, clipping, AdamW, and the choice to keep the old state where a gradient is not finite. `bound` reads and writes what any update must (gradients twice,
parameters and two moments read and written) by copies of arrays, and is no optimiser. With bf16 moments ours moves a quarter less. Needs the extra `parity`.
"""

from collections.abc import Callable
from typing import Any

from absl import flags
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import Config, DType, ModelConfig, OptimConfig, Schedule
from t5x_lite.models.layers import partitioned
from t5x_lite.training import devices
from tests.benchmarks import steps, turns

FLAGS = flags.FLAGS


class Kernels(nn.Module):
    """Parameters whose gradients are what a batch has."""

    config: ModelConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], dropout: Any = None) -> dict[str, jax.Array]:
        del dropout
        layers, width = self.config.num_layers, self.config.d_model
        wi, wo = (
            partitioned(self, name, nn.initializers.normal(0.02), (layers, *shape), ('layers', 'embed', 'mlp'))
            for name, shape in (('wi', (width, 4 * width)), ('wo', (4 * width, width)))
        )
        return {'sum': sum(jnp.sum(kernel * batch[name]) for name, kernel in (('wi', wi), ('wo', wo)) if name in batch)}


class Sum:
    def __init__(self, config: Config):
        del config

    def weights(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        del batch
        return {'loss': jnp.float32(1)}

    def __call__(self, outputs: dict[str, jax.Array], batch: dict[str, jax.Array]) -> tuple[dict[str, jax.Array], dict]:
        del batch
        return {'loss': outputs['sum']}, {}


def ours(gradients: dict[str, np.ndarray], moments: DType) -> Callable[[], None]:
    config = finalize(
        Config(
            steps=1_000_000,
            batch_size=1,
            loss='tests.benchmarks.update:Sum',
            model=ModelConfig(module='tests.benchmarks.update:Kernels', num_layers=FLAGS.layers, d_model=FLAGS.width, num_heads=1, vocab_size=8),
            optim=OptimConfig(learning_rate=1e-4, schedule=Schedule.constant, moment_dtype=moments, decay=(('.*', 0.01),)),
        )
    )
    batch = jax.device_put(gradients) | {'tokens': np.ones((1, 1), np.int32), 'sequence_ids': np.ones((1, 1), np.int32)}
    program, step = steps.compiled(config, batch)
    return steps.running(program, step, batch)


def optaxs(gradients: dict[str, np.ndarray]) -> Callable[[], None]:
    """The chain that its documentation recommends, jitted and donated."""
    transformation = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, eps=1e-6, weight_decay=0.01))

    def update(params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        updates, state = transformation.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params, given = jax.tree.map(jnp.zeros_like, gradients), jax.device_put(gradients)
    with jax.numpy_dtype_promotion('standard'):
        state = transformation.init(params)
        compiled = jax.jit(update, donate_argnums=(0, 1)).lower(params, state, given).compile()
    held = [params, state]

    def run() -> None:
        held[:] = compiled(*held, given)
        jax.block_until_ready(held)

    return run


def torchs(torch: Any, gradients: dict[str, np.ndarray]) -> Callable[[], None]:
    torch.set_num_threads(FLAGS.threads)
    params = [torch.nn.Parameter(torch.zeros(value.shape)) for value in gradients.values()]
    optimiser = torch.optim.AdamW(params, lr=1e-4, eps=1e-6, weight_decay=0.01, fused=True)

    def run() -> None:
        for parameter, value in zip(params, given, strict=True):
            parameter.grad = value
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()

    given = [torch.from_numpy(value.copy()) for value in gradients.values()]  # clipping changes them in place, once
    return run


def bound(gradients: dict[str, np.ndarray]) -> Callable[[], None]:
    """Two readings of the gradients, and three arrays that are read and written."""
    copied = jax.jit(lambda arrays: jax.tree.map(lambda x: x + 1, arrays), donate_argnums=0)
    summed = jax.jit(lambda arrays: sum(jnp.sum(x) for x in jax.tree.leaves(arrays)))
    held, given = [jax.device_put([gradients] * 3)], jax.device_put(gradients)

    def run() -> None:
        held[0] = copied(held[0])
        jax.block_until_ready((held[0], summed(given), summed(given)))

    return run


def main(argv: list[str]) -> None:
    del argv
    devices.keep_freed_memory()
    (torch,) = turns.parity('torch')
    turns.pin(FLAGS.threads)
    draw, (layers, width) = np.random.default_rng(0), (FLAGS.layers, FLAGS.width)
    gradients = {name: draw.normal(0, 1e-3, (layers, *shape)).astype(np.float32) for name, shape in (('wi', (width, 4 * width)), ('wo', (4 * width, width)))}
    count = sum(value.size for value in gradients.values())
    runs = {
        'torch, fused AdamW': torchs(torch, gradients),
        'optax': optaxs(gradients),
        'ours': ours(gradients, DType.float32),
        'ours, moments in bf16': ours(gradients, DType.bfloat16),
        'bound': bound(gradients),
    }
    competitors = {name: turns.Competitor(run, {'parameters': count}) for name, run in runs.items()}
    what = f'Clipping and an update of AdamW, {count:,} parameters'
    turns.write(turns.measure('update', what, competitors, None, FLAGS.turns, packages=('jax', 'optax', 'torch')), FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_integer('layers', 12, 'Of the stack.', lower_bound=1)
    flags.DEFINE_integer('width', 768, 'd_model; kernels are of it and four times it.', lower_bound=8)
    flags.DEFINE_integer('threads', 2, 'For all, on as many cores.', lower_bound=1)
    flags.DEFINE_integer('turns', 20, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
