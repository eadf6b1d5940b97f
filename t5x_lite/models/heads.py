"""Heads for fine-tuning on any body: an encoder, a decoder, the encoder of an encoder-decoder.

A body is a module that turns a batch into states, named by `config.model.body` ('bert_flax.bert:Bert', 't5x_lite.models.language_model:Decoder', ...). It says

    layout        how rows are laid out for it
    place         under which name its parameters lie in its pre-training module, '' at the top; so weights are merged by path, and nothing is renamed
    pooling       how a sequence is summarised where config.model.pooling does not say
    packs         whether it reads several sequences in a row apart, by `sequence_ids` and `positions` (where it does not say: no)
    states(batch, dropout, pooled) -> {'hidden': [B, L, D], 'layers': [B, L, S, D] where config.model.read_layers names some,
                  'pooled': [B, D] only where asked for and the body has a layer for it}
    pooled_of(first_BD)   that layer alone, where the body has one
    states_flops(config, length)

and a pre-training module says which body it is built on (`body`, a dotted name), or is one itself. A head knows nothing of how it is trained. All heads return
the body's states and `logits`, float32; `labels` in a batch change nothing but what is said of them (TokenHead). Where a batch has `features`, what
`Head.features` gave for its rows, the body is left out. Where it has `spans` [B, T, 2], several texts lie in each row, and a head over a whole sequence
reads each of them. Shape letters: B batch, L length, S layers that are read, D model, C classes, N choices, T texts of a row.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.config import Layout, LayerMix, ModelConfig, Pooling
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.models import crf
from t5x_lite.models.dropout import DropoutKey, dropout as _dropout
from t5x_lite.models.layers import Einsum, compute_dtype, initializer, partitioned
from t5x_lite.models.transformer import EMBEDDING_KEY

Batch = dict[str, jax.Array]

_HEAD_KEY = EMBEDDING_KEY + 1  # of dropout


def body_of(config: ModelConfig) -> str:
    """The dotted name of the body of any model of ours: of a head, of a pre-training module, or its own; '' where there is none."""
    if config.body or not config.module:
        return config.body
    module = resolve(config.module, 'config.model.module', 'apply')
    return config.module if hasattr(module, 'states') else getattr(module, 'body', '')


def wants_body(config: ModelConfig) -> bool:
    """Whether the model is a head whose body is not said yet."""
    module = resolve(config.module, 'config.model.module', 'apply') if config.module else None
    return hasattr(module, 'body_class') and not (config.body or module.body)


class MixedLayers(nn.Module):
    """scale * sum_s softmax(weights)_s x_s of [..., S, D] (Peters et al., 2018, equation 1): the mean of the layers at first."""

    count: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weights_S = jax.nn.softmax(partitioned(self, 'weights', nn.initializers.zeros, (self.count,), ('layers',)))
        scale = partitioned(self, 'scale', nn.initializers.ones, (), ())
        return (jnp.einsum('...SD,S->...D', x.astype(jnp.float32), weights_S) * scale).astype(x.dtype)


class Head(nn.Module):
    """What heads share: the body, its dropout, and a linear layer of theirs.

    Attributes:
      body: the dotted name of the body where config.model.body is empty.
      reads: fields of ModelConfig that only some heads read.
    """

    config: ModelConfig
    body, reads = '', ()

    @classmethod
    def body_class(cls, config: ModelConfig) -> Any:
        """
        Raises:
          UserError: no body is named, or what is named is none.
        """
        name = config.body or cls.body
        if not name:
            raise UserError(
                'config.model.body is empty; take it from weights with --config.init_from, or name one: bert_flax.bert:Bert, '
                't5x_lite.models.language_model:Decoder or t5x_lite.models.language_model:EncoderDecoder'
            )
        return resolve(name, 'config.model.body', 'states')

    @classmethod
    def layout_of(cls, config: ModelConfig) -> Layout:
        """
        Raises:
          UserError: no body, or a field that is of another head.
        """
        layout = cls.body_class(config).layout
        if config.crf and 'crf' not in cls.reads:
            raise UserError(f'config.model.crf scores the tags of tokens together, and {cls.__name__} has none; leave it out, or take TokenHead')
        sizes = {len(config.crf_legal), *map(len, config.crf_legal)}
        if config.crf_legal and config.num_labels and sizes != {config.num_labels + 2}:
            raise UserError(f'config.model.crf_legal is of other tags than the {config.num_labels} of this run; leave it out, it is found in the data')
        if config.pooling != Pooling.auto and 'pooling' not in cls.reads:
            raise UserError(f'config.model.pooling={config.pooling.name} is of heads over a whole sequence, not of {cls.__name__}; leave it out')
        return layout

    def _make_body(self) -> None:
        made = self.body_class(self.config)
        if made.place:
            setattr(self, made.place, made(self.config))
            self._place = made.place
        else:
            self.states_of = made(self.config)
            nn.share_scope(self, self.states_of)  # its parameters lie at the top
            self._place = 'states_of'
        if len(self.config.read_layers) > 1 and self.config.layer_mix == LayerMix.weighted:
            self.layer_mix = MixedLayers(len(self.config.read_layers))

    def _states(self, batch: Batch, dropout: DropoutKey | None, pooled: bool = False) -> Batch:
        if 'features' in batch:
            return {'hidden': self._mixed(batch['features'])}
        outputs = getattr(self, self._place).states(batch, dropout, pooled)
        return outputs | {'hidden': self._mixed(outputs.pop('layers'))} if self.config.read_layers else outputs

    def _mixed(self, states: jax.Array) -> jax.Array:
        """[..., width] of the layers of [..., S, D]."""
        states = states.astype(compute_dtype(self.config))
        if hasattr(self, 'layer_mix'):
            return self.layer_mix(states)
        return states.reshape(*states.shape[:-2], -1)

    def features(self, batch: Batch) -> jax.Array:
        """What this head reads of its body, without dropout, of each layer: one vector a row, [B, S, D], of heads over a whole sequence, else [B, L, S, D].

        A function of the body's parameters alone; those of its pooler are none of these.
        """
        outputs = getattr(self, self._place).states(batch, None, False)
        layers_BLSD = outputs['layers'] if self.config.read_layers else outputs['hidden'][:, :, None]
        if 'pooling' not in self.reads:
            return layers_BLSD
        real_BL = batch['sequence_ids'] > 0
        return jnp.stack([pool(layers_BLSD[:, :, number], real_BL, self.pooling_used) for number in range(layers_BLSD.shape[2])], axis=1)

    @property
    def width(self) -> int:
        """Of the states that the head's own layers read."""
        config = self.config
        return config.d_model * (len(config.read_layers) if config.read_layers and config.layer_mix == LayerMix.concatenated else 1)

    def _layer(self, outputs: int) -> Einsum:
        config = self.config
        return Einsum((self.width, outputs), ('embed', 'labels'), compute_dtype(config), initializer(config, self.width), config.head_bias)

    def _dropped(self, x: jax.Array, dropout: DropoutKey | None) -> jax.Array:
        return _dropout(x, self.config.dropout, dropout if dropout is None else dropout.fold(_HEAD_KEY), 0)

    def _summary(self, batch: Batch, dropout: DropoutKey | None) -> tuple[Batch, jax.Array]:
        """(states, one vector a row [B, D], or one a text [B T, D]), as config.model.pooling says."""
        through = self.pooling_used == Pooling.cls and not self.config.read_layers
        if 'features' in batch or 'spans' in batch:
            if 'features' in batch:
                outputs, summary_BD = {}, self._mixed(batch['features'])
            else:
                outputs = self._states(batch, dropout)
                summary_BD = pool_spans(outputs['hidden'], batch['spans'], self.pooling_used).reshape(-1, outputs['hidden'].shape[-1])
            body = getattr(self, self._place)
            if through and hasattr(body, 'pooled_of'):
                outputs |= {'pooled': body.pooled_of(summary_BD)}
        else:
            outputs = self._states(batch, dropout, pooled=through)
            summary_BD = None if 'pooled' in outputs else pool(outputs['hidden'], batch['sequence_ids'] > 0, self.pooling_used)
        return outputs, outputs['pooled'] if 'pooled' in outputs else summary_BD

    @property
    def pooling_used(self) -> Pooling:
        how = self.config.pooling
        return self.body_class(self.config).pooling if how == Pooling.auto else how

    @classmethod
    def forward_flops(cls, config: ModelConfig, length: int, predictions: int) -> int:
        """Of one sequence."""
        del predictions
        return cls.body_class(config).states_flops(config, length) + cls.head_flops(config)

    @classmethod
    def head_flops(cls, config: ModelConfig) -> int:
        """Without the body."""
        return 2 * config.d_model * (config.d_model + config.num_labels)


def pool(hidden_BLD: jax.Array, real_BL: jax.Array, how: Pooling) -> jax.Array:
    """One vector a row [B, D]: of the first position, of the last real one, or the mean over real ones; of a row without any, zeros for the mean."""
    if how == Pooling.cls:
        return hidden_BLD[:, 0]
    if how == Pooling.last:
        places_BL = jax.lax.broadcasted_iota(jnp.int32, real_BL.shape, 1)
        last_B = jnp.max(jnp.where(real_BL, places_BL, 0), axis=1)
        chosen_BL = places_BL == last_B[:, None]
    else:
        chosen_BL = real_BL
    # Summed in float32 and not gathered: a gather along a sharded length has a transpose that partitioners lay out badly.
    weights_BL = chosen_BL.astype(jnp.float32)
    total_BD = jnp.sum(jnp.where(chosen_BL[:, :, None], hidden_BLD.astype(jnp.float32), jnp.float32(0)), axis=1)
    return (total_BD / jnp.maximum(jnp.sum(weights_BL, axis=1, keepdims=True), jnp.float32(1))).astype(hidden_BLD.dtype)


def pool_spans(hidden_BLD: jax.Array, spans_BT2: jax.Array, how: Pooling) -> jax.Array:
    """As `pool`, of each span [first, end) of a row: [B, T, D]; of an empty one, zeros."""
    first_BT1, end_BT1 = spans_BT2[:, :, :1], spans_BT2[:, :, 1:]
    places_11L = jnp.arange(hidden_BLD.shape[1])[None, None]
    if how == Pooling.mean:
        chosen_BTL = (places_11L >= first_BT1) & (places_11L < end_BT1)
    else:
        chosen_BTL = (places_11L == (first_BT1 if how == Pooling.cls else end_BT1 - 1)) & (first_BT1 < end_BT1)
    weights_BTL = chosen_BTL.astype(jnp.float32)
    total_BTD = jnp.einsum('BTL,BLD->BTD', weights_BTL, hidden_BLD.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return (total_BTD / jnp.maximum(jnp.sum(weights_BTL, axis=2, keepdims=True), jnp.float32(1))).astype(hidden_BLD.dtype)


class SequenceHead(Head):
    """A linear layer over the summary of a sequence: logits [B, C] of classes, of several labels, or one number for regression; [B T, C] where T texts share a
    row."""

    reads = ('pooling',)

    def setup(self):
        self._make_body()
        self.classifier = self._layer(self.config.num_labels)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        outputs, summary_BD = self._summary(batch, dropout)
        if dropout is not None and 'spans' in batch:
            dropout = _apart(dropout, batch['spans'].shape[1])
        return outputs | {'logits': self.classifier('BD,DC->BC', self._dropped(summary_BD, dropout)).astype(jnp.float32)}


def _apart(dropout: DropoutKey, each: int) -> DropoutKey:
    """Of `each` things of a row, end to end: every one drops out by itself."""
    numbers = jax.lax.broadcasted_iota(jnp.uint32, (dropout.rows.shape[0], each), 1)
    return dropout.replace(rows=(dropout.rows[:, None] * jnp.uint32(each) + numbers).reshape(-1))


class ChoiceHead(Head):
    """Multiple choice: one number for each of N choices of a row, the same linear layer over the summary of each (Radford et al., 2018, section 3.3; Devlin et
    al., 2018, section 4.4).

    Features are [B, N, L]: a choice with what it is a choice for is a sequence of its own, and none sees another. Logits [B, N]; a choice without tokens is
    none, for questions with fewer than others, and has no probability. config.model.num_labels is N where work is counted, and changes nothing else.
    """

    reads = ('pooling',)

    def setup(self):
        self._make_body()
        self.classifier = self._layer(1)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        choices = batch['tokens'].shape[1] if batch['tokens'].ndim == 3 else 1
        rows = batch['tokens'].shape[0]
        each = {name: value.reshape(rows * choices, value.shape[-1]) for name, value in batch.items() if value.ndim == batch['tokens'].ndim}
        dropout = dropout if dropout is None else _apart(dropout, choices)
        outputs, summary_ED = self._summary(each, dropout)
        logits_BN = self.classifier('BD,DC->BC', self._dropped(summary_ED, dropout)).astype(jnp.float32).reshape(rows, choices)
        there_BN = jnp.any(each['sequence_ids'] > 0, axis=1).reshape(rows, choices)
        return outputs | {'logits': jnp.where(there_BN, logits_BN, jnp.float32(crf.NEVER))}

    @classmethod
    def forward_flops(cls, config: ModelConfig, length: int, predictions: int) -> int:
        """Of one question with its choices."""
        del predictions
        return max(1, config.num_labels) * (cls.body_class(config).states_flops(config, length) + 2 * config.d_model * (config.d_model + 1))


class TokenHead(Head):
    """A linear layer over every token: logits [B, L, C], and with config.model.crf a conditional random field over the tokens where `tagged` is set.

    Outputs beside logits, of the softmax or the field alike, so that neither losses nor answers know which it is:

        tags [B, L] int32             the best; with a field the best sequence, not the best at each token, of those that config.model.crf_legal allows
        probabilities [B, L, C]       of each tag at each token, given the row; of a field its marginals
        log_likelihood [B]            of `labels`, a sum over the tagged tokens of a row; only where the batch has labels

    What is not used of these is not computed: the compiler leaves it out.
    """

    reads = ('crf',)

    def setup(self):
        self._make_body()
        self.classifier = self._layer(self.config.num_labels)
        if self.config.crf:
            self.crf = crf.Crf(self.config.num_labels)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        outputs = self._states(batch, dropout)
        logits_BLC = self.classifier('BLD,DC->BLC', self._dropped(outputs['hidden'], dropout)).astype(jnp.float32)
        return outputs | {'logits': logits_BLC} | self._read(logits_BLC, batch)

    def _read(self, logits_BLC: jax.Array, batch: Batch) -> Batch:
        tagged_BL = (batch['tagged'] if 'tagged' in batch else batch['sequence_ids']) > 0
        if self.config.crf:
            scores = self.crf()
            best = scores  # training and probabilities are of all sequences, decoding of the legal ones
            if self.config.crf_legal:
                best = crf.constrained(scores, jnp.asarray([[mark == '1' for mark in row] for row in self.config.crf_legal]))
            found = {'tags': crf.viterbi(logits_BLC, tagged_BL, best)[0], 'probabilities': crf.marginals(logits_BLC, tagged_BL, scores)}
            if 'labels' in batch:
                found['log_likelihood'] = crf.log_likelihood(logits_BLC, batch['labels'], tagged_BL, scores)
            return found
        log_probabilities_BLC = jax.nn.log_softmax(logits_BLC, axis=-1)
        found = {'tags': jnp.argmax(logits_BLC, axis=-1).astype(jnp.int32), 'probabilities': jnp.exp(log_probabilities_BLC)}
        if 'labels' in batch:
            classes = jax.lax.broadcasted_iota(jnp.int32, logits_BLC.shape, 2)
            chosen_BLC = (classes == batch['labels'][:, :, None]) & tagged_BL[:, :, None]
            found['log_likelihood'] = jnp.sum(jnp.where(chosen_BLC, log_probabilities_BLC, jnp.float32(0)), axis=(1, 2))
        return found


class SpanHead(Head):
    """Two numbers for every token: start_logits and end_logits [B, L] of an answer (Devlin et al., 2018, section 4.2); padding is none."""

    def setup(self):
        self._make_body()
        self.span = self._layer(2)

    def __call__(self, batch: Batch, dropout: DropoutKey | None = None) -> Batch:
        outputs = self._states(batch, dropout)
        logits_BL2 = self.span('BLD,DC->BLC', self._dropped(outputs['hidden'], dropout)).astype(jnp.float32)
        # Below any real score, and finite: so that gradients are.
        logits_BL2 = jnp.where((batch['sequence_ids'] > 0)[:, :, None], logits_BL2, jnp.float32(crf.NEVER))
        return outputs | {'start_logits': logits_BL2[:, :, 0], 'end_logits': logits_BL2[:, :, 1]}
