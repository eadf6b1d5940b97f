"""A row of a batch as text."""

import numpy as np

from t5x_lite.data import tokenizers
from t5x_lite.data.showing import decode_example, real_share
from tests.data.fake_corpus import FakeCorpus


def test_encoders(tmp_path):
    corpus = FakeCorpus(tmp_path, [[[5]]], 20)
    tokenizer = tokenizers.load(corpus.tokenizer_path)
    batch = {
        'tokens': [[2, 5, 4, 3, 7, 8, 3, 0, 0]],
        'token_types': [[0, 0, 0, 0, 1, 1, 1, 0, 0]],
        'sequence_ids': [[1, 1, 1, 1, 1, 1, 1, 0, 0]],
        'masked_positions': [[2, 5, 0]],
        'masked_targets': [[6, 9, 0]],
        'masked_weights': [[1, 1, 0]],
        'next_sentence_labels': [1],
    }
    batch = {name: np.array(values) for name, values in batch.items()}
    assert decode_example(batch, 0, tokenizer).splitlines() == [
        'segment 0: [CLS] w5 [MASK]{w6} [SEP]',
        'segment 1: w7 w8{w9} [SEP]',
        'padding: 2 of 9',
        'next sentence: random',
    ]
    packed = {
        'tokens': np.array([[2, 5, 3, 2, 6, 3]]),
        'token_types': np.zeros((1, 6), int),
        'sequence_ids': np.array([[1, 1, 1, 2, 2, 2]]),
        'positions': np.array([[0, 1, 2, 0, 1, 2]]),
        'labels': np.array([2]),
    }
    assert decode_example(packed, 0, tokenizer).splitlines() == [
        'sequence 1, segment 0: [CLS] w5 [SEP]',
        'sequence 2, segment 0: [CLS] w6 [SEP]',
        'padding: 0 of 6',
        'label: 2',
    ]


def test_decoders(tmp_path):
    tokenizer = tokenizers.load(FakeCorpus(tmp_path, [[[5]]], 20).tokenizer_path)
    batch = {
        'tokens': np.array([[2, 5, 6, 2, 7, 8, 0]]),
        'targets': np.array([[5, 6, 3, 7, 8, 3, 0]]),
        'target_weights': np.array([[0, 0, 1, 0, 1, 1, 0]], np.float32),
        'sequence_ids': np.array([[1, 1, 1, 2, 2, 2, 0]]),
        'positions': np.array([[0, 1, 2, 0, 1, 2, 0]]),
        'prefix': np.array([[1, 1, 1, 1, 1, 0, 0]]),
    }
    assert decode_example(batch, 0, tokenizer).splitlines() == ['sequence 1: w5 w6 | [SEP]', 'sequence 2: w7 | w8 [SEP]', 'padding: 1 of 7']
    del batch['prefix']
    batch['target_weights'] = (batch['sequence_ids'] > 0).astype(np.float32)
    assert decode_example(batch, 0, tokenizer).splitlines() == ['sequence 1: w5 w6 [SEP]', 'sequence 2: w7 w8 [SEP]', 'padding: 1 of 7']
    assert real_share(batch) == 6 / 7


def test_encoder_decoders(tmp_path):
    tokenizer = tokenizers.load(FakeCorpus(tmp_path, [[[5]]], 20).tokenizer_path)
    batch = {
        'tokens': np.array([[5, 6, 3, 7, 3, 0]]),
        'sequence_ids': np.array([[1, 1, 1, 2, 2, 0]]),
        'positions': np.array([[0, 1, 2, 0, 1, 0]]),
        'decoder_tokens': np.array([[2, 9, 2, 0, 0]]),
        'decoder_sequence_ids': np.array([[1, 1, 2, 0, 0]]),
        'decoder_positions': np.array([[0, 1, 0, 0, 0]]),
        'targets': np.array([[9, 3, 3, 0, 0]]),
        'target_weights': np.array([[1, 1, 1, 0, 0]], np.float32),
        'labels': np.array([1]),
    }
    assert decode_example(batch, 0, tokenizer, ['no', 'yes']).splitlines() == [
        'sequence 1 inputs: w5 w6 [SEP]',
        'sequence 1 targets: w9 [SEP]',
        'sequence 2 inputs: w7 [SEP]',
        'sequence 2 targets: [SEP]',
        'padding: 1 of 6 inputs, 2 of 5 targets',
        'label: 1 (yes)',
    ]
    assert real_share(batch) == 8 / 11


def test_choices(tmp_path):
    tokenizer = tokenizers.load(FakeCorpus(tmp_path, [[[5]]], 20).tokenizer_path)
    batch = {
        'tokens': np.array([[[2, 5, 3, 7, 3], [2, 5, 3, 3, 0], [0, 0, 0, 0, 0]]]),
        'token_types': np.array([[[0, 0, 0, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]]]),
        'sequence_ids': np.array([[[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]]]),
        'labels': np.array([1]),
    }
    assert decode_example(batch, 0, tokenizer).splitlines() == [
        'choice 0:', '  segment 0: [CLS] w5 [SEP]', '  segment 1: w7 [SEP]', '  padding: 0 of 5',
        'choice 1:', '  segment 0: [CLS] w5 [SEP]', '  segment 1: [SEP]', '  padding: 1 of 5',
        'choice 2: none', 'label: 1',
    ]  # fmt: skip
    assert real_share(batch) == 9 / 15
