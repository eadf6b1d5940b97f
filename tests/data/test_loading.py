"""Loader threads and processes: they never change a batch, and end with the trainer."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from tests.data.fake_corpus import FakeCorpus, config_for, numbered, random_corpus, same

ROOT = pathlib.Path(__file__).resolve().parents[2]
MLM_NSP = 'bert_flax.objectives:MlmNsp'
BROKEN = f'{__name__}:BrokenExamples'


class BrokenExamples:
    """Examples of which some cannot be made."""

    def __init__(self, config, split, seed, seq_len, max_predictions, corpus):
        assert corpus is None

    def __len__(self):
        return 100

    def get(self, indices):
        if 8 in indices:
            raise UserError('reviews.tsv:9: what is this?')
        if 16 in indices:
            raise KeyError('a bug')
        return {'tokens': np.zeros((len(indices), 4), np.int32)}


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return random_corpus(tmp_path_factory.mktemp('one'))


@pytest.fixture(scope='module')
def second(tmp_path_factory, corpus):
    return FakeCorpus(tmp_path_factory.mktemp('two'), numbered([[4, 5, 6]] * 200), corpus.vocab_size, name='second')


def staged(**options):
    config = config_for(MLM_NSP, **options)
    config.data.stages = ((0, 32, 8, 5), (10, 48, 4, 7), (20, 32, 16, 5))
    return config


def check_loader(config, corpora, rows=None, first=3, last=9):
    loaded = list(DataFunction(config, 'train', corpora).loader(first, last, rows))
    assert [step for step, _ in loaded] == list(range(first, last))
    for step, batch in loaded:
        assert same(batch, DataFunction(config, 'train', corpora).batch(step, rows))


@pytest.mark.parametrize('prefetch', [0, 1, 4])
def test_loader_threads(corpus, prefetch):
    config = staged()
    config.data.prefetch = prefetch
    check_loader(config, [corpus], rows=slice(0, 4), first=7, last=13)


@pytest.mark.parametrize('workers', [1, 2])
def test_loader_processes(corpus, second, workers):
    config = staged()
    config.data.workers = workers
    check_loader(config, [corpus, second], first=7, last=12)


@pytest.mark.parametrize('workers', [0, 1])
def test_what_goes_wrong_in_a_loader_surfaces_as_itself(workers):
    config = config_for(BROKEN, batch_size=4)
    config.data.workers = workers
    data = DataFunction(config, 'train')
    loaded = data.loader(0, 10)
    assert [next(loaded)[0], next(loaded)[0]] == [0, 1]
    with pytest.raises(UserError, match='^reviews.tsv:9: what is this'):
        next(loaded)
    with pytest.raises(KeyError, match='a bug') as caught:
        next(data.loader(4, 10))
    assert 'while making batch 4' in caught.value.__notes__[0]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = pathlib.Path(f'/proc/{pid}/stat')  # ended, but nobody has asked how
    return not (stat.exists() and stat.read_text().rsplit(')', 1)[1].split()[0] == 'Z')


def test_loader_processes_outlive_signals_but_not_the_trainer(corpus):
    """SIGTERM to a whole job must leave the trainer batches until it has saved; a killed trainer must leave no process behind."""
    code = (
        'import multiprocessing, tempfile\n'
        'from t5x_lite.data.pipeline import DataFunction\n'
        'from tests.data.fake_corpus import config_for, random_corpus\n'
        'if __name__ == "__main__":\n'
        f'    config = config_for({MLM_NSP!r})\n'
        '    config.data.workers, config.data.prefetch = 1, 1\n'
        '    loaded = DataFunction(config, "train", [random_corpus(tempfile.mkdtemp())]).loader(0, 10**6)\n'
        '    next(loaded)\n'
        '    print(multiprocessing.active_children()[0].pid, flush=True)\n'
        '    while True:\n'
        '        input()\n'
        '        print([next(loaded)[0] for _ in range(5)][-1], flush=True)\n'
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        worker = int(process.stdout.readline())
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGINT)
        for expected in ('5\n', '10\n'):
            process.stdin.write('\n')
            process.stdin.flush()
            assert process.stdout.readline() == expected
        process.kill()
        process.wait()
        for _ in range(200):
            if not alive(worker):
                break
            time.sleep(0.1)
        assert not alive(worker)
    finally:
        process.kill()
        process.communicate()


def test_a_loader_may_be_left_early(corpus):
    for _, (step, _) in zip(range(2), DataFunction(config_for(MLM_NSP), 'train', [corpus]).loader(0, 10**9)):
        assert step < 2


def test_a_process_that_began_after_its_trainer_was_killed_ends():
    gone = subprocess.Popen([sys.executable, '-c', ''])
    gone.wait()
    script = f'import time; from t5x_lite.data import loading; loading._begin_process({gone.pid}, 0, 1); time.sleep(60); print("still here")'
    assert subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=50, check=True).stdout == ''
