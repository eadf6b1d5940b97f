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

from t5x_lite.config import ModelConfig, NormPlace, PositionInit
from t5x_lite.models.attention import Mask
from t5x_lite.models.layers import (
    ACTIVATIONS,
    DropoutKey,
    Einsum,
    Embedding,
    LayerNorm,
    compute_dtype,
    dropout as _dropout,
    hide_padded,
    padded_vocabulary,
    like_trailing,
    partitioned,
    sinusoidal,
    truncated_normal,
)
from t5x_lite.models.transformer import layer_stack

Batch = dict[str, jax.Array]

# Keys of dropout outside the layers, which take 0 .. num_layers - 1.
_EMBEDDINGS, _CLASSIFIER = 1 << 16, (1 << 16) + 1


class Embeddings(nn.Module):
    """Word, position and segment embeddings, summed; normed."""

    config: ModelConfig

    def setup(self):
        config, dtype = self.config, compute_dtype(self.config)
        normal, width = truncated_normal(config.init_stddev), config.d_model
        positions = sinusoidal(config.init_stddev) if config.position_init == PositionInit.sinusoidal else normal
        self.word = Embedding((config.vocab_size, width), ('vocab', 'embed'), dtype, normal, padded_vocabulary(config))
        self.position = Embedding((config.max_positions, width), ('positions', 'embed'), dtype, positions)
        self.segment = Embedding((config.num_segments, width), ('segments', 'embed'), dtype, normal)
        self.norm = LayerNorm(config.norm_eps, dtype)

    def __call__(self, batch: Batch, key: DropoutKey | None) -> jax.Array:
        tokens = batch['tokens']
        if 'positions' in batch:
            positions = batch['positions']
        else:
            positions = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
        x_BLD = self.word(tokens) + self.position(positions) + self.segment(batch['token_types'])
        return _dropout(self.norm(x_BLD), self.config.dropout, key if key is None else key.fold(_EMBEDDINGS), 0)

    def attend(self, x_BPD: jax.Array) -> jax.Array:
        return self.word.attend(x_BPD)


class Bert(nn.Module):
    """The encoder: hidden states [B, L, D] and, with the pooler, tanh(W h_[CLS]) [B, D]."""

    config: ModelConfig
    pooled: bool = True

    def setup(self):
        config = self.config
        self.embeddings = Embeddings(config)
        self.layers = layer_stack(config)
        if config.norm_place == NormPlace.pre:
            self.final_norm = LayerNorm(config.norm_eps, compute_dtype(config))
        if self.pooled:
            self.pooler = Einsum((config.d_model, config.d_model), ('embed', 'heads'), compute_dtype(config), config.init_stddev)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        present = batch['sequence_ids'] > 0
        mask = Mask(packed_BL=batch['sequence_ids']) if 'positions' in batch else Mask(keys_BM=present)
        layer_ids = jnp.arange(self.config.num_layers, dtype=jnp.uint32)
        hidden_BLD, _ = self.layers(self.embeddings(batch, dropout), layer_ids, mask, dropout)
        if self.config.norm_place == NormPlace.pre:
            hidden_BLD = self.final_norm(hidden_BLD)
        outputs = {'hidden': hidden_BLD}
        if self.pooled:
            outputs['pooled'] = jnp.tanh(self.pooler('BD,DE->BE', hidden_BLD[:, 0]))
        return outputs

    def attend(self, x_BPD: jax.Array) -> jax.Array:
        return self.embeddings.attend(x_BPD)


class MlmHead(nn.Module):
    """Transform, norm, and the tied decoder with its bias (google-research/bert, run_pretraining.py: get_masked_lm_output)."""

    config: ModelConfig

    def setup(self):
        config, dtype = self.config, compute_dtype(self.config)
        self.transform = Einsum((config.d_model, config.d_model), ('embed', 'heads'), dtype, config.init_stddev)
        self.norm = LayerNorm(config.norm_eps, dtype)
        self.output_bias = partitioned(self, 'output_bias', nn.initializers.zeros, (padded_vocabulary(config),), ('vocab',))

    def __call__(self, x_BPD: jax.Array, encoder: Bert) -> jax.Array:
        x_BPD = self.norm(ACTIVATIONS[self.config.activation](self.transform('BPD,DE->BPE', x_BPD)))
        logits_BPV = encoder.attend(x_BPD)
        return hide_padded(logits_BPV + like_trailing(self.output_bias, logits_BPV), self.config)


def _mlm_logits(config: ModelConfig, head: MlmHead, encoder: Bert, hidden_BLD: jax.Array, batch: Batch) -> jax.Array:
    """Logits at the masked positions only [B, P, V'], or at all of them [B, L, V'] where the config, or the lack of masks in the batch, says so."""
    if config.project_all_positions or 'masked_positions' not in batch:
        return head(hidden_BLD, encoder)
    return head(jnp.take_along_axis(hidden_BLD, batch['masked_positions'][:, :, None], axis=1), encoder)


class BertForPreTraining(nn.Module):
    """MLM and next-sentence prediction. Outputs: hidden, pooled, mlm_logits [B, P, V'], nsp_logits [B, 2]."""

    config: ModelConfig

    def setup(self):
        self.encoder = Bert(self.config)
        self.mlm = MlmHead(self.config)
        self.nsp = Einsum((self.config.d_model, 2), ('embed', 'labels'), compute_dtype(self.config), self.config.init_stddev)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        outputs = self.encoder(batch, dropout)
        mlm_logits = _mlm_logits(self.config, self.mlm, self.encoder, outputs['hidden'], batch)
        nsp_logits = self.nsp('BD,DC->BC', outputs['pooled']).astype(jnp.float32)
        return outputs | {'mlm_logits': mlm_logits, 'nsp_logits': nsp_logits}

    @staticmethod
    def forward_flops(config: ModelConfig, length: int, predictions: int) -> int:
        """Of one sequence: two for each weight and position it is applied to, and attention's two products."""
        return encoder_flops(config, length) + 2 * config.d_model * (config.d_model + 2) + mlm_flops(config, length, predictions)


class BertForMaskedLm(nn.Module):
    """MLM alone, without a pooler. Outputs: hidden, mlm_logits [B, P, V']."""

    config: ModelConfig

    def setup(self):
        self.encoder = Bert(self.config, pooled=False)
        self.mlm = MlmHead(self.config)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        outputs = self.encoder(batch, dropout)
        return outputs | {'mlm_logits': _mlm_logits(self.config, self.mlm, self.encoder, outputs['hidden'], batch)}

    @staticmethod
    def forward_flops(config: ModelConfig, length: int, predictions: int) -> int:
        return encoder_flops(config, length) + mlm_flops(config, length, predictions)


class BertForClassification(nn.Module):
    """A linear layer over the pooled output: classes, or one number for regression. Outputs: hidden, pooled, logits [B, labels]."""

    config: ModelConfig

    def setup(self):
        self.encoder = Bert(self.config)
        self.classifier = Einsum(
            (self.config.d_model, self.config.num_labels), ('embed', 'labels'), compute_dtype(self.config), self.config.init_stddev
        )

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        outputs = self.encoder(batch, dropout)
        pooled_BD = _dropout(outputs['pooled'], self.config.dropout, dropout if dropout is None else dropout.fold(_CLASSIFIER), 0)
        return outputs | {'logits': self.classifier('BD,DC->BC', pooled_BD).astype(jnp.float32)}

    @staticmethod
    def forward_flops(config: ModelConfig, length: int, predictions: int) -> int:
        return encoder_flops(config, length) + 2 * config.d_model * (config.d_model + config.num_labels)


def encoder_flops(config: ModelConfig, length: int) -> int:
    """2 (4 d^2 + 2 d f) + 4 d L a token and layer, multiplications and additions counted apart."""
    d = config.d_model
    return length * config.num_layers * (2 * (4 * d * d + 2 * d * config.d_ff) + 4 * d * length)


def mlm_flops(config: ModelConfig, length: int, predictions: int) -> int:
    positions = length if config.project_all_positions else predictions
    return positions * 2 * (config.d_model * config.d_model + config.d_model * config.vocab_size)
