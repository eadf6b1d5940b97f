"""Greedy and beam search from Hugging Face folders give transformers' tokens and scores (tests/fixtures/make_lm_fixtures.py)."""

import pathlib

import numpy as np
import pytest

from t5x_lite.config import BeamScore, Config, DecodeConfig, Decoding
from t5x_lite.evaluation.generation import Generator
from t5x_lite.interop import folder

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / 'fixtures'
NAMES = ('gpt2', 'openai_gpt', 't5', 't5_v1_1')


class Ids:
    """A tokenizer of numbers: the fixtures have no texts."""

    special_ids, sentinel_ids = frozenset(), ()

    def __init__(self, pad_id, end_id):
        self.pad_id, self.end_id, self.start_id = pad_id, end_id, 0

    def decode(self, ids, skip_special):
        return ' '.join(map(str, ids))


@pytest.fixture(scope='module', params=NAMES)
def case(request):
    model, params = folder.load(str(FIXTURES / request.param))
    arrays = np.load(FIXTURES / f'{request.param}.npz')
    prompts = [row[mask > 0].tolist() for row, mask in zip(arrays['prompts'], arrays['prompt_mask'])]
    made = Generator(Config(model=model), params, Ids(int(arrays['pad_token_id']), int(arrays['eos_token_id'])))
    return made, arrays, prompts, int(arrays['max_new_tokens'])


def trimmed(tokens, end):
    """Up to the end token, which theirs is followed by padding after."""
    tokens = tokens.tolist()
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def test_greedy(case):
    made, arrays, prompts, steps = case
    end = made.tokenizer.end_id
    for rows in made._extended(prompts, DecodeConfig(max_new_tokens=steps), (end,), [steps] * len(prompts), 0, 0, 0, steps):
        assert [tokens for tokens, _ in rows] == [trimmed(row, end) for row in arrays['greedy']]


@pytest.mark.parametrize('setting', range(4))
def test_beams(case, setting):
    made, arrays, prompts, steps = case
    beams, penalty, early = arrays['beam_settings'][setting]
    decode = DecodeConfig(
        method=Decoding.beam, beams=int(beams), length_penalty=float(penalty), beam_score=BeamScore.transformers, early_stopping=early == 1,
        max_new_tokens=steps,
    )  # fmt: skip
    end = made.tokenizer.end_id
    for row, answers in enumerate(made._beams(prompts, decode, (end,), steps)):
        assert [list(answer.tokens) for answer in answers] == [trimmed(tokens, end) for tokens in arrays['beam_tokens'][setting, row]]
        np.testing.assert_allclose([answer.score for answer in answers], arrays['beam_scores'][setting, row], atol=1e-4)
        np.testing.assert_allclose([answer.log_prob for answer in answers], arrays['beam_sums'][setting, row], atol=1e-4)
