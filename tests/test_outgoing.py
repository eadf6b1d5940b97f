"""What commands write to gs://: whole or not at all, through uploads that break; what stands there already is left alone.

(gs:// is a folder here.)
"""

import json
import os
from pathlib import Path
import re
import shutil

import pytest

from t5x_lite import outgoing, remote
from t5x_lite.data import corpus, preparation, tokenizers
from t5x_lite.errors import UserError
from t5x_lite.interop import conversion, folder
from t5x_lite.training import checkpoint
from tests import bucket_stand_ins
from tests.data.preparation_material import contents, paragraphs, write_text
from tests.interop import CLASSIFIER, SINGLE
from tests.interop.test_folder import assert_bitwise, tensors


@pytest.fixture
def sent(monkeypatch):
    """Paths in the order in which they were uploaded. `sent.breaks_at`: the number of the upload that fails."""

    class Sent(list):
        breaks_at = 0

    found, upload = Sent(), remote.upload

    def recorded(source, path):
        found.append(path.partition(bucket_stand_ins.BUCKET + '/')[2])
        if len(found) == found.breaks_at:
            found.breaks_at = 0
            raise UserError(f'{path}: the connection was reset; mend that and repeat the command')
        upload(source, path)

    monkeypatch.setattr(remote, 'upload', recorded)
    return found


def fill(made: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = Path(made, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def files(place: Path) -> dict[str, str]:
    return {str(path.relative_to(place)): path.read_text() for path in sorted(place.rglob('*')) if path.is_file()}


def kept() -> list[str]:
    """What is left on this machine of what was made."""
    return [name for name in os.listdir(remote.cache()) if name.startswith('outgoing-') and not name.endswith('.lock')]


THREE = {'a/array': '1', 'index.json': '2', 'z': '3'}


def test_a_place_of_a_file_system_is_given_as_it_stands(tmp_path):
    for output in ('runs/x', '-', '', str(tmp_path)):
        with outgoing.to(output, 'index.json', new=True) as made:
            assert made == output
    assert not list(tmp_path.iterdir())


def test_the_last_file_is_uploaded_last_and_nothing_else_is_left(bucket, there, sent):
    with outgoing.to(f'{bucket}/out/', 'index.json', new=True) as made:
        assert os.path.basename(made) == 'out' and not os.listdir(made)
        assert files(there / 'out').keys() == {outgoing.MARK}  # others see that something is to come
        fill(made, THREE)
    assert sent == ['out/a/array', 'out/z', 'out/index.json'] and files(there / 'out') == THREE and not kept()
    with outgoing.to(f'{bucket}/answers.jsonl') as made:
        Path(made).write_text('4')
    assert files(there) == {f'out/{name}': text for name, text in THREE.items()} | {'answers.jsonl': '4'} and not kept()


def test_work_that_fails_leaves_nothing(bucket, there):
    with pytest.raises(ZeroDivisionError), outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
        fill(made, THREE)
        raise ZeroDivisionError
    assert not files(there) and not kept()


@pytest.mark.parametrize('number', [1, 2, 3])
def test_an_upload_that_breaks_is_no_result_and_the_next_one_replaces_it(bucket, there, sent, number):
    sent.breaks_at = number
    with pytest.raises(UserError, match=f'^--output={bucket}/out: the upload failed .*the connection was reset.*; it is whole in ') as caught:
        with outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
            fill(made, THREE)
    assert 'index.json' not in files(there / 'out') and outgoing.MARK in files(there / 'out')
    assert files(Path(re.search('whole in (.*?):', str(caught.value))[1])) == THREE
    with outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
        fill(made, {'a/other': '5', 'index.json': '6'})
    assert files(there / 'out') == {'a/other': '5', 'index.json': '6'} and not kept()


def test_what_others_put_beside_a_broken_upload_is_not_replaced(bucket, there, sent):
    sent.breaks_at = 3
    with pytest.raises(UserError, match='the upload failed'), outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
        fill(made, THREE)
    (there / 'out' / 'mine').write_text('of a person')
    with pytest.raises(UserError, match=f'^--output={bucket}/out: exists and is not empty'), outgoing.to(f'{bucket}/out', 'index.json', new=True):
        pytest.fail('begun')
    assert files(there / 'out')['mine'] == 'of a person'


def test_a_result_is_none_while_a_repeated_upload_changes_it(bucket, there, sent, monkeypatch):
    """The upload was whole but for its mark, and the next one breaks."""
    with monkeypatch.context() as patched:
        patched.setattr(remote, 'remove', lambda path: (_ for _ in ()).throw(UserError('refused')))
        with pytest.raises(UserError, match='the upload failed'), outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
            fill(made, THREE)
    assert files(there / 'out').keys() == {*THREE, outgoing.MARK}
    sent.breaks_at = len(sent) + 2
    with pytest.raises(UserError, match='the upload failed'), outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
        fill(made, {name: 'new' for name in THREE})
    assert files(there / 'out').keys() == {'a/array', 'z', outgoing.MARK}


def test_a_file_that_did_not_arrive_whole_keeps_the_last_from_coming(bucket, there, monkeypatch):
    upload = remote.upload

    def short(source, path):
        upload(source, path)
        if path.endswith('/z'):
            (there / 'out' / 'z').write_text('')

    monkeypatch.setattr(remote, 'upload', short)
    with pytest.raises(UserError, match='z did not arrive whole'), outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
        fill(made, THREE)
    assert 'index.json' not in files(there / 'out')


def test_of_two_machines_the_first_sees_that_it_is_not_alone(bucket, there, tmp_path, monkeypatch):
    with pytest.raises(UserError, match='another command is writing there too'), outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
        fill(made, THREE)
        (there / 'out' / outgoing.MARK).write_text(json.dumps({'by': 'the other', 'files': []}))
        write = outgoing._Upload._write
        monkeypatch.setattr(outgoing._Upload, '_write', lambda self, names: None)  # as if the other had begun just after
    monkeypatch.setattr(outgoing._Upload, '_write', write)
    assert 'index.json' not in files(there / 'out')


def test_two_commands_of_one_machine_do_not_share_a_place(bucket):
    with outgoing.to(f'{bucket}/out', 'index.json', new=True) as made:
        fill(made, THREE)
        with pytest.raises(UserError, match=f'^--output={bucket}/out: another command of this machine is writing there'):
            with outgoing.to(f'{bucket}/out', 'index.json', new=True):
                pytest.fail('begun')


def test_what_cannot_be_is_said_before_the_work(bucket, there, monkeypatch):
    (there / 'full').mkdir()
    (there / 'full' / 'x').write_text('x')
    for output, last, said in (
        (f'{bucket}/full', 'index.json', 'exists and is not empty; choose another folder'),
        (f'{bucket}/full/x', 'index.json', 'is a file; name a folder'),
        (f'{bucket}/full', '', 'is a folder; name a file'),
        (bucket, 'index.json', f'names a whole bucket; expected {bucket}/FOLDER'),
    ):
        with pytest.raises(UserError, match=f'^--output={output}: {re.escape(said)}$'), outgoing.to(output, last, new=True):
            pytest.fail('begun')
    with outgoing.to(f'{bucket}/full', 'index.json') as made:  # what a folder has beside is no matter to reports and plans
        fill(made, {'index.json': '2'})
    assert files(there / 'full') == {'x': 'x', 'index.json': '2'}

    def refuses(self, path, *_, **__):
        raise PermissionError('403: trainer@project does not have storage.objects.create access\nto the Google Cloud Storage object.')

    monkeypatch.setattr(bucket_stand_ins.Folders, 'pipe_file', refuses)
    for last in ('index.json', ''):
        with pytest.raises(UserError, match=r'^--output=.*/out: the bucket cannot be written to \(403: trainer.*access to the.*\); give the account of'):
            with outgoing.to(f'{bucket}/out', last, new=True):
                pytest.fail('begun')


# prepare.


def settings(tmp_path, output, **more) -> preparation.Settings:
    return preparation.Settings(input=(str(tmp_path / 'in'),), output=str(output), documents='paragraph', vocab_size=200, workers=1, shard_tokens=400, **more)


def test_a_corpus_is_that_of_a_folder_and_goes_on_where_the_upload_broke(bucket, there, tmp_path, sent, capsys):
    write_text(tmp_path / 'in' / 'a.txt', paragraphs(60))
    preparation.prepare(settings(tmp_path, tmp_path / 'here'), log=lambda line: None)
    expected = contents(tmp_path / 'here')
    assert len(expected) > 12
    lines: list[str] = []
    sent.breaks_at = 7
    with pytest.raises(UserError, match='the upload failed'):
        preparation.prepare(settings(tmp_path, f'{bucket}/out'), log=lines.append)
    with pytest.raises(UserError, match='not a prepared corpus'):
        corpus.Corpus(f'{bucket}/out', 'train')
    assert any('--config.data.path=gs://' in line for line in lines) and f'{bucket}/out: made in {remote.cache()}' in capsys.readouterr().err
    preparation.prepare(settings(tmp_path, f'{bucket}/out'), log=lines.append)
    assert contents(there / 'out') == expected and sent[-1] == 'out/manifest.json' and not kept()
    assert len(sent) == len(expected) + 1  # only the file that failed was sent twice
    ours = corpus.Corpus(f'{bucket}/out', 'train')
    assert ours.num_tokens == corpus.Corpus(str(tmp_path / 'here'), 'train').num_tokens and tokenizers.load(ours.tokenizer_path).vocab_size

    # Repeated it does nothing, with other settings or input it is refused, from whatever machine.
    before = len(sent)
    manifest = preparation.prepare(settings(tmp_path, f'{bucket}/out'), log=lines.append)
    assert lines[-1] == f'{bucket}/out is prepared already; nothing to do' and manifest == json.loads((there / 'out' / 'manifest.json').read_text())
    with pytest.raises(UserError, match=f'^{bucket}/out was made with other settings: seed'):
        preparation.prepare(settings(tmp_path, f'{bucket}/out', seed=1), log=lines.append)
    text = (tmp_path / 'in' / 'a.txt').read_text()
    (tmp_path / 'in' / 'a.txt').write_text(text[:-3] + 'x' + text[-2:])
    with pytest.raises(UserError, match=f'^{bucket}/out was made from other files'):
        preparation.prepare(settings(tmp_path, f'{bucket}/out'), log=lines.append)
    assert len(sent) == before and contents(there / 'out') == expected and not kept()


def test_an_interrupted_preparation_goes_on(bucket, there, tmp_path, monkeypatch):
    write_text(tmp_path / 'in' / 'a.txt', paragraphs(60))
    preparation.prepare(settings(tmp_path, tmp_path / 'here'), log=lambda line: None)
    encode, lines = preparation._Preparation._encode, []

    def interrupted(self, tokenizer, state):
        encode(self, tokenizer, state)  # the shards are there, the manifest is not
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(preparation._Preparation, '_encode', interrupted)
        with pytest.raises(UserError, match='^interrupted; finished shards are kept'):
            preparation.prepare(settings(tmp_path, f'{bucket}/out'), log=lines.append)
    assert not files(there) and len(kept()) == 1
    preparation.prepare(settings(tmp_path, f'{bucket}/out'), log=lines.append)
    assert f'{bucket}/out: going on where the last run stopped' in lines and contents(there / 'out') == contents(tmp_path / 'here')


def test_what_prepare_does_not_do_in_a_bucket_is_said(bucket, tmp_path):
    write_text(tmp_path / 'in' / 'a.txt', paragraphs(5))
    with pytest.raises(UserError, match=f'^--output={bucket}/out: the workers of --runner=DirectRunner write to a folder that all of them see'):
        preparation.prepare(settings(tmp_path, f'{bucket}/out', runner='DirectRunner'))
    with pytest.raises(UserError, match=f'^--input={bucket}/text: text is read from a file system; copy it'):
        preparation.prepare(preparation.Settings(input=(f'{bucket}/text',), output=str(tmp_path / 'out')))


def test_a_tokenizer_in_a_bucket(bucket, there, tmp_path):
    write_text(tmp_path / 'in' / 'a.txt', paragraphs(20))
    preparation.prepare(settings(tmp_path, tmp_path / 'here'), log=lambda line: None)
    shutil.copytree(tmp_path / 'here' / 'tokenizer', there / 'tokenizer')
    found = preparation.prepare(settings(tmp_path, tmp_path / 'again', tokenizer=f'{bucket}/tokenizer') , log=lambda line: None)
    assert found['tokenizer_sha256'] == json.loads((tmp_path / 'here' / 'manifest.json').read_text())['tokenizer_sha256']


# convert.


@pytest.mark.parametrize('source', [SINGLE, CLASSIFIER], ids=lambda path: path.name)
def test_weights_to_a_bucket_and_back_are_bitwise(bucket, there, source, sent):
    conversion.to_native(str(source), f'{bucket}/native')
    assert sent[-1] == 'native/config.json' and checkpoint.locate(f'{bucket}/native') == (f'{bucket}/native', 0)
    ours, theirs = checkpoint.load_params(f'{bucket}/native')[1], folder.load(str(source))[1]
    assert_bitwise(dict(folder._flatten(ours)), dict(folder._flatten(theirs)))
    conversion.to_hf(f'{bucket}/native', f'{bucket}/hf', max_shard_bytes=50_000)
    assert sent[-1] == 'hf/config.json' and sum(name.endswith('.safetensors') for name in sent) > 1 and not kept()
    assert_bitwise(tensors(there / 'hf'), tensors(source))
    assert folder.is_hf_folder(f'{bucket}/hf')
    for output, convert in ((f'{bucket}/hf', conversion.to_native), (f'{bucket}/native', conversion.to_native)):
        with pytest.raises(UserError, match=f'^--output={output}: exists and is not empty'):
            convert(str(source), output)


def test_weights_whose_upload_breaks_are_no_weights(bucket, there, sent):
    for output, convert in (('native', conversion.to_native), ('hf', lambda _, place: conversion.to_hf(f'{bucket}/native', place))):
        sent.breaks_at = len(sent) + 2
        with pytest.raises(UserError, match='the upload failed'):
            convert(str(SINGLE), f'{bucket}/{output}')
        for read, said in ((folder.load, 'config.json: does not exist'), (checkpoint.locate, 'no checkpoint of ours')):
            with pytest.raises(UserError, match=said):
                read(f'{bucket}/{output}')
        convert(str(SINGLE), f'{bucket}/{output}')
        assert outgoing.MARK not in files_of(there / output)
    assert_bitwise(tensors(there / 'hf'), tensors(SINGLE))


def files_of(place: Path) -> list[str]:
    return [str(path.relative_to(place)) for path in place.rglob('*') if path.is_file()]


# The commands.


def test_predict_and_report_and_plan_write_to_a_bucket(bucket, there, tmp_path):
    conversion.to_native(str(CLASSIFIER), str(tmp_path / 'run'))
    (tmp_path / 'new.txt').write_text('one text\nanother\n')
    asked = (f'--workdir={tmp_path}/run', f'--input={tmp_path}/new.txt')
    answered = bucket_stand_ins.command(tmp_path / 'buckets', 'predict', *asked, f'--output={bucket}/answers/labels.jsonl')
    assert answered.returncode == 0 and f'2 answers in {bucket}/answers/labels.jsonl' in answered.stdout, answered.stderr
    texts = [json.loads(line)['text'] for line in (there / 'answers' / 'labels.jsonl').read_text().splitlines()]
    assert texts == ['one text', 'another'] and files_of(there / 'answers') == ['labels.jsonl']
    refused = bucket_stand_ins.command(tmp_path / 'buckets', 'predict', *asked, f'--output={bucket}/answers')
    assert (refused.returncode, refused.stderr) == (2, f'error: --output={bucket}/answers: is a folder; name a file\n')

    pytest.importorskip('matplotlib', reason='pictures need matplotlib')
    shutil.copytree(tmp_path / 'run', there / 'run')
    (there / 'run' / 'metrics.jsonl').write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0, "eval/loss": 1.5}\n')
    reported = bucket_stand_ins.command(tmp_path / 'buckets', 'report', f'--workdirs={bucket}/run', f'--output={bucket}/run/report')
    assert reported.returncode == 0 and f'written to {bucket}/run/report/curves.png' in reported.stdout, reported.stderr
    assert sorted(files_of(there / 'run' / 'report')) == ['curves.png', 'summary.md'] and '1.5000' in (there / 'run' / 'report' / 'summary.md').read_text()

    small = ('--config=configs/bert.py:tiny', '--config.model.default_vocab_size=1000', '--config.model.num_layers=1', '--config.batch_size=32')
    planned = bucket_stand_ins.command(tmp_path / 'buckets', 'plan', *small, '--topology=gpu:2xH100', f'--output={bucket}/plan')
    assert planned.returncode == 0 and f'written to {bucket}/plan/plan.json and {bucket}/plan/plan.png' in planned.stdout, planned.stderr
    assert sorted(files_of(there / 'plan')) == ['plan.json', 'plan.png']
