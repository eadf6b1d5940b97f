"""T5's span corruption: lengths, masks, sentinels, and the examples."""

import tempfile

import numpy as np
import pytest

from t5x_lite.data import random
from t5x_lite.data.language_modelling import CausalLm, PrefixLm
from t5x_lite.data.span_corruption import Noise, SpanCorruption, collapse
from t5x_lite.errors import UserError
from tests import golden
from tests.data.fake_corpus import FakeCorpus
from tests.data.pair_material import FIRST_SENTINEL, SENTINELS, configured, documented, epoch, make, place, segments, small_corpus, text_corpus


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return text_corpus(tmp_path_factory.mktemp('corpus'), 200)


def test_worked_examples(tmp_path):
    corpus = small_corpus(tmp_path)
    fields = {'span__noise_density': 0.5, 'span__mean_length': 1.5}
    documented(SpanCorruption.__doc__, make(SpanCorruption, corpus, 'encoder_decoder', 8, most=6, seed=0, **fields).get([0, 1]))
    documented(SpanCorruption.__doc__, make(SpanCorruption, corpus, 'decoder', 12, seed=0, **fields).get([0, 1]))


def test_worked_example_of_collapse():
    lines = [line.split() for line in collapse.__doc__.splitlines()]
    given = {line[0]: np.array(line[1:], np.int32) for line in lines if len(line) > 4 and line[0] in ('text', 'mask')}
    mask = given['mask'] > 0
    for name, chosen in (('collapse(mask)', mask), ('collapse(~mask)', ~mask)):
        tokens, lengths = collapse(given['text'], np.array([6]), chosen, np.array([99, 98], np.int32))
        assert [name, *map(str, tokens)] in lines and lengths.tolist() == [len(tokens)]


def test_pieces_are_collapsed_alone():
    text, length = np.arange(10, 20, dtype=np.int32), np.array([4, 1, 5])
    mask = np.array([0, 0, 1, 1, 1, 1, 0, 0, 1, 0], bool)
    tokens, lengths = collapse(text, length, mask, np.array([99, 98], np.int32))
    assert tokens.tolist() == [10, 11, 99, 99, 99, 16, 17, 98, 19] and lengths.tolist() == [3, 1, 5]


@pytest.mark.parametrize(('row', 'text', 'targets'), [(512, 568, 114), (256, 284, 58), (128, 141, 29)])
def test_lengths_as_in_t5(row, text, targets):
    assert Noise(0.15, 3).longest(row) == (text, targets)
    assert SpanCorruption.predictions(configured('encoder_decoder', row), row) == targets
    assert SpanCorruption.predictions(configured('decoder', row), row) == row


def published(inputs_length, density, mean):
    """The published rule of `random_spans_helper`, one token after the other, with a sentinel a span on both sides and an end token."""

    def planned(tokens):
        noise = round(tokens * density)
        spans = round(noise / mean)
        return tokens - noise + spans + 1, noise + spans + 1

    tokens = inputs_length - 1
    while planned(tokens + 1)[0] <= inputs_length:
        tokens += 1
    inputs, targets = planned(tokens)
    return (tokens - 1, targets - 1) if density == 0.5 and targets > inputs else (tokens, targets)


DENSITIES = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 1 / 3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.99)
MEANS = (1, 1.5, 2, 2.5, 3, 3.5, 5, 8, 10, 12, 32, 64)


def test_plans_are_those_of_t5_at_every_setting():
    rows = (*range(1, 70), 100, 127, 128, 172, 255, 256, 257, 512)
    count = 0
    for density in DENSITIES:
        for mean in MEANS:
            for row in rows:
                assert Noise(density, mean).longest(row) == published(row, density, mean), (row, density, mean)
                count += 1
    assert count > 15_000
    assert Noise(0.1, 5).longest(16) == (17, 3) and Noise(0.15, 10).longest(32) == (36, 6)


def test_no_row_overflows_at_any_setting():
    """What is planned is what the mask makes: no text up to the longest overflows, a longer one would, and T5's plan is kept where it holds."""
    kept = full = count = 0
    for density in DENSITIES:
        for mean in MEANS:
            noise = Noise(density, mean)
            inputs, targets = noise.lengths(np.arange(60_000))
            most_inputs, most_targets = np.maximum.accumulate(inputs), np.maximum.accumulate(targets)

            def holds(text, row, target_row, sides=(inputs, targets, most_inputs, most_targets)):
                inputs, targets, most_inputs, most_targets = sides
                assert text == 0 or (most_inputs[text] <= row and most_targets[text] <= target_row)
                assert inputs[text + 1] > row or targets[text + 1] > target_row

            for row in (4, 9, 16, 32, 51, 64, 128, 172, 512):
                text, target_row = noise.fitting(row)
                holds(text, row, target_row)
                assert text >= 2 and targets[text] == target_row, 'targets are full'
                assert inputs[text] >= row - 1, 'a kept token and a sentinel may be one too many'
                full += inputs[text] == row
                theirs = noise.longest(row)
                if (inputs[theirs[0]], targets[theirs[0]]) == (row, theirs[1]):
                    kept += 1
                    assert (text, target_row) == theirs
                for given in (5, row // 2, row):
                    assert noise.fitting(row, given)[1] == given
                    holds(noise.fitting(row, given)[0], row, given)
                joined = noise.longest_joined(row)
                assert (most_inputs + most_targets)[joined] <= row < (inputs + targets)[joined + 1]
                count += 1
    assert kept > 0.6 * count and full > 0.8 * count, (kept, full, count)


@pytest.mark.parametrize(
    ('row', 'density', 'mean', 'text', 'targets'), [(16, 0.1, 5, 16, 4), (32, 0.15, 10, 35, 7), (172, 0.15, 3, 190, 40), (65, 0.8, 1, 162, 163)]
)
def test_rows_hold_what_the_mask_makes(corpus, row, density, mean, text, targets):
    """Where T5's plan does not: no span is planned, float32 corrupts a token more, or too few tokens stand between spans."""
    assert Noise(density, mean).fitting(row) == (text, targets) != Noise(density, mean).longest(row)
    batch = epoch(make(SpanCorruption, corpus, 'encoder_decoder', row, concatenate=True, span__noise_density=density, span__mean_length=mean))
    assert batch['targets'].shape[1] == targets
    assert (batch['sequence_ids'] == 1).all() and batch['target_weights'].all()


def test_counts_are_float32():
    """As TensorFlow's: 28.5 and a little more."""
    tokens, spans = Noise(0.15, 3).counts(np.array([190, 568]))
    assert tokens.tolist() == [29, 85] and spans.tolist() == [10, 28]
    length = np.arange(2, 70_000)
    for density in DENSITIES:
        expected = np.rint(np.multiply(length, density, dtype=np.float32))
        assert (Noise(density, 3).counts(length)[0] == np.clip(expected, 1, length - 1)).all()
    assert (np.rint(length * 0.15) != np.rint(np.multiply(length, 0.15, dtype=np.float32))).any()


@pytest.mark.parametrize(('row', 'text', 'targets'), [(128, 141, 29), (64, 70, 14)])
def test_rows_of_a_stream_have_no_padding(corpus, row, text, targets):
    examples = make(SpanCorruption, corpus, 'encoder_decoder', row, concatenate=True)
    batch = epoch(examples)
    assert batch['targets'].shape[1] == examples.max_predictions == Noise(0.15, 3).longest(row)[1] == targets
    assert (batch['sequence_ids'] == 1).all() and (batch['decoder_sequence_ids'] == 1).all() and batch['target_weights'].all()
    assert len(batch['tokens']) == -(-(corpus.num_tokens + corpus.num_documents) // text)


@pytest.mark.parametrize('noise', [Noise(0.15, 3), Noise(0.5, 3), Noise(0.5, 1), Noise(0.9, 1), Noise(0.15, 64)])
def test_masks(noise):
    """As many tokens and spans as counted; kept text first and corrupted last; both in random segments."""
    length = np.repeat(np.arange(1, 200), 5)
    mask = np.split(noise.mask(length, random.bits(1, np.arange(len(length)))), np.cumsum(length)[:-1])
    tokens, spans = noise.counts(length)
    for size, found, expected_tokens, expected_spans in zip(length, mask, tokens, spans):
        assert len(found) == size and found.sum() == expected_tokens
        assert (np.diff(np.append(False, found).astype(int)) == 1).sum() == expected_spans
        if size > 1:
            assert not found[0] and found[-1]
    inputs, targets = noise.lengths(length)
    assert (np.diff(inputs) >= 0).all() and (np.diff(targets) >= 0).all(), 'more text never gives less'


def test_density_and_span_lengths():
    length = np.full(3000, 568)
    keys = random.bits(5, np.arange(3000))
    mask = Noise(0.15, 3).mask(length, keys).reshape(3000, 568)
    assert mask.sum() == 3000 * 85
    ends = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)
    spans = np.flatnonzero(ends.reshape(-1) == -1) - np.flatnonzero(ends.reshape(-1) == 1)
    assert len(spans) == 3000 * 28 and abs(spans.mean() - 85 / 28) < 1e-9
    # 85 tokens cut into 28 parts at random: a part is k long with probability C(84 - k, 26) / C(84, 27).
    expected = np.array([27 / 84, 27 * 57 / (84 * 83), 27 * 57 * 56 / (84 * 83 * 82)])
    assert np.allclose(np.bincount(spans)[1:4] / len(spans), expected, atol=0.006)
    # Away from both ends (the first token stays, the last never does), every token is as likely to be corrupted.
    share = mask.mean(0)
    assert np.abs(share[60:500] - 0.15).max() < 0.04 and abs(share[60:500].mean() - 0.15) < 0.006


@pytest.mark.parametrize('layout', ['encoder_decoder', 'decoder'])
@pytest.mark.parametrize('concatenate', [False, True])
def test_the_text_can_be_put_together_again(corpus, layout, concatenate):
    for inputs, targets in segments(epoch(make(SpanCorruption, corpus, layout, 64, concatenate=concatenate))):
        inputs, targets = inputs[:-1], targets[:-1]
        spans, order = {}, []
        for token in targets:
            if FIRST_SENTINEL - SENTINELS < token <= FIRST_SENTINEL:
                order.append(token)
                spans[token] = []
            else:
                spans[order[-1]].append(token)
        assert order == [FIRST_SENTINEL - number for number in range(len(order))], 'falling, each once'
        text = [part for token in inputs for part in spans.get(token, [token])]
        assert len(text) == len(inputs) + len(targets) - 2 * len(order) or (len(text) == 1 and order)
        tokens = place(text)
        if concatenate:
            assert np.isin(np.diff(tokens[tokens >= 0]), [1, 1 - corpus.num_tokens]).all()
        else:
            assert (np.diff(tokens) == 1).all()


def test_both_sides_are_filled(corpus):
    """As far as both can be: each pair ends with an end token on either side, which many short documents have more of."""
    examples = make(SpanCorruption, corpus, 'encoder_decoder', 128)
    batch = epoch(examples)
    shares = [(batch[name] > 0).mean() for name in ('sequence_ids', 'decoder_sequence_ids')]
    assert max(shares) > 0.97 and min(shares) > 0.9


def test_too_few_sentinels_are_refused(tmp_path, corpus):
    few = FakeCorpus(tmp_path, [[[5, 6, 7]]], 20, pieces={19: '<extra_id_0>', 18: '<extra_id_1>'})
    message = (
        'config.data.span: noise density 0.15 in spans of 3.0 at config.data.seq_len=512 needs 28 sentinels .*has 2; '
        'prepare with a tokenizer that has more, or give longer spans'
    )
    with pytest.raises(UserError, match=message):
        make(SpanCorruption, few, 'encoder_decoder', 512)
    assert len(make(SpanCorruption, few, 'encoder_decoder', 32))
    with pytest.raises(UserError, match='needs 105 sentinels .*has 100'):
        make(SpanCorruption, corpus, 'decoder', 2304)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('noise_density', 0.0, 'config.data.span: the noise density is 0.0; it must lie between 0 and 1'),
        ('noise_density', 1.0, 'the noise density is 1.0'),
        ('mean_length', 0.5, 'config.data.span: the mean length of a span is 0.5; it must be at least 1'),
    ],
)
def test_settings_out_of_range_are_refused(corpus, field, value, message):
    with pytest.raises(UserError, match=message):
        make(SpanCorruption, corpus, 'encoder_decoder', 64, most=20, **{f'span__{field}': value})


# ---- what the reference computes


def noise_of(given):
    return Noise(given['noise_density'], given['mean_noise_span_length'])


def check_plan(case):
    given = case['input']
    if (given['extra_tokens_per_span_inputs'], given['extra_tokens_per_span_targets']) != (1, 1):
        return NO_SENTINELS
    assert noise_of(given).longest(given['inputs_length']) == tuple(case['expected'])


def check_counts(case):
    given, expected = case['input'], case['expected']
    if not given['noise_density']:
        with pytest.raises(UserError, match='the noise density is 0.0'):
            noise_of(given).check('density')
        return NO_NOISE
    length = max(given['length'], 2)  # of one token, t5 counts those of two, and cuts what it made
    tokens, spans = noise_of(given).counts(np.array([length]))
    assert tokens[0] == expected['num_noise_tokens']
    assert spans[0] == expected['num_noise_spans']
    if 'mask' in expected:
        mask = np.array(expected['mask'], bool)
        ours = noise_of(given).mask(np.array([len(mask)]), random.bits(0, [1]))
        assert ours.sum() == mask.sum() and ours[0] == mask[0] and ours[-1] == mask[-1]
        assert (np.diff(ours.astype(int)) == 1).sum() == (np.diff(mask.astype(int)) == 1).sum()
    return None


def check_mean_density(case):
    """The share of what is corrupted, over as many masks of the same lengths."""
    given = case['input']
    length = np.resize([16, 17, 18], given['masks'])
    assert noise_of(given).mask(length, random.bits(0, np.arange(len(length)))).mean() == pytest.approx(case['expected'], abs=0.02)


def check_sentinels(case):
    given, expected = case['input'], case['expected']
    text, mask = np.array(given['tokens'], np.int32), np.array(given['noise_mask'], bool)
    sentinels = np.arange(given['vocab_size'] - 1, given['vocab_size'] - 1 - len(text), -1, dtype=np.int32)
    if not isinstance(expected, dict):
        expected = {'inputs': expected}
    for name, chosen in (('inputs', mask), ('targets', ~mask)):
        if name in expected:
            assert collapse(text, np.array([len(text)]), chosen, sentinels)[0].tolist() == expected[name]


def check_same_sentinel(case):
    """One sentinel for all spans is a list of the same."""
    given = case['input']
    text, mask = np.array(given['tokens'], np.int32), np.array(given['noise_mask'], bool)
    chosen = ~mask if case['function'].startswith('nonnoise') else mask
    assert collapse(text, np.array([len(text)]), chosen, np.full(len(text), given['vocab_size'] - 1, np.int32))[0].tolist() == case['expected']


def check_prefix_lm(case):
    """Inputs and then targets are the text, and where it is cut changes."""
    given = case['input']
    text = np.arange(*map(int, given['tokens'][len('range(') : -1].split(',')), dtype=np.int32)
    with tempfile.TemporaryDirectory() as folder:
        documents = [[text.tolist()] for _ in range(100)]
        examples = make(PrefixLm, FakeCorpus(folder, documents, 101), 'encoder_decoder', given['inputs_length'] + 2, most=given['targets_length'] + 2)
        found = segments(epoch(examples))
    assert len(found) == 100 and all(inputs + targets[:-1] == text.tolist() for inputs, targets in found)
    assert len({len(inputs) for inputs, _ in found}) > case['expected']['distinct_input_lengths_greater_than']


def check_split(case):
    """A document that is longer than a row, in the order of its pieces."""
    given, expected = case['input'], case['expected']
    text = list(range(*map(int, given['tokens'][len('range(') : -1].split(','))))
    with tempfile.TemporaryDirectory() as folder:
        examples = make(CausalLm, FakeCorpus(folder, [[text]], 105), 'decoder', given['max_tokens_per_segment'] + 1)
        pieces = examples._plan_of(0)
    assert len(pieces.length) == expected['segments']
    assert pieces.length[np.argsort(pieces.start)].tolist() == expected['lengths']


NO_SENTINELS = 'spans without a sentinel on both sides: there are no pairs of ours without'
NO_NOISE = 'a density of 0 leaves nothing to predict, and is refused'
NOISE_ELSEWHERE = 'another noise than spans and sentinels (T5 compared it and left it): no objective here has it'
CHECKS = {
    'random_spans_helper': check_plan,
    'random_spans_noise_mask': check_counts,
    'noise mask counts': check_counts,
    'mean density over 50 rolled masks (lengths 16,17,18 cycling)': check_mean_density,
    'noise_span_to_sentinel': check_same_sentinel,
    'nonnoise_span_to_sentinel': check_same_sentinel,
    'noise_span_to_unique_sentinel': check_sentinels,
    'denoise: inputs = noise spans to unique sentinels, targets = non-noise spans to unique sentinels': check_sentinels,
    'denoise, density 0': check_sentinels,
    'unique sentinel inputs and targets': check_sentinels,
    'prefix_lm: inputs + targets = tokens, more than one split length over 100 repeats': check_prefix_lm,
    'split_tokens lengths (also with rank-2, padding and passthrough features)': check_split,
}
NOT_OURS = {
    'random_spans_noise_mask with random_roll: rolling the rolled mask right by 20 gives the unrolled one':
        'rolled masks, with which texts may begin corrupted; by default T5 does not roll either',
    'regular_noise_mask number of masked positions': NOISE_ELSEWHERE,
    'random_prefix_noise_mask: first position noise, last not': 'a mask that begins with what is read; PrefixLm cuts the text instead, and is run as prefix_lm',
    'noise_token_to_sentinel': NOISE_ELSEWHERE,
    'drop_noise_tokens': NOISE_ELSEWHERE,
    'drop_nonnoise_tokens': NOISE_ELSEWHERE,
    'permute_noise_tokens (non-noise positions unchanged)': NOISE_ELSEWHERE,
    'noise_token_to_gathered_token (non-noise positions unchanged)': NOISE_ELSEWHERE,
    'noise_token_to_random_token (non-noise positions unchanged)': NOISE_ELSEWHERE,
    'noise_token_to_random_token_or_sentinel': 'drawn by TensorFlow; ours is 80/10/10 masking for encoders, tested in test_objectives.py',
    'first segment length with EOS to be added / not': 'room for an end token follows from `_lengths` here, held by every test of full rows',
    'trim_tokens_at_front (leaves room for EOS)': 'no objective cuts the front of a text; what is too long becomes several pieces',
    'truncate inputs around the target': 'TriviaQA with the answer in a window: no such task here',
    'target absent: example dropped': 'TriviaQA with the answer in a window: no such task here',
}  # fmt: skip


def test_the_reference_implementation():
    golden.hold('span_corruption', CHECKS, NOT_OURS, {NO_SENTINELS: 2, NO_NOISE: 1})
