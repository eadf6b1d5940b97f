"""Mistakes of people: one line that says what is wrong and the mend, before any compute, and nothing that was saved is lost."""

import hashlib
import json
import os
from pathlib import Path
import shutil

import jax
import numpy as np
import pytest

from t5x_lite import dry_run
from t5x_lite.assemble import assemble, load_for_use
from t5x_lite.config import Config, DataConfig, ModelConfig, UserError, finalize, from_dict, from_json, to_dict, to_json
from t5x_lite.data import tokenizers
from t5x_lite.data.corpus import Corpus
from t5x_lite.evaluation.predictor import Predictor
from t5x_lite.interop import conversion
from t5x_lite.training import checkpoint, partitioning
from tests.commands import forked, material

SMALL = 'configs/bert_small_corpus.py'
PRETRAINING = {'config.loss': 'bert_flax.losses:MlmNspLoss', 'config.data.source': 'bert_flax.objectives:MlmNsp'}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A folder with one of everything that can be right or wrong."""
    place = tmp_path_factory.mktemp('bad')
    sources = material.texts(place / 'texts')
    material.corpus(place / 'corpus', sources, material.PRETRAINED, None)
    material.corpus(place / 'larger', sources)
    # As many pieces as the weights have, two of them exchanged.
    swapped = place / 'swapped'
    swapped.mkdir()
    pieces = (material.PRETRAINED / 'vocab.txt').read_text().split('\n')
    pieces[10], pieces[11] = pieces[11], pieces[10]
    (swapped / 'vocab.txt').write_text('\n'.join(pieces))
    material.corpus(place / 'other', sources, swapped, None)
    conversion.to_native(str(material.PRETRAINED), str(place / 'run'))
    conversion.to_native(str(material.FIXTURES / 'bert_classifier'), str(place / 'classifier'))
    conversion.to_native(str(material.FIXTURES / 'bert_encoder'), str(place / 'encoder'))
    rows = material.reviews()
    material.table(place / 'train.tsv', rows)
    material.table(place / 'odd.tsv', [*rows, ('odd one out', 'neutral')])
    material.table(place / 'nan.tsv', [*((text, str(number)) for number, (text, _) in enumerate(rows)), ('odd', 'nan')])
    material.table(place / 'one.tsv', [row for row in rows if row[1] == 'pos'])
    (place / 'latin.tsv').write_bytes(b'text\tlabel\ncaf\xe9 au lait\tpos\ntea\tneg\n')
    (place / 'latin.txt').write_bytes(b'a good line\na caf\xe9\n')
    (place / 'empty.txt').write_bytes(b'')
    (place / 'blank.txt').write_text(' \n\n')
    (place / 'file').write_text('mine\n')
    (place / 'nothing').mkdir()
    return place


def config_of(place: Path, **fields) -> Config:
    """The architecture of the fixture's weights, on the corpus with its tokenizer. Fields: data__seq_len=16."""
    config = Config(
        steps=10,
        batch_size=8,
        loss=PRETRAINING['config.loss'],
        model=ModelConfig(module='bert_flax.bert:BertForPreTraining', num_layers=2, d_model=32, num_heads=4, d_ff=64, max_positions=32),
        data=DataConfig(source=PRETRAINING['config.data.source'], path=(str(place / 'corpus'),), seq_len=32),
    )
    return changed(config, **fields)


def changed(config: Config, **fields) -> Config:
    for name, value in fields.items():
        part = config
        *groups, field = name.split('__')
        for group in groups:
            part = getattr(part, group)
        assert hasattr(part, field), name
        setattr(part, field, value)
    return config


def refused(words: tuple[str, ...], function, *args, **kwargs) -> None:
    """`function` raises a UserError of one line with these words in it."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert '\n' not in message
    for word in words:
        assert word in message, message


def tree(folder: Path) -> dict[str, str]:
    """{file: hash} of everything below a folder."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob('*')) if path.is_file()}


# Fields, checked without any data.

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
    ('model__dtype', 'float16', 'config.model.dtype', 'bfloat16'),
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
    refused(("config.optim.learning_rte", "did you mean 'learning_rate'?"), from_dict, Config, {'optim': {'learning_rte': 1.0}})
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


def test_dotted_names(place):
    for field, value, *words in (
        ('model__module', 'bert_flax.bert:BertForPretraining', 'config.model.module', "did you mean 'BertForPreTraining'?"),
        ('model__module', 'bert_flax.brt:Bert', 'config.model.module', "No module named 'bert_flax.brt'", 'PYTHONPATH'),
        ('model__module', 'bert_flax.losses:MlmLoss', 'config.model.module', 'another field'),
        ('model__module', 'bert_flax', 'config.model.module', 'package.module:Name'),
        ('loss', 'bert_flax.losses:MlmNsLoss', 'config.loss', "did you mean 'MlmNspLoss'?"),
        ('loss', 'bert_flax.bert:Bert', 'config.loss', 'another field'),
        ('loss', '', 'config.loss'),
    ):
        refused(tuple(words), dry_run.check, assemble(config_of(place, **{field: value})))
    for value, *words in (
        ('bert_flax.objectives:MlmNs', 'config.data.source', "did you mean 'MlmNsp'?"),
        ('bert_flax.bert:Bert', 'config.data.source', 'another field'),
        ('', 'config.data.source is empty', 'bert_flax.objectives:MlmNsp'),
    ):
        refused(tuple(words), assemble, config_of(place, data__source=value))


# What must fit together.


def test_model_loss_and_data_that_do_not_belong_together(place):
    for fields, missing in (
        ({'model__module': 'bert_flax.bert:BertForMaskedLm'}, 'nsp_logits'),
        ({'loss': 't5x_lite.tasks.classification:LabelledLoss'}, 'logits'),
        ({'data__source': 't5x_lite.data.objectives:PackedMlm'}, 'next_sentence_labels'),
    ):
        refused((f"'{missing}' is missing", 'config.loss', 'config.model.module', 'config.data.source'), dry_run.check, assemble(config_of(place, **fields)))


def test_a_best_metric_that_the_run_does_not_have(place):
    refused(("config.checkpoint.best_metric=mlm_los", "did you mean 'mlm_loss'?"), dry_run.check, assemble(config_of(place, checkpoint__best_metric='mlm_los')))
    dry_run.check(assemble(config_of(place, checkpoint__best_metric='mlm_loss')))


def test_decay_rules(place):
    for rules, *words in (
        ((('.*/bais', 0.0), ('.*', 0.01)), 'config.optim.decay', "'.*/bais' decides no parameter"),
        ((('.*/bias', 0.0),), 'config.optim.decay', 'no rule covers parameter', "('.*', value)"),
    ):
        refused(tuple(words), dry_run.check, assemble(config_of(place, optim__decay=rules)))


def test_a_warm_up_longer_than_the_run(place):
    refused(('warm-up of 20 steps', 'config.steps=10', 'config.optim.warmup_steps'), dry_run.check, assemble(config_of(place, optim__warmup_steps=20)))


MESHES = [
    ({'mesh__data': 3}, 'data=3', '8 devices', 'multiply to 8'),
    ({'mesh__data': 4}, 'data=4', '8 devices'),
    ({'mesh__tensor': 8}, 'config.mesh.tensor=8', 'config.model.num_heads=4'),
    ({'mesh__tensor': 4, 'model__d_ff': 66}, 'config.mesh.tensor=4', 'config.model.d_ff=66'),
    ({'mesh__tensor': 2, 'model__vocab_multiple': 1, 'model__vocab_size': 119}, 'config.mesh.tensor=2', 'vocabulary of 119', 'config.model.vocab_multiple'),
    ({'mesh__fsdp': 8, 'model__d_model': 36}, 'config.mesh.fsdp=8', 'config.model.d_model=36'),
    ({'mesh__rules': (('batch', 'dta'),)}, 'config.mesh.rules', "'dta'", "did you mean 'data'?"),
    ({'mesh__rules': (('batch', 3),)}, 'config.mesh.rules', 'no mesh axis'),
]


@pytest.mark.parametrize('case', MESHES, ids=lambda case: str(case[0]))
def test_meshes_that_do_not_fit(case):
    fields, *words = case
    refused(tuple(words), partitioning.make_mesh, changed(config_of(Path('there')), **fields), jax.devices()[:8])


def test_a_logical_axis_without_a_rule(place):
    refused(("logical axis 'norm'", 'config.mesh.rules'), dry_run.check, assemble(config_of(place, mesh__rules=(('batch', 'data'),))))


def test_batches_that_the_mesh_does_not_divide(place):
    assert jax.device_count() == 8
    for fields, *words in (
        ({'batch_size': 12}, '12 rows', 'data x fsdp = 8', 'config.batch_size'),
        ({'batch_size': 16, 'optim__microbatches': 4}, '4 microbatches', '4 of the 16 rows', 'data x fsdp = 8'),
        ({'eval__batch_size': 3}, '3 rows', 'config.eval.batch_size'),
        ({'mesh__sequence': 8, 'mesh__data': 1, 'data__seq_len': 30}, 'config.mesh.sequence=8', 'sequences of 30'),
    ):
        refused(tuple(words), dry_run.check, assemble(config_of(place, **fields)))


# Corpora.


def test_paths_that_are_no_prepared_corpus(place, tmp_path):
    for path, *words in (
        (place / 'absent', 'not a prepared corpus', 'prepare'),
        (place / 'nothing', 'not a prepared corpus'),
        (place / 'file', 'not a prepared corpus'),
        (place / 'texts', 'not a prepared corpus', 'manifest.json'),
    ):
        refused((str(path), *words), assemble, config_of(place, data__path=(str(path),)))
    for number, (spoil, *words) in enumerate(
        (
            (lambda folder: os.truncate(folder / 'train-00000.tokens', 100), 'train-00000.tokens', '100 bytes', 'prepare the corpus again'),
            (lambda folder: (folder / 'train-00000.tokens').unlink(), 'train-00000.tokens', 'missing'),
            (lambda folder: (folder / 'manifest.json').write_text('{'), 'manifest.json', 'not JSON'),
            (lambda folder: (folder / 'manifest.json').write_text('{"format": 99}'), 'manifest.json', 'format 99'),
            (lambda folder: shutil.rmtree(folder / 'tokenizer'), 'tokenizer'),
            (lambda folder: os.truncate(folder / 'train.sentence_starts.npy', 50), 'train.sentence_starts.npy', 'truncated'),
        )
    ):
        broken = shutil.copytree(place / 'corpus', tmp_path / str(number))
        spoil(broken)
        refused((str(broken), *words), assemble, config_of(place, data__path=(str(broken),)))


def test_a_corpus_without_held_out_documents(place, tmp_path):
    broken = shutil.copytree(place / 'corpus', tmp_path / 'corpus')
    manifest = json.loads((broken / 'manifest.json').read_text())
    del manifest['splits']['validation']
    (broken / 'manifest.json').write_text(json.dumps(manifest))
    refused((str(broken), 'no validation part', '--validation_fraction'), assemble, config_of(place, data__path=(str(broken),)))


def test_corpora_of_different_tokenizers(place):
    paths = (str(place / 'corpus'), str(place / 'larger'))
    refused((*paths, 'different tokenizers', '--tokenizer='), assemble, config_of(place, data__path=paths))


def test_a_vocabulary_that_is_not_the_data_s(place):
    for size in (100, 500):
        refused((str(place / 'corpus'), '120 pieces', f'{size}', 'config.model.vocab_size'), assemble, config_of(place, model__vocab_size=size))


# Weights.


def test_weights_that_are_not_there(place):
    for name, *words in (('absent', 'no such folder'), ('nothing', 'no checkpoint of ours', 'Hugging Face'), ('file', 'no such folder'), ('run/checkpoints/7', '7')):
        refused((str(place / name), *words), assemble, config_of(place, init_from=str(place / name)))


def test_weights_with_another_vocabulary(place):
    weights = str(material.PRETRAINED)
    assert assemble(config_of(place, init_from=weights)).initial is not None
    larger, other = (str(place / name) for name in ('larger', 'other'))
    assert Corpus(other, 'train').vocab_size == tokenizers.load(weights).vocab_size
    refused(('200 pieces', '120', f'--tokenizer={weights}'), assemble, config_of(place, init_from=weights, data__path=(larger,)))
    refused(('piece 10', "'f'", "'g'", f'--tokenizer={weights}'), assemble, config_of(place, init_from=weights, data__path=(other,)))


def test_truncated_weights(place, tmp_path):
    broken = shutil.copytree(material.PRETRAINED, tmp_path / 'hf')
    os.truncate(broken / 'model.safetensors', 90_000)
    refused((str(broken / 'model.safetensors'), 'truncated'), assemble, config_of(place, init_from=str(broken)))
    os.truncate(broken / 'model.safetensors', 5)
    refused((str(broken / 'model.safetensors'),), assemble, config_of(place, init_from=str(broken)))
    (broken / 'model.safetensors').unlink()
    refused((str(broken), 'model.safetensors'), assemble, config_of(place, init_from=str(broken)))


def test_a_shape_that_differs_is_named_with_both(place, tmp_path):
    run = assemble(config_of(place, init_from=str(material.PRETRAINED), model__d_ff=128))
    refused(('encoder/layers/mlp/wi/', '(2, 64)', '(2, 128)', 'config.model'), dry_run.check, run)
    edited = shutil.copytree(material.PRETRAINED, tmp_path / 'hf')
    fields = json.loads((edited / 'config.json').read_text())
    (edited / 'config.json').write_text(json.dumps(fields | {'intermediate_size': 72}))
    refused(('bert.encoder.layer.0.intermediate.dense.weight', '(64, 32)', '(72, 32)'), assemble, config_of(place, init_from=str(edited)))


def test_a_parameter_that_the_weights_lack(place):
    run = assemble(config_of(place, init_from=str(material.FIXTURES / 'bert_encoder')))
    refused(('no parameter mlm/', '--config.init_fresh'), dry_run.check, run)
    dry_run.check(assemble(config_of(place, init_from=str(material.FIXTURES / 'bert_encoder'), init_fresh=('mlm/.*', 'nsp/.*'))))


def test_architecture_without_weights(place):
    refused(('config.init_architecture', 'config.init_from'), assemble, config_of(place, init_architecture=True))


def test_a_damaged_checkpoint(place, tmp_path):
    run = shutil.copytree(place / 'run', tmp_path / 'run')
    largest = max((path for path in (run / 'checkpoints' / '0').rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    refused((str(run), 'cannot be read'), checkpoint.load_params, str(run))


# Tables.


def table_config(place: Path, name: str, **fields) -> Config:
    config = Config(
        steps=10,
        batch_size=8,
        init_from=str(material.PRETRAINED),
        init_architecture=True,
        init_fresh=('classifier/.*',),
        loss='t5x_lite.tasks.classification:LabelledLoss',
        model=ModelConfig(module='bert_flax.bert:BertForClassification'),
        data=DataConfig(source='t5x_lite.data.tables:LabelledExamples', train=str(place / name), seq_len=32),
    )
    return changed(config, **fields)


TABLES = [
    ('absent.tsv', {}, 'absent.tsv', 'no such file'),
    ('nothing', {}, 'unknown kind of table', '.csv'),
    ('latin.tsv', {}, 'latin.tsv:2', '0xe9', 'not UTF-8'),
    ('one.tsv', {}, 'one.tsv', "every row has the label 'pos'"),
    ('nan.tsv', {}, 'nan.tsv', 'different labels', '--config.data.regression'),
    ('nan.tsv', {'data__regression': True}, 'nan.tsv:42', "'nan'", 'a finite number'),
    ('train.tsv', {'data__regression': True}, 'train.tsv:2', "'pos'", 'a finite number'),
    ('train.tsv', {'data__validation': 'odd.tsv'}, 'odd.tsv:42', "'neutral' is not in the list", 'neg, pos'),
    ('odd.tsv', {'data__labels': ('pos', 'neg')}, 'odd.tsv:42', "'neutral' is not in the list", '--config.data.labels'),
    ('train.tsv', {'data__label_column': 'lable'}, "no column 'lable'", "did you mean 'label'?"),
    ('train.tsv', {'data__text_columns': ('txt',)}, "no column 'txt'", "did you mean 'text'?"),
    ('train.tsv', {'data__max_examples': 1000}, '--config.data.max_examples=1000', 'training rows'),
    ('train.tsv', {'data__seq_len': 64}, 'sequences of 64', 'max_positions=32'),
    ('train.tsv', {'data__length_buckets': (0, 8)}, 'config.data.length_buckets', 'above 0'),
    ('train.tsv', {'data__validation_fraction': 2.0}, 'config.data.validation_fraction', 'between 0 and 1'),
    ('train.tsv', {'data__tokenizer': 'larger/tokenizer'}, '200 pieces', '120'),
    ('train.tsv', {'data__tokenizer': 'nothing'}, 'nothing', 'no tokenizer'),
]


@pytest.mark.parametrize('case', TABLES, ids=lambda case: f'{case[0]} {case[1]}')
def test_tables(place, case):
    name, fields, *words = case
    fields = {key: str(place / value) if key in ('data__validation', 'data__tokenizer') else value for key, value in fields.items()}
    refused(tuple(words), assemble, table_config(place, name, **fields))


def test_the_good_table_is_taken(place):
    run = assemble(table_config(place, 'train.tsv'))
    assert run.config.data.labels == ('neg', 'pos')
    described = '\n'.join(dry_run.description(run))
    assert "text 'text' (guessed), label 'label' (guessed)" in described
    assert 'found in' in described


# Runs that are used.


def test_a_checkpoint_that_a_run_does_not_have(place):
    config = from_json(str(place / 'run' / 'config.json'))
    refused((str(place / 'run'), 'no checkpoint of step 7', 'there are those of 0'), load_for_use, config, str(place / 'run'), 7)


def test_fields_that_the_weights_fix(place):
    config = from_json(str(place / 'run' / 'config.json'))
    refused(('config.model.d_ff is 65', '64'), load_for_use, changed(config, model__d_ff=65), str(place / 'run'), None)
    config = from_json(str(place / 'run' / 'config.json'))
    config.model.module, config.model.num_labels = 'bert_flax.bert:BertForClassification', 2
    refused(('no parameter classifier/',), load_for_use, config, str(place / 'run'), None)


def predictor(place: Path, name: str) -> Predictor:
    workdir = str(place / name)
    config, params, _ = load_for_use(from_json(f'{workdir}/config.json'), workdir, None)
    return Predictor(config, params, tokenizers.load(f'{workdir}/tokenizer'))


def test_texts_that_cannot_be_answered(place):
    fill = predictor(place, 'run')
    refused(("no [MASK] in 'abc'",), list, fill([('abc',)]))
    refused(('3 texts',), list, fill([('a', 'b', 'c')]))
    refused(('a [MASK] in', 'beyond the 32 tokens', 'shorten'), list, fill([('a ' * 40 + '[MASK]',)]))
    refused(('a [MASK] in', 'beyond'), list, fill([('[MASK] ' + 'a ' * 40 + '[MASK]',)]))
    assert len(list(fill([('a [MASK] b',)]))) == 1
    refused((str(place / 'encoder'), 'bert_flax.bert:Bert', 'head', 'fine-tune it'), predictor, place, 'encoder')


def test_a_run_on_single_texts_takes_no_pairs(place):
    workdir = str(place / 'classifier')
    config, params, _ = load_for_use(from_json(f'{workdir}/config.json'), workdir, None)
    for columns, text, words in ((('text',), ('a', 'b'), ('2 texts', 'one text at a time')), (('one', 'two'), ('a',), ('1 text in', 'a pair', '--text_b'))):
        config.data.text_columns = columns
        refused(words, list, Predictor(config, params, tokenizers.load(f'{workdir}/tokenizer'))([text]))


# The commands themselves: one line, an exit status, no traceback; see Result.error.

FLAGS = [
    ('train', '', '--workdir is missing'),
    ('train', '--workdir=', '--workdir is empty'),
    ('train', '--workdir={}/new', '--config is missing', 'configs/FILE.py'),
    ('train', '--workdir={}/new --config', '--config has no value'),
    ('train', '--config=configs/bert.py:tiny', '--workdir is missing'),
    ('train', '--config=configs/bert.py:tinny --workdir={}/new', "no variant 'tinny'", "did you mean 'tiny'?"),
    ('train', '--config=configs/brt.py --workdir={}/new', 'no such file configs/brt.py', "did you mean 'configs/bert.py'?"),
    ('train', '--config=configs --workdir={}/new', 'no such file'),
    ('train', '--config={}/absent.json --workdir={}/new', 'absent.json'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --dryrun', '--dryrun', 'did you mean dry_run'),
    ('train', '--config=configs/bert.py:tiny --workdr={}/new', '--workdr', 'did you mean workdir'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optim.learning_rte=1', '--config.optim.learning_rte', "did you mean 'learning_rate'?"),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optm.b1=1', '--config.optm', "did you mean 'optim'?"),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optim=1', '--config.optim is a group', 'learning_rate'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.seed.x=1', '--config.seed.x', 'no such field'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.steps=ten', '--config.steps=ten', 'a whole number'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.steps', '--config.steps has no value'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optim.b1=x', '--config.optim.b1=x', 'a number'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.deterministic=maybe', '--config.deterministic=maybe', 'True or False'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optim.name=adam', '--config.optim.name=adam', "did you mean 'adamw'?"),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.data.stages=((0,12', '--config.data.stages', 'max_predictions'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new extra', "unexpected argument 'extra'", '--name=value'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --dry_run=perhaps', '--dry_run=perhaps', 'True or False'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new', 'there are no data', '--config.data.path', '--dry_run'),
    ('train', '--config={}/syntax.py --workdir={}/new', 'syntax.py:2', 'invalid syntax'),
    ('train', '--config={}/raises.py --workdir={}/new', 'raises.py:4', 'learning_rte'),
    ('train', '--config={}/imports.py --workdir={}/new', 'imports.py:1', "No module named 'not_there'"),
    ('train', '--config={}/returns.py --workdir={}/new', 'returns.py', 'get_config returned dict'),
    ('train', '--config={}/without.py --workdir={}/new', 'without.py', 'no function get_config'),
    ('train', '--config=configs/classify.py:base --workdir={}/new', 'configs/classify.py has no variants'),
    ('evaluate', '--workdir={}/absent', 'absent/config.json does not exist'),
    ('evaluate', '--workdir={}/run --step=7', 'no checkpoint of step 7'),
    ('evaluate', '--workdir={}/run --step=x', '--step=x', 'a whole number'),
    ('evaluate', '--workdir={}/run', 'there are no held-out data', '--config.data.path'),
    ('evaluate', '--workdir={}/run --config.data.path={}/other PRETRAINING', 'piece 10', '--tokenizer={}/run/tokenizer'),
    ('evaluate', '--workdir={}/run --config.data.path={}/larger PRETRAINING', '200 pieces', '120'),
    ('predict', '--workdir={}/run', '--text', '--input'),
    ('predict', '--workdir={}/run --text=a --input=b', 'one of them'),
    ('predict', '--workdir={}/run --text_b=a --input=-', '--text_b goes with --text'),
    ('predict', '--workdir={}/run --text=abc', 'no [MASK]'),
    ('predict', '--workdir={}/run --input={}/absent', '--input={}/absent', 'No such file'),
    ('predict', '--workdir={}/run --input={}/nothing', '--input={}/nothing', 'directory'),
    ('predict', '--workdir={}/run --input={}/empty.txt', 'empty.txt', 'a text a line'),
    ('predict', '--workdir={}/classifier --input={}/latin.txt', 'latin.txt:2', 'not UTF-8'),
    ('predict', '--workdir={}/classifier --text=abc --output={}/file/x', '--output={}/file/x', 'Not a directory'),
    ('predict', '--workdir={}/run --text=[MASK] --top=0', '--top=0', 'positive'),
    ('prepare', '', '--input and --output are missing'),
    ('prepare', '--input={}/absent --output={}/new', '--input={}/absent', 'no such file'),
    ('prepare', '--input={}/empty.txt --output={}/empty', 'no text'),
    ('prepare', '--input={}/blank.txt --output={}/blank', 'no text'),
    ('prepare', '--input={}/latin.txt --output={}/latin', 'latin.txt:2', 'not UTF-8', '--skip_broken'),
    ('prepare', '--input={}/texts --output={}/corpus --tokenizer=wordpeice', "did you mean 'wordpiece'?"),
    ('prepare', '--input={}/texts --output={}/file --vocab_size=200', '{}/file', '--output'),
    ('prepare', '--input={}/texts --output={}/larger --vocab_size=300', '{}/larger', 'vocab_size (200 there, 300 here)'),
    ('prepare', '--input={}/texts --output={}/new --vocab_size=-3', '--vocab_size=-3'),
    ('convert', '', '--input and --output and --format are missing'),
    ('convert', '--input={}/run --output={}/new --format=torch', '--format=torch', 'hf'),
    ('convert', '--input={}/absent --output={}/new --format=hf', '{}/absent', 'no such folder'),
    ('convert', '--input={}/run --output={}/corpus --format=hf', '{}/corpus', 'not empty'),
]  # fmt: skip


@pytest.fixture(scope='module')
def config_files(place):
    for name, text in {
        'syntax': 'def get_config():\n    return (1,,)\n',
        'raises': 'from t5x_lite.config import Config, OptimConfig\n\ndef get_config():\n    return Config(optim=OptimConfig(learning_rte=1.0))\n',
        'imports': 'import not_there\n',
        'returns': 'def get_config():\n    return {}\n',
        'without': 'steps = 3\n',
    }.items():
        (place / f'{name}.py').write_text(text)


@pytest.mark.parametrize('case', FLAGS, ids=lambda case: f'{case[0]} {case[1]}'.strip())
def test_one_line_and_a_status(place, config_files, case):
    command, flags, *words = case
    flags = flags.replace('PRETRAINING', ' '.join(f'--{name}={value}' for name, value in PRETRAINING.items()))
    error = forked.run(command, *flags.replace('{}', str(place)).split()).error
    for word in words:
        assert word.replace('{}', str(place)) in error, error
    assert not (place / 'new').exists()


def test_a_new_interpreter_says_the_same(place):
    """That the server, and what it imported, hides nothing."""
    for flags in (['--config=configs/bert.py:tinny', f'--workdir={place}/new'], ['--config=configs/bert.py:tiny', f'--workdir={place}/new', '--config.stepz=3']):
        alone = forked.start('train', *flags)
        assert (alone.status, alone.error) == (2, forked.run('train', *flags).error)


# Nothing that was saved is lost.


def test_places_that_cannot_be_written(place):
    for workdir in (place / 'file', place / 'file' / 'below'):
        error = forked.run('train', f'--config={SMALL}', f'--config.data.path={place}/corpus', f'--workdir={workdir}').error
        assert str(workdir) in error
    assert (place / 'file').read_text() == 'mine\n'


def test_a_workdir_of_another_run(place, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(place / 'run', workdir)
    (workdir / 'config.json').write_text(to_json(assemble(config_of(place)).config))
    before = tree(workdir)
    flags = [f'--workdir={workdir}', '--config.optim.learning_rate=0.5', '--config.steps=11']
    error = forked.run('train', *flags).error
    for word in (str(workdir), 'another run', 'optim.learning_rate (0.0001 there, 0.5 here)', 'steps (10 there, 11 here)', '--workdir'):
        assert word in error
    assert tree(workdir) == before


def test_a_run_that_cannot_start_claims_no_workdir(place, tmp_path):
    workdir = tmp_path / 'run'
    flags = [f'--config={SMALL}', f'--config.data.path={place}/corpus', f'--workdir={workdir}', '--config.model.module=bert_flax.bert:BertForMaskedLm']
    assert "'nsp_logits' is missing" in forked.run('train', *flags).error
    assert not workdir.exists()


def test_answers_are_kept_until_there_are_better_ones(place, tmp_path):
    output = tmp_path / 'answers.jsonl'
    output.write_text('precious\n')
    texts = tmp_path / 'texts.txt'
    texts.write_bytes(b'good\n' * 40 + b'caf\xe9\n')
    assert 'texts.txt:41' in forked.run('predict', f'--workdir={place}/classifier', f'--input={texts}', f'--output={output}').error
    assert output.read_text() == 'precious\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['answers.jsonl', 'texts.txt']
    texts.write_bytes(b'good\n' * 40)
    assert '40 answers' in forked.run('predict', f'--workdir={place}/classifier', f'--input={texts}', f'--output={output}').success
    assert len(output.read_text().splitlines()) == 40


def test_outputs_that_exist_stay(place):
    before = {name: tree(place / name) for name in ('corpus', 'larger', 'run')}
    forked.run('prepare', f'--input={place}/texts', f'--output={place}/run', '--vocab_size=200').error
    forked.run('convert', f'--input={place}/classifier', f'--output={place}/run', '--format=hf').error
    forked.run('prepare', f'--input={place}/latin.txt', f'--output={place}/corpus', f'--tokenizer={material.PRETRAINED}').error
    assert {name: tree(place / name) for name in before} == before


def test_standard_input_that_is_closed(place):
    assert 'standard input is closed' in forked.run('predict', f'--workdir={place}/run', '--input=-', stdin=None).error
    assert 'empty' in forked.run('predict', f'--workdir={place}/run', '--input=-', stdin=b'').error
    assert '[MASK] 1:' in forked.run('predict', f'--workdir={place}/run', '--input=-', stdin=b'a [MASK]\n').success


def test_a_config_survives_json():
    config = config_of(Path('there'), data__stages=((0, 16, 8, 2),), model__d_ff=7)
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    assert np.all([a == b for a, b in zip(to_dict(config).items(), to_dict(finalize(config)).items())])
