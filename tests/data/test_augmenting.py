"""Augmented examples of a table: which are changed, by what they are drawn, and what never is."""

import functools
import pickle

import numpy as np
import pytest

from t5x_lite.config import AugmentConfig, Config
from t5x_lite.data import augmenting
from t5x_lite.data.augmenting import Augmenter, Synonyms
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from tests.data.table_material import GOOD, VOCAB, all_of, labelled, rows_of, tsv, vocabulary, words

DELETION = AugmentConfig(deletion=0.5)


@pytest.fixture
def make(tmp_path):
    return functools.partial(labelled, tmp_path, {'t.tsv': GOOD}, validation='t.tsv')


def synonyms_of(source, path, word='tree'):
    """For every word of a source's texts one synonym, `word`, but for the first of each text, which has none."""
    texts = [text for row in source.texts for text in row]
    counts = [len(text.split()) for text in texts]
    starts = np.concatenate([[0], np.cumsum(counts)])
    ids = np.zeros((starts[-1], 2), np.int32)
    ids[:, 1], ids[starts[:-1]] = -1, -1
    Synonyms(starts, ids, np.array([word, 'never']), source.text_digest, 'w').save(str(path))
    return str(path)


def test_parts_of_words():
    assert augmenting.parts('«Good,»') == ('«', 'Good', ',»') and augmenting.parts('dog') == ('', 'dog', '')
    assert [augmenting.parts(word) for word in ("don't", '3.5', 'b2b', '--', 'well-known', '')] == [None] * 6
    assert [augmenting.dressed(word, 'fine') for word in ('good', 'Good,', '(GOOD)', 'A')] == ['fine', 'Fine,', '(FINE)', 'Fine']


def test_nothing_is_changed_unless_asked(make):
    plain, held_out = make(), make(split='validation', augment=DELETION)
    assert plain.fingerprint == make(augment=AugmentConfig()).fingerprint and 'texts are changed' not in plain.describe()
    np.testing.assert_array_equal(all_of(held_out)['tokens'], all_of(make(split='validation'))['tokens'])
    assert held_out.fingerprint == make(split='validation').fingerprint and 'texts are changed' not in held_out.describe()
    assert all(old == new for old, new in plain.changed(np.arange(40)))


def test_examples_are_functions_of_seed_epoch_and_index(make):
    augmented, plain = make(augment=DELETION), make()
    assert len(augmented) == len(plain) == 20 and '50% of the words; each is changed' in augmented.describe()
    for index in (0, 7, 19, 33):  # alone, in company, in another order
        one = augmented.get([index], width=16)['tokens'][0]
        np.testing.assert_array_equal(one, augmented.get(np.arange(40), width=16)['tokens'][index])
        np.testing.assert_array_equal(one, make(augment=DELETION).get([index], width=16)['tokens'][0])
    order, rows = all_of(plain), all_of(augmented)
    np.testing.assert_array_equal(order['labels'], rows['labels'])
    for old, new in zip(order['tokens'], rows['tokens'], strict=True):
        assert set(words(new).split()) <= set(words(old).split()) and words(new)
    epochs = [sorted(words(row) for row in augmented.get(np.arange(20) + 20 * epoch, width=16)['tokens']) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert [words(row) for row in make(augment=DELETION, seed=1).get(np.arange(20), width=16)['tokens']] != [words(row) for row in rows['tokens']]


def test_copies_stand_beside_the_examples_themselves(make):
    source, plain = make(augment=AugmentConfig(swap=0.5, copies=2)), make()
    assert len(source) == 60 and len(source.texts) == 20 and '2 changed beside each as it is, 60 in an epoch' in source.describe()
    pairs = source.changed(np.arange(60))
    assert sorted(old for old, _ in pairs) == sorted(plain.texts * 3)
    assert sum(old == new for old, new in pairs) >= 20, 'each once as it is'
    assert sum(old != new for old, new in pairs) > 35
    by_text = {}
    for old, new in pairs:
        by_text.setdefault(old, []).append(new)
    assert all(old in found and len(found) == 3 * plain.texts.count(old) for old, found in by_text.items())
    labels = dict(zip(plain.texts, plain.labels, strict=True))
    assert all(labels[plain.texts[row]] == label for row, label in zip(source.rows_of(np.arange(60)), source.get(np.arange(60))['labels'], strict=True))


def test_pairs_change_each_on_its_own():
    augmenter = Augmenter(DELETION, seed=0)
    text = ' '.join(f'w{number}' for number in range(30))
    [(first, second)] = augmenter([(text, text)], np.zeros(1, int), np.zeros(1, int), np.zeros(1, int))
    assert first != second and set(first.split()) < set(text.split())


def test_synonyms(make, tmp_path):
    settings = AugmentConfig(synonyms=0.99, candidates=2)
    source = make(augment=settings)
    before = source.fingerprint
    assert all(old == new for old, new in source.changed(np.arange(20))), 'none are there yet'
    source.take_synonyms(synonyms_of(source, tmp_path / 's.npz'))
    assert source.fingerprint != before
    for (old,), (new,) in source.changed(np.arange(20)):
        assert new.split()[0] == old.split()[0] and set(new.split()[1:]) <= {'tree', *old.split()} and 'tree' in new
    again = make(augment=AugmentConfig(synonyms=0.99, candidates=2, file=str(tmp_path / 's.npz')))
    assert again.fingerprint == source.fingerprint and again.changed([3]) == source.changed([3])
    with pytest.raises(UserError, match=r's.npz: these synonyms were made for other texts'):
        make(augment=AugmentConfig(synonyms=0.5, candidates=3, file=str(tmp_path / 's.npz')))
    for content, said in ((b'x', 'no file of synonyms, or a broken one'), (None, 'no such file of synonyms')):
        (tmp_path / 's.npz').unlink()
        if content:
            (tmp_path / 's.npz').write_bytes(content)
            with pytest.raises(UserError, match=said):
                source.take_synonyms(str(tmp_path / 's.npz'))
    with pytest.raises(UserError, match='absent.npz: no such file'):
        source.take_synonyms(str(tmp_path / 'absent.npz'))


def test_loader_processes_make_the_same(tmp_path):
    (tmp_path / 't.tsv').write_text(tsv(rows_of(30)))
    config = Config(seed=3, batch_size=8)
    data = config.data
    data.source, data.train, data.validation = 't5x_lite.data.tables:LabelledExamples', str(tmp_path / 't.tsv'), str(tmp_path / 't.tsv')
    data.tokenizer, data.seq_len, data.length_buckets = vocabulary(tmp_path), 16, (4, 8, 12)
    data.augment = AugmentConfig(deletion=0.3, synonyms=0.5, copies=1)
    train = DataFunction(config, 'train')
    source = train.sources(train.stages[0])[0]
    path = synonyms_of(source, tmp_path / 's.npz')
    source.take_synonyms(path)
    train.reads_synonyms(path)
    assert config.data.augment.file == '', 'that of the run says nothing of its place'
    other = pickle.loads(pickle.dumps(train))
    for step in (0, 5, 11):
        whole = train.batch(step)
        for name, values in other.batch(step).items():
            np.testing.assert_array_equal(values, whole[name], err_msg=name)
        part = train.batch(step, rows=slice(4, 8))  # as another host makes it, of the width of the whole
        np.testing.assert_array_equal(part['tokens'], whole['tokens'][4:8])
    assert train.fingerprint == other.fingerprint


def test_the_draws_never_change():
    """Or resumed runs would: the texts of one example in two epochs."""
    augmenter = Augmenter(AugmentConfig(deletion=0.2, swap=0.1), seed=7)
    text = ' '.join(VOCAB[5:13])
    found = [augmenter([(text,)], np.array([4]), np.array([4]), np.array([epoch]))[0][0] for epoch in range(2)]
    assert found == ['quietly a cat dog sings sleeps loudly', 'the cat dog quietly']
