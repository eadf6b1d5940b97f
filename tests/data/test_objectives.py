"""Masking, and masked language modelling over packed rows."""

import gzip
import pathlib
import re

import numpy as np
import pytest

from t5x_lite.config import Masking, MlmConfig
from t5x_lite.data import objectives, random, tokenizers
from t5x_lite.data.masking import MlmMasker
from t5x_lite.data.objectives import PackedMlm
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from tests.data.fake_corpus import CLS, MASK, PAD, SEP, UNK, FakeCorpus, config_for, numbered, random_corpus, same, unmasked

SOURCE = 't5x_lite.data.objectives:PackedMlm'
SHARED = pathlib.Path(__file__).resolve().parents[2] / '..' / 'shared' / 'data'
VOCAB = 200
CONTINUATIONS = frozenset(range(100, 200))


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    corpus = FakeCorpus(tmp_path_factory.mktemp('vocab'), [[[5]]], VOCAB, CONTINUATIONS)
    return tokenizers.load(corpus.tokenizer_path)


def rows_to_mask(count=4000, length=40, seed=0):
    """[CLS] words [SEP] words [SEP] padding, of many lengths."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(5, VOCAB, (count, length)).astype(np.int32)
    tokens[rng.random((count, length)) < 0.03] = UNK
    lengths = rng.integers(4, length + 1, count)
    tokens[:, 0] = CLS
    tokens[np.arange(count), lengths - 1] = SEP
    tokens[np.arange(count), rng.integers(1, lengths - 1)] = SEP
    tokens[np.arange(length) >= lengths[:, None]] = PAD
    return tokens, lengths, random.bits(seed, np.arange(count))


def within(count, total, probability):
    """A binomial count at most 4.5 standard deviations away."""
    return abs(count - total * probability) <= 4.5 * np.sqrt(total * probability * (1 - probability))


def test_worked_example_of_masking(tmp_path):
    corpus = FakeCorpus(tmp_path, [[[5]]], 20)
    masker = MlmMasker(MlmConfig(probability=0.4), 5, tokenizers.load(corpus.tokenizer_path))
    lines = [line.split() for line in MlmMasker.__doc__.splitlines()]
    given = next(line[2:] for line in lines if line[:2] == ['tokens', 'in'])
    found = masker(np.array([given], np.int32), np.array([9]), random.bits(1, [1]))
    for name, values in found.items():
        assert [*(['tokens', 'out'] if name == 'tokens' else [name]), *(str(int(value)) for value in values[0])] in lines, (name, values)


@pytest.mark.parametrize('whole_words', [False, True])
def test_masked_slots(tokenizer, whole_words):
    tokens, lengths, keys = rows_to_mask()
    most = 5
    out = MlmMasker(MlmConfig(whole_words=whole_words), most, tokenizer)(tokens, lengths, keys)
    weights, positions, targets = out['masked_weights'], out['masked_positions'], out['masked_targets']
    limit = np.array([min(most, max(1, round(0.15 * length))) for length in lengths.tolist()])
    counts = weights.sum(1)
    if whole_words:
        assert (counts <= limit).all()
        assert (counts == limit).mean() > 0.8
    else:
        maskable = np.isin(tokens, [PAD, CLS, SEP], invert=True).sum(1)
        assert (counts == np.minimum(limit, maskable)).all()
    used = weights > 0
    assert (np.diff(used.astype(int), axis=1) <= 0).all(), 'used slots come first'
    assert (positions[~used] == 0).all() and (targets[~used] == 0).all()
    for row in range(200):
        assert (np.diff(positions[row][used[row]]) > 0).all()
    assert (targets == np.where(used, np.take_along_axis(tokens, positions, 1), 0)).all()
    assert not np.isin(targets[used], [PAD, CLS, SEP, MASK]).any()
    assert (targets[used] == UNK).any(), '[UNK] stands for a real word'
    changed = out['tokens'] != tokens
    allowed = np.zeros_like(changed)
    row, slot = np.nonzero(used)
    allowed[row, positions[row, slot]] = True
    assert not (changed & ~allowed).any()


@pytest.mark.parametrize('whole_words', [False, True])
def test_eighty_ten_ten(tokenizer, whole_words):
    tokens, lengths, keys = rows_to_mask(20_000)
    out = MlmMasker(MlmConfig(whole_words=whole_words), 6, tokenizer)(tokens, lengths, keys)
    used = out['masked_weights'] > 0
    targets = out['masked_targets'][used]
    seen = np.take_along_axis(out['tokens'], out['masked_positions'], 1)[used]
    total = len(targets)
    words = VOCAB - 5
    assert within((seen == MASK).sum(), total, 0.8)
    assert within((seen == targets).sum(), total, 0.1 + 0.1 / words * (targets != UNK).mean())
    other = seen[(seen != MASK) & (seen != targets)]
    counts = np.bincount(other, minlength=VOCAB)
    assert not counts[:5].any()
    assert np.abs(counts[5:] - len(other) / words).max() < 5 * np.sqrt(len(other) / words), 'every word is as likely to stand in'


def test_every_position_is_as_likely(tokenizer):
    count, length = 20_000, 22
    tokens = np.full((count, length), 50, np.int32)
    tokens[:, 0], tokens[:, -1] = CLS, SEP
    out = MlmMasker(MlmConfig(), 20, tokenizer)(tokens, np.full(count, length), random.bits(4, np.arange(count)))
    used = out['masked_weights'] > 0
    assert (used.sum(1) == 3).all()
    counts = np.bincount(out['masked_positions'][used], minlength=length)
    assert counts[0] == counts[-1] == 0
    assert all(within(found, count, 3 / 20) for found in counts[1:-1])


def test_masks_depend_on_a_row_and_its_key_alone(tokenizer):
    tokens, lengths, keys = rows_to_mask(50)
    for whole_words in (False, True):
        masker = MlmMasker(MlmConfig(whole_words=whole_words), 5, tokenizer)
        whole = masker(tokens, lengths, keys)
        chosen = np.array([40, 3, 17])
        assert same({name: values[chosen] for name, values in whole.items()}, masker(tokens[chosen], lengths[chosen], keys[chosen]))
        assert not same(whole, masker(tokens, lengths, keys + np.uint64(1)))


def test_whole_words_are_masked_whole(tokenizer):
    tokens, lengths, keys = rows_to_mask()
    out = MlmMasker(MlmConfig(whole_words=True), 8, tokenizer)(tokens, lengths, keys)
    partly = 0
    for row in range(len(tokens)):
        words: list[list[int]] = []
        for place, token in enumerate(tokens[row, : lengths[row]].tolist()):
            if token in (CLS, SEP):
                continue
            if token in CONTINUATIONS and tokens[row, place - 1] not in (CLS, SEP):
                words[-1].append(place)
            else:
                words.append([place])
        masked = set(out['masked_positions'][row][out['masked_weights'][row] > 0].tolist())
        chosen = [word for word in words if set(word) & masked]
        assert masked == {place for word in chosen for place in word}, 'a word is masked whole or not at all'
        limit = min(8, max(1, round(0.15 * int(lengths[row]))))
        left = [len(word) for word in words if word not in chosen]
        assert len(masked) == limit or all(len(masked) + size > limit for size in left), 'slots stay empty only where no word fits'
        partly += len(masked) < limit
    assert 0 < partly < 0.2 * len(tokens)


def test_more_slots_than_tokens(tokenizer):
    tokens = np.array([[CLS, 9, SEP, PAD]], np.int32)
    out = MlmMasker(MlmConfig(probability=0.9), 7, tokenizer)(tokens, np.array([3]), random.bits(0, [0]))
    assert out['masked_positions'].shape == (1, 7)
    assert out['masked_weights'].tolist() == [[1, 0, 0, 0, 0, 0, 0]]
    assert out['masked_positions'][0, 0] == 1


def make(corpus, length=32, most=5, seed=3, split='train', **mlm):
    return PackedMlm(config_for(SOURCE, length, **mlm), split, seed, length, most, corpus)


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return random_corpus(tmp_path_factory.mktemp('corpus'), 200, most_sentences=6)


def test_worked_example_of_packing(tmp_path):
    corpus = FakeCorpus(tmp_path, [[[11, 12], [13]], [[14, 15]], [[16, 17], [18, 19, 20, 21]]], vocab_size=22)
    batch = make(corpus, length=9, most=2, seed=2).get([0, 1])
    lines = [line.split() for line in PackedMlm.__doc__.splitlines()]
    for name, values in batch.items():
        assert [name, *(str(int(value)) for value in values.reshape(-1))] in lines, (name, values)


def test_packed_rows(corpus):
    """Each sequence is [CLS] a span of one document [SEP], with its own id and positions; an epoch holds every token exactly once."""
    examples = make(corpus)
    document_of = np.repeat(np.arange(corpus.num_documents), np.diff(corpus.sentence_starts[corpus.document_starts]))
    for epoch in range(2):
        rows = examples._plan_of(epoch)
        batch = examples._examples(rows, np.arange(len(rows)), random.key(examples._root, 'epoch', epoch))
        assert batch['positions'].dtype == np.int32 and not batch['token_types'].any()
        tokens, ids, positions = unmasked(batch), batch['sequence_ids'], batch['positions']
        met = []
        for row in range(len(tokens)):
            used = (ids[row] > 0).sum()
            assert (ids[row, used:] == 0).all() and (tokens[row, used:] == PAD).all() and (positions[row, used:] == 0).all()
            assert sorted(set(ids[row, :used])) == list(range(1, ids[row].max() + 1))
            for sequence in range(1, ids[row].max() + 1):
                here = np.flatnonzero(ids[row] == sequence)
                assert (np.diff(here) == 1).all()
                assert positions[row, here].tolist() == list(range(len(here)))
                piece = tokens[row, here]
                assert piece[0] == CLS and piece[-1] == SEP and len(piece) > 2
                span = piece[1:-1] - 5
                assert (np.diff(span) == 1).all() and document_of[span[0]] == document_of[span[-1]]
                met.append(span)
        assert sorted(np.concatenate(met).tolist()) == list(range(corpus.num_tokens))
        assert (batch['masked_weights'].sum(1) == [min(5, max(1, round(0.15 * used))) for used in (ids > 0).sum(1).tolist()]).all()


@pytest.mark.parametrize('short', [0.0, 0.3])
def test_documents_stay_whole_or_are_cut_at_sentence_ends(corpus, short):
    examples = make(corpus, length=20, short_sequence_probability=short)
    start, length = examples._pieces(random.key(5), slack=20)
    documents = corpus.sentence_starts[corpus.document_starts]
    sizes = np.diff(documents)
    whole = np.flatnonzero(sizes <= 18)
    assert len(whole) > 20
    assert set(zip(documents[whole].tolist(), sizes[whole].tolist())) <= set(zip(start.tolist(), length.tolist()))
    # Sentences here have at most 14 tokens: no cut falls inside one.
    assert np.isin(start, corpus.sentence_starts).all()
    if not short:
        following = np.searchsorted(corpus.sentence_starts, start + length, side='right')
        sentence = corpus.sentence_starts[np.minimum(following, corpus.num_sentences)] - (start + length)
        at_end = np.isin(start + length, documents)
        assert ((length + sentence > 18) | at_end).all(), 'a piece takes every sentence that fits'


def test_long_sentences_are_cut(tmp_path):
    corpus = FakeCorpus(tmp_path, numbered([[45, 3], [8]]), vocab_size=100)
    start, length = make(corpus, length=22, short_sequence_probability=0.0)._pieces(random.key(0), slack=50)
    assert list(zip(start.tolist(), length.tolist())) == [(0, 20), (20, 20), (40, 8), (48, 8)]


def test_sentences_are_cut_where_rows_would_stay_empty(tmp_path):
    """Sentences of 17 in rows of 32 fill half of each; cut, they fill nearly all. Two of 15 fill a row, and are left whole."""
    loose = make(FakeCorpus(tmp_path, [[[5] * 17] * 40] * 5, 6), short_sequence_probability=0.0)
    tight = make(FakeCorpus(tmp_path, [[[5] * 15] * 40] * 5, 6), short_sequence_probability=0.0)
    plan = loose._plan(1)
    assert (loose._pieces(random.key(1), slack=32)[1] == 17).all()
    assert (plan.length + 2).sum() / (len(plan) * 32) > 0.98
    assert np.isin(tight._plan(1).start, tight.corpus.sentence_starts).all()


def test_sections_of_long_documents_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(objectives, '_SECTION', 50)
    corpus = random_corpus(tmp_path, 20, most_sentences=40)
    examples = make(corpus)
    assert len(examples._sections()) > 60
    assert np.isin(corpus.sentence_starts[corpus.document_starts], examples._sections()).all()
    assert np.isin(examples._sections(), corpus.sentence_starts).all()
    start, length = examples._pieces(random.key(0), slack=50)
    assert start[0] == 0 and (start[1:] == (start + length)[:-1]).all() and (start + length)[-1] == corpus.num_tokens


def test_packed_is_a_function_of_the_index(corpus):
    examples = make(corpus)
    size = len(examples)
    indices = np.array([0, 5, size - 1, size, 4 * size + 1, 5])
    whole = examples.get(indices)
    assert same(whole, {name: values[::-1] for name, values in make(corpus).get(indices[::-1]).items()})
    for place, index in enumerate(indices):
        assert same({name: values[place : place + 1] for name, values in whole.items()}, make(corpus).get([index]))
    assert not same(whole, make(corpus, seed=4).get(indices))
    assert not same(examples.get(np.arange(size)), examples.get(np.arange(size, 2 * size)))


@pytest.mark.parametrize('source', [SOURCE, 'bert_flax.objectives:MlmNsp'])
def test_held_out_text_may_be_masked_at_another_rate(corpus, source):
    def masked(split, **mlm):
        batch = resolve(source)(config_for(source, 32, **mlm), split, 3, 32, 16, corpus).get(np.arange(200))
        return batch['masked_weights'].sum() / (batch['tokens'] != PAD).sum()

    assert abs(masked('validation', probability=0.4, validation_probability=0.15) - 0.15) < 0.03
    for split, mlm in (('train', {'validation_probability': 0.15}), ('validation', {})):
        assert abs(masked(split, probability=0.4, **mlm) - 0.4) < 0.03


@pytest.mark.parametrize('length', [128, 512])
def test_book_paragraphs(tmp_path, length):
    """Paragraphs of real books as documents, counted in WordPieces: at least 98 % of the tokens are real."""
    vocab, books = SHARED / 'vocabs' / 'bert_base_uncased_vocab.txt', SHARED / 'books' / 'valid'
    if not (vocab.exists() and books.exists()):
        pytest.skip(f'{books} or {vocab} is absent')
    text = gzip.open(sorted(books.glob('*.gz'))[0], 'rt', encoding='utf-8').read()
    sentence_end = re.compile(r'(?<=[.!?])\s+')
    paragraphs = [sentence_end.split(paragraph.strip()) for paragraph in re.split(r'\n\s*\n', text) if paragraph.strip()]
    counted = iter(tokenizers.load(str(vocab)).encode_batch([sentence for paragraph in paragraphs for sentence in paragraph]))
    documents = [[[5] * len(next(counted)) for _ in paragraph] for paragraph in paragraphs]
    examples = make(FakeCorpus(tmp_path, documents, vocab_size=6), length=length)
    assert len(paragraphs) > 500
    real = (examples.get(np.arange(len(examples)))['sequence_ids'] > 0).mean()
    assert real >= 0.98


def test_a_tokenizer_without_mask_is_refused(tmp_path):
    corpus = FakeCorpus(tmp_path, [[[5]]], 8)
    with open(f'{corpus.tokenizer_path}/vocab.txt', 'w', encoding='utf-8') as file:
        file.write('[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\na\nb\nc\n')
    with pytest.raises(UserError, match=r'has no token that stands for a hidden one \(\[MASK\] or <extra_id_0>\), which PackedMlm needs'):
        make(corpus)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('short_sequence_probability', 1.5, 'config.data.mlm.short_sequence_probability is 1.5; it must lie from 0 to 1'),
        ('duplicates', 0, 'config.data.mlm.duplicates is 0; static masking needs at least 1'),
    ],
)
def test_settings_out_of_range_are_refused(corpus, field, value, message):
    with pytest.raises(UserError, match=message):
        make(corpus, masking=Masking.static, **{field: value})
