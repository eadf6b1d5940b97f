"""Tasks by name, people's own files, and rates."""

import os

import pytest

from t5x_lite.config import Rates, TaskConfig
from t5x_lite.errors import UserError
from t5x_lite.tasks import registry, text_formats
from t5x_lite.tasks.registry import Mixture, Task
from t5x_lite.tasks.sources import Made
from tests import golden

SIZES = {'a': 100, 'b': 300, 'c': 1600}


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    monkeypatch.setattr(registry, '_KNOWN', dict(registry._KNOWN))
    monkeypatch.setattr(registry, '_LOADED', {})


def _task(name):
    return Task(name, Made(lambda split: []), text_formats.language_model)


def _known(*mixtures):
    names = {part for mixture in mixtures for part in mixture.parts} - {mixture.name for mixture in mixtures}
    for item in (*map(_task, sorted(names | SIZES.keys())), *mixtures):
        registry.register(item)


def _rates(*names, **fields):
    return registry.rates(TaskConfig(names=names, **fields), SIZES.__getitem__)


def test_rates():
    _known()
    assert _rates('a', 'b', 'c') == SIZES
    assert _rates('a', 'b', 'c', maximum=200) == {'a': 100, 'b': 200, 'c': 200}
    assert _rates('a', 'c', temperature=2.0) == pytest.approx({'a': 10, 'c': 40})
    assert _rates('a', 'b', rates=Rates.equal) == {'a': 1, 'b': 1}
    assert _rates('a', 'b', rates=Rates.given, weights=(3.0, 0.0)) == {'a': 3, 'b': 0}
    with pytest.raises(UserError, match='1 values for 2 names'):
        _rates('a', 'b', rates=Rates.given, weights=(3.0,))


def test_rates_of_nested_mixtures():
    _known(Mixture('inner', {'a': 1, 'b': 3}), Mixture('outer', {'inner': 2, 'a': 1, 'c': 0}), Mixture('sizes', ('a', 'b'), maximum=100))
    assert _rates('outer', rates=Rates.equal) == pytest.approx({'a': (0.5 + 1) / 3, 'b': 1.5 / 3, 'c': 0})
    assert _rates('sizes', 'c') == {'a': 200, 'b': 200, 'c': 1600}, 'as many examples as its tasks, divided by its own rates'
    assert [task.name for task in registry.tasks_of(['outer', 'b'])] == ['a', 'b', 'c']


def test_mixtures_that_are_none():
    with pytest.raises(UserError, match='mixture empty holds no task'):
        Mixture('empty', ())
    with pytest.raises(UserError, match='rates are given, and parts have none'):
        Mixture('odd', ('a',), Rates.given)
    _known(Mixture('one', {'two': 1}), Mixture('two', {'one': 1}), Mixture('naught', {'a': 0}), Mixture('small', ('p', 'q'), maximum=3))
    with pytest.raises(UserError, match=r'mixture one holds itself \(one > two > one\)'):
        registry.tasks_of(['one'])
    with pytest.raises(UserError, match='mixture naught: all its rates are 0'):
        _rates('naught')
    with pytest.raises(UserError, match=r'tasks.maximum is between several names, and the mixture small has its own; .*tasks.names=p,q, or set it in'):
        registry.check_alone(TaskConfig(names=('small',), maximum=5))
    registry.check_alone(TaskConfig(names=('small', 'a'), maximum=5))


def test_a_misspelt_name():
    with pytest.raises(UserError, match="no task or mixture 'glue_ret', did you mean 'glue_rte'"):
        registry.find('glue_ret')
    assert registry.find('glue_rte').labels == ('entailment', 'not_entailment')
    assert {'glue', 'super_glue', 'squad', 'cnn_dailymail', 'wmt14_en_de', 'addition_2_digits'} <= set(registry.known())
    for name in ('glue', 'super_glue'):
        assert registry.tasks_of([name]), 'every part is there'


MINE = """from t5x_lite.tasks import registry, text_formats
from t5x_lite.tasks.sources import Made

registry.register(registry.Task('mine', Made(lambda split: []), text_formats.language_model))
registry.register(registry.Mixture('both', ('mine', 'squad')))
"""


def test_files_of_ones_own(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(MINE)
    registry.load([str(path)])
    registry.load([str(path)])
    assert [task.name for task in registry.tasks_of(['both'])] == ['mine', 'squad']
    path.write_text(MINE.replace("'both'", "'other'"))
    os.utime(path, (1, 1))
    registry.load([str(path)])
    assert 'other' in registry.known() and 'both' not in registry.known(), 'read again, since it changed'
    second = tmp_path / 'second.py'
    second.write_text(MINE)
    with pytest.raises(UserError, match=r"second.py:4: 'mine' is registered already, in .*mine.py:4; give it another name"):
        registry.load([str(second)])
    assert 'both' not in registry.known(), 'nothing stays of a file that failed'
    second.write_text(MINE.replace("'mine'", "'squad'"))
    with pytest.raises(UserError, match=r"second.py:4: 'squad' is registered already, in tasks/builtin.py"):
        registry.load([str(second)])


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('x = 1\ny = (', r'bad.py:2: '),
        ('x = 1\nx.y', r"bad.py:2: AttributeError: 'int' object"),
        ('import nowhere_to_be_found', r'bad.py:1: ModuleNotFoundError'),
        ("from t5x_lite.tasks.task import Mixture\n\nMixture('m', ())", r'bad.py:3: mixture m holds no task'),
    ],
)
def test_broken_files_of_tasks(tmp_path, text, said):
    (tmp_path / 'bad.py').write_text(text)
    with pytest.raises(UserError, match=said):
        registry.load([str(tmp_path / 'bad.py')])
    with pytest.raises(UserError, match='files=nowhere.py: no such file'):
        registry.load(['nowhere.py'])


def test_rates_of_the_reference():
    checked = 0
    for number, case in enumerate(golden.cases('mixtures_averages')):
        function, given, expected = case['function'], case['input'], case['expected']
        if function.startswith('mixing rate'):
            examples = given['text_chars'] if 'text_chars' in given else given['examples'] * given['scale']
            found = registry.mixing_rate(examples, given.get('maximum'), given['temperature'])
            assert found == pytest.approx(expected, abs=max(case['tolerance'], 1e-12))
        elif function.startswith('rates of nested'):
            renamed = {name: f'{name}{number}' for part in given.values() for name, _ in part} | {name: f'{name}{number}' for name in given}
            mixtures = [Mixture(renamed[name], {renamed[part]: weight for part, weight in parts}) for name, parts in given.items()]
            for task in renamed.keys() - given.keys():
                registry.register(_task(renamed[task]))
            for mixture in mixtures:
                registry.register(mixture)
            top = mixtures[-1]
            found = registry.rates(TaskConfig(names=(top.name,), rates=Rates.given, weights=(sum(top.parts.values()),)), None)
            assert found == pytest.approx({renamed[name]: value for name, value in expected.items()}, abs=max(case['tolerance'], 1e-12))
        elif function.startswith('mixing proportions'):
            for name in given['examples']:
                registry.register(_task(f'{name}{number}'))
            names, sizes = tuple(f'{name}{number}' for name in given['examples']), {f'{name}{number}': size for name, size in given['examples'].items()}
            fields = {'maximum': given['maximum'], 'temperature': float(given['temperature'])}
            found = registry.rates(TaskConfig(names=names, **fields), sizes.__getitem__)
            whole = sum(found.values())
            assert {name.removesuffix(str(number)): rate / whole for name, rate in found.items()} == pytest.approx(expected, abs=case['tolerance'])
        elif 'mixture weights' in function:
            mixture = registry.find('super_glue' if 'Super' in function else 'glue')
            assert {name.removeprefix('super_').removeprefix('glue_'): weight for name, weight in mixture.parts.items()} == {
                {'wsc_eval': 'wsc'}.get(name, name): weight for name, weight in expected.items()
            }
        else:
            assert 'average' in function or function.startswith('best step')  # of scores: tests/evaluation/test_metrics_golden.py
            continue
        checked += 1
    assert checked == 14
