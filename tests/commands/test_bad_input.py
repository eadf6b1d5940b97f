"""Data, weights and names that do not fit: one line that says what is wrong and the mend, before any compute."""

import json
import os
from pathlib import Path
import shutil

import jax
import pytest

from t5x_lite import dry_run
from t5x_lite.assemble import assemble, load_for_use
from t5x_lite.config import Activation, AttentionKernel, Config, DataConfig, ModelConfig, NormPlace, SequenceAttention
from t5x_lite.config_values import from_json
from t5x_lite.data import tokenizers
from t5x_lite.data.corpus import Corpus
from t5x_lite.evaluation.predictor import Predictor
from t5x_lite.training import checkpoint, partitioning
from tests.commands import forked, material
from tests.commands.material import changed, config_of, refused


def test_dotted_names(stock):
    for field, value, *words in (
        ('model__module', 'bert_flax.bert:BertForPretraining', 'config.model.module', "did you mean 'BertForPreTraining'?"),
        ('model__module', 'bert_flax.brt:Bert', 'config.model.module', "No module named 'bert_flax.brt'", 'PYTHONPATH'),
        ('model__module', 'bert_flax.losses:MlmLoss', 'config.model.module', 'another field'),
        ('model__module', 'bert_flax', 'config.model.module', 'package.module:Name'),
        ('loss', 'bert_flax.losses:MlmNsLoss', 'config.loss', "did you mean 'MlmNspLoss'?"),
        ('loss', 'bert_flax.bert:Bert', 'config.loss', 'another field'),
        ('loss', '', 'config.loss'),
    ):
        refused(tuple(words), lambda field=field, value=value: dry_run.check(assemble(config_of(stock, **{field: value}))))
    for value, *words in (
        ('bert_flax.objectives:MlmNs', 'config.data.source', "did you mean 'MlmNsp'?"),
        ('bert_flax.bert:Bert', 'config.data.source', 'another field'),
        ('', 'config.data.source is empty', 'bert_flax.objectives:MlmNsp'),
    ):
        refused(tuple(words), assemble, config_of(stock, data__source=value))


# What must fit together.


def test_model_loss_and_data_that_do_not_belong_together(stock):
    for fields, missing in (
        ({'model__module': 'bert_flax.bert:BertForMaskedLm'}, 'nsp_logits'),
        ({'loss': 't5x_lite.tasks.classification:LabelledLoss'}, 'labels'),
        ({'data__source': 't5x_lite.data.objectives:PackedMlm'}, 'next_sentence_labels'),
    ):
        refused(
            (f"'{missing}' is missing", 'config.loss', 'config.model.module', 'config.data.source'),
            dry_run.check,
            assemble(config_of(stock, **fields)),
        )


def test_a_best_metric_that_the_run_does_not_have(stock):
    refused(
        ('config.checkpoint.best_metric=mlm_los', "did you mean 'mlm_loss'?"),
        dry_run.check,
        assemble(config_of(stock, checkpoint__best_metric='mlm_los')),
    )
    dry_run.check(assemble(config_of(stock, checkpoint__best_metric='mlm_loss')))


def test_decay_rules(stock):
    for rules, *words in (
        ((('.*/bais', 0.0), ('.*', 0.01)), 'config.optim.decay', "'.*/bais' decides no parameter"),
        ((('.*/bias', 0.0),), 'config.optim.decay', 'no rule covers parameter', "('.*', value)"),
    ):
        refused(tuple(words), dry_run.check, assemble(config_of(stock, optim__decay=rules)))


def test_a_warm_up_longer_than_the_run(stock):
    refused(
        ('warm-up of 20 steps', 'config.steps=10', 'config.optim.warmup_steps'),
        dry_run.check,
        assemble(config_of(stock, optim__warmup_steps=20)),
    )


MESHES = [
    ({'mesh__data': 3}, 'data=3', '8 devices', 'multiply to 8'),
    ({'mesh__data': 4}, 'data=4', '8 devices'),
    ({'mesh__tensor': 8}, 'config.mesh.tensor=8', 'config.model.num_heads=4'),
    ({'mesh__tensor': 4, 'model__d_ff': 66}, 'config.mesh.tensor=4', 'config.model.d_ff=66'),
    (
        {'mesh__tensor': 2, 'model__vocab_multiple': 1, 'model__vocab_size': 119},
        'config.mesh.tensor=2',
        'vocabulary of 119',
        'config.model.vocab_multiple',
    ),
    ({'mesh__fsdp': 8, 'model__d_model': 36}, 'config.mesh.fsdp=8', 'config.model.d_model=36'),
    ({'mesh__rules': (('batch', 'dta'),)}, 'config.mesh.rules', "'dta'", "did you mean 'data'?"),
    ({'mesh__rules': (('batch', 3),)}, 'config.mesh.rules', 'no mesh axis'),
]


@pytest.mark.parametrize('case', MESHES, ids=lambda case: str(case[0]))
def test_meshes_that_do_not_fit(case):
    fields, *words = case
    refused(tuple(words), partitioning.make_mesh, changed(config_of(Path('there')), **fields), jax.devices()[:8])


def test_a_logical_axis_without_a_rule(stock):
    refused(("logical axis 'norm'", 'config.mesh.rules'), dry_run.check, assemble(config_of(stock, mesh__rules=(('batch', 'data'),))))


def test_batches_that_the_mesh_does_not_divide(stock):
    assert jax.device_count() == 8
    for fields, *words in (
        ({'batch_size': 12}, '12 rows', 'data x fsdp = 8', 'config.batch_size'),
        ({'batch_size': 16, 'optim__microbatches': 4}, '4 microbatches', '4 of the 16 rows', 'data x fsdp = 8'),
        ({'eval__batch_size': 3}, '3 rows', 'config.eval.batch_size'),
        ({'mesh__sequence': 8, 'mesh__data': 1, 'data__seq_len': 30}, 'config.mesh.sequence=8', 'sequences of 30'),
    ):
        refused(tuple(words), dry_run.check, assemble(config_of(stock, **fields)))


@pytest.mark.parametrize('attention', [AttentionKernel.cudnn, AttentionKernel.splash])
def test_kernels_that_do_not_go_round(stock, attention):
    config = config_of(stock, mesh__sequence=2, mesh__sequence_attention=SequenceAttention.ring, model__attention=attention)
    refused((f'config.model.attention={attention.name}', 'config.mesh.sequence_attention=ring', 'take --config.model.attention=auto'), dry_run.check, assemble(config))


# Corpora.


def test_paths_that_are_no_prepared_corpus(stock, tmp_path):
    for path, *words in (
        (stock / 'absent', 'not a prepared corpus', 'prepare'),
        (stock / 'nothing', 'not a prepared corpus'),
        (stock / 'file', 'not a prepared corpus'),
        (stock / 'texts', 'not a prepared corpus', 'manifest.json'),
    ):
        refused((str(path), *words), assemble, config_of(stock, data__path=(str(path),)))
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
        broken = shutil.copytree(stock / 'corpus', tmp_path / str(number))
        spoil(broken)
        refused((str(broken), *words), assemble, config_of(stock, data__path=(str(broken),)))


def test_a_corpus_without_held_out_documents(stock, tmp_path):
    broken = shutil.copytree(stock / 'corpus', tmp_path / 'corpus')
    manifest = json.loads((broken / 'manifest.json').read_text())
    del manifest['splits']['validation']
    (broken / 'manifest.json').write_text(json.dumps(manifest))
    refused((str(broken), 'no validation part', '--validation_fraction'), assemble, config_of(stock, data__path=(str(broken),)))


def test_corpora_of_different_tokenizers(stock):
    paths = (str(stock / 'corpus'), str(stock / 'larger'))
    refused((*paths, 'different tokenizers', '--tokenizer='), assemble, config_of(stock, data__path=paths))


def test_a_vocabulary_that_is_not_the_data_s(stock):
    for size in (100, 500):
        refused(
            (str(stock / 'corpus'), '120 pieces', f'{size}', 'config.model.vocab_size'), assemble, config_of(stock, model__vocab_size=size)
        )


# Weights.


def test_weights_that_are_not_there(stock):
    for name, *words in (
        ('absent', 'no such folder'),
        ('nothing', 'no checkpoint of ours', 'Hugging Face'),
        ('file', 'no such folder'),
        ('run/checkpoints/7', '7'),
    ):
        refused((str(stock / name), *words), assemble, config_of(stock, init_from=str(stock / name)))


def test_weights_with_another_vocabulary(stock):
    weights = str(material.PRETRAINED)
    assert assemble(config_of(stock, init_from=weights)).initial is not None
    larger, other = (str(stock / name) for name in ('larger', 'other'))
    assert Corpus(other, 'train').vocab_size == tokenizers.load(weights).vocab_size
    refused(('200 pieces', '120', f'--tokenizer={weights}'), assemble, config_of(stock, init_from=weights, data__path=(larger,)))
    refused(('piece 10', "'f'", "'g'", f'--tokenizer={weights}'), assemble, config_of(stock, init_from=weights, data__path=(other,)))


def test_truncated_weights(stock, tmp_path):
    broken = shutil.copytree(material.PRETRAINED, tmp_path / 'hf')
    os.truncate(broken / 'model.safetensors', 90_000)
    refused((str(broken / 'model.safetensors'), 'truncated'), assemble, config_of(stock, init_from=str(broken)))
    os.truncate(broken / 'model.safetensors', 5)
    refused((str(broken / 'model.safetensors'),), assemble, config_of(stock, init_from=str(broken)))
    (broken / 'model.safetensors').unlink()
    refused((str(broken), 'model.safetensors'), assemble, config_of(stock, init_from=str(broken)))


def test_a_shape_that_differs_is_named_with_both(stock, tmp_path):
    run = assemble(config_of(stock, init_from=str(material.PRETRAINED), model__d_ff=128))
    refused(('encoder/layers/mlp/wi/', '(2, 64)', '(2, 128)', 'config.model'), dry_run.check, run)
    edited = shutil.copytree(material.PRETRAINED, tmp_path / 'hf')
    fields = json.loads((edited / 'config.json').read_text())
    (edited / 'config.json').write_text(json.dumps(fields | {'intermediate_size': 72}))
    refused(('bert.encoder.layer.0.intermediate.dense.weight', '(64, 32)', '(72, 32)'), assemble, config_of(stock, init_from=str(edited)))


def test_a_parameter_that_the_weights_lack(stock):
    fields = {'init_from': str(material.FIXTURES / 'bert_encoder'), 'model__activation': Activation.gelu_tanh}
    refused(('no parameter mlm/', '--config.init_fresh'), dry_run.check, assemble(config_of(stock, **fields)))
    dry_run.check(assemble(config_of(stock, **fields, init_fresh=('mlm/.*', 'nsp/.*'))))


@pytest.mark.parametrize(
    'field, value, theirs',
    [
        ('num_heads', 8, '4'),
        ('activation', Activation.relu, 'gelu'),
        ('norm_place', NormPlace.pre, 'post'),
        ('norm_eps', 1e-3, '1e-12'),
    ],
)
def test_fields_of_the_weights_that_no_shape_shows(stock, field, value, theirs):
    weights = str(material.FIXTURES / 'bert_pretraining')
    words = (f'config.model.{field} is', weights, f'--config.model.{field}={theirs}', '--config.init_architecture')
    refused(words, assemble, config_of(stock, init_from=weights, **{f'model__{field}': value}))
    taken = assemble(config_of(stock, init_from=weights, init_architecture=True, **{f'model__{field}': value})).config
    assert str(getattr(taken.model, field)).endswith(theirs)


def test_weights_without_a_tokenizer_and_another_vocabulary(stock, tmp_path):
    bare = shutil.copytree(material.FIXTURES / 'bert_pretraining', tmp_path / 'bare')
    for name in ('vocab.txt', 'tokenizer.json', 'tokenizer_config.json'):
        (bare / name).unlink(missing_ok=True)
    assemble(config_of(stock, init_from=str(bare)))  # as many pieces: nothing says that they differ
    fewer = tokenizers.load(str(stock / 'corpus' / 'tokenizer'))
    texts = material.texts(tmp_path / 'texts', seed=5)
    forked.run('prepare', f'--input={texts}', f'--output={tmp_path}/fewer', '--tokenizer=wordpiece', '--vocab_size=90', '--validation_fraction=0.2').success
    assert tokenizers.load(str(tmp_path / 'fewer' / 'tokenizer')).vocab_size < fewer.vocab_size
    config = config_of(stock, init_from=str(bare))
    config.data.path = (str(tmp_path / 'fewer'),)
    for architecture in (False, True):
        config.init_architecture = architecture
        refused(('no tokenizer beside them', str(bare)), assemble, config)


def test_a_corpus_that_is_not_what_prepare_wrote(stock, tmp_path):
    corpus = shutil.copytree(stock / 'corpus', tmp_path / 'corpus')
    config = config_of(stock)
    config.data.path = (str(corpus),)
    assemble(config)
    shard = corpus / 'train-00000.tokens'
    shard.write_bytes(b'\xff' * 400 + shard.read_bytes()[400:])
    refused((str(shard), 'does not hold what was written there', 'prepare the corpus again'), assemble, config)


def test_architecture_without_weights(stock):
    refused(('config.init_architecture', 'config.init_from'), assemble, config_of(stock, init_architecture=True))


def test_a_damaged_checkpoint(stock, tmp_path):
    run = shutil.copytree(stock / 'run', tmp_path / 'run')
    largest = max((path for path in (run / 'checkpoints' / '0').rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    refused((str(run), 'cannot be read'), checkpoint.load_params, str(run))


# Tables.


def table_config(stock: Path, name: str, **fields) -> Config:
    config = Config(
        steps=10,
        batch_size=8,
        init_from=str(material.PRETRAINED),
        init_architecture=True,
        init_fresh=('classifier/.*',),
        loss='t5x_lite.tasks.classification:LabelledLoss',
        model=ModelConfig(module='bert_flax.bert:BertForClassification'),
        data=DataConfig(source='t5x_lite.data.tables:LabelledExamples', train=str(stock / name), seq_len=32),
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
def test_tables(stock, case):
    name, fields, *words = case
    fields = {key: str(stock / value) if key in ('data__validation', 'data__tokenizer') else value for key, value in fields.items()}
    refused(tuple(words), assemble, table_config(stock, name, **fields))


def test_the_good_table_is_taken(stock):
    run = assemble(table_config(stock, 'train.tsv'))
    assert run.config.data.labels == ('neg', 'pos')
    described = '\n'.join(dry_run.description(run))
    assert "text 'text' (guessed), label 'label' (guessed)" in described
    assert 'found in' in described


def test_a_head_of_other_labels_begins_anew(stock, tmp_path):
    """As many of them would fit by shape alone; of the same in another order, that order is taken. (Of folders: tests/interop/test_bases.py)"""
    config, params = checkpoint.load_params(str(stock / 'classifier'))
    for labels, anew in ((('neg', 'pos'), False), (('pos', 'neg'), False), (('cold', 'warm'), True), ((), False)):
        config.data.labels = labels
        checkpoint.save_params(str(tmp_path / '-'.join(labels)), config, params, str(material.PRETRAINED))
        run = assemble(table_config(stock, 'train.tsv', init_from=str(tmp_path / '-'.join(labels))))
        assert ('classifier' in run.initial) is not anew and 'encoder' in run.initial
        assert run.config.data.labels == (('pos', 'neg') if labels == ('pos', 'neg') else ('neg', 'pos'))
        assert (f'is of other labels ({", ".join(labels)}): one for these begins anew' in ' '.join(run.notes)) is anew


# Runs that are used.


def test_a_run_that_has_saved_nothing_yet(stock, tmp_path):
    run = shutil.copytree(stock / 'classifier', tmp_path / 'run')
    shutil.rmtree(run / 'checkpoints')
    refused((f'{run} is a run that has not saved a checkpoint yet', 'wait until it has'), load_for_use, from_json(str(run / 'config.json')), str(run), None)


def test_a_checkpoint_that_a_run_does_not_have(stock):
    config = from_json(str(stock / 'run' / 'config.json'))
    refused((str(stock / 'run'), 'no checkpoint of step 7', 'there are those of 0'), load_for_use, config, str(stock / 'run'), 7)


def test_fields_that_the_weights_fix(stock):
    config = from_json(str(stock / 'run' / 'config.json'))
    refused(('config.model.d_ff is 65', '64'), load_for_use, changed(config, model__d_ff=65), str(stock / 'run'), None)
    config = from_json(str(stock / 'run' / 'config.json'))
    config.model.module, config.model.num_labels = 'bert_flax.bert:BertForClassification', 2
    refused(('no parameter classifier/',), load_for_use, config, str(stock / 'run'), None)


def predictor(stock: Path, name: str) -> Predictor:
    workdir = str(stock / name)
    config, params, _ = load_for_use(from_json(f'{workdir}/config.json'), workdir, None)
    return Predictor(config, params, tokenizers.load(f'{workdir}/tokenizer'))


def test_texts_that_cannot_be_answered(stock):
    fill = predictor(stock, 'run')
    refused(("no [MASK] in 'abc'",), list, fill([('abc',)]))
    refused(('3 texts',), list, fill([('a', 'b', 'c')]))
    refused(('a [MASK] in', 'beyond the 32 tokens', 'shorten'), list, fill([('a ' * 40 + '[MASK]',)]))
    refused(('a [MASK] in', 'beyond'), list, fill([('[MASK] ' + 'a ' * 40 + '[MASK]',)]))
    assert len(list(fill([('a [MASK] b',)]))) == 1
    refused((str(stock / 'encoder'), 'bert_flax.bert:Bert', 'head', 'fine-tune it'), predictor, stock, 'encoder')


def test_a_run_on_single_texts_takes_no_pairs(stock):
    workdir = str(stock / 'classifier')
    config, params, _ = load_for_use(from_json(f'{workdir}/config.json'), workdir, None)
    for columns, text, words in (
        (('text',), ('a', 'b'), ('2 texts', 'one text at a time')),
        (('one', 'two'), ('a',), ('1 text in', 'a pair', '--text_b')),
    ):
        config.data.text_columns = columns
        refused(words, list, Predictor(config, params, tokenizers.load(f'{workdir}/tokenizer'))([text]))
