"""T5's relative positions."""

import numpy as np
import pytest

from t5x_lite.models.positions import relative_buckets
from tests import golden


def buckets(relative, **options):
    return np.asarray(relative_buckets(np.asarray(relative), **({'bidirectional': True, 'buckets': 32, 'max_distance': 128} | options)))


def test_near_distances_have_a_bucket_each_and_far_ones_share_the_last():
    np.testing.assert_array_equal(buckets([0, -1, -7, -8, -9, -127, -128, -5000]), [0, 1, 7, 8, 8, 15, 15, 15])
    np.testing.assert_array_equal(buckets([1, 7, 8, 127, 5000]), [17, 23, 24, 31, 31])
    np.testing.assert_array_equal(buckets([3, 0, -15, -16, -127, -128], bidirectional=False), [0, 0, 15, 16, 31, 31])


@pytest.mark.parametrize('bidirectional', [True, False])
def test_buckets_never_fall_with_distance(bidirectional):
    found = buckets(-np.arange(300), bidirectional=bidirectional)
    assert (np.diff(found) >= 0).all() and set(found) == set(range(16 if bidirectional else 32))


def check_buckets(case):
    given = case['input']
    if case['function'].startswith('bucket matrix'):
        relative = np.arange(given['key_len'])[None] - np.arange(given['query_len'])[:, None]
    else:
        relative = given['relative_position']
    options = {'buckets': given['num_buckets'], 'max_distance': given['max_distance'], 'bidirectional': given['bidirectional']}
    np.testing.assert_array_equal(buckets(relative, **options), case['expected'])


def test_the_reference_implementations():
    golden.hold('relative_buckets', {'relative_position_bucket': check_buckets, 'bucket matrix [query][key]': check_buckets}, {})
