"""A transformer made of fields: blocks, and the stack that scans or unrolls them."""

import flax.linen as nn
import jax

from t5x_lite.config import ModelConfig, NormPlace, Remat
from t5x_lite.models.attention import Attention, Mask
from t5x_lite.models.layers import ACTIVATIONS, DropoutKey, Einsum, LayerNorm, compute_dtype, constrain, dropout

# Sites of a layer that drop out (see DropoutKey).
_WEIGHTS, _ATTENDED, _FED_FORWARD = range(3)

# Between blocks, activations are sharded by batch and length and whole in width.
BETWEEN_BLOCKS = ('batch', 'length', 'activation_embed')


class FeedForward(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        config = self.config
        dtype, shape = compute_dtype(config), (config.d_model, config.d_ff)
        hidden_BLF = Einsum(shape, ('embed', 'mlp'), dtype, config.init_stddev, name='wi')('BLD,DF->BLF', x_BLD)
        hidden_BLF = ACTIVATIONS[config.activation](hidden_BLF)
        return Einsum(shape[::-1], ('mlp', 'embed'), dtype, config.init_stddev, name='wo')('BLF,FD->BLD', hidden_BLF)


class Block(nn.Module):
    """Attention and feed-forward, each with residual, dropout and norm; the norm's place is a field."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BLD: jax.Array, layer: jax.Array, mask: Mask, key: DropoutKey | None) -> tuple[jax.Array, None]:
        config = self.config
        pre = config.norm_place == NormPlace.pre
        key = None if key is None else key.fold(layer)

        def residual(x_BLD, norm_name, inner, site):
            norm = LayerNorm(config.norm_eps, compute_dtype(config), name=norm_name)
            out_BLD = x_BLD + dropout(inner(norm(x_BLD) if pre else x_BLD), config.dropout, key, site)
            return constrain(out_BLD if pre else norm(out_BLD), BETWEEN_BLOCKS)

        attention, mlp = Attention(config, name='attention'), FeedForward(config, name='mlp')
        x_BLD = residual(x_BLD, 'attention_norm', lambda x: attention(x, mask, key, _WEIGHTS), _ATTENDED)
        x_BLD = residual(x_BLD, 'mlp_norm', mlp, _FED_FORWARD)
        return x_BLD, None


REMAT_POLICIES = {Remat.dots: jax.checkpoint_policies.dots_with_no_batch_dims_saveable, Remat.full: jax.checkpoint_policies.nothing_saveable}


def layer_stack(config: ModelConfig) -> nn.Module:
    """`num_layers` blocks whose parameters are stacked on axis 0 [N, ...]: `stack(x_BLD, jnp.arange(N), mask, key)` returns (x_BLD, None).

    The stack is looped over (`scan_layers`: one layer is compiled) or the loop is unrolled (the compiler sees every layer). Parameters, and so checkpoints,
    are the same.
    """
    block = Block
    if config.remat != Remat.none:
        block = nn.remat(Block, policy=REMAT_POLICIES[config.remat], prevent_cse=not config.scan_layers)
    scanned = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=config.num_layers,
        unroll=1 if config.scan_layers else config.num_layers,
        metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    return scanned(config)
