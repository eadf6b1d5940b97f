"""Features of decoders and encoder-decoders."""

import json
import pathlib

import numpy as np
import pytest

from t5x_lite.data.features import of_decoder, of_encoder_decoder, shifted
from t5x_lite.data.packing import Rows

SHARED = pathlib.Path(__file__).resolve().parents[2] / '..' / 'shared'


def laid_out(rows, length, target_length=0, start_id=2, pad_id=0, prefix=True):
    """`rows`: lists of pairs (inputs, targets), given which pair shares a row with which."""
    pairs = [pair for row in rows for pair in row]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    sides = [np.array([token for pair in pairs for token in pair[side]], np.int32) for side in (0, 1)]
    lengths = [np.array([len(pair[side]) for pair in pairs], np.int64) for side in (0, 1)]
    given = Rows(np.arange(len(pairs)), starts), sides[0], lengths[0], sides[1], lengths[1], length
    return of_encoder_decoder(*given, target_length, start_id, pad_id) if target_length else of_decoder(*given, start_id, pad_id, prefix)


def stand_in(doc, batch):
    lines = [line.split() for line in doc.splitlines()]
    for name, values in batch.items():
        assert [name, *(str(int(value)) for value in values[0])] in lines, (name, values)


PAIRS = [[([5, 6], [7, 1]), ([8], [9, 1])]]


def test_worked_examples():
    stand_in(of_decoder.__doc__, laid_out(PAIRS, 9))
    stand_in(of_encoder_decoder.__doc__, laid_out(PAIRS, 4, 5))
    lines = {line.split()[0]: [int(token) for token in line.split()[1:7]] for line in shifted.__doc__.splitlines()[2:-1]}
    found = shifted(np.array([lines['targets']]), np.array([lines['sequence_ids']]), np.array([[0, 1, 2, 0, 1, 0]]), 7, 0)
    assert found[0].tolist() == lines['->']


def test_without_inputs_there_is_no_prefix():
    batch = laid_out([[([], [5, 6, 1]), ([], [7, 1])], [([], [8, 1])]], 6, prefix=False)
    assert 'prefix' not in batch
    assert batch['tokens'].tolist() == [[2, 5, 6, 2, 7, 0], [2, 8, 0, 0, 0, 0]]
    assert batch['target_weights'].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]


def test_padding_reads_padding():
    batch = laid_out(PAIRS, 9, start_id=2, pad_id=17)
    assert batch['tokens'][0, 7:].tolist() == batch['targets'][0, 7:].tolist() == [17, 17]


@pytest.mark.parametrize('sizes', [(6, 0), (2, 5), (4, 3)])
def test_rows_that_overflow_are_refused(sizes):
    with pytest.raises(ValueError, match='a row holds'):
        laid_out(PAIRS, *sizes)


# ---- what seqio computes

NAMES = {
    'encoder_input_tokens': 'tokens', 'encoder_segment_ids': 'sequence_ids', 'encoder_positions': 'positions', 'decoder_target_tokens': 'targets',
    'decoder_loss_weights': 'target_weights', 'decoder_causal_attention': 'prefix',
}  # fmt: skip
OF_DECODER = {'decoder_input_tokens': 'tokens', 'decoder_segment_ids': 'sequence_ids', 'decoder_positions': 'positions'}
OF_BOTH = {'decoder_input_tokens': 'decoder_tokens', 'decoder_segment_ids': 'decoder_sequence_ids', 'decoder_positions': 'decoder_positions'}
CONVERTERS = ('EncDecFeatureConverter', 'LMFeatureConverter', 'PrefixLMFeatureConverter', 'DecoderFeatureConverter', 'PrefixLM convert')


def golden(*functions):
    path = SHARED / 'golden' / 'packing.json'
    if not path.exists():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f'{path} is absent'))]
    return [
        pytest.param(case, id=case['source'].rpartition(':')[2])
        for case in json.loads(path.read_text())['cases']
        if case['function'].startswith(functions) and case['expected'] != 'error'
    ]


@pytest.mark.parametrize('case', golden(*CONVERTERS))
def test_golden_converters(case):
    """Given which examples share a row (seqio packs in order; ours is another packer), every feature is theirs, with three exceptions by choice:
    a packed row's first free slot gets no start token, an unpacked row reads no token, and attends to none, behind its end, and loss on inputs is not ours."""
    given = case['input']
    expected = case['expected'] if isinstance(case['expected'], list) else [case['expected']]
    if 'examples' not in given:  # one example, its inputs given by their width
        width = given['inputs_width'][0]
        real = [token for token in given['targets'] if token]
        examples, options = [{'inputs': real[:width], 'targets': real[width:]}], {'pack': False}
        lengths = {'targets': len(given['targets'])}
    else:
        examples, options, lengths = given['examples'], given['options'], given['task_feature_lengths']
    without_padding = [tuple([token for token in example.get(side, []) if token] for side in ('inputs', 'targets')) for example in examples]
    both = 'encoder_input_tokens' in expected[0]
    start_id = options.get('bos_id', 0)
    rows, left = [], list(without_padding)
    for row in expected:
        ids = row.get('decoder_segment_ids')
        count = max(ids) if ids else 1
        rows.append([left.pop(0) for _ in range(count)])
    assert not left
    length = lengths['inputs'] if both else lengths.get('inputs', 0) + lengths['targets']
    batch = laid_out(rows, length, lengths['targets'] if both else 0, start_id=start_id)
    compared = 0
    for number, row in enumerate(expected):
        free = batch['decoder_sequence_ids' if both else 'sequence_ids'][number] == 0
        for theirs, ours in {**NAMES, **(OF_BOTH if both else OF_DECODER)}.items():
            if theirs not in row or (ours == 'target_weights' and options.get('loss_on_targets_only') is False):
                continue
            found, wanted = batch[ours][number], np.array(row[theirs])
            if theirs in ('decoder_input_tokens', 'decoder_causal_attention'):
                found, wanted = found[~free], wanted[~free]
            assert found.tolist() == wanted.tolist(), theirs
            compared += 1
    assert compared >= 3 * len(expected)


@pytest.mark.parametrize('case', golden('pack_prefix_lm'))
def test_golden_prefix_lm(case):
    """Split where they split. (Padding that theirs counts as text, and loss on inputs, are not ours by choice.)"""
    given, expected = case['input'], case['expected']
    for row in expected:
        both = 'encoder_input_tokens' in row
        texts = given['examples'] if both else [given['examples'][expected.index(row)]]
        if any(0 in example['targets'][1:] for example in given['examples']):
            pytest.skip('text with padding in it')
        splits = given['split_points'] if both else [given['split_points'][expected.index(row)]]
        if both:
            first = 2 * expected.index(row)
            texts, splits = texts[first : first + 2], splits[first : first + 2]
        pairs = [(text['targets'][:split], text['targets'][split:]) for text, split in zip(texts, splits)]
        batch = laid_out([pairs], 8, 8 if both else 0, start_id=0)
        for theirs, ours in {**NAMES, **(OF_BOTH if both else OF_DECODER)}.items():
            if theirs in row:
                assert batch[ours][0].tolist() == row[theirs], theirs


@pytest.mark.parametrize('case', golden('make_autoregressive_inputs (', 'shift_right_by_one'))
def test_golden_shifts(case):
    """Along a row; a batch of them along its first axis is seqio's alone, and padding behind the end reads padding here."""
    given = case['input']
    tokens = np.array(given['tokens'])
    if tokens.ndim > 1:
        pytest.skip('shifted along the first axis')
    ids = np.array(given.get('segment_ids') or np.ones(len(tokens), int))
    positions = np.concatenate([np.arange(size) for size in np.unique(ids[ids > 0], return_counts=True)[1]] + [np.zeros((ids == 0).sum(), int)])
    found = shifted(tokens[None], ids[None], positions[None], given['bos_id'], 0)
    assert found[0].tolist() == case['expected']


@pytest.mark.parametrize('case', golden('inputs and targets'))
def test_golden_text_to_self(case):
    """Inputs and targets of each sequence joined into one (Mesh TensorFlow's text2self)."""
    given, expected = case['input'], case['expected']
    rows = []
    for row, (inputs, targets) in enumerate(zip(given['inputs'], given['targets'])):
        if 'inputs_segmentation' in given:
            ids = [np.array(given[f'{side}_segmentation'][row]) for side in ('inputs', 'targets')]
            numbers = range(1, max(map(max, ids)) + 1)
            rows.append([tuple(np.array(side)[of == number].tolist() for side, of in zip((inputs, targets), ids)) for number in numbers])
        else:
            rows.append([tuple([token for token in side if token] for side in (inputs, targets))])
    batch = laid_out(rows, len(expected['targets'][0]))
    assert batch['targets'].tolist() == expected['targets']
    if 'targets_segmentation' in expected:
        assert batch['sequence_ids'].tolist() == expected['targets_segmentation']
        assert batch['positions'].tolist() == expected['targets_position']
