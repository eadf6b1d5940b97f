"""What comes out of preparation, and which documents are held out."""

import gzip
import hashlib
import json
import random

import numpy as np
import pytest

from t5x_lite.data import corpus, progress, sources, splitting, tokenizers, workers
from t5x_lite.errors import UserError
from tests.data import tiny_dataset
from tests.data.preparation_material import WORDS, contents, documents_of, paragraphs, plain, prepare, sentence, write_text


@pytest.mark.parametrize('format', ['paragraph', 'bert', 'file', 'line', 'jsonl', 'gz'])
def test_documents_and_sentences_come_out_as_they_went_in(tmp_path, monkeypatch, format):
    monkeypatch.setattr(sources, 'BLOCK', 3000)
    given = paragraphs(60)
    settings = {}
    if format == 'bert':  # the original format: a sentence a line, blank lines between documents
        write_text(tmp_path / 'in/a.txt', [[sentence[:-1].replace(' ', '. ', 1) for sentence in document] for document in given], '\n')
        given = [[sentence[:-1].replace(' ', '. ', 1) for sentence in document] for document in given]
        settings = dict(sentences='line')
    elif format == 'file':
        for number, document in enumerate(given):
            write_text(tmp_path / f'in/{number:02d}.txt', [document])
        settings = dict(documents='file')
    elif format == 'line':
        write_text(tmp_path / 'in/a.txt', given)
        settings = dict(documents='line')
    elif format == 'jsonl':
        (tmp_path / 'in').mkdir()
        (tmp_path / 'in/a.jsonl').write_text('\n'.join(json.dumps({'id': 1, 'body': ' '.join(document)}) for document in given))
        settings = dict(field='body')
    else:
        write_text(tmp_path / 'in/a.txt', given)
        if format == 'gz':
            (tmp_path / 'in/a.txt.gz').write_bytes(gzip.compress((tmp_path / 'in/a.txt').read_bytes()))
            (tmp_path / 'in/a.txt').unlink()
    folder, _ = prepare(tmp_path, **settings)
    train, validation = documents_of(folder, 'train'), documents_of(folder, 'validation')
    expected = plain(given)
    assert len(validation) == 3  # 5 % of 60
    assert [document for document in expected if document not in validation] == train
    assert [document for document in expected if document in validation] == validation
    manifest = json.loads((folder / 'manifest.json').read_text())
    assert manifest['dtype'] == 'uint16' and manifest['format'] == 1 and not (folder / 'unfinished').exists()
    assert sum(part['characters'] for part in manifest['splits'].values()) == sum(
        len(sentence) for document in given for sentence in document
    )
    for part in manifest['splits'].values():
        for shard in part['shards']:
            assert hashlib.sha256((folder / f'{shard["name"]}.tokens').read_bytes()).hexdigest() == shard['sha256']


def test_tokens_are_those_of_the_tokenizer_and_counts_are_true(tmp_path):
    given = paragraphs(30)
    given[3].append('[MASK] [SEP]')  # raw text cannot forge special tokens
    write_text(tmp_path / 'in/a.txt', given)
    folder, _ = prepare(tmp_path, validation_fraction=0.0, shard_tokens=200)
    read, tokenizer = corpus.Corpus(str(folder), 'train'), tokenizers.load(str(folder / 'tokenizer'))
    expected = [index for document in given for sentence in document for index in tokenizer.literal().encode(sentence)]
    pieces = [read.tokens(*read.sentence_starts[number : number + 2]) for number in range(read.num_sentences)]
    assert np.concatenate(pieces).tolist() == expected
    assert read.unigram_counts.tolist() == np.bincount(expected, minlength=tokenizer.vocab_size).tolist()
    assert not read.unigram_counts[[tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id]].any()
    assert read.manifest['tokenizer_sha256'] == tokenizer.fingerprint and read.vocab_size == tokenizer.vocab_size
    assert len(read.manifest['splits']['train']['shards']) > 3
    with pytest.raises(UserError, match='no validation part'):
        corpus.Corpus(str(folder), 'validation')


def test_blank_documents_and_sentences_without_tokens_vanish(tmp_path):
    write_text(tmp_path / 'in/a.txt', [['Fine.'], ['\u200b\u00ad'], ['So is this. \u200b\u200b! Yes.'], [' ']])
    folder, _ = prepare(tmp_path, validation_fraction=0.0)
    assert documents_of(folder, 'train') == [['fine.'], ['so is this.', '!', 'yes.']]


def test_a_tokenizer_can_be_taken(tmp_path):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    first, _ = prepare(tmp_path, 'first')
    again, _ = prepare(tmp_path, 'again', tokenizer=str(first / 'tokenizer'), vocab_size=None)
    mine, theirs = (json.loads((folder / 'manifest.json').read_text()) for folder in (first, again))
    assert mine['splits'] == theirs['splits'] and mine['tokenizer_sha256'] == theirs['tokenizer_sha256']
    with pytest.raises(UserError, match=r'--vocab_size=7, but .* has 200 tokens'):
        prepare(tmp_path, 'other', tokenizer=str(first / 'tokenizer'), vocab_size=7)
    with pytest.raises(UserError, match='--lowercase is for training'):
        prepare(tmp_path, 'other', tokenizer=str(first / 'tokenizer'), vocab_size=None, lowercase=True)


def test_case_is_kept_if_asked(tmp_path):
    write_text(tmp_path / 'in/a.txt', [['Élan Vital.'] * 3, ['élan'] * 3])
    assert documents_of(prepare(tmp_path, 'cased', lowercase=False, validation_fraction=0.0)[0], 'train')[0][0] == 'Élan Vital.'
    assert documents_of(prepare(tmp_path, 'plain', validation_fraction=0.0)[0], 'train')[0][0] == 'elan vital.'


def test_large_vocabularies_take_four_bytes(tmp_path):
    pieces = [*tokenizers.SPECIAL_TOKENS.values(), *(f'w{number}' for number in range(70_000))]
    (tmp_path / 'tok').mkdir()
    (tmp_path / 'tok/vocab.txt').write_text(''.join(piece + '\n' for piece in pieces))
    write_text(tmp_path / 'in/a.txt', [['w0 w69999'], ['w65536 w1']])
    folder, _ = prepare(tmp_path, tokenizer=str(tmp_path / 'tok'), vocab_size=None, validation_fraction=0.0)
    read = corpus.Corpus(str(folder), 'train')
    assert read.manifest['dtype'] == 'uint32'
    assert [read.tokens(0, 2).tolist(), read.tokens(2, 4).tolist()] == [[5, 70_004], [65_541, 6]]


def test_the_tokenizer_is_trained_on_a_sample_of_the_whole_input(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 5000)
    lines = [f'line {number} {sentence(random.Random(number))}' for number in range(5000)]
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/a.txt').write_text('\n'.join(lines))
    seen = []

    def train(kind, path, vocab_size, lowercase, output):
        seen.append([int(line.split()[1]) for line in open(path)])
        tokenizers.train_wordpiece(lines, vocab_size).save(output)

    monkeypatch.setattr(workers, 'train', train)
    kept = sum(map(len, lines)) // 20
    folder, _ = prepare(tmp_path, 'a', documents='line', tokenizer_characters=kept)
    assert 150 < len(seen[0]) < 350  # 250 expected
    thirds = np.bincount(np.array(seen[0]) * 3 // 5000, minlength=3)
    assert thirds.min() > 45
    held_out = {document[0].split()[1] for document in documents_of(folder, 'validation')}
    assert not held_out & set(map(str, seen[0]))  # not even the tokenizer has seen what is held out
    prepare(tmp_path, 'b', documents='line', tokenizer_characters=kept, seed=1)
    prepare(tmp_path, 'c', documents='line', tokenizer_characters=10**9)
    assert seen[1] != seen[0] and len(seen[2]) == 4750


def test_summary_and_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 500)
    monkeypatch.setattr(progress, 'EVERY', 0.0)
    write_text(tmp_path / 'in/a.txt', paragraphs(60))
    _, lines = prepare(tmp_path)
    shown = [line for line in lines if line.startswith('encoding')]
    assert len(shown) > 10 and all('MB/s' in line and 'tokens/s' in line and '%' in line for line in shown)
    assert 'left' in shown[5] and 'taken' in shown[-1] and '100.0%' in shown[-1]
    text = '\n'.join(lines)
    for wanted in (
        'documents',
        'sentences',
        'tokens',
        'characters/token',
        'unknown',
        'train ',
        'validation ',
        'python -m t5x_lite.train --config=configs/bert.py',
    ):
        assert wanted in text


def test_held_out_documents_never_overlap_the_others(tmp_path):
    """Not even where the input holds a document twice, in different files and places."""
    given = paragraphs(100)
    write_text(tmp_path / 'in/a.txt', given)
    write_text(tmp_path / 'in/b.txt', given[50:] + paragraphs(20, 5) + given[:50])
    folder, _ = prepare(tmp_path, validation_fraction=0.25)
    train, validation = ({tuple(document) for document in documents_of(folder, split)} for split in ('train', 'validation'))
    assert not train & validation and len(train | validation) == 120
    assert 20 <= len(validation) <= 40
    alone, _ = prepare(tmp_path, 'alone', input=(str(tmp_path / 'in/b.txt'),), validation_fraction=0.25)
    assert {
        tuple(document) for document in documents_of(alone, 'validation')
    } == validation  # by contents: neither files nor their order matter
    other, _ = prepare(tmp_path, 'other', validation_fraction=0.25, seed=1)
    assert {tuple(document) for document in documents_of(other, 'validation')} != validation


@pytest.mark.parametrize('count, fraction, expected', [(2, 0.01, 1), (2, 0.99, 1), (20, 0.05, 1), (200, 0.1, 20), (10, 0.99, 9)])
def test_number_of_held_out_documents(tmp_path, count, fraction, expected):
    write_text(tmp_path / 'in/a.txt', paragraphs(count))
    folder, _ = prepare(tmp_path, validation_fraction=fraction)
    assert corpus.Corpus(str(folder), 'validation').num_documents == expected
    assert corpus.Corpus(str(folder), 'train').num_documents == count - expected


def test_many_documents_are_held_out_about_as_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(splitting, 'EXACT', 10)
    write_text(tmp_path / 'in/a.txt', [[f'{WORDS[number % 300]} {number}'] for number in range(2000)])
    folder, _ = prepare(tmp_path, validation_fraction=0.1)
    assert 150 < corpus.Corpus(str(folder), 'validation').num_documents < 250  # sd 13


def test_named_files_can_be_held_out(tmp_path):
    given, held_out = paragraphs(30), paragraphs(5, 9)
    write_text(tmp_path / 'in/a.txt', given)
    write_text(tmp_path / 'held/v.txt', held_out)
    folder, _ = prepare(tmp_path, validation_input=(str(tmp_path / 'held/*.txt'),))
    assert documents_of(folder, 'train') == plain(given) and documents_of(folder, 'validation') == plain(held_out)
    with pytest.raises(UserError, match='in both --input and --validation_input'):
        prepare(tmp_path, 'other', validation_input=(str(tmp_path / 'in'),))
    with pytest.raises(UserError, match='--validation_input=.*no such file'):
        prepare(tmp_path, 'other', validation_input=(str(tmp_path / 'absent'),))


def test_tfds(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 1000)
    tiny_dataset.build(str(tmp_path / 'tfds'))
    settings = dict(input=('tfds:tiny_text:1.0.0',), tfds_dir=str(tmp_path / 'tfds'), field='body', validation_fraction=0.25)
    folder, _ = prepare(tmp_path, **settings)
    found = documents_of(folder, 'train') + documents_of(folder, 'validation')
    assert corpus.Corpus(str(folder), 'validation').num_documents == 10
    assert sorted(' '.join(document) for document in found) == sorted(text.lower() for text in tiny_dataset.DOCUMENTS)
    assert contents(folder) == contents(prepare(tmp_path, 'many', workers=2, **settings)[0])
    for change, message in (
        (dict(field='text'), "no feature 'text', known: body, number; set it with --field"),
        (dict(field='number'), "feature 'number' holds int, not text"),
        (dict(input=('tfds:no_such_set',)), 'tfds:no_such_set: TFDS cannot provide it .*not found'),
        (dict(input=('tfds:tiny_text:9.9.9',)), r'tfds:tiny_text:9\.9\.9: TFDS cannot provide it'),
    ):
        with pytest.raises(UserError, match=message):
            prepare(tmp_path, 'other', **settings | change)
