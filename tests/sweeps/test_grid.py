"""Grids and lists: what is written becomes runs with typed values, and what is wrong is said with its line."""

import json

import pytest

from t5x_lite import cli
from t5x_lite.config import Config, DataConfig, HeadConfig, Optimizer, TuneConfig
from t5x_lite.config_values import flatten
from t5x_lite.errors import UserError
from t5x_lite.sweeps import grid


def test_a_grid_is_a_product_in_its_order():
    found = grid.combinations('optim.learning_rate=1e-5, 3e-5; seed=0..2', '', Config())
    assert found == [{'optim.learning_rate': rate, 'seed': seed} for rate in (1e-5, 3e-5) for seed in (0, 1, 2)]
    assert grid.combinations('--config.seed=1;', '', Config()) == [{'seed': 1}], 'as a flag is written'


@pytest.mark.parametrize('text, values', [
    ('optim.learning_rate=1', [1.0]), ('epochs=2,0.5', [2.0, 0.5]), ('seed=-2..0,7', [-2, -1, 0, 7]), ('optim.name=lamb,adamw', ['lamb', 'adamw']),
    ('init_weights=True,false', [True, False]), ('model.crf=1', [True]), ('init_from=runs/a, runs/b ', ['runs/a', 'runs/b']),
    ('init_from="a,b","c;d"', ['a,b', 'c;d']), ("data.validation=''", ['']), ('data.text_columns=body,("a","b"),()', [['body'], ['a', 'b'], []]),
    ('tune.lora=(),((".*/(query|value)", 8, 16.0),)', [[], [['.*/(query|value)', 8, 16.0]]]), ('tune.rates=((".*", 1),)', [[['.*', 1.0]]]),
    ('data.fold=all', [0, 1, 2]),
])  # fmt: skip
def test_values_have_the_types_of_their_fields(text, values):
    base = Config(data=DataConfig(folds=3))
    found = [next(iter(fields.values())) for fields in grid.combinations(text, '', base)]
    assert found == values and [type(value) for value in found] == [type(value) for value in values]
    name = text.partition('=')[0]
    for value in found:
        assert grid.value_of(name, grid.as_text(name, value), '') == value, 'what launch lines hold'
        assert flatten(grid.changed(base, {name: value}))[name] == value


def test_the_base_is_left_alone():
    base = Config()
    changed = grid.changed(base, {'optim.name': 'lamb', 'tune.lora': [['.*', 1, 2.0]]})
    assert changed.optim.name is Optimizer.lamb and changed.tune == TuneConfig(lora=(('.*', 1, 2.0),)) and base == Config()


WRONG = {
    'optim.learning_rat=1': ("'optim.learning_rate'", 'no such field'), 'learning_rate=1': ("'optim.learning_rate'",), 'optim=1': ('group', 'learning_rate'),
    'seed': ("'seed' has no values",), 'seed=': ('no values',), 'seed=0;seed=1': ('seed stands there twice',), 'seed=0,1,0': ('value 0 twice',),
    'seed=1.5': ('seed=1.5', 'a whole number'), 'optim.learning_rate=fast': ('learning_rate=fast', 'a number'), 'optim.name=adam': ("'adamw'",),
    'init_weights=maybe': ('True or False',), 'tune.lora=((".*", 8)': ('bracket is not closed',), 'init_from="a': ('quote is not closed',),
    'tune.lora=((".*", 8),)': ('(pattern, rank, alpha)',), 'seed=4..0': ('smaller first',), 'data.fold=all': ('config.data.folds is 0',),
    'seed=0..999; optim.b1=' + ','.join(f'0.{n}' for n in range(100, 120)): ('20,000 runs',), '=1': ('a value',),
}  # fmt: skip


@pytest.mark.parametrize('text', WRONG)
def test_a_wrong_grid_is_one_line(text):
    with pytest.raises(UserError) as caught:
        grid.combinations(text, '', Config())
    message = str(caught.value)
    assert '\n' not in message and '--' in message and all(word in message for word in WRONG[text]), message


def test_lists_of_runs(tmp_path):
    (tmp_path / 'runs.txt').write_text(
        '\ufeff# strategies, as an editor of Windows saves them\n\ntune.freeze_layers=1   optim.learning_rate=5e-5\n--config.optim.learning_rate=1e-4 \'tune.lora=((".*", 2, 4.0),)\'  # LoRA\n'
    )
    lines = [
        {'tune.freeze_layers': 1, 'optim.learning_rate': 5e-5}, {'optim.learning_rate': 1e-4, 'tune.lora': [['.*', 2, 4.0]]},
    ]  # fmt: skip
    assert grid.combinations('', str(tmp_path / 'runs.txt'), Config()) == lines
    (tmp_path / 'runs.jsonl').write_text(json.dumps(lines[0]) + '\n' + json.dumps({'optim': {'learning_rate': 1e-4}, 'tune.lora': [['.*', 2, 4.0]]}) + '\n\n')
    assert grid.combinations('', str(tmp_path / 'runs.jsonl'), Config()) == lines
    crossed = grid.combinations('seed=0,1', str(tmp_path / 'runs.txt'), Config())
    assert crossed == [line | {'seed': seed} for line in lines for seed in (0, 1)]


BAD_LINES = {
    'runs.txt': [
        ('seed=0\nsed=1\n', ':2: ', "did you mean 'seed'"), ('seed=0\nseed=x\n', ':2: seed=x: ', 'whole number'), ('seed\n', ':1: ', 'no value'),
        ('seed=0 seed=1\n', ':1: ', 'twice'), ('seed=0\n\nseed=0 # again\n', ':3: ', 'runs.txt:1'), ("init_from='a\n", ':1: ', 'no closing quotation'),
        ('# nothing\n', 'no runs in it', ''),
    ],
    'runs.jsonl': [
        ('{"seed": 0}\n{"seed": \n', ':2: ', 'not JSON'), ('[1]\n', ':1: ', 'a JSON object'), ('{"seed": "0"}\n', ':1: ', 'whole number'),
        ('{"optim": {"b3": 1}}\n', ':1: ', "did you mean 'optim.b"),
    ],
}  # fmt: skip


@pytest.mark.parametrize('name, content, where, what', [(name, *case) for name, cases in BAD_LINES.items() for case in cases])
def test_a_wrong_line_is_named(tmp_path, name, content, where, what):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        grid.read_lines(str(path), Config())
    message = str(caught.value)
    assert message.startswith(str(path)) and where in message and what in message and '\n' not in message, message


def test_a_field_in_both_places_is_refused(tmp_path):
    (tmp_path / 'runs.txt').write_text('seed=3\n')
    with pytest.raises(UserError, match=r'runs\.txt:1: seed stands in --grid too'):
        grid.combinations('seed=0,1', str(tmp_path / 'runs.txt'), Config())


def test_flags_and_grids_know_the_same_fields():
    several = Config(heads=(HeadConfig('mood'), HeadConfig('tags')))
    for field in flatten(several):
        assert grid._named(field, '', several) == field and cli.type_of(field)


def test_fields_of_heads():
    several = Config(heads=(HeadConfig('mood'), HeadConfig('tags', weight=0.5)))
    first, second = (grid.changed(several, fields) for fields in grid.combinations('heads.tags.weight=1,2', '', several))
    assert [head.weight for head in second.heads] == [1.0, 2.0] and [head.weight for head in first.heads] == [1.0, 1.0]
    for text in ('heads.moods.weight=1', 'heads=1'):
        with pytest.raises(UserError, match='no such field|several, each with a name'):
            grid.combinations(text, '', several)
