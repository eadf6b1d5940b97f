"""Each objective on each architecture that can express it learns, and where none makes sense a sentence says why."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import objectives as variants
from t5x_lite.assemble import assemble
from t5x_lite.checks import finalize
from t5x_lite.config import OptimConfig, SpanConfig
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from t5x_lite.evaluation import baselines
from t5x_lite.stages import stages
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program, make_train_step
from tests.data.fake_corpus import FakeCorpus

# The table of README.md.
CELLS = [name for name in variants.VARIANTS if name not in variants.NONE]
WORDS, SENTINELS, FIRST = 8, 40, 60
STEPS, LOOK_EVERY = 300, 25


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    """Documents that count: each word follows the last, from a random one on. Words are equally frequent, so what is learnt is their order."""
    rng = np.random.default_rng(0)
    documents = []
    for _ in range(300):
        place, sentences = int(rng.integers(WORDS)), []
        for length in rng.integers(3, 9, rng.integers(2, 6)).tolist():
            sentences.append([FIRST + (place + i) % WORDS for i in range(length)])
            place += length
        documents.append(sentences)
    pieces = {5: '[NLU]', 6: '[NLG]', 7: '[S2S]', **{FIRST - 1 - number: f'<extra_id_{number}>' for number in range(SENTINELS)}}
    return FakeCorpus(tmp_path_factory.mktemp('corpus'), documents, FIRST + WORDS, pieces=pieces)


def small(name: str):
    config = variants.get_config(name)
    length = 32
    config.batch_size, config.steps, config.data.seq_len = 32, STEPS, length
    config.data.span = SpanConfig(denoisers=(('[NLU]', 2.0, 0.3, 1.0), ('[NLG]', 4.0, 0.5, 1.0), ('[S2S]', 0.0, 0.4, 1.0)))
    config.optim = OptimConfig(learning_rate=1e-2, warmup_steps=10, b2=0.98)
    config.model = dataclasses.replace(
        config.model, vocab_size=FIRST + WORDS, vocab_multiple=4, num_layers=1, d_model=32, num_heads=2, d_ff=64, max_positions=length, dropout=0.0,
        attention_dropout=0.0, init_stddev=0.1, scan_layers=False,
    )  # fmt: skip
    return finalize(config)


def target_entropy(batch) -> float:
    """Of the frequencies of what is predicted, in nats."""
    if 'targets' in batch:
        return baselines.own_unigram(baselines.targets_of([batch])).cross_entropy
    return baselines.own_unigram(batch['masked_targets'][batch['masked_weights'] > 0].astype(np.int64)).cross_entropy


@pytest.mark.parametrize('name', CELLS)
def test_a_cell_learns_more_than_frequencies(name, corpus):
    config = small(name)
    data = DataFunction(config, 'train', [corpus])
    mesh = partitioning.make_mesh(config, jax.devices()[:1])
    program = make_program(config, mesh)
    with jax.set_mesh(mesh):
        state, step = program.init(), jax.jit(make_train_step(program), donate_argnums=0)
        gain = -np.inf
        for number in range(STEPS):
            batch = data.batch(number)
            state, metrics = step(state, batch)
            if number % LOOK_EVERY == LOOK_EVERY - 1:
                total, weight = metrics['metrics']['lm_loss' if 'targets' in batch else 'mlm_loss']
                gain = target_entropy(batch) - float(total) / float(weight)
                if gain > 0.3:
                    break
    assert gain > 0.3, f'{gain:.2f} nats below the entropy of the targets'


@pytest.mark.parametrize(
    'name, why',
    [
        ('encoder_decoder_causal', 'the encoder would have nothing to read; use t5x_lite.data.language_modelling:PrefixLm'),
        ('encoder_decoder_mlm_nsp', 'reads a pooled output, which no decoder gives'),
        ('decoder_mlm_nsp', 'reads the pooled output of an encoder, which a decoder lacks'),
    ],
)
def test_a_cell_that_makes_no_sense_says_why(name, why):
    with pytest.raises(UserError, match=why):
        assemble(variants.get_config(name))
    assert name in variants.NONE


def test_an_encoder_that_sees_everything_cannot_predict_what_follows():
    config = variants.get_config('encoder_causal')
    config.model.causal = False
    with pytest.raises(UserError, match='set --config.model.causal=True'):
        assemble(config)


def test_variants_cost_the_same():
    flops = {}
    for name in CELLS:
        config = variants.get_config(name)
        flops[name] = config.batch_size * variants._flops(config)
        assert stages(config)[0][2] == config.batch_size
    reference = flops['decoder_causal']
    assert {name: value / reference for name, value in flops.items()} == pytest.approx(dict.fromkeys(flops, 1.0), rel=0.01)
