"""Warnings in words: series like those of real runs, of which some must warn and others must not."""

import json

import numpy as np
import pytest

from t5x_lite.config import Config, ModelConfig
from t5x_lite.evaluation import metrics
from t5x_lite.training import watch
from t5x_lite.training.watch import Watch


def noisy(means, spread, seed=0):
    means = np.asarray(means, np.float64)
    return (means + np.random.default_rng(seed).normal(0, spread, means.shape)).tolist()


def fall(start, end, steps):
    return end + (start - end) * np.exp(-np.arange(steps) / (steps / 5))


SERIES = {
    'fine-tuning two classes': (noisy(fall(0.69, 0.15, 400), 0.12), ''),
    'fine-tuning that learns nothing': (noisy(np.full(400, 0.693), 0.05), ''),
    'a short run': (noisy(fall(1.1, 0.5, 30), 0.2), ''),
    'pre-training': (noisy(fall(10.4, 6.2, 1000), 0.1), ''),
    'going on with small batches': (noisy(np.full(400, 2.1), 0.4), ''),
    'spikes that pass': (noisy(np.where(np.arange(1000) % 150 < 4, 9.0, fall(7, 3, 1000)), 0.1), ''),
    'a warm-up that bends upwards first': (noisy(np.concatenate([np.linspace(2.0, 2.5, 50), fall(2.5, 1.5, 400)]), 0.1), ''),
    'squared errors of small targets': (noisy(fall(0.02, 0.01, 300), 0.01), ''),
    'a language model that is torn down': (noisy(np.concatenate([np.full(50, 2.4), 2.4 + 5 * (1 - np.exp(-np.arange(300) / 40))]), 0.2), 'diverging'),
    'three classes at too high a rate': (noisy(np.concatenate([np.full(30, 1.1), np.full(300, 2.4)]), 0.3), 'diverging'),
    'back at the loss of a guess': (noisy(np.concatenate([fall(0.69, 0.2, 300), np.linspace(0.2, 0.7, 30), np.full(100, 0.70)]), 0.08), 'forgetting'),
}


def warned(path):
    return [line.partition(':')[0] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize('name', SERIES)
def test_of_training_losses(name, tmp_path, capsys):
    losses, kind = SERIES[name]
    watching = Watch(Config(steps=len(losses)), tmp_path)
    for step, loss in enumerate(losses, 1):
        watching.trained(step, loss)
    assert warned(tmp_path / watch.FILE) == [kind] * bool(kind)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == bool(kind) and all(line.startswith(f'warning: {kind}: at step ') for line in said)


HELD_OUT = {
    'still getting better': ([0.6, 0.5, 0.45, 0.42, 0.41], [0.7, 0.5, 0.4, 0.3, 0.25], False),
    'noise at the bottom': ([0.41, 0.412, 0.413, 0.415], [0.3, 0.28, 0.27, 0.26], False),
    'up and down': ([0.40, 0.45, 0.43, 0.48, 0.46], [0.3, 0.28, 0.27, 0.26, 0.25], False),
    'both rise': ([0.40, 0.45, 0.50, 0.60], [0.3, 0.35, 0.4, 0.5], False),
    'three evaluations': ([0.40, 0.45, 0.50], [0.3, 0.2, 0.1], False),
    'learnt by heart': ([0.45, 0.40, 0.44, 0.50, 0.58], [0.5, 0.3, 0.2, 0.1, 0.04], True),
}


@pytest.mark.parametrize('name', HELD_OUT)
def test_of_held_out_losses(name, tmp_path):
    held_out, trained, warns = HELD_OUT[name]
    watching = Watch(Config(steps=1000), tmp_path)
    for evaluation, (loss, before) in enumerate(zip(held_out, trained)):
        for step in range(4):
            watching.trained(evaluation * 4 + step + 1, before)
        watching.evaluated((evaluation + 1) * 4, {'cross_entropy': loss, 'accuracy': 0.8})
    assert warned(tmp_path / watch.FILE) == ['over-fitting'] * warns


def test_the_loss_of_an_evaluation_is_that_of_the_whole():
    assert watch.held_out_loss({'mlm_loss': 2.0, 'nsp_loss': 0.5, 'mlm_accuracy': 0.4}) == 2.5
    assert watch.held_out_loss({'lm_loss': 2.0, 'z_loss': 0.1, 'sst2/lm_loss': 1.0}) == 2.0
    assert watch.held_out_loss({'sst2/lm_loss': 1.0, 'trec/lm_loss': 2.0}) == 3.0
    assert watch.held_out_loss({'binary_cross_entropy': 0.2, 'hamming_loss': 0.9}) == 0.2
    assert watch.held_out_loss({'accuracy': 1.0}) is None and watch.held_out_loss({'lm_loss': float('nan')}) is None


@pytest.mark.parametrize('classes', [2, 3, 6])
def test_one_class_is_known_by_its_scores(classes):
    rng = np.random.default_rng(classes)
    for count in (20, 97, 1000):
        targets = rng.integers(0, classes, count)
        for label in range(classes):
            assert watch.one_class(metrics.classification(targets, np.full(count, label), classes), classes)
        one_other = np.full(count, 1)
        one_other[0] = 0
        for predictions in (one_other, rng.integers(0, classes, count), targets):
            assert not watch.one_class(metrics.classification(targets, predictions, classes), classes)
    assert not watch.one_class({'accuracy': 0.5, 'f1': 0.5}, 2) and not watch.one_class({'mean_squared_error': 0.5}, 1)


def test_of_two_classes_no_other_predictions_have_the_scores_of_one(n=6):
    """All targets of two classes and all predictions, of six examples."""
    rows = [np.array([number >> place & 1 for place in range(n)]) for number in range(2**n)]
    for targets in rows[1:-1]:
        for predictions in rows:
            assert watch.one_class(metrics.classification(targets, predictions, 2), 2) == (predictions.min() == predictions.max())


def test_one_class_warns_at_the_only_evaluation_of_a_run_that_has_ended(tmp_path):
    alike, apart = {'accuracy': 0.6, 'f1': 0.75, 'matthews': 0.0}, {'accuracy': 0.6, 'f1': 0.5, 'matthews': 0.2}
    for name, step, scores, kinds in (('begun', 9, alike, []), ('apart', 10, apart, []), ('alike', 10, alike, ['one class'])):
        (folder := tmp_path / name).mkdir()
        Watch(Config(steps=10, model=ModelConfig(num_labels=2)), folder).evaluated(step, scores)
        assert (folder / watch.FILE).exists() == bool(kinds), name
    assert warned(folder / watch.FILE) == kinds and 'at the evaluation before' not in (folder / watch.FILE).read_text()


def test_one_class_warns_at_the_second_evaluation_in_a_row(tmp_path):
    watching, path = Watch(Config(model=ModelConfig(num_labels=2)), tmp_path), tmp_path / watch.FILE
    alike, apart = {'accuracy': 0.6, 'f1': 0.75, 'matthews': 0.0}, {'accuracy': 0.6, 'f1': 0.5, 'matthews': 0.2}
    for step, scores in enumerate((alike, apart, alike), 1):
        watching.evaluated(step, scores)
    assert not path.exists()
    watching.evaluated(4, alike)
    assert warned(path) == ['one class']


def test_each_is_said_once_and_a_resumed_run_warns_as_one_never_stopped(tmp_path, capsys):
    losses, _ = SERIES['a language model that is torn down']
    (tmp_path / watch.FILE).write_text('rate: of a run that stood there before\n')
    config, texts = Config(steps=len(losses)), []
    for stop in (0, 60, 75, 200):
        folder = tmp_path if not stop else tmp_path / str(stop)
        folder.mkdir(exist_ok=True)
        watching = Watch(config, folder)
        for step, loss in enumerate(losses, 1):
            if step == stop:  # what a checkpoint brings back
                watching = Watch(config, folder, json.loads(json.dumps(watching.state)), new=False)
            watching.trained(step, loss)
        texts.append((folder / watch.FILE).read_text())
    assert len(set(texts)) == 1 and texts[0].startswith('diverging: at step ') and texts[0].count('\n') == 1
    assert capsys.readouterr().out.count('warning') == 4
