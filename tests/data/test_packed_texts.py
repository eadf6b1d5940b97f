"""Texts that share rows (config.data.pack): each once an epoch, whole, with its label, and a function of the index."""

import numpy as np
import pytest

from t5x_lite.config import AugmentConfig, Config
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from tests.data.table_material import WORDS, tsv, vocabulary

COUNT = 60


def config_of(tmp_path, rows=None, **fields):
    rows = rows or [(' '.join(WORDS[(i + j) % len(WORDS)] for j in range(1 + i * 7 % 13)), 'xy'[i % 2]) for i in range(COUNT)]
    (tmp_path / 't.tsv').write_text(tsv(rows))
    config = Config(batch_size=4)
    data = config.data
    data.source, data.seq_len, data.tokenizer, data.pack = 't5x_lite.data.tables:LabelledExamples', 16, vocabulary(tmp_path), True
    data.train = data.validation = str(tmp_path / 't.tsv')
    for name, value in fields.items():
        assert hasattr(data, name)
        setattr(data, name, value)
    return config


def texts_in(batch):
    """(ids, label) of each text, in order."""
    found = []
    for row in range(len(batch['tokens'])):
        for slot, (first, end) in enumerate(batch['spans'][row].tolist()):
            assert batch['example_weights'][row, slot] == (end > first)
            if end > first:
                inside = slice(first, end)
                np.testing.assert_array_equal(batch['positions'][row, inside], np.arange(end - first))
                assert len(set(batch['sequence_ids'][row, inside].tolist())) == 1
                found.append((tuple(batch['tokens'][row, inside].tolist()), batch['labels'][row, slot].tolist()))
        spans = batch['spans'][row]
        assert (batch['sequence_ids'][row] > 0).sum() == (spans[:, 1] - spans[:, 0]).sum(), 'what is in no text is padding'
    return found


def alone(config, split='train'):
    config.data.pack = False
    source = DataFunction(config, split).every_source()[0]
    config.data.pack = True
    batch = source.get(source.rows_of(np.arange(len(source))).argsort())  # in the order of the table
    return [(tuple(row[real > 0].tolist()), label.tolist()) for row, real, label in zip(batch['tokens'], batch['sequence_ids'], batch['labels'])]


def test_every_text_once_an_epoch_with_its_label(tmp_path):
    config = config_of(tmp_path)
    data = DataFunction(config, 'train')
    source, wanted = data.every_source()[0], alone(config)
    count, tokens = data.num_examples, sum(len(ids) for ids, _ in wanted)
    assert tokens / 16 <= count < 1.1 * tokens / 16, 'little is padding'
    epochs = [texts_in(source.get(np.arange(epoch * count, (epoch + 1) * count))) for epoch in range(3)]
    assert all(sorted(epoch) == sorted(wanted) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2], 'in an order of its own'
    rows = [{tuple(sorted(texts_in(source.get([index])))) for index in range(epoch * count, (epoch + 1) * count)} for epoch in range(2)]
    assert rows[0] != rows[1], 'packed anew'


def test_a_function_of_the_index(tmp_path):
    config = config_of(tmp_path)
    data, again = DataFunction(config, 'train'), DataFunction(config, 'train')
    last = 3 * data.num_examples // 4
    whole = [data.batch(step) for step in range(last)]
    for step in reversed(range(last)):
        parts = [again.batch(step, slice(first, first + 2)) for first in (0, 2)]  # as two hosts make them
        assert parts[0].keys() == whole[step].keys()
        for name, value in whole[step].items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), value)
            assert value.shape[0] == 4
    assert data.fingerprint == again.fingerprint
    assert DataFunction(config_of(tmp_path, pack=False), 'train').fingerprint != data.fingerprint


def test_held_out_texts_are_judged_once(tmp_path):
    config = config_of(tmp_path)
    data = DataFunction(config, 'validation')
    batches = list(data.evaluation_batches())
    assert {batch['tokens'].shape for batch in batches} == {(4, 16)}
    judged = []
    for batch in batches:
        real = batch['example_weights'] > 0
        judged += [(ids, label) for (ids, label), counts in zip(texts_in(batch | {'example_weights': _lies(batch)}), real[_lies(batch) > 0]) if counts]
    assert sorted(judged) == sorted(alone(config, 'validation'))


def _lies(batch):
    """Where a text is, judged or there to fill a batch."""
    return (batch['spans'][..., 1] > batch['spans'][..., 0]).astype(np.float32)


@pytest.mark.parametrize('kind, rows, fields', [
    ('numbers', [(f'the {word}', f'{number / 2}') for number, word in enumerate(WORDS)], {'regression': True}),
    ('sets', [(f'the {word}', '|'.join('xyz'[: number % 4])) for number, word in enumerate(WORDS)], {'label_separator': '|'}),
])  # fmt: skip
def test_labels_of_other_kinds(kind, rows, fields, tmp_path):
    config = config_of(tmp_path, rows, **fields)
    data = DataFunction(config, 'train')
    batch = data.every_source()[0].get(np.arange(data.num_examples))
    assert sorted(texts_in(batch)) == sorted(alone(config))
    assert batch['labels'].shape == batch['spans'].shape[:2] + ((3,) if kind == 'sets' else ())


def test_what_it_is_not_for(tmp_path):
    with pytest.raises(UserError, match='config.data.group_by_length sorts texts.*leave one of them out'):
        DataFunction(config_of(tmp_path, group_by_length=True), 'train')
    with pytest.raises(UserError, match='config.data.augment changes the length'):
        DataFunction(config_of(tmp_path, augment=AugmentConfig(deletion=0.1)), 'train')
    with pytest.raises(UserError, match='config.data.pack is for labelled tables, not for t5x_lite.data.tagged:TaggedExamples'):
        DataFunction(config_of(tmp_path, source='t5x_lite.data.tagged:TaggedExamples'), 'train')


def test_what_is_said(tmp_path):
    said = DataFunction(config_of(tmp_path), 'train').describe()
    assert any('texts share rows of 16 tokens' in line and 'config.batch_size counts rows' in line for line in said)
