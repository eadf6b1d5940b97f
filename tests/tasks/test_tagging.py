"""Tagging end to end: a tiny model learns invented entities, its scores are those of words, and a mesh changes no number."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.config import Config, DataConfig
from t5x_lite.data import tags, tokenizers
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from t5x_lite.evaluation import metrics_tags, tag_predictor
from t5x_lite.evaluation.tag_predictor import TagPredictor
from t5x_lite.models.heads import TokenHead
from t5x_lite.tasks.tagging import TaggingLoss
from t5x_lite.training import partitioning
from t5x_lite.training.step import dummy_batch, make_program
from tests import head_material
from tests.data.table_material import vocabulary
from tests.data.tagged_material import columns, sentences
from tests.training import small


def run_config(folder, crf=False, mesh=None, **data) -> Config:
    (folder / 'train.conll').write_text(columns(sentences(400)))
    (folder / 'dev.conll').write_text(columns(sentences(60, seed=1)))
    data = DataConfig(
        source='t5x_lite.data.tagged:TaggedExamples', train=str(folder / 'train.conll'), validation=str(folder / 'dev.conll'),
        tokenizer=vocabulary(folder), seq_len=16, **data,
    )  # fmt: skip
    return head_material.run_of('TokenHead', 't5x_lite.tasks.tagging:TaggingLoss', data, mesh=mesh, model={'crf': crf}, steps=150)


@pytest.mark.parametrize('crf, data', [(False, {}), (True, {'tag_scheme_out': 'BIOES', 'every_piece': True})])
def test_a_tiny_model_learns_entities(tmp_path, crf, data):
    config = run_config(tmp_path, crf, **data)
    learnt = head_material.learnt(config)
    scores = learnt.after
    assert scores['f1'] > 0.97 > 0.6 > learnt.before['f1'], scores
    assert {'precision', 'recall', 'f1', 'f1_PER', 'f1_LOC', 'accuracy', 'token_accuracy', 'crf_loss' if crf else 'cross_entropy'} <= scores.keys()
    predictor = TagPredictor(config, learnt.params, tokenizers.load(config.data.tokenizer), batch_size=4)
    held = sentences(60, seed=1)
    answers = list(predictor([(' '.join(words),) for words, _ in held]))
    found = [[(entity['type'], entity['start'], entity['stop']) for entity in answer['entities']] for answer in answers]
    wanted = []
    for words, marks in held:
        places = tag_predictor.words_of(' '.join(words))
        wanted.append([(kind, places[first][0], places[last - 1][1]) for kind, first, last in tags.spans(marks)])
    assert metrics_tags.entities(wanted, found)['f1'] == scores['f1'], 'an answer is what the evaluation scored'
    assert [[word['word'] for word in answer['words']] for answer in answers] == [words for words, _ in held]
    lowest = min((word['probability'], word['tag'], answer['text']) for answer in answers for word in answer['words'])
    assert lowest[0] > 0.1 and all(word['probability'] <= 1 for answer in answers for word in answer['words']), lowest
    empty, long = predictor([('',), (' '.join(['a', 'tree'] * 20),)])
    assert empty == {'text': '', 'words': [], 'entities': []}
    assert len(long['words']) == 40 and len(long['entities']) == 20, 'a long text is read in parts'


@pytest.mark.parametrize(
    'crf, mesh, weights', [
        (False, {'fsdp': 2, 'tensor': 2}, ('balanced',)), (True, {'fsdp': 2, 'tensor': 2}, ()), (True, {'tensor': 2, 'sequence': 2}, ()),
    ]
)  # fmt: skip
def test_a_mesh_and_microbatches_change_no_number(tmp_path, crf, mesh, weights):
    config = run_config(tmp_path, crf, mesh={'data': 2} | mesh, class_weights=weights)
    config.label_smoothing = 0.1 if weights else 0.0
    params = head_material.same_on_its_mesh(config)
    if crf:
        assert np.abs(params['crf']['transitions']).max() > 0, 'transitions are learnt'


def test_tags_weigh_as_asked(tmp_path):
    config = run_config(tmp_path, class_weights=('balanced',))
    weights = dict(zip(config.data.labels, map(float, config.data.class_weights), strict=True))
    counts = {name: sum(tags.count(name) for _, tags in sentences(400)) for name in config.data.labels}
    words = sum(counts.values())
    assert weights == {name: pytest.approx(words / (5 * count)) if count else 1.0 for name, count in counts.items()}
    loss, batch = TaggingLoss(config), DataFunction(config, 'train').batch(0)
    labelled = batch['labels'][batch['labels'] != -1]
    np.testing.assert_allclose(loss.weights(batch)['loss'], sum(weights[config.data.labels[label]] for label in labelled), rtol=1e-6)
    for field in ({'label_smoothing': 0.1}, {}):
        with pytest.raises(UserError, match='is of single tags, and config.model.crf scores those of a sentence together'):
            TaggingLoss(dataclasses.replace(run_config(tmp_path, crf=True, class_weights=() if field else ('balanced',)), **field))
    with pytest.raises(UserError, match='config.data.class_weights has 2 numbers for 5 labels; give one each, in the order O, B-LOC'):
        run_config(tmp_path, class_weights=('1', '2'))


@pytest.mark.parametrize('scheme', ['IOB1', 'IOB2', 'BIOES'])
def test_illegal_tags_never_come_out_of_a_field(tmp_path, scheme):
    """Not even of random weights, with which nearly every sentence would be illegal; the likelihood that training sees is of all sequences."""
    config = run_config(tmp_path, crf=True, tag_scheme_out=scheme)
    assert len(config.model.crf_legal) == config.model.num_labels + 2
    free = run_config(tmp_path, crf=True, tag_scheme_out=scheme, legal_tags=False)
    assert free.model.crf_legal == ()
    batch = next(DataFunction(config, 'validation').evaluation_batches())
    found = {}
    for name, one in (('legal', config), ('free', free)):
        module = make_program(one, partitioning.make_mesh(one, small.one_device())).module
        params = jax.jit(lambda module=module: module.init(jax.random.key(1), dummy_batch())['params'])()
        rng = np.random.default_rng(2)
        params = jax.tree.map(lambda leaf, rng=rng: np.asarray(leaf) + rng.normal(scale=1.0, size=leaf.shape).astype(np.float32), params)
        found[name] = jax.tree.map(np.asarray, jax.jit(lambda params, module=module: module.apply({'params': params}, batch))(params))
    wrong = dict.fromkeys(found, 0)
    for name, outputs in found.items():
        for row, tagged in zip(outputs['tags'], batch['tagged'], strict=True):
            named = [config.data.labels[tag] for tag in row[tagged > 0]]
            try:
                tags.check(named, tags.scheme_of(scheme))
            except UserError:
                wrong[name] += 1
    assert wrong['legal'] == 0 < 5 < wrong['free'], wrong
    np.testing.assert_array_equal(found['legal']['log_likelihood'], found['free']['log_likelihood'])
    with pytest.raises(UserError, match='config.model.crf_legal is of other tags than the 3 of this run'):
        TokenHead.layout_of(dataclasses.replace(config.model, num_labels=3))


def test_words_that_were_cut_off_count_as_missed(tmp_path):
    """Two persons, the second beyond the sequence: recall 1 of 2."""
    config = run_config(tmp_path)
    names = list(config.data.labels)
    person, outside = names.index('B-PER'), names.index('O')
    collected = {
        'tags': np.array([[outside, person, outside, outside]], np.int32),
        'words': np.array([[-1, 0, 1, -1]], np.int32),
        'targets': np.array([[person, outside, person, -1]], np.int32),
        'weights': np.ones(1, np.float32),
    }
    scores = TaggingLoss(config).summarize(collected)
    assert (scores['precision'], scores['recall'], scores['accuracy']) == (1.0, 0.5, 2 / 3)


def test_words_of_a_text():
    def words(text):
        return [text[start:stop] for start, stop in tag_predictor.words_of(text)]

    assert words('Ann (of Rome) left.') == ['Ann', '(', 'of', 'Rome', ')', 'left', '.']
    assert words('The U.S. said "no", e.g. 1,000 ...') == ['The', 'U.S.', 'said', '"', 'no', '"', ',', 'e.g.', '1,000', '.', '.', '.']
    assert words('   ') == []
