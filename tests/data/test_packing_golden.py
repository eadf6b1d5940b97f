"""Rows and features against what seqio, T5 and Mesh TensorFlow record: given which examples share a row, for each packs in another order."""

import functools

import numpy as np
import pytest

from t5x_lite.config import TooLong
from t5x_lite.data import packing
from t5x_lite.data.features import shifted
from t5x_lite.errors import UserError
from tests import golden
from tests.data.pair_material import task_examples
from tests.data.test_features import laid_out

NAMES = {
    'encoder_input_tokens': 'tokens', 'encoder_segment_ids': 'sequence_ids', 'encoder_positions': 'positions', 'decoder_target_tokens': 'targets',
    'decoder_loss_weights': 'target_weights', 'decoder_causal_attention': 'prefix',
}  # fmt: skip
OF_DECODER = {**NAMES, 'decoder_input_tokens': 'tokens', 'decoder_segment_ids': 'sequence_ids', 'decoder_positions': 'positions'}
OF_BOTH = {
    **NAMES, 'decoder_input_tokens': 'decoder_tokens', 'decoder_segment_ids': 'decoder_sequence_ids', 'decoder_positions': 'decoder_positions',
    'inputs': 'tokens', 'inputs_segment_ids': 'sequence_ids', 'inputs_positions': 'positions',
    'targets_segment_ids': 'decoder_sequence_ids', 'targets_positions': 'decoder_positions',
}  # fmt: skip
END = 1


def without_padding(tokens):
    """What stands before the last token that is no padding: 0 may stand inside a text."""
    real = np.flatnonzero(tokens)
    return list(tokens[: real[-1] + 1]) if len(real) else []


def compare(batch, expected, both, left_out=()):
    """Every feature that ours has, with exceptions by choice: a packed row's first free slot gets no start token, a row reads no token, and attends to none,
    behind its end."""
    compared = 0
    for number, row in enumerate(expected):
        real = batch['decoder_sequence_ids' if both else 'sequence_ids'][number] > 0
        for theirs, ours in (OF_BOTH if both else OF_DECODER).items():
            if theirs in row and theirs not in left_out:
                found, wanted = batch[ours][number], np.array(row[theirs])
                if theirs in ('decoder_input_tokens', 'decoder_causal_attention'):
                    found, wanted = found[real], wanted[real]
                assert found.tolist() == wanted.tolist(), theirs
                compared += 1
    assert compared >= 3 * len(expected)


def shared_rows(pairs, expected):
    """The pairs of each row, in order, as many as its ids count."""
    rows, left = [], list(pairs)
    for row in expected:
        ids = next((row[name] for name in ('decoder_segment_ids', 'encoder_segment_ids', 'targets_segment_ids') if name in row), [1])
        rows.append([left.pop(0) for _ in range(max(ids))])
    assert not left
    return rows


def check_converter(case):
    given, expected = case['input'], case['expected']
    pairs = [tuple(without_padding(example.get(side, [])) for side in ('inputs', 'targets')) for example in given['examples']]
    options, lengths, both = given['options'], given['task_feature_lengths'], 'encoder_input_tokens' in expected[0]
    length = lengths['inputs'] if both else lengths.get('inputs', 0) + lengths['targets']
    rows = shared_rows(pairs, expected)
    batch = laid_out(rows, length, lengths['targets'] if both else 0, start_id=options.get('bos_id', 0))
    loss_on_all = options.get('loss_on_targets_only') is False
    compare(batch, expected, both, ('decoder_loss_weights',) if loss_on_all and any(inputs for inputs, _ in pairs) else ())
    return LOSS_ON_INPUTS if loss_on_all and any(inputs for inputs, _ in pairs) else None


def check_converted_example(case):
    """One example, its inputs given by their width."""
    given, expected = case['input'], case['expected']
    real, width = without_padding(given['targets']), given['inputs_width'][0]
    compare(laid_out([[(real[:width], real[width:])]], len(given['targets']), start_id=0), [expected], False)


def check_packed_before(case):
    """The pairs that its ids show."""
    (given,), expected = case['input']['examples'], case['expected']
    sides = [[np.array(given[side])[np.array(given[f'{side}_segment_ids']) == number].tolist() for side in ('inputs', 'targets')] for number in (1, 2)]
    lengths = case['input']['task_feature_lengths']
    compare(laid_out(shared_rows([tuple(pair) for pair in sides], expected), lengths['inputs'], lengths['targets'], start_id=0), expected, True)


def check_trimmed(case):
    """Cut at the end as theirs; ours then puts an end token last, and so is compared up to there."""
    given, expected = case['input'], case['expected']
    room = given['feature_lengths']
    pairs = [tuple(example[side][: room[side]] for side in ('inputs', 'targets')) for example in given['examples']]
    compare(laid_out(shared_rows(pairs, expected), room['inputs'], room['targets'], start_id=0), expected, True)


def check_encoder(case):
    """An encoder predicts where a mask stands: positions and ids are ours, the slots that are predicted are features of MlmMasker, tested with it."""
    for row in case['expected']:
        ids = np.array(row.get('encoder_segment_ids', np.array(row['encoder_input_tokens']) > 0), int)
        lengths = np.bincount(ids[ids > 0])[1:]
        layout = packing.Layout.of(packing.Rows(np.arange(len(lengths)), np.array([0, len(lengths)])), lengths, len(ids))
        assert layout.sequence_ids[0].tolist() == ids.tolist()
        if 'encoder_positions' in row:
            assert layout.positions[0].tolist() == row['encoder_positions']


def check_prefix_lm(case):
    """Split where they split."""
    given, expected = case['input'], case['expected']
    if any(0 in example['targets'][1:] for example in given['examples']):
        return PADDING_IN_TEXT
    pairs = [(text['targets'][:split], text['targets'][split:]) for text, split in zip(given['examples'], given['split_points'])]
    both = 'encoder_input_tokens' in expected[0]
    batch = laid_out(shared_rows(pairs, expected), given['length'], given['length'] if both else 0, start_id=0)
    compare(batch, expected, both)
    return None


def check_shift(case):
    given = case['input']
    tokens = np.array(given['tokens'])
    if tokens.ndim > 1:
        return FIRST_AXIS
    if tokens.dtype != int:
        tokens = (10 * tokens).astype(int)  # ids are whole
    ids = np.array(given.get('segment_ids') or np.ones(len(tokens), int))
    positions = np.concatenate([np.arange(size) for size in np.unique(ids[ids > 0], return_counts=True)[1]] + [np.zeros((ids == 0).sum(), int)])
    found = shifted(tokens[None], ids[None], positions[None], given['bos_id'], 0)
    assert found[0].tolist() == (np.array(case['expected']) * (10 if any(np.array(given['tokens']) % 1) else 1)).tolist()
    return None


def check_joined(case):
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


# ---- what is too long, and end tokens: examples of tasks


def check_too_long(monkeypatch, case):
    given = case['input']
    examples = [{side: example[side][:-1] for side in ('inputs', 'targets')} for example in given['examples']]  # ours ends them itself
    with pytest.raises(UserError, match='(inputs|targets) of validation example 0 have .* tokens, and there is room for'):
        task_examples(monkeypatch, examples, given['task_feature_lengths'], TooLong.refuse)


def check_appended_end(monkeypatch, case):
    """Of texts without an end token, cut where there is no room for one: each text of the case as the targets of an example, those that get one."""
    given, room = case['input'], case['input']['sequence_length'] or {}
    compared = 0
    for name in [name for name, ended in given['add_eos'].items() if ended]:
        texts, expected = given['example'][name], case['expected'][name]
        if not isinstance(texts[0], list):
            texts, expected = [texts], [expected]
        examples = [{'inputs': [], 'targets': text} for text in texts]
        batch = task_examples(monkeypatch, examples, {'inputs': 4, 'targets': room.get(name) or 100}, TooLong.truncate).get(np.arange(len(texts)))
        found = [row[weights > 0].tolist() for row, weights in zip(batch['targets'], batch['target_weights'])]
        assert found == expected, name
        compared += 1
    assert compared == 4


LOSS_ON_INPUTS = 'loss on inputs too: ours is on targets alone (CausalLm is a loss on everything)'
PADDING_IN_TEXT = 'padding inside a text that counts as text: a corpus here has none'
FIRST_AXIS = 'a batch shifted along its first axis: rows here are the first axis'
NO_SUFFIX = 'a third part, the suffix, with weights of its own: pairs here have two'
READY_MADE = 'rows that come packed from elsewhere with masks of their own: ours are packed here'
RANKS = 'features of rank 2 and more'
NOT_OURS = {
    'PrePackedLMFeatureConverter': READY_MADE,
    'PrePackedPrefixLMFeatureConverter': READY_MADE,
    'PrefixSuffixLMFeatureConverter': NO_SUFFIX,
    'make_autoregressive_inputs, packed and 2-D: error': 'a shape check of theirs; rows and ids here have one shape by construction',
    'non_padding_position': 'where padding stands follows from sequence ids here, not from ids equal to 0',
    'trim_and_pad_dataset': RANKS,
    'stateless_shuffle': 'drawn by TensorFlow',
    'truncate_inputs_left': 'what is too long loses its end here, or is refused, or becomes several pieces; prompts are cut by t5x_lite.evaluation',
    'zero everything after the first EOS (1)': 'an answer is padding behind its end as it is decoded: given samples in tests/evaluation/test_search_golden.py',
}


def test_the_reference_implementations(monkeypatch):
    appended = functools.partial(check_appended_end, monkeypatch)
    too_long = functools.partial(check_too_long, monkeypatch)
    checks = {
        'EncDecFeatureConverter': check_converter,
        'EncDecFeatureConverter (padding stripped, first fit in order)': check_converter,
        'LMFeatureConverter': check_converter,
        'PrefixLMFeatureConverter': check_converter,
        'DecoderFeatureConverter': check_converter,
        'EncDecFeatureConverter (too long: error)': too_long,
        'PrefixLMFeatureConverter (too long: error)': too_long,
        'PrefixLM convert one example': check_converted_example,
        'PrePackedEncDecFeatureConverter': check_packed_before,
        'EncoderFeatureConverter': check_encoder,
        'trim_and_pack_dataset': check_trimmed,
        'make_autoregressive_inputs (sequence axis first)': check_shift,
        'shift_right_by_one': check_shift,
        'append_eos (EOS 1)': appended,
        'append_eos_after_trim (bows not an output feature, so untouched)': appended,
        'append_eos_after_trim': appended,
        'pack_prefix_lm encoder_decoder given split points': check_prefix_lm,
        'pack_prefix_lm decoder_only given split points': check_prefix_lm,
        'inputs and targets of each segment joined into one sequence': check_joined,
        'inputs and targets joined': check_joined,
    }
    golden.hold('packing', checks, NOT_OURS, {LOSS_ON_INPUTS: 3, PADDING_IN_TEXT: 3, FIRST_AXIS: 1})
