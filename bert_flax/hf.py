"""BERT in Hugging Face's words: the fields of its config.json and the names of its weights, beside ours (see t5x_lite.interop.folder).

Names as transformers/models/bert/modeling_bert.py has them today; `canonical` brings older spellings to these.
"""

import re
from typing import Any

from absl import logging

from t5x_lite.config import ModelConfig, Norm, NormPlace, Pooling, Positions
from t5x_lite.errors import UserError
from t5x_lite.interop.family import Rule
from t5x_lite.interop.fields import WRITTEN, activation, check_exportable, check_heads, number, refuse_others, share, whole_number

_SIZES = {
    'vocab_size': 'vocab_size',
    'hidden_size': 'd_model',
    'num_hidden_layers': 'num_layers',
    'num_attention_heads': 'num_heads',
    'intermediate_size': 'd_ff',
    'max_position_embeddings': 'max_positions',
    'type_vocab_size': 'num_segments',
}
# The defaults are those of transformers' BertConfig: the oldest folders lack these fields.
_NUMBERS = {
    'layer_norm_eps': ('norm_eps', 1e-12),
    'initializer_range': ('init_stddev', 0.02),
}
_RATES = {'hidden_dropout_prob': ('dropout', 0.1), 'attention_probs_dropout_prob': ('attention_dropout', 0.1)}
# Fields that would change what the model computes, and the only value that this one has for each.
_ONLY = {'position_embedding_type': 'absolute', 'is_decoder': False, 'add_cross_attention': False, 'tie_word_embeddings': True}
_OURS = {
    'norm_place': NormPlace.post, 'norm': Norm.layer, 'positions': Positions.learned, 'gated': False, 'use_bias': True, 'scale_attention': True,
    'causal': False, 'local_window': 0, 'head_bias': True,
}  # fmt: skip


def _dense(group: str, name: str, path: str, theirs: str) -> tuple[Rule, Rule]:
    """A torch Linear: a weight [out, in], which is our kernel [in, out], and a bias [out]."""
    return (
        Rule(group, f'{name}.weight', theirs, f'{path}/kernel', theirs[::-1]),
        Rule(group, f'{name}.bias', theirs[0], f'{path}/bias', theirs[0]),
    )


def _norm(group: str, name: str, path: str) -> tuple[Rule, Rule]:
    return Rule(group, f'{name}.weight', 'D', f'{path}/scale', 'D'), Rule(group, f'{name}.bias', 'D', f'{path}/bias', 'D')


def _embedding(name: str, path: str, shape: str) -> tuple[Rule]:
    return (Rule('encoder', f'embeddings.{name}_embeddings.weight', shape, f'encoder/embeddings/{path}/embedding', shape),)


_CHOICES = 't5x_lite.models.heads:ChoiceHead'
_LAYER, _OUR_LAYER = 'encoder.layer.{}.', 'encoder/layers/'


class Bert:
    """How a BERT folder maps to `bert_flax.bert` and back.

    Axes: V vocabulary, D width, E width as the output of a product, F feed-forward, L positions, S segments, P pair classes (2), C labels, O one (of a choice),
    T two (ends of a span).
    """

    modules = {
        'BertForPreTraining': 'bert_flax.bert:BertForPreTraining',
        'BertForMaskedLM': 'bert_flax.bert:BertForMaskedLm',
        'BertModel': 'bert_flax.bert:Bert',
        'BertForSequenceClassification': 'bert_flax.bert:BertForClassification',
        'BertForTokenClassification': 't5x_lite.models.heads:TokenHead',
        'BertForMultipleChoice': _CHOICES,
        'BertForQuestionAnswering': 't5x_lite.models.heads:SpanHead',
    }
    body = 'bert_flax.bert:Bert'
    heads = frozenset({'t5x_lite.models.heads:SequenceHead', 't5x_lite.models.heads:TokenHead', _CHOICES, 't5x_lite.models.heads:SpanHead'})
    # Groups of rules that a folder of an architecture must hold; a group of which some is there must be whole in any folder.
    required = {
        'BertForPreTraining': ('encoder', 'pooler', 'mlm', 'nsp'),
        'BertForMaskedLM': ('encoder', 'mlm'),
        'BertModel': ('encoder',),  # the pooler is optional there
        'BertForSequenceClassification': ('encoder', 'pooler', 'classifier'),
        'BertForTokenClassification': ('encoder', 'classifier'),
        'BertForMultipleChoice': ('encoder', 'pooler', 'choice'),
        'BertForQuestionAnswering': ('encoder', 'span'),
    }
    always = ('encoder',)
    private, labelled = frozenset({'classifier', 'choice', 'span'}), frozenset({'classifier'})
    _rules = (
        *_embedding('word', 'word', 'VD'),
        *_embedding('position', 'position', 'LD'),
        *_embedding('token_type', 'segment', 'SD'),
        *_norm('encoder', 'embeddings.LayerNorm', 'encoder/embeddings/norm'),
        *_dense('encoder', _LAYER + 'attention.self.query', _OUR_LAYER + 'attention/query', 'ED'),
        *_dense('encoder', _LAYER + 'attention.self.key', _OUR_LAYER + 'attention/key', 'ED'),
        *_dense('encoder', _LAYER + 'attention.self.value', _OUR_LAYER + 'attention/value', 'ED'),
        *_dense('encoder', _LAYER + 'attention.output.dense', _OUR_LAYER + 'attention/output', 'DE'),
        *_norm('encoder', _LAYER + 'attention.output.LayerNorm', _OUR_LAYER + 'attention_norm'),
        *_dense('encoder', _LAYER + 'intermediate.dense', _OUR_LAYER + 'mlp/wi', 'FD'),
        *_dense('encoder', _LAYER + 'output.dense', _OUR_LAYER + 'mlp/wo', 'DF'),
        *_norm('encoder', _LAYER + 'output.LayerNorm', _OUR_LAYER + 'mlp_norm'),
        *_dense('pooler', 'pooler.dense', 'encoder/pooler', 'ED'),
        *_dense('mlm', 'cls.predictions.transform.dense', 'mlm/transform', 'ED'),
        *_norm('mlm', 'cls.predictions.transform.LayerNorm', 'mlm/norm'),
        Rule('mlm', 'cls.predictions.bias', 'V', 'mlm/output_bias', 'V'),
        *_dense('nsp', 'cls.seq_relationship', 'nsp', 'PD'),
        *_dense('classifier', 'classifier', 'classifier', 'CD'),
        *_dense('choice', 'classifier', 'classifier', 'OD'),  # of the same name, and one number for whatever is chosen from
        *_dense('span', 'qa_outputs', 'span', 'TD'),
    )
    # Second names of a weight: files may hold either or both, and both must then agree. We write the first, as transformers does.
    tied = {
        'cls.predictions.decoder.weight': 'embeddings.word_embeddings.weight',
        'cls.predictions.decoder.bias': 'cls.predictions.bias',
    }

    head, depth = '', 'num_hidden_layers'
    loss = source = ''

    def rules(self, config: ModelConfig) -> tuple[Rule, ...]:
        other = {'': '', _CHOICES: 'classifier'}[config.module] if config.module in ('', _CHOICES) else 'choice'
        return tuple(rule for rule in self._rules if rule.group != other)

    def exports(self, config: ModelConfig) -> bool:
        return True

    def canonical(self, name: str) -> str | None:
        """A weight's name as in `rules`: without the prefix 'bert.', TensorFlow's gamma and beta renamed. None: a buffer, not a weight."""
        name = re.sub(
            r'LayerNorm\.(gamma|beta)$',
            lambda found: 'LayerNorm.' + {'gamma': 'weight', 'beta': 'bias'}[found[1]],
            name.removeprefix('bert.'),
        )
        return None if name in ('embeddings.position_ids', 'embeddings.token_type_ids') else name

    def written(self, name: str, architecture: str) -> str:
        """The inverse: the encoder is `bert.` of every architecture but BertModel itself."""
        inside = architecture != 'BertModel' and name.split('.')[0] in ('embeddings', 'encoder', 'pooler')
        return f'bert.{name}' if inside else name

    def sizes(self, config: ModelConfig) -> dict[str, int]:
        return {
            'N': config.num_layers, 'V': config.vocab_size, 'D': config.d_model, 'E': config.d_model, 'F': config.d_ff,
            'L': config.max_positions, 'S': config.num_segments, 'P': 2, 'C': config.num_labels, 'O': 1, 'T': 2,
        }  # fmt: skip

    def architecture(self, stated: list[str], groups: set[str]) -> str:
        """The one that a folder states, if we have it; else the one that its weights make up."""
        for name in stated:
            if name in self.modules:
                return name
        if 'mlm' in groups:
            return 'BertForPreTraining' if {'nsp', 'pooler'} <= groups else 'BertForMaskedLM'
        return 'BertModel'

    def export_architecture(self, groups: set[str]) -> str:
        """The smallest that holds these groups."""
        if 'choice' in groups:
            return 'BertForMultipleChoice'
        if 'span' in groups:
            return 'BertForQuestionAnswering'
        if 'classifier' in groups:  # sentences are classified through the pooler (`fields`), tokens without
            return 'BertForSequenceClassification' if 'pooler' in groups else 'BertForTokenClassification'
        if 'mlm' in groups:
            return 'BertForPreTraining' if 'nsp' in groups else 'BertForMaskedLM'
        return 'BertForNextSentencePrediction' if 'nsp' in groups else 'BertModel'

    def model_config(self, fields: dict[str, Any], where: str) -> ModelConfig:
        """`fields` of the config.json at `where`, as ours; `module` and `num_labels` are not its business.

        Raises:
          UserError: naming the field that is absent, ill-typed, or asks for what our model does not do.
        """
        refuse_others(fields, _ONLY, where)
        values = {ours: whole_number(fields, name, where) for name, ours in _SIZES.items()}
        values |= {ours: number(fields, name, where, default) for name, (ours, default) in _NUMBERS.items()}
        values |= {ours: share(fields, name, where, default) for name, (ours, default) in _RATES.items()}
        if 'hidden_act' not in fields:
            raise UserError(f'{where}: field hidden_act is missing; add it ("gelu" for the released BERT weights)')
        dropout = fields.get('classifier_dropout')
        if dropout is not None and dropout != values['dropout']:
            logging.warning('%s: classifier_dropout %s is left out; ours is hidden_dropout_prob %s', where, dropout, values['dropout'])
        if values['d_model'] % values['num_heads']:
            raise UserError(f'{where}: num_attention_heads={values["num_heads"]} does not divide hidden_size={values["d_model"]}')
        return ModelConfig(activation=activation(fields['hidden_act'], 'hidden_act', where), **values)

    def fields(self, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `model_config`.

        Raises:
          UserError: transformers' BERT cannot compute this model.
        """
        if config.pooling not in (Pooling.auto, Pooling.cls):
            raise UserError(f'config.model.pooling={config.pooling.name} cannot be exported: BERT in transformers classifies by [CLS], through the pooler')
        check_exportable(config, 'BERT', _OURS, no_dropout=('hidden_dropout', 'output_dropout'))
        check_heads(config, 'BERT')
        values = {name: getattr(config, ours) for name, ours in _SIZES.items()}
        values |= {name: getattr(config, ours) for name, (ours, _) in (_NUMBERS | _RATES).items()}
        return values | {'model_type': 'bert', 'hidden_act': WRITTEN[config.activation], 'classifier_dropout': None, **_ONLY}
