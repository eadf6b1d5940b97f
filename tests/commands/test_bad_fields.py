"""Values that a field cannot take: refused when the config is complete, before data, weights or devices are touched."""

import json
from pathlib import Path

import pytest

from t5x_lite.checks import finalize
from t5x_lite.config import Config
from t5x_lite.config_values import from_dict, from_json, to_dict
from tests.commands.material import changed, config_of, refused

VALUES = [
    ('steps', -1, 'config.steps is -1', 'above 0'),
    ('steps', 0, 'config.steps', 'above 0'),
    ('batch_size', 0, 'config.batch_size is 0', 'above 0'),
    ('batch_size', -8, 'config.batch_size is -8'),
    ('epochs', -1.0, 'config.epochs'),
    ('ema_decay', 1.0, 'config.ema_decay is 1.0', 'below 1'),
    ('init_fresh', ('(',), 'config.init_fresh', 'regular expression'),
    ('model__module', '', 'config.model.module is empty', 'bert_flax.bert:BertForPreTraining'),
    ('model__num_heads', 3, 'config.model.num_heads=3 does not divide config.model.d_model=32'),
    ('model__num_heads', 0, 'config.model.num_heads is 0'),
    ('model__num_layers', -2, 'config.model.num_layers is -2'),
    ('model__max_positions', 16, 'sequences of 32', 'config.model.max_positions=16', 'config.data.seq_len'),
    ('model__dropout', 1.0, 'config.model.dropout is 1.0'),
    ('model__vocab_size', -5, 'config.model.vocab_size is -5'),
    ('model__norm_eps', 0.0, 'config.model.norm_eps'),
    ('data__seq_len', 2, 'config.data.seq_len', 'above 3'),
    ('data__weights', (1.0, 2.0), 'config.data.weights has 2 values for 1 paths'),
    ('data__weights', (0.0,), 'config.data.weights', 'above 0'),
    ('data__prefetch', 0, 'config.data.prefetch'),
    ('data__workers', -1, 'config.data.workers'),
    ('data__mlm__probability', 1.5, 'config.data.mlm.probability is 1.5', 'between 0 and 1'),
    ('data__mlm__max_predictions', 40, 'config.data.mlm.max_predictions', '40 predictions in sequences of 32'),
    ('data__mlm__max_predictions', -1, 'config.data.mlm.max_predictions is -1'),
    ('data__stages', ((5, 16, 8, 2),), 'config.data.stages start at steps [5]', 'the first must be 0'),
    ('data__stages', ((0, 16, 8, 2), (0, 32, 8, 2)), 'config.data.stages start at steps [0, 0]', 'rise'),
    ('data__stages', ((0, 16, 8, 2), (4, 64, 8, 2)), 'config.data.stages[1]', 'sequences of 64', 'max_positions=32'),
    ('data__stages', ((0, 16, 0, 2),), 'config.data.stages[0]', 'batch size is 0'),
    ('tune__freeze_layers', 1.5, 'config.tune.freeze_layers is 1.5', 'a share of them below 1'),
    ('tune__adapter_size', 0, 'config.tune.adapter_size is 0', 'above 0'),
    ('tune__rates', (('.*', float('inf')),), "config.tune.rates: the factor of '.*' is inf"),
    ('tune__unfreeze', ((0.5, '.*', -1.0),), "config.tune.unfreeze: the factor of '.*' is -1.0", 'at least 0'),
    ('tune__freeze_layers', -0.5, 'config.tune.freeze_layers is -0.5', 'at least 0'),
    ('optim__learning_rate', -1e-3, 'config.optim.learning_rate is -0.001'),
    ('optim__learning_rate', float('nan'), 'config.optim.learning_rate is nan'),
    ('optim__learning_rate', float('inf'), 'config.optim.learning_rate is inf'),
    ('optim__b2', 1.0, 'config.optim.b2 is 1.0'),
    ('optim__eps', 0.0, 'config.optim.eps'),
    ('optim__clip_norm', -1.0, 'config.optim.clip_norm'),
    ('optim__warmup_steps', -1, 'config.optim.warmup_steps'),
    ('optim__microbatches', 3, 'config.optim.microbatches=3 does not divide the batch of 8'),
    ('optim__microbatches', 0, 'config.optim.microbatches is 0'),
    ('optim__decay', (('.*/(bais', 0.0), ('.*', 0.01)), 'config.optim.decay', 'regular expression'),
    ('optim__decay', (('.*', -0.01),), 'config.optim.decay has -0.01'),
    ('mesh__fsdp', 0, "'fsdp': 0", '-1 or above 0'),
    ('mesh__fsdp', -1, 'only one axis can take what is left'),
    ('checkpoint__every_steps', 0, 'config.checkpoint.every_steps is 0'),
    ('checkpoint__keep_last', 0, 'config.checkpoint.keep_last is 0'),
    ('eval__every_steps', -5, 'config.eval.every_steps is -5'),
    ('eval__batches', -1, 'config.eval.batches is -1'),
    ('log__every_steps', 0, 'config.log.every_steps is 0'),
    ('log__profile_steps', (7, 3), 'config.log.profile_steps is (7, 3)', '(first, last)'),
    ('log__profile_steps', (7,), 'config.log.profile_steps is (7,)', '(first, last)'),
    ('log__profile_steps', (7, 70), 'config.log.profile_steps is (7, 70)', 'config.steps', '10'),
]


@pytest.mark.parametrize('case', VALUES, ids=lambda case: f'{case[0]}={case[1]}')
def test_values_that_cannot_be(case):
    name, value, *words = case
    finalize(config_of(Path('there')))
    refused(tuple(words), finalize, changed(config_of(Path('there')), **{name: value}))


TYPES = [
    ('steps', '3', 'config.steps', 'a whole number'),
    ('steps', 1.5, 'config.steps is 1.5', 'a whole number'),
    ('steps', True, 'config.steps is True', 'a whole number'),
    ('deterministic', 'yes', "config.deterministic is 'yes'", 'True or False'),
    ('deterministic', 1, 'config.deterministic is 1', 'True or False'),
    ('ema_decay', 'slow', "config.ema_decay is 'slow'", 'a number'),
    ('loss', 3, 'config.loss is 3', 'a text'),
    ('model__activation', 'gleu', 'config.model.activation', 'gelu_tanh', "did you mean 'gelu'?"),
    ('model__dtype', 'float8', 'config.model.dtype', 'bfloat16'),
    ('optim__name', 'adam', 'config.optim.name', "did you mean 'adamw'?"),
    ('optim__schedule', 'linera', 'config.optim.schedule', "did you mean 'linear'?"),
    ('data__path', 3, 'config.data.path is 3', 'a tuple (a text, ...)'),
    ('data__path', 'corpus', "config.data.path is 'corpus'", 'a tuple'),
    ('data__length_buckets', ('x',), "config.data.length_buckets is ('x',)", 'a whole number'),
    ('data__weights', ('x',), 'config.data.weights', 'a number'),
    ('data__stages', (0, 16, 8, 2), 'config.data.stages is (0, 16, 8, 2)', '(from_step, seq_len, batch_size, max_predictions)'),
    ('data__stages', ((0, 16, 8),), 'config.data.stages', 'max_predictions'),
    ('data__stages', ((0, 16, 8, 2.5),), 'config.data.stages', 'whole numbers'),
    ('data__stages', 'abc', 'config.data.stages', 'from_step'),
    ('optim__decay', 5, 'config.optim.decay is 5', '(pattern, weight decay)'),
    ('optim__decay', (('.*',),), 'config.optim.decay', '(pattern, weight decay)'),
    ('optim__decay', (('.*', 'x'),), 'config.optim.decay', '(pattern, weight decay)'),
    ('mesh__rules', (('batch', 'data', 'x'),), 'config.mesh.rules', '(logical axis, mesh axis)'),
]


@pytest.mark.parametrize('case', TYPES, ids=lambda case: f'{case[0]}={case[1]}')
def test_values_of_another_type(case):
    name, value, *words = case
    refused(tuple(words), finalize, changed(config_of(Path('there')), **{name: value}))


def test_columns_and_labels_that_look_like_numbers_are_texts():
    config = changed(config_of(Path('there')), data__text_columns=(0, 1), data__labels=(0, 1), data__weights=(1,))
    data = finalize(config).data
    assert (data.text_columns, data.labels, data.weights) == (('0', '1'), ('0', '1'), (1.0,))
    assert isinstance(data.weights[0], float)


def test_unknown_fields_name_the_nearest():
    refused(('config.optim.learning_rte', "did you mean 'learning_rate'?"), from_dict, Config, {'optim': {'learning_rte': 1.0}})
    refused(('config.stepz', "did you mean 'steps'?"), from_dict, Config, {'stepz': 1})
    refused(('config.optim is 3', 'fields'), from_dict, Config, {'optim': 3})


@pytest.mark.parametrize(
    'text, words',
    [
        ('{"steps": 3', (':1:', 'not JSON')),
        ('{"stepz": 3}', ('config.stepz', "did you mean 'steps'?")),
        ('{"steps": "3"}', ('config.steps', 'a whole number')),
        ('{"data": {"stages": [[0, 1]]}}', ('config.data.stages', 'from_step')),
        ('[]', ('expected fields',)),
        (b'\xff{}', ('not UTF-8',)),
    ],
)
def test_a_broken_config_json_is_named(tmp_path, text, words):
    path = tmp_path / 'config.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused((str(path), *words), from_json, str(path))


def test_a_config_survives_json():
    config = config_of(Path('there'), data__stages=((0, 16, 8, 2),), model__d_ff=7)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config == finalize(config)
