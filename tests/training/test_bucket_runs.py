"""Runs whose workdir and data lie in a bucket: the metrics, checkpoints and answers of a local one, through kills.

In-process with gs:// as a folder; and by the real commands against a server that speaks the JSON API of Cloud Storage (extra `test-gcs`)."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from t5x_lite import mirrors, outgoing, remote, running
from t5x_lite.assemble import assemble
from t5x_lite.errors import UserError
from t5x_lite.training import checkpoint
from tests import bucket_stand_ins
from tests.training import runs


SHORT = {
    'steps': 12, 'batch_size': 16, 'data.stages': (), 'data.seq_len': 16, 'optim.microbatches': 1, 'checkpoint.every_steps': 4,
    'eval.every_steps': 6,
}  # fmt: skip


def lines(text: str) -> list[dict]:
    return [{name: value for name, value in json.loads(line).items() if name not in runs.TIMING} for line in text.splitlines()]


def train(workdir: str, corpus: str, **fields) -> None:
    running.train(assemble(runs.small_config(corpus, **SHORT | fields), workdir=workdir), workdir, checked=True, baselines=False)


def test_a_run_in_a_bucket_is_that_of_a_folder_and_goes_on(tmp_path, monkeypatch):
    corpus = runs.prepare_corpus(tmp_path)
    train(str(tmp_path / 'local'), corpus)
    bucket = bucket_stand_ins.folders(tmp_path / 'buckets', monkeypatch)
    there = tmp_path / 'buckets' / bucket_stand_ins.BUCKET / 'run'
    shutil.copytree(corpus, there.parent / 'data')

    class Killed(BaseException):
        pass

    def killed_at_the_second_save(self, step, *args, **options):
        if step == 8:
            monkeypatch.setattr(mirrors.Mirror, 'push', lambda self: None)  # one that is killed uploads nothing more
            raise Killed
        return save(self, step, *args, **options)

    save, push = checkpoint.Checkpoints.save, mirrors.Mirror.push
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.Checkpoints, 'save', killed_at_the_second_save)
        with pytest.raises(Killed):
            train(f'{bucket}/run', f'{bucket}/data')
    monkeypatch.setattr(mirrors.Mirror, 'push', push)
    assert max(line['step'] for line in lines((there / 'metrics.jsonl').read_text())) == 6  # after the checkpoint of step 4
    monkeypatch.setattr(mirrors, '_mirrors', {})  # another process, another machine
    train(f'{bucket}/run', f'{bucket}/data')
    assert lines((there / 'metrics.jsonl').read_text()) == lines((tmp_path / 'local' / 'metrics.jsonl').read_text())
    assert checkpoint.steps_in(f'{bucket}/run/checkpoints') == checkpoint.steps_in(str(tmp_path / 'local' / 'checkpoints')) == [8, 12]
    assert {'config.json', 'goodput.jsonl', 'metrics.jsonl', 'tokenizer'} <= set(os.listdir(there)) and not (there / 'launch.json').exists()
    ours, theirs = (checkpoint.load_params(place)[1] for place in (f'{bucket}/run', str(tmp_path / 'local')))
    ours, theirs = (runs.paths.leaves(tree) for tree in (ours, theirs))
    assert ours.keys() == theirs.keys() and all(ours[path].tobytes() == theirs[path].tobytes() for path in ours)

    # A run that was copied there is used as it stands, goes on, and is not tidied away.
    shutil.copytree(tmp_path / 'local', there.parent / 'copied')
    assert checkpoint.locate(f'{bucket}/copied') == (f'{bucket}/copied', 12)
    assert runs.paths.leaves(checkpoint.load_params(f'{bucket}/copied')[1]).keys() == ours.keys()
    config = json.loads((there.parent / 'copied' / 'config.json').read_text())
    config['data']['path'] = [f'{bucket}/data']
    (there.parent / 'copied' / 'config.json').write_text(json.dumps(config))
    train(f'{bucket}/copied', f'{bucket}/data')
    assert checkpoint.steps_in(f'{bucket}/copied/checkpoints') == [8, 12] and (there.parent / 'copied' / 'checkpoints' / '12' / 'commit_success.txt').exists()

    # A checkpoint that was changed is set aside; one without its last file counts as unfinished; another run is refused.
    listed = json.loads((there / 'checkpoints' / '12.files').read_text())
    largest = max(listed, key=lambda name: listed[name][0])
    with open(there / 'checkpoints' / '12' / largest, 'r+b') as file:
        file.write(b'spoilt')
    for name in ('commit_success.txt', '_CHECKPOINT_METADATA'):
        (there / 'checkpoints' / '8' / name).unlink()
    assert checkpoint.steps_in(f'{bucket}/run/checkpoints') == [12]
    with pytest.raises(UserError, match='cannot be read .*does not hold what was written'):
        checkpoint.load_params(f'{bucket}/run')
    with pytest.raises(UserError, match=f'^{bucket}/run holds another run; it differs in seed'):
        train(f'{bucket}/run', f'{bucket}/data', seed=2)
    monkeypatch.setattr(mirrors, '_mirrors', {})
    with pytest.raises(UserError, match='no checkpoint in .* can be read'):
        train(f'{bucket}/run', f'{bucket}/data')
    assert (there / 'checkpoints' / 'torn-12' / largest).exists() and not (there / 'checkpoints' / '8').exists()


# By the real commands.

needs_server = pytest.mark.skipif(
    not all(__import__('importlib.util').util.find_spec(name) for name in ('gcsfs', 'gcp_storage_emulator')),
    reason="a server for gs:// needs the extra test-gcs: pip install '.[test-gcs]'",
)


class BucketRun(runs.Run):
    """A workdir gs://.../NAME of a server."""

    def __init__(self, name, config, cache, server, tmp_path):
        super().__init__(tmp_path / name, config, cache)
        self.url, self.server = f'gs://{bucket_stand_ins.BUCKET}/{name}', server
        self._environment |= server | {'T5X_LITE_CACHE': str(tmp_path / 'cache')}
        self.workdir = self.url

    def command(self, name: str, *flags: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, '-m', f't5x_lite.{name}', *flags], cwd=runs.ROOT, env=self._environment, capture_output=True, text=True, timeout=600
        )

    def text(self, name: str) -> str:
        try:
            return remote.read(f'{self.url}/{name}').decode()
        except FileNotFoundError:
            return ''


@pytest.fixture
def server(monkeypatch):
    with bucket_stand_ins.serve() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        remote._opened.cache_clear()
        yield variables
        remote._opened.cache_clear()


@needs_server
@pytest.mark.slow
def test_commands_on_a_server(server, tmp_path):
    corpus = runs.prepare_corpus(tmp_path)
    for name in os.listdir(corpus):
        if os.path.isfile(os.path.join(corpus, name)):
            remote.upload(os.path.join(corpus, name), f'gs://{bucket_stand_ins.BUCKET}/data/{name}')
    for name in os.listdir(os.path.join(corpus, 'tokenizer')):
        remote.upload(os.path.join(corpus, 'tokenizer', name), f'gs://{bucket_stand_ins.BUCKET}/data/tokenizer/{name}')
    cache = tmp_path / 'compiled'
    local = runs.Run(tmp_path / 'local', runs.small_config(corpus, **SHORT), cache).finish()
    run = BucketRun('run', runs.small_config(f'gs://{bucket_stand_ins.BUCKET}/data', **SHORT), cache, server, tmp_path)

    def saved(run: BucketRun) -> bool:
        time.sleep(0.3)  # each look asks the server, which has the run to serve
        return checkpoint.steps_in(f'{run.url}/checkpoints')[-1:] >= [4]

    run.kill_when(saved)
    dead = json.loads(run.text('launch.json'))['launch']
    process = run.start()  # at once: the lease of the killed one is of this host, whose lock is free
    while dead in (run.text('launch.json') or dead):
        assert process.poll() is None, run.wait(process)
        time.sleep(0.3)
    second = run.command('train', f'--config={run.config_file}', f'--workdir={run.url}')
    assert second.returncode == 2 and f'another process is training in {run.url}' in second.stderr, second.stderr
    assert run.wait(process) == 0, run.output
    assert 'resumed gs://' in run.output
    assert lines(run.text('metrics.jsonl')) == lines((tmp_path / 'local' / 'metrics.jsonl').read_text())
    assert checkpoint.steps_in(f'{run.url}/checkpoints') == local.saved()
    ours, theirs = (runs.paths.leaves(checkpoint.load_params(str(place))[1]) for place in (run.url, local.workdir))
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in theirs)

    scored = run.command('evaluate', f'--workdir={run.url}', '--resamples=0')
    assert scored.returncode == 0, scored.stderr
    assert f'written to {run.url}/evaluation.json' in scored.stdout and json.loads(run.text('evaluation.json'))['step'] == SHORT['steps']
    fields = SHORT | {'init_from': run.url, 'steps': 4}
    tuned = BucketRun('tuned', runs.small_config(f'gs://{bucket_stand_ins.BUCKET}/data', **fields), cache, server, tmp_path).finish()
    assert f'weights from {run.url}' in tuned.output

    lost = run.command('train', f'--config={run.config_file}', '--workdir=gs://no-such-bucket-here/run')
    assert lost.returncode == 2 and lost.stderr.startswith('error: gs://no-such-bucket-here: there is no such bucket') and lost.stderr.count('\n') == 1


@needs_server
def test_of_several_who_create_at_once_one_does(server):
    from concurrent.futures import ThreadPoolExecutor

    def asks(number: int) -> bool:
        try:
            remote.create(f'gs://{bucket_stand_ins.BUCKET}/lease', f'{number}'.encode())
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(asks, range(8)))
    assert sum(got) == 1 and remote.read(f'gs://{bucket_stand_ins.BUCKET}/lease') == f'{got.index(True)}'.encode()


@needs_server
def test_what_is_made_here_is_uploaded_to_a_server(server, tmp_path, monkeypatch):
    monkeypatch.setenv('T5X_LITE_CACHE', str(tmp_path / 'cache'))
    output, upload = f'gs://{bucket_stand_ins.BUCKET}/made/here', remote.upload

    def breaks(source: str, path: str) -> None:
        if path.endswith('/index.json'):
            raise UserError(f'{path}: the connection was reset')
        upload(source, path)

    def make() -> None:
        with outgoing.to(output, 'index.json', new=True) as made:
            for name in ('index.json', 'array'):
                with open(os.path.join(made, name), 'w') as file:
                    file.write(name)

    with monkeypatch.context() as patched:
        patched.setattr(remote, 'upload', breaks)
        with pytest.raises(UserError, match='the upload failed .*the connection was reset'):
            make()
    assert list(remote.files(output)) == ['array', outgoing.MARK]
    make()
    assert list(remote.files(output)) == ['array', 'index.json'] and remote.read(f'{output}/array') == b'array'
    with pytest.raises(UserError, match='exists and is not empty'):
        make()
