"""Spans end to end: the loss by hand, a tiny model that learns where the answer stands, SQuAD's scores of its answers."""

import numpy as np
import pytest

from t5x_lite.config import Config
from t5x_lite.data import tokenizers
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from t5x_lite.evaluation.answer_predictor import AnswerPredictor
from t5x_lite.evaluation.span_loss import SpanLoss
from tests import head_material
from tests.data.reading_material import SPECIAL, WORDS, config_of, questions


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
    files = questions(folder, 't.json', contexts(200, 0)), questions(folder, 'd.json', contexts(30, 1))
    data = config_of(folder, *files, source='t5x_lite.data.question_examples:QuestionExamples', **fields).data
    model = {'vocab_size': len(SPECIAL + WORDS), 'num_heads': 4}
    return head_material.run_of('SpanHead', 't5x_lite.evaluation.span_loss:SpanLoss', data, model=model, steps=60)


def test_a_tiny_model_learns_where_answers_stand(tmp_path):
    config = run_config(tmp_path)
    learnt = head_material.learnt(config)
    scores, before = learnt.after, learnt.before
    assert scores['f1'] > 95 > 60 > before['f1'] and scores['em'] > 90, (before, scores)
    predictor = AnswerPredictor(config, learnt.params, tokenizers.load(config.data.tokenizer), batch_size=4)
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
