"""Decoders (GPT) and encoder-decoders (T5): language models that differ in fields of ModelConfig.

A batch is a dict of arrays [B, L], int32 unless said; a worked example of each layout is in t5x_lite/data/.

    tokens                       what a decoder, or the encoder of an encoder-decoder, reads
    sequence_ids                 0 padding; 1, 2, ... the sequences packed in a row, between which there is no attention
    positions                    of tokens in their sequence
    prefix                       1 where tokens see each other from both sides (prefix LM); absent: none
    decoder_tokens, decoder_sequence_ids, decoder_positions    [B, T], of an encoder-decoder

Modules return `lm_logits` float32 [B, L or T, V'], for the token that follows each position, and `hidden`; where logits are large, also `output_layer`, which
gives a loss its sums without them (models/vocabulary.py).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.config import Layout, ModelConfig, Pooling, PositionInit, Positions
from t5x_lite.models.attention import Cache, Mask
from t5x_lite.models.dropout import DropoutKey, dropout as _dropout
from t5x_lite.models.layers import Einsum, Embedding, compute_dtype, hide_padded, initializer, padded_vocabulary, sinusoidal
from t5x_lite.models.placing import Axes
from t5x_lite.models.transformer import EMBEDDING_KEY, Context, Stack, read_layers, stack_flops
from t5x_lite.models.vocabulary import output_layer

Batch = dict[str, jax.Array]

_DECODER_KEY = 1 << 18  # of dropout in a decoder beside an encoder


class Embeddings(nn.Module):
    """Word embeddings, with positions added where they are learned; and the output layer, tied or not."""

    config: ModelConfig

    def setup(self):
        config, dtype = self.config, compute_dtype(self.config)
        init = initializer(config, 1)
        self.word = Embedding((config.vocab_size, config.d_model), ('vocab', 'embed'), dtype, init, padded_vocabulary(config))
        if config.positions == Positions.learned:
            positions = sinusoidal(config.init_stddev) if config.position_init == PositionInit.sinusoidal else init
            self.position = Embedding((config.max_positions, config.d_model), ('positions', 'embed'), dtype, positions)
        if not config.tie_embeddings:
            shape = (config.d_model, padded_vocabulary(config))
            self.output = Einsum(shape, ('embed', 'vocab'), dtype, initializer(config, config.d_model), use_bias=False)

    def __call__(self, tokens_BL: jax.Array, positions_BL: jax.Array, key: DropoutKey | None) -> jax.Array:
        x_BLD = self.word(tokens_BL)
        if self.config.positions == Positions.learned:
            x_BLD = x_BLD + self.position(positions_BL)
        return _dropout(x_BLD, self.config.dropout, key if key is None else key.fold(EMBEDDING_KEY), 0)

    def logits(self, x_BLD: jax.Array, copies: jax.Array | None = None) -> jax.Array:
        """float32 [B, L, V']; columns that pad the vocabulary take no probability. `copies`: of the output table, where something has made them."""
        x_BLD = self._scaled(x_BLD)
        if self.config.tie_embeddings:
            logits_BLV = self.word.attend(x_BLD, copies)
        else:
            logits_BLV = self.output('BLD,DV->BLV', x_BLD, copies).astype(jnp.float32)
        return hide_padded(logits_BLV, self.config.vocab_size)

    def _scaled(self, x_BLD: jax.Array) -> jax.Array:
        return x_BLD * jnp.asarray(self.config.d_model**-0.5, x_BLD.dtype) if self.config.scale_logits else x_BLD

    def outputs(self, x_BLD: jax.Array, copies: jax.Array | None) -> Batch:
        """`lm_logits`, and `output_layer` where they are large."""
        outputs = {'lm_logits': self.logits(x_BLD, copies)}
        if self.is_initializing() or (table := self.output_table()) is None:
            return outputs
        return outputs | output_layer(self.config, self._scaled(x_BLD), table[0], 'VD' if self.config.tie_embeddings else 'DV', copies=copies)

    def output_table(self) -> tuple[jax.Array, Axes] | None:
        """[V', D] or [D, V'], and its logical axes; None where it is none by itself: adapters beside it have products of their own."""
        if self.config.tie_embeddings:
            return self.word.table(), self.word.axes
        parameters = {} if self.is_initializing() else self.output.variables['params']
        return (nn.unbox(parameters['kernel']), self.output.axes) if parameters.keys() == {'kernel'} else None


def _positions(batch: Batch, prefix: str = '') -> jax.Array:
    if f'{prefix}positions' in batch:
        return batch[f'{prefix}positions']
    return jax.lax.broadcasted_iota(jnp.int32, batch[f'{prefix}tokens'].shape, 1)


def _states(hidden_BLD: jax.Array, layers_BLSD: jax.Array | None, copies: jax.Array | None = None) -> Batch:
    found = {'hidden': hidden_BLD, 'layers': layers_BLSD, 'copies': copies}
    return {name: array for name, array in found.items() if array is not None}


class Decoder(nn.Module):
    """A stack of causal layers: GPT-1 (post-norm), GPT-2 and GPT-3 (pre-norm)."""

    config: ModelConfig
    layout, place, pooling, packs = Layout.decoder, '', Pooling.last, True  # as heads see it (t5x_lite.models.heads)

    def setup(self):
        self.embeddings = Embeddings(self.config)
        self.decoder = Stack(self.config, self.config.num_layers, causal=True, read=read_layers(self.config))

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        outputs = self.states(batch, dropout, table=self.embeddings.output_table())
        copies = outputs.pop('copies', None)
        return outputs | self.embeddings.outputs(outputs['hidden'], copies)

    def states(self, batch: Batch, dropout: DropoutKey | None, pooled: bool = False, table: tuple[jax.Array, Axes] | None = None) -> Batch:
        """What heads are put on: the states, before the output layer; and `copies` of its table, where that goes along (Stack.with_layers)."""
        del pooled  # there is no layer for that
        mask = Mask(packed_BL=batch['sequence_ids'], prefix_BM=batch['prefix'] > 0 if 'prefix' in batch else None)
        x_BLD = self.embeddings(batch['tokens'], _positions(batch), dropout)
        return _states(*self.decoder.with_layers(x_BLD, Context(mask, key=dropout), table))

    def decode(self, tokens_BL: jax.Array, positions_BL: jax.Array, keys_BM: jax.Array, cache: Cache, prefix_BM: jax.Array | None = None) -> jax.Array:
        """Logits [B, L, V'] of the tokens of one pass, with what earlier passes left in the collection 'cache'.

        Args:
          positions_BL: in their sequence; at least 0, padding too.
          keys_BM: bool, False for the slots of the cache that hold padding.
          prefix_BM: bool, slots that see each other.
        """
        context = Context(Mask(keys_BM=keys_BM, prefix_BM=prefix_BM), cache=cache)
        return self.embeddings.logits(self.decoder(self.embeddings(tokens_BL, positions_BL, None), context))

    @staticmethod
    def states_flops(config: ModelConfig, length: int) -> int:
        return stack_flops(config, config.num_layers, length)

    @staticmethod
    def forward_flops(config: ModelConfig, length: int, predictions: int) -> int:
        """Of one sequence; attention is counted for all pairs of positions, of which a causal one needs half."""
        del predictions  # every token is one
        return stack_flops(config, config.num_layers, length) + 2 * length * config.d_model * config.vocab_size


class EncoderDecoder(nn.Module):
    """Two stacks, the second reading the first: T5 (Raffel et al., 2020)."""

    config: ModelConfig
    layout, place, pooling, packs = Layout.encoder_decoder, '', Pooling.mean, True  # as heads see it (t5x_lite.models.heads)

    def setup(self):
        config = self.config
        self.embeddings = Embeddings(config)
        self.encoder = Stack(config, config.num_layers, causal=False, read=read_layers(config))
        self.decoder = Stack(config, config.num_decoder_layers or config.num_layers, causal=True, cross=True, first_key=_DECODER_KEY)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        states = self.states(batch, dropout, table=self.embeddings.output_table())  # the encoder's loop has more to do than the decoder's
        encoded_BMD, copies = states['hidden'], states.get('copies')
        key = None if dropout is None else dropout.fold(_DECODER_KEY)
        x_BLD = self.embeddings(batch['decoder_tokens'], _positions(batch, 'decoder_'), key)
        ids_BL = batch['decoder_sequence_ids']
        context = Context(Mask(packed_BL=ids_BL), memory_BMD=encoded_BMD, memory_mask=Mask(packed_BL=ids_BL, packed_BM=batch['sequence_ids']), key=dropout)
        hidden_BLD = self.decoder(x_BLD, context)
        return {'encoded': encoded_BMD, 'hidden': hidden_BLD} | self.embeddings.outputs(hidden_BLD, copies)

    def encode(self, batch: Batch, dropout: DropoutKey | None = None) -> jax.Array:
        """The encoder's output [B, L, D]."""
        return self.states(batch, dropout)['hidden']

    def states(self, batch: Batch, dropout: DropoutKey | None, pooled: bool = False, table: tuple[jax.Array, Axes] | None = None) -> Batch:
        """What heads are put on: the encoder's output, of a model whose decoder has no parameters; `copies` as `Decoder.states` has them."""
        del pooled  # there is no layer for that
        x_BLD = self.embeddings(batch['tokens'], _positions(batch), dropout)
        return _states(*self.encoder.with_layers(x_BLD, Context(Mask(packed_BL=batch['sequence_ids']), key=dropout), table))

    def decode(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        keys_BM: jax.Array,
        cache: Cache,
        *,
        memory_keys_BM: jax.Array,
        memory_BMD: jax.Array | None = None,
    ) -> jax.Array:
        """As `Decoder.decode`. `memory_BMD` (what `encode` gave) is needed by the first pass only, `memory_keys_BM` (False for padding) by all."""
        context = Context(Mask(keys_BM=keys_BM), memory_BMD=memory_BMD, memory_mask=Mask(keys_BM=memory_keys_BM), cache=cache)
        return self.embeddings.logits(self.decoder(self.embeddings(tokens_BL, positions_BL, None), context))

    @staticmethod
    def states_flops(config: ModelConfig, length: int) -> int:
        return stack_flops(config, config.num_layers, length)

    @staticmethod
    def forward_flops(config: ModelConfig, length: int, predictions: int) -> int:
        """Of one example of `length` inputs and `predictions` targets."""
        decoder = stack_flops(config, config.num_decoder_layers or config.num_layers, predictions, memory=length)
        return stack_flops(config, config.num_layers, length) + decoder + 2 * predictions * config.d_model * config.vocab_size
