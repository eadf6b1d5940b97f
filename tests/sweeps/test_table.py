"""The table, the picture and the best config are what the runs wrote."""

import csv
import dataclasses
import math

import pytest

from t5x_lite.config import Best, CheckpointConfig, TuneConfig
from t5x_lite.config_values import from_json
from t5x_lite.errors import UserError
from t5x_lite.sweeps import picture, plan, table
from tests.sweeps.fake_runs import BASE, failed, sweep_of, trained

RATES = 'optim.learning_rate=1e-5,1e-4,1e-3; seed=0,1'
SCORES = {(1e-5, 0): (2.0, 0.5), (1e-5, 1): (2.2, 0.7), (1e-4, 0): (1.0, 0.9), (1e-4, 1): (1.5, 0.6), (1e-3, 0): (0.9, 0.95)}


def cells(text):
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in text.splitlines()]


@pytest.fixture
def sweep(tmp_path):
    """Three rates with two seeds each; the highest rate diverges with one of them, and is best with the other."""
    sweep = sweep_of(tmp_path, RATES, metric='accuracy')
    for run in sweep.runs:
        key = (run.config.optim.learning_rate, run.config.seed)
        if key in SCORES:
            loss, accuracy = SCORES[key]
            trained(run, {10: {'mlm_loss': 9.0, 'accuracy': 0.1}, 20: {'mlm_loss': loss, 'accuracy': accuracy}})
        else:
            failed(run)
    return sweep


def test_means_decide_and_a_group_with_failures_does_not_win(sweep):
    results = table.collect(sweep)
    assert (results.metric, results.highest) == ('accuracy', True)
    assert [group.mean for group in results.groups] == pytest.approx([0.6, 0.75, 0.95])
    assert [group.deviation for group in results.groups] == pytest.approx([0.02**0.5, 0.045**0.5, math.nan], nan_ok=True)
    assert results.best.values == {'optim.learning_rate': 1e-4}
    text = table.write(sweep, results)
    assert from_json(f'{sweep.folder}/best.json') == sweep.runs[2].config
    means = cells(text.split('\n\n')[1])
    assert means[0] == ['learning rate', 'accuracy, mean', 'standard deviation', 'runs']
    assert means[2:] == [['1e-05', '0.6000', '0.1414', '2'], ['0.0001', '0.7500', '0.2121', '2'], ['0.001', '0.9500', '-', '1 of 2']]
    assert '5 of 6 runs are finished.' in text and 'Best by accuracy (highest mean): optim.learning_rate=0.0001 (0.7500 ± 0.2121, 2 runs)' in text
    assert 'learning_rate=0.001_seed=1 diverged: step 3: loss nan' in text


def test_rows_hold_fields_scores_and_costs(sweep):
    text = table.write(sweep, table.collect(sweep))
    head, rule, *rows = cells(text.split('\n\n')[0])
    assert head == ['learning rate', 'seed', 'accuracy', 'mlm loss', 'step', 'training', 'learns', 'run'] and all(set(cell) <= {'-', ':'} for cell in rule)
    assert rows[0] == ['1e-05', '0', '0.5000', '2.0000', '20', '40.0 s', rows[0][6], 'learning_rate=1e-05_seed=0']
    assert rows[5][2:] == ['-', '-', '-', '0.0 s', '-', 'learning_rate=0.001_seed=1 (diverged)']
    with open(f'{sweep.folder}/sweep.csv', newline='') as file:
        found = list(csv.DictReader(file))
    assert [row['state'] for row in found] == ['finished'] * 5 + ['diverged'] and found[5]['reason'] == 'step 3: loss nan' and found[5]['accuracy'] == ''
    assert (found[1]['optim.learning_rate'], found[1]['seed'], found[1]['mlm_loss'], found[1]['seconds']) == ('1e-05', '1', '2.2', '40.0')


def test_the_metric_and_its_direction(sweep):
    loss = dataclasses.replace(sweep, metric='')
    assert (table.collect(loss).metric, table.collect(loss).highest) == ('mlm_loss', False)
    assert table.collect(loss).best.values == {'optim.learning_rate': 1e-4}
    assert table.collect(dataclasses.replace(sweep, best='lowest')).best.values == {'optim.learning_rate': 1e-5}
    with pytest.raises(UserError, match="--metric=acuracy: no run has it, did you mean 'accuracy'"):
        table.collect(dataclasses.replace(sweep, metric='acuracy'))
    config = dataclasses.replace(BASE, checkpoint=CheckpointConfig(best_metric='accuracy', best=Best.lowest))
    assert (table.collect(dataclasses.replace(loss, base=config)).metric, table.collect(dataclasses.replace(loss, base=config)).highest) == ('accuracy', False)


def test_with_a_best_checkpoint_its_scores_count(tmp_path):
    config = dataclasses.replace(BASE, checkpoint=CheckpointConfig(best_metric='accuracy', best=Best.highest))
    sweep = sweep_of(tmp_path, 'seed=0', config)
    trained(sweep.runs[0], {10: {'mlm_loss': 1.0, 'accuracy': 0.8}, 20: {'mlm_loss': 0.5, 'accuracy': 0.6}})
    row = table.collect(sweep).rows[0]
    assert row.scores == {'mlm_loss': 1.0, 'accuracy': 0.8} and row.step == 10


def test_what_is_unfinished_is_said(tmp_path):
    sweep = sweep_of(tmp_path, 'seed=0,1,2')
    nothing = table.write(sweep, table.collect(sweep))
    assert '0 of 3 runs are finished.' in nothing and nothing.count('(waiting)') == 3
    assert not (tmp_path / 'best.json').exists()
    trained(sweep.runs[0], {20: {'mlm_loss': 1.0}})
    trained(sweep.runs[1], {10: {'mlm_loss': 0.1}}, finished=False)
    results = table.collect(sweep)
    text = table.write(sweep, results)
    assert '10 of 20' in text and 'seed=1 (begun)' in text and 'seed=2 (waiting)' in text and results.groups[0].mean == 1.0
    assert 'No group of runs is whole yet.' in text and (tmp_path / 'best.json').exists()


def test_a_score_that_is_not_a_number_leaves_no_mean(tmp_path):
    sweep = sweep_of(tmp_path, 'seed=0,1', metric='pearson')
    trained(sweep.runs[0], {20: {'mse': 1.0, 'pearson': 0.5}})
    trained(sweep.runs[1], {20: {'mse': 1.0, 'pearson': None}})
    results = table.collect(sweep)
    assert math.isnan(results.groups[0].mean) and results.best is None and '| -' in table.write(sweep, results)


def test_folds_are_repeats_and_the_best_config_is_without_them(tmp_path):
    base = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, folds=2))
    sweep = sweep_of(tmp_path, 'optim.learning_rate=1e-5,1e-4; data.fold=all', base)
    for run, loss in zip(sweep.runs, (3.0, 1.0, 2.5, 2.1), strict=True):
        trained(run, {20: {'mlm_loss': loss}})
    results = table.collect(sweep)
    assert [group.mean for group in results.groups] == [2.0, 2.3] and results.best is results.groups[0]
    table.write(sweep, results)
    best = from_json(str(tmp_path / 'best.json'))
    assert (best.data.folds, best.data.fold, best.optim.learning_rate) == (0, 0, 1e-5)


def test_parameters_that_learn_are_counted():
    whole = table.learning(BASE)
    frozen = table.learning(dataclasses.replace(BASE, tune=TuneConfig(freeze_layers=1)))
    layer = 4 * (8 * 8 + 8) + 8 * 16 + 16 + 16 * 8 + 8 + 4 * 8
    embeddings = (16 + 8 + 2) * 8 + 2 * 8
    assert whole - frozen == layer + embeddings
    assert table.learning(dataclasses.replace(BASE, tune=TuneConfig(train=('.*/bias',)), seed=3)) < frozen
    assert table.learning(dataclasses.replace(BASE, tune=TuneConfig(unfreeze=((0.5, 'encoder/embeddings/.*', 1.0),)))) == whole


def test_fields_that_vary(tmp_path):
    sweep = sweep_of(tmp_path, 'seed=0; optim.b1=0.8,0.9')
    assert table.fields_that_vary(sweep.runs) == {'optim.b1': [0.8, 0.9]}
    added = sweep_of(tmp_path, 'seed=1')
    assert table.fields_that_vary(added.runs) == {'seed': [0, 1], 'optim.b1': [0.8, 0.9]}, "the base's value where a run names none"


# The picture.


def drawn(sweep):
    matplotlib = pytest.importorskip('matplotlib.figure')
    return picture.draw(table.collect(sweep), matplotlib.Figure)


def lines(axes):
    """{label: points}; [points] of those without a label, in their order, under ''."""
    found = {'': []}
    for line in axes.lines:
        points = [*map(float, line.get_xdata())], [*map(float, line.get_ydata())]
        if line.get_label().startswith('_'):
            found[''].append(points)
        else:
            found[line.get_label()] = points
    return found


def test_a_picture_of_rates_and_seeds(sweep):
    (axes,) = drawn(sweep).axes
    assert axes.get_xscale() == 'log' and axes.get_xlabel() == 'optim.learning_rate' and axes.get_ylabel() == 'accuracy (faint: runs)'
    found = lines(axes)
    means, hollow, points, failed = found['']
    assert means[0] == [1e-5, 1e-4, 1e-3] and means[1] == pytest.approx([0.6, 0.75, 0.95])
    assert points == ([1e-5, 1e-5, 1e-4, 1e-4, 1e-3], [0.5, 0.7, 0.9, 0.6, 0.95])
    assert hollow == ([1e-3], [0.95]) and failed[0] == [1e-3] and found['best: 0.75'] == ([1e-4], [0.75])
    assert 'failed (hollow: mean of the others)' in found
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ['1e-5', '1e-4', '1e-3']


def test_a_line_for_each_value_and_a_panel_for_each_of_the_rest(tmp_path):
    sweep = sweep_of(tmp_path, 'optim.name=adamw,lamb; batch_size=8,16,32; epochs=1,2')
    for number, run in enumerate(sweep.runs):
        trained(run, {20: {'mlm_loss': float(number)}})
    figure = drawn(sweep)
    assert [axes.get_title() for axes in figure.axes] == ['epochs=1', 'epochs=2']
    assert all(axes.get_xlabel() == 'batch_size' and axes.get_xscale() == 'linear' for axes in figure.axes)
    assert lines(figure.axes[0])['lamb'] == ([8, 16, 32], [6.0, 8.0, 10.0]) and lines(figure.axes[1])['adamw'] == ([8, 16, 32], [1.0, 3.0, 5.0])
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_names_stand_side_by_side(tmp_path):
    sweep = sweep_of(tmp_path, 'optim.name=adamw,lamb; seed=0,1')
    for number, run in enumerate(sweep.runs):
        trained(run, {20: {'mlm_loss': float(number)}})
    (axes,) = drawn(sweep).axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ['adamw', 'lamb']
    assert lines(axes)[''][0] == ([0.0, 1.0], [0.5, 2.5]) and axes.lines[0].get_linestyle() == 'None'


def test_lists_of_strategies_are_told_apart_by_what_they_name(tmp_path):
    fields = [{'tune.freeze_layers': 1}, {'tune.train': ['.*/bias']}, {'tune.lora': [['.*', 1, 2.0]]}, {'tune.ia3': True}]
    alone = plan.opened(str(tmp_path / 'a'), BASE, fields)
    alone.save()
    crossed = plan.opened(str(tmp_path / 'b'), BASE, [line | {'optim.learning_rate': rate} for line in fields for rate in (1e-5, 1e-4)])
    crossed.save()
    for number, run in enumerate((*alone.runs, *crossed.runs)):
        trained(run, {20: {'mlm_loss': float(number)}})
    (axes,) = drawn(alone).axes
    names = ['freeze_layers=1', "train=('.*/bias',)", "lora=(('.*', 1, 2.0),)", 'ia3=True']
    assert [tick.get_text().replace('\n', ' ') for tick in axes.get_xticklabels()] == names
    (axes,) = drawn(crossed).axes
    assert axes.get_xlabel() == 'optim.learning_rate' and set(names) < lines(axes).keys() and lines(axes)['ia3=True'] == ([1e-5, 1e-4], [10.0, 11.0])


def test_long_names_are_divided_between_words(tmp_path):
    fields = [{'optim.name': 'lamb', 'tune.lora': [['.*/attention/(query|value)', 4, 8.0]]}, {'tune.freeze': ['encoder/embeddings/.*', 'encoder/layers/[01]/.*']}]
    sweep = plan.opened(str(tmp_path), BASE, fields)
    sweep.save()
    for number, run in enumerate(sweep.runs):
        trained(run, {20: {'mlm_loss': float(number)}})
    (axes,) = drawn(sweep).axes
    assert [tick.get_text().split('\n') for tick in axes.get_xticklabels()] == [
        ['name=lamb,', "lora=(('.*/attention/(que...", '4, 8.0),)'], ["freeze=('encoder/embeddin...", "'encoder/layers/[01]/.*')"]
    ]  # fmt: skip


def test_a_legend_stays_within_the_picture(tmp_path):
    parts = ('norm', 'word', 'position', 'norm|word', 'word|position')
    strategies = [{}, *({'tune.freeze': [f'encoder/embeddings/({part})/.*']} for part in parts)]
    fields = [{'optim.learning_rate': rate} | strategy for rate in (1e-5, 1e-4) for strategy in strategies]
    sweep = plan.opened(str(tmp_path), BASE, fields)
    sweep.save()
    for number, run in enumerate(sweep.runs):
        trained(run, {20: {'mlm_loss': float(number)}})
    figure = drawn(sweep)
    figure.canvas.draw()
    (legend,), whole = figure.legends, figure.bbox
    extent = legend.get_window_extent()
    assert len(legend.get_texts()) == 7 and whole.x0 <= extent.x0 and extent.x1 <= whole.x1


def test_seeds_alone(tmp_path):
    sweep = sweep_of(tmp_path, 'seed=0..3')
    for number, run in enumerate(sweep.runs):
        trained(run, {20: {'mlm_loss': float(number)}})
    (axes,) = drawn(sweep).axes
    assert lines(axes)[''] == [([0.0], [1.5]), ([0.0] * 4, [0.0, 1.0, 2.0, 3.0])]


def test_a_picture_is_written(sweep, tmp_path):
    pytest.importorskip('matplotlib')
    picture.write(str(tmp_path), table.collect(sweep))
    assert (tmp_path / 'sweep.png').read_bytes().startswith(b'\x89PNG')


