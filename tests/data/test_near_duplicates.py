"""MinHash: estimates without bias, bands that find what their formula says, clusters that begin with the first document, in memory and out of core."""

import random

import numpy as np
import pytest

from t5x_lite.data import buckets, near_duplicates
from t5x_lite.data.near_duplicates import Clusters, MinHash
from t5x_lite.errors import UserError


def pair(source: random.Random, similarity: float, size: int = 200) -> list[str]:
    """Two texts of which single words are the shingles, with this Jaccard similarity."""
    common = round(2 * size * similarity / (1 + similarity))
    words = [f'w{source.getrandbits(60)}' for _ in range(2 * size - common)]
    return [' '.join(words[:size]), ' '.join(words[size - common :])]


@pytest.mark.parametrize('similarity', [0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
def test_the_share_of_equal_values_estimates_jaccard(similarity):
    source, job = random.Random(0), MinHash(words=1)
    pairs = [pair(source, similarity) for _ in range(100)]
    rows = near_duplicates.signatures(sum(pairs, []), job).reshape(100, 2, -1)
    shares = (rows[:, 0] == rows[:, 1]).mean(1)
    deviation = (similarity * (1 - similarity) / 128) ** 0.5
    assert abs(shares.mean() - similarity) <= 5 * deviation / 10 and shares.std() <= 1.5 * deviation + 1e-9  # 100 pairs; 5 and about 7 standard deviations


def test_bands_make_candidates_as_often_as_the_formula_says():
    source, job = random.Random(1), MinHash(words=1)
    for similarity, low, high in ((0.5, 0.01, 0.15), (0.8, 0.86, 0.99), (0.9, 0.98, 1.0)):  # 0.06, 0.95, 0.9999 of 300
        rows = near_duplicates.signatures(sum((pair(source, similarity) for _ in range(300)), []), job)
        hashes = near_duplicates.band_hashes(rows, job.bands).reshape(300, 2, -1)
        assert low <= (hashes[:, 0] == hashes[:, 1]).any(1).mean() <= high, similarity


def test_shingles():
    def of(*texts, words=3):
        found, starts = near_duplicates.shingles(texts, words)
        return [part.tolist() for part in np.split(found, starts[1:])]

    first, same, fewer, none, other_none, empty = of('The river, it rose... and fell', '  the RIVER it\nrose and FELL!', 'the river', '...', '!!', '')
    assert len(first) == 4 and first == same and len(fewer) == 1 and len(none) == 1 and none != other_none and len(empty) == 1
    assert of('a b c d e f')[0][2:] == of('c d e f')[0], 'what stands before says nothing'
    assert of('a b', 'a b c')[0] != of('b c d')[0] and of('a b c')[0] != of('c b a')[0]
    assert len(of('河水上涨了。', words=2)[0]) == 4 and len(of('x1 x2 河水', words=1)[0]) == 4
    together = of('a b c d', 'e', 'f g h', words=3)
    assert together == [of(text, words=3)[0] for text in ('a b c d', 'e', 'f g h')], 'whatever other texts come along'


def test_parts_of_a_document_have_the_signature_of_all():
    job = MinHash(words=1)
    left, right, whole = near_duplicates.signatures(['a b c', 'd e', 'a b c d e'], job)
    assert (np.minimum(left, right) == whole).all()
    assert (near_duplicates.signatures(['a b c'], MinHash(words=1, seed=1)) != left).all()
    assert near_duplicates.signatures([], job).shape == (0, 128) and near_duplicates.band_hashes(np.zeros((0, 128), np.uint32), 16).shape == (0, 16)


def entries_of(groups: list[list[int]]) -> np.ndarray:
    found = np.array([(number, document) for number, group in enumerate(groups) for document in group], near_duplicates.ENTRY)
    return found[np.random.default_rng(0).permutation(len(found))]


def test_candidates_are_verified():
    rows = np.arange(40, dtype=np.uint32).reshape(4, 10)
    rows[2], rows[3, :7] = rows[0], rows[0, :7]

    def found(threshold, joined=None):
        parts = near_duplicates.matches(entries_of([[0, 1, 2, 3], [1, 2]]), lambda documents: rows[documents], threshold, joined)
        return sorted({tuple(pair) for part in parts for pair in part.tolist()})

    assert found(0.8) == [(0, 2)] and found(0.7) == [(0, 2), (0, 3), (2, 3)] and found(0.0) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert found(0.7, lambda pairs: (pairs == (0, 3)).all(1)) == [(0, 2), (2, 3)]
    assert list(near_duplicates.matches(entries_of([]), None, 0.5)) == []


def test_crowded_bands():
    """300 documents of 3 kinds share a band: all of a kind are joined, by comparisons with the first of each."""
    kinds = np.arange(300) % 3
    rows, asked = kinds[:, None].astype(np.uint32) * np.ones(8, np.uint32), []

    def fetch(documents):
        asked.append(len(documents))
        return rows[documents]

    clusters = Clusters(300)
    for pairs in near_duplicates.matches(entries_of([list(range(300))]), fetch, 0.9):
        clusters.join(pairs)
    assert clusters.firsts(np.arange(300)).tolist() == kinds.tolist() and sum(asked) <= 300 + 200 + 100


@pytest.mark.parametrize('on_disk', [False, True])
def test_clusters_are_the_connected_components_in_any_order(tmp_path, on_disk):
    source = np.random.default_rng(0)
    pairs = np.sort(source.integers(0, 2000, (900, 2)), axis=1)
    expected = np.arange(2000)
    while True:
        before = expected.copy()
        for left, right in pairs:
            expected[left] = expected[right] = min(expected[left], expected[right])
        if (before == expected).all():
            break
    for number, order in enumerate((pairs, pairs[::-1], source.permutation(pairs))):
        clusters = Clusters(2000, str(tmp_path / f'{number}') if on_disk else '')
        for part in np.array_split(order, 7):
            clusters.join(part)
        assert (clusters.firsts(np.arange(2000)) == expected).all() and clusters.joined(pairs).all()
        assert np.concatenate(list(clusters.others())).tolist() == np.flatnonzero(expected != np.arange(2000)).tolist()
    assert list(Clusters(0, str(tmp_path / 'none')).others()) == []


def test_out_of_core_is_the_same(tmp_path, monkeypatch):
    source, job = random.Random(2), MinHash(words=1, threshold=0.7)
    texts = [text for number in range(80) for text in pair(source, source.choice([0.1, 0.6, 0.75, 0.9]), 100)] * 2
    rows = near_duplicates.signatures(texts, job)
    results = []
    for entries, held in ((buckets.ENTRIES, 1 << 18), (16, 50)):
        monkeypatch.setattr(buckets, 'ENTRIES', entries)
        monkeypatch.setattr(buckets, '_HELD', held)
        monkeypatch.setattr(near_duplicates, '_CHUNK', 64)
        clusters = near_duplicates.duplicates_on_disk(np.array_split(rows, 9), len(rows), lambda documents: rows[documents], job, str(tmp_path))
        results.append(clusters.firsts(np.arange(len(rows))).tolist())
        del clusters
    assert results[0] == results[1] and len(set(results[0])) < 160
    assert not (tmp_path / 'bands').exists()


@pytest.mark.parametrize('fields, message', [
    (dict(permutations=0), '--minhash_permutations=0'), (dict(threshold=-0.1), 'above 0 and at most 1'), (dict(threshold=float('nan')), 'above 0 and at most 1'),
    (dict(bands=24), 'does not divide --minhash_permutations=128; give 16'), (dict(bands=500), 'give 128'), (dict(words=-1), '--minhash_words=-1'),
])  # fmt: skip
def test_numbers_that_do_not_go_together(fields, message):
    with pytest.raises(UserError, match=message):
        MinHash(**fields).check()
    MinHash(permutations=100, bands=20, threshold=1.0).check()
