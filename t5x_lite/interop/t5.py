"""T5 1.0, 1.1 and mT5 in Hugging Face's words: the fields of their config.json and the names of their weights (see t5x_lite.interop.folder).

Names as transformers/models/t5/modeling_t5.py has them.
"""

from typing import Any

from absl import logging

from t5x_lite.config import Activation, Init, ModelConfig, Norm, NormPlace, Positions
from t5x_lite.errors import UserError
from t5x_lite.interop.family import Rule
from t5x_lite.interop.fields import (
    ACTIVATIONS, WRITTEN, activation, check_exportable, flag, number, refuse_others, share, whole_number, whole_number_or,
)  # fmt: skip
from t5x_lite.models.layers import head_size

_MODULE, _TAGS = 't5x_lite.models.language_model:EncoderDecoder', 't5x_lite.models.heads:TokenHead'
_SIZES = {'vocab_size': 'vocab_size', 'd_model': 'd_model', 'd_kv': 'head_size', 'd_ff': 'd_ff', 'num_layers': 'num_layers', 'num_heads': 'num_heads'}
_RATES = ('dropout', 'attention_dropout', 'hidden_dropout', 'output_dropout')  # all that dropout_rate is
_ONLY = {'is_encoder_decoder': True, 'is_decoder': False, 'tie_encoder_decoder': False}
_OURS = {
    'norm': Norm.rms, 'norm_place': NormPlace.pre, 'use_bias': False, 'positions': Positions.relative, 'scale_attention': False, 'local_window': 0,
}  # fmt: skip
# feed_forward_proj is an activation, or 'gated-' and one; 'gated-gelu' is the tanh form, 'gelu' the erf form.
_PROJECTIONS = {
    **{name: (known, False) for name, known in ACTIVATIONS.items()},
    **{f'gated-{name}': (known, True) for name, known in ACTIVATIONS.items()},
    'gated-gelu': (Activation.gelu_tanh, True),
}
_WRITTEN = {(known, False): name for known, name in WRITTEN.items()} | {
    (Activation.gelu, True): 'gated-gelu_python', (Activation.gelu_tanh, True): 'gated-gelu', (Activation.relu, True): 'gated-relu',
}  # fmt: skip


def _linear(name: str, path: str, theirs: str, layers: str = 'N') -> Rule:
    """A torch Linear without bias: a weight [out, in], which is our kernel [in, out]."""
    return Rule('body', f'{name}.weight', theirs, f'{path}/kernel', theirs[::-1], layers)


def _norm(name: str, path: str, layers: str = 'N') -> Rule:
    return Rule('body', f'{name}.weight', 'D', f'{path}/scale', 'D', layers)


def _attention(name: str, path: str, layers: str) -> tuple[Rule, ...]:
    return (
        *(_linear(f'{name}.{letter}', f'{path}/{word}', 'ED', layers) for letter, word in (('q', 'query'), ('k', 'key'), ('v', 'value'))),
        _linear(f'{name}.o', f'{path}/output', 'DE', layers),
    )


def _stack(name: str, layers: str, gated: bool, cross: bool) -> tuple[Rule, ...]:
    block, ours, last = f'{name}.block.{{}}.layer', f'{name}/layers', 2 if cross else 1
    rules = [*_attention(f'{block}.0.SelfAttention', f'{ours}/attention', layers), _norm(f'{block}.0.layer_norm', f'{ours}/attention_norm', layers)]
    if cross:
        rules += _attention(f'{block}.1.EncDecAttention', f'{ours}/cross_attention', layers)
        rules.append(_norm(f'{block}.1.layer_norm', f'{ours}/cross_attention_norm', layers))
    widening = {'wi_0': 'wi', 'wi_1': 'wg'} if gated else {'wi': 'wi'}
    rules += [_linear(f'{block}.{last}.DenseReluDense.{theirs}', f'{ours}/mlp/{word}', 'FD', layers) for theirs, word in widening.items()]
    return (
        *rules,
        _linear(f'{block}.{last}.DenseReluDense.wo', f'{ours}/mlp/wo', 'DF', layers),
        _norm(f'{block}.{last}.layer_norm', f'{ours}/mlp_norm', layers),
        Rule('body', f'{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight', 'BH', f'{name}/relative_bias/embedding', 'BH'),
        _norm(f'{name}.final_layer_norm', f'{name}/final_norm'),
    )


class T5:
    """How a T5 folder maps to `t5x_lite.models.language_model:EncoderDecoder`, or a tagger on its encoder, and back.

    Axes: V vocabulary, D width, E heads x head size, F feed-forward, B buckets, H heads, C labels; N layers of the encoder, M of the decoder.
    """

    # T5Model has no output layer: transformers too ties it when such a folder is read as a language model. Classes and answers are read off the decoder
    # there, off the encoder in ours: of heads, tags alone are the same.
    modules = dict.fromkeys(('T5ForConditionalGeneration', 'T5Model', 'T5WithLMHeadModel'), _MODULE) | {'T5ForTokenClassification': _TAGS}
    always = ('body',)
    private = labelled = frozenset({'classifier'})
    body, heads = _MODULE, frozenset({_TAGS})
    tied = dict.fromkeys(('encoder.embed_tokens.weight', 'decoder.embed_tokens.weight', 'lm_head.weight'), 'shared.weight')
    head, depth = 'lm_head.weight', 'num_layers and num_decoder_layers'
    loss, source = 't5x_lite.training.losses:LmLoss', 't5x_lite.data.span_corruption:SpanCorruption'
    projection = 'relu'  # where config.json does not say

    @property
    def required(self) -> dict[str, tuple[str, ...]]:
        return {name: ('body', 'classifier') if module == _TAGS else ('body',) for name, module in self.modules.items()}

    def rules(self, config: ModelConfig) -> tuple[Rule, ...]:
        tags = (
            Rule('classifier', 'classifier.weight', 'CD', 'classifier/kernel', 'DC'),
            Rule('classifier', 'classifier.bias', 'C', 'classifier/bias', 'C'),
        )
        written = (
            *_stack('decoder', 'M', config.gated, cross=True),
            *(() if config.tie_embeddings else (_linear('lm_head', 'embeddings/output', 'VD'),)),
        )
        return (
            Rule('body', 'shared.weight', 'VD', 'embeddings/word/embedding', 'VD'),
            *_stack('encoder', 'N', config.gated, cross=False),
            *(written if config.module != _TAGS else ()),
            *(tags if config.module in ('', _TAGS) else ()),
        )

    def canonical(self, name: str) -> str | None:
        """None: a table that older releases saved for cross-attention, which reads none."""
        name = name.removeprefix('transformer.')
        return None if name == 'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight' else name

    def written(self, name: str, architecture: str) -> str:
        return f'transformer.{name}' if self.modules[architecture] == _TAGS and name.split('.')[0] not in self.private else name

    def sizes(self, config: ModelConfig) -> dict[str, int]:
        return {
            'N': config.num_layers, 'M': config.num_decoder_layers or config.num_layers, 'V': config.vocab_size, 'D': config.d_model,
            'E': config.num_heads * head_size(config), 'F': config.d_ff, 'B': config.relative_buckets, 'H': config.num_heads,
            'C': config.num_labels,
        }  # fmt: skip

    def architecture(self, stated: list[str], groups: set[str]) -> str:
        return next((name for name in stated if name in self.modules), next(iter(self.modules)))

    def export_architecture(self, groups: set[str]) -> str:
        return next(name for name, module in self.modules.items() if module == (_TAGS if 'classifier' in groups else _MODULE))

    def model_config(self, fields: dict[str, Any], where: str) -> ModelConfig:
        """`fields` of the config.json at `where`, as ours; `module` and a head of its own are not its business.

        Raises:
          UserError: naming the field that is absent, ill-typed, or asks for what our model does not do.
        """
        stated = fields.get('architectures')
        if stated and not any(name in self.modules for name in stated):
            raise UserError(f'{where}: architectures is {stated!r}; only {", ".join(self.modules)} are supported: two stacks, or tags')
        refuse_others(fields, _ONLY, where)
        values = {ours: whole_number(fields, name, where) for name, ours in _SIZES.items()}
        values |= dict.fromkeys(_RATES, share(fields, 'dropout_rate', where, 0.1))
        buckets = whole_number_or(fields, 'relative_attention_num_buckets', where, 32)
        distance = whole_number_or(fields, 'relative_attention_max_distance', where, 128)
        if buckets < 4 or distance <= buckets // 2:
            raise UserError(
                f'{where}: relative_attention_num_buckets={buckets} with relative_attention_max_distance={distance}; '
                'expected at least 4 buckets, and a distance above half of them'
            )
        if number(fields, 'initializer_factor', where, 1.0) != 1.0:
            logging.warning('%s: initializer_factor is left out; new weights are drawn as with 1.0', where)
        decoder_layers = whole_number_or(fields, 'num_decoder_layers', where, values['num_layers'])
        kind, gated = self._projection(fields, where)
        return ModelConfig(
            activation=kind, gated=gated,
            num_decoder_layers=0 if decoder_layers == values['num_layers'] else decoder_layers,
            relative_buckets=buckets, relative_max_distance=distance,
            norm_eps=number(fields, 'layer_norm_epsilon', where, 1e-6),
            scale_logits=self.scaled(fields, where),
            # Of a language model the weights tell.
            tie_embeddings=self.modules[self.architecture(stated or [], set())] != _TAGS or flag(fields, 'tie_word_embeddings', where, True),
            init=Init.fan_in, **_OURS, **values,
        )  # fmt: skip

    def _projection(self, fields: dict[str, Any], where: str) -> tuple[Activation, bool]:
        """Two fields that transformers writes beside feed_forward_proj have the last word there too."""
        name = fields.get('feed_forward_proj') or self.projection
        if name not in list(_PROJECTIONS):
            activation(name, 'feed_forward_proj', where, dict(_PROJECTIONS))  # which refuses it
        kind, gated = _PROJECTIONS[name]
        if fields.get('dense_act_fn') is not None:
            kind = activation(fields['dense_act_fn'], 'dense_act_fn', where)
        return kind, flag(fields, 'is_gated_act', where, gated)

    def scaled(self, fields: dict[str, Any], where: str) -> bool:
        """Whether states are multiplied by d_model ** -0.5 before the output layer: transformers goes by these fields alone, tied or not."""
        return flag(fields, 'scale_decoder_outputs', where, flag(fields, 'tie_word_embeddings', where, True))

    def exports(self, config: ModelConfig) -> bool:
        return True

    def fields(self, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `model_config`. Padding, end and start are what every T5 has; a tokenizer, where there is one, says more.

        Raises:
          UserError: transformers' T5 cannot compute this model.
        """
        check_exportable(config, 'T5', _OURS)
        if len({getattr(config, name) for name in _RATES}) > 1:
            logging.warning('dropout_rate is written as config.model.dropout=%s; T5 in transformers has no other rates', config.dropout)
        if config.module == _TAGS and not config.head_bias:
            raise UserError(
                'config.model.head_bias=False cannot be exported: T5 in transformers tags with a bias; fine-tune with --config.model.head_bias=True'
            )
        if config.tie_embeddings != config.scale_logits and config.module != _TAGS:
            logging.warning('releases of transformers that do not know scale_decoder_outputs scale logits where embeddings are tied, and only there')
        return {name: getattr(config, ours) for name, ours in _SIZES.items()} | {
            'model_type': 't5', 'is_encoder_decoder': True, 'd_kv': head_size(config),
            'num_decoder_layers': config.num_decoder_layers or config.num_layers, 'feed_forward_proj': _WRITTEN[config.activation, config.gated],
            'relative_attention_num_buckets': config.relative_buckets, 'relative_attention_max_distance': config.relative_max_distance,
            'dropout_rate': config.dropout, 'layer_norm_epsilon': config.norm_eps, 'initializer_factor': 1.0,
            'tie_word_embeddings': config.tie_embeddings, 'scale_decoder_outputs': config.scale_logits,
            'pad_token_id': 0, 'eos_token_id': 1, 'decoder_start_token_id': 0,
        }  # fmt: skip


class Mt5(T5):
    """T5 1.1 with many languages (Xue et al., 2021); never scaled in transformers. What we write of it is a T5 folder, which computes the same."""

    modules = dict.fromkeys(('MT5ForConditionalGeneration', 'MT5Model'), _MODULE) | {'MT5ForTokenClassification': _TAGS}
    projection = 'gated-gelu'

    def scaled(self, fields: dict[str, Any], where: str) -> bool:
        return False

    def exports(self, config: ModelConfig) -> bool:
        return False
