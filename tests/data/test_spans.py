"""Repeated spans of three sentences: the example, and what must hold for any corpus, in memory and out of core."""

import random

import numpy as np
import pytest

from t5x_lite.data import buckets, spans


def left(documents: list[list[str]], on_disk: str = '') -> list[list[str]]:
    """What remains of documents, all in one block if in memory, else in one each."""
    found, bases = [], []
    for number, sentences in enumerate(documents):
        bases.append((number, 7) if on_disk else (0, 1000 * number))
        found.append(spans.entries(sentences, *bases[-1]))
    if on_disk:
        gone = np.concatenate([np.zeros(0, np.int64), *spans.repeated_on_disk(found, sum(map(len, found)), len(documents), on_disk)])
        assert (np.diff(gone) > 0).all()
    else:
        gone = spans.repeated(np.concatenate(found)[np.random.default_rng(0).permutation(sum(map(len, found)))])
    result = []
    for sentences, (block, base) in zip(documents, bases):
        places = gone - ((block << spans.BLOCK_SHIFT) + base)
        result.append(spans.without(sentences, places[(places >= 0) & (places < len(sentences))]))
    return result


def test_the_example_of_the_docstring():
    lines = [line.split('->') for line in spans.__doc__.splitlines() if '->' in line]
    documents = ['a b c d'.split(), *(before.split() for before, _ in lines)]
    assert left(documents) == [documents[0], *(after.strip().split('  ')[0].split() for _, after in lines)] and len(lines) == 4


@pytest.mark.parametrize('seed', range(20))
def test_what_must_hold_for_any_corpus(tmp_path, monkeypatch, seed):
    source = random.Random(seed)
    documents = [source.choices('abcde'[: 2 + seed % 4], k=source.randrange(0, 30)) for _ in range(40)]
    kept = left(documents)
    for before, after in zip(documents, kept):
        rest = iter(before)
        assert all(sentence in rest for sentence in after), 'in order, nothing new'
    assert set(sum(kept, [])) == set(sum(documents, [])), 'no sentence is lost altogether'
    assert kept[0][:3] == documents[0][:3]
    monkeypatch.setattr(buckets, 'ENTRIES', 20)
    monkeypatch.setattr(buckets, '_HELD', 64)
    assert left(documents, str(tmp_path / 'work')) == kept


def test_case_and_white_space_do_not_count():
    first, second = spans.entries(['A b.', ' c  D\n', 'e'], 0, 0), spans.entries(['a B. ', 'C d', ' E'], 1, 5)
    assert first['hash'] == second['hash'] and first['position'] == 0 and second['position'] == (1 << 32) + 5
    assert len(spans.entries(['a', 'b'], 0, 0)) == 0 and len(spans.entries([], 0, 0)) == 0
