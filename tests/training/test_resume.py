"""Real processes, killed at chosen places and started again, end as one never touched: parameters bit for bit, metrics line by line."""

from concurrent.futures import ThreadPoolExecutor
import os
import resource
import shutil
import signal
import subprocess
import time

import pytest

from t5x_lite.config import Whole
from t5x_lite.training import checkpoint
from tests.training import runs

PLACES = {
    'before the first checkpoint': lambda run: run.logged(3) and not run.saved() and not run.saving(5),
    'inside the first save': lambda run: run.saving(5),
    'evaluating': lambda run: run.logged(9) and not run.logged(9, held_out=True),
    'evaluating again': lambda run: run.logged(18) and not run.logged(18, held_out=True),
    'at the end of a stage': lambda run: run.logged(12) and not run.logged(15) and 10 in run.saved(),
    'at the start of a stage': lambda run: run.logged(15) and 15 not in run.saved(),
    'inside a later save': lambda run: run.saving(20),
    'between checkpoints': lambda run: run.logged(24) and 25 not in run.saved() and not run.saving(25),
    'as a save ends': lambda run: 25 in run.saved(),
    'inside the last save': lambda run: run.saving(30),
    'after the last save': lambda run: 30 in run.saved(),
}
CHAINS = [
    ('before the first checkpoint', 'inside the first save', 'evaluating'),
    ('at the end of a stage', 'at the start of a stage', 'inside a later save'),
    ('between checkpoints', 'as a save ends', 'inside the last save', 'after the last save'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('resume')


@pytest.fixture(scope='module')
def corpus(folder):
    return runs.prepare_corpus(folder / 'data')


@pytest.fixture(scope='module')
def make_run(folder, corpus):
    def make(name: str, **fields) -> runs.Run:
        return runs.Run(folder / name, runs.small_config(corpus, **fields), folder / 'cache')

    return make


@pytest.fixture(scope='module')
def reference(make_run):
    """A run that nothing disturbed."""
    return make_run('reference').finish()


@pytest.fixture(scope='module')
def outcome(request, reference, make_run):
    """outcome(scenario): what it returns. Those of all selected tests run side by side, for most of their time is one process starting."""
    tests = [item for item in request.session.items if getattr(item, 'module', None) is request.module]
    chosen = {item.obj.scenario for item in tests if hasattr(item.obj, 'scenario')}
    chains = {item.callspec.params['places'] for item in tests if 'places' in item.fixturenames}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        futures = {places: pool.submit(_killed, make_run(f'killed{number}'), places) for number, places in enumerate(sorted(chains))}
        futures |= {scenario: pool.submit(scenario, make_run, reference) for scenario in chosen}
        yield lambda key: futures[key].result()


def _killed(run: runs.Run, places: tuple[str, ...]) -> runs.Run:
    for place in places:
        run.kill_when(PLACES[place])
    return run.finish()


def in_background(scenario):
    """Marks a test of what `scenario(make_run, reference)` returns."""

    def mark(test):
        test.scenario = scenario
        return test

    return mark


@pytest.mark.parametrize('places', CHAINS, ids=' | '.join)
def test_a_run_killed_several_times_ends_as_one_never_killed(places, outcome, reference):
    run = outcome(places)
    runs.assert_same(run, reference)
    assert run.saved() == reference.saved()
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ['25', '25.files', '30', '30.files']


def _bert(make_run, reference):
    fields = {'module': runs.BERT, 'data.stages': (), 'data.seq_len': 16, 'batch_size': 8, 'optim.microbatches': 1}
    run, untouched = make_run('bert', **fields), make_run('untouched_bert', **fields)
    return run.kill_when(PLACES['evaluating again']).finish(), untouched.finish()


@in_background(_bert)
def test_so_does_bert(outcome):
    runs.assert_same(*outcome(_bert))


def _beside_a_base(make_run, reference):
    """Checkpoints hold what learns alone, and more of it from step to step; some are saved where a stage ends, and a kill comes right after."""
    fields = {
        'init_from': str(reference.workdir), 'checkpoint.whole': Whole.no, 'tune.freeze': ('tokens/.*',),
        'tune.unfreeze': ((10, 'layers/1/.*', 1.0), (20, 'layers/.*', 0.5)), 'tune.mixout': 0.3,
    }  # fmt: skip
    run, untouched = make_run('beside', **fields), make_run('untouched_beside', **fields)
    for place in ('inside the first save', 'at the end of a stage', 'inside a later save', 'between checkpoints', 'as a save ends'):
        run.kill_when(PLACES[place])
    return run.finish(), untouched.finish()


@in_background(_beside_a_base)
def test_so_does_one_that_saves_only_what_it_learnt(outcome, reference):
    run, untouched = outcome(_beside_a_base)
    runs.assert_same(run, untouched)
    saved, base = run.contents(30), reference.contents(30)
    assert not any('tokens/' in path for path in saved) and any('tokens/' in path for path in base)
    assert run.output.count('from step 11 on') >= 1 and 'from step 21 on' in run.output


def _stops_early(make_run, reference):
    fields = {'checkpoint.best_metric': 'mlm_loss', 'eval.patience': 1, 'eval.min_improvement': 100.0}
    run, untouched = make_run('early', **fields), make_run('untouched_early', **fields)
    for place in ('evaluating', 'evaluating again'):
        run.kill_when(PLACES[place])
    return run.finish(), untouched.finish()


@in_background(_stops_early)
def test_so_does_one_that_stops_early(outcome):
    run, untouched = outcome(_stops_early)
    runs.assert_same(run, untouched)
    assert run.saved()[-1] == 18 and run.output.count('stopped early, at step 18') == 1


def _signalled(make_run, reference):
    run = make_run('signalled')
    run.kill_when(PLACES['evaluating'], signal.SIGTERM)
    after_term = run.saved()
    run.kill_when(PLACES['evaluating again'], signal.SIGINT)
    after_int = run.saved()
    return run.finish(), after_term, after_int


@in_background(_signalled)
def test_sigterm_and_sigint_save_at_once_and_leave_with_status_0(outcome, reference):
    run, after_term, after_int = outcome(_signalled)
    assert after_term[-1] == 9 and 'stopped by SIGTERM at step 9, which is saved' in run.output
    assert after_int[-1] == 18 and 'stopped by SIGINT at step 18, which is saved' in run.output
    runs.assert_same(run, reference)


def _damaged(make_run, reference):
    run = make_run('damaged')
    shutil.copytree(reference.workdir, run.workdir)
    newest = max((run.checkpoints / '30').rglob('*'), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with open(run.workdir / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 31, "lo')
    (run.checkpoints / '35.orbax-checkpoint-tmp').mkdir()
    (run.checkpoints / 'deleting-5').mkdir()
    return run.finish()


@in_background(_damaged)
def test_a_flipped_bit_in_the_newest_checkpoint_costs_only_the_steps_since_the_one_before(outcome, reference):
    run = outcome(_damaged)
    assert 'warning: the checkpoint of step 30 cannot be read' in run.output and f'resumed {run.workdir} from step 25' in run.output
    runs.assert_same(run, reference)
    kept = ['25', '25.files', '30', '30.files', 'torn-30', 'torn-30.files']
    assert sorted(path.name for path in run.checkpoints.iterdir()) == kept


def _repeated(make_run, reference):
    run = make_run('repeated')
    shutil.copytree(reference.workdir, run.workdir)
    return run.finish()


@in_background(_repeated)
def test_repeating_a_finished_run_says_so_and_changes_nothing(outcome, reference):
    run = outcome(_repeated)
    assert 'finished: all 30 steps of' in run.output and 'compiled' not in run.output
    runs.assert_same(run, reference)


def _disk_full(make_run, reference):
    checkpoint_kb = sum(-(-path.stat().st_size // 4096) * 4 for path in (reference.checkpoints / '30').rglob('*') if path.is_file())
    run = make_run('small_disk/full')
    disk = run.workdir.parent
    disk.mkdir()
    size = f'size={int(2.7 * checkpoint_kb)}k'  # two are kept; there is no room for a third
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', size, 'tmpfs', disk], capture_output=True).returncode:
        return None
    try:
        status = run.wait(run.start())
        said, run.output = run.output, ''
        saved = run.saved()
        subprocess.run(['mount', '-o', 'remount,size=64m', disk], check=True)
        run.finish()
        shutil.copytree(run.workdir, disk.with_name('disk_after'))
    finally:
        subprocess.run(['umount', '-l', disk], check=True)
    run.workdir = disk.with_name('disk_after')
    run.checkpoints = run.workdir / checkpoint.FOLDER
    return run, status, said, saved


@in_background(_disk_full)
def test_a_full_disk_is_said_in_a_line_and_costs_no_checkpoint(outcome, reference):
    if outcome(_disk_full) is None:
        pytest.skip('mounting a small tmpfs is not permitted here; the test of files that may not grow stands in for it')
    _assert_failed_and_went_on(*outcome(_disk_full), reference, 'No space left on device')


def _files_may_not_grow(make_run, reference):
    run = make_run('limited')
    process = run.start()
    while not run.logged(12):
        assert process.poll() is None
        time.sleep(0.002)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4000, 4000))
    status = run.wait(process)
    said, run.output = run.output, ''
    saved = run.saved()
    return run.finish(), status, said, saved


@in_background(_files_may_not_grow)
def test_a_save_that_the_system_refuses_is_said_in_a_line_and_costs_no_checkpoint(outcome, reference):
    _assert_failed_and_went_on(*outcome(_files_may_not_grow), reference, 'File too large')


def _assert_failed_and_went_on(run, status, said, saved, reference, reason):
    assert status == 2 and 'Traceback' not in said
    assert said.splitlines()[-1].startswith('error: the checkpoint of step 15 could not be saved') and reason in said
    assert saved == [5, 10] and 'the checkpoints of steps 5, 10 are whole' in said
    assert 'from step 10' in run.output
    runs.assert_same(run, reference)


# Fifty more, each a kill of a run of its own: ten inside a save, fifteen after a line of the log, twenty-five at any moment at all.
_SAVES = [(f'inside the save of {step}', lambda run, step=step: run.saving(step)) for step in range(3, 31, 3)]
_LINES = [(f'after the line of {step}', lambda run, step=step: run.logged(step)) for step in range(1, 30, 2)]
_BUSY = {'log.every_steps': 1, 'checkpoint.every_steps': 3, 'checkpoint.keep_last': 3}


@pytest.fixture(scope='module')
def busy_reference(make_run):
    """A line every step, a save every third; and the seconds that such a run takes."""
    make_run('busy_cold', **_BUSY).finish()
    began = time.monotonic()
    return make_run('busy', **_BUSY).finish(), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize('name, condition', _SAVES + _LINES, ids=lambda value: value if isinstance(value, str) else '')
def test_killed_at_a_place(name, condition, make_run, busy_reference):
    run = make_run(name.replace(' ', '_'), **_BUSY)
    runs.assert_same(run.kill_when(condition).finish(), busy_reference[0])


@pytest.mark.slow
@pytest.mark.parametrize('share', [(number + 0.5) / 25 for number in range(25)])
def test_killed_at_any_moment(share, make_run, busy_reference):
    """From the first import to the last line: where that is depends on the machine, and must not matter."""
    reference, seconds = busy_reference
    run = make_run(f'moment_{share}', **_BUSY)
    process = run.start()
    time.sleep(share * seconds)
    process.kill()
    run.wait(process)
    runs.assert_same(run.finish(), reference)


@pytest.mark.slow
def test_loader_processes_end_with_a_killed_run_and_change_nothing(make_run, reference):
    run = make_run('workers', **{'data.workers': 2})
    for place in ('at the end of a stage', 'inside the last save'):
        run.kill_when(PLACES[place])  # and waits until no process holds the output open any more
    runs.assert_same(run.finish(), reference)
