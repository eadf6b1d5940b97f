"""Texts that share rows are fine-tuned on, and judged, as texts alone: the same loss, gradients and scores, on one device or on eight."""

import copy

import jax
import numpy as np
import pytest

from configs import classify
from t5x_lite import dry_run
from t5x_lite.assemble import assemble
from t5x_lite.config import Features, LayerMix, MeshConfig, Pooling
from t5x_lite.errors import UserError
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.training import partitioning, paths
from t5x_lite.training.beginning import begun
from t5x_lite.training.step import gradients, make_program
from tests.commands.material import changed
from tests.data.table_material import WORDS, tsv
from tests.test_heads_on_any_weights import SOURCES, weights

KINDS = {
    'classes': (lambda i: 'xyz'[i % 3], {}),
    'numbers': (lambda i: f'{i % 7 / 2}', {'data__regression': True}),
    'sets': (lambda i: '|'.join('xyz'[: i % 4]), {'data__label_separator': '|'}),
}  # fmt: skip


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('packed')
    for kind, (label, _) in KINDS.items():
        rows = [(' '.join(WORDS[(i * j + i) % len(WORDS)] for j in range(1 + i * 7 % 11)), label(i)) for i in range(60)]
        (place / f'{kind}.tsv').write_text(tsv(rows))
    for source, (folder, *_) in SOURCES.items():
        weights(folder, place / source)
    return place


def config_of(place, source, kind='classes', **fields):
    config = classify.get_config()
    config.init_from, config.data.train = str(place / source), str(place / f'{kind}.tsv')
    base = {
        'data__seq_len': 16, 'data__length_buckets': (), 'data__pack': True, 'batch_size': 8, 'eval__batch_size': 8, 'epochs': 0.0, 'steps': 20,
        'model__dropout': 0.0, 'model__attention_dropout': 0.0, 'init_fresh': ('classifier/.*', 'encoder/pooler/.*', 'layer_mix/.*'),
    }  # fmt: skip
    return changed(config, **(base | KINDS[kind][1] | fields))


class Given:
    """A run and the state that it begins with, over all devices or the first `count`."""

    def __init__(self, config, count=8):
        self.run = assemble(config)
        dry_run.check(self.run)
        self.program = make_program(self.run.config, partitioning.make_mesh(self.run.config, jax.devices()[:count]))
        with jax.set_mesh(self.program.mesh):
            self.params = begun(self.program, self.run.initial).params

    def of(self, batch):
        """(loss, gradients, metrics) of a batch, on the mesh."""
        with jax.set_mesh(self.program.mesh):
            key = DropoutKey.create(0, np.int32(0), np.arange(len(batch['tokens']), dtype=np.uint32))
            loss, grads, metrics = jax.jit(lambda params, batch: gradients(self.program, params, batch, key))(self.params, batch)
        return float(loss), {path: np.asarray(leaf) for path, leaf in paths.leaves(grads).items()}, jax.tree.map(float, metrics)


def apart(batch):
    """The same texts in rows of their own, filled up to a number that devices divide."""
    where = [(row, slot) for row, slot in np.argwhere(batch['spans'][..., 1] > 0).tolist()]
    count = -(-len(where) // 8) * 8
    width, names = batch['tokens'].shape[1], ('tokens', 'token_types')
    found = {name: np.zeros((count, width), np.int32) for name in (*names, 'sequence_ids')}
    found['labels'], found['example_weights'] = np.zeros((count, *batch['labels'].shape[2:]), batch['labels'].dtype), np.zeros(count, np.float32)
    for place, (row, slot) in enumerate(where):
        first, end = batch['spans'][row, slot]
        for name in names:
            found[name][place, : end - first] = batch[name][row, first:end]
        found['sequence_ids'][place, : end - first] = 1
        found['labels'][place], found['example_weights'][place] = batch['labels'][row, slot], batch['example_weights'][row, slot]
    return found


@pytest.mark.parametrize('source, kind, fields', [
    ('bert', 'classes', {'data__class_weights': ('1.0', '2.0', '0.5'), 'label_smoothing': 0.1, 'optim__microbatches': 2, 'mesh': MeshConfig(fsdp=4, sequence=2)}),
    ('bert_encoder', 'numbers', {'model__pooling': Pooling.mean, 'model__read_layers': (0, -1), 'model__layer_mix': LayerMix.weighted}),
    ('gpt', 'sets', {'mesh': MeshConfig(data=2, sequence=4)}),
    ('t5', 'classes', {'mesh': MeshConfig(data=4, sequence=2)}),
], ids=['bert', 'bert-mix', 'gpt', 't5'])  # fmt: skip
def test_losses_gradients_and_scores_are_those_of_texts_alone(place, source, kind, fields):
    packed, alone = Given(config_of(place, source, kind, **fields)), Given(config_of(place, source, kind, data__pack=False, **fields))
    batch = packed.run.train.batch(0)
    assert batch['tokens'].shape == (8, 16) and (batch['spans'][..., 1] > 0).sum() > 10, 'rows hold several texts'
    ours, theirs = packed.of(batch), alone.of(apart(batch))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[2].keys() == theirs[2].keys()
    for name, pair in theirs[2].items():
        assert ours[2][name] == pytest.approx(pair, rel=1e-5), name
    for path, gradient in theirs[1].items():
        np.testing.assert_allclose(ours[1][path], gradient, atol=1e-5 * max(1.0, np.abs(gradient).max()), err_msg=path)
        assert np.abs(gradient).max() > 0 or path.endswith(('bias', 'relative_bias')) or 'embeddings' in path, path
    scores = [Evaluator(one.program, one.run.validation)(one.params) for one in (packed, alone)]
    assert scores[0] == pytest.approx(scores[1], rel=2e-5, abs=1e-6)


def test_dropout_does_not_depend_on_devices_or_parts(place):
    dropout = {'model__dropout': 0.3, 'model__attention_dropout': 0.1}
    one = Given(config_of(place, 'bert', **dropout), 1)
    batch = one.run.train.batch(1)
    wanted = one.of(batch)
    assert abs(wanted[0] - Given(config_of(place, 'bert'), 1).of(batch)[0]) > 1e-4, 'something is dropped'
    many = Given(config_of(place, 'bert', mesh=MeshConfig(data=2, fsdp=2, tensor=2), optim__microbatches=2, **dropout)).of(batch)
    assert many[0] == pytest.approx(wanted[0], rel=1e-5)
    for path, gradient in wanted[1].items():
        np.testing.assert_allclose(many[1][path], gradient, atol=1e-5 * max(1.0, np.abs(gradient).max()), err_msg=path)


def test_texts_of_a_row_drop_out_apart(place):
    """Two texts alike, in one row: what the head drops is not."""
    given = Given(config_of(place, 'bert', model__dropout=0.5, model__attention_dropout=0.0), 1)
    batch = {name: value[:1].copy() for name, value in given.run.train.batch(0).items()}
    for name in ('tokens', 'token_types', 'sequence_ids', 'positions', 'spans'):
        batch[name][:] = 0
    batch['tokens'][0, :6], batch['positions'][0, :6], batch['sequence_ids'][0, :6] = [2, 5, 3] * 2, [0, 1, 2] * 2, [1] * 3 + [2] * 3
    batch['spans'][0, :2] = (0, 3), (3, 6)
    still = copy.deepcopy(given.run.config.model)
    still.dropout = 0.0
    key = DropoutKey.create(0, np.int32(0), np.arange(1, dtype=np.uint32))
    module = type(given.program.module)
    dropped, plain = (module(config).apply({'params': given.params}, batch, dropout=key)['logits'] for config in (given.run.config.model, still))
    np.testing.assert_allclose(plain[0], plain[1], rtol=1e-5)
    assert np.abs(dropped[0] - dropped[1]).max() > 1e-3


@pytest.mark.parametrize('fields, said', [
    ({'model__module': 't5x_lite.models.heads:TokenHead', 'data__source': 't5x_lite.data.tagged:TaggedExamples'}, 'is for t5x_lite.models.heads:SequenceHead'),
    ({'tune__features': Features.contextual}, 'leave config.data.pack out'),
])  # fmt: skip
def test_what_cannot_read_it(place, fields, said):
    with pytest.raises(UserError, match=said):
        assemble(config_of(place, 'bert', **fields))


def test_a_body_that_reads_one_text_a_row(place, monkeypatch):
    monkeypatch.delattr('bert_flax.bert.Bert.packs')
    with pytest.raises(UserError, match='bert_flax.bert:Bert reads one text a row; leave it out'):
        assemble(config_of(place, 'bert'))
