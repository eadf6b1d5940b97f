"""Preparation interrupted, repeated, or beside another: the same bytes in the end, or a refusal."""

import os
import signal
import subprocess
import time

import pytest

from t5x_lite.data import corpus, shards, sources, tokenizers, workers
from t5x_lite.errors import UserError
from tests.data.preparation_material import ROOT, children, command, contents, mixed_input, paragraphs, prepare, write_text


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
