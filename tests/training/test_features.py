"""Head only, on states computed once: the same losses and gradients as with the body at hand, which stays as it was; who asks again finds them."""

import os
import pickle
import shutil

import jax
import numpy as np
import pytest

from configs import classify, ner
from t5x_lite import dry_run
from t5x_lite.assemble import assemble
from t5x_lite.config import DType, Features, LayerMix, Pooling
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.tables import LabelledExamples
from t5x_lite.errors import UserError
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.training import checkpoint, features, partitioning, paths
from t5x_lite.training.step import gradients, make_program, make_train_step
from tests.commands import material
from tests.commands.material import changed
from tests.data.tagged_material import columns, sentences
from tests.test_heads_on_any_weights import SOURCES, weights


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('features')
    rows = [('the cat sings loudly', 'x'), ('the dog', 'y'), ('a man sings', 'x'), ('the man and the dog', 'y')]
    material.table(place / 'table.tsv', [(f'{text} {number}', label) for number in range(6) for text, label in rows])
    (place / 'tags.conll').write_text(columns(sentences(24)))
    return place


def config_of(place, name, source='bert', recipe=classify, **fields):
    if not (place / source).exists():
        weights(SOURCES[source][0], place / source)
    config = recipe.get_config()
    config.init_from, config.data.train = str(place / source), str(place / ('table.tsv' if recipe is classify else 'tags.conll'))
    base = {
        'data__seq_len': 16, 'data__length_buckets': (8, 12), 'batch_size': 8, 'eval__batch_size': 8, 'model__dropout': 0.0, 'model__attention_dropout': 0.0,
        'tune__features': Features.contextual, 'tune__feature_cache': str(place / 'cache'), 'epochs': 1.0,
    }  # fmt: skip
    return changed(config, **(base | fields)), str(place / name)


def attached(config, workdir):
    run = assemble(config, workdir=workdir)
    return run, features.attach(run.config, workdir, run.initial, run.train, run.validation)


class Given:
    """A run with its data as they are, and with features."""

    def __init__(self, config, workdir):
        self.run, (self.train, self.validation) = attached(config, workdir)
        self.config = self.run.config
        self.program = make_program(self.config, partitioning.make_mesh(self.config))
        with jax.set_mesh(self.program.mesh):
            state = self.program.init()
            params, _ = checkpoint.merge(state.params, self.run.initial, self.config.init_fresh, '')
        self.state = state.replace(params=params)

    def of(self, batch, dropout=False):
        """(loss, gradients) of a batch, on the mesh."""
        with jax.set_mesh(self.program.mesh):
            key = DropoutKey.create(0, np.int32(0), np.arange(8, dtype=np.uint32))
            loss, grads, _ = jax.jit(lambda params, batch: gradients(self.program, params, batch, key))(self.state.params, batch)
            return float(loss), {path: np.asarray(leaf) for path, leaf in paths.leaves(grads).items()}


@pytest.mark.parametrize(
    'source, recipe, fields',
    [
        ('bert', classify, {}),
        ('bert', ner, {'model__read_layers': (0, 1, -1), 'model__crf': True}),
        ('gpt', classify, {'model__read_layers': (1, -1), 'model__layer_mix': LayerMix.concatenated}),
        ('t5', classify, {'model__read_layers': (0, -1), 'model__pooling': Pooling.mean}),
        ('t5', classify, {'tune__features': Features.static, 'model__pooling': Pooling.mean}),
        ('gpt', ner, {'model__read_layers': (1,)}),
    ],
    ids=['bert', 'bert-tags-mix', 'gpt-side-by-side', 't5-mix', 't5-static', 'gpt-tags-below'],
)
def test_losses_and_gradients_are_those_with_the_body_at_hand(place, source, recipe, fields):
    """On eight devices, in epochs of an order of their own, held-out rows and the filling of their last batch too."""
    given = Given(*config_of(place, 'a', source, recipe, **fields))
    for batch, plain in [(given.train.batch(step), given.run.train.batch(step)) for step in (0, 3)] + [
        (batch, plain) for batch, plain in zip(given.validation.evaluation_batches(), given.run.validation.evaluation_batches(), strict=True)
    ]:
        length = plain['tokens'].shape[1]
        assert batch.keys() - plain.keys() == {'features'} and batch['tokens'].shape[1] == (length if recipe is ner else 16)
        for name, values in plain.items():
            assert np.array_equal(values, batch[name] if values.ndim == 1 or recipe is ner else batch[name][:, :length]), name
        assert batch['features'].shape[:-2] == (plain['tokens'].shape if recipe is ner else (8,))
    ours, theirs = given.of(given.train.batch(3)), given.of(given.run.train.batch(3))
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1].keys() == theirs[1].keys() and {path.split('/')[0] for path in ours[1]} <= {'classifier', 'crf', 'layer_mix', 'encoder'}
    for path, gradient in theirs[1].items():
        np.testing.assert_allclose(ours[1][path], gradient, atol=1e-5 * max(1.0, np.abs(gradient).max()), err_msg=path)


def test_the_body_stays_bitwise_and_the_weights_of_a_mix_learn(place):
    fields = {'model__read_layers': (0, -1), 'model__pooling': Pooling.mean, 'model__dropout': 0.5, 'optim__learning_rate': 0.1, 'optim__warmup_fraction': 0.0}
    given = Given(*config_of(place, 'b', **fields))
    before = {path: np.asarray(leaf) for path, leaf in paths.leaves(given.state.params).items()}
    step, state = make_train_step(given.program), given.state
    with jax.set_mesh(given.program.mesh):
        compiled = jax.jit(step)
        for number in range(2):
            state, _ = compiled(state, given.train.batch(number))
    after = {path: np.asarray(leaf) for path, leaf in paths.leaves(state.params).items()}
    differs = {path for path in before if before[path].tobytes() != after[path].tobytes()}
    assert differs == {'classifier/kernel', 'classifier/bias', 'layer_mix/weights', 'layer_mix/scale'}
    assert not [path for path in paths.leaves(state.opt_state) if 'encoder' in path], 'the optimiser keeps nothing of the body'


def test_who_asks_again_finds_them_and_who_asks_for_others_does_not(place, monkeypatch, capsys):
    made, fill = [], features._Body._fill
    monkeypatch.setattr(features._Body, '_fill', lambda self, *args: made.append(1) or fill(self, *args))
    cache = str(place / 'counted')

    def ask(name, **fields):
        made.clear()
        attached(*config_of(place, name, tune__feature_cache=cache, **({'model__pooling': Pooling.mean} | fields)))
        return len(made)

    assert ask('first') == 2 and 'features of 22 train examples: ' in (said := capsys.readouterr().out) and f' bytes in {cache}/' in said
    assert ask('first') == 0 and f'features of 22 train examples: read from {cache}/' in capsys.readouterr().out
    assert ask('rate', optim__learning_rate=3e-3, batch_size=16, data__length_buckets=()) == 0
    assert ask('layer', model__read_layers=(1,)) == 2 and ask('half', tune__feature_dtype=DType.bfloat16) == 2
    sizes = sorted({os.path.getsize(f'{cache}/{name}/rows.bin') for name in os.listdir(cache) if not name.endswith('.lock')})
    assert sizes == [2 * 32 * 2, 2 * 32 * 4, 22 * 32 * 2, 22 * 32 * 4]
    # Of a file that another seed divides otherwise, and of other weights.
    assert ask('seed', seed=1) == 2
    shutil.rmtree(cache)
    assert ask('first') == 2


def test_loader_processes_find_them(place):
    _, (train, _) = attached(*config_of(place, 'c', model__pooling=Pooling.mean))
    opened = pickle.loads(pickle.dumps(train))
    assert isinstance(opened, DataFunction) and opened.fingerprint == train.fingerprint
    assert np.array_equal(opened.batch(2)['features'], train.batch(2)['features'])


def test_mistakes(place, monkeypatch):
    def refused(words, **fields):
        with pytest.raises(UserError) as caught:
            dry_run.check(attached(*config_of(place, 'd', **fields))[0])
        assert words in str(caught.value) and '\n' not in str(caught.value), caught.value

    refused('config.tune.features=contextual are those of pretrained weights; give --config.init_from', init_from='', init_architecture=False, model__body='bert_flax.bert:Bert')
    refused('and config.tune.lora changes them', tune__lora=(('.*/query', 2, 2.0),))
    refused('and config.tune.unfreeze changes them', tune__unfreeze=((0.5, '.*', 1.0),))
    refused('the body has 2 layers, from 0 (the embeddings) to 2, or from -1 (the last) down to -3', model__read_layers=(3,))
    refused('names a layer twice', model__read_layers=(2, -1))
    refused('are those of the embeddings, and config.model.read_layers=(1,) names others', tune__features=Features.static, model__read_layers=(1,))
    refused('lets encoder/layers/attention/key/kernel learn', tune__train=('encoder/layers/1/attention/key/kernel',))
    refused('is of heads on a body', model__module='bert_flax.bert:BertForPreTraining')

    get = LabelledExamples.get

    def augmented(self, indices, width=0):
        rows = get(self, indices, width)
        return rows | {'tokens': rows['tokens'] + (np.asarray(indices) > 20)[:, None].astype(np.int32)}

    monkeypatch.setattr(LabelledExamples, 'get', augmented)
    refused('these change from epoch to epoch; leave augmentation or features out')
