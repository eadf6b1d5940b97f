"""The report: what is drawn and tabled is what the runs wrote."""

import builtins
import json
import re
import subprocess
import sys

import pytest

from t5x_lite.config import Config
from t5x_lite.config_values import to_json
from t5x_lite.errors import UserError
from t5x_lite.evaluation import reporting

matplotlib = pytest.importorskip('matplotlib')


def _run(path, lines, scores=None, **config):
    path.mkdir(parents=True)
    (path / 'config.json').write_text(to_json(Config(**config)))
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    if scores:
        (path / 'evaluation.json').write_text(json.dumps(scores))
    return str(path)


@pytest.fixture
def pretrained(tmp_path):
    lines = [
        {'step': 10, 'loss': 7.0, 'mlm_loss': 6.0, 'mlm_accuracy': 0.1, 'seconds_per_step': 2.0, 'layer_norms': {'update': {}}},
        {'step': 20, 'loss': 6.0, 'mlm_loss': 5.0, 'mlm_accuracy': 0.2, 'seconds_per_step': 4.0},
        {'step': 20, 'eval/mlm_loss': 5.5, 'eval/mlm_accuracy': 0.15, 'eval_seconds': 1.0},
    ]
    return _run(tmp_path / 'runs' / 'first', lines, {'step': 20, 'mlm_loss': 5.25, 'mlm_accuracy': 0.175, 'unigram_loss': 6.5})


@pytest.fixture
def tuned(tmp_path):
    def lines(end):
        return [
            {'step': 5, 'loss': 2.0, 'accuracy': 0.2, 'seconds_per_step': 1.0},
            {'step': 5, 'eval/accuracy': 0.3, 'eval/macro_f1': 0.25},
            {'step': 10, 'loss': 1.0, 'accuracy': 0.4, 'seconds_per_step': 1.0},
            {'step': 10, 'eval/accuracy': end, 'eval/macro_f1': 0.35},
        ]

    return [
        _run(tmp_path / 'runs' / 'a' / 'tuned', lines(0.5), init_from='runs/first'),
        _run(tmp_path / 'runs' / 'b' / 'tuned', lines(0.45), init_from='runs/first', init_weights=False),
    ]


def _cells(text):
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line]


def test_table_holds_the_scores_of_each_run(pretrained, tuned, tmp_path):
    text = reporting.report([pretrained, *tuned], str(tmp_path / 'out'))
    assert (tmp_path / 'out' / 'summary.md').read_text() == text + '\n'
    first, second = text.split('\n\n')
    header, rule, row = _cells(first)
    # 10 steps of 2 s and 10 of 4 s; evaluation.json before what training saw.
    assert dict(zip(header, row, strict=True)) == {
        'run': 'first', 'weights': 'from random', 'step': '20', 'mlm loss': '5.2500', 'mlm accuracy': '0.1750', 'unigram loss': '6.5000', 'training': '1:00 min'
    }  # fmt: skip
    assert all(re.fullmatch('-+:?', cell) for cell in rule)
    header, _, *rows = _cells(second)
    assert [row[:5] for row in rows] == [
        ['a/tuned', 'from first', '10', '0.5000', '0.3500'],
        ['b/tuned', 'from random', '10', '0.4500', '0.3500'],
    ]
    assert header[3:5] == ['accuracy', 'macro f1']


def test_the_goodput_of_runs_stands_below_the_table(pretrained, tuned, tmp_path):
    record = {'from_step': 0, 'step': 10, 'time': 1000.0, 'up': 20.0, 'seconds': {'start_up': 4.0, 'compile': 1.0}, 'ended': True}
    (tmp_path / 'runs' / 'first' / 'goodput.jsonl').write_text(json.dumps(record) + '\n')
    text = reporting.table(reporting.read_runs([pretrained, *tuned]))
    assert text.endswith('\n\n- first: goodput 75.0% of 0:20 in 1 launch; start-up 20.0%, compile 5.0%')


def test_picture_shows_the_curves(pretrained, tuned, tmp_path):
    reporting.report([pretrained, *tuned], str(tmp_path / 'out'))
    png = (tmp_path / 'out' / 'curves.png').read_bytes()
    assert png.startswith(b'\x89PNG') and len(png) > 5000
    runs = reporting.read_runs([pretrained, *tuned])
    figure = reporting.draw(runs, ['mlm_loss', 'accuracy'], matplotlib.figure.Figure)
    loss, accuracy = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ['mlm loss', 'accuracy']
    assert all(axes.get_xlabel() == 'step' for axes in figure.axes)

    def lines(axes):
        return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}

    assert lines(loss) == {'training': ([10, 20], [6.0, 5.0]), 'held out': ([20], [5.5]), 'unigram: 6.5': ([0, 1], [6.5, 6.5])}
    assert lines(accuracy) == {
        'a/tuned, training': ([5, 10], [0.2, 0.4]),
        'a/tuned, held out': ([5, 10], [0.3, 0.5]),
        'b/tuned, training': ([5, 10], [0.2, 0.4]),
        'b/tuned, held out': ([5, 10], [0.3, 0.45]),
    }
    colours = {line.get_label(): line.get_color() for line in accuracy.lines}
    assert colours['a/tuned, training'] == colours['a/tuned, held out'] != colours['b/tuned, held out']


def test_metrics_drawn_by_default_are_those_measured_twice(pretrained, tuned, tmp_path, monkeypatch):
    drawn = []
    real = reporting.draw
    monkeypatch.setattr(reporting, 'draw', lambda runs, metrics, kind: drawn.append(list(metrics)) or real(runs, metrics, kind))
    reporting.report([pretrained, *tuned], str(tmp_path / 'out'))
    reporting.report([pretrained, *tuned], str(tmp_path / 'out'), ['macro_f1', 'mlm_loss'])
    assert drawn == [['mlm_loss', 'mlm_accuracy', 'accuracy'], ['macro_f1', 'mlm_loss']]


def test_a_run_that_still_writes(pretrained):
    with open(f'{pretrained}/metrics.jsonl', 'a') as file:
        file.write('{"step": 30, "lo')
    run = reporting.read_run(pretrained, 'live')
    assert run.train['loss'] == ([10, 20], [7.0, 6.0])


def _expect(message, *arguments):
    with pytest.raises(UserError, match=message) as caught:
        reporting.report(*arguments)
    assert '\n' not in str(caught.value)


def test_what_is_wrong_is_said(pretrained, tuned, tmp_path):
    out = str(tmp_path / 'out')
    _expect('--workdirs is empty', [], out)
    _expect('nowhere is not the folder of a run', [pretrained, str(tmp_path / 'nowhere')], out)
    _expect("--metrics=mlm_los: no run has it, did you mean 'mlm_loss'", [pretrained], out, ['mlm_los'])
    _expect('metrics.jsonl has no lines yet', [_run(tmp_path / 'empty', [])], out)
    with open(f'{pretrained}/metrics.jsonl') as file:
        lines = file.read().splitlines()
    with open(f'{pretrained}/metrics.jsonl', 'w') as file:
        file.write('\n'.join([lines[0], lines[1][:9], lines[2]]) + '\n')
    _expect(r'metrics.jsonl:2: not an object with a step', [pretrained], out)
    with open(f'{tuned[0]}/evaluation.json', 'w') as file:
        file.write('{"step": 10,\n')
    _expect(r'evaluation.json:2: not JSON', [tuned[0]], out)


def test_without_matplotlib_the_mend_is_named(pretrained, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest):
        if name.startswith('matplotlib'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, '__import__', refuse)
    _expect("pip install 'matplotlib>=3.8'", [pretrained], str(tmp_path / 'out'))
    assert not (tmp_path / 'out').exists()


def test_command(pretrained, tuned, tmp_path):
    command = [sys.executable, '-m', 't5x_lite.report', f'--workdirs={pretrained},{tuned[0]}', f'--output={tmp_path}/out', '--metrics=mlm_loss,accuracy']
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / 'out' / 'curves.png').exists()
    assert (tmp_path / 'out' / 'summary.md').read_text() in result.stdout
    result = subprocess.run([*command[:3], f'--workdirs={tmp_path}/no', f'--output={tmp_path}/out'], capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count('\n') == 1 and 'error: ' in result.stderr


def test_scores_of_tasks_are_columns():
    written = {'lm_loss': 1.0, 'tasks': {'as taught': {'sst2': {'accuracy': 90.0}}, '4 shots': {'sst2': {'accuracy': 70.0, 'unparsed': 1.0}}}}
    assert reporting._of_tasks(written) == {'sst2 accuracy': 90.0, 'sst2 accuracy, 4 shots': 70.0, 'sst2 unparsed, 4 shots': 1.0}
    assert reporting._of_tasks({'lm_loss': 1.0}) == {}
