"""Generation by real models: cached equals uncached, a batch equals its rows, a mesh equals a device, beams equal enumeration."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from t5x_lite.config import Config, DataConfig, DecodeConfig, Decoding, MeshConfig, ModelConfig, SequenceAttention, TaskConfig
from t5x_lite.data import tokenizers
from t5x_lite.errors import UserError
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.evaluation.generation import Generator
from t5x_lite.evaluation.predictor import TextPredictor, filled, show
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program
from tests.models.test_language_model import GPT2, T5, lively

DECODER, ENCODER_DECODER = 't5x_lite.models.language_model:Decoder', 't5x_lite.models.language_model:EncoderDecoder'
SOURCES = {
    'causal': 't5x_lite.data.language_modelling:CausalLm',
    'prefix': 't5x_lite.data.language_modelling:PrefixLm',
    'tasks': 't5x_lite.tasks.examples:TaskExamples',
}
KINDS = {'decoder': (GPT2, DECODER, SOURCES['causal']), 'prefix': (GPT2, DECODER, SOURCES['tasks']), 'encoder_decoder': (T5, ENCODER_DECODER, SOURCES['tasks'])}
PROMPTS = ['abc', 'a', 'the hat', 'be', 'teach']


@pytest.fixture(scope='module')
def tokenizer():
    return tokenizers.train('characters', ['the cat sat on that hat.\na bee'] * 3, None, False)


def config_of(kind: str, **mesh) -> Config:
    model, module, source = KINDS[kind]
    return Config(
        model=dataclasses.replace(
            model, module=module, vocab_size=20, vocab_multiple=16, max_positions=64, tie_embeddings=False, scale_logits=False, init_stddev=0.3
        ),
        data=DataConfig(source=source), loss='t5x_lite.training.losses:LmLoss', mesh=MeshConfig(**mesh),
    )  # fmt: skip


def generator(kind: str, tokenizer, **options) -> Generator:
    config = config_of(kind)
    made = Generator(config, None, tokenizer, **options)
    made.params = sharp(lively(made.module))
    return made


def sharp(params):
    """Larger logits, so that no two nearly tie."""
    params = nn.unbox(params)
    params['embeddings']['output']['kernel'] *= 20
    return params


def blunt(params):
    """As they were before `sharp`."""
    params['embeddings']['output']['kernel'] /= 20
    return params


def padded(ids: list[int], prefix: str = '', width: int = 24) -> dict[str, np.ndarray]:
    row = np.array([ids + [0] * (width - len(ids))], np.int32)
    return {f'{prefix}tokens': row, f'{prefix}sequence_ids': (np.arange(width) < len(ids))[None].astype(np.int32)}


def naive(made: Generator, prompt: str, steps: int) -> list[int]:
    """Greedy decoding by reading the whole row again for each token."""
    apply = jax.jit(lambda batch: made.module.apply({'params': made.params}, batch)['lm_logits'][0])
    ids, found = made._ids(prompt), []
    for _ in range(steps):
        if made.has_encoder:
            row = [made.tokenizer.start_id, *found]
            batch = padded(ids) | padded(row, 'decoder_')
        else:
            row = ids + found
            batch = padded(row)
            if made._prefix:
                batch['prefix'] = (np.arange(24) < len(ids))[None].astype(np.int32)
        found.append(int(np.argmax(apply(batch)[len(row) - 1])))
        if found[-1] == made.tokenizer.end_id:
            break
    return found


@pytest.mark.parametrize('kind', KINDS)
def test_cached_equals_uncached_and_a_batch_equals_its_rows(kind, tokenizer):
    made = generator(kind, tokenizer, batch_size=4)
    decode = DecodeConfig(max_new_tokens=7)
    answers = made(PROMPTS, decode)
    for prompt, (answer,) in zip(PROMPTS, answers, strict=True):
        assert list(answer.tokens) == naive(made, prompt, 7)
        ((alone,),) = made([prompt], decode)
        assert alone.tokens == answer.tokens and alone.log_prob == pytest.approx(answer.log_prob, abs=1e-4)
        given = made._teacher_forced([(made._ids(prompt), list(answer.tokens))])
        assert float(made._target_log_probs(made.params, given).sum()) == pytest.approx(answer.log_prob, abs=1e-3)
    assert len({answer.text for (answer,) in answers}) > 2, 'the prompt matters'


def test_samples_depend_on_seed_and_place_alone(tokenizer):
    decode = DecodeConfig(method=Decoding.sample, max_new_tokens=6, samples=3, temperature=3.0)
    made = generator('decoder', tokenizer, batch_size=4)
    together = made(PROMPTS[:3], decode, seed=5)
    assert [len(row) for row in together] == [3, 3, 3] and len({answer.tokens for row in together for answer in row}) > 5
    assert made(PROMPTS[:3], decode, seed=5) == together != made(PROMPTS[:3], decode, seed=6)
    other = generator('decoder', tokenizer, batch_size=2)(PROMPTS[:3], decode, seed=5)
    assert [[answer.tokens for answer in row] for row in other] == [[answer.tokens for answer in row] for row in together]


@pytest.mark.parametrize('kind', ['decoder', 'encoder_decoder'])
def test_beams_find_what_enumeration_finds(kind, tokenizer):
    made = generator(kind, tokenizer)
    decode = DecodeConfig(method=Decoding.beam, beams=400, max_new_tokens=2, length_penalty=0.6)
    (beams,) = made(['ab'], decode)
    end = tokenizer.end_id
    paths = [[end]] + [[a, end] for a in range(20) if a != end]
    rows = made._teacher_forced([(made._ids('ab'), path) for path in paths])
    sums = np.asarray(made._target_log_probs(made.params, rows)).sum(axis=1)
    ranked = sorted(((total / ((5 + len(path)) / 6) ** 0.6, total, tuple(path)) for total, path in zip(sums, paths)), reverse=True)
    for (score, total, path), answer in zip(ranked[:8], beams):
        assert answer.tokens == path and answer.ended
        assert (answer.score, answer.log_prob) == pytest.approx((score, total), abs=1e-3)


def assert_same_answers(sharded, single):
    """Greedy and by beams."""
    for decode in (DecodeConfig(max_new_tokens=6), DecodeConfig(method=Decoding.beam, beams=3, max_new_tokens=4)):
        for ours, theirs in zip(sharded(PROMPTS, decode), single(PROMPTS, decode), strict=True):
            assert [answer.tokens for answer in ours] == [answer.tokens for answer in theirs]
            assert [answer.score for answer in ours] == pytest.approx([answer.score for answer in theirs], abs=1e-3)


@pytest.mark.parametrize('sizes', [{'data': 2, 'fsdp': 2, 'tensor': 2}, {'data': 2, 'sequence': 4, 'sequence_attention': SequenceAttention.ring}], ids=str)
@pytest.mark.parametrize('kind', ['decoder', 'encoder_decoder'])
def test_a_mesh_gives_the_tokens_of_one_device(kind, sizes, tokenizer):
    single = generator(kind, tokenizer, batch_size=4)
    config = config_of(kind, **sizes)
    mesh = partitioning.make_mesh(config)
    params = Evaluator.place_on(make_program(config, mesh), jax.tree.map(np.asarray, single.params))
    sharded = Generator(config, params, tokenizer, mesh, batch_size=4)
    assert_same_answers(sharded, single)


def test_the_cache_is_sharded_as_the_model(tokenizer):
    config = config_of('decoder', data=2, fsdp=2, tensor=2)
    mesh = partitioning.make_mesh(config)
    params = Evaluator.place_on(make_program(config, mesh), jax.tree.map(np.asarray, generator('decoder', tokenizer).params))
    made = Generator(config, params, tokenizer, mesh, batch_size=4)
    _, state = made._jit('fill', made._fill)(params, made._prompts([made._ids(prompt) for prompt in PROMPTS[:4]], 5))
    keys = state['cache']['decoder']['layers']['attention']['keys']
    assert keys.shape == (2, 4, 4, 8 + 5, 8), 'as long as prompt and answer'
    assert keys.sharding.shard_shape(keys.shape) == (2, 1, 2, 13, 8)


def test_answers_end_at_texts(tokenizer):
    made = generator('decoder', tokenizer)
    ((whole,),) = made(['the'], DecodeConfig(max_new_tokens=20))
    stop = whole.text[3:5]
    ((answer,),) = made(['the'], DecodeConfig(max_new_tokens=20, stop=(stop,)))
    assert answer.text == whole.text[: whole.text.index(stop)] and answer.ended
    pieces = list(made.stream('the', DecodeConfig(max_new_tokens=20, stop=(stop,))))
    assert ''.join(pieces) == answer.text
    assert ''.join(made.stream('the', DecodeConfig(max_new_tokens=20))) == whole.text


def test_choices_are_ranked_by_the_sum_over_their_tokens(tokenizer):
    made = generator('decoder', tokenizer)
    ids, choice = made._ids('the c'), tokenizer.encode('at')
    (scored,) = made.score(['the c'], ['at'])
    row = np.array([ids + choice], np.int32)
    log_p = jax.nn.log_softmax(made.module.apply({'params': made.params}, {'tokens': row, 'sequence_ids': np.ones_like(row)})['lm_logits'][0])
    assert scored.log_prob == pytest.approx(float(log_p[len(ids) - 1, choice[0]] + log_p[len(ids), choice[1]]), abs=1e-4)
    everything = made.score([''], ['the cat'])[0]
    assert everything.tokens == 7


def test_a_prompt_of_tasks_is_read_from_both_sides(tokenizer):
    """A decoder that learnt tasks: what stands last in the prompt changes how its first token is seen, and the end token closes it."""
    made = generator('prefix', tokenizer)
    assert made._ids('ab') == [tokenizer.start_id, *tokenizer.encode('ab'), tokenizer.end_id]
    plain = generator('decoder', tokenizer)
    assert plain._ids('ab') == [tokenizer.start_id, *tokenizer.encode('ab')]
    stream = Generator(dataclasses.replace(plain.config, data=DataConfig(source=SOURCES['causal'], concatenate=True)), plain.params, tokenizer)
    assert stream._ids('ab') == tokenizer.encode('ab')
    between = Generator(dataclasses.replace(plain.config, data=DataConfig(source=SOURCES['prefix'])), plain.params, tokenizer)
    assert between._ids('ab') == [tokenizer.start_id, *tokenizer.encode('ab')] and between._prefix


@pytest.mark.parametrize(
    'prompt, fields, message',
    [
        ('', {}, 'the prompt is empty'),
        ('a' * 80, {}, 'a prompt of 81 tokens leaves nothing of the 64 positions of the model; shorten it'),
        ('a' * 40, {'max_new_tokens': 30}, 'max_new_tokens=30 after a prompt of 41 tokens needs more than the 64 positions of the model; give at most 23'),
    ],
)
def test_bad_prompts(prompt, fields, message, tokenizer):
    made = generator('decoder', tokenizer)
    with pytest.raises(UserError, match=message):
        made([prompt], DecodeConfig(**fields))


def test_a_run_that_learnt_ends_reads_the_end_of_a_prompt_that_is_too_long(tokenizer):
    made, prompt = generator('decoder', tokenizer), 'the cat ' * 12 + 'at'
    learnt = dataclasses.replace(made.config, data=dataclasses.replace(made.config.data, tasks=TaskConfig(keep_end=True)))
    keeping, ids, most = Generator(learnt, made.params, tokenizer), tokenizer.encode(prompt), made.config.model.max_positions
    with pytest.raises(UserError, match='leaves nothing'):
        made.check(prompt, DecodeConfig())
    for decode, room in ((DecodeConfig(), most // 2), (DecodeConfig(max_new_tokens=5), most - 5)):
        assert keeping._asked(prompt, decode) == [tokenizer.start_id, *ids[len(ids) - room + 1 :]] and keeping.cut(prompt, decode) == room
        ((answer,),) = keeping([prompt], decode)
        assert 1 <= len(answer.tokens) <= most - room
        said = next(TextPredictor(keeping, decode, 0)([(prompt,)]))
        assert said['cut'] == room and show(said).endswith(f'(of this text only {room} tokens were read)')
        assert ''.join(TextPredictor(keeping, decode, 0).stream(prompt)).endswith(show(said).splitlines()[-1])
    assert keeping._asked('the cat', DecodeConfig()) == made._asked('the cat', DecodeConfig()) and not keeping.cut('the cat', DecodeConfig())


def test_an_encoder_cannot_generate(tokenizer):
    config = Config(model=ModelConfig(module='bert_flax.bert:BertForMaskedLm', vocab_size=20))
    with pytest.raises(UserError, match='bert_flax.bert:BertForMaskedLm cannot generate text; name a run of a decoder'):
        Generator(config, {}, tokenizer)


def test_what_is_left_of_the_positions_is_used(tokenizer):
    ((answer,),) = generator('decoder', tokenizer)(['a' * 60], DecodeConfig())
    assert 1 <= len(answer.tokens) <= 3


def test_a_repetition_penalty_counts_the_prompt(tokenizer):
    made = generator('decoder', tokenizer)
    prompt = 'abt'
    ((free,),) = made([prompt], DecodeConfig(max_new_tokens=8))
    ((held,),) = made([prompt], DecodeConfig(max_new_tokens=8, repetition_penalty=1e6))
    assert len(set(held.tokens) & set(tokenizer.encode(prompt))) == 0 and len(set(held.tokens)) == len(held.tokens)
    assert len(set(free.tokens)) < len(free.tokens) or set(free.tokens) & set(tokenizer.encode(prompt))


def test_several_scores_of_a_prompt_add_up(tokenizer):
    """Over all continuations of one token and the end, probabilities sum to one."""
    made = generator('decoder', tokenizer)
    made.params = blunt(made.params)
    singles = [i for i in range(tokenizer.vocab_size) if len(tokenizer.token(i)) == 1]
    log_probs = [score.log_prob for score in made.score(['th'] * len(singles), [tokenizer.token(i) for i in singles])]
    assert 0.2 < np.exp(log_probs).sum() <= 1.0001 and max(log_probs) < 0


def test_spans_are_filled_in():
    assert filled('a <extra_id_0> of <extra_id_1>.', '<extra_id_0> list<extra_id_1> names') == 'a list of names.'
    assert filled('a <extra_id_0> of <extra_id_1>.', 'lost <extra_id_1> names') == 'a <extra_id_0> of names.'
    assert filled('no spans', '<extra_id_0> list') == 'no spans'


def test_rows_of_a_batch_use_the_positions_that_each_has_left(tokenizer):
    made = generator('decoder', tokenizer, batch_size=2)
    made.tokenizer = Endless(made.tokenizer)
    together = made(['a' * 60, 'be'], DecodeConfig())
    assert [len(answer.tokens) for (answer,) in together] == [3, 61]
    for prompt, (answer,) in zip(['a' * 60, 'be'], together):
        ((alone,),) = made([prompt], DecodeConfig())
        assert alone.tokens == answer.tokens and alone.log_prob == pytest.approx(answer.log_prob, abs=1e-3)
    assert [len(found[0].tokens) for found in made(['a' * 60, 'be'], DecodeConfig(method=Decoding.beam, beams=2))] == [3, 61]


class Endless:
    """A tokenizer whose end token nothing generates."""

    def __init__(self, tokenizer):
        self._tokenizer, self.end_id = tokenizer, 10_000

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


def test_what_follows_a_stop_text_is_no_part_of_an_answer(tokenizer):
    made = generator('decoder', tokenizer, batch_size=2)
    made.tokenizer = Endless(made.tokenizer)
    whole = made(['the', 'be'], DecodeConfig(max_new_tokens=40))
    stop = next(letter for letter in whole[0][0].text[2:] if letter not in whole[0][0].text[:2])
    answers = made(['the', 'be'], DecodeConfig(max_new_tokens=40, stop=(stop,)))
    for (answer,), (free,) in zip(answers, whole):
        assert answer.tokens == free.tokens[: len(answer.tokens)] and stop not in answer.text
        given = made._teacher_forced([(made._ids('the' if free is whole[0][0] else 'be'), list(answer.tokens))])
        assert answer.log_prob == pytest.approx(float(made._target_log_probs(made.params, given).sum()), abs=1e-3)
    assert len(answers[0][0].tokens) < 40 and answers[0][0].ended
    (beams,) = made(['the'], DecodeConfig(method=Decoding.beam, beams=2, max_new_tokens=12, stop=(stop,)))
    for answer in beams:
        given = made._teacher_forced([(made._ids('the'), list(answer.tokens))])
        assert answer.log_prob == pytest.approx(float(made._target_log_probs(made.params, given).sum()), abs=1e-3)


def test_samples_do_not_depend_on_how_prompts_are_cut_into_calls(tokenizer):
    made = generator('decoder', tokenizer, batch_size=2)
    made.params = blunt(made.params)
    decode = DecodeConfig(method=Decoding.sample, max_new_tokens=5, temperature=3.0)
    whole = made(['the'] * 4, decode, seed=1)
    parts = made(['the'] * 3, decode, seed=1) + made(['the'], decode, seed=1, first=3)
    assert [found[0].tokens for found in whole] == [found[0].tokens for found in parts]
    assert len({found[0].tokens for found in whole}) > 1
    texts = list(TextPredictor(made, decode, 1)(('the',) for _ in range(4)))
    assert [answer['answers'][0]['text'] for answer in texts] == [found[0].text for found in whole]


def test_more_beams_than_there_are_answers(tokenizer):
    made = generator('decoder', tokenizer)
    (beams,) = made(['ab'], DecodeConfig(method=Decoding.beam, beams=100, max_new_tokens=1))
    assert 0 < len(beams) < 100 and all(np.isfinite(answer.log_prob) and answer.log_prob > -1e6 for answer in beams)
    assert len({answer.tokens for answer in beams}) == len(beams)
