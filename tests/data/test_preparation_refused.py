"""What preparation refuses, in one line: settings, input without text, broken input."""

import gzip
import json

import pytest

from t5x_lite.data import preparation, workers
from t5x_lite.errors import UserError
from tests.data.preparation_material import documents_of, paragraphs, plain, prepare, write_text


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
