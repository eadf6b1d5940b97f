"""The implementations of attention side by side, value and gradients: ours (dense, blockwise, and cuDNN where it can), JAX's own, and torch's SDPA.

    python -m tests.benchmarks.attention [--tokens=4096] [--lengths=128,512,2048] [--mask=causal] [--bias] [--dropout=0.1] [--dtype=bfloat16] [--output=FILE]

Rows of each length hold so many tokens together. The competitors take turns on the same arrays, one call each; a ratio is the median over turns of that of
neighbours. Before that, what each gives is compared with dense attention. Temporaries are XLA's own count, for those that it compiles. The share of the
matmul rate counts the five products of an attention and its gradients (of the scores, half where causal), and not what is computed once more.
Torch is left out where it is not installed, or has no such thing (packed rows); dropout draws other bits there, and JAX's own has none.
"""

from collections.abc import Callable
import dataclasses
import sys
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import cli
from t5x_lite.config import AttentionKernel, DType
from t5x_lite.models import kernels
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.mask import Mask
from t5x_lite.models.positions import DistanceBias
from tests.benchmarks import turns

FLAGS = flags.FLAGS
_BUCKETS, _PACKED = 32, 4  # of the bias; sequences of a packed row


@dataclasses.dataclass
class Case:
    """Arrays [B, L, H, K] of one length."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    gradient: jax.Array  # of what comes out
    table: jax.Array | None  # [buckets, heads]
    mask: Mask

    @property
    def given(self) -> tuple[jax.Array, ...]:
        return (self.q, self.k, self.v) + (() if self.table is None else (self.table,))


def case_of(length: int) -> Case:
    rows = max(1, FLAGS.tokens // length)
    draw, shape, dtype = np.random.default_rng(0), (rows, length, FLAGS.heads, FLAGS.size), jnp.dtype(FLAGS.dtype)
    arrays = [jnp.asarray(draw.normal(size=shape), dtype) for _ in range(4)]
    table = jnp.asarray(draw.normal(size=(_BUCKETS, FLAGS.heads)), jnp.float32) if FLAGS.bias else None
    packed = jnp.asarray(np.broadcast_to(np.arange(length) * _PACKED // length + 1, (rows, length)), jnp.int32)
    masks = {'none': Mask(), 'causal': Mask(causal=True), 'packed': Mask(packed_BL=packed), 'packed causal': Mask(packed_BL=packed, causal=True)}
    return Case(*arrays, table, masks[FLAGS.mask])


def ours(case: Case, attend: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function of the case's arrays to the sum of what comes out times its gradient."""
    rows = jnp.arange(case.q.shape[0], dtype=jnp.uint32)
    key = DropoutKey.create(jnp.uint32(0), jnp.int32(0), rows) if FLAGS.dropout else None

    def function(q, k, v, *table):
        bias = DistanceBias(table[0], bidirectional='causal' not in FLAGS.mask) if table else None
        out = attend(q, k, v, case.mask, scale=FLAGS.size**-0.5, bias=bias, dropout_rate=FLAGS.dropout, key=key, site=0)
        return jnp.sum(out.astype(jnp.float32) * case.gradient.astype(jnp.float32))

    return function


def jax_own(case: Case) -> Callable[..., jax.Array]:
    def function(q, k, v, *table):
        bias = None
        if table:
            bias = DistanceBias(table[0], bidirectional='causal' not in FLAGS.mask).dense(case.mask, q.shape[1], k.shape[1])[None].astype(q.dtype)
        out = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=case.mask.dense(q.shape[1], k.shape[1]), scale=FLAGS.size**-0.5)
        return jnp.sum(out.astype(jnp.float32) * case.gradient.astype(jnp.float32))

    return function


def compiled(case: Case, function: Callable[..., jax.Array]) -> tuple[Callable[[], Any], int]:
    """(a call that waits for value and gradients, bytes of temporaries)."""
    made = jax.jit(jax.value_and_grad(function, tuple(range(len(case.given))))).lower(*case.given).compile()
    return lambda: jax.block_until_ready(made(*case.given)), made.memory_analysis().temp_size_in_bytes


def torch_sdpa(case: Case) -> Callable[[], Any] | None:
    """scaled_dot_product_attention on [B, H, L, K], its fastest layout; None where it is not to be had."""
    try:
        import torch
    except ImportError:
        return None
    if 'packed' in FLAGS.mask:
        return None
    device = 'cuda' if jax.default_backend() == 'gpu' and torch.cuda.is_available() else 'cpu'
    dtype = getattr(torch, FLAGS.dtype)

    def moved(x: jax.Array) -> Any:
        return torch.tensor(np.asarray(x.astype(jnp.float32))).permute(0, 2, 1, 3).contiguous().to(device, dtype)

    q, k, v, gradient = (moved(x) for x in (case.q, case.k, case.v, case.gradient))
    given = [x.requires_grad_() for x in (q, k, v)]
    how: dict[str, Any] = {'is_causal': FLAGS.mask == 'causal'}
    if case.table is not None:
        bias = DistanceBias(case.table, bidirectional='causal' not in FLAGS.mask).dense(case.mask, q.shape[2], k.shape[2])
        hidden = case.mask.dense(q.shape[2], k.shape[2])
        bias = bias if hidden is None else jnp.where(hidden[0], bias, -1e30)
        # Made before: in a model its gradient would go on to the table.
        how = {'attn_mask': torch.tensor(np.asarray(bias))[None].to(device, dtype).requires_grad_()}
        given.append(how['attn_mask'])

    def call() -> Any:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, dropout_p=FLAGS.dropout, scale=FLAGS.size**-0.5, **how)
        found = torch.autograd.grad(out, given, gradient)
        if device == 'cuda':
            torch.cuda.synchronize()
        return (out.float() * gradient.float()).sum().item(), [x.float().cpu() for x in found[:3]]

    return call


def differences(found: Any, wanted: Any) -> float:
    """The largest of value and gradients, each by the size of what it should be."""

    def off(x: Any, y: Any) -> float:
        x, y = (np.asarray(jnp.asarray(part, jnp.float32)) for part in (x, y))
        return float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-6))

    return max(off(x, y) for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True))


def measured(length: int) -> dict[str, Any]:
    case = case_of(length)
    rows = case.q.shape[0]
    asked = kernels.Asked(
        kernels.platform(), rows, length, length, FLAGS.heads, FLAGS.size, FLAGS.dtype, bias=FLAGS.bias, dropout=FLAGS.dropout > 0
    )
    calls: dict[str, Callable[[], Any]] = {}
    temporaries: dict[str, int] = {}
    for kernel, found in kernels.KERNELS.items():
        if lacks := found.lacks(asked):
            print(f'{kernel.name} is left out at {length}: {lacks}', file=sys.stderr)
            continue
        calls[kernel.name], temporaries[kernel.name] = compiled(case, ours(case, found.attend))
    if not FLAGS.dropout:
        calls['jax.nn'], temporaries['jax.nn'] = compiled(case, jax_own(case))
    dense = AttentionKernel.dense.name
    wanted = calls[dense]()
    off = {name: differences(call(), wanted) for name, call in calls.items() if name != dense}
    if torch_call := torch_sdpa(case):
        calls['torch SDPA'] = torch_call
    flops = 3 * 4 * rows * FLAGS.heads * length * length * FLAGS.size / (2 if 'causal' in FLAGS.mask else 1)
    competitors = {
        name: turns.Competitor(
            call,
            {'tokens': rows * length},
            flops,
            ({'temporaries MB': f'{temporaries[name] / 1e6:,.1f}'} if name in temporaries else {}) | ({'difference': f'{off[name]:.1e}'} if name in off else {}),
        )
        for name, call in calls.items()
    }
    what = f'Attention, value and gradients, {rows} x {length:,}, {FLAGS.heads} heads of {FLAGS.size}, mask {FLAGS.mask}, {FLAGS.dtype}, dropout {FLAGS.dropout}'
    packages = ('jax', *['torch'] * ('torch SDPA' in calls))
    what += ', bias of relative positions' * FLAGS.bias
    return turns.measure('attention', what, competitors, turns.matmul_rates(dtype=FLAGS.dtype), FLAGS.turns, packages=packages)


def main(argv: list[str]) -> None:
    del argv
    jax.config.update('jax_threefry_partitionable', True)
    for length in map(int, FLAGS.lengths):
        turns.write(measured(length), FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_integer('tokens', 4096, 'Of all rows together.', lower_bound=1)
    flags.DEFINE_list('lengths', ['128', '512', '1024', '2048'], 'Of a row.')
    flags.DEFINE_integer('heads', 12, 'Heads.', lower_bound=1)
    flags.DEFINE_integer('size', 64, 'Of a head.', lower_bound=1)
    flags.DEFINE_enum('mask', 'causal', ['none', 'causal', 'packed', 'packed causal'], f'Packed: {_PACKED} sequences of equal length a row.')
    flags.DEFINE_bool('bias', False, 'With T5\'s bias of relative positions, and the gradient of its table.')
    flags.DEFINE_float('dropout', 0.0, 'Of the weights.', lower_bound=0, upper_bound=1)
    flags.DEFINE_enum('dtype', 'float32', [kind.value for kind in DType], 'Of queries, keys and values.')
    flags.DEFINE_integer('turns', 10, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which a JSON line for each length is appended.')
    cli.run(main)
