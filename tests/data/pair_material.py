"""What tests of objectives for decoders and encoder-decoders share."""

import re
import types

import numpy as np

from t5x_lite.config import Config, Layout, TooLong
from t5x_lite.data import random
from t5x_lite.tasks.examples import TaskExamples
from tests.data.fake_corpus import FakeCorpus, config_for, numbered, random_lengths

DOCUMENTS = [[[11, 12], [13]], [[14, 15]], [[16, 17], [18, 19, 20, 21]]]
SENTINELS = 100
FIRST_SENTINEL = SENTINELS + 8  # ids fall from here: the corpus comes after
MODES = {5: '[NLU]', 6: '[NLG]', 7: '[S2S]'}


def small_corpus(folder):
    """That of the worked examples."""
    return FakeCorpus(folder, DOCUMENTS, 31, pieces={5: '[NLU]', 6: '[S2S]', **{30 - number: f'<extra_id_{number}>' for number in range(8)}})


def text_corpus(folder, count=120, seed=0, **options):
    """Documents in which each token's id says where in the corpus it stands: `place`."""
    first = FIRST_SENTINEL + 1
    documents = [[[token - 5 + first for token in sentence] for sentence in document] for document in numbered(random_lengths(count, seed, **options))]
    sentinels = {FIRST_SENTINEL - number: f'<extra_id_{number}>' for number in range(SENTINELS)}
    return FakeCorpus(folder, documents, documents[-1][-1][-1] + 1, pieces={**MODES, **sentinels})


def place(tokens):
    return np.asarray(tokens) - FIRST_SENTINEL - 1


def make(source, corpus, layout, length, most=None, seed=3, split='train', concatenate=False, **fields):
    """`fields`: span__noise_density=0.4 sets config.data.span.noise_density."""
    config = configured(layout, length, concatenate, **fields)
    return source(config, split, seed, length, most or source.predictions(config, length), corpus)


def configured(layout, length, concatenate=False, **fields):
    config = config_for('unused:Name', length)
    config.data.layout, config.data.concatenate = Layout[layout], concatenate
    config.model.causal = layout == 'encoder'
    for name, value in fields.items():
        group, field = name.split('__')
        assert hasattr(getattr(config.data, group), field)
        setattr(getattr(config.data, group), field, value)
    return config


def task_examples(monkeypatch, examples, room, too_long=TooLong.truncate, pack=False, layout=Layout.encoder_decoder):
    """`TaskExamples` of ids that end with 1: a tokenizer that takes lists for texts. `room`: {'inputs': length of a row, 'targets': ...}."""
    tokenizer = types.SimpleNamespace(pad_id=0, start_id=0, end_id=1, encode_batch=list)
    monkeypatch.setattr('t5x_lite.data.tables.find_tokenizer', lambda config: 'ids')
    monkeypatch.setattr('t5x_lite.data.tokenizers.load', lambda path: tokenizer)
    config = Config()
    config.data.layout, config.data.tasks.too_long, config.data.tasks.pack = layout, too_long, pack
    return TaskExamples(types.SimpleNamespace(name='ids'), examples, config, 'validation', 0, room['inputs'], room['targets'])


def epoch(examples, number=0):
    """All examples of an epoch, in the order of its plan."""
    plan = examples._plan_of(number)
    return examples._examples(plan, np.arange(len(plan)), random.key(examples._root, 'epoch', number))


def segments(batch, starts=True):
    """[(inputs, targets)] of all sequences of a batch, as lists; what a decoder reads must follow from them.

    starts: whether it begins with [CLS]; windows of a stream begin with the token before them.
    """
    found = []
    both = 'decoder_tokens' in batch
    names = ('decoder_tokens', 'decoder_sequence_ids', 'decoder_positions') if both else ('tokens', 'sequence_ids', 'positions')
    for row in range(len(batch['tokens'])):
        read, ids, positions = (batch[name][row] for name in names)
        targets, weights = batch['targets'][row], batch['target_weights'][row]
        assert not weights[ids == 0].any() and not positions[ids == 0].any()
        for number in range(1, ids.max() + 1):
            here = np.flatnonzero(ids == number)
            assert (np.diff(here) == 1).all() and positions[here].tolist() == list(range(len(here)))
            assert read[here][1:].tolist() == targets[here][:-1].tolist(), 'shifted inside a sequence'
            assert read[here][0] == 2 or not starts
            predicted = weights[here] > 0
            if both:
                assert predicted.all()
                there = np.flatnonzero(batch['sequence_ids'][row] == number)
                assert batch['positions'][row][there].tolist() == list(range(len(there)))
                inputs = batch['tokens'][row][there]
            else:
                inputs = targets[here][~predicted]
                assert predicted.tolist() == [False] * len(inputs) + [True] * (len(here) - len(inputs))
                if 'prefix' in batch:
                    assert batch['prefix'][row][here].tolist() == [1] * min(len(inputs) + 1, len(here)) + [0] * (len(here) - len(inputs) - 1)
                else:
                    assert not len(inputs)
            found.append((inputs.tolist(), targets[here][predicted].tolist()))
        if both:
            assert batch['sequence_ids'][row].max() == ids.max()
    return found


def documented(doc, batch):
    """Each feature of the batch stands in the docstring, its rows side by side."""
    lines = [re.split(r'\s+', line.strip()) for line in doc.splitlines()]
    for name, values in batch.items():
        assert [name, *(str(int(value)) for value in values.reshape(-1))] in lines, (name, values)
