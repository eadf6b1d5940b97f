"""Rows of tasks: layouts, packing, mixtures whose rates hold for examples."""

import json
import pickle

import numpy as np
import pytest

from t5x_lite.checks import finalize
from t5x_lite.config import Config, Layout, Rates, TooLong
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from t5x_lite.tasks import examples as examples_lib
from t5x_lite.tasks import registry
from tests.data.fake_corpus import same

WORDS = [f'w{number}' for number in range(40)]
VOCAB = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS]
PAD, START, END = 0, 2, 3
TASKS = """
import functools, random
from t5x_lite.tasks import registry, text_formats
from t5x_lite.tasks.sources import Made

def make(count, longest, seed):
    def rows(split):
        draw = random.Random(f'{seed} {split}')
        text = lambda most: ' '.join(f'w{draw.randrange(40)}' for _ in range(draw.randint(1, most)))
        return [{'text': f'w{seed} {text(longest)}', 'label': text(4)} for _ in range(count if split == 'train' else 7)]
    return rows

for name, count, longest, seed in (('short', 200, 3, 1), ('long', 60, 25, 2), ('other', 40, 10, 3)):
    preprocess = functools.partial(text_formats.from_template, inputs='{text}', targets='{label}')
    registry.register(registry.Task(name, Made(make(count, longest, seed)), preprocess))
registry.register(registry.Mixture('two', {'short': 3, 'long': 1, 'other': 0}))
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, '_KNOWN', dict(registry._KNOWN))
    monkeypatch.setattr(registry, '_LOADED', {})
    (tmp_path / 'vocab.txt').write_text('\n'.join(VOCAB) + '\n')
    (tmp_path / 'tasks.py').write_text(TASKS)
    config = Config(seed=5, batch_size=8)
    config.model.module = 'bert_flax.bert:BertForPreTraining'
    data = config.data
    data.source, data.tokenizer, data.layout = 't5x_lite.tasks.examples:TaskExamples', str(tmp_path), Layout.encoder_decoder
    data.seq_len, data.target_len = 32, 16
    data.tasks.files, data.tasks.names = (str(tmp_path / 'tasks.py'),), ('two',)
    return config


def _words(ids):
    return ' '.join(VOCAB[token] for token in ids)


def _examples(batch, row):
    """(inputs, targets) of each segment of a row, as texts."""
    found = []
    for segment in range(1, batch['sequence_ids'][row].max() + 1):
        inputs = batch['tokens'][row][batch['sequence_ids'][row] == segment]
        targets = batch['targets'][row][batch['decoder_sequence_ids'][row] == segment]
        assert inputs[-1] == targets[-1] == END
        found.append((_words(inputs[:-1]), _words(targets[:-1])))
    return found


@pytest.mark.parametrize('pack', [False, True])
def test_every_example_lies_in_one_row(config, pack):
    config.data.tasks.names, config.data.tasks.pack = ('long',), pack
    data = DataFunction(config, 'train')
    (source,) = data.sources(data.stages[0])
    batch = source.get(np.arange(len(source)))
    found = [example for row in range(len(source)) for example in _examples(batch, row)]
    expected = [(example['inputs'], example['targets']) for example in registry.find('long').examples('train')]
    assert sorted(found) == sorted(expected)
    assert (len(source) < 45) if pack else len(source) == 60
    assert not same(batch, source.get(len(source) + np.arange(len(source)))), 'another order in the next epoch'
    for prefix, length in (('', 32), ('decoder_', 16)):
        ids, positions = batch[f'{prefix}sequence_ids'], batch[f'{prefix}positions']
        assert ids.shape == (len(source), length) and ids.dtype == np.int32
        starts = np.diff(ids, axis=1, prepend=0) > 0
        assert (positions[starts] == 0).all() and (batch[f'{prefix}tokens'][ids == 0] == PAD).all()
        assert ((np.diff(positions, axis=1) == 1) | starts[:, 1:] | (ids[:, 1:] == 0)).all()
    starts = np.diff(batch['decoder_sequence_ids'], axis=1, prepend=0) > 0
    assert (batch['decoder_tokens'][starts] == START).all()
    inside = (batch['decoder_sequence_ids'] > 0) & ~starts
    assert (batch['decoder_tokens'][:, 1:][inside[:, 1:]] == batch['targets'][:, :-1][inside[:, 1:]]).all()
    assert batch['target_weights'].dtype == np.float32 and (batch['target_weights'] == (batch['decoder_sequence_ids'] > 0)).all()


@pytest.mark.parametrize('pack', [False, True])
def test_decoder(config, pack):
    config.data.layout, config.data.target_len, config.data.tasks.names, config.data.tasks.pack = Layout.decoder, 0, ('short',), pack
    data = DataFunction(config, 'train')
    (source,) = data.sources(data.stages[0])
    batch = source.get(np.arange(len(source)))
    expected = {(example['inputs'], example['targets']) for example in registry.find('short').examples('train')}
    count = 0
    for row in range(len(source)):
        for segment in range(1, batch['sequence_ids'][row].max() + 1):
            here = batch['sequence_ids'][row] == segment
            targets, weights, prefix, tokens = (batch[name][row][here] for name in ('targets', 'target_weights', 'prefix', 'tokens'))
            border = int((weights == 0).sum())
            assert (weights[border:] == 1).all() and (prefix[: border + 1] == 1).all() and (prefix[border + 1 :] == 0).all()
            assert tokens[0] == START and (tokens[1:] == targets[:-1]).all()
            assert (_words(targets[: border - 1]), _words(targets[border:-1])) in expected and targets[border - 1] == targets[-1] == END
            assert (batch['positions'][row][here] == np.arange(here.sum())).all()
            count += 1
    assert count == source.num_examples == 200


def test_rates_hold_for_examples(config):
    """Three short examples for each long one, though a row holds many more short ones."""
    data = DataFunction(config, 'train')
    assert data.names == ('short', 'long')
    counts, rows = np.zeros(2), np.zeros(2)
    for step in range(400):
        batch = data.batch(step)
        for number in (0, 1):
            here = data.parts(step) == number
            counts[number] += batch['sequence_ids'][here].max(axis=1).sum()
            rows[number] += here.sum()
    assert counts[0] / counts[1] == pytest.approx(3, rel=0.03)
    assert (rows / rows.sum()) == pytest.approx(list(data.shares().values()), abs=1e-3)
    assert rows[0] / rows[1] < 1.5, 'rows are another matter'
    assert f'shares of the rows: short {data.shares()["short"]:.2%}, long' in data.describe()[-1]


def test_the_mixture_is_a_function_of_seed_and_step(config):
    data = DataFunction(config, 'train')
    for step in (0, 3, 91):
        whole = data.batch(step)
        assert sum(data.counts(step).values()) == len(whole['tokens'])
        again = pickle.loads(pickle.dumps(DataFunction(config, 'train')))
        assert same(whole, again.batch(step))
        assert same({name: values[2:5] for name, values in whole.items()}, again.batch(step, slice(2, 5)))
    config.seed = 6
    assert not same(data.batch(3), DataFunction(config, 'train').batch(3))
    assert data.fingerprint != DataFunction(config, 'train').fingerprint


@pytest.mark.parametrize('layout', [Layout.encoder_decoder, Layout.decoder])
@pytest.mark.parametrize('pack', [False, True])
def test_a_batch_made_at_once_is_what_each_task_gives(config, layout, pack):
    config.data.layout, config.data.tasks.pack, config.data.tasks.names = layout, pack, ('short', 'long', 'other')
    data = DataFunction(config, 'train')
    sources, rng = data.sources(data.stages[0]), np.random.default_rng(0)
    part, local = rng.integers(0, 3, 20), rng.integers(0, 1000, 20)  # of several epochs
    both = examples_lib.TaskExamples.together(sources, part, local)
    for row in range(20):
        for name, values in sources[part[row]].get(local[row : row + 1]).items():
            np.testing.assert_array_equal(both[name][row], values[0], err_msg=name)


def test_fingerprint_knows_the_mixture(config):
    first = DataFunction(config, 'train').fingerprint
    assert first == DataFunction(config, 'train').fingerprint
    config.data.tasks.pack = False
    apart = DataFunction(config, 'train').fingerprint
    config.data.tasks.names, config.data.tasks.rates = ('short', 'long'), Rates.equal
    assert len({first, apart, DataFunction(config, 'train').fingerprint}) == 3


def test_evaluation_by_task(config):
    config.eval.batch_size = 4
    data = DataFunction(config, 'validation')
    assert data.names == ('short', 'long', 'other'), 'a task at rate 0 is judged'
    for name in ('long', 'other'):
        batches = list(data.evaluation_batches(only=name))
        assert len(batches) == data.evaluation_size(only=name)
        found = []
        for batch in batches:
            real = np.flatnonzero(batch['example_weights'])
            assert (batch['target_weights'][np.flatnonzero(batch['example_weights'] == 0)] == 0).all()
            found += [example for row in real for example in _examples(batch, row)]
        task = registry.find(name)
        assert sorted(found) == sorted((example['inputs'], example['targets']) for example in task.examples('validation'))
    seen = sum(batch['target_weights'].sum() for batch in data.evaluation_batches())
    apart = sum(batch['target_weights'].sum() for name in data.names for batch in data.evaluation_batches(only=name))
    assert seen == apart
    with pytest.raises(UserError, match="no part 'lnog' in the validation data, did you mean 'long'"):
        data.evaluation_size(only='lnog')


def test_too_long(config):
    config.data.seq_len, config.data.target_len, config.data.tasks.names, config.data.tasks.pack = 10, 4, ('long',), False
    data = DataFunction(config, 'train')
    (source,) = data.sources(data.stages[0])
    batch, examples = source.get(np.arange(60)), registry.find('long').examples('train')
    cut = [sum(len(example[key].split()) >= room for example in examples) for key, room in (('inputs', 10), ('targets', 4))]
    assert cut[0] and cut[1] and f'{cut[0]} cut;' in source.describe() and source.describe().splitlines()[1].endswith(f', {cut[1]} cut')
    last = batch['tokens'][np.arange(60), (batch['sequence_ids'] > 0).sum(1) - 1]
    assert (last == END).all()
    config.data.tasks.too_long = TooLong.refuse
    with pytest.raises(UserError, match=r'task long: (inputs|targets) of train example \d+ have \d+ tokens, .* raise --config.data'):
        DataFunction(config, 'train')
    config.data.tasks.too_long, config.data.layout, config.data.target_len = TooLong.truncate, Layout.decoder, 0
    batch = DataFunction(config, 'train').batch(0)
    assert (batch['target_weights'].sum(1) > 0).all() and (batch['target_weights'].sum(1) < 10).all(), 'targets are kept, inputs cut'


def test_a_table_from_flags(config, tmp_path):
    lines = [{'text': f'w{number} w1', 'summary': [f'w{number}', 'w0']} for number in range(20)]
    (tmp_path / 'articles.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    data = config.data
    data.tasks.names, data.tasks.files, data.train = (), (), str(tmp_path / 'articles.jsonl')
    data.tasks.inputs, data.tasks.targets, data.tasks.metrics = 'w9 {text}', '{summary}', ('rouge', 'exact_match')
    config = finalize(config)
    train, validation = DataFunction(config, 'train'), DataFunction(config, 'validation')
    assert [data.sources(data.stages[0])[0].num_examples for data in (train, validation)] == [18, 2]
    (task,) = examples_lib.of_config(config)
    examples = examples_lib.examples_of(config, task, 'validation')
    assert all(len(example['references']) == 2 and example['inputs'].startswith('w9 w') for example in examples)
    assert task.score(['w0', examples[1]['targets']], examples)['exact_match'] == 100
    config.data.max_examples = 5
    assert DataFunction(config, 'train').sources(train.stages[0])[0].num_examples == 5
    said = train.describe()
    assert not any('empty' in line for line in said), said
    (tmp_path / 'articles.jsonl').write_text((tmp_path / 'articles.jsonl').read_text() + '{"text": "w1", "summary": " "}\n' * 20)
    config.data.max_examples = 0
    said = DataFunction(config, 'train').describe() + DataFunction(config, 'validation').describe()
    assert sum(int(line.split(', ')[-1].split()[0]) for line in said if line.endswith(' empty')) == 20, said


def test_what_is_wrong_with_a_config(config):
    tasks = config.data.tasks
    tasks.names = ('tow',)
    with pytest.raises(UserError, match="no task or mixture 'tow', did you mean 'two'"):
        DataFunction(config, 'train')
    tasks.names = ('short', 'other')
    tasks.rates, tasks.weights = Rates.given, (0.0, 0.0)
    with pytest.raises(UserError, match='every task of config.data.tasks.names has rate 0'):
        DataFunction(config, 'train')
    tasks.weights = (1.0,)
    with pytest.raises(UserError, match='1 values for 2 names'):
        finalize(config)
    tasks.rates, config.data.layout = Rates.proportional, Layout.auto
    with pytest.raises(UserError, match='config.data.layout is auto; tasks are text to text'):
        DataFunction(config, 'train')
    tasks.names, tasks.files = (), ()
    with pytest.raises(UserError, match='no task: give --config.data.tasks.names, or a table'):
        DataFunction(config, 'train')
    tasks.inputs, tasks.targets = '{text}', '{label}'
    with pytest.raises(UserError, match='--config.data.train is empty'):
        DataFunction(config, 'train')
    tasks.temperature = 0.0
    with pytest.raises(UserError, match='tasks.temperature is 0.0; it must be above 0'):
        finalize(config)


def _table(config, tmp_path, source, layout, rows):
    (tmp_path / 'rows.csv').write_text('text,label\n' + ''.join(f'{text},{label}\n' for text, label in rows))
    data = config.data
    data.source, data.layout, data.train, data.validation = source, layout, str(tmp_path / 'rows.csv'), str(tmp_path / 'rows.csv')
    data.tasks.names, data.tasks.files, data.tasks.inputs, data.tasks.targets, data.tasks.pack = (), (), '{text}', '{label}', False
    return DataFunction(config, 'validation').batch(0)


def test_continuations_go_on_where_inputs_end(config, tmp_path):
    name = 't5x_lite.tasks.examples:Continuations'
    batch = _table(config, tmp_path, name, Layout.decoder, [('w1 w2 w3', 'w4 w5')])
    word = VOCAB.index
    assert batch['tokens'][0, :7].tolist() == [START, word('w1'), word('w2'), word('w3'), word('w4'), word('w5'), PAD]
    assert batch['targets'][0, :7].tolist() == [word('w1'), word('w2'), word('w3'), word('w4'), word('w5'), END, PAD]
    assert batch['target_weights'][0, :7].tolist() == [0, 0, 0, 1, 1, 1, 0] and 'prefix' not in batch
    taught = _table(config, tmp_path, 't5x_lite.tasks.examples:TaskExamples', Layout.decoder, [('w1 w2 w3', 'w4 w5')])
    assert taught['tokens'][0, :7].tolist() == [START, word('w1'), word('w2'), word('w3'), END, word('w4'), word('w5')] and taught['prefix'].any()
    ours, theirs = (_table(config, tmp_path, source, Layout.encoder_decoder, [('w1', 'w4')]) for source in (name, 't5x_lite.tasks.examples:TaskExamples'))
    same(ours, theirs)


@pytest.mark.parametrize('layout', [Layout.decoder, Layout.encoder_decoder])
@pytest.mark.parametrize('source', ['Continuations', 'TaskExamples'])
def test_which_part_of_long_inputs_is_kept(config, tmp_path, layout, source):
    config.data.seq_len = config.data.target_len = 8
    rows = [(' '.join(WORDS[:20]), 'w30 w31')]
    ends = layout == Layout.encoder_decoder or source == 'TaskExamples'
    room = (8 - 3 if layout == Layout.decoder else 8) - ends
    for keep_end, kept in ((False, WORDS[:room]), (True, WORDS[20 - room : 20])):
        config.data.tasks.keep_end = keep_end
        batch = _table(config, tmp_path, f't5x_lite.tasks.examples:{source}', layout, rows)
        read = batch['targets' if layout == Layout.decoder else 'tokens'][0].tolist()
        assert read[: room + ends] == [VOCAB.index(word) for word in kept] + [END] * ends
        assert read[room + ends :] == ([VOCAB.index('w30'), VOCAB.index('w31'), END] if layout == Layout.decoder else []), 'all of the targets'
    config.data.tasks.too_long = TooLong.refuse
    with pytest.raises(UserError, match=rf'inputs of \w+ example 0 have {20 + ends} tokens, and there is room for {room + ends}; raise --config.data.seq_len'):
        _table(config, tmp_path, f't5x_lite.tasks.examples:{source}', layout, rows)
