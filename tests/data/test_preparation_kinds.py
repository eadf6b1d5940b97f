"""Preparation with each kind of tokenizer: where white space is text, what comes out is the text, whatever the settings; else as ever."""

import json

import numpy as np
import pytest

from t5x_lite.data import corpus, sources, tokenizers
from t5x_lite.errors import UserError
from tests.data.preparation_material import contents, paragraphs, prepare, write_text
from tests.fixtures.make_tokenizer_fixtures import FOLDER

KINDS = {'byte_bpe': 300, 'characters': None}
PLAY = '\n\n  First Citizen:\nBefore we proceed, hear me.  Mr. Speak\tspeaks...\n\n\nAll: \n  Speak! 🙂 中国。好 e\u0301\x1c \n\t\n' * 40 + 'end  \n\n'


def texts_of(folder, split: str = 'train') -> list[str]:
    """Each document, decoded."""
    read, tokenizer = corpus.Corpus(str(folder), split), tokenizers.load(str(folder / 'tokenizer'))
    starts = read.sentence_starts[read.document_starts]
    return [tokenizer.decode(read.tokens(int(first), int(last)), False) for first, last in zip(starts[:-1], starts[1:], strict=True)]


def ids_of(folder) -> list[int]:
    read = corpus.Corpus(str(folder), 'train')
    starts = read.sentence_starts[read.document_starts]
    return np.concatenate([read.tokens(int(first), int(last)) for first, last in zip(starts[:-1], starts[1:], strict=True)]).tolist()


@pytest.mark.parametrize('sentences', ['auto', 'line'])
@pytest.mark.parametrize('kind', KINDS)
def test_a_file_comes_out_as_it_is(tmp_path, monkeypatch, kind, sentences):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/a.txt').write_bytes(PLAY.encode())
    settings = dict(documents='file', sentences=sentences, tokenizer=kind, vocab_size=KINDS[kind], validation_fraction=0.0)
    folder, lines = prepare(tmp_path, **settings)
    tokenizer = tokenizers.load(str(folder / 'tokenizer'))
    assert texts_of(folder) == [PLAY]
    assert ids_of(folder) == tokenizer.literal().encode(PLAY)  # sentences are cut where the tokenizer cuts as well
    read = corpus.Corpus(str(folder), 'train')
    assert read.num_sentences > 80 and read.manifest['splits']['train']['characters'] == len(PLAY)
    assert read.manifest['settings']['lowercase'] is False and not any('bert' in line for line in lines)
    if kind == 'characters':
        assert {tokenizer.token(index) for index in range(tokenizer.vocab_size)} == set(PLAY) | {'<unk>', '<|endoftext|>'}
    # In blocks so small that the file is cut many times, and with several processes.
    monkeypatch.setattr(sources, 'BLOCK', 97)
    small, _ = prepare(tmp_path, 'small', **settings)
    assert texts_of(small) == [PLAY]
    monkeypatch.undo()
    assert contents(prepare(tmp_path, 'many', workers=2, **settings)[0]) == contents(folder)


@pytest.mark.parametrize('block', [1 << 18, 60])
def test_line_ends_become_newlines_and_separators_belong_to_no_document(tmp_path, monkeypatch, block):
    monkeypatch.setattr(sources, 'BLOCK', block)
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/a.txt').write_bytes(b'one  two\r\n\r\n' * 20 + b'end\r\n')
    settings = dict(tokenizer='characters', vocab_size=None, validation_fraction=0.0)
    assert texts_of(prepare(tmp_path, 'file', documents='file', **settings)[0]) == ['one  two\n\n' * 20 + 'end\n']
    assert texts_of(prepare(tmp_path, 'paragraph', documents='paragraph', **settings)[0]) == ['one  two'] * 20 + ['end']
    assert texts_of(prepare(tmp_path, 'line', documents='line', **settings)[0]) == ['one  two'] * 20 + ['end']
    (tmp_path / 'in/a.txt').write_bytes(b'\n\n\n  ' + b'one  two\n three ' * 9 + b'\n \n\n\n' + b'b' * 80 + b'\n\n')
    assert texts_of(prepare(tmp_path, 'long', documents='paragraph', **settings)[0]) == [('  ' + 'one  two\n three ' * 9).rstrip(), 'b' * 80]


def test_records_of_jsonl_come_out_as_they_are(tmp_path):
    records = [' a\n\nb ', 'c', '\td  \n', 'no <|endoftext|> in text', '[MASK]']
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/a.jsonl').write_text('\n'.join(json.dumps({'text': text}) for text in [*records, ' \n']))
    for kind, size in KINDS.items():
        folder, _ = prepare(tmp_path, kind, tokenizer=kind, vocab_size=size, validation_fraction=0.0)
        assert texts_of(folder) == records  # a blank one is no document
        tokenizer = tokenizers.load(str(folder / 'tokenizer'))
        assert tokenizer.eos_id not in ids_of(folder)  # raw text cannot forge it


def test_the_tokenizer_learns_from_text_as_it_is(tmp_path):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/a.txt').write_text('if x:\n        y\n\n\n\n' * 50)
    folder, _ = prepare(tmp_path, documents='file', tokenizer='byte_bpe', vocab_size=290, validation_fraction=0.0)
    tokenizer = tokenizers.load(str(folder / 'tokenizer'))
    pieces = {tokenizer.token(index) for index in range(tokenizer.vocab_size)}
    assert {'ĊĠĠĠĠĠĠĠ', 'ĊĊĊ'} <= pieces
    sampled, _ = prepare(tmp_path, 'part', documents='file', tokenizer='byte_bpe', vocab_size=290, validation_fraction=0.0, tokenizer_characters=200)
    assert texts_of(sampled) == texts_of(folder)
    dna = tmp_path / 'dna'
    dna.mkdir()
    (dna / 'a.txt').write_text('ACGT')
    (dna / 'b.txt').write_text('TTA')
    folder, _ = prepare(tmp_path, 'letters', input=(str(dna),), documents='file', tokenizer='characters', vocab_size=None, validation_fraction=0.0)
    assert tokenizers.load(str(folder / 'tokenizer')).vocab_size == 6 and texts_of(folder) == ['ACGT', 'TTA']  # no newline is made up


@pytest.mark.parametrize('name', ['byte_bpe', 'openai', 'sentencepiece', 't5_theirs', 'gpt1'])
def test_a_given_tokenizer_decides_for_itself(tmp_path, name):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/a.txt').write_text('The river.  It ran\n\n\non under the bridge.\n')
    folder, _ = prepare(tmp_path, documents='file', tokenizer=str(FOLDER / name), vocab_size=None, validation_fraction=0.0)
    tokenizer = tokenizers.load(str(FOLDER / name)).literal()
    assert tokenizers.load(str(folder / 'tokenizer')).fingerprint == tokenizers.load(str(FOLDER / name)).fingerprint
    if tokenizer.keeps_whitespace:
        assert texts_of(folder) == ['The river.  It ran\n\n\non under the bridge.\n']
    else:
        sentences = ['The river.', 'It ran', 'on under the bridge.']
        assert ids_of(folder) == [index for sentence in sentences for index in tokenizer.encode(sentence)]


def test_sentencepiece_can_be_trained(tmp_path):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    settings = dict(tokenizer='sentencepiece', vocab_size=200)
    folder, lines = prepare(tmp_path, **settings)
    tokenizer = tokenizers.load(str(folder / 'tokenizer'))
    assert tokenizer.vocab_size <= 200 and len(tokenizer.sentinel_ids) == 100 and 'training a sentencepiece tokenizer of 200 pieces' in ' '.join(lines)
    assert len(texts_of(folder)) == 28 and tokenizer.unk_id not in ids_of(folder)
    assert contents(prepare(tmp_path, 'many', workers=2, **settings)[0]) == contents(folder)


def test_what_cannot_be_is_refused_before_anything_is_read(tmp_path):
    write_text(tmp_path / 'in/a.txt', paragraphs(3))
    for kind in ('byte_bpe', 'sentencepiece', 'characters'):
        with pytest.raises(UserError, match=f'--lowercase is for --tokenizer=wordpiece; a {kind} tokenizer keeps case, leave the flag out'):
            prepare(tmp_path, tokenizer=kind, lowercase=True)
    assert not (tmp_path / 'out').exists()
    folder, _ = prepare(tmp_path, tokenizer='byte_bpe', vocab_size=260, lowercase=False, validation_fraction=0.0)  # said or not, it is the same
    assert contents(prepare(tmp_path, 'unsaid', tokenizer='byte_bpe', vocab_size=260, validation_fraction=0.0)[0]) == contents(folder)
