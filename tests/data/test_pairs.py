"""What all objectives for decoders and encoder-decoders have in common."""

import collections
import dataclasses
import gzip
import pathlib
import re

import numpy as np
import pytest

from bert_flax.objectives import MlmNsp
from t5x_lite.config import Layout, Masking
from t5x_lite.data import random
from t5x_lite.data.denoisers import MixtureOfDenoisers
from t5x_lite.data.language_modelling import CausalLm, PrefixLm
from t5x_lite.data.objectives import PackedMlm
from t5x_lite.data.packing import alone
from t5x_lite.data.pairs import PairExamples, ended
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.span_corruption import SpanCorruption
from t5x_lite.data.text_to_text import TextToTextMlm
from t5x_lite.errors import UserError
from tests.data.fake_corpus import FakeCorpus, same
from tests.data.pair_material import MODES, configured, epoch, make, place, segments, small_corpus, text_corpus

CASES = [
    (CausalLm, 'decoder'), (CausalLm, 'encoder'),
    *((source, layout) for source in (PrefixLm, SpanCorruption, MixtureOfDenoisers, TextToTextMlm) for layout in ('decoder', 'encoder_decoder', 'encoder')),
]  # fmt: skip
SHARED = pathlib.Path(__file__).resolve().parents[2] / '..' / 'shared' / 'data'
BOTH = [(*case, concatenate) for case in CASES for concatenate in (False, True)]


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    return text_corpus(tmp_path_factory.mktemp('corpus'))


@pytest.mark.parametrize(('source', 'layout', 'concatenate'), BOTH)
def test_every_token_appears_in_each_epoch(corpus, source, layout, concatenate):
    """And, where documents are kept apart, exactly once."""
    examples = make(source, corpus, layout, 64, concatenate=concatenate)
    for number in (0, 1):
        found = collections.Counter()
        for inputs, targets in segments(epoch(examples, number), starts=not (concatenate and source is CausalLm)):
            tokens = place(targets if source is TextToTextMlm else inputs + targets)
            found.update(tokens[tokens >= 0].tolist())
        assert sorted(found) == list(range(corpus.num_tokens))
        if not concatenate:
            assert set(found.values()) == {1}
        else:
            assert sum(found.values()) - corpus.num_tokens < 8 * 64


@pytest.mark.parametrize(('source', 'layout', 'concatenate'), BOTH)
def test_examples_are_a_function_of_seed_and_index(corpus, source, layout, concatenate):
    def of(seed=3):
        return make(source, corpus, layout, 48, seed=seed, concatenate=concatenate)

    examples = of()
    size = len(examples)
    indices = np.array([0, 5, size - 1, size, 4 * size + 1, 5])
    whole = examples.get(indices)
    assert same(whole, {name: values[::-1] for name, values in of().get(indices[::-1]).items()})
    for number, index in enumerate(indices):
        assert same({name: values[number : number + 1] for name, values in whole.items()}, of().get([index]))
    assert not same(whole, of(seed=4).get(indices))
    assert not same(examples.get(np.arange(size)), examples.get(np.arange(size, 2 * size)))


@pytest.mark.parametrize(('source', 'layout'), CASES)
def test_features(corpus, source, layout):
    examples = make(source, corpus, layout, 40)
    batch = examples.get(np.arange(8))
    assert {name for name, values in batch.items() if values.dtype != np.int32} == {'target_weights'}
    assert batch['target_weights'].dtype == np.float32
    expected = {'tokens', 'sequence_ids', 'positions', 'targets', 'target_weights'}
    if layout == 'encoder_decoder':
        expected |= {'decoder_tokens', 'decoder_sequence_ids', 'decoder_positions'}
        assert {values.shape for name, values in batch.items() if 'target' in name or 'decoder' in name} == {(8, examples.max_predictions)}
    else:
        expected |= {'prefix'} if source is not CausalLm else set()
        expected |= {'token_types'} if layout == 'encoder' else set()
    assert batch.keys() == expected
    assert (batch['tokens'][batch['sequence_ids'] == 0] == 0).all()


@pytest.mark.parametrize(('source', 'layout'), CASES)
def test_packed_is_the_same_as_unpacked(corpus, source, layout):
    """The pairs of an epoch do not depend on who shares a row with whom."""
    examples = make(source, corpus, layout, 48)
    plan = examples._plan_of(0)
    packed = epoch(examples)
    unpacked = examples._examples(
        dataclasses.replace(plan, rows=alone(len(plan.start))), np.arange(len(plan.start)), random.key(examples._root, 'epoch', 0)
    )
    assert len(packed['tokens']) < len(unpacked['tokens'])
    assert sorted(segments(packed)) == sorted(segments(unpacked))


@pytest.mark.parametrize(('source', 'layout', 'concatenate'), BOTH)
def test_targets_end_with_an_end_token(corpus, source, layout, concatenate):
    """Except of language models on a stream, in which they stand between documents."""
    found = segments(epoch(make(source, corpus, layout, 48, concatenate=concatenate)), starts=not (concatenate and source is CausalLm))
    if concatenate and source in (CausalLm, PrefixLm):
        ends = sum((inputs + targets).count(3) for inputs, targets in found)
        assert corpus.num_documents <= ends <= corpus.num_documents + 10
    else:
        assert all(targets[-1] == 3 for _, targets in found)
    if source in (SpanCorruption, MixtureOfDenoisers, TextToTextMlm):
        assert all(inputs[-1] == 3 for inputs, _ in found)


@pytest.mark.parametrize(('source', 'layout'), CASES)
def test_pieces_stay_inside_documents(corpus, source, layout):
    document_of = np.repeat(np.arange(corpus.num_documents), np.diff(corpus.sentence_starts[corpus.document_starts]))
    for inputs, targets in segments(epoch(make(source, corpus, layout, 48))):
        tokens = place(inputs + targets)
        assert len(set(document_of[tokens[tokens >= 0]])) == 1


@pytest.mark.parametrize(('source', 'layout'), CASES)
def test_the_held_out_split_is_drawn_alike_each_time(corpus, source, layout):
    first, again = (next(DataFunction(data_config(source, layout), 'validation', [corpus]).evaluation_batches()) for _ in range(2))
    assert same(first, again)


def data_config(source, layout, **fields):
    config = configured(layout, 48, **fields)
    config.data.source = f'{source.__module__}:{source.__name__}'
    return config


def test_static_examples_come_again(corpus):
    examples = make(SpanCorruption, corpus, 'encoder_decoder', 48, mlm__masking=Masking.static, mlm__duplicates=2)
    size = len(examples)
    epochs = [sorted(segments(examples.get(np.arange(number * size, (number + 1) * size)))) for number in range(4)]
    assert epochs[0] == epochs[2] and epochs[1] == epochs[3] and epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ('source', 'layout', 'message'),
    [
        (CausalLm, 'encoder_decoder', 'the encoder would have nothing to read; use t5x_lite.data.language_modelling:PrefixLm'),
        (MlmNsp, 'decoder', 'next sentence prediction reads the pooled output of an encoder, which a decoder lacks'),
        (MlmNsp, 'encoder_decoder', 'pooled output, which no decoder gives'),
    ],
)
def test_cells_that_make_no_sense_are_refused(corpus, source, layout, message):
    with pytest.raises(UserError, match=f'config.data.source {source.__name__} cannot be laid out for config.data.layout={layout}: .*{message}'):
        make(source, corpus, layout, 48, most=48)


@pytest.mark.parametrize('source', [CausalLm, PrefixLm, SpanCorruption, MixtureOfDenoisers, TextToTextMlm])
def test_an_encoder_must_not_see_what_it_predicts(corpus, source):
    config = configured('encoder', 48)
    config.model.causal = False
    with pytest.raises(UserError, match=f'{source.__name__} predicts tokens that an encoder would see; set --config.model.causal=True'):
        source(config, 'train', 3, 48, 48, corpus)


def test_auto_is_the_layout_of_the_objective(corpus):
    for source, layout in ((CausalLm, Layout.decoder), (PrefixLm, Layout.decoder), (SpanCorruption, Layout.encoder_decoder), (PackedMlm, Layout.encoder)):
        assert make(source, corpus, 'auto', 48).layout is layout


@pytest.mark.parametrize(('source', 'layout'), CASES)
def test_rows_too_short_are_refused(corpus, source, layout):
    with pytest.raises(UserError, match=f'config.data.seq_len is 2.*too short for {source.__name__}'):
        make(source, corpus, layout, 2, most=2)


def test_a_split_shorter_than_a_row_is_refused(tmp_path):
    with pytest.raises(UserError, match='the train part has 14 tokens, fewer than the 15 of one row'):
        make(CausalLm, small_corpus(tmp_path), 'decoder', 15, concatenate=True)
    assert len(make(CausalLm, small_corpus(tmp_path), 'decoder', 14, concatenate=True)) == 1


def test_masked_language_models_do_not_concatenate(corpus):
    with pytest.raises(UserError, match='config.data.concatenate is for language models; PackedMlm keeps documents apart'):
        make(PackedMlm, corpus, 'encoder', 48, concatenate=True)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    corpus = FakeCorpus(tmp_path, [[[5]]], 8)
    with open(f'{corpus.tokenizer_path}/vocab.txt', 'w', encoding='utf-8') as file:
        file.write('[PAD]\n[UNK]\n[CLS]\n[MASK]\nthe\na\nb\nc\n')
    with pytest.raises(UserError, match='has no token that ends a text .*, which CausalLm needs'):
        make(CausalLm, corpus, 'decoder', 8)


def test_the_fingerprint_knows_every_field(corpus):
    fields = (
        {}, {'layout': 'encoder_decoder'}, {'concatenate': True}, {'lm__prefix_fraction': (0.2, 0.8)}, {'span__noise_density': 0.2}, {'span__mean_length': 4.0},
    )  # fmt: skip
    assert len({DataFunction(data_config(PrefixLm, **{'layout': 'decoder', **given}), 'train', [corpus]).fingerprint for given in fields}) == len(fields)


@pytest.mark.parametrize('layout', ['decoder', 'encoder_decoder'])
def test_what_fills_an_evaluation_batch_up_counts_nothing(corpus, layout):
    config = data_config(PrefixLm, layout)
    data = DataFunction(config, 'validation', [corpus])
    config.eval.batches, config.eval.batch_size = 0, len(data.sources(data.stages[0])[0]) - 3
    first, last = data.evaluation_batches()
    assert first['target_weights'].any(1).all() and first['example_weights'].all()
    assert last['target_weights'][:3].any(1).all() and not last['target_weights'][3:].any() and not last['example_weights'][3:].any()


def test_an_objective_of_ones_own_takes_two_methods(corpus):
    """A text is to be said backwards; everything else is there."""

    class Backwards(PairExamples):
        def _lengths(self, length, keys):
            return length, length + 1

        def _pairs(self, text, length, keys):
            group = np.repeat(np.arange(len(length)), length)
            reverse = np.lexsort((-np.arange(len(text)), group))
            return text, ended(text[reverse], length, self.tokenizer.end_id)

    for layout in ('decoder', 'encoder_decoder'):
        found = segments(epoch(make(Backwards, corpus, layout, 40)))
        assert len(found) > 100 and all([*inputs[::-1], 3] == targets for inputs, targets in found)
        most = max(len(inputs) for inputs, _ in found)
        assert most == {'decoder': 19, 'encoder_decoder': 39}[layout]


def test_ended():
    assert ended(np.array([5, 6, 7]), np.array([2, 0, 1]), 3).tolist() == [5, 6, 3, 3, 7, 3]


def test_modes_are_words_of_the_vocabulary(corpus):
    assert [make(CausalLm, corpus, 'decoder', 40).tokenizer.id(mode) for mode in MODES.values()] == list(MODES)


@pytest.fixture(scope='module')
def like_books(tmp_path_factory):
    """Eight long documents of sentences as long as those of books: 3 to 150 tokens, half of them up to 16."""
    rng = np.random.default_rng(0)
    lengths = [np.clip(rng.lognormal(2.8, 0.8, count), 3, 150).astype(int).tolist() for count in rng.integers(400, 2500, 8)]
    sentinels = {180 - number: f'<extra_id_{number}>' for number in range(150)}
    documents = [[[200] * length for length in document] for document in lengths]
    return FakeCorpus(tmp_path_factory.mktemp('like_books'), documents, 201, pieces={**MODES, **sentinels})


def real_shares(examples):
    """Real tokens of the rows of inputs, of those of targets, and of both; a decoder's rows hold both."""
    plan = examples._plan_of(0)
    inputs, targets = (side.sum() for side in examples._lengths(plan.length, plan.key))
    if examples.layout is not Layout.encoder_decoder:
        return ((inputs + targets) / (len(plan) * examples.seq_len),) * 3
    rows = len(plan) * examples.seq_len, len(plan) * examples.max_predictions
    return inputs / rows[0], targets / rows[1], (inputs + targets) / sum(rows)


@pytest.mark.parametrize(('source', 'layout'), CASES)
@pytest.mark.parametrize('concatenate', [False, True])
def test_the_side_that_fills_is_full(like_books, source, layout, concatenate):
    """98 % of its tokens at least are real. On both sides together, except where UL2's rows of targets are as long as the hungriest denoiser's."""
    inputs, targets, both = real_shares(make(source, like_books, layout, 512, concatenate=concatenate))
    assert max(inputs, targets) >= 0.98
    if source is not MixtureOfDenoisers or layout != 'encoder_decoder':
        assert both >= (0.999 if concatenate else 0.975), both
    else:
        assert inputs >= 0.99 and 0.5 < targets < 0.6 and 0.75 < both < 0.8, 'as its docstring says; mend that too'


def test_shorter_rows_of_targets_do_not_mend_it(like_books):
    shares = {size: real_shares(make(MixtureOfDenoisers, like_books, 'encoder_decoder', 512, most=size, concatenate=True)) for size in (128, 192, 256)}
    assert all(0.68 < both < 0.78 for _, _, both in shares.values())


@pytest.fixture(scope='module')
def books(tmp_path_factory):
    """Lengths of real sentences, counted in words and marks; each book a document."""
    folder = SHARED / 'books' / 'valid'
    if not folder.exists():
        pytest.skip(f'{folder} is absent')
    texts = [gzip.open(path, 'rt', encoding='utf-8').read() for path in sorted(folder.glob('*.gz'))]
    documents = [[[200] * len(re.findall(r'\w+|[^\w\s]', sentence)) for sentence in re.split(r'(?<=[.!?])\s+', text)] for text in texts]
    documents = [[sentence for sentence in document if sentence] for document in documents]
    sentinels = {180 - number: f'<extra_id_{number}>' for number in range(150)}
    return FakeCorpus(tmp_path_factory.mktemp('books'), documents, 201, pieces={**MODES, **sentinels})


@pytest.mark.parametrize(('source', 'layout'), CASES)
def test_books_fill_rows(books, source, layout):
    """At least 98 % of the tokens are real, those of both sides together; of UL2's encoder-decoder, those of inputs."""
    for concatenate in (False, True):
        inputs, _, both = real_shares(make(source, books, layout, 512, concatenate=concatenate))
        assert (inputs if source is MixtureOfDenoisers and layout == 'encoder_decoder' else both) > 0.98
