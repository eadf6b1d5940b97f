"""Runs that stop, or must not begin: a loss that is not finite, another run's workdir, other data, a place that cannot be written."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import struct
import subprocess
import types

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from t5x_lite import assemble
from t5x_lite.config import LogConfig, NonFinite
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.training import accounting, driving, telemetry
from t5x_lite.training.telemetry import MetricsLog
from t5x_lite.training.trainer import Trainer
from tests.commands import forked
from tests.training import runs

STEPS = 8


class Poisoned(DataFunction):
    """Data in which a batch's loss is not a number."""

    bad = (5,)  # counted from 0, as in the data; the trainer's steps count from 1

    def batch(self, step, rows=None):
        batch = super().batch(step, rows)
        if step in self.bad:
            batch['masked_weights'][0, 0] = np.inf
        return batch


class PoisonedAtOnce(Poisoned):
    bad = (0,)


def a_config(corpus, **fields):
    """Eight steps, each of them logged and saved."""
    plain = {'steps': STEPS, 'data.stages': (), 'data.seq_len': 16, 'batch_size': 16, 'optim.microbatches': 1, 'eval.every_steps': 4}
    each_step = {'log.every_steps': 1, 'checkpoint.every_steps': 1, 'checkpoint.keep_last': STEPS}
    return runs.small_config(corpus, **(plain | each_step | fields))


def trainer(workdir, config, data=DataFunction):
    run = assemble.assemble(config)
    return Trainer(
        run.config,
        str(workdir),
        data(run.config, 'train'),
        lambda program, step: Evaluator(program, run.validation, step),
        run.tokenizer_path,
    )


def opened(workdir):
    """A workdir for looking into."""
    run = runs.Run.__new__(runs.Run)
    run.workdir, run.checkpoints = workdir, workdir / 'checkpoints'
    return run


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
    """The runs of this file share what they compile."""
    names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs', 'jax_persistent_cache_min_entry_size_bytes')
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(tmp_path_factory.mktemp('cache')), 0.0, -1)):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return runs.prepare_corpus(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def trained(corpus, tmp_path_factory):
    """The workdir of a run of eight steps, finished."""
    workdir = tmp_path_factory.mktemp('trained') / 'run'
    trainer(workdir, a_config(corpus)).run()
    return workdir


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_batch(corpus, tmp_path, trained):
    with pytest.raises(UserError, match=r'step 6: loss nan, .* batch of step 6 \(examples 80 to 95\).*learning_rate') as error:
        trainer(tmp_path / 'run', a_config(corpus), Poisoned).run()
    assert '\n' not in str(error.value)
    run, whole = opened(tmp_path / 'run'), opened(trained)
    assert run.saved() == [1, 2, 3, 4, 5]
    assert run.lines() == [line for line in whole.lines() if line['step'] <= 5]
    for step in run.saved():
        ours, theirs = run.contents(step), whole.contents(step)
        assert all(ours[path].tobytes() == theirs[path].tobytes() for path in ours)
    trainer(tmp_path / 'run', a_config(corpus)).run()  # the data mended, it goes on
    assert run.lines() == whole.lines()


def test_a_rate_out_of_all_measure_stops_the_run_before_anything_bad_is_saved(corpus, tmp_path):
    with pytest.raises(UserError, match=r'step \d: loss (nan|inf)'):
        trainer(tmp_path / 'run', a_config(corpus, **{'optim.learning_rate': 1e30, 'optim.clip_norm': 0.0})).run()
    run = opened(tmp_path / 'run')
    assert all(np.isfinite(x).all() for step in run.saved() for x in run.contents(step).values())


def test_skipping_leaves_everything_as_it_was_and_counts(corpus, tmp_path, capsys):
    trainer(tmp_path / 'run', a_config(corpus, **{'optim.nonfinite': NonFinite.skip}), Poisoned).run()
    assert 'warning: skipped step 6: loss nan' in capsys.readouterr().out
    run = opened(tmp_path / 'run')
    before, after, end = run.contents(5), run.contents(6), run.contents(STEPS)
    changed = {path for path in before if before[path].tobytes() != after[path].tobytes()}
    assert changed == {'training/step', 'training/skipped'}
    assert end['training/step'] == STEPS and end['training/skipped'] == 1
    skipped = {line['step']: line['steps_skipped'] for line in run.lines() if 'steps_skipped' in line}
    assert skipped == {step: float(step == 6) for step in range(1, STEPS + 1)}
    assert np.isfinite([line['loss'] for line in run.lines() if line['step'] > 6 and 'loss' in line]).all()


@pytest.mark.parametrize(
    'field, value',
    [
        ('seed', 2),
        ('steps', 9),
        ('batch_size', 8),
        ('ema_decay', 0.0),
        ('model.dropout', 0.3),
        ('optim.learning_rate', 1.0),
        ('optim.microbatches', 2),
        ('data.seq_len', 32),
        ('eval.batches', 1),
    ],
)
def test_a_config_that_differs_in_what_matters_is_refused_by_its_field(corpus, trained, field, value):
    before = (trained / 'config.json').read_text()
    with pytest.raises(UserError, match=rf'holds another run; it differs in {field} \(.* there, .* here\)'):
        trainer(trained, a_config(corpus, **{field: value})).run()
    assert (trained / 'config.json').read_text() == before


def test_a_run_that_saved_nothing_gives_way(corpus, tmp_path, capsys):
    with pytest.raises(UserError, match='loss'):
        trainer(tmp_path / 'run', a_config(corpus, **{'optim.learning_rate': 1.0}), PoisonedAtOnce).run()
    trainer(tmp_path / 'run', a_config(corpus)).run()
    assert 'held a run that saved nothing; this one takes its place' in capsys.readouterr().out
    shutil.move(tmp_path / 'run' / 'checkpoints' / str(STEPS), tmp_path / 'run' / 'checkpoints' / f'torn-{STEPS}')
    with pytest.raises(UserError, match='holds another run'):
        trainer(tmp_path / 'run', a_config(corpus, seed=2)).run()


@contextlib.contextmanager
def flocked(folder):
    """As the process does that trains there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def test_a_workdir_in_which_a_process_trains_is_left_alone(corpus, tmp_path):
    workdir, tried = tmp_path / 'run', []

    class Meanwhile(DataFunction):
        def batch(self, step, rows=None):
            if step == 3:
                with pytest.raises(BlockingIOError), flocked(workdir):
                    pass
                tried.append(step)
            return super().batch(step, rows)

    trainer(workdir, a_config(corpus, **{'checkpoint.every_steps': 100}), Meanwhile).run()
    assert tried
    before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
    with flocked(workdir):
        for fields in ({}, {'seed': 2}):
            with pytest.raises(UserError, match=f'another process is training in {workdir}; wait until it has ended, or give another --workdir'):
                trainer(workdir, a_config(corpus, **fields)).run()
    assert {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()} == before


def test_a_corpus_may_move(corpus, trained, tmp_path, capsys):
    shutil.copytree(corpus, tmp_path / 'moved')
    trainer(trained, a_config(str(tmp_path / 'moved'))).run()
    trainer(trained, a_config(f'{corpus}/')).run()
    assert capsys.readouterr().out.count('finished: all') == 2


def test_the_step_takes_over_the_memory_of_parameters_and_optimiser_state(corpus, tmp_path, monkeypatch):
    seen = []

    def watched(program, state, batch, compiled=driving.compiled):
        function, seconds = compiled(program, state, batch)

        def step(state, batch, numbers):
            result = function(state, batch, numbers)
            seen.append([leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim and not leaf.is_deleted()])
            return result

        return step, seconds

    monkeypatch.setattr(driving, 'compiled', watched)
    trainer(tmp_path / 'run', a_config(corpus)).run()
    assert seen == [[]] * STEPS


def test_compiling_waits_for_the_steps_under_way_and_its_seconds_are_its_own(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(driving.time, 'perf_counter', lambda: now[0])

    class UnderWay:
        def block_until_ready(self):
            now[0] += 30.0

    def compile_step():
        now[0] += 2.0
        return 'compiled'

    name = ('test', object())
    assert driving.timed(name, compile_step, 'it', [UnderWay()]) == ('compiled', 2.0)
    assert now == [132.0] and capsys.readouterr().out == 'compiled it in 2.0 s\n'
    assert driving.timed(name, compile_step, 'it', [UnderWay()]) == ('compiled', 0.0) and now == [132.0] and not capsys.readouterr().out


class OneSecond(telemetry.Clock):
    """Each line took a second."""

    def seconds(self, compile_seconds):
        return 1.0


def test_speed_is_of_the_steps_that_this_process_made(corpus, tmp_path, monkeypatch):
    """A window that a checkpoint has in it is counted whole, but timed from the restart."""
    monkeypatch.setattr('t5x_lite.training.accounting.Clock', OneSecond)
    monkeypatch.setattr('t5x_lite.training.accounting.peak_flops', lambda device: 1e6)
    config = a_config(corpus, **{'log.every_steps': STEPS, 'checkpoint.every_steps': 5})
    run = trainer(tmp_path / 'run', config)
    run.run()
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / str(STEPS))
    trainer(tmp_path / 'run', config).run()
    lines = [json.loads(text) for text in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    resumed = next(line for line in lines if 'loss' in line)
    data = DataFunction(run._config, 'train')
    tokens = [int((data.batch(step)['sequence_ids'] > 0).sum()) for step in range(STEPS)]
    assert resumed['tokens'] == sum(tokens) and resumed['tokens_per_second'] == sum(tokens[5:])
    assert resumed['seconds_per_step'] == pytest.approx(1 / 3, abs=1e-5)
    # Model FLOPs utilisation: the FLOPs of a step, by its time, by the peak of all devices.
    assert resumed['mfu'] == pytest.approx(accounting.step_flops(run._config, run._program.module, data.stages[0]) * 3 / (1e6 * jax.device_count()), rel=1e-4)


def test_a_profile_is_of_the_steps_that_are_left(trained, tmp_path):
    # Each in a process of its own: one that has profiled keeps the text of every program that it compiles from then on.
    for steps, first, said in (((5, 8), 7, 'profile of steps 8 to 8'), ((2, 4), 7, 'no profile')):
        workdir = tmp_path / str(steps[0])
        shutil.copytree(trained, workdir)
        shutil.rmtree(workdir / 'checkpoints' / str(STEPS))
        flags = f'--config={workdir}/config.json', f'--config.log.profile_steps={steps[0]},{steps[1]}', f'--workdir={workdir}'
        assert said in forked.run('train', *flags, devices=8).success
        assert (workdir / 'profile').exists() == (steps[1] > first)


def test_what_does_not_matter_may_differ(corpus, trained, tmp_path, capsys):
    workdir = tmp_path / 'run'
    shutil.copytree(trained, workdir)
    shutil.rmtree(workdir / 'checkpoints' / str(STEPS))
    where = {'mesh.tensor': 2, 'data.prefetch': 1, 'model.scan_layers': False, 'deterministic': True}
    trainer(workdir, a_config(corpus, **where, **{'checkpoint.every_steps': 5, 'log.every_steps': 2})).run()
    assert f'resumed {workdir} from step 7' in capsys.readouterr().out
    ours, theirs = opened(workdir).contents(STEPS), opened(trained).contents(STEPS)
    assert max(np.abs(ours[path] - theirs[path]).max() for path in ours) < 1e-5
    assert json.loads((workdir / 'config.json').read_text())['mesh']['tensor'] == 2


def test_other_data_in_the_same_place_are_refused(trained, corpus, tmp_path):
    moved = tmp_path / 'corpus'
    shutil.copytree(corpus, moved)
    workdir = tmp_path / 'run'
    config = a_config(str(moved))
    trainer(workdir, config).run()
    shutil.rmtree(moved)
    shutil.copytree(runs.prepare_corpus(tmp_path / 'other', seed=1), moved)
    with pytest.raises(UserError, match='was trained on other data than config.data gives now'):
        trainer(workdir, config).run()
    assert opened(workdir).saved()[-1] == STEPS


def test_an_unknown_best_metric_is_refused_and_nothing_is_lost(corpus, tmp_path):
    config = a_config(corpus, **{'checkpoint.best_metric': 'mlm_los', 'checkpoint.every_steps': 100})
    with pytest.raises(UserError, match="best_metric='mlm_los' is not a held-out metric; did you mean 'mlm_loss'"):
        trainer(tmp_path / 'run', config).run()
    assert opened(tmp_path / 'run').saved() == [4]


def test_the_best_by_a_held_out_metric_is_kept(corpus, tmp_path):
    kept = {'checkpoint.best_metric': 'mlm_loss', 'checkpoint.keep_last': 1, 'checkpoint.every_steps': 100}
    trainer(tmp_path / 'run', a_config(corpus, **kept, **{'eval.every_steps': 1})).run()
    run = opened(tmp_path / 'run')
    losses = {line['step']: line['eval/mlm_loss'] for line in run.lines() if 'eval/mlm_loss' in line}
    assert len(losses) == STEPS and set(run.saved()) == {min(losses, key=losses.get), STEPS}


def test_a_workdir_that_is_no_folder_or_cannot_be_written_is_said(corpus, tmp_path):
    file = tmp_path / 'file'
    file.write_text('')
    for workdir in (file, file / 'run'):
        with pytest.raises(UserError, match=str(file)):
            trainer(workdir, a_config(corpus)).run()


def test_a_workdir_on_a_read_only_disk_is_said(corpus, trained, tmp_path):
    if subprocess.run(['mount', '--bind', trained, trained], capture_output=True).returncode:
        pytest.skip('mounting is not permitted here')
    try:
        subprocess.run(['mount', '-o', 'remount,bind,ro', trained], check=True)
        with pytest.raises(UserError, match='Read-only file system'):
            trainer(trained, a_config(corpus)).run()
    finally:
        subprocess.run(['umount', trained], check=True)


def test_checkpoints_without_a_config_are_not_taken_over(corpus, trained, tmp_path):
    shutil.copytree(trained / 'checkpoints', tmp_path / 'run' / 'checkpoints')
    with pytest.raises(UserError, match='has checkpoints but no config.json'):
        trainer(tmp_path / 'run', a_config(corpus)).run()


def events(folder):
    """[(step, {tag: value}, whether a restart is marked)] of the TensorBoard files in a folder."""
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack('<Q', data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.step:
                values = {value.tag: round(value.simple_value, 3) for value in event.summary.value}
                found.append((event.step, values, event.HasField('session_log')))
    return found


def test_the_log_keeps_what_the_checkpoint_covers_and_cuts_the_rest(tmp_path):
    config = LogConfig()
    first = MetricsLog(tmp_path, config, 0)
    for step in (1, 2, 3):
        first.write(step, {'loss': step / 10, 'layer_norms': {}})
        assert (tmp_path / 'metrics.jsonl').read_text().count('\n') == step  # to be read at once
    first.close()
    with open(tmp_path / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 4, "lo')
    second = MetricsLog(tmp_path, config, 2)
    second.write(3, {'loss': 0.7})
    second.close()
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [(line['step'], line['loss']) for line in lines] == [(1, 0.1), (2, 0.2), (3, 0.7)]
    first_life, second_life = [(step, {'loss': step / 10}, False) for step in (1, 2, 3)], [(3, {}, True), (3, {'loss': 0.7}, False)]
    assert sorted(events(tmp_path / 'tensorboard'), key=str) == sorted(first_life + second_life, key=str)


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    log = MetricsLog(tmp_path, LogConfig(), 0)
    log.write(1, {'eval/pearson': float('nan'), 'layer_norms': {'grad': [1.0, float('inf')]}})
    log.close()

    def refuse(constant):
        raise AssertionError(constant)

    line = json.loads((tmp_path / 'metrics.jsonl').read_text(), parse_constant=refuse)
    assert line == {'step': 1, 'eval/pearson': None, 'layer_norms': {'grad': [1.0, None]}}


def test_the_terminal_has_a_line_every_few_seconds_and_rates_without_pauses(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(telemetry.time, 'perf_counter', lambda: now[0])
    console = telemetry.Console(100, LogConfig(console_seconds=5.0))
    for step in range(1, 13):
        now[0] += 1.0
        if step == 3:
            now[0] += 4.0
            console.pause(4.0)  # an evaluation, say
        console.step(step, 50.0, {'loss': 2.5, 'lr': 1e-4}, 1e6, 2e5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split('/')[0] for line in lines] == ['step 6', 'step 11']
    for line, left in zip(lines, ('1:34', '1:29')):
        assert 'loss 2.5  lr 0.0001  50 tokens/s, MFU 20.0%' in line and line.endswith(f'{left} left')


def test_the_last_line_has_no_rate_of_a_moment(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(telemetry.time, 'perf_counter', lambda: now[0])
    console = telemetry.Console(8, LogConfig(console_seconds=5.0))
    for step, seconds in enumerate((1.0,) * 6 + (1e-5, 1e-5), 1):  # what was under way is read at once
        now[0] += seconds
        console.step(step, 50.0, {'loss': 2.5}, None, 0.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition('  ')[0] for line in lines] == ['step 6/8', 'step 8/8']
    assert ' 50 tokens/s' in lines[0] and ' 70 tokens/s' in lines[1]


def test_the_peak_of_a_device_is_that_of_its_own_name():
    def peak(kind):
        return telemetry.peak_flops(types.SimpleNamespace(device_kind=kind))

    assert peak('NVIDIA H100 80GB HBM3') == 989e12 and peak('NVIDIA H100 PCIe') == 756e12 and peak('TPU v5 lite') == 197e12
    assert peak('cpu') is None


def test_a_last_line_without_its_end_is_mended(tmp_path):
    (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}')
    log = MetricsLog(tmp_path, LogConfig(tensorboard=False), 2)
    log.write(3, {'loss': 3})
    log.close()
    assert [json.loads(line)['step'] for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()] == [1, 2, 3]


class Interrupting(DataFunction):
    """Data in the midst of which somebody presses Ctrl-C after the run was asked to stop already."""

    def batch(self, step, rows=None):
        if step == 3:
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
        return super().batch(step, rows)


def test_a_second_signal_does_not_wait_for_the_step_to_end(corpus, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match='interrupted without saving; repeat the command to go on from the newest checkpoint'):
        trainer(tmp_path / 'run', a_config(corpus), Interrupting).run()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
