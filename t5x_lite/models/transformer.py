"""A transformer made of fields: blocks, and the stack that scans or unrolls them."""

from collections.abc import Iterator, Mapping
import contextlib
import contextvars
from typing import Any

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp

from t5x_lite.config import ModelConfig, NormPlace, Positions, Remat
from t5x_lite.models import gathering, gathering_again
from t5x_lite.models.attention import Attention, Cache, Mask
from t5x_lite.models.dropout import DropoutKey, dropout
from t5x_lite.models.kernels import picked
from t5x_lite.models.layers import ACTIVATIONS, Einsum, added, compute_dtype, head_size, initializer, make_norm, plus
from t5x_lite.models.placing import GATHER_AGAIN, GATHER_AHEAD, Axes, constrain, gathered
from t5x_lite.models.positions import DistanceBias, RelativeBias
from t5x_lite.models.products import PRODUCT, product

# Sites of a layer that drop out (see DropoutKey).
_WEIGHTS, _ATTENDED, _FED_FORWARD, _CROSS_WEIGHTS, _CROSS_ATTENDED, _HIDDEN = range(6)

# Between blocks, activations are sharded by batch and length and whole in width.
BETWEEN_BLOCKS = ('batch', 'length', 'activation_embed')


@struct.dataclass
class Context:
    """What all layers of a stack see beside their input."""

    mask: Mask
    bias: DistanceBias | None = None  # of relative positions
    memory_BMD: jax.Array | None = None  # what cross-attention reads: the encoder's output
    memory_mask: Mask = struct.field(default_factory=Mask)
    key: DropoutKey | None = None
    cache: Cache | None = None


class FeedForward(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array, key: DropoutKey | None) -> jax.Array:
        config = self.config
        dtype, width, hidden = compute_dtype(config), config.d_model, config.d_ff

        def widen(name: str) -> jax.Array:
            return Einsum((width, hidden), ('embed', 'mlp'), dtype, initializer(config, width), config.use_bias, name=name)('BLD,DF->BLF', x_BLD)

        hidden_BLF = ACTIVATIONS[config.activation](widen('wi'))
        if config.gated:
            hidden_BLF = hidden_BLF * widen('wg')
        hidden_BLF = dropout(hidden_BLF, config.hidden_dropout, key, _HIDDEN)
        init = initializer(config, hidden, residual=True)
        return Einsum((hidden, width), ('mlp', 'embed'), dtype, init, config.use_bias, name='wo')('BLF,FD->BLD', hidden_BLF)


class Block(nn.Module):
    """Attention, to memory too where the stack has one, and feed-forward, each with residual, dropout and norm; the norm's place is a field."""

    config: ModelConfig
    cross: bool
    shown: bool = False  # its output is given a second time, as what a scan collects

    @nn.compact
    def __call__(self, x_BLD: jax.Array, layer: jax.Array, context: Context) -> tuple[jax.Array, jax.Array | None]:
        config = self.config
        pre = config.norm_place == NormPlace.pre
        key = None if context.key is None else context.key.fold(layer)

        def residual(x_BLD, norm_name, inner, site):
            norm = make_norm(config, norm_name)
            inner_BLD = self._adapted(inner(norm(x_BLD) if pre else x_BLD), norm_name.removesuffix('_norm'))
            out_BLD = x_BLD + dropout(inner_BLD, config.dropout, key, site)
            return constrain(out_BLD if pre else norm(out_BLD), BETWEEN_BLOCKS)

        mask = context.mask
        if config.local_window:
            # Layers 1, 3, 5, ... are banded (Child et al., 2019; GPT-3, section 2.1).
            everything = jnp.int32(jnp.iinfo(jnp.int32).max // 2)
            mask = mask.replace(window=jnp.where(layer % 2 == 1, jnp.int32(config.local_window), everything), band=config.local_window)
        attention, mlp = Attention(config, name='attention'), FeedForward(config, name='mlp')
        x_BLD = residual(
            x_BLD, 'attention_norm', lambda x: attention(x, mask, key, _WEIGHTS, bias=context.bias, cache=context.cache), _ATTENDED
        )
        if self.cross:
            cross = Attention(config, cross=True, name='cross_attention')
            x_BLD = residual(
                x_BLD,
                'cross_attention_norm',
                lambda x: cross(x, context.memory_mask, key, _CROSS_WEIGHTS, memory_BMD=context.memory_BMD, cache=context.cache),
                _CROSS_ATTENDED,
            )
        x_BLD = residual(x_BLD, 'mlp_norm', lambda x: mlp(x, key), _FED_FORWARD)
        return x_BLD, x_BLD if self.shown else None

    def _adapted(self, x_BLD: jax.Array, place: str) -> jax.Array:
        """Through the bottleneck adapter of this place, where one was put there (training/adapters.py)."""
        down, bias, up, up_bias = (added(self, f'{place}_adapter_{part}') for part in ('down', 'down_bias', 'up', 'up_bias'))
        if down is None:
            return x_BLD
        dtype = compute_dtype(self.config)
        hidden_BLR = product('BLD,DR->BLR', x_BLD, down, dtype, ('embed', None))
        hidden_BLR = ACTIVATIONS[self.config.activation](plus(hidden_BLR, bias))
        out_BLD = product('BLR,RD->BLD', hidden_BLR, up, dtype, (None, 'embed'))
        return plus(x_BLD + out_BLD, up_bias)


REMAT_POLICIES = {Remat.dots: jax.checkpoint_policies.save_only_these_names(PRODUCT), Remat.full: jax.checkpoint_policies.nothing_saveable}


def layer_stack(config: ModelConfig, num_layers: int, cross: bool = False, shown: bool = False, **fields: Any) -> nn.Module:
    """Blocks whose parameters are stacked on axis 0 [N, ...]: `stack(x_BLD, uint32 layer numbers [N], context)` returns (x_BLD, None), or (x_BLD, the outputs
    of all layers [N, B, L, D]) where they are to be shown.

    The stack is looped over (`scan_layers`: one layer is compiled) or the loop is unrolled (the compiler sees every layer). Parameters, and so
    checkpoints, are the same.
    """
    block: Any = Block
    if config.remat != Remat.none:
        block = nn.remat(Block, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers)
    scanned = nn.scan(
        block,
        variable_axes={'params': 0, 'cache': 0},
        split_rngs={'params': True},
        in_axes=(0, nn.broadcast),
        length=num_layers,
        unroll=1 if config.scan_layers else num_layers,
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return scanned(config, cross, shown, **fields)


_CUTS: contextvars.ContextVar[Mapping[str, int]] = contextvars.ContextVar('where loops over layers are cut', default={})


@contextlib.contextmanager
def cut_at(layers: Mapping[str, int]) -> Iterator[None]:
    """While a model is traced: the loops over these stacks, {path of their parameters: layer}, are two, below the layer and from it on.

    A loop's backward pass makes the gradient of each of its layers. Below the first that learns there is nothing to make.
    """
    token = _CUTS.set(layers)
    try:
        yield
    finally:
        _CUTS.reset(token)


def read_layers(config: ModelConfig) -> tuple[int, ...]:
    """config.model.read_layers, counted from the bottom."""
    return tuple(layer if layer >= 0 else config.num_layers + 1 + layer for layer in config.read_layers)


class Stack(nn.Module):
    """Layers, the relative positions that they share, and the norm after the last where norms stand before blocks."""

    config: ModelConfig
    num_layers: int
    causal: bool
    cross: bool = False
    first_key: int = 0  # of its layers' dropout: two stacks of a model must not drop out alike
    read: tuple[int, ...] = ()  # layers that `with_layers` gives

    def setup(self):
        config = self.config
        self.layers = layer_stack(config, self.num_layers, self.cross, any(0 < layer < self.num_layers for layer in self.read))
        if config.positions == Positions.relative:
            self.relative_bias = RelativeBias(config, bidirectional=not self.causal)
        if config.norm_place == NormPlace.pre:
            self.final_norm = make_norm(config)

    def __call__(self, x_BLD: jax.Array, context: Context) -> jax.Array:
        return self.with_layers(x_BLD, context)[0]

    def with_layers(
        self, x_BLD: jax.Array, context: Context, table: tuple[jax.Array, Axes] | None = None
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
        """(output, states [B, L, S, D] of the layers `read`, None where that is empty, copies of `table`, None where it does not go along).

        A table that is stored in parts, and read after the layers, goes along in a loop that makes weights whole layers ahead (gathering.looped).

        Layer 0 is the input, the last the output, with the norm that may stand there; those between are what the next layer reads, as in transformers'
        hidden_states.
        """
        config, length, cache, bottom_BLD = self.config, x_BLD.shape[1], context.cache, x_BLD
        first, keys = (None, length) if cache is None else (cache.first, cache.length)
        context = context.replace(mask=context.mask.replace(causal=self.causal, first=first))
        if config.positions == Positions.relative:
            bias = self.relative_bias()
            asked = {'bias': True, 'dropout': context.key is not None, 'cached': first is not None}
            if self.is_initializing() or picked(config, x_BLD.shape[0], length, keys, **asked).holds_scores:
                bias = bias.made(length, keys, 0 if first is None else first, len(x_BLD))
            context = context.replace(bias=bias)
        x_BLD, context, asking = self._prompted(x_BLD, context)
        numbers_N = jnp.arange(self.first_key, self.first_key + self.num_layers, dtype=jnp.uint32)
        if self._gathers_ahead(context):
            (x_BLD, copies), shown_NBLD = self._ahead(x_BLD, numbers_N, context, table), None
        else:
            (x_BLD, shown_NBLD), copies = self._looped(x_BLD, numbers_N, context), None
        x_BLD = x_BLD[:, asking:]
        if config.norm_place == NormPlace.pre:
            x_BLD = self.final_norm(x_BLD)
        x_BLD = dropout(x_BLD, config.output_dropout, context.key if context.key is None else context.key.fold(self.first_key + OUTPUT_KEY), 0)
        if not self.read:
            return x_BLD, None, copies

        def states(layer: int) -> jax.Array:
            if 0 < layer < self.num_layers:
                return shown_NBLD[layer - 1][:, asking:]
            return x_BLD if layer else bottom_BLD

        return x_BLD, jnp.stack([states(layer) for layer in self.read], axis=2), copies

    def _looped(self, x_BLD: jax.Array, numbers_N: jax.Array, context: Context) -> tuple[jax.Array, jax.Array | None]:
        """Through all layers: in one loop, in two where `cut_at` says so, or in none where each has arrays of its own (inference.to_read)."""
        if not self.is_initializing() and '0' in self.layers.variables['params']:
            return self._apart(x_BLD, numbers_N, context)
        cuts, place = _CUTS.get(), '/'.join(self.layers.path)
        if self.is_initializing() or not self.config.scan_layers or place not in cuts:
            return self.layers(x_BLD, numbers_N, context)
        params, cut, shown = self.layers.variables['params'], cuts[place], []
        for here in (slice(0, cut), slice(cut, self.num_layers)):
            loop = layer_stack(self.config, here.stop - here.start, self.cross, self.layers.shown, parent=None)
            some = jax.tree.map(lambda leaf: leaf[here], params)
            # Said outright: the slice is of an array of which a part learns, which is all that differentiation sees.
            some = some if here.start else jax.lax.stop_gradient(some)
            x_BLD, states_NBLD = loop.apply({'params': some}, x_BLD, numbers_N[here], context)
            shown.append(states_NBLD)
        return x_BLD, None if shown[0] is None else jnp.concatenate(shown)

    def _gathers_ahead(self, context: Context) -> bool:
        training = not self.is_initializing() and context.cache is None and not self.layers.shown
        looped = training and '0' not in self.layers.variables['params'] and '/'.join(self.layers.path) not in _CUTS.get()
        return bool(looped and GATHER_AHEAD.get()) and jax.sharding.get_abstract_mesh().size > 1

    def _ahead(
        self, x_BLD: jax.Array, numbers_N: jax.Array, context: Context, table: tuple[jax.Array, Axes] | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """In a loop that makes weights whole layers ahead (config.mesh.gather_ahead)."""
        block = Block(self.config, self.cross, parent=None)
        boxed = jax.eval_shape(block.init, jax.random.key(0), x_BLD, numbers_N[0], context)['params']

        def apply(variables, x_BLD, number):
            return block.apply(variables, x_BLD, number, context)[0]

        params, scanned = nn.unbox(self.layers.variables['params']), self.config.scan_layers
        looped = gathering_again.looped if GATHER_AGAIN.get() else gathering.looped
        if self.config.remat != Remat.none and not GATHER_AGAIN.get():
            apply = jax.checkpoint(apply, policy=REMAT_POLICIES[self.config.remat], prevent_cse=not scanned)
        return looped(apply, params, gathering.axes_of(boxed), compute_dtype(self.config), x_BLD, numbers_N, table, scanned=scanned)

    def _apart(self, x_BLD: jax.Array, numbers_N: jax.Array, context: Context) -> tuple[jax.Array, jax.Array | None]:
        """Through one layer after the other; a cache is one for each layer, too."""
        params, caches, shown = self.layers.variables['params'], self.layers.variables.get('cache', {}), []
        block, changing = Block(self.config, self.cross, self.layers.shown, parent=None), ['cache'] if context.cache is not None else []
        for number in range(self.num_layers):
            name = str(number)
            variables = {'params': params[name]} | ({'cache': caches[name]} if name in caches else {})
            (x_BLD, state_BLD), changed = block.apply(variables, x_BLD, numbers_N[number], context, mutable=changing)
            if changing:
                self.layers.put_variable('cache', name, changed['cache'])
            shown.append(state_BLD)
        return x_BLD, jnp.stack(shown) if self.layers.shown else None

    def _prompted(self, x_BLD: jax.Array, context: Context) -> tuple[jax.Array, Context, int]:
        """With virtual tokens in front, where some were put there (training/adapters.py), and how many of them this pass reads.

        They have no positions: the tokens' own, [CLS] and targets stay where they are, and relative distances to them have no bias. A cache holds their
        keys and values in its first slots, from the pass that fills it.
        """
        prompt, cache = added(self, 'prompt'), context.cache
        if prompt is None:
            return x_BLD, context, 0
        count = prompt.shape[0]
        asking = count if cache is None or cache.filling else 0
        if asking:
            tokens_BPD = jnp.broadcast_to(gathered(prompt, (None, 'embed'))[None], (x_BLD.shape[0], *prompt.shape)).astype(x_BLD.dtype)
            x_BLD = jnp.concatenate([tokens_BPD, x_BLD], axis=1)
        if cache is not None:
            cache = cache.replace(first=cache.first if cache.filling else cache.first + count, length=cache.length + count)
        return x_BLD, context.replace(mask=context.mask.replace(before=count, asking=asking), cache=cache), asking


# Keys of dropout outside the layers, which take first_key + 0 .. num_layers - 1.
EMBEDDING_KEY, OUTPUT_KEY = 1 << 16, 1 << 17


def stack_flops(config: ModelConfig, num_layers: int, length: int, memory: int = 0) -> int:
    """Of one sequence forward, multiplications and additions counted apart, all pairs of positions counted where attention is causal too.

    Args:
      memory: positions that cross-attention reads; 0: there is none.
    """
    width, joined = config.d_model, config.num_heads * head_size(config)
    attention = length * 2 * 4 * width * joined + 4 * length * length * joined
    feed_forward = length * 2 * (3 if config.gated else 2) * width * config.d_ff
    cross = (length + memory) * 2 * 2 * width * joined + 4 * length * memory * joined if memory else 0
    return num_layers * (attention + feed_forward + cross)
