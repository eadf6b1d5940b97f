"""A corpus as one stream."""

import numpy as np
import pytest

from t5x_lite.data.stream import Stream
from tests.data.fake_corpus import FakeCorpus


def test_worked_example(tmp_path):
    stream = Stream(FakeCorpus(tmp_path, [[[11, 12]], [[13]], [[14, 15]]], 20), 3)
    line = next(line for line in Stream.__doc__.splitlines() if line.split()[:1] == ['stream'])
    assert [*map(str, stream.read([0], len(stream)))] == line.split()[1:]
    assert stream.read([1, 6], 3).tolist() == [12, 3, 13, 15, 3, 11]


def test_any_span(tmp_path):
    rng = np.random.default_rng(0)
    documents = [[rng.integers(5, 50, size).tolist() for size in rng.integers(1, 6, rng.integers(0, 4))] for _ in range(30)]  # some are empty
    whole = [token for document in documents if document for token in [*sum(document, []), 3]]
    stream = Stream(FakeCorpus(tmp_path, documents, 50), 3)
    assert len(stream) == len(whole)
    start, length = rng.integers(0, len(whole), 300), rng.integers(0, len(whole) + 1, 300)
    expected = [(whole + whole)[first : first + size] for first, size in zip(start, length)]
    assert stream.read(start, length).tolist() == sum(expected, [])
    with pytest.raises(ValueError, match=f'spans of {len(whole) + 1} tokens in a stream of {len(whole)}'):
        stream.read([0], len(whole) + 1)
