"""Paths in a bucket: what is read is a copy named by what it holds; of what several ask for at once, one gets it; what cannot be is one line.

(gs:// is a folder here.)
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from t5x_lite import mirrors, remote
from t5x_lite.data import table_files, tokenizers
from t5x_lite.data.corpus import Corpus
from t5x_lite.errors import UserError
from t5x_lite.training import leases, workdirs
from tests import bucket_stand_ins
from tests.training import runs


def test_paths_of_a_file_system_stay_as_they_are(tmp_path):
    assert remote.local('a/b') == 'a/b' and mirrors.folder_of('runs/x') == 'runs/x' and remote.absolute('a') == os.path.abspath('a')
    assert remote.absolute('gs://b//runs/x/') == 'gs://b/runs/x'
    with mirrors.kept(str(tmp_path)):
        mirrors.upload(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_copy_is_made_once_and_anew_when_the_file_has_changed(bucket, there):
    (there / 'a').mkdir()
    (there / 'a' / 'x.csv').write_text('1')
    first = remote.local(f'{bucket}/a/x.csv')
    assert os.path.basename(first) == 'x.csv' and remote.read(first) == b'1'
    made = os.stat(first).st_mtime_ns
    assert remote.local(f'{bucket}/a/x.csv') == first and os.stat(first).st_mtime_ns == made
    (there / 'a' / 'x.csv').write_text('2')  # as long as before
    second = remote.local(f'{bucket}/a/x.csv')
    assert second != first and remote.read(second) == b'2' and remote.read(first) == b'1'
    assert remote.local(f'{bucket}/a/y.csv') == f'{bucket}/a/y.csv'  # whoever opens it says that it is not there
    assert remote.named(f'{second}:3: what') == f'{bucket}/a/x.csv:3: what'


def test_a_folder_is_copied_without_its_folders(bucket, there):
    (there / 'data' / 'tokenizer').mkdir(parents=True)
    for name in ('manifest.json', 'train-00000.tokens', 'tokenizer/vocab.txt'):
        (there / 'data' / name).write_text(name)
    copy = remote.local(f'{bucket}/data/')
    assert sorted(os.listdir(copy)) == ['manifest.json', 'train-00000.tokens'] and os.path.basename(copy) == 'data'
    assert remote.names(f'{bucket}/data') == ['manifest.json', 'tokenizer', 'train-00000.tokens']
    assert list(remote.files(f'{bucket}/data')) == ['manifest.json', 'tokenizer/vocab.txt', 'train-00000.tokens']


def test_a_copy_that_a_kill_cut_short_is_made_anew(bucket, there):
    (there / 'x').write_text('whole')
    copy = remote.local(f'{bucket}/x')
    holder = os.path.dirname(copy)
    os.rename(holder, f'{holder}.part')
    with open(f'{holder}.part/x', 'w') as file:
        file.write('wh')
    assert remote.read(remote.local(f'{bucket}/x')) == b'whole' and not os.path.exists(f'{holder}.part')


@pytest.mark.parametrize('place', ['file system', 'bucket'])
def test_what_is_there_is_not_created_and_what_is_moved_is_gone(place, bucket, tmp_path):
    root = bucket if place == 'bucket' else str(tmp_path)
    remote.create(f'{root}/lease', b'a')
    with pytest.raises(FileExistsError):
        remote.create(f'{root}/lease', b'b')
    assert remote.read(f'{root}/lease') == b'a'
    remote.overwrite(f'{root}/lease', b'c')
    remote.write(f'{root}/other', b'd')
    assert (remote.read(f'{root}/lease'), remote.read(f'{root}/other')) == (b'c', b'd')
    remote.remove(f'{root}/other')
    with pytest.raises(FileNotFoundError):
        remote.read(f'{root}/other')
    if place == 'file system':
        os.mkdir(tmp_path / 'step')
    remote.write(f'{root}/step/array', b'e')
    remote.move(f'{root}/step', f'{root}/torn')
    assert remote.read(f'{root}/torn/array') == b'e' and not remote.exists(f'{root}/step') and remote.is_dir(f'{root}/torn')
    remote.remove_tree(f'{root}/torn')
    assert not remote.exists(f'{root}/torn')


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(UserError, match='^gs://no-such-bucket: there is no such bucket; mend its name, or make it'):
        remote.exists('gs://no-such-bucket/run')
    with pytest.raises(UserError, match='names no bucket; expected gs://BUCKET/FOLDER'):
        remote.exists('gs:///run')


def test_what_the_bucket_refuses_is_one_line(bucket, monkeypatch):
    def refuses(self, *_, **__):
        raise RuntimeError('Anonymous caller\ndoes not have storage.objects.get access')

    monkeypatch.setattr(bucket_stand_ins.Folders, 'cat_file', refuses)
    with pytest.raises(UserError, match=f'^{bucket}/x: Anonymous caller does not have'):
        remote.read(f'{bucket}/x')
    monkeypatch.setattr(bucket_stand_ins.Folders, 'info', refuses)
    remote._opened.cache_clear()
    with pytest.raises(UserError, match='cannot be reached with the credentials of this machine .*; log in .gcloud auth application-default login'):
        remote.read(f'{bucket}/x')


def test_without_the_extra_a_line_names_it():
    code = (
        "import sys; sys.modules['gcsfs'] = None\nfrom t5x_lite import remote\nfrom t5x_lite.errors import UserError\n"
        "try:\n    remote.check('gs://b/run')\nexcept UserError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=runs.ROOT, capture_output=True, text=True)
    assert done.stdout == "gs://b: paths in a bucket need the extra gcs; pip install '.[gcs]'\n", done.stderr


# Data.


def test_a_corpus_in_a_bucket_holds_what_it_does_elsewhere(bucket, tmp_path, monkeypatch):
    here = runs.prepare_corpus(tmp_path)
    shutil.copytree(here, tmp_path / 'buckets' / bucket_stand_ins.BUCKET / 'data')
    ours, theirs = Corpus(f'{bucket}/data', 'train'), Corpus(here, 'train')
    ours.verify()
    assert ours.num_tokens == theirs.num_tokens and np.array_equal(ours.sentence_starts, theirs.sentence_starts)
    stop = int(theirs.sentence_starts[3])
    assert np.array_equal(ours.tokens(0, stop), theirs.tokens(0, stop))
    assert tokenizers.load(ours.tokenizer_path).vocab_size == theirs.vocab_size
    assert ours.path == f'{bucket}/data'
    made, arguments = ours.__reduce__()
    with monkeypatch.context() as patched:
        patched.setattr(remote, '_at', None)  # loader processes ask no bucket
        assert np.array_equal(made(*arguments).tokens(0, stop), theirs.tokens(0, stop))
    with pytest.raises(UserError, match=f'^{bucket}/other: not a prepared corpus'):
        Corpus(f'{bucket}/other', 'train')


def test_a_table_in_a_bucket_and_its_mistakes(bucket, there):
    (there / 't.csv').write_text('text,label\ngood,1\nbad,0\n')
    assert len(table_files.read(f'{bucket}/t.csv').rows) == 2
    with pytest.raises(UserError, match=f'^{bucket}/u.csv: no such file'):
        table_files.read(f'{bucket}/u.csv')


# What a run writes.


def test_files_are_uploaded_whole_where_they_have_changed(bucket, there, monkeypatch):
    workdir, sent = f'{bucket}/run', []
    (there / 'run').mkdir()
    (there / 'run' / 'metrics.jsonl').write_text('{"step": 1}\n')
    (there / 'run' / 'launch.json').write_text('a lease')
    upload = remote.upload
    monkeypatch.setattr(remote, 'upload', lambda source, path: (sent.append(path.rpartition('/')[2]), upload(source, path)))
    folder = mirrors.folder_of(workdir)
    with mirrors.kept(workdir):
        with open(f'{folder}/metrics.jsonl', 'a') as file:
            file.write('{"step": 2}\n')
        os.mkdir(f'{folder}/tensorboard')
        for name in ('tensorboard/events', 'warnings.txt', 'metrics.jsonl.tmp'):
            with open(f'{folder}/{name}', 'w') as file:
                file.write(name)
        mirrors.upload(workdir)
        assert sent == ['metrics.jsonl', 'events', 'warnings.txt'] and (there / 'run' / 'metrics.jsonl').read_text() == '{"step": 1}\n{"step": 2}\n'
        mirrors.upload(workdir)
        os.remove(f'{folder}/warnings.txt')
    assert sent == ['metrics.jsonl', 'events', 'warnings.txt'] and not (there / 'run' / 'warnings.txt').exists()
    assert (there / 'run' / 'tensorboard' / 'events').exists() and (there / 'run' / 'launch.json').read_text() == 'a lease'


def test_what_another_launch_wrote_meanwhile_is_brought_here_and_what_was_made_here_stays(bucket, there):
    workdir = f'{bucket}/run'
    (there / 'run').mkdir()
    (there / 'run' / 'metrics.jsonl').write_text('{"step": 1}\n')
    folder = mirrors.folder_of(workdir)
    with open(f'{folder}/synonyms.npz', 'w') as file:
        file.write('made before the workdir was ours')
    (there / 'run' / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 2}\n')
    with mirrors.kept(workdir), open(f'{folder}/metrics.jsonl') as file:
        assert file.read() == '{"step": 1}\n{"step": 2}\n'
    assert (there / 'run' / 'synonyms.npz').exists()


def test_a_run_that_fails_leaves_what_it_wrote_and_says_its_own_mistake(bucket, there):
    with pytest.raises(UserError, match='^not finite$'), mirrors.kept(f'{bucket}/run'):
        with open(f'{mirrors.folder_of(f"{bucket}/run")}/metrics.jsonl', 'w') as file:
            file.write('{"step": 1}\n')
        raise UserError('not finite')
    assert (there / 'run' / 'metrics.jsonl').exists()


# Whose the workdir is.


def test_a_second_launch_is_refused_here_and_elsewhere(bucket, monkeypatch):
    workdir = f'{bucket}/run'
    with workdirs.locked(workdir):
        with pytest.raises(UserError, match=f'^another process is training in {workdir};'):
            with workdirs.locked(workdir):
                pass
        lease = leases.Lease(workdir, 'another host', sleep=lambda seconds: None)
        monkeypatch.setattr(leases, 'LOOK_SECONDS', 0.0)
        lease._look = lambda found: (_ for _ in ()).throw(lease._refused(found))  # it has seen a beat
        with pytest.raises(UserError, match=f'^another process is training in {workdir}, on '):
            lease.take(locked=True)
    assert not remote.exists(f'{workdir}/{leases.FILE}')


def test_of_two_who_take_over_at_once_one_gets_it(bucket):
    first, second = (leases.Lease(f'{bucket}/run', name, sleep=lambda seconds: None) for name in 'ab')
    first._create()
    with pytest.raises(FileExistsError):
        second._create()
    second._read = iter([None, first._text()]).__next__  # it looked before the first had made it
    with pytest.raises(UserError, match='^another process is training in .*, on a; '):
        second.take(locked=False)


def test_one_that_was_killed_on_this_host_is_followed_at_once(bucket):
    workdir = f'{bucket}/run'
    with workdirs.locked(workdir):
        text = remote.read(f'{workdir}/{leases.FILE}')
    remote.write(f'{workdir}/{leases.FILE}', text.replace(b'"launch": "', b'"launch": "0'))  # as a SIGKILL leaves it; the kernel let go of the lock
    with workdirs.locked(workdir):
        assert remote.exists(f'{workdir}/{leases.FILE}')
