"""float16: gradients of a scaled loss, steps that are passed over, and a scale that finds its place."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.checks import finalize
from t5x_lite.config import Activation, DType, NonFinite
from t5x_lite.errors import UserError
from t5x_lite.models.layers import ACTIVATIONS
from t5x_lite.training import driving, loss_scale, partitioning
from t5x_lite.training.step import make_program, make_train_step
from tests.training import runs, small
from tests.training.test_stopping import a_config, corpus as corpus, opened, trainer

HALF = {'dtype': DType.float16}
FAR_TOO_LARGE = 2.0**127  # for any step
TOO_LARGE = 2.0**24  # for some


def states(run, batches=None, devices=None):
    """[(state, metrics of the step before it)], from the beginning."""
    mesh = partitioning.make_mesh(run, devices or small.one_device())
    program = make_program(run, mesh)
    with jax.set_mesh(mesh):
        state, step = program.init(), jax.jit(make_train_step(program))
        found = [(state, None)]
        for host in batches or [small.batch()]:
            state, metrics = step(state, host)
            found.append((state, metrics))
    return found


@pytest.fixture(scope='module')
def alone():
    return small.train(small.config(model=HALF), devices=small.one_device())


def test_gradients_do_not_depend_on_the_scale_and_are_those_of_float32(alone):
    lower = small.train(small.config(model=HALF, optim={'loss_scale': 2.0**10}), devices=small.one_device())
    exact = small.train(small.config(), devices=small.one_device())
    np.testing.assert_allclose(lower.curve, alone.curve, rtol=1e-3)
    np.testing.assert_allclose(alone.curve, exact.curve, rtol=5e-3)  # 11 bits of mantissa


def test_small_gradients_are_lost_without_a_scale_and_kept_with_one():
    """Losses over a million times smaller leave gradients that float16 rounds to nothing."""
    norms = {}
    for scale in (1.0, 2.0**24):
        run = small.config(model=HALF, optim={'loss_scale': scale}, loss='tests.training.test_loss_scale:Faint')
        norms[scale] = float(states(run)[-1][1]['grad_norm'])
    exact = float(states(small.config(loss='tests.training.test_loss_scale:Faint'))[-1][1]['grad_norm'])
    assert abs(norms[2.0**24] / exact - 1) < 0.01 < abs(norms[1.0] / exact - 1)


class Faint:
    def __init__(self, config):
        del config

    def weights(self, batch):
        return {'loss': jnp.float32(1)}

    def __call__(self, outputs, batch):
        return {'loss': jnp.mean(jnp.square(outputs['mlm_logits'].astype(jnp.float32))) * 1e-6}, {}


def test_parts_on_a_mesh_and_layers_unrolled_give_the_same_numbers(alone):
    """To float16's rounding: sums of parts are in float32."""
    run = small.config(model=HALF | {'scan_layers': False}, optim={'microbatches': 2}, mesh={'data': 2, 'fsdp': 2, 'tensor': 2})
    other = small.train(run)
    np.testing.assert_allclose(other.curve, alone.curve, rtol=2e-3)
    assert float(other.state.loss_scale.scale) == float(alone.state.loss_scale.scale) == 2.0**16
    assert int(other.state.loss_scale.finite) == int(alone.state.loss_scale.finite) == 3


@pytest.mark.parametrize('mesh', [{}, {'data': 2, 'fsdp': 2, 'tensor': 2}], ids=str)
def test_a_step_beyond_float16_changes_nothing_but_the_scale_and_is_counted(mesh):
    optim = {'loss_scale': FAR_TOO_LARGE, 'microbatches': 2 if mesh else 1}
    run = small.config(model=HALF, optim=optim, mesh=mesh, ema_decay=0.9)
    (before, _), (after, metrics) = states(run, devices=jax.devices() if mesh else None)
    for one, other in ((before.params, after.params), (before.opt_state, after.opt_state), (before.ema, after.ema)):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x).view(np.uint32), np.asarray(y).view(np.uint32)), one, other)
    assert not bool(metrics['finite']) and bool(metrics['overflowed']) and np.isfinite(float(metrics['loss']))
    assert (int(after.skipped), int(after.step), int(after.loss_scale.finite)) == (1, 1, 0)
    assert float(after.loss_scale.scale) == FAR_TOO_LARGE / 2


def test_the_scale_doubles_after_so_many_finite_steps_in_a_row():
    run = small.config(model=HALF, optim={'loss_scale': 64.0, 'loss_scale_steps': 2})
    found = [(float(state.loss_scale.scale), int(state.loss_scale.finite)) for state, _ in states(run, batches=[small.batch(seed=n) for n in range(5)])]
    assert found == [(64, 0), (64, 1), (128, 0), (128, 1), (256, 0), (256, 1)]


def test_an_overflow_starts_the_count_anew_and_the_scale_never_falls_below_one():
    run = small.config(model=HALF, optim={'loss_scale': 2.0, 'loss_scale_steps': 3})
    state = loss_scale.begin(run)
    seen = []
    for finite in (True, True, False, True, False, True, True, True):
        state = loss_scale.after(state, run, jnp.asarray(finite))
        seen.append((float(state.scale), int(state.finite)))
    assert seen == [(2, 1), (2, 2), (1, 0), (1, 1), (1, 0), (1, 1), (1, 2), (2, 0)]


def test_what_no_scale_can_mend_is_no_overflow():
    state, no = loss_scale.begin(small.config(model=HALF)), jnp.asarray(False)
    assert bool(loss_scale.overflowed(state, jnp.float32(1), no))
    assert not bool(loss_scale.overflowed(state, jnp.float32(np.nan), no))
    assert not bool(loss_scale.overflowed(state.replace(scale=jnp.float32(1)), jnp.float32(1), no))
    assert not bool(loss_scale.overflowed({}, jnp.float32(1), no))


def test_other_dtypes_have_no_scale():
    assert loss_scale.begin(small.config()) == {} == loss_scale.begin(small.config(model={'dtype': DType.bfloat16}))


def test_a_run_that_stops_at_what_is_not_finite_passes_over_overflows_and_says_so(corpus, tmp_path, capsys):
    fields = {'model.dtype': DType.float16, 'optim.loss_scale': TOO_LARGE, 'optim.nonfinite': NonFinite.stop}
    trainer(tmp_path / 'run', a_config(corpus, **fields)).run()
    run, said = opened(tmp_path / 'run'), capsys.readouterr().out
    lines = [line for line in run.lines() if 'steps_skipped' in line]
    first = next(number for number, line in enumerate(lines) if not line['steps_skipped'])
    assert first > 0 and not any(line['steps_skipped'] for line in lines[first:])
    assert [line['loss_scale'] for line in lines] == [TOO_LARGE / 2 ** min(number, first) for number in range(len(lines))]
    assert said.count('the step is passed over, and the scale') == first and 'step 1: a gradient was not finite in float16' in said
    end = run.contents(len(lines))
    assert end['training/skipped'] == first and np.isfinite(lines[-1]['loss'])


def test_a_run_that_is_resumed_goes_on_with_its_scale(corpus, tmp_path):
    fields = {'model.dtype': DType.float16, 'optim.loss_scale': TOO_LARGE, 'optim.loss_scale_steps': 2}
    whole = trainer(tmp_path / 'whole', a_config(corpus, **fields))
    whole.run()
    cut = trainer(tmp_path / 'cut', a_config(corpus, **fields))
    steps, one = cut.steps(), driving.One()
    with jax.set_mesh(cut.mesh):
        for asked in steps:
            one.take(asked)
            if asked.step == 4:
                cut.on_signal(signal.SIGTERM, None)  # saved at the end of this step
    trainer(tmp_path / 'cut', a_config(corpus, **fields)).run()
    runs.assert_same(opened(tmp_path / 'cut'), opened(tmp_path / 'whole'))
    assert opened(tmp_path / 'cut').contents(5)['training/loss_scale/scale'] < TOO_LARGE


@pytest.mark.parametrize('wrong', [0.5, 3.0, 1000.0, float('inf'), float('nan')])
def test_a_scale_that_would_round_is_refused(wrong):
    with pytest.raises(UserError, match='config.optim.loss_scale is .*power of two'):
        small.config(model=HALF, optim={'loss_scale': wrong})


def test_features_are_not_kept_in_float16():
    run = small.config()
    run.tune.feature_dtype = DType.float16
    with pytest.raises(UserError, match='config.tune.feature_dtype=float16'):
        finalize(run)


@pytest.mark.parametrize('activation', list(Activation))
def test_activations_and_their_gradients_are_finite_wherever_float16_is(activation):
    x = jnp.asarray([-60000.0, -300.0, -41.0, 0.0, 41.0, 300.0, 60000.0], jnp.float16)
    value, gradient = jax.vmap(jax.value_and_grad(lambda x: ACTIVATIONS[activation](x)))(x)
    assert value.dtype == jnp.float16
    np.testing.assert_array_equal(value, jnp.maximum(x, 0))
    np.testing.assert_array_equal(np.asarray(gradient, np.float32)[[0, 1, 2, 4, 5, 6]], [0, 0, 0, 1, 1, 1])
