"""What a checkpoint promises: the same bits back on any mesh, the right ones kept, a damaged one passed over, a wrong one refused."""

import contextlib
import logging
import os
import resource
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.config import Best, CheckpointConfig, Config, DType, Optimizer
from t5x_lite.errors import UserError
from t5x_lite.training import checkpoint, partitioning, paths, processes
from t5x_lite.training.checkpoint import Checkpoints
from t5x_lite.training.step import TrainState, make_program, make_train_step
from tests.training import runs, small

# Orbax leaves such behind when a load or a save fails.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning', 'ignore:coroutine:RuntimeWarning')


def tiny_state(step: int) -> TrainState:
    """Four arrays that say which step they are of."""
    w = jnp.arange(2000, dtype=jnp.float32) + step
    return TrainState(jnp.int32(step), {'w': w}, {'m': w * 2}, {'w': w * 3}, jnp.int32(0))


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def save_steps(workdir, steps, metrics=None, **config):
    checkpoints = Checkpoints(workdir, CheckpointConfig(**config))
    for step in steps:
        checkpoints.save(step, tiny_state(step), {'at': step}, {'loss': metrics[step]} if metrics else None)
    checkpoints.close()


def assert_bitwise(ours, theirs):
    ours, theirs = paths.leaves(ours), paths.leaves(theirs)
    assert ours.keys() == theirs.keys()
    for path in ours:
        assert ours[path].dtype == theirs[path].dtype and np.asarray(ours[path]).tobytes() == np.asarray(theirs[path]).tobytes(), path


def assert_is_step(restored, step):
    state, run = restored
    assert run == {'at': step}
    assert_bitwise(state, tiny_state(step))


def names(workdir):
    return sorted(os.listdir(os.path.join(workdir, 'checkpoints')))


class Stepper:
    """A program, its compiled step and batches for it."""

    def __init__(self, config, devices=None):
        self.mesh = partitioning.make_mesh(config, devices)
        self.program = make_program(config, self.mesh)
        self.shardings = partitioning.batch_shardings(small.batch(), self.mesh, small.LENGTH)
        placed = (self.program.shardings, self.shardings)
        self._step = jax.jit(make_train_step(self.program), donate_argnums=0, in_shardings=placed, out_shardings=(placed[0], None))

    def init(self):
        with jax.set_mesh(self.mesh):
            return self.program.init()

    def go(self, state, first, last):
        with jax.set_mesh(self.mesh):
            for step in range(first, last):
                batch = partitioning.to_devices(small.batch(seed=step), self.shardings, slice(0, small.ROWS), small.ROWS)
                state, _ = self._step(state, batch)
        return state


def host(tree):
    return jax.tree.map(lambda x: np.array(x, copy=True), tree)


@pytest.mark.parametrize(
    'optim, model',
    [
        ({}, {'dtype': DType.bfloat16}),
        ({'name': Optimizer.lamb}, {}),
        ({'name': Optimizer.adafactor}, {'d_model': 128}),  # wide enough to be factored
    ],
    ids=['adamw in bfloat16', 'lamb', 'adafactor'],
)
def test_every_array_of_the_state_comes_back_bit_for_bit_and_training_goes_on_the_same(tmp_path, optim, model):
    config = small.config(optim=optim, model={'module': runs.TOY} | model, ema_decay=0.9)
    stepper = Stepper(config, small.one_device())
    state = stepper.go(stepper.init(), 0, 3)
    saved = host(state)
    checkpoints = Checkpoints(tmp_path, config.checkpoint)
    checkpoints.save(3, state, {'at': 3})
    went_on = stepper.go(state, 3, 5)  # the buffers are given away while they are being written
    checkpoints.wait()
    restored, _ = checkpoints.restore(lambda *_: stepper.program.abstract)
    assert_bitwise(restored, saved)
    assert jax.tree.structure(restored) == jax.tree.structure(stepper.program.abstract)
    assert_bitwise(stepper.go(restored, 3, 5), went_on)
    checkpoints.close()


MESHES = [
    {'data': 8},
    {'data': 1, 'fsdp': 8},
    {'data': 1, 'tensor': 8},
    {'data': 2, 'fsdp': 2, 'tensor': 2},
    {'data': 2, 'tensor': 2, 'sequence': 2},
]


@pytest.fixture(scope='module')
def bert_on_eight(tmp_path_factory):
    """(workdir with a state of BERT on eight devices, that state)."""
    workdir = tmp_path_factory.mktemp('bert_on_eight')
    config = small.config(mesh={'data': 2, 'fsdp': 2, 'tensor': 2}, ema_decay=0.5)
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: jax.device_put(rng.integers(0, 1 << 20, leaf.shape).astype(leaf.dtype), leaf.sharding),
        make_program(config, partitioning.make_mesh(config)).abstract,
    )
    checkpoints = Checkpoints(workdir, config.checkpoint)
    checkpoints.save(2, state, {'at': 2})
    checkpoints.close()
    return workdir, host(state)


@pytest.mark.parametrize('mesh', [*MESHES, None], ids=str)
def test_restores_onto_another_mesh_bit_for_bit(bert_on_eight, mesh):
    workdir, saved = bert_on_eight
    config = small.config(mesh=mesh or {}, ema_decay=0.5)
    program = make_program(config, partitioning.make_mesh(config, None if mesh else small.one_device()))
    restored, _ = Checkpoints(workdir, config.checkpoint).restore(lambda *_: program.abstract)
    assert_bitwise(restored, saved)
    assert jax.tree.map(lambda x: x.sharding, restored) == program.shardings


@pytest.fixture(scope='module')
def toy_on_eight(tmp_path_factory):
    """(workdir with a checkpoint of step 2, parameters at step 4)."""
    workdir = tmp_path_factory.mktemp('toy_on_eight')
    stepper = Stepper(small.config(model={'module': runs.TOY}, mesh={'data': 2, 'fsdp': 2, 'tensor': 2}))
    state = stepper.go(stepper.init(), 0, 2)
    checkpoints = Checkpoints(workdir, CheckpointConfig())
    checkpoints.save(2, state, {'at': 2})
    state = stepper.go(state, 2, 4)
    checkpoints.close()
    return workdir, host(state.params)


@pytest.mark.parametrize('mesh', [{'data': 4, 'tensor': 2}, None], ids=str)
def test_training_goes_on_to_the_same_numbers_on_another_mesh(toy_on_eight, mesh):
    workdir, went_on = toy_on_eight
    stepper = Stepper(small.config(model={'module': runs.TOY}, mesh=mesh or {}), None if mesh else small.one_device())
    restored, _ = Checkpoints(workdir, CheckpointConfig()).restore(lambda *_: stepper.program.abstract)
    at_2 = host(restored.params)
    went_on_here = stepper.go(restored, 2, 4).params
    assert small.largest_difference(at_2, went_on) > 1e-3
    assert small.largest_difference(went_on_here, went_on) < 1e-5


def truncate(path):
    with open(path, 'r+b') as file:
        file.truncate(os.path.getsize(path) // 2)


def flip(path):
    with open(path, 'r+b') as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 4]))


# Killed before it was listed, a checkpoint has no checksums, and a flipped bit cannot be told in every file.
@pytest.mark.parametrize('listed, damage', [(True, truncate), (True, flip), (True, os.remove), (False, truncate), (False, os.remove)])
def test_a_checkpoint_with_any_file_damaged_is_set_aside_for_the_one_before(tmp_path, listed, damage):
    whole = tmp_path / 'whole'
    save_steps(whole, [1, 2])
    folder = whole / 'checkpoints' / '2'
    files = sorted(path.relative_to(folder) for path in folder.rglob('*') if path.is_file() and path.stat().st_size)
    assert len(files) > 10
    if not listed:
        os.remove(whole / 'checkpoints' / '2.files')
    for number, file in enumerate(files):
        workdir, warnings = tmp_path / str(number), []
        shutil.copytree(whole, workdir)
        damage(workdir / 'checkpoints' / '2' / file)
        checkpoints = Checkpoints(workdir, CheckpointConfig(), warnings.append)
        restored = checkpoints.restore(lambda *_: abstract(tiny_state(0)))
        checkpoints.close()
        if not listed and not warnings:  # a file that Orbax can do without
            assert_is_step(restored, 2)
            continue
        assert_is_step(restored, 1)
        assert len(warnings) == 1 and warnings[0].startswith('warning: the checkpoint of step 2 cannot be read ('), file
        assert 'torn-2' in names(workdir) and '2' not in names(workdir) and '2.files' not in names(workdir)


def test_a_step_that_was_torn_is_saved_again_and_both_are_kept(tmp_path):
    save_steps(tmp_path, [1, 2])
    flip(next((tmp_path / 'checkpoints' / '2').rglob('_METADATA')))
    assert_is_step(Checkpoints(tmp_path, CheckpointConfig(), lambda line: None).restore(lambda *_: abstract(tiny_state(0))), 1)
    save_steps(tmp_path, [2, 3], keep_last=2)
    assert names(tmp_path) == ['2', '2.files', '3', '3.files', 'torn-2', 'torn-2.files']
    assert_is_step(Checkpoints(tmp_path, CheckpointConfig()).restore(lambda *_: abstract(tiny_state(0))), 3)


def test_where_no_checkpoint_can_be_read_the_run_does_not_begin_again_unasked(tmp_path):
    save_steps(tmp_path, [1])
    flip(next((tmp_path / 'checkpoints' / '1').rglob('_METADATA')))
    for _ in range(2):  # nor when the command is repeated
        with pytest.raises(UserError, match='no checkpoint in .* can be read'):
            Checkpoints(tmp_path, CheckpointConfig(), lambda line: None).restore(lambda *_: abstract(tiny_state(0)))


def test_a_whole_checkpoint_that_does_not_fit_is_not_called_torn(tmp_path):
    save_steps(tmp_path, [1])
    other = tiny_state(0).replace(params={'w': jnp.zeros(3), 'v': jnp.zeros(3)})
    with pytest.raises(UserError, match='step 1 .* is whole, but cannot be restored'):
        Checkpoints(tmp_path, CheckpointConfig()).restore(lambda *_: abstract(other))
    assert names(tmp_path) == ['1', '1.files']


def test_the_last_n_are_kept(tmp_path):
    save_steps(tmp_path, range(1, 7), keep_last=2)
    assert names(tmp_path) == ['5', '5.files', '6', '6.files']


def test_every_kth_is_kept_too(tmp_path):
    save_steps(tmp_path, range(1, 8), keep_last=1, keep_every_steps=3)
    assert [name for name in names(tmp_path) if name.isdigit()] == ['3', '6', '7']


@pytest.mark.parametrize('best, kept', [(Best.lowest, 3), (Best.highest, 2)])
def test_the_best_is_kept_too_across_restarts(tmp_path, best, kept):
    metrics = {1: 5.0, 2: 9.0, 3: 2.0, 4: 4.0, 5: float('nan'), 6: 4.0, 7: 3.0}
    options = {'keep_last': 2, 'best_metric': 'loss', 'best': best}
    save_steps(tmp_path, [1, 2, 3, 4], metrics, **options)
    save_steps(tmp_path, [5, 6, 7], metrics, **options)
    assert [name for name in names(tmp_path) if name.isdigit()] == [str(kept), '6', '7']


def test_best_by_a_metric_that_older_checkpoints_lack(tmp_path):
    save_steps(tmp_path, [1, 2])
    save_steps(tmp_path, [3, 4, 5], {3: 1.0, 4: 2.0, 5: 3.0}, keep_last=1, best_metric='loss')
    assert [name for name in names(tmp_path) if name.isdigit()] == ['3', '5']


def test_what_the_run_adds_to_its_sums_while_a_save_is_under_way_is_not_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    run = {'at': 1, 'window': {'loss': [1.0, 1.0]}}
    checkpoints.save(1, tiny_state(1), run)
    run['window']['loss'][0] = 100.0
    run['window']['new'] = [1.0, 1.0]
    checkpoints.wait()
    assert checkpoints.restore(lambda *_: abstract(tiny_state(0)))[1] == {'at': 1, 'window': {'loss': [1.0, 1.0]}}
    checkpoints.close()


def test_saving_a_step_twice_is_harmless(tmp_path):
    save_steps(tmp_path, [1, 1])
    assert names(tmp_path) == ['1', '1.files']


class limited_files:
    """No file may grow beyond a few kilobytes: what a full disk does to a save, for users without the right to mount one."""

    def __enter__(self):
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, self._before[1]))

    def __exit__(self, *error):
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.mark.parametrize('when', ['wait', 'next save', 'close'])
def test_a_save_that_fails_is_told_at_the_next_moment_and_leaves_the_earlier_ones_whole(tmp_path, when, capfd):
    save_steps(tmp_path, [1, 2])
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    with limited_files():
        checkpoints.save(3, tiny_state(3), {'at': 3})
        moments = {'wait': checkpoints.wait, 'next save': lambda: checkpoints.save(4, tiny_state(4), {'at': 4}), 'close': checkpoints.close}
        with pytest.raises(UserError, match=r'of step 3 could not be saved in .*File too large.*steps 1, 2 are whole') as error:
            moments[when]()
    assert '\n' not in str(error.value)
    checkpoints.close()
    assert 'Traceback' not in capfd.readouterr().err  # no pages of Orbax's beside the line
    assert_is_step(Checkpoints(tmp_path, CheckpointConfig()).restore(lambda *_: abstract(tiny_state(0))), 2)


@pytest.mark.parametrize('several', [False, True])
def test_a_save_that_failed_because_another_process_is_gone_is_nothing_to_mend(tmp_path, several, monkeypatch):
    def lost(*args, **kwargs):
        raise ValueError('UNKNOWN: Gloo AllGather failed: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:45207')

    with contextlib.closing(Checkpoints(tmp_path, CheckpointConfig())) as checkpoints:
        monkeypatch.setattr(processes, 'several', lambda: several)
        monkeypatch.setattr(checkpoints._checkpointer, 'save_checkpointables_async', lost)
        with pytest.raises(ValueError, match='Connection closed by peer') as error:
            checkpoints.save(3, tiny_state(3), {'at': 3})
        assert isinstance(error.value, UserError) != several
        monkeypatch.undo()


def weights(config: Config):
    program = make_program(config, partitioning.make_mesh(config, small.one_device()))
    return jax.tree.map(lambda leaf: np.random.default_rng(0).standard_normal(leaf.shape, np.float32), program.abstract.params)


def test_a_process_that_cannot_write_its_part_does_not_wait_for_those_that_wait_for_it(tmp_path):
    """Orbax would, for twenty minutes; its log says at once what is wrong."""
    checkpoints = Checkpoints(str(tmp_path), CheckpointConfig())
    log, asked = logging.getLogger('absl'), []

    class Response:
        def result(self, timeout):
            asked.append(timeout)
            for folder in ('/other/checkpoints/5',) * (len(asked) == 2) + (f'{tmp_path}/checkpoints/5',) * (len(asked) == 4):
                try:
                    raise ValueError('No space left on device')
                except ValueError:
                    path = '/site-packages/orbax/checkpoint/_src/checkpointers/async_checkpointer.py'
                    log.handle(log.makeRecord('absl', logging.ERROR, path, 1, 'Failed to run 4 commit operations, directory: %s', (folder,), sys.exc_info()))
            raise TimeoutError

    with pytest.raises(ValueError, match='No space left on device'):
        checkpoints._look_out(Response(), len(checkpoint._failures))
    assert len(asked) == 4, 'what another run of this process could not save is not its own'

    class LateBarrier:
        def result(self, timeout):
            raise TimeoutError('Timed out while waiting for async_write_complete barrier.')

    with pytest.raises(TimeoutError, match='barrier'):
        checkpoints._look_out(LateBarrier(), len(checkpoint._failures))


def test_parameters_alone_are_saved_and_read_back(tmp_path):
    config = small.config(model={'module': runs.TOY}, ema_decay=0.9)  # the folder holds no average, whatever the config says
    params = weights(config)
    checkpoint.save_params(tmp_path / 'only', config, params, '')
    read, found = checkpoint.load_params(tmp_path / 'only')
    assert read == config
    assert_bitwise(found, params)
    with pytest.raises(UserError, match='holds checkpoints already'):
        checkpoint.save_params(tmp_path / 'only', config, params, '')


def test_the_average_of_the_weights_is_read_where_there_is_one_and_not_where_it_is_declined(tmp_path):
    save_steps(tmp_path, [1])
    (tmp_path / 'config.json').write_text(checkpoint.to_json(small.config(ema_decay=0.9)))
    assert_bitwise(checkpoint.load_params(tmp_path)[1], tiny_state(1).ema)
    assert_bitwise(checkpoint.load_params(tmp_path, ema=False)[1], tiny_state(1).params)
    assert_bitwise(checkpoint.load_params(tmp_path / 'checkpoints' / '1')[1], tiny_state(1).ema)


def test_parameters_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match='no such folder'):
        checkpoint.load_params(tmp_path / 'absent')
    with pytest.raises(UserError, match='no checkpoint of ours'):
        checkpoint.load_params(tmp_path)
    save_steps(tmp_path, [1, 2])
    (tmp_path / 'config.json').write_text(checkpoint.to_json(small.config()))
    flip(next((tmp_path / 'checkpoints' / '2').rglob('_METADATA')))
    with pytest.raises(UserError, match=r'2: the checkpoint cannot be read \(.*_METADATA does not hold what .*\); name an earlier one'):
        checkpoint.load_params(tmp_path)
    assert_bitwise(checkpoint.load_params(tmp_path / 'checkpoints' / '1')[1], tiny_state(1).ema)


def test_merging_names_what_does_not_fit():
    ours = {'encoder': {'kernel': jnp.zeros((4, 2))}, 'head': {'bias': jnp.zeros(3)}}
    with pytest.raises(UserError, match=r'runs/a: parameter encoder/kernel has shape \(4, 3\), the model of this config \(4, 2\)'):
        checkpoint.merge(ours, {'encoder': {'kernel': np.zeros((4, 3))}}, ('head/.*',), 'runs/a')
    with pytest.raises(UserError, match=r"runs/a has no parameter head/bias, did you mean 'heads/bias'.*init_fresh"):
        checkpoint.merge(ours, {'encoder': {'kernel': np.zeros((4, 2))}, 'heads': {'bias': np.zeros(3)}}, (), 'runs/a')
    merged, fresh = checkpoint.merge(ours, {'encoder': {'kernel': np.ones((4, 2))}}, ('head/.*',), 'runs/a')
    assert fresh == ['head/bias'] and float(merged['encoder']['kernel'].sum()) == 8 and merged['head']['bias'] is ours['head']['bias']
    # A head for another number of classes begins anew; one for as many goes on.
    theirs = {'encoder': {'kernel': np.ones((4, 2))}, 'head': {'bias': np.ones(5)}}
    assert checkpoint.merge(ours, theirs, ('head/.*',), 'runs/a')[1] == ['head/bias']
    theirs['head']['bias'] = np.ones(3)
    merged, fresh = checkpoint.merge(ours, theirs, ('head/.*',), 'runs/a')
    assert not fresh and float(merged['head']['bias'].sum()) == 3


def test_a_long_reason_keeps_its_end_where_tensorstore_says_it():
    text = checkpoint._brief(OSError('Error writing\n' + 'a/very/long/path/' * 100 + ': No space left on device'))
    assert text.startswith('Error writing a/very') and text.endswith('No space left on device') and len(text) < 310
