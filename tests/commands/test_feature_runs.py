"""The feature-based way from the first command to the last: the run that comes of it is one like any other."""

import json
import shutil

import numpy as np
import pytest

from t5x_lite.interop import bases, conversion, folder
from t5x_lite.training import checkpoint, paths
from tests.commands import forked, material
from tests.commands.test_adapter_runs import flags, held

FEATURES = '--config.tune.features=contextual'


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Pretrained folders and a table."""
    place = tmp_path_factory.mktemp('features')
    for name in ('hf', 'leaving'):
        shutil.copytree(material.PRETRAINED, place / name)
    material.table(place / 'reviews.tsv', material.reviews(16))
    return place


def params_of(run):
    return paths.leaves(bases.Weights().run(str(run))[1])


def assert_scores_are_those_of_the_whole_model(workdir):
    """What training said, by features, and what evaluate says, by the body and the head together."""
    forked.run('evaluate', f'--workdir={workdir}').success
    found = json.loads((workdir / 'evaluation.json').read_text())
    said = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines() if '"eval/' in line][-1]
    assert said['eval/cross_entropy'] == pytest.approx(found['cross_entropy'], rel=1e-5) and said['eval/accuracy'] == found['accuracy']


def test_a_head_on_features_is_a_run_like_any_other(place):
    train = ('train', *flags(place, 'one', FEATURES, f'--config.tune.feature_cache={place}/cache'))
    said = forked.run(*train).success
    assert ' train examples: ' in said and f' bytes in {place}/cache/' in said and 'weights from' in said
    base, ours = paths.leaves(folder.load(str(place / 'hf'))[1]), params_of(place / 'one')
    learnt = {path for path in ours if path not in base or ours[path].tobytes() != base[path].tobytes()}
    assert learnt == {f'{layer}/{kind}' for layer in ('classifier', 'encoder/pooler') for kind in ('kernel', 'bias')}
    assert_scores_are_those_of_the_whole_model(place / 'one')
    assert '%' in forked.run('predict', f'--workdir={place}/one', '--text=good 3 of a kind').success
    conversion.to_hf(str(place / 'one'), str(place / 'exported'))
    theirs = paths.leaves(folder.load(str(place / 'exported'))[1])
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[path], theirs[path]) for path in ours)
    assert 'finished: all' in (again := forked.run(*train).success) and 'features of' not in again


def test_a_sweep_shares_a_cache_and_a_run_goes_on_when_its_base_has_gone(place):
    """A mix of layers: its weights are the run's own. Checkpoints with what learnt alone hold no body."""
    cache = f'--config.tune.feature_cache={place}/shared'
    mix = (FEATURES, cache, '--config.model.read_layers=(0,-1)', '--config.model.pooling=mean', '--config.checkpoint.keep_last=9')
    train = ('train', *flags(place, 'mixed', *mix, base='leaving'))
    assert ' bytes in ' in forked.run(*train).success
    assert_scores_are_those_of_the_whole_model(place / 'mixed')
    other = ('train', *flags(place, 'other', *mix, '--config.optim.learning_rate=1e-3', '--config.checkpoint.whole=no', base='hf'))
    said = forked.run(*other).success
    assert said.count(': read from ') == 2 and ' bytes in ' not in said
    assert held(place / 'other') == {'classifier/kernel', 'classifier/bias', 'layer_mix/weights', 'layer_mix/scale'}
    ours = params_of(place / 'mixed')
    shutil.rmtree(place / 'mixed' / 'checkpoints' / str(checkpoint.locate(str(place / 'mixed'))[1]))
    shutil.rmtree(place / 'leaving')
    shutil.rmtree(place / 'shared')
    said = forked.run(*train).success
    assert f'resumed {place}/mixed from step' in said and said.count(' bytes in ') == 2
    again = params_of(place / 'mixed')
    assert all(again[path].tobytes() == ours[path].tobytes() for path in ours)
    refused = forked.run('convert', f'--input={place}/mixed', f'--output={place}/no', '--format=hf').error
    assert 'config.model.read_layers=(0, -1) cannot be exported: heads in transformers read what comes out of the last layer' in refused


def test_mistakes_are_a_line_before_anything_is_computed(place):
    def refused(*more):
        return forked.run('train', *flags(place, 'wrong', FEATURES, *more)).error

    assert 'lets encoder/layers/mlp/wi/kernel learn; narrow those patterns' in refused('--config.tune.train=(".*/wi/kernel",)')
    assert 'the body has 2 layers' in refused('--config.model.read_layers=(-4,)')
    assert 'and config.tune.adapters changes them' in refused('--config.tune.adapters=pfeiffer')
    (place / 'file').write_text('')
    assert f'{place}/file' in refused(f'--config.tune.feature_cache={place}/file/cache')
    assert not (place / 'wrong').exists()
