"""Scores of texts and of ranked choices."""

import numpy as np
import pytest

from t5x_lite.evaluation import metrics_choices, metrics_text


def test_several_references_the_best_counts():
    targets = [['a red fox ran', 'the fox ran far'], 'two birds sang']
    assert metrics_text.exact_match(targets, ['the fox ran far ', 'a bird sang']) == {'exact_match': 50.0}
    assert metrics_text.sequence_accuracy(targets, ['the fox ran far ', 'two birds sang']) == {'sequence_accuracy': 50.0}
    assert metrics_text.squad(targets, ['red fox ran', 'The two birds!']) == pytest.approx({'em': 50.0, 'f1': (100 + 80) / 2})
    found = metrics_text.rouge(targets, ['the fox ran far', 'two birds sang'])
    assert found == dict.fromkeys(('rouge1', 'rouge2', 'rougeL', 'rougeLsum'), 100.0)
    right = ['the fox ran far', 'two birds sang']
    assert metrics_text.chrf(targets, right) == {'chrf': 100.0}
    assert metrics_text.bleu(targets, right)['bleu'] > metrics_text.bleu([targets[0][0], targets[1]], right)['bleu']
    assert metrics_text.bleu_13a(targets, right)['bleu_13a'] == pytest.approx(metrics_text.bleu(targets, right, '13a')['bleu'])


def test_sentences_of_a_summary_end_with_its_lines():
    target, prediction = 'one two . three four', 'three four . one two'
    assert metrics_text.rouge([target], [prediction])['rougeLsum'] == 100.0
    assert metrics_text.rouge([target], [prediction])['rougeL'] == 50.0


def test_nothing_to_hold_against_is_an_error():
    for function in (metrics_text.bleu, metrics_text.rouge, metrics_text.squad, metrics_text.exact_match, metrics_text.chrf):
        with pytest.raises(ValueError, match='example 1 has no reference'):
            function(['a', []], ['a', 'b'])
        with pytest.raises(ValueError, match='2 predictions for 1 examples'):
            function(['a'], ['a', 'b'])
        with pytest.raises(ValueError, match='nothing to score'):
            function([], [])


def test_refusing_to_answer_never_pays():
    assert metrics_text.binary_f1([0, 1, 1, 0], [0, 1, -1, -1])['f1'] == pytest.approx(50)
    assert metrics_text.accuracy([0, 1], [-1, 1]) == {'accuracy': 50.0}
    assert metrics_text.macro_f1([0, 1, 2], [0, 1, -1], 3)['macro_f1'] == pytest.approx(200 / 3)


def test_groups():
    targets = [{'group': group, 'value': value} for group, value in ((0, 1), (0, 0), (1, 1), (1, 1), (2, 0))]
    assert metrics_text.multirc(targets, [1, 0, 1, 0, 1]) == pytest.approx({'em': 100 / 3, 'f1a': 100 * 2 * 2 / (3 + 3)})
    queries = [{'group': [0, 0], 'value': ['A', 'B']}, {'group': [0, 0], 'value': ['A', 'B']}, {'group': [0, 1], 'value': ['C']}]
    assert metrics_text.record(queries, ['b', 'wrong', 'wrong']) == {'em': 50.0, 'f1': 50.0}


def test_spans_count_words_without_punctuation():
    target = {'answers': ['10 . 5 tons'], 'context': 'it weighs ( yes ! ) 10 . 5 tonnés . '}
    right = target | {'answers': ['10 . 5 tonnés']}
    assert metrics_text.words_of(target['context']) == ['it', 'weighs', 'yes', '10', '5', 'tonnés']
    assert metrics_text.span_squad([right] * 3, [(3, 5), (5, 3), None]) == pytest.approx({'em': 100 / 3, 'f1': 100 / 3})
    assert metrics_text.span_squad([target], [(3, 9)]) == pytest.approx({'em': 0.0, 'f1': 100 * 2 / 3})


def test_entities():
    targets = [[('PER', 'Ann'), ('LOC', 'Rome'), ('LOC', 'Rome')], []]
    found = metrics_text.entities(targets, [[('LOC', 'Rome'), ('ORG', 'Ann')], [('PER', 'Bo')]])
    assert found == pytest.approx({'entity_precision': 100 / 3, 'entity_recall': 100 / 3, 'entity_f1': 100 / 3})
    assert metrics_text.entities([[]], [[]])['entity_f1'] == 0


def test_averages():
    scores = {'a': 1.0, 'b1': 2.0, 'b2': 4.0}
    assert metrics_text.mean_of_groups(scores, [('a',), ('b1', 'b2')]) == 2.0
    assert metrics_text.best_steps([5, 6], {'a': [3, 1], 'b': [0, 4]}, [('a', 'b')]) == {'a': (1.0, 6), 'b': (4.0, 6)}


@pytest.mark.parametrize('weighted', [False, True])
def test_areas_equal_sklearn(weighted):
    sklearn = pytest.importorskip('sklearn.metrics')
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 2, 60), np.round(rng.random(60), 1)
    weights = rng.random(60) if weighted else None
    assert metrics_choices.auc_roc(targets, scores, weights) == pytest.approx(sklearn.roc_auc_score(targets, scores, sample_weight=weights))
    assert metrics_choices.auc_pr(targets, scores, weights) == pytest.approx(sklearn.average_precision_score(targets, scores, sample_weight=weights))


def test_ranked_choices():
    examples, choices = [1, 1, 0, 0, 0], [1, 0, 0, 1, 2]
    right, scores = [True, False, False, True, True], [-2.0, -1.0, -9.0, -6.0, -5.0]
    assert metrics_choices.rank_classification(examples, choices, right, scores) == {'accuracy': 50.0}
    by_length = metrics_choices.rank_classification(examples, choices, right, scores, lengths=[4, 1, 1, 1, 1])
    assert by_length == {'accuracy': 100.0}
    with pytest.raises(ValueError, match='example 1 has no right choice'):
        metrics_choices.rank_classification([0, 1], [0, 0], [True, False], [0.0, 0.0])
    with pytest.raises(ValueError, match='the same choice twice'):
        metrics_choices.rank_classification([0, 0], [1, 1], [True, False], [0.0, 0.0])
