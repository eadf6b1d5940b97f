"""BERT (Devlin et al., 2018) and its heads for pre-training and fine-tuning.

A batch is a dict of arrays, int32 unless said:

    tokens [B, L], token_types [B, L] (sentence A 0, B 1)
    sequence_ids [B, L]          0 padding, 1 real; 1, 2, ... where sequences are packed in a row
    positions [B, L]             only where packed: restart at 0 in each sequence, and attention stays inside a sequence
    masked_positions [B, P], masked_targets [B, P], masked_weights [B, P] float32 (0 for unused slots)
    next_sentence_labels [B]     0 the next sentence, 1 a random one
    labels [B], example_weights [B] float32
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.config import Layout, ModelConfig, Pooling, PositionInit, Positions
from t5x_lite.models.attention import Mask
from t5x_lite.models.dropout import DropoutKey, dropout as _dropout
from t5x_lite.models.heads import SequenceHead
from t5x_lite.models.layers import (
    ACTIVATIONS, Einsum, Embedding, compute_dtype, hide_padded, initializer, like_trailing, make_norm, padded_vocabulary, partitioned, sinusoidal,
)  # fmt: skip
from t5x_lite.models.transformer import EMBEDDING_KEY, Context, Stack, read_layers, stack_flops
from t5x_lite.models.vocabulary import output_layer

Batch = dict[str, jax.Array]

BODY = 'bert_flax.bert:Bert'


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed; normed."""

    config: ModelConfig

    def setup(self):
        config, dtype = self.config, compute_dtype(self.config)
        init, width = initializer(config, 1), config.d_model
        self.word = Embedding((config.vocab_size, width), ('vocab', 'embed'), dtype, init, padded_vocabulary(config))
        if config.positions == Positions.learned:
            positions = sinusoidal(config.init_stddev) if config.position_init == PositionInit.sinusoidal else init
            self.position = Embedding((config.max_positions, width), ('positions', 'embed'), dtype, positions)
        self.segment = Embedding((config.num_segments, width), ('segments', 'embed'), dtype, init)
        self.norm = make_norm(config)

    def __call__(self, batch: Batch, key: DropoutKey | None) -> jax.Array:
        tokens = batch['tokens']
        x_BLD = self.word(tokens)
        if self.config.positions == Positions.learned:
            positions = batch['positions'] if 'positions' in batch else jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
            x_BLD = x_BLD + self.position(positions)
        x_BLD = x_BLD + self.segment(batch['token_types'])
        return _dropout(self.norm(x_BLD), self.config.dropout, key if key is None else key.fold(EMBEDDING_KEY), 0)


class Bert(nn.Module):
    """The encoder: hidden states [B, L, D] and, with the pooler, tanh(W h_[CLS]) [B, D]."""

    config: ModelConfig
    pooled: bool = True
    layout, place, pooling, packs = Layout.encoder, 'encoder', Pooling.cls, True  # as heads see it (t5x_lite.models.heads)

    def setup(self):
        config = self.config
        self.embeddings = Embeddings(config)
        self.stack = Stack(config, config.num_layers, causal=config.causal, read=read_layers(config))
        nn.share_scope(self, self.stack)  # parameters lie at layers/..., as the encoder's own
        if self.pooled:
            self.pooler = _square(config)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        return self.states(batch, dropout, self.pooled)

    def states(self, batch: Batch, dropout: DropoutKey | None, pooled: bool, table: bool = False) -> Batch:
        """What heads are put on; with `table`, `copies` of that of words too, where it goes along (Stack.with_layers)."""
        present = batch['sequence_ids'] > 0
        mask = Mask(packed_BL=batch['sequence_ids']) if 'positions' in batch else Mask(keys_BM=present)
        if 'prefix' in batch:
            mask = mask.replace(prefix_BM=batch['prefix'] > 0)
        along = (self.word.table(), self.word.axes) if table else None
        hidden_BLD, layers_BLSD, copies = self.stack.with_layers(self.embeddings(batch, dropout), Context(mask, key=dropout), along)
        outputs = {'hidden': hidden_BLD, 'layers': layers_BLSD, 'copies': copies, 'pooled': self.pooled_of(hidden_BLD[:, 0]) if pooled else None}
        return {name: array for name, array in outputs.items() if array is not None}

    def pooled_of(self, first_BD: jax.Array) -> jax.Array:
        return jnp.tanh(self.pooler('BD,DE->BE', first_BD))

    @property
    def word(self) -> Embedding:
        return self.embeddings.word

    @staticmethod
    def states_flops(config: ModelConfig, length: int) -> int:
        return stack_flops(config, config.num_layers, length)


def _square(config: ModelConfig) -> Einsum:
    """A product that keeps the width."""
    return Einsum((config.d_model, config.d_model), ('embed', 'heads'), compute_dtype(config), initializer(config, config.d_model))


def _labels(config: ModelConfig, labels: int) -> Einsum:
    return Einsum((config.d_model, labels), ('embed', 'labels'), compute_dtype(config), initializer(config, config.d_model))


class MlmHead(nn.Module):
    """Transform, norm, and the tied decoder with its bias (google-research/bert, run_pretraining.py: get_masked_lm_output)."""

    config: ModelConfig

    def setup(self):
        config = self.config
        self.transform = _square(config)
        self.norm = make_norm(config)
        self.output_bias = partitioned(self, 'output_bias', nn.initializers.zeros, (padded_vocabulary(config),), ('vocab',))

    def __call__(self, x_BPD: jax.Array, word: Embedding, copies: jax.Array | None) -> Batch:
        """`mlm_logits` [B, P, V'], and `output_layer` (t5x_lite/models/vocabulary.py) where they are large.

        `copies`: of the table of words, if something has made them already.
        """
        x_BPD = self.norm(ACTIVATIONS[self.config.activation](self.transform('BPD,DE->BPE', x_BPD)))
        logits_BPV = word.attend(x_BPD, copies)
        outputs = {'mlm_logits': hide_padded(logits_BPV + like_trailing(self.output_bias, logits_BPV), self.config.vocab_size)}
        if self.is_initializing():
            return outputs
        return outputs | output_layer(self.config, x_BPD, word.table(), 'VD', self.output_bias, copies)


def _mlm_outputs(config: ModelConfig, head: MlmHead, encoder: Bert, batch: Batch, dropout: DropoutKey | None) -> Batch:
    """The encoder's, and the head's: of the masked positions only [B, P], or of all [B, L] where the config, or the lack of masks in the batch, says so."""
    outputs = encoder.states(batch, dropout, encoder.pooled, table=True)
    x_BPD, copies = outputs['hidden'], outputs.pop('copies', None)
    if not config.project_all_positions and 'masked_positions' in batch:
        x_BPD = jnp.take_along_axis(x_BPD, batch['masked_positions'][:, :, None], axis=1)
    return outputs | head(x_BPD, encoder.word, copies)


class BertForPreTraining(nn.Module):
    """MLM and next-sentence prediction. Outputs: hidden, pooled, mlm_logits [B, P, V'], nsp_logits [B, 2]."""

    config: ModelConfig
    layout, body = Layout.encoder, BODY

    def setup(self):
        self.encoder = Bert(self.config)
        self.mlm = MlmHead(self.config)
        self.nsp = _labels(self.config, 2)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        outputs = _mlm_outputs(self.config, self.mlm, self.encoder, batch, dropout)
        return outputs | {'nsp_logits': self.nsp('BD,DC->BC', outputs['pooled']).astype(jnp.float32)}

    @staticmethod
    def forward_flops(config: ModelConfig, length: int, predictions: int) -> int:
        """Of one sequence: two for each weight and position it is applied to, and attention's two products."""
        return stack_flops(config, config.num_layers, length) + 2 * config.d_model * (config.d_model + 2) + mlm_flops(config, length, predictions)


class BertForMaskedLm(nn.Module):
    """MLM alone, without a pooler. Outputs: hidden, mlm_logits [B, P, V']."""

    config: ModelConfig
    layout, body = Layout.encoder, BODY

    def setup(self):
        self.encoder = Bert(self.config, pooled=False)
        self.mlm = MlmHead(self.config)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        return _mlm_outputs(self.config, self.mlm, self.encoder, batch, dropout)

    @staticmethod
    def forward_flops(config: ModelConfig, length: int, predictions: int) -> int:
        return stack_flops(config, config.num_layers, length) + mlm_flops(config, length, predictions)


class BertForClassification(SequenceHead):
    """A linear layer over the pooled output: classes, or one number for regression. Outputs: hidden, pooled, logits [B, labels]."""

    body = BODY
    layout = Layout.encoder


def mlm_flops(config: ModelConfig, length: int, predictions: int) -> int:
    positions = length if config.project_all_positions else predictions
    return positions * 2 * (config.d_model * config.d_model + config.d_model * config.vocab_size)
