"""GPT-1 and GPT-2 in Hugging Face's words: the fields of their config.json and the names of their weights (see t5x_lite.interop.folder).

Names as transformers/models/gpt2/modeling_gpt2.py and openai/modeling_openai.py have them. Their products are `Conv1D`s, whose weights lie as
ours do, [in, out]; queries, keys and values are one product, [D, 3 D].
"""

import re
from typing import Any

from absl import logging

from t5x_lite.config import Activation, Init, ModelConfig, Norm, NormPlace, Pooling, Positions
from t5x_lite.errors import UserError
from t5x_lite.interop.family import Rule
from t5x_lite.interop.fields import (
    WRITTEN, activation, check_exportable, check_heads, flag, number, refuse_others, share, whole_number, whole_number_or,
)  # fmt: skip

_MODULE = 't5x_lite.models.language_model:Decoder'
_CLASSES, _TAGS = 't5x_lite.models.heads:SequenceHead', 't5x_lite.models.heads:TokenHead'
_SIZES = {'vocab_size': 'vocab_size', 'n_embd': 'd_model', 'n_layer': 'num_layers', 'n_head': 'num_heads', 'n_positions': 'max_positions'}
_RATES = {'resid_pdrop': 'dropout', 'embd_pdrop': 'dropout', 'attn_pdrop': 'attention_dropout'}
# Fields that would change what the model computes, and the only value that ours has for each.
_ONLY = {'scale_attn_by_inverse_layer_idx': False, 'reorder_and_upcast_attn': False, 'add_cross_attention': False}
_OURS = {'norm': Norm.layer, 'positions': Positions.learned, 'gated': False, 'use_bias': True, 'local_window': 0, 'scale_logits': False}
_GPT2_PIECES = 50257  # of the released vocabulary, whose last is the end of text


def _conv(name: str, path: str, shape: str, part: int = 0, parts: int = 1) -> tuple[Rule, Rule]:
    """A `Conv1D`: a weight [in, out] and a bias [out], or one of `parts` joined along the outputs."""
    return (
        Rule('body', f'{name}.weight', shape, f'{path}/kernel', shape, part=part, parts=parts),
        Rule('body', f'{name}.bias', shape[1], f'{path}/bias', shape[1], part=part, parts=parts),
    )


def _norm(name: str, path: str) -> tuple[Rule, Rule]:
    return Rule('body', f'{name}.weight', 'D', f'{path}/scale', 'D'), Rule('body', f'{name}.bias', 'D', f'{path}/bias', 'D')


_LAYERS = (
    *(
        rule
        for part, name in enumerate(('query', 'key', 'value'))
        for rule in _conv('h.{}.attn.c_attn', f'decoder/layers/attention/{name}', 'DE', part, 3)
    ),
    *_conv('h.{}.attn.c_proj', 'decoder/layers/attention/output', 'ED'),
    *_norm('h.{}.ln_1', 'decoder/layers/attention_norm'),
    *_conv('h.{}.mlp.c_fc', 'decoder/layers/mlp/wi', 'DF'),
    *_conv('h.{}.mlp.c_proj', 'decoder/layers/mlp/wo', 'FD'),
    *_norm('h.{}.ln_2', 'decoder/layers/mlp_norm'),
)


# Heads of transformers: classes are read off the last token, without a bias (config.model.head_bias), tags off every token with one.
_HEADS = {
    _CLASSES: (Rule('score', 'score.weight', 'CD', 'classifier/kernel', 'DC'),),
    _TAGS: (
        Rule('classifier', 'classifier.weight', 'CD', 'classifier/kernel', 'DC'),
        Rule('classifier', 'classifier.bias', 'C', 'classifier/bias', 'C'),
    ),
}


class _Gpt:
    """What the two share.

    Axes: V vocabulary, D width, E heads x head size (which is D), F feed-forward, L positions, C labels.
    """

    always = ('body',)
    private = labelled = frozenset(rule.group for rules in _HEADS.values() for rule in rules)
    body = _MODULE
    head, depth = 'lm_head.weight', 'n_layer'
    loss, source = 't5x_lite.training.losses:LmLoss', 't5x_lite.data.language_modelling:CausalLm'
    # Of a family: architectures, the model_type, its name in messages, the names of its two tables and of its activation, and its fields of ours.
    modules: dict[str, str]
    model_type: str
    title: str
    words: str
    places: str
    act: str
    released: str  # its value in the released folders, and where config.json does not say
    activations: dict[str, Activation] | None = None  # None: all that we have
    ours: dict[str, Any]

    @property
    def heads(self) -> frozenset[str]:
        return frozenset(_HEADS) & frozenset(self.modules.values())

    @property
    def required(self) -> dict[str, tuple[str, ...]]:
        return {name: (*self.always, *{rule.group for rule in _HEADS[module]}) if module in _HEADS else self.always for name, module in self.modules.items()}

    @property
    def tied(self) -> dict[str, str]:
        return {self.head: self.words}

    def rules(self, config: ModelConfig) -> tuple[Rule, ...]:
        return (
            Rule('body', self.words, 'VD', 'embeddings/word/embedding', 'VD'),
            Rule('body', self.places, 'LD', 'embeddings/position/embedding', 'LD'),
            *_LAYERS,
            *(_norm('ln_f', 'decoder/final_norm') if config.norm_place == NormPlace.pre else ()),
            *(() if config.tie_embeddings or config.module in _HEADS else (Rule('body', self.head, 'VD', 'embeddings/output/kernel', 'DV'),)),
            *(rule for module, rules in _HEADS.items() for rule in rules if config.module in ('', module)),
        )

    def canonical(self, name: str) -> str | None:
        """Without the prefix 'transformer.'. None: the causal mask that older releases saved."""
        name = name.removeprefix('transformer.')
        return None if name == 'position_ids' or re.fullmatch(r'h\.\d+\.attn\.(bias|masked_bias)', name) else name

    def written(self, name: str, architecture: str) -> str:
        return name if name == self.head or name.split('.')[0] in self.private else f'transformer.{name}'

    def sizes(self, config: ModelConfig) -> dict[str, int]:
        return {
            'N': config.num_layers, 'V': config.vocab_size, 'D': config.d_model, 'E': config.d_model, 'F': config.d_ff, 'L': config.max_positions,
            'C': config.num_labels,
        }  # fmt: skip

    def architecture(self, stated: list[str], groups: set[str]) -> str:
        """Of what we lack the body is all that we take: other heads are left out, and the folder is a language model."""
        return next((name for name in stated if name in self.modules), next(iter(self.modules)))

    def export_architecture(self, groups: set[str]) -> str:
        module = next((module for module, rules in _HEADS.items() if rules[0].group in groups), _MODULE)
        return next(name for name, known in self.modules.items() if known == module)

    def model_config(self, fields: dict[str, Any], where: str) -> ModelConfig:
        """`fields` of the config.json at `where`, as ours; `module` is not its business.

        Raises:
          UserError: naming the field that is absent, ill-typed, or asks for what our model does not do.
        """
        refuse_others(fields, _ONLY, where)
        values = {ours: whole_number(fields, name, where) for name, ours in _SIZES.items()}
        rates = {name: share(fields, name, where, 0.1) for name in _RATES}
        values |= {ours: rates[name] for name, ours in reversed(_RATES.items())}
        if rates['embd_pdrop'] != rates['resid_pdrop']:
            logging.warning('%s: embd_pdrop %s is left out; ours is resid_pdrop %s', where, rates['embd_pdrop'], rates['resid_pdrop'])
        if values['d_model'] % values['num_heads']:
            raise UserError(f'{where}: n_head={values["num_heads"]} does not divide n_embd={values["d_model"]}')
        return ModelConfig(
            activation=activation(fields.get(self.act) or self.released, self.act, where, self.activations),
            norm_eps=number(fields, 'layer_norm_epsilon', where, 1e-5),
            init_stddev=number(fields, 'initializer_range', where, 0.02),
            tie_embeddings=flag(fields, 'tie_word_embeddings', where, True),
            d_ff=self.hidden(fields, values['d_model'], where),
            head_bias=self.modules[self.architecture(fields.get('architectures') or [], set())] != _CLASSES,
            **self.ours,
            **self.more(fields, where),
            **values,
        )

    def exports(self, config: ModelConfig) -> bool:
        """Where its norms stand tells the two apart."""
        return config.norm_place == self.ours['norm_place']

    def fields(self, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `model_config`.

        Raises:
          UserError: transformers cannot compute this model.
        """
        if config.module == _CLASSES and config.head_bias:
            raise UserError(
                f'config.model.head_bias=True cannot be exported: {self.title} in transformers classifies without a bias; '
                'fine-tune with --config.model.head_bias=False'
            )
        if config.pooling not in (Pooling.auto, Pooling.last):
            raise UserError(f'config.model.pooling={config.pooling.name} cannot be exported: {self.title} in transformers classifies by the last token')
        check_exportable(config, self.title, _OURS, no_dropout=('hidden_dropout', 'output_dropout'))
        check_heads(config, self.title)
        values = {name: getattr(config, ours) for name, ours in (_SIZES | _RATES).items()}
        # Without a tokenizer there is no telling where texts end, except for the released vocabulary.
        end = config.vocab_size - 1 if config.vocab_size == _GPT2_PIECES else None
        return values | {
            'model_type': self.model_type, 'n_ctx': config.max_positions, self.act: self.written_activation(config.activation),
            'layer_norm_epsilon': config.norm_eps, 'initializer_range': config.init_stddev, 'tie_word_embeddings': config.tie_embeddings,
            'bos_token_id': end, 'eos_token_id': end, 'pad_token_id': None,
        }  # fmt: skip

    def hidden(self, fields: dict[str, Any], width: int, where: str) -> int:
        return 4 * width

    def more(self, fields: dict[str, Any], where: str) -> dict[str, Any]:
        """Fields of ours that only this family varies."""
        return {}

    def written_activation(self, value: Activation) -> str:
        return WRITTEN[value]


class Gpt2(_Gpt):
    """Norms before blocks and after the last (Radford et al., 2019)."""

    modules = dict.fromkeys(('GPT2LMHeadModel', 'GPT2Model', 'GPT2DoubleHeadsModel'), _MODULE) | {
        'GPT2ForSequenceClassification': _CLASSES, 'GPT2ForTokenClassification': _TAGS,
    }  # fmt: skip
    model_type, title = 'gpt2', 'GPT-2'
    words, places, act = 'wte.weight', 'wpe.weight', 'activation_function'
    released = 'gelu_new'
    ours = {'norm_place': NormPlace.pre, 'init': Init.residual}

    def hidden(self, fields: dict[str, Any], width: int, where: str) -> int:
        return whole_number_or(fields, 'n_inner', where, 4 * width)

    def more(self, fields: dict[str, Any], where: str) -> dict[str, Any]:
        return {'scale_attention': flag(fields, 'scale_attn_weights', where, True)}

    def fields(self, config: ModelConfig) -> dict[str, Any]:
        inner = None if config.d_ff == 4 * config.d_model else config.d_ff
        return super().fields(config) | {'n_inner': inner, 'scale_attn_weights': config.scale_attention, **_ONLY}


class Gpt1(_Gpt):
    """Norms after blocks (Radford et al., 2018)."""

    modules = dict.fromkeys(('OpenAIGPTLMHeadModel', 'OpenAIGPTModel', 'OpenAIGPTDoubleHeadsModel'), _MODULE) | {
        'OpenAIGPTForSequenceClassification': _CLASSES,
    }  # fmt: skip
    model_type, title = 'openai-gpt', 'GPT-1'
    words, places, act = 'tokens_embed.weight', 'positions_embed.weight', 'afn'
    released = 'gelu'
    activations = {'gelu': Activation.gelu_tanh, 'relu': Activation.relu}  # 'gelu' is the tanh form there (ACT_FNS)
    ours = {'norm_place': NormPlace.post, 'init': Init.normal}

    def fields(self, config: ModelConfig) -> dict[str, Any]:
        check_exportable(config, self.title, {'scale_attention': True, 'd_ff': 4 * config.d_model})
        return super().fields(config)

    def written_activation(self, value: Activation) -> str:
        for name, known in self.activations.items():
            if known == value:
                return name
        raise UserError(f'config.model.activation={value.name} cannot be exported: GPT-1 in transformers has gelu_tanh and relu only')
