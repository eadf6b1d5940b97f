"""Configs classify, choice and ner on weights of BERT, GPT and T5: the body is found, nothing of it starts at random, and answers come out."""

import shutil

import jax
import numpy as np
import pytest

from configs import choice, classify, ner
from t5x_lite import dry_run
from t5x_lite.assemble import assemble
from t5x_lite.config import Layout
from t5x_lite.data import tokenizers
from t5x_lite.evaluation.choice_predictor import ChoicePredictor
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.evaluation.predictor import Predictor
from t5x_lite.evaluation.tag_predictor import TagPredictor
from t5x_lite.interop import folder
from t5x_lite.training import checkpoint, partitioning, paths
from t5x_lite.training.step import make_program, make_train_step
from tests.data.table_material import VOCAB
from tests.data.tagged_material import columns, sentences
from tests.interop import ENCODER, GPT2, SINGLE, T5

BERT = 'bert_flax.bert:Bert'
SOURCES = {
    'bert': (SINGLE, BERT, Layout.encoder), 'bert_encoder': (ENCODER, BERT, Layout.encoder),
    'gpt': (GPT2, 't5x_lite.models.language_model:Decoder', Layout.decoder),
    't5': (T5, 't5x_lite.models.language_model:EncoderDecoder', Layout.encoder_decoder),
}  # fmt: skip


def weights(source, target):
    """A copy of a folder, with a tokenizer of as many words as it has rows."""
    shutil.copytree(source, target)
    if not tokenizers.present(str(target)):
        rows = folder.load(str(target))[0].vocab_size
        (target / 'vocab.txt').write_text('\n'.join([*VOCAB, *(f'more{number}' for number in range(rows - len(VOCAB)))]) + '\n')
    return str(target)


def one_step(config):
    """(run, program, parameters after a step, paths that began at random)."""
    run = assemble(config)
    dry_run.check(run)
    mesh = partitioning.make_mesh(run.config, jax.devices()[:1])
    program = make_program(run.config, mesh)
    with jax.set_mesh(mesh):
        state = program.init()
        params, fresh = checkpoint.merge(state.params, run.initial, run.config.init_fresh, '')
        loaded = paths.leaves(run.initial)
        for path, leaf in paths.leaves(params).items():
            assert path in fresh or np.array_equal(leaf, loaded[path]), path
        state, metrics = jax.jit(make_train_step(program))(state.replace(params=params), run.train.batch(0))
    assert metrics['finite'] and metrics['loss'] > 0
    return run, program, state.params, fresh


def prepared(config, tmp_path, source, table, text):
    (tmp_path / table).write_text(text)
    config.init_from, config.data.train = weights(source, tmp_path / 'weights'), str(tmp_path / table)
    config.data.seq_len, config.data.length_buckets, config.batch_size, config.eval.batch_size = 16, (), 8, 8
    return config


@pytest.mark.parametrize('name', SOURCES)
def test_classes(name, tmp_path):
    source, body, layout = SOURCES[name]
    rows = ''.join(f'the {word} {number}\t{label}\n' for number in range(20) for word, label in (('cat', 'x'), ('dog', 'y'), ('man', 'z')))
    run, program, params, fresh = one_step(prepared(classify.get_config(), tmp_path, source, 't.tsv', 'text\tlabel\n' + rows))
    assert (run.config.model.body, run.config.data.layout) == (body, layout)
    assert {path.split('/')[0] for path in fresh} == {'classifier'}
    scores = Evaluator(program, run.validation)(params)
    assert 0 <= scores['accuracy'] <= 1 and np.isfinite(scores['cross_entropy'])
    tokenizer = tokenizers.load(run.tokenizer_path)
    predictor = Predictor(run.config, jax.tree.map(np.asarray, params), tokenizer)
    one, = predictor([('the cat',)])
    again, longer = predictor([('the cat',), ('the cat sings loudly',)])
    assert one['probabilities'].keys() == {'x', 'y', 'z'} and sum(one['probabilities'].values()) == pytest.approx(1, abs=1e-5)
    assert all(again['probabilities'][label] == pytest.approx(chance, abs=1e-5) for label, chance in one['probabilities'].items()), longer


@pytest.mark.parametrize('name', ['bert_encoder', 'gpt', 't5'])
def test_choices(name, tmp_path):
    source, body, layout = SOURCES[name]
    rows = ''.join(f'the {word} {number}\tcat\t{word}\t{"tree" if number % 2 else ""}\t{word}\n' for number in range(20) for word in ('dog', 'man'))
    text = 'question\tchoice1\tchoice2\tchoice3\tlabel\n' + rows
    run, program, params, fresh = one_step(prepared(choice.get_config(), tmp_path, source, 't.tsv', text))
    assert (run.config.model.body, run.config.data.layout, run.config.model.num_labels, run.config.data.choice_labels) == (body, layout, 3, 'text')
    assert {path.split('/')[0] for path in fresh} <= {'classifier', 'encoder'} and 'classifier/kernel' in fresh
    scores = Evaluator(program, run.validation)(params)
    assert 0 <= scores['accuracy'] <= 1 and 0 < scores['cross_entropy'] < 10
    params = jax.tree.map(np.asarray, params)
    predictor = ChoicePredictor(run.config, params, tokenizers.load(run.tokenizer_path), batch_size=4)
    (first,), (again, five) = predictor([('the dog', 'cat', 'dog')]), predictor([('the dog', 'cat', 'dog'), ('the man', 'cat', 'dog', 'man', 'tree', 'red')])
    chances = {found['text']: found['probability'] for found in first['choices']}
    assert first['choice'] == first['choices'][0]['text'] and sum(chances.values()) == pytest.approx(1, abs=1e-5)
    assert {found['text']: found['probability'] for found in again['choices']} == pytest.approx(chances, abs=1e-5) and len(five['choices']) == 5
    given = ChoicePredictor(run.config, params, tokenizers.load(run.tokenizer_path), ('cat', 'dog'))
    assert {found['text']: found['probability'] for found in next(given([('the dog',)]))['choices']} == pytest.approx(chances, abs=1e-5)


@pytest.mark.parametrize('name, crf', [('bert_encoder', True), ('gpt', True), ('t5', False)])
def test_tags(name, crf, tmp_path):
    source, body, layout = SOURCES[name]
    config = prepared(ner.get_config(), tmp_path, source, 't.conll', columns(sentences(40)))
    config.model.crf = crf
    run, program, params, fresh = one_step(config)
    assert (run.config.model.body, run.config.data.layout) == (body, layout)
    assert {path.split('/')[0] for path in fresh} == {'classifier', 'crf'} - ({'crf'} if not crf else set())
    scores = Evaluator(program, run.validation)(params)
    assert 0 <= scores['f1'] <= 1 and 0 < scores['accuracy'] <= 1
    answer, = TagPredictor(run.config, jax.tree.map(np.asarray, params), tokenizers.load(run.tokenizer_path))([('the man sings',)])
    assert [word['word'] for word in answer['words']] == ['the', 'man', 'sings']
    assert all(word['tag'] in run.config.data.labels and 0 < word['probability'] <= 1.00001 for word in answer['words'])
