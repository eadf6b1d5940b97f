"""Words in pieces: cut as in running text by every kind of tokenizer, labelled, and read back."""

import random

import numpy as np
import pytest

from t5x_lite.data import tags, tokenizers
from t5x_lite.data.tags import SCHEMES, TagSet
from t5x_lite.data.word_pieces import IGNORED, Pieces, WordCutter, labels, word_tags
from t5x_lite.errors import UserError
from tests.fixtures.make_tokenizer_fixtures import FOLDER

_PIECES = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'ann', 'lee', '##hy', '##hyx', 'rome', 'in', '.', '[', ']', 'sep']
WORDPIECE = tokenizers.wordpiece({piece: index for index, piece in enumerate(_PIECES)}, lowercase=True)
KINDS = {
    'wordpiece': lambda: WORDPIECE,
    'byte_bpe': lambda: tokenizers.load(str(FOLDER / 'byte_bpe')),
    'gpt1': lambda: tokenizers.load(str(FOLDER / 'gpt1')),
    'sentencepiece': lambda: tokenizers.load(str(FOLDER / 'sentencepiece')),
    'characters': lambda: tokenizers.train_characters(['the quick brown fox; Über'], None),
}


def alone(words, tokenizer=WORDPIECE, seq_len=99, **around) -> Pieces:
    return WordCutter(tokenizer, seq_len, **around).cut([('f:1', words)])[0]


def test_the_worked_example():
    row = alone(['Ann', 'Leehy', '\x01', 'Rome'], before=[2], after=[3])
    assert [WORDPIECE.token(index) for index in row.ids] == ['[CLS]', 'ann', 'lee', '##hy', 'rome', '[SEP]']
    assert row.words.tolist() == [-1, 0, 1, 1, 3, -1] and (row.num_words, row.lost) == (4, 0)
    tag_set = TagSet.of([('', ['B-PER', 'B-LOC'])], SCHEMES['IOB2'])
    given = ['B-PER', 'I-PER', 'O', 'B-LOC']
    first, every = (labels(row, given, tag_set, every) for every in (False, True))
    assert first.tolist() == [-1, 3, 4, -1, 1, -1] and every.tolist() == [-1, 3, 4, 4, 1, -1] and first.dtype == np.int32
    assert word_tags(row, first, tag_set, 'O') == given
    assert word_tags(row, every, tag_set, 'O', every=True) == given


@pytest.mark.parametrize('kind', KINDS)
def test_words_are_cut_as_in_running_text(kind):
    tokenizer, words = KINDS[kind](), ['The', 'quick', 'brown', 'foxes', ',', '12.5', 'of', 'Über', '-', 'jumped', "don't", 'a', 'b']
    row = alone(words, tokenizer)
    assert row.ids.tolist() == tokenizer.literal().encode(' '.join(words))
    assert np.unique(row.words).tolist() == list(range(len(words)))


def test_like_transformers_on_words(transformers, tmp_path):
    # Its byte-level BPE begins every word with a space, ours all but the first: WordPiece alone agrees by intent.
    WORDPIECE.save(str(tmp_path))
    theirs, words = transformers.AutoTokenizer.from_pretrained(str(tmp_path)), ['Ann', 'Leehyx.', '\x01', 'unknown', '', 'Rome']
    found, row = theirs(words, is_split_into_words=True), alone(words, before=[2], after=[3])
    assert found['input_ids'] == row.ids.tolist()
    assert [IGNORED if word is None else word for word in found.word_ids()] == row.words.tolist()


def test_words_begin_with_their_space_in_byte_level_pairs():
    tokenizer = KINDS['byte_bpe']()
    row = alone(['a', 'b', '', 'b'], tokenizer)
    assert [tokenizer.token(index) for index in row.ids] == ['a', 'Ġb', 'Ġb'] and row.words.tolist() == [0, 1, 3]


@pytest.mark.parametrize('kind', ['wordpiece', 'gpt1', 'sentencepiece'])
def test_words_that_are_nothing_shift_no_other(kind):
    words = ['\x01', 'Rome', '\x7f\x02', '', 'in', 'Rome', '\x01']
    row = alone(words, KINDS[kind]())
    assert np.unique(row.words).tolist() == [1, 4, 5]
    tag_set = TagSet(('A', 'B', 'C', 'none'))
    found = labels(row, list('CACCBAC'), tag_set)
    assert word_tags(row, found, tag_set, 'none') == ['none', 'A', 'none', 'none', 'B', 'A', 'none']
    empty = alone(['\x01'], KINDS[kind]())
    assert empty.ids.tolist() == [] and empty.lost == 0 and word_tags(empty, np.zeros(0, np.int32), tag_set, 'none') == ['none']
    assert alone([], KINDS[kind]()).num_words == 0


def test_raw_text_forges_no_special_token():
    assert [WORDPIECE.token(index) for index in alone(['[SEP]']).ids] == ['[', 'sep', ']']


def test_truncation_loses_whole_words_and_counts_them():
    words = ['Ann', 'Leehy', 'in', 'Rome']  # 1, 2, 1, 1 pieces
    for seq_len, kept, lost in ((7, 5, 0), (6, 4, 1), (5, 3, 2), (4, 1, 3), (3, 1, 3)):
        row = alone(words, seq_len=seq_len, before=[2], after=[3])
        assert (len(row.ids) - 2, row.lost, row.num_words) == (kept, lost, 4)
        assert row.ids[0] == 2 and row.ids[-1] == 3 and row.words[-1] == IGNORED
    row = alone(['Leehy', 'Ann'], seq_len=1)  # not even one word
    assert len(row.ids) == 0 and row.lost == 2
    with pytest.raises(UserError, match='a sequence of 2 has no room for words beside 2 special tokens'):
        WordCutter(WORDPIECE, 2, [2], [3])


def test_what_is_lost_leaves_labels_legal():
    tag_set = TagSet.of([('', ['B-X'])], SCHEMES['BIOES'])
    given = ['O', 'B-X', 'I-X', 'E-X', 'S-X', 'B-X', 'E-X']
    row = alone(['in', '\x01', 'ann', 'leehy', 'rome', 'rome', 'ann'], seq_len=6)
    assert row.words.tolist() == [0, 2, 3, 3, 4, 5] and row.lost == 1
    # The first entity has lost its first word, the last its last.
    named = tag_set.tags(labels(row, given, tag_set)[[0, 1, 2, 4, 5]])
    assert named == ['O', 'B-X', 'E-X', 'S-X', 'S-X']
    assert tag_set.tags(labels(row, given, tag_set, every=True)) == ['O', 'B-X', 'I-X', 'E-X', 'S-X', 'S-X']
    assert word_tags(row, labels(row, given, tag_set), tag_set, 'O') == ['O', 'O', 'B-X', 'E-X', 'S-X', 'S-X', 'O']


def test_entities_of_pieces_are_those_of_words():
    tag_set = TagSet.of([('', ['B-X'])], SCHEMES['BIOES'])
    row = alone(['Leehy', 'Leehyx', 'Leehy'])
    spread = labels(row, ['S-X', 'B-X', 'E-X'], tag_set, every=True)
    assert tag_set.tags(spread) == ['B-X', 'E-X', 'B-X', 'I-X', 'I-X', 'E-X']
    # An entity inside the second word alone, and one that ends in the middle of the third.
    predicted = tag_set.ids(['B-X', 'E-X', 'O', 'S-X', 'S-X', 'O'])
    assert word_tags(row, predicted, tag_set, 'O', every=True) == ['S-X', 'O', 'S-X']
    inside = TagSet.of([('', ['I-X'])], SCHEMES['IO'])
    assert word_tags(row, inside.ids(['I-X', 'O', 'I-X', 'O', 'O', 'I-X']), inside, 'O', every=True) == ['I-X', 'I-X', 'O']
    # Illegal tags of first pieces are not mended.
    assert word_tags(row, tag_set.ids(['I-X', 'O', 'I-X', 'O', 'O', 'O']), tag_set, 'O') == ['I-X', 'I-X', 'O']


@pytest.mark.parametrize('every', [False, True])
@pytest.mark.parametrize('scheme', SCHEMES)
def test_any_tags_come_back(scheme, every):
    source, scheme = random.Random(0), SCHEMES[scheme]
    words = ['Ann', 'Leehy', 'Rome', 'Leehyx', 'in']
    tag_set = TagSet.of([('', [f'{scheme.marks[0]}-X', f'{scheme.marks[0]}-Y'])], scheme)
    for _ in range(200):
        length, place, entities = source.randrange(1, 9), 0, []
        while place < length:
            size = min(source.randrange(1, 4), length - place)
            kind = source.choice(['X', 'Y', None])
            if kind and not (scheme.name == 'IO' and entities and entities[-1][::2] == (kind, place)):
                entities.append((kind, place, place + size))
            place += size
        given = tags.from_spans(entities, length, scheme)
        row = alone([source.choice(words) for _ in range(length)])
        found = labels(row, given, tag_set, every)
        assert word_tags(row, found, tag_set, 'O', every) == given
        tags.check(tag_set.tags(found[found != IGNORED]), scheme)


def test_parts_of_speech_are_copied():
    tag_set, row = TagSet(('DT', 'NN')), alone(['Ann', 'Leehyx', 'in'])
    found = labels(row, ['NN', 'NN', 'DT'], tag_set, every=True)
    assert found.tolist() == [[1, 1, 0][word] for word in row.words]
    found[2] = 0  # the first piece decides
    assert word_tags(row, found, tag_set, 'NN', every=True) == ['NN', 'NN', 'DT']


def test_mistakes_are_named():
    tag_set, row = TagSet.of([('', ['B-X'])], SCHEMES['IOB2']), alone(['in', 'Rome'])
    with pytest.raises(UserError, match='f:9: 2 words and 1 tags; give one tag a word'):
        labels(row, ['O'], tag_set, where='f:9')
    with pytest.raises(UserError, match="f:9: word 2: tag 'B-Y' is not among the 3 of training; did you mean 'B-X'"):
        labels(row, ['O', 'B-Y'], tag_set, where='f:9')
    with pytest.raises(UserError, match='f:9: word 2: I-X may not follow O in IOB2'):
        labels(row, ['O', 'I-X'], tag_set, where='f:9')
    with pytest.raises(UserError, match='g:2: word 2: text that is not Unicode'):
        WordCutter(WORDPIECE, 9).cut([('g:1', ['a']), ('g:2', ['a', '\ud800'])])
