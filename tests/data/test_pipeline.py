"""The data of a run as a function of (seed, step)."""

import dataclasses
import hashlib
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from t5x_lite.data import preparation, tokenizers
from t5x_lite.data.mixing import Mixture
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.showing import decode_example
from t5x_lite.errors import UserError
from tests.data.fake_corpus import FakeCorpus, config_for, numbered, random_corpus, same

ROOT = pathlib.Path(__file__).resolve().parents[2]
MLM_NSP, PACKED = 'bert_flax.objectives:MlmNsp', 't5x_lite.data.objectives:PackedMlm'
TABLE = f'{__name__}:TableExamples'


class TableExamples:
    """Examples of no corpus, of differing lengths; the batch is as wide as its longest."""

    def __init__(self, config, split, seed, seq_len, max_predictions, corpus):
        assert corpus is None
        self.size = 10

    def __len__(self):
        return self.size

    def width(self, indices):
        return int((np.asarray(indices) % self.size).max() + 1)

    def get(self, indices, width):
        return {'tokens': np.tile(np.asarray(indices, np.int32)[:, None], (1, width)), 'labels': (np.asarray(indices) % 3).astype(np.int32)}


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return random_corpus(tmp_path_factory.mktemp('one'))


@pytest.fixture(scope='module')
def second(tmp_path_factory, corpus):
    documents = numbered([[4, 5, 6]] * 200)
    return FakeCorpus(tmp_path_factory.mktemp('two'), documents, corpus.vocab_size, name='second')


@pytest.mark.parametrize('source', [MLM_NSP, PACKED])
def test_rows_are_slices_of_the_whole(corpus, source):
    """However many hosts there are, together they feed the same global batch."""
    data = DataFunction(config_for(source, batch_size=12), 'train', [corpus])
    for step in (0, 7, 50):  # 50: some epochs on
        whole = data.batch(step)
        assert all(len(values) == 12 for values in whole.values())
        for hosts in (2, 3, 12):
            other = DataFunction(config_for(source, batch_size=12), 'train', [corpus])
            for host in range(hosts):
                rows = slice(host * 12 // hosts, (host + 1) * 12 // hosts)
                assert same({name: values[rows] for name, values in whole.items()}, other.batch(step, rows))


def test_batches_need_no_history(corpus):
    config = config_for(MLM_NSP)
    data = DataFunction(config, 'train', [corpus])
    batches = [data.batch(step) for step in range(60)]
    for step in (59, 3, 30):
        assert same(batches[step], DataFunction(config, 'train', [corpus]).batch(step))
    seen = {batch['tokens'].tobytes() for batch in batches}
    assert len(seen) == 60
    config = dataclasses.replace(config, seed=4)
    assert not same(batches[3], DataFunction(config, 'train', [corpus]).batch(3))


def test_batch_size_does_not_change_the_examples(corpus):
    small, large = (DataFunction(config_for(PACKED, batch_size=size), 'train', [corpus]) for size in (4, 8))
    first, next_ = small.batch(6), small.batch(7)
    assert same({name: np.concatenate([first[name], next_[name]]) for name in first}, large.batch(3))


def test_another_process_gives_the_same(corpus):
    """The interpreter's own hashing is seeded anew in every process; nothing here may follow it."""
    code = (
        'import sys, hashlib, tempfile\n'
        'from t5x_lite.data.pipeline import DataFunction\n'
        'from tests.data.fake_corpus import config_for, random_corpus\n'
        f'data = DataFunction(config_for({MLM_NSP!r}), "train", [random_corpus(tempfile.mkdtemp())])\n'
        'batch = data.batch(33)\n'
        'print(hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest())\n'
    )
    batch = DataFunction(config_for(MLM_NSP), 'train', [corpus]).batch(33)
    here = hashlib.sha256(b''.join(batch[name].tobytes() for name in sorted(batch))).hexdigest()
    for seed in '12':
        environment = {**os.environ, 'PYTHONHASHSEED': seed}
        run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
        assert run.stdout.strip() == here


def staged(**options):
    config = config_for(MLM_NSP, **options)
    config.data.stages = ((0, 32, 8, 5), (10, 48, 4, 7), (20, 32, 16, 5))
    return config


def test_a_prepared_corpus(tmp_path):
    """From text files on disk, through loader processes that open them themselves."""
    paragraphs = [' '.join(f'{word}{number} runs over the hill.' for word in ('dog', 'cat', 'cow')) for number in range(60)]
    (tmp_path / 'text.txt').write_text('\n\n'.join(paragraphs), encoding='utf-8')
    source, target = str(tmp_path / 'text.txt'), str(tmp_path / 'corpus')
    preparation.prepare(preparation.Settings((source,), target, vocab_size=80, documents='paragraph', validation_fraction=0.2, workers=1))
    config = config_for(MLM_NSP)
    config.data.path = (str(tmp_path / 'corpus'),)
    data = DataFunction(config, 'train')
    whole = data.batch(5)
    tokenizer = tokenizers.load(str(tmp_path / 'corpus' / 'tokenizer'))
    assert 'hill .' in decode_example({**whole, 'masked_weights': np.zeros_like(whole['masked_weights'])}, 0, tokenizer)
    config.data.workers = 1
    [(step, loaded)] = data.loader(5, 6)
    assert step == 5 and same(whole, loaded)
    assert len(list(DataFunction(config, 'validation').evaluation_batches())) >= 1
    with pytest.raises(UserError, match='no test part'):
        DataFunction(config, 'test')


def test_stages_change_length_and_batch(corpus):
    data = DataFunction(staged(), 'train', [corpus])
    for step, length, size, most in [(0, 32, 8, 5), (9, 32, 8, 5), (10, 48, 4, 7), (19, 48, 4, 7), (20, 32, 16, 5), (1000, 32, 16, 5)]:
        assert data.stage_at(step).seq_len == length
        batch = data.batch(step)
        assert batch['tokens'].shape == (size, length)
        assert batch['masked_positions'].shape == (size, most)
        assert same(batch, DataFunction(staged(), 'train', [corpus]).batch(step)), 'resumable across the change'
    assert data.indices(10).tolist() == [0, 1, 2, 3], 'another length has its own plan'
    assert data.indices(20).tolist() == list(range(80, 96)), 'the same length goes on where it was left'


def test_one_stage_is_none(corpus):
    plain, one = config_for(MLM_NSP), config_for(MLM_NSP)
    one.data.stages = ((0, 32, 8, 0),)
    assert same(DataFunction(plain, 'train', [corpus]).batch(5), DataFunction(one, 'train', [corpus]).batch(5))


def test_corpora_mix(corpus, second):
    config = config_for(PACKED, batch_size=40)
    config.data.path, config.data.weights = ('one', 'two'), (0.75, 0.25)
    data = DataFunction(config, 'train', [corpus, second])
    alone = dataclasses.replace(config, data=dataclasses.replace(config.data, weights=()))
    apart = [DataFunction(alone, 'train', [part]) for part in (corpus, second)]
    source, local = Mixture((0.75, 0.25))(np.arange(80, 120))
    assert (source == 0).sum() == 30
    batch = data.batch(2)
    for row in range(40):
        expected = apart[source[row]].sources(data.stage_at(0))[0].get([local[row]])
        assert all((batch[name][row] == expected[name][0]).all() for name in expected)
    by_tokens = DataFunction(config_for(PACKED, batch_size=40), 'train', [corpus, second])
    share = corpus.num_tokens / (corpus.num_tokens + second.num_tokens)
    assert abs(by_tokens.shares()[corpus.path] - share) < 1e-4
    rows = slice(10, 20)
    assert same({name: values[rows] for name, values in batch.items()}, data.batch(2, rows))


def test_different_tokenizers_are_refused(corpus, tmp_path):
    other = random_corpus(tmp_path, 10)
    other.path = 'other'
    with pytest.raises(UserError, match='fake and other were prepared with different tokenizers; .*--tokenizer=.*tokenizer'):
        DataFunction(config_for(MLM_NSP), 'train', [corpus, other])


def test_a_vocabulary_beyond_the_model_is_refused(corpus):
    config = config_for(MLM_NSP)
    config.model.vocab_size = 100
    with pytest.raises(UserError, match=f'set --config.model.vocab_size={corpus.vocab_size}'):
        DataFunction(config, 'train', [corpus])


def test_absent_source_or_path_is_refused():
    with pytest.raises(UserError, match='config.data.source is empty'):
        DataFunction(config_for(''), 'train')
    with pytest.raises(UserError, match='--config.data.path=DIR'):
        DataFunction(config_for(MLM_NSP), 'train')


def test_evaluation_batches(corpus):
    config = config_for(MLM_NSP, batch_size=16)
    config.eval.batches = 0
    data = DataFunction(config, 'validation', [corpus])
    size = len(data.sources(data.stage_at(0))[0])
    assert size % 16
    batches = list(data.evaluation_batches())
    assert len(batches) == data.evaluation_size() == -(-size // 16)
    weights = np.concatenate([batch['example_weights'] for batch in batches])
    assert weights.tolist() == [1] * size + [0] * (-size % 16)
    assert not batches[-1]['masked_weights'][size % 16 :].any()
    assert batches[-1]['masked_weights'][: size % 16, 0].all()
    whole = data.sources(data.stage_at(0))[0].get(np.arange(size))
    assert (np.concatenate([batch['tokens'] for batch in batches])[:size] == whole['tokens']).all()
    assert all(same(*pair) for pair in zip(batches, data.evaluation_batches())), 'the same each time'
    for ours, theirs in zip(batches, data.evaluation_batches(rows=slice(4, 8))):
        assert same({name: values[4:8] for name, values in ours.items()}, theirs)
    config.eval.batches, config.eval.batch_size = 2, 5
    assert [len(batch['tokens']) for batch in data.evaluation_batches()] == [5, 5]


def test_evaluation_of_a_mixture_takes_each_example_once(corpus, second):
    config = config_for(PACKED, batch_size=16)
    config.eval.batches = 0
    data = DataFunction(config, 'validation', [corpus, second])
    sizes = [len(source) for source in data.sources(data.stage_at(0))]
    batches = list(data.evaluation_batches())
    real = [values for batch in batches for values in batch['tokens'][batch['example_weights'] > 0]]
    expected = [row for source, size in zip(data.sources(data.stage_at(0)), sizes) for row in source.get(np.arange(size))['tokens']]
    assert sorted(map(bytes, real)) == sorted(map(bytes, expected))


def test_evaluation_follows_the_stage(corpus):
    data = DataFunction(staged(), 'validation', [corpus])
    assert next(data.evaluation_batches(step=10))['tokens'].shape == (4, 48)


def test_sources_without_a_corpus():
    config = config_for(TABLE, batch_size=4)
    config.eval.batches = 1
    data = DataFunction(config, 'train')
    whole = data.batch(2)
    assert whole['tokens'].shape == (4, 10), 'rows 8, 9, 10, 11 of a table of 10'
    assert data.batch(1)['tokens'].shape == (4, 8)
    assert same({name: values[2:] for name, values in whole.items()}, data.batch(2, slice(2, 4))), 'as wide as the whole batch needs'
    batches = list(data.evaluation_batches())
    assert len(batches) == 3, 'fine-tuning takes all'
    assert batches[2]['example_weights'].tolist() == [1, 1, 0, 0]


def test_labelled_tables(tmp_path, corpus):
    (tmp_path / 'train.tsv').write_text('text\tlabel\n' + ''.join(f'{"w7 " * (number % 9 + 1)}\t{number % 2}\n' for number in range(30)))
    config = config_for('t5x_lite.data.tables:LabelledExamples', batch_size=8)
    config.data.train, config.data.tokenizer, config.data.length_buckets = str(tmp_path / 'train.tsv'), corpus.tokenizer_path, (4, 8, 16)
    train, held_out = DataFunction(config, 'train'), DataFunction(config, 'validation')
    whole = train.batch(4)
    assert whole['tokens'].shape in ((8, 8), (8, 16)) and set(whole['labels']) <= {0, 1}
    for row in range(8):
        assert same({name: values[row : row + 1] for name, values in whole.items()}, train.batch(4, slice(row, row + 1)))
    total = sum(batch['example_weights'].sum() for part in (train, held_out) for batch in part.evaluation_batches())
    assert total == 30


def test_fingerprint(corpus, second):
    config = config_for(MLM_NSP)

    def of(config=config, corpora=(corpus,), split='train'):
        return DataFunction(config, split, list(corpora)).fingerprint

    assert re.fullmatch('[0-9a-f]{16}', of())
    assert of() == of(dataclasses.replace(config, steps=9))
    corpus_elsewhere = pickle.loads(pickle.dumps(corpus))
    corpus_elsewhere.path = 'elsewhere'
    assert of() == of(corpora=[corpus_elsewhere])
    mlm = dataclasses.replace(config.data.mlm, whole_words=True)
    others = [
        of(dataclasses.replace(config, seed=9)),
        of(corpora=[second]),
        of(corpora=[corpus, second]),
        of(dataclasses.replace(config, batch_size=9)),
        of(dataclasses.replace(config, data=dataclasses.replace(config.data, mlm=mlm))),
        of(config_for(PACKED)),
    ]
    assert len({of(), *others}) == 7


def test_configs_survive_json(corpus):
    """The fingerprint's ingredients are plain: tuples from flags and lists from config.json agree."""
    config = staged()
    config.data.weights = (1.0,)
    config.data.path = ('x',)
    again = dataclasses.replace(config)
    again.data = dataclasses.replace(config.data, weights=tuple(json.loads('[1.0]')))
    assert DataFunction(config, 'train', [corpus]).fingerprint == DataFunction(again, 'train', [corpus]).fingerprint
