"""MLM + NSP examples. In most corpora here a token's id tells its place, so that an example shows where it came from."""

import numpy as np
import pytest

from bert_flax import objectives
from bert_flax.objectives import MlmNsp, truncated
from t5x_lite.config import Masking
from t5x_lite.data import random
from t5x_lite.errors import UserError
from tests.data.fake_corpus import CLS, MASK, PAD, SEP, FakeCorpus, config_for, numbered, random_corpus, random_lengths, same, unmasked

SOURCE = 'bert_flax.objectives:MlmNsp'
LENGTH, MOST = 32, 5


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return random_corpus(tmp_path_factory.mktemp('corpus'))


def make(corpus, length=LENGTH, most=MOST, seed=3, split='train', **mlm):
    return MlmNsp(config_for(SOURCE, length, **mlm), split, seed, length, most, corpus)


def pairs_of(examples, epoch):
    """What the plan of an epoch says about its chunks, in the order of the corpus."""
    root = random.key(examples._root, 'epoch', epoch)
    plan = examples._plan(root)
    return examples._pairs(plan, np.arange(len(plan)), root)


def within(count, total, probability):
    """A binomial count at most 4.5 standard deviations away."""
    return abs(count - total * probability) <= 4.5 * np.sqrt(total * probability * (1 - probability))


def test_worked_example(tmp_path):
    corpus = FakeCorpus(tmp_path, [[[11, 12], [13, 14, 15]], [[16, 17, 18], [19]]], vocab_size=20)
    batch = make(corpus, length=10, most=2, seed=1).get([1, 2])
    lines = [line.split() for line in MlmNsp.__doc__.splitlines()]
    for name, values in batch.items():
        assert [name, *(str(int(value)) for value in values.reshape(-1))] in lines, (name, values)


def test_layout(corpus):
    examples = make(corpus)
    batch = examples.get(np.arange(3 * len(examples)))
    tokens, ids, types = unmasked(batch), batch['sequence_ids'], batch['token_types']
    used = ids.sum(1)
    columns = np.arange(LENGTH)
    assert {name: (values.shape[1:], values.dtype.name) for name, values in batch.items()} == {
        'tokens': ((LENGTH,), 'int32'), 'token_types': ((LENGTH,), 'int32'), 'sequence_ids': ((LENGTH,), 'int32'),
        'masked_positions': ((MOST,), 'int32'), 'masked_targets': ((MOST,), 'int32'), 'masked_weights': ((MOST,), 'float32'),
        'next_sentence_labels': ((), 'int32'),
    }  # fmt: skip
    assert (ids == (columns < used[:, None])).all()
    assert (tokens[columns >= used[:, None]] == PAD).all()
    assert (tokens[:, 0] == CLS).all() and (tokens == CLS).sum() == len(tokens)
    for row in range(len(tokens)):
        first, last = np.flatnonzero(tokens[row] == SEP)
        assert last == used[row] - 1
        assert types[row].tolist() == [0] * (first + 1) + [1] * (last - first) + [0] * (LENGTH - last - 1)
        for part in (tokens[row, 1:first], tokens[row, first + 1 : last]):
            assert len(part) >= 1
            assert (np.diff(part) == 1).all(), 'each part is one span of the corpus'


def test_b_follows_a_or_comes_from_another_document(corpus):
    examples = make(corpus)
    document_of = np.repeat(np.arange(corpus.num_documents), np.diff(corpus.sentence_starts[corpus.document_starts]))
    batch = examples.get(np.arange(3 * len(examples)))
    tokens = unmasked(batch)
    seen = {0: 0, 1: 0}
    for row, label in enumerate(batch['next_sentence_labels'].tolist()):
        first, last = np.flatnonzero(tokens[row] == SEP)
        a, b = tokens[row, 1:first] - 5, tokens[row, first + 1 : last] - 5
        for part in (a, b):
            assert len(set(document_of[part])) == 1
        assert (document_of[a[0]] == document_of[b[0]]) == (label == 0)
        if label == 0:
            assert b[0] > a[-1]
            if last + 1 < LENGTH:  # nothing was cut
                assert b[0] == a[-1] + 1
                assert np.isin([a[0], b[0], b[-1] + 1], corpus.sentence_starts).all()
        seen[label] += 1
    assert min(seen.values()) > 100


def test_each_sentence_is_in_one_chunk(corpus):
    examples = make(corpus)
    for epoch in range(3):
        pairs = pairs_of(examples, epoch)
        stop = np.where(pairs['is_random'], pairs['a_end'], pairs['end'])
        assert pairs['start'][0] == 0 and stop[-1] == corpus.num_sentences
        assert (pairs['start'][1:] == stop[:-1]).all()
        lasts = corpus.document_starts[1:]
        assert np.isin(lasts, stop).all(), 'no chunk crosses the end of a document'


def test_an_epoch_covers_the_corpus_once(corpus):
    """From the examples alone: leaving random B out, no token is met twice, and few are lost to truncation."""
    examples = make(corpus)
    batch = examples.get(np.arange(len(examples)))
    tokens = unmasked(batch)
    kept = (tokens >= 5) & ~((batch['token_types'] == 1) & (batch['next_sentence_labels'][:, None] == 1))
    counts = np.bincount(tokens[kept] - 5, minlength=corpus.num_tokens)
    assert counts.max() == 1
    assert counts.mean() > 0.85


def test_shares(corpus):
    examples = make(corpus, short_sequence_probability=0.3)
    parts = [pairs_of(examples, epoch) for epoch in range(25)]
    pairs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    longest = LENGTH - 3
    total = len(pairs['start'])
    assert total > 10_000
    # A short target may be the longest, too: it is drawn from 2..longest.
    assert within((pairs['target'] < longest).sum(), total, 0.3 * (longest - 2) / (longest - 1))
    assert pairs['target'].min() == 2
    sentences = pairs['end'] - pairs['start']
    assert pairs['is_random'][sentences == 1].all()
    assert within(pairs['is_random'][sentences > 1].sum(), (sentences > 1).sum(), 0.5)
    four = sentences == 4
    ends = np.bincount((pairs['a_end'] - pairs['start'])[four], minlength=5)
    assert ends[0] == ends[4] == 0, 'A ends after any sentence but the last'
    assert all(within(count, four.sum(), 1 / 3) for count in ends[1:4])
    other, own = pairs['other'][pairs['is_random']], pairs['document'][pairs['is_random']]
    assert (other != own).all()
    counts = np.bincount(other, minlength=corpus.num_documents)
    assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean()), 'every document is as likely, whatever its length'


def test_short_sequences_can_be_switched_off(corpus):
    assert (pairs_of(make(corpus, short_sequence_probability=0.0), 0)['target'] == LENGTH - 3).all()


def test_truncated_takes_from_the_longer():
    for longest in (1, 2, 7, 8):
        for a in range(1, 12):
            for b in range(1, 12):
                left = [a, b]
                while sum(left) > longest:
                    left[0 if left[0] > left[1] else 1] -= 1
                assert [int(part[0]) for part in truncated(np.array([a]), np.array([b]), longest)] == left


def test_truncation_takes_from_both_ends(tmp_path):
    """Sentences of 60 tokens, of which 14 or 15 remain: those cut from the front are binomial, as with a coin for each token."""
    corpus = FakeCorpus(tmp_path, numbered([[60] * 40] * 4), vocab_size=5 + 60 * 160)
    pairs = pairs_of(make(corpus, short_sequence_probability=0.0), 0)
    for part in 'ab':
        front = pairs[f'{part}_start'] % 60  # every sentence begins at a multiple
        cut = 60 - pairs[f'{part}_length']
        assert (front >= 0).all() and (front <= cut).all()
        assert abs((front - cut / 2).mean()) < 4.5 * np.sqrt(cut.mean() / 4 / len(front))
        assert 0.6 < front.var() / (cut.mean() / 4) < 1.5


@pytest.mark.parametrize('documents', [2, 40, 200])
@pytest.mark.parametrize('block', [20, 1 << 20])
def test_plan_is_that_of_one_sentence_after_the_other(tmp_path, monkeypatch, documents, block):
    monkeypatch.setattr(objectives, '_BLOCK', block)
    corpus = random_corpus(tmp_path, documents, seed=documents)
    examples = make(corpus)
    root = random.key(1)
    expected = []
    for first, last in zip(corpus.document_starts[:-1], corpus.document_starts[1:]):
        start = first
        while start < last:
            expected.append(start)
            _, a_end, end, is_random = examples._chunks(root, np.array([start]), np.array([last]))
            start = (a_end if is_random[0] else end)[0]
    assert examples._plan(root).tolist() == expected


def test_chunks_reach_their_target(corpus):
    pairs = pairs_of(make(corpus, short_sequence_probability=0.5), 0)
    starts = corpus.sentence_starts
    tokens = starts[pairs['end']] - starts[pairs['start']]
    at_end = np.isin(pairs['end'], corpus.document_starts)
    assert ((tokens >= pairs['target']) | at_end).all()
    without_last = starts[pairs['end'] - 1] - starts[pairs['start']]
    assert (without_last < pairs['target']).all()


def test_random_b_fills_the_target_up(corpus):
    """As many sentences as A leaves tokens for, fewer at the end of a document, at least one."""
    pairs = pairs_of(make(corpus, short_sequence_probability=1.0), 0)
    whole = pairs['is_random'] & (pairs['a_length'] + pairs['b_length'] < LENGTH - 3)
    target, a, b, start, other = (pairs[name][whole] for name in ('target', 'a_length', 'b_length', 'b_start', 'other'))
    assert len(b) > 100
    starts = corpus.sentence_starts
    end = np.searchsorted(starts, start + b)
    assert (starts[end] == start + b).all()
    assert ((a + b >= target) | (end == corpus.document_starts[other + 1])).all()
    without_last = starts[end - 1] - start
    assert ((a + without_last < target) | (without_last == 0)).all()


def test_a_function_of_the_index(corpus):
    """Any order, one at a time, twice, from another object: the same examples."""
    examples = make(corpus)
    size = len(examples)
    indices = np.array([0, 5, size - 1, size, 2 * size + 3, 7 * size, 5])
    whole = examples.get(indices)
    assert same(whole, examples.get(indices))
    again = make(corpus)
    backwards = again.get(indices[::-1])
    assert same(whole, {name: values[::-1] for name, values in backwards.items()})
    for place, index in enumerate(indices):
        assert same({name: values[place : place + 1] for name, values in whole.items()}, make(corpus).get([index]))


def test_seed_split_and_length_draw_other_numbers(corpus):
    rows = np.arange(20)
    variants = make(corpus), make(corpus, seed=4), make(corpus, split='validation'), make(corpus, length=33)
    batches = [examples.get(rows) for examples in variants]
    for number, ours in enumerate(batches):
        for theirs in batches[:number]:
            assert not np.array_equal(ours['masked_targets'], theirs['masked_targets'])


def rows_of(batch):
    """The examples of a batch as a sorted list of bytes."""
    return sorted(b''.join(values[row].tobytes() for _, values in sorted(batch.items())) for row in range(len(batch['tokens'])))


def test_static_masks_repeat_and_dynamic_ones_do_not(corpus):
    fixed = make(corpus, masking=Masking.static, duplicates=2, short_sequence_probability=0.0)
    size = len(fixed)
    epochs = [fixed.get(np.arange(size) + size * epoch) for epoch in range(4)]
    # Epochs have the examples of epoch 0 in number; another plan's may be a few more or fewer.
    assert rows_of(epochs[0]) == rows_of(epochs[2])
    assert not same(epochs[0], epochs[2]), 'in another order'
    common = set(rows_of(epochs[1])) & set(rows_of(epochs[3]))
    assert len(common) > 0.95 * size
    assert len(set(rows_of(epochs[0])) & set(rows_of(epochs[1]))) < 0.05 * size
    moving = make(corpus, masking=Masking.dynamic, duplicates=2)
    size = len(moving)
    epochs = [moving.get(np.arange(size) + size * epoch) for epoch in range(3)]
    assert len(set(rows_of(epochs[0])) & set(rows_of(epochs[2]))) < 0.05 * size


def test_masks_are_those_of_bert(corpus):
    examples = make(corpus)
    batch = examples.get(np.arange(20 * len(examples)))
    used = batch['sequence_ids'].sum(1)
    counts = batch['masked_weights'].sum(1)
    assert counts.tolist() == [min(MOST, max(1, round(0.15 * length))) for length in used.tolist()]
    weights = batch['masked_weights'] > 0
    targets = batch['masked_targets'][weights]
    seen = np.take_along_axis(batch['tokens'], batch['masked_positions'], 1)[weights]
    assert targets.min() >= 5, 'no special token is predicted'
    total = len(targets)
    assert total > 30_000
    assert within((seen == MASK).sum(), total, 0.8)
    assert within((seen == targets).sum(), total, 0.1 + 0.1 / (corpus.vocab_size - 5))
    assert set(seen[seen < 5]) == {MASK}, 'no special token but [MASK] stands in'


def test_one_document_is_refused(tmp_path):
    corpus = FakeCorpus(tmp_path, [[[5, 6], [7]]], vocab_size=8, name='prepared/one')
    with pytest.raises(UserError, match='prepared/one: the train split has 1 document.*--documents=paragraph'):
        make(corpus)


def test_empty_documents_are_passed_over(tmp_path):
    lengths = random_lengths(20)
    documents = numbered(lengths)
    padded = [part for document in documents for part in ([], document)] + [[]]
    ours = make(FakeCorpus(tmp_path, padded, vocab_size=5000)).get(range(50))
    assert same(ours, make(FakeCorpus(tmp_path, documents, vocab_size=5000)).get(range(50)))


def test_sentences_longer_than_the_row(tmp_path):
    corpus = FakeCorpus(tmp_path, numbered([[100, 3], [300], [1, 1]]), vocab_size=410)
    with pytest.raises(UserError, match='config.data.seq_len is 4'):
        make(corpus, length=4)
    batch = make(corpus, length=8, most=2).get(range(40))
    assert (batch['sequence_ids'].sum(1) <= 8).all()
    assert (batch['sequence_ids'].sum(1) == 8).any()
