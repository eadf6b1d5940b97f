"""The data of several heads: batches of one head each, which are those of its single run, in exact shares."""

import dataclasses
import pickle

import numpy as np
import pytest

from t5x_lite import several
from t5x_lite.config import MixConfig, Rates
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.several import SeveralData
from t5x_lite.errors import UserError
from tests import several_material as material


def data_of(config, split='train'):
    return SeveralData(config, split)


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


def test_batches_are_those_of_single_runs_in_their_order(tmp_path):
    config = material.with_files(tmp_path)
    data, alone = data_of(config), {name: DataFunction(one, 'train') for name, one in several.apart(config).items()}
    taken = dict.fromkeys(alone, 0)
    for step in range(20):
        batch = data.batch(step)
        name = several.name_in(batch)
        assert data.at(step) == (name, taken[name]) and data.config_at(step).heads == () and data.counts(step)[name] == 8 == sum(data.counts(step).values())
        assert batch.pop(f'head/{name}').tolist() == [1] * 8
        assert same(batch, alone[name].batch(taken[name])), name
        taken[name] += 1
        assert same(data.batch(step, slice(2, 5)), {feature: values[2:5] for feature, values in data.batch(step).items()})
    assert min(taken.values()) > 2
    assert [several.name_in(data.batch(step)) for step in data.first_steps] == list(data.names)
    again = pickle.loads(pickle.dumps(data))
    assert again.fingerprint == data.fingerprint and same(again.batch(7), data.batch(7))
    assert [step for step, batch in data.loader(3, 6) if same(batch, data.batch(step))] == [3, 4, 5]


def test_shares(tmp_path):
    config = material.with_files(tmp_path, ('mood', 'tags'))  # 36 examples (of 40, a tenth set aside) and 24
    assert data_of(config).shares() == pytest.approx({'mood': 0.6, 'tags': 0.4})
    mixed = lambda **mix: data_of(dataclasses.replace(config, mix=MixConfig(**mix))).shares()  # noqa: E731
    assert mixed(rates=Rates.equal) == {'mood': 0.5, 'tags': 0.5}
    assert mixed(maximum=12) == {'mood': 0.5, 'tags': 0.5}
    root = (36**0.5) / (36**0.5 + 24**0.5)
    assert mixed(temperature=2.0)['mood'] == pytest.approx(root, abs=1e-3)
    config.heads[1].rate = 3.0
    assert mixed(rates=Rates.given) == {'mood': 0.25, 'tags': 0.75}
    assert data_of(config).num_examples == 60


def test_a_head_without_a_batch_is_known_before(tmp_path):
    config = material.with_files(tmp_path, ('mood', 'tags'), mix=MixConfig(rates=Rates.given), steps=10)
    config.heads[1].rate = 0.02
    data = data_of(config)
    (name, said), = data.without_batch().items()
    assert name == 'tags' and said.startswith('its share of the batches is 1.96%, and none of the 10 of this run is of it') and 'config.heads.tags.rate' in said
    first = data.first_steps[1]
    for steps, silent in ((first, ['tags']), (first + 1, []), (10**9, [])):
        data.complete(dataclasses.replace(config, steps=steps))
        assert list(data.without_batch()) == silent and ('tags' in {data.at(step)[0] for step in range(min(steps, 100))}) is not bool(silent)
    assert data_of(material.with_files(tmp_path, steps=20)).without_batch() == {}


def test_what_was_trained_on_is_known_by_its_fingerprint(tmp_path):
    config = material.with_files(tmp_path, ('mood', 'tags'))
    prints = [data_of(config).fingerprint, data_of(dataclasses.replace(config, mix=MixConfig(rates=Rates.equal))).fingerprint]
    (tmp_path / 'train.conll').write_text((tmp_path / 'train.conll').read_text().replace('woman', 'man'))
    assert len({*prints, data_of(config).fingerprint}) == 3


def test_what_is_said_and_what_is_wrong_names_the_head(tmp_path):
    config = material.with_files(tmp_path)
    lines = data_of(config).describe()
    assert any(line.startswith('mood: 3 labels: bad (') for line in lines) and any(line.startswith('tags: entities: ') for line in lines)
    assert lines[-1].startswith('shares of the batches: mood ')
    config.heads[1].data.train = ''
    with pytest.raises(UserError, match='^--config.heads.tags.data.train is empty; give the file to learn from'):
        data_of(config)
    config = material.with_files(tmp_path)
    (tmp_path / 'mood.tsv').write_text('text\tlabel\na\tgood\nb\tgood\n')
    with pytest.raises(UserError, match=r'^head mood: .*mood.tsv: every row has the label'):
        data_of(config)
