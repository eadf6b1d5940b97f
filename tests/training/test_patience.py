"""Early stopping and the best checkpoint: when a run ends, what it says, and what is then used of it."""

import shutil

import pytest

from t5x_lite import checks
from t5x_lite.config import Best, CheckpointConfig, Config, EvalConfig, ModelConfig
from t5x_lite.config_values import to_json
from t5x_lite.errors import UserError
from t5x_lite.training import checkpoint, patience
from t5x_lite.training.patience import Patience
from tests.training import runs
from tests.training.test_checkpoint import save_steps
from tests.training.test_stopping import STEPS, a_config, compiled_once, corpus, opened, trainer  # noqa: F401  (fixtures)

NAN = float('nan')


def config(best=Best.highest, wait=2, least=0.0, metric='f1'):
    return Config(checkpoint=CheckpointConfig(best_metric=metric, best=best), eval=EvalConfig(patience=wait, min_improvement=least))


@pytest.mark.parametrize(
    ('scores', 'fields', 'stops', 'best'),
    [
        ([0.5, 0.6, 0.6, 0.6], {}, 4, 2),  # the same is no better
        ([0.5, 0.4, 0.6, 0.5, 0.7, 0.6], {}, None, 5),
        ([0.5, 0.4, 0.6, 0.5, 0.55], {}, 5, 3),
        ([0.5, 0.4], {'wait': 1}, 2, 1),
        ([0.5, 0.4, 0.3, 0.2], {'wait': 0}, None, 1),
        ([0.5, 0.4, 0.3, 0.35, 0.33], {'best': Best.lowest}, 5, 3),
        ([0.5, 0.51, 0.52, 0.53], {'least': 0.1}, 3, 4),  # the best is the best, though no improvement counted
        ([0.5, 0.54, 0.58, 0.62], {'least': 0.1, 'wait': 3}, None, 4),  # slowly, yet 0.1 above what was to be beaten
        ([NAN, NAN], {}, 2, 0),
        ([0.5, NAN, NAN], {}, 3, 1),
    ],
)
def test_when_a_run_ends(scores, fields, stops, best):
    """Saved and read back between any two evaluations."""
    waiting, ended = Patience(config(**fields)), None
    for step, score in enumerate(scores, 1):
        waiting.add(step, {'f1': score, 'loss': 1.0})
        waiting = Patience(config(**fields), waiting.state)
        if ended is None and waiting.over:
            ended = step
    assert (ended, waiting.state['step']) == (stops, best)


@pytest.mark.parametrize('metric', ['mlm_loss', 'cross_entropy', 'mean_squared_error', 'perplexity', 'sst2/lm_loss', 'hamming_loss'])
def test_of_losses_less_is_better(metric):
    assert patience.sign(CheckpointConfig(best_metric=metric)) == -1 and patience.sign(CheckpointConfig(best_metric=metric, best=Best.highest)) == 1


@pytest.mark.parametrize('metric', ['accuracy', 'f1', 'matthews', 'spearman', 'exact_match', 'rouge1', 'sst2/accuracy'])
def test_of_scores_more_is_better(metric):
    assert patience.sign(CheckpointConfig(best_metric=metric)) == 1 and patience.sign(CheckpointConfig(best_metric=metric, best=Best.lowest)) == -1


def test_another_metric_begins_anew():
    waiting = Patience(config())
    waiting.add(1, {'f1': 0.9})
    assert Patience(config(), waiting.state).state['best'] == 0.9
    for other in (config(metric='accuracy'), config(best=Best.lowest)):
        assert Patience(other, waiting.state).state['best'] is None


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        ({'patience': 2}, 'config.eval.patience=2 watches config.checkpoint.best_metric, which is empty'),
        ({'min_improvement': 0.1}, 'config.eval.min_improvement=0.1 is for config.eval.patience, which is 0'),
        ({'patience': 2, 'every_steps': 0, 'metric': 'f1'}, 'config.eval.patience=2 needs evaluations on the way, and config.eval.every_steps is 0'),
        ({'patience': -1}, 'config.eval.patience is -1; it must be at least 0'),
        ({'every_epochs': -0.5}, 'config.eval.every_epochs is -0.5'),
    ],
)
def test_what_cannot_be_is_said(fields, said):
    metric = fields.pop('metric', '')
    with pytest.raises(UserError) as error:
        checks.finalize(Config(model=ModelConfig(module='a:B'), checkpoint=CheckpointConfig(best_metric=metric), eval=EvalConfig(**fields)))
    assert said in str(error.value)


STOPS = {'checkpoint.best_metric': 'mlm_loss', 'eval.every_steps': 2, 'eval.patience': 2, 'eval.min_improvement': 100.0, 'checkpoint.every_steps': 100}


def test_a_run_stops_early_and_says_so_for_good(corpus, tmp_path, capsys):  # noqa: F811
    workdir, planned = tmp_path / 'run', a_config(corpus, **STOPS)
    trainer(workdir, planned).run()
    said = capsys.readouterr().out.splitlines()[-1]
    losses = {line['step']: line['eval/mlm_loss'] for line in opened(workdir).lines() if 'eval/mlm_loss' in line}
    best = min(losses, key=losses.get)
    assert sorted(losses) == [2, 4, 6] and opened(workdir).saved()[-1] == 6 < STEPS
    assert said.startswith(f'stopped early, at step 6: no better mlm_loss in 2 evaluations; the best mlm_loss is {losses[best]:.4g}, of step {best}, which')
    before, lines = opened(workdir).saved(), opened(workdir).lines()
    trainer(workdir, planned).run()
    assert f'finished: {workdir} has stopped early, at step 6' in capsys.readouterr().out
    assert opened(workdir).saved() == before and opened(workdir).lines() == lines
    for lost in (1, 2, 3):  # the newest checkpoints, as if it had been killed before they were written
        again = tmp_path / str(lost)
        shutil.copytree(workdir, again)
        for step in before[-lost:]:
            shutil.rmtree(again / 'checkpoints' / str(step))
        trainer(again, planned).run()
        assert said.startswith(capsys.readouterr().out.splitlines()[-1])
        runs.assert_same(opened_with_output(again), opened(workdir))


def opened_with_output(workdir):
    run = opened(workdir)
    run.output = ''
    return run


def test_a_run_that_ends_says_its_best(corpus, tmp_path, capsys):  # noqa: F811
    planned = a_config(corpus, **{'checkpoint.best_metric': 'mlm_accuracy', 'eval.patience': 9})
    for first_words in (f'finished {STEPS} steps; ', f'finished: all {STEPS} steps of '):
        trainer(tmp_path / 'run', planned).run()
        said = capsys.readouterr().out.splitlines()[-1]
        scores = {line['step']: line['eval/mlm_accuracy'] for line in opened(tmp_path / 'run').lines() if 'eval/mlm_accuracy' in line}
        best = max(scores, key=scores.get)
        assert said.startswith(first_words)
        assert f'; the best mlm_accuracy is {scores[best]:.4g}, of step {best}, which evaluate, predict, convert and init_from take' in said


def workdir_of(folder, metrics, **fields):
    save_steps(folder, list(metrics), metrics, keep_last=9)
    (folder / 'config.json').write_text(to_json(Config(checkpoint=CheckpointConfig(**fields))))
    return folder


def test_the_best_is_used_where_a_run_has_one(tmp_path):
    run = workdir_of(tmp_path, {1: 5.0, 2: 2.0, 3: NAN, 4: 3.0}, best_metric='loss')
    choice = checkpoint.choose(run)
    assert (choice.workdir, choice.step) == (str(run), 2) == checkpoint.locate(run)
    assert choice.said == f'{run}: step 2 is taken, the best by loss (2); the newest, step 4, is {run}/checkpoints/newest'
    for path in (run / 'checkpoints', run / 'checkpoints' / 'best'):
        assert checkpoint.locate(path) == (str(run), 2)
    assert checkpoint.locate(run / 'checkpoints' / 'newest') == (str(run), 4) and checkpoint.locate(run / 'checkpoints' / '1') == (str(run), 1)
    for which, step in (('newest', 4), ('best', 2), ('3', 3)):
        assert checkpoint.choose(run, which) == checkpoint.Choice(str(run), step)
    assert checkpoint.is_there(f'{run}/checkpoints/newest') and not checkpoint.is_there(f'{run}/gone/checkpoints/newest')
    assert float(checkpoint.load_params(run)[1]['w'][0]) == 6.0  # three times the number of the step, as its average is


def test_the_newest_is_used_where_there_is_no_best(tmp_path):
    rising, falling = {1: 1.0, 2: 2.0}, {1: 3.0, 2: 2.0}
    for name, metric, metrics in (('no_metric', '', rising), ('no_score', 'f1', rising), ('last', 'loss', falling)):
        fields = {'best_metric': metric}
        assert checkpoint.choose(workdir_of(tmp_path / name, metrics, **fields)) == checkpoint.Choice(str(tmp_path / name), 2)


@pytest.mark.parametrize(
    ('which', 'said'),
    [('7', 'has no checkpoint of step 7; there are those of 1, 2, and best and newest'), ('bset', '--step=bset is no step'), ('best', 'has no best')],
)
def test_what_is_not_there_is_refused(tmp_path, which, said):
    with pytest.raises(UserError, match=said):
        checkpoint.choose(workdir_of(tmp_path, {1: 1.0, 2: 2.0}), which)
