"""Spans end to end: the loss by hand, a tiny model that learns where the answer stands, SQuAD's scores of its answers."""

import jax
import numpy as np
import pytest

from t5x_lite.checks import finalize
from t5x_lite.config import Config, ModelConfig, OptimConfig
from t5x_lite.data import tokenizers
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from t5x_lite.evaluation.answer_predictor import AnswerPredictor
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.evaluation.span_loss import SpanLoss
from t5x_lite.training import partitioning
from t5x_lite.training.step import make_program, make_train_step
from tests.data.test_question_examples import config_of, questions
from tests.training import small


def contexts(count, seed):
    """'bo li' somewhere among other words."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = [f'w{number}' for number in rng.integers(0, 40, rng.integers(3, 9))]
        words.insert(int(rng.integers(0, len(words) + 1)), 'bo li')
        found.append(' '.join(words))
    return list(dict.fromkeys(found))


def run_config(folder, **fields):
    config = config_of(folder, questions(folder, 't.json', contexts(200, 0)), questions(folder, 'd.json', contexts(30, 1)), **fields)
    config.steps, config.batch_size, config.loss = 60, 16, 't5x_lite.evaluation.span_loss:SpanLoss'
    config.data.source = 't5x_lite.data.question_examples:QuestionExamples'
    config.model = ModelConfig(
        module='t5x_lite.models.heads:SpanHead', body='bert_flax.bert:Bert', vocab_size=55, vocab_multiple=8, num_layers=1, d_model=32, num_heads=4, d_ff=64,
        max_positions=16, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    config.optim = OptimConfig(learning_rate=1e-2, warmup_steps=5)
    return finalize(config)


def test_a_tiny_model_learns_where_answers_stand(tmp_path):
    config = run_config(tmp_path)
    train, held_out = DataFunction(config, 'train'), DataFunction(config, 'validation')
    mesh = partitioning.make_mesh(config, small.one_device())
    program = make_program(config, mesh)
    evaluate = Evaluator(program, held_out)
    with jax.set_mesh(mesh):
        state, step = program.init(), jax.jit(make_train_step(program))
        before = evaluate(state.params)
        for number in range(config.steps):
            state, metrics = step(state, train.batch(number))
            assert metrics['finite']
    scores = evaluate(state.params)
    assert scores['f1'] > 95 > 60 > before['f1'] and scores['em'] > 90, (before, scores)
    predictor = AnswerPredictor(config, jax.tree.map(np.asarray, state.params), tokenizers.load(config.data.tokenizer), batch_size=4)
    held = contexts(30, 1)
    answers = list(predictor([('who ?', context) for context in held]))
    assert np.mean([answer['answer'] == 'bo li' for answer in answers]) * 100 == pytest.approx(scores['em']), 'an answer is what the evaluation scored'
    assert all(context[answer['start'] : answer['stop']] == answer['answer'] == answer['best'][0]['answer'] for context, answer in zip(held, answers))
    for pair, said in ((('who ?',), '1 texts'), (('who ?', ' '), 'the text is empty')):
        with pytest.raises(UserError, match=said):
            list(predictor([pair]))


def test_the_loss_by_hand():
    loss = SpanLoss(Config())
    starts = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32))
    ends = np.log(np.array([[0.25, 0.25, 0.5], [0.8, 0.1, 0.1]], np.float32))
    batch = {'answer_starts': np.array([0, 0], np.int32), 'answer_ends': np.array([2, 0], np.int32)}
    batch |= {'answer_weights': np.array([1, 0], np.float32), 'example_weights': np.ones(2, np.float32)}
    terms, metrics = loss({'start_logits': starts, 'end_logits': ends}, batch)
    np.testing.assert_allclose(terms['loss'], -np.log(0.5), rtol=1e-6)
    assert loss.weights(batch)['loss'] == 1 and metrics['window_accuracy'][0] == 1


def test_questions_without_an_answer(tmp_path):
    """Logits that say the right spans and, for all questions, a high score of no answer: it is the threshold that decides."""
    config = run_config(tmp_path, no_answers=True)
    held_out = DataFunction(config, 'validation').sources(DataFunction(config, 'validation').stages[0])[0].windows
    start, end = np.zeros((2, len(held_out), 16), np.float32)
    rows = np.arange(len(held_out))
    start[rows, held_out.answer_starts], end[rows, held_out.answer_ends] = 5, 5
    start[:, 0] += 20
    collected = {'start': start, 'end': end, 'weights': np.ones(len(rows), np.float32)}
    scores = SpanLoss(config).summarize(collected)
    assert scores['f1'] == 0 and scores['best_f1'] == 100
    config.data.no_answer_threshold = 100.0
    assert SpanLoss(config).summarize(collected)['f1'] == 100
    part = SpanLoss(config).summarize({name: value[:2] for name, value in collected.items()})
    assert part['total'] == 2, 'of a part of the windows, their questions'
