"""Tagged words: files in every form, schemes in and out, where labels lie, and each mistake as one clear line."""

import functools
import json

import numpy as np
import pytest

from t5x_lite.config import Config
from t5x_lite.data import tagged as tagged_module, tokenizers
from t5x_lite.data.showing import decode_example
from t5x_lite.errors import UserError
from tests.data.table_material import VOCAB
from tests.data.tagged_material import COLUMNS, columns, sentences, tagged

DEV = {'validation': 'd.conll', 'split': 'validation'}


@pytest.fixture
def make(tmp_path):
    """make({'t.conll': text}, **fields of config.data) -> TaggedExamples."""
    return functools.partial(tagged, tmp_path)


def names_of(examples, batch, row):
    """The tags of a row's tagged places."""
    return examples.tags.tags(batch['labels'][row][batch['tagged'][row] > 0])


def test_a_sentence_as_features(make):
    examples = make({'t.conll': COLUMNS, 'd.conll': COLUMNS}, **DEV)
    batch = examples.get(np.arange(2), 8)
    tokenizer = tokenizers.load(examples.tokenizer_path)
    shown = [' '.join(tokenizer.token(int(token)) for token in row[:6]) for row in batch['tokens']]
    assert shown == ['[CLS] the man red sings [SEP]', '[CLS] tree [SEP] [PAD] [PAD] [PAD]']
    assert examples.tags.names == ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER')
    np.testing.assert_array_equal(batch['labels'][0], [-1, 0, 3, 4, 0, -1, -1, -1])
    np.testing.assert_array_equal(batch['labels'][1], [-1, 1, -1, -1, -1, -1, -1, -1])
    np.testing.assert_array_equal(batch['words'][0], [-1, 0, 1, 2, 3, -1, -1, -1])
    np.testing.assert_array_equal(batch['tagged'], batch['labels'] >= 0)
    np.testing.assert_array_equal(batch['word_tags'], [[0, 3, 4, 0], [1, -1, -1, -1]])
    assert 'word_tags' not in make({'t.conll': COLUMNS, 'd.conll': COLUMNS}, validation='d.conll').get(np.arange(2), 8)
    assert decode_example(batch, 0, tokenizer, examples.tags.names).splitlines()[-1] == 'tags: the/O man/B-PER red/I-PER sings/O'


@pytest.mark.parametrize('text', [
    '-DOCSTART- -X- O\n\n' + COLUMNS,
    COLUMNS.replace(' ', '\t').replace('the', '# sent_id = 1\nthe', 1),
    COLUMNS.replace('\n', '\r\n'),
    '\n\n' + COLUMNS.rstrip('\n'),
])  # fmt: skip
def test_the_same_sentences_in_other_files(make, text):
    one, other = (make({'t.conll': content, 'd.conll': content}, **DEV) for content in (COLUMNS, text))
    assert one.fingerprint == other.fingerprint and len(other) == 2


def test_jsonl_and_columns_agree(make):
    rows = [(['the', 'man'], ['O', 'B-PER']), (['tree'], ['B-LOC'])]
    text = ''.join(json.dumps({'tokens': words, 'ner_tags': tags}) + '\n' for words, tags in rows)
    one = make({'t.jsonl': text, 'd.jsonl': text}, validation='d.jsonl', split='validation')
    other = make({'t.conll': columns(rows), 'd.conll': columns(rows)}, **DEV)
    assert one.fingerprint == other.fingerprint
    assert one.resolved['data.text_columns'] == ('tokens',) and other.resolved['data.text_columns'] == ('0',)


def test_schemes_in_and_out(make):
    """'man' and 'woman' side by side are two persons in IOB1 as in what it becomes."""
    text = 'man I-PER\nwoman B-PER\nred I-PER\na O\n\n'
    for out, wanted in (
        ('', ['B-PER', 'B-PER', 'I-PER', 'O']), ('BIOES', ['S-PER', 'B-PER', 'E-PER', 'O']), ('IOE1', ['E-PER', 'I-PER', 'I-PER', 'O']),
    ):  # fmt: skip
        examples = make({'t.conll': text, 'd.conll': text}, tag_scheme_out=out, **DEV)
        assert names_of(examples, examples.get([0]), 0) == wanted
        assert examples.resolved['data.tag_scheme'] == 'IOB1' and examples.resolved['data.tag_scheme_out'] == (out or 'IOB2')
        assert 'tags in IOB1 (guessed)' in examples.describe()


def test_parts_of_speech_are_names(make):
    examples = make({'t.conll': 'the DT\nman NN\nsings VBZ\n\n', 'd.conll': 'a DT\n\n'}, **DEV)
    assert examples.tags.names == ('DT', 'NN', 'VBZ') and examples.tags.scheme is None
    assert examples.resolved['data.tag_scheme_out'] == 'none' and '3 tags (guessed): DT, NN, VBZ' in examples.describe()
    assert examples.get([0])['word_tags'].shape == (1, 2), 'at least two columns'


def test_every_piece_or_the_first(make, tmp_path):
    (tmp_path / 'pieces').mkdir()
    (tmp_path / 'pieces' / 'vocab.txt').write_text('\n'.join([*VOCAB, '##s']) + '\n')
    text = 'cats B-PER\ndog I-PER\nhouses O\n\n'
    for every, wanted in ((False, [-1, 1, -1, 2, 0, -1, -1, -1]), (True, [-1, 1, 2, 2, 0, 0, -1, -1])):
        examples = make({'t.conll': text, 'd.conll': text}, every_piece=every, tokenizer=str(tmp_path / 'pieces'), **DEV)
        np.testing.assert_array_equal(examples.get([0], 8)['labels'][0], wanted)


def test_what_a_run_has_resolved_needs_no_training_file(make):
    known = make({'t.conll': COLUMNS})
    resolved = {name.removeprefix('data.'): value for name, value in known.resolved.items() if name.startswith('data.')}
    again = make({'d.conll': 'a Y O\nred Y B-LOC\n\n'}, train='', validation='d.conll', split='validation', **resolved)
    assert again.tags.names == known.tags.names
    names = Config()
    for name, value in resolved.items():
        setattr(names.data, name, value)
    assert tagged_module.tag_set(names) == known.tags


def test_parts_of_a_file_are_apart_and_every_epoch_has_its_order(make):
    rows = {'t.conll': columns(sentences(50))}
    train, held_out = make(rows), make(rows, split='validation')
    assert (len(train), len(held_out)) == (45, 5)
    places = [{sentence.where for sentence in part.sentences} for part in (train, held_out)]
    assert not places[0] & places[1] and len(places[0] | places[1]) == 50
    epochs = [train.get(np.arange(45) + 45 * epoch, 16)['tokens'] for epoch in (0, 1)]
    assert (epochs[0] != epochs[1]).any()
    assert sorted(map(bytes, epochs[0])) == sorted(map(bytes, epochs[1])), 'all of them, in another order'
    assert len(make(rows, max_examples=7)) == 7


def test_words_that_find_no_room_are_counted(make):
    text = columns([(['the'] * 30, ['O'] * 29 + ['B-PER']), (['man'], ['B-PER'])])
    examples = make({'t.conll': text, 'd.conll': text}, seq_len=8, **DEV)
    assert '1 of 2 cut at 8, 24 words lost' in examples.describe()
    assert (examples.get([0])['word_tags'][0] >= 0).sum() == 30


BAD = {
    'no file': ({'t.conll': COLUMNS}, {'train': 'absent'}, r'absent: no such file'),
    'no train': ({'t.conll': COLUMNS}, {'train': ''}, r'--config\.data\.train is empty'),
    'no sentences': ({'t.conll': '\n\n'}, {}, r't\.conll: no sentences'),
    'one column': ({'t.conll': 'the\nman\n'}, {}, r"t\.conll:1: one column, 'the'; expected a word and its tag"),
    'a word without a tag': ({'t.conll': COLUMNS + 'man X\n'}, {}, r't\.conll:8: 2 columns, and 3 in line 1; give every word its tag'),
    'an empty tag': ({'t.conll': 'a\tO\nb\t \n'}, {}, r't\.conll:2: the tag is empty'),
    'no such column': ({'t.conll': COLUMNS}, {'label_column': '3'}, r"t\.conll:1: no column '3' \(--config\.data\.label_column\); there are 3"),
    'the words as tags': ({'t.conll': COLUMNS}, {'label_column': '0'}, r'label_column=0 is the column of the words'),
    'an illegal tag': ({'t.conll': COLUMNS + 'man Y I-PER\n'}, {'tag_scheme': 'IOB2'}, r't\.conll:8: word 1: I-PER may not begin a sentence in IOB2'),
    'a broken tag': ({'t.conll': COLUMNS + 'man Y PER\n'}, {}, r"t\.conll:8: tag 'PER' is not O or one of"),
    'no scheme': ({'t.conll': COLUMNS}, {'tag_scheme': 'IBO2'}, r"--config\.data\.tag_scheme is 'IBO2'; did you mean 'I"),
    'no scheme out': ({'t.conll': COLUMNS}, {'tag_scheme_out': 'BIEOS'}, r"--config\.data\.tag_scheme_out is 'BIEOS'; did you mean 'BIOES'"),
    'a scheme for names': ({'t.conll': 'a DT\nb NN\n'}, {'tag_scheme_out': 'IOB2'}, r'tag_scheme_out=IOB2 marks entities, and the tags are plain names'),
    'a type unseen in training': (
        {'t.conll': COLUMNS, 'd.conll': 'man Y B-ORG\n'}, {'validation': 'd.conll'}, r"d\.conll:1: word 1: tag 'B-ORG' is not among the 5 of training; did you"
    ),
    'two side by side in IO': (
        {'t.conll': COLUMNS + 'man X B-PER\nman X B-PER\n'}, {'tag_scheme_out': 'IO'}, r't\.conll:8: IO cannot tell two entities PER side by side \(word 2\)'
    ),
    'one tag': ({'t.conll': 'a O\nb O\n'}, {'tag_scheme': 'none'}, r"every word has the tag 'O'"),
    'too few': ({'t.conll': 'a O\nb B-PER\n'}, {}, r'1 sentences are too few'),
    'not one tag a word': ({'t.jsonl': '{"words": ["a", "b"], "tags": ["O"]}\n'}, {}, r't\.jsonl:1: 2 words and 1 tags; give one tag a word'),
    'not JSON': ({'t.jsonl': '{"words": \n'}, {}, r't\.jsonl:1: not JSON'),
    'no words': ({'t.jsonl': '{"text": "a b", "tags": ["O"]}\n'}, {}, r"t\.jsonl:1: no field 'words' \(--config\.data\.text_columns\)"),
    'no list': ({'t.jsonl': '{"words": "a b", "tags": ["O"]}\n'}, {}, r"t\.jsonl:1: 'words' is not a list of texts"),
    'too many asked for': ({'t.conll': COLUMNS * 5}, {'max_examples': 100}, r'max_examples=100, and .* has 9 training rows'),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_one_clear_line(make, tmp_path, case):
    files, fields, message = BAD[case]
    with pytest.raises(UserError, match=message) as caught:
        make(files, **fields)
    assert '\n' not in str(caught.value) and len(str(caught.value)) < 400 + len(str(tmp_path))
