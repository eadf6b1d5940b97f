"""Reading: blocks lose nothing and stay small, documents are the same wherever blocks end, broken input is named by its line."""

import gzip
import json
import os
import random

import pytest

from t5x_lite.data import sources
from t5x_lite.errors import UserError


def read(paths, documents='file', kind=None, field='text', lines=False):
    """The documents as lists of words, parts of long ones joined again, and the problems."""
    reader = sources.Reader(sources.find([str(path) for path in paths]), documents, lines, seed=0)
    found, problems, long = [], [], []
    for block in reader.blocks():
        texts = []
        for item in sources.documents(block, documents, field):
            (problems if isinstance(item, sources.Problem) else texts).append(item)
        if block.part:
            assert len(texts) <= 1
            long += texts
            if block.last:
                found.append(' '.join(long))
                long = []
        else:
            assert not long
            found += texts
    assert not long
    return [text.split() for text in found if text.strip()], problems + reader.problems


PARTS = ['word', 'Word', 'é', '中', '.', '. ', '! ', ' ', '  ', '\n', '\n', '\n\n', '\n \n', '\t', 'x' * 40, 'End of it. ', '?"\n']


@pytest.mark.parametrize('lines', [False, True])
@pytest.mark.parametrize('documents', sources.DOCUMENTS)
def test_documents_do_not_depend_on_where_blocks_end(tmp_path, monkeypatch, documents, lines):
    """Against splitting the whole text at once; blocks so small that words are cut, which is the only difference allowed."""
    source = random.Random(0)
    separators = {'file': None, 'paragraph': '\n\n', 'line': '\n'}
    for number in range(150):
        texts = [''.join(source.choice(PARTS) for _ in range(source.randrange(120))) for _ in range(3)]
        paths = [tmp_path / f'{name}.txt' for name in range(3)]
        for path, text in zip(paths, texts, strict=True):
            path.write_bytes(text.encode())
        monkeypatch.setattr(sources, 'BLOCK', source.choice([8, 32, 100, 1000, 10_000]))
        found, problems = read(paths, documents, lines=lines)
        expected = []
        for text in texts:
            blank_lines = '\n'.join(line.strip() for line in text.split('\n'))
            expected += [text] if documents == 'file' else blank_lines.split(separators[documents])
        assert not problems
        assert [''.join(document) for document in found] == [''.join(text.split()) for text in expected if text.strip()], (number, texts)


@pytest.mark.parametrize('documents', sources.DOCUMENTS)
def test_blocks_stay_small_whatever_the_text(tmp_path, monkeypatch, documents):
    monkeypatch.setattr(sources, 'BLOCK', 1000)
    texts = ['x' * 50_000, 'word ' * 10_000, 'é中' * 10_000, 'A line.\n' * 5000, '\n' * 30_000, 'A paragraph.\n\n' * 3000, ' ' * 20_000]
    path = tmp_path / 'text.txt'
    for text in texts:
        path.write_bytes(text.encode())
        reader = sources.Reader(sources.find([str(path)]), documents, False, 0)
        blocks = list(reader.blocks())
        assert max(sum(len(piece.data) for piece in block.pieces) for block in blocks) <= 1000
        assert b''.join(piece.data for block in blocks for piece in block.pieces).decode() == text
        for block in blocks:
            assert not any(isinstance(item, sources.Problem) for item in sources.documents(block, documents, 'text'))


def test_words_are_kept_whole_where_there_is_white_space(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 64)
    path = tmp_path / 'text.txt'
    words = [f'word{number}' for number in range(500)]
    path.write_text(' '.join(words))
    assert read([path])[0] == [words]


def test_one_block_for_many_small_files_and_none_that_grows_without_end(tmp_path, monkeypatch):
    for number in range(100):
        (tmp_path / f'{number:03d}').write_text('' if number % 3 else f'file {number}')
    reader = sources.Reader(sources.find([str(tmp_path)]), 'file', False, 0)
    assert len(list(reader.blocks())) == 1 and reader.checksum
    monkeypatch.setattr(sources, '_MOST_PIECES', 10)
    assert len(read([tmp_path])[0]) == 34


@pytest.mark.parametrize('newline', ['\n', '\r\n', '\r'])
def test_newlines_and_byte_order_marks(tmp_path, newline):
    path = tmp_path / 'text.txt'
    path.write_bytes(b'\xef\xbb\xbf' + newline.join(['One', 'two', '', 'three', '']).encode())
    assert read([path], 'paragraph')[0] == [['One', 'two'], ['three']]
    assert read([path], 'line')[0] == [['One'], ['two'], ['three']]


def test_json_lines(tmp_path):
    records = [{'text': 'a b\n\nc', 'n': 1}, {'text': ' \n'}, {'body': 'x', 'text': 'é'}]
    lines = '\n'.join(json.dumps(record) for record in records) + '\n\n'
    (tmp_path / 'a.jsonl').write_text(lines)
    with gzip.open(tmp_path / 'b.jsonl.gz', 'wt') as file:
        file.write(lines)
    assert read([tmp_path]) == ([['a', 'b', 'c'], ['é']] * 2, [])


def test_folders_patterns_and_files(tmp_path):
    for name in ('b.txt', 'a.txt', 'sub/c.md', '.hidden', '.git/d.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def names(*items):
        return [os.path.relpath(source.name, tmp_path) for source in sources.find([str(tmp_path / item) for item in items])]

    assert names('') == ['a.txt', 'b.txt', 'sub/c.md']
    assert names('*.txt') == ['a.txt', 'b.txt'] and names('**/*.md') == ['sub/c.md']
    assert names('b.txt', '*.txt') == ['b.txt', 'a.txt']  # each once
    (tmp_path / 'empty').mkdir()
    for item, message in (('*.doc', 'matches none'), ('absent.txt', 'no such file'), ('empty', 'holds no files')):
        with pytest.raises(UserError, match=message) as error:
            names('a.txt', item)
        assert f'--input={tmp_path / item}' in str(error.value)
    with pytest.raises(UserError, match='--input is empty'):
        sources.find([])


BROKEN = [
    ('a.txt', b'fine\nfine\ncaf\xe9\nfine', 3, 'not UTF-8 at byte 4 of the line', 'fine fine fine'),
    ('a.txt', 'fine'.encode('utf-16'), 1, 'UTF-16', ''),
    ('a.jsonl', b'{"text": "fine"}\n{"text": \n{"text": "so"}\n', 2, 'not JSON', 'fine so'),
    ('a.jsonl', b'{"text": "fine"}\n\n["text"]\n', 3, 'not a JSON object but list', 'fine'),
    ('a.jsonl', b'{"txet": "fine"}\n', 1, "no field 'text', did you mean 'txet'", ''),
    ('a.jsonl', b'{"text": 5}\n{"text": null}', 1, "field 'text' holds int", ''),
    ('a.jsonl', b'{"text": "caf\xe9"}\n', 1, 'not UTF-8', ''),
    ('a.jsonl', b'{"text": "\\ud800"}\n', 1, 'not UTF-8', ''),
    ('a.jsonl', b'[' * 100_000, 1, 'not JSON', ''),
    ('a.txt.gz', b'not packed', 1, 'not a gzip file', ''),
]


@pytest.mark.parametrize('name, content, line, message, kept', BROKEN, ids=range(len(BROKEN)))
def test_broken_input_is_named_by_file_and_line(tmp_path, name, content, line, message, kept):
    path = tmp_path / name
    path.write_bytes(content)
    found, problems = read([path])
    assert (problems[0].name, problems[0].line) == (str(path), line)
    assert message in problems[0].what
    assert str(problems[0].error()).startswith(f'{path}:{line}: ') and '--skip_broken' in str(problems[0].error())
    assert ' '.join(word for document in found for word in document) == kept


@pytest.mark.parametrize('documents', ['file', 'line'])
@pytest.mark.parametrize('damage', ['truncated', 'damaged'])
def test_a_gz_file_that_breaks_off_keeps_its_whole_lines(tmp_path, monkeypatch, damage, documents):
    monkeypatch.setattr(sources, 'BLOCK', 5000)
    lines = [f'{random.Random(number).random()} line {number}\n' for number in range(3000)]
    data = gzip.compress(''.join(lines).encode(), mtime=0)
    middle = len(data) // 2
    path = tmp_path / 'a.txt.gz'
    path.write_bytes(data[:middle] if damage == 'truncated' else data[:middle] + bytes(50) + data[middle + 50 :])
    found, problems = read([path], documents)
    assert len(problems) == 1 and damage in problems[0].what
    words = [word for document in found for word in document]
    kept = problems[0].line - 1
    assert 500 < kept < 3000
    if damage == 'truncated':  # damage can pass for text before it is noticed
        assert words == ''.join(lines[:kept]).split()


def test_broken_lines_are_counted_from_the_start_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 200)
    for name, good, bad in (('a.txt', b'a good line\n', b'caf\xe9\n'), ('a.jsonl', b'{"text": "good"}\n', b'{"text"\n')):
        path = tmp_path / name
        for documents in sources.DOCUMENTS:
            path.write_bytes(good * 100 + bad + good * 100 + bad + good)
            assert [problem.line for problem in read([path], documents)[1]] == [101, 202]


def test_endless_json_lines_are_refused_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 100)
    monkeypatch.setattr(sources, 'LONGEST_JSON_LINE', 3000)
    path = tmp_path / 'a.jsonl'
    fine, long = json.dumps({'text': 'fine ' * 400}), json.dumps({'text': 'x' * 50_000})
    path.write_text(f'{fine}\n{long}\n{fine}\n')
    found, problems = read([path])
    assert found == [['fine'] * 400] * 2
    assert [(problem.line, 'a line of more than' in problem.what) for problem in problems] == [(2, True)]


def test_equal_documents_have_equal_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, 'BLOCK', 300)
    text = 'A long document. ' * 200
    for name, content in (('a', text), ('b', 'short'), ('c', text), ('d', text + 'Not the same, but only its beginning is looked at.')):
        (tmp_path / name).write_text(content)
    keys = [block.key for block in sources.Reader(sources.find([str(tmp_path)]), 'file', False, 0).blocks() if block.part == 1]
    assert keys[0] == keys[1] == keys[2]
    other = [block.key for block in sources.Reader(sources.find([str(tmp_path)]), 'file', False, 1).blocks() if block.part == 1]
    assert other[0] != keys[0]
    assert sources.document_key(b' a\n', 0) == sources.document_key(b'a', 0) != sources.document_key(b'b', 0)
