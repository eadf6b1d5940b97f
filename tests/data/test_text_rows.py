"""Texts as rows of tokens for each architecture, and sets of labels."""

import numpy as np
import pytest

from t5x_lite.config import Layout
from t5x_lite.data import tables, text_rows, tokenizers
from t5x_lite.errors import UserError
from tests.data.table_material import CLS, PAD, SEP, all_of, labelled, vocabulary

ENDS = (Layout.decoder, Layout.encoder_decoder)


@pytest.fixture
def words(tmp_path):
    return tokenizers.load(vocabulary(tmp_path))


def byte_bpe():
    """Without [CLS], [SEP] and padding, as GPT-2's."""
    return tokenizers.train_byte_bpe(['the cat sings', 'a dog runs'] * 5, 270)


@pytest.mark.parametrize('layout', ENDS)
def test_texts_of_decoders_and_encoder_decoders_end(words, layout):
    """[SEP] is what ends a text of a BERT tokenizer."""
    the, cat, a = (words.encode(word)[0] for word in ('the', 'cat', 'a'))
    single = tables.encode_texts(['the cat', 'a'], words, 8, layout=layout)
    np.testing.assert_array_equal(single['tokens'], [[the, cat, SEP], [a, SEP, PAD]])
    np.testing.assert_array_equal(single['sequence_ids'], [[1, 1, 1], [1, 1, 0]])
    pair = tables.encode_texts([('the cat', 'a'), ('a', 'the cat')], words, 8, layout=layout)
    np.testing.assert_array_equal(pair['tokens'], [[the, cat, SEP, a, SEP], [a, SEP, the, cat, SEP]])
    np.testing.assert_array_equal(pair['token_types'], [[0, 0, 0, 1, 1], [0, 0, 1, 1, 1]])
    cut = tables.encode_texts([('the cat the cat', 'a cat a')], words, 6, layout=layout)
    np.testing.assert_array_equal(cut['tokens'], [[the, cat, SEP, a, cat, SEP]])


def test_a_tokenizer_without_cls_ends_texts_where_nothing_says_otherwise():
    tokenizer = byte_bpe()
    row = tables.encode_texts(['the cat'], tokenizer, 32)['tokens'][0]
    assert row.tolist() == [*tokenizer.encode('the cat'), tokenizer.end_id]
    assert text_rows.frame(tokenizer, Layout.decoder) == text_rows.frame(tokenizer, Layout.auto) == ((), (tokenizer.end_id,))
    with pytest.raises(UserError, match=r'no \[CLS\] and \[SEP\]'):
        text_rows.frame(tokenizer, Layout.encoder)


class _Endless:
    """A tokenizer with no special token that we know."""

    cls_id = sep_id = end_id = None


def test_a_tokenizer_without_an_end_is_refused():
    with pytest.raises(UserError, match='no token that ends a text'):
        text_rows.frame(_Endless(), Layout.decoder)


def test_bert_rows_are_as_they_were(words):
    assert text_rows.frame(words, Layout.auto) == text_rows.frame(words, Layout.encoder) == ((CLS,), (SEP,))


SETS = 'text\tlabels\nthe cat\tred|loud\na dog\tred\na man\t\na cat\tloud|red\nthe dog\tsmall\n'


def test_sets_of_labels(tmp_path):
    examples = labelled(tmp_path, {'t.tsv': SETS, 'd.tsv': SETS}, label_separator='|', validation='d.tsv', split='validation')
    assert examples.label_names == ('loud', 'red', 'small') and examples.num_labels == 3
    batch = all_of(examples)
    np.testing.assert_array_equal(batch['labels'], [[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1]])
    assert batch['labels'].dtype == np.float32
    assert '3 labels: loud (2), red (3), small (1)' in examples.describe() and 'none of them in 1 rows' in examples.describe()
    listed = '{"text": "the cat", "labels": ["red", "loud"]}\n{"text": "a", "labels": []}\n{"text": "a", "labels": ["small"]}\n'
    np.testing.assert_array_equal(
        all_of(labelled(tmp_path, {'t.jsonl': listed, 'd.jsonl': listed}, label_separator='|', validation='d.jsonl', split='validation'))['labels'],
        [[1, 1, 0], [0, 0, 0], [0, 0, 1]],
    )
    held_out = labelled(tmp_path, {'t.tsv': SETS}, label_separator='|', split='validation', validation_fraction=0.4)
    assert len(held_out) == 2


def test_sets_of_labels_that_cannot_be_read(tmp_path):
    for files, fields, said in (
        ({'t.tsv': 'text\tlabels\na\tx\nb\tx\n'}, {}, r"column 'labels', split at '\|' \(config.data.label_separator\), has 1 labels"),
        ({'t.tsv': SETS + 'a\todd|red\n'}, {'labels': ('loud', 'red', 'small')}, r"t\.tsv:7: label 'odd' is not in the list"),
        ({'t.jsonl': '{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": null}\n'}, {}, r"t\.jsonl:2: the labels .* are missing"),
    ):
        with pytest.raises(UserError, match=said):
            labelled(tmp_path, files, label_separator='|', **fields)
