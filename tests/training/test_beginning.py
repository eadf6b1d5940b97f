"""A run that begins with weights draws those alone that they lack, and is traced once before it is compiled."""

import jax
import numpy as np
import pytest

from configs import classify
from t5x_lite import dry_run
from t5x_lite.assemble import assemble
from t5x_lite.training import driving, partitioning, paths, sharing
from t5x_lite.training.beginning import begun
from t5x_lite.training.step import make_program
from tests.commands.material import changed
from tests.data.table_material import rows_of, tsv
from tests.test_heads_on_any_weights import SOURCES, weights


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp('beginning')
    (place / 't.tsv').write_text(tsv(rows_of(40)))
    config = classify.get_config()
    config.init_from, config.data.train = weights(SOURCES['bert'][0], place / 'weights'), str(place / 't.tsv')
    return assemble(changed(config, data__seq_len=16, data__length_buckets=(), batch_size=8, eval__batch_size=8, steps=4, epochs=0.0, ema_decay=0.9))


def test_only_what_weights_lack_is_drawn(run):
    program = make_program(run.config, partitioning.make_mesh(run.config))
    with jax.set_mesh(program.mesh):
        whole, said = program.init(), []
        state = begun(program, run.initial, said.append)
        fresh = ['classifier/bias', 'classifier/kernel']
        assert list(paths.leaves(program.init(only=fresh).params)) == fresh and not program.init(only=fresh).ema
    assert 'at random: classifier/bias, classifier/kernel' in said[0]
    loaded, drawn = paths.leaves(run.initial), paths.leaves(whole.params)
    for path, leaf in paths.leaves(state.params).items():
        wanted = drawn[path] if path in fresh else loaded[path]
        np.testing.assert_allclose(leaf, wanted, rtol=1e-6, err_msg=path)
        np.testing.assert_array_equal(leaf, paths.leaves(state.ema)[path])
        assert leaf.sharding == drawn[path].sharding
    rest = [[one.opt_state, one.step, one.skipped] for one in (state, whole)]
    jax.tree.map(np.testing.assert_array_equal, *rest)
    assert jax.tree.structure(state) == jax.tree.structure(whole)


def test_what_was_traced_to_see_whether_a_run_can_start_is_compiled(run, monkeypatch, capsys):
    sharing.forget()
    times, traced, told = [], driving.traced, []
    monkeypatch.setattr(driving, 'traced', lambda *given: times.append(1) or traced(*given))
    dry_run.check(run, told.append)
    assert len(told) == 1 and told[0].startswith('attention: ')
    program = make_program(run.config, partitioning.make_mesh(run.config))
    with jax.set_mesh(program.mesh):
        state, batch = begun(program, run.initial, lambda said: None), run.train.batch(0)
        placed = partitioning.to_devices(batch, partitioning.batch_shardings(batch, program.mesh, 16), slice(0, 8), 8)
        step, seconds = driving.compiled(program, state, placed)
        _, metrics = step(state, placed, driving.placed_numbers(program))
    assert len(times) == 1 and seconds > 0 and metrics['finite']
    assert capsys.readouterr().out.splitlines()[0] == told[0], 'said where the step is compiled'
