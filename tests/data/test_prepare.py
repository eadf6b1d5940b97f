"""Preparation as a whole: what comes out, that it depends on input and settings alone, that it can be interrupted, and what it refuses."""

import dataclasses
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from t5x_lite.data import corpus, preparation, progress, shards, sources, tokenizers, workers
from t5x_lite.errors import UserError
from tests.data import tiny_dataset

ROOT = Path(__file__).resolve().parents[2]
WORDS = [''.join(random.Random(number).choices('abcdefgh', k=2 + number % 6)) for number in range(300)]


def sentence(source: random.Random) -> str:
    return ' '.join(source.choices(WORDS, k=source.randrange(3, 12))).capitalize() + '.'


def paragraphs(count: int, seed: int = 0) -> list[list[str]]:
    source = random.Random(seed)
    return [[sentence(source) for _ in range(source.randrange(1, 6))] for _ in range(count)]


def write_text(path: Path, documents: list[list[str]], separator: str = ' ') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n\n'.join(separator.join(document) for document in documents) + '\n')


def prepare(tmp_path: Path, output: str = 'out', **settings):
    """(corpus folder, lines printed). One process, unless told otherwise."""
    lines = []
    defaults = dict(input=(str(tmp_path / 'in'),), output=str(tmp_path / output), documents='paragraph', vocab_size=200, workers=1)
    preparation.prepare(preparation.Settings(**defaults | settings), log=lines.append)
    return tmp_path / output, lines


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob('*')) if path.is_file()
    }


def documents_of(folder: Path, split: str) -> list[list[str]]:
    """Decoded sentences of each document."""
    read, tokenizer = corpus.Corpus(str(folder), split), tokenizers.load(str(folder / 'tokenizer'))
    return [
        [
            tokenizer.decode(read.tokens(*read.sentence_starts[number : number + 2]))
            for number in range(*read.document_starts[document : document + 2])
        ]
        for document in range(read.num_documents)
    ]


def plain(documents: list[list[str]]) -> list[list[str]]:
    return [[sentence.lower() for sentence in document] for document in documents]


# --- What comes out.


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


# --- The same whatever happens.


def mixed_input(tmp_path: Path) -> dict:
    """All kinds of sources, documents over several blocks among them."""
    write_text(tmp_path / 'in/a.txt', paragraphs(80, 1))
    write_text(
        tmp_path / 'in/b.txt',
        [[sentence(random.Random(number)) for number in range(150)], *paragraphs(40, 2), [' '.join(WORDS * 20)], ['End.']],
    )
    (tmp_path / 'in/c.txt.gz').write_bytes(gzip.compress('\n\n'.join(map(' '.join, paragraphs(80, 3))).encode()))
    (tmp_path / 'in/d.jsonl').write_text('\n'.join(json.dumps({'text': ' '.join(document)}) for document in paragraphs(80, 4)))
    return dict(shard_tokens=1500, validation_fraction=0.2)


def test_the_number_of_processes_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 2000)
    settings = mixed_input(tmp_path)
    one, _ = prepare(tmp_path, 'one', **settings)
    many, _ = prepare(tmp_path, 'many', workers=3, **settings)
    assert contents(one) == contents(many)
    assert len(list(one.glob('train-*.tokens'))) > 5 and len(list(one.glob('validation-*.tokens'))) > 1


class Stop(Exception):
    pass


def test_interrupted_anywhere_it_ends_with_the_same_bytes(tmp_path, monkeypatch):
    """Stopped before and after each shard is finished, and between the other steps; gone on with, and stopped again, until it is done."""
    monkeypatch.setattr(sources, 'BLOCK', 2000)
    settings = mixed_input(tmp_path)
    expected = contents(prepare(tmp_path, 'whole', **settings)[0])
    steps = []

    def stops(original, before):
        def step(*args, **kwargs):
            if before:
                maybe_stop()
            result = original(*args, **kwargs)
            if not before:
                maybe_stop()
            return result

        return step

    def maybe_stop():
        steps.append(None)
        if len(steps) == limit:
            raise Stop

    for owner, name in (
        (shards.ShardWriter, '_commit'), (shards.ShardWriter, '_end_documents'), (shards, 'write_index'), (shards, 'write_json'),
        (workers, 'train'), (shards, 'count_tokens'), (shards, 'sync_folder'), (shards.ShardWriter, 'finish'),
    ):  # fmt: skip
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, stops(stops(original, True), False))
    limit = 10**9
    prepare(tmp_path, 'counted', **settings)
    total = len(steps)
    assert total > 100
    stopped = 0
    for number, first in enumerate(range(1, total + 1, 17)):
        output = f'stopped{number}'
        for limit in (first, 11, 10**9):
            steps.clear()
            try:
                prepare(tmp_path, output, **settings)
            except Stop:
                stopped += 1
                assert not (tmp_path / output / 'manifest.json').exists() or limit == len(steps)
        assert contents(tmp_path / output) == expected, (first, number)
    assert stopped > 10


def test_a_finished_one_says_so_and_does_nothing(tmp_path, monkeypatch):
    settings = mixed_input(tmp_path)
    folder, _ = prepare(tmp_path, **settings)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    monkeypatch.setattr(workers, 'encode', None)
    _, lines = prepare(tmp_path, workers=2, **settings)
    assert lines == [f'{folder} is prepared already; nothing to do']
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == times


def test_going_on_does_not_encode_finished_shards_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 2000)
    write_text(tmp_path / 'in/a.txt', paragraphs(200))
    settings = dict(shard_tokens=1000, validation_fraction=0.0)
    expected = contents(prepare(tmp_path, 'whole', **settings)[0])
    original = shards.ShardWriter._commit

    def commit(writer, end):
        original(writer, end)
        if len(writer.records) == 4:
            raise Stop

    monkeypatch.setattr(shards.ShardWriter, '_commit', commit)
    with pytest.raises(Stop):
        prepare(tmp_path, **settings)
    monkeypatch.setattr(shards.ShardWriter, '_commit', original)
    blocks, encode = [], workers.encode

    def counted(job, block):
        blocks.append(block.index)
        return encode(job, block)

    monkeypatch.setattr(workers, 'encode', counted)
    folder, lines = prepare(tmp_path, **settings)
    assert contents(folder) == expected and '4 finished shard(s) found' in lines
    assert 0 < blocks[0] and blocks == list(range(blocks[0], blocks[-1] + 1))


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            pass
    return found + [below for child in found for below in children(child)]


def command(**settings) -> list[str]:
    return [sys.executable, '-m', 't5x_lite.prepare', *(f'--{name}={value}' for name, value in settings.items())]


@pytest.mark.skipif(not os.path.exists('/proc/self/task'), reason='needs /proc')
def test_killed_between_shards_it_goes_on_and_leaves_no_process_behind(tmp_path):
    """SIGKILL to the real command as soon as it has finished a shard or two."""
    write_text(tmp_path / 'in/a.txt', paragraphs(8000))
    settings = dict(input=tmp_path / 'in', documents='paragraph', vocab_size=200, shard_tokens=5000, workers=2)
    running = subprocess.Popen(
        command(output=tmp_path / 'killed', **settings), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    record = tmp_path / 'killed/unfinished/train-00001.json'
    while not record.exists() and running.poll() is None:
        time.sleep(0.002)
    workers_left = children(running.pid)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and len(workers_left) >= 2
    assert record.exists() and not (tmp_path / 'killed/manifest.json').exists()
    with pytest.raises(UserError, match='its preparation was interrupted'):
        corpus.Corpus(str(tmp_path / 'killed'), 'train')
    done = subprocess.run(command(output=tmp_path / 'killed', **settings), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and 'going on where the last run stopped' in done.stdout and 'finished shard(s) found' in done.stdout, (
        done.stderr
    )
    prepare(tmp_path, 'whole', shard_tokens=5000)
    assert contents(tmp_path / 'killed') == contents(tmp_path / 'whole')
    for _ in range(1000):
        if not any(os.path.exists(f'/proc/{pid}') for pid in workers_left):
            break
        time.sleep(0.01)
    assert not any(os.path.exists(f'/proc/{pid}') for pid in workers_left)


def test_other_settings_and_other_input_are_refused(tmp_path):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    folder, _ = prepare(tmp_path)
    before = contents(folder)
    with pytest.raises(
        UserError, match=r'other settings: vocab_size \(200 there, 100 here\), seed \(0 there, 3 here\); name another --output'
    ):
        prepare(tmp_path, seed=3, vocab_size=100)
    os.utime(tmp_path / 'in/a.txt')
    assert 'contents' in prepare(tmp_path)[1][0]  # touched, but the same
    text = (tmp_path / 'in/a.txt').read_text()
    (tmp_path / 'in/a.txt').write_text(text.replace('a', 'b', 1))
    with pytest.raises(UserError, match='made from other files'):
        prepare(tmp_path)
    (tmp_path / 'in/a.txt').write_text(text)
    (tmp_path / 'in/b.txt').write_text('more')
    with pytest.raises(UserError, match='made from other files'):
        prepare(tmp_path)
    assert contents(folder) == before


def test_a_run_that_came_to_nothing_binds_nobody(tmp_path):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    with pytest.raises(UserError, match='--vocab_size=12 is too small'):
        prepare(tmp_path, vocab_size=12)
    assert contents(prepare(tmp_path)[0]) == contents(prepare(tmp_path, 'other')[0])


def test_two_runs_do_not_write_one_folder(tmp_path, monkeypatch):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    original = workers.train

    def train(*args):
        with pytest.raises(UserError, match='another run is writing there'):
            prepare(tmp_path)
        original(*args)

    monkeypatch.setattr(workers, 'train', train)
    prepare(tmp_path)


def test_a_changed_tokenizer_or_foreign_folder_is_refused(tmp_path):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    taken = prepare(tmp_path, 'first')[0] / 'tokenizer'
    settings = dict(tokenizer=str(taken), vocab_size=None)
    prepare(tmp_path, 'second', **settings)
    tokenizers.train_wordpiece(['other text'] * 3, 200).save(str(taken))
    with pytest.raises(UserError, match='made with another tokenizer'):
        prepare(tmp_path, 'second', **settings)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/thesis.txt').write_text('do not touch')
    with pytest.raises(UserError, match='not empty, and not a prepared corpus'):
        prepare(tmp_path, 'mine')
    assert contents(tmp_path / 'mine').keys() == {'thesis.txt'}


# --- Held-out documents.


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
    monkeypatch.setattr(preparation, '_EXACT', 10)
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


# --- What is refused.


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(input=()), '--input is empty'),
        (dict(input=('/absent/*.txt',)), r'--input=/absent/\*\.txt: no such file, and as a pattern it matches none'),
        (dict(output=''), '--output is empty'),
        (dict(tokenizer='wordpeice'), r"--tokenizer=wordpeice: no such kind or folder, did you mean 'wordpiece'\?"),
        (dict(tokenizer='/'), 'no tokenizer in this folder'),
        (dict(vocab_size=12), '--vocab_size=12 is too small: the text has'),
        (dict(vocab_size=0), '--vocab_size=0: it must be at least 1'),
        (dict(documents='paragraphs'), "--documents=paragraphs: did you mean 'paragraph'"),
        (dict(sentences='lines'), "--sentences=lines: did you mean 'line'"),
        (dict(validation_fraction=1.0), 'at least 0 and below 1'),
        (dict(shard_tokens=0), '--shard_tokens=0'),
        (dict(workers=-1), '--workers=-1'),
        (dict(documents='file'), 'only one document in the input.*--documents=paragraph.*--validation_input'),
    ],
)
def test_wrong_settings(tmp_path, settings, message):
    write_text(tmp_path / 'in/a.txt', paragraphs(10))
    settings = {'output': str(tmp_path / 'out')} | settings
    with pytest.raises(UserError, match=message):
        preparation.prepare(
            preparation.Settings(**dict(input=(str(tmp_path / 'in'),), documents='paragraph', vocab_size=200, workers=1) | settings),
            log=str,
        )
    assert not (tmp_path / 'out/manifest.json').exists()


@pytest.mark.parametrize('content', ['', ' \n\n\t\n'])
def test_empty_input(tmp_path, content):
    write_text(tmp_path / 'in/a.txt', [[content]])
    with pytest.raises(UserError, match=r'--input=.*: there is no text in 1 file\(s\)'):
        prepare(tmp_path)


def test_input_of_one_document_repeated(tmp_path):
    write_text(tmp_path / 'in/a.txt', [['The same.']] * 5)
    with pytest.raises(UserError, match='only documents that are all the same'):
        prepare(tmp_path)


def test_text_without_tokens(tmp_path):
    write_text(tmp_path / 'in/a.txt', [['\u200b'], ['\u00ad\u00ad'], ['Fine.']])
    write_text(tmp_path / 'held/a.txt', [['\u200b']])
    with pytest.raises(UserError, match='no tokens came out for the validation part'):
        prepare(tmp_path, validation_input=(str(tmp_path / 'held'),))


@pytest.mark.parametrize('processes', [1, 2])
def test_broken_input_stops_it_before_anything_is_encoded_or_is_left_out_if_asked(tmp_path, processes):
    given = paragraphs(20)
    write_text(tmp_path / 'in/a.txt', given)
    (tmp_path / 'in/b.txt').write_bytes(b'Fine.\n\ncaf\xe9\n\nAlso fine.\n')
    (tmp_path / 'in/c.jsonl').write_text('{"text": "Good one."}\n{"txt": 1}\n')
    packed = gzip.compress(('Packed.\n\n' + ' '.join(map(str, range(1000)))).encode())
    (tmp_path / 'in/d.txt.gz').write_bytes(packed[: len(packed) // 2])
    settings = dict(validation_fraction=0.0, workers=processes, vocab_size=300)
    with pytest.raises(
        UserError, match=r'in/b\.txt:3: not UTF-8 at byte 4 of the line; mend it, or leave such lines out with --skip_broken'
    ):
        prepare(tmp_path, **settings)
    folder, lines = prepare(tmp_path, skip_broken=True, **settings)  # the refusal has left nothing in the way
    assert documents_of(folder, 'train') == plain(given) + [['fine.'], ['also fine.'], ['good one.'], ['packed.']]
    text = '\n'.join(lines)
    for place in ('b.txt:3: not UTF-8', 'c.jsonl:2: no field', 'd.txt.gz:3: the gz file is truncated', '3 broken places'):
        assert place in text
    assert json.loads((folder / 'manifest.json').read_text())['broken'] == 3


def test_input_that_changes_while_it_is_read_is_noticed(tmp_path, monkeypatch):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    original = workers.train

    def train(*args):
        original(*args)
        write_text(tmp_path / 'in/a.txt', paragraphs(30, 1))

    monkeypatch.setattr(workers, 'train', train)
    with pytest.raises(UserError, match='changed while it was read'):
        prepare(tmp_path)


def test_a_full_disk_is_said_and_finished_shards_survive(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 2000)
    settings = mixed_input(tmp_path)
    expected = contents(prepare(tmp_path, 'whole', **settings)[0])
    original, calls = shards.ShardWriter._append, []

    def append(writer, *args):
        calls.append(None)
        if len(calls) == 40:
            raise OSError(28, os.strerror(28))
        original(writer, *args)

    monkeypatch.setattr(shards.ShardWriter, '_append', append)
    with pytest.raises(UserError, match='No space left on device; finished shards are kept'):
        prepare(tmp_path, **settings)
    assert contents(prepare(tmp_path, **settings)[0]) == expected


# --- The command, processes and memory.


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    for flags, message in (
        (dict(input=tmp_path / 'absent', output=tmp_path / 'out'), 'no such file'),
        (dict(input=tmp_path, output=tmp_path / 'out', vocab_sizes=3), 'vocab_size'),
        (dict(input=tmp_path, output=tmp_path / 'out', vocab_size='many'), 'vocab_size'),
    ):
        done = subprocess.run(command(**flags), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0 and message in done.stderr and 'Traceback' not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_flags_and_settings_are_the_same():
    from t5x_lite import prepare as module

    assert {flag.name for flag in module._FLAGS} == {field.name for field in dataclasses.fields(preparation.Settings)}


def test_worker_processes_stay_light():
    heavy = '{"jax", "flax", "tensorflow", "tensorflow_datasets"}'
    check = f'import sys, t5x_lite.prepare, t5x_lite.data.workers; sys.exit(", ".join({heavy} & set(sys.modules)) or 0)'
    done = subprocess.run([sys.executable, '-c', check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('processes', [1, 2])
def test_few_blocks_are_in_flight_however_slow_the_reader_of_results(processes):
    taken = []

    def blocks():
        for number in range(100):
            taken.append(number)
            yield number

    with workers.Pool(processes) as pool:
        for done, result in enumerate(pool.in_order(divmod, 1000, map(lambda number: number + 1, blocks()))):
            assert result == divmod(1000, done + 1)
            assert len(taken) - done <= workers.IN_FLIGHT * processes
    assert len(taken) == 100


def test_a_dead_worker_is_reported(tmp_path, monkeypatch):
    write_text(tmp_path / 'in/a.txt', paragraphs(30))
    monkeypatch.setattr(workers, 'scan', os.abort)
    monkeypatch.setattr(workers, '_begin', _die)
    with pytest.raises(UserError, match='a worker process died'):
        prepare(tmp_path, workers=2)


def _die(threads):
    os._exit(9)


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


MEGABYTES = (50, 1000)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/task'), reason='needs /proc')
@pytest.mark.parametrize('documents', ['paragraph', 'file'])
def test_memory_does_not_grow_with_the_input(tmp_path, documents):
    """The whole of the real command, its processes together: the peak at 1 GB is at most 1.1 times that at 50 MB.

    As paragraphs, and as two huge documents. Words never cease to be new, as in real text.
    """
    page, peaks = os.sysconf('SC_PAGE_SIZE'), []
    for megabytes in MEGABYTES:
        folder = tmp_path / f'in{megabytes}'
        folder.mkdir()
        source = np.random.default_rng(0)
        for name in ('a.txt', 'b.txt'):
            with open(folder / name, 'w') as file:
                while file.tell() < megabytes * 500_000:
                    ranks = source.zipf(1.3, 40_000) % 5_000_000
                    words = [
                        WORDS[rank] if rank < 300 else f'{WORDS[rank % 300]}{WORDS[rank // 300 % 300]}{rank // 90_000 or ""}'
                        for rank in ranks
                    ]
                    file.writelines(
                        ' '.join(words[start : start + 20]) + ('.\n\n' if start % 100 == 80 else '. A')
                        for start in range(0, len(words), 20)
                    )
        flags = dict(input=folder, output=tmp_path / f'out{megabytes}', documents=documents, validation_fraction=0.4, workers=2)
        running = subprocess.Popen(command(**flags), cwd=ROOT, stdout=subprocess.DEVNULL)
        peak = 0
        while running.poll() is None:
            total = 0
            for pid in [running.pid, *children(running.pid)]:
                try:
                    total += int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * page
                except OSError:
                    pass
            peak = max(peak, total)
            time.sleep(0.05)
        assert running.returncode == 0
        peaks.append(peak)
    print(f'peak resident memory in MB at {MEGABYTES} MB of text: {[peak // 10**6 for peak in peaks]}')
    assert peaks[1] <= 1.1 * peaks[0], peaks
