"""Scores of texts and of ranked choices."""

import json
import pathlib

import numpy as np
import pytest

from t5x_lite.evaluation import metrics_choices, metrics_text

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / '..' / 'shared' / 'golden'

# Cases of metrics.json about functions that are not ours, and why.
NOT_OURS = {
    'word edit distance': 'no task here is judged by it',
    'mean absolute error': 'numpy does it; STS-B is judged by correlations',
    'hamming loss': '100 minus accuracy',
    'n-gram matches': "sacrebleu's inside",
    'raw BLEU': "sacrebleu's inside",
    'BLEU 0..1 from counts': "sacrebleu's inside",
    'sentence BLEU': "sacrebleu's; scores here are of corpora",
    'BLEU 0..1 on token lists': "another library's BLEU, of lists of tokens",
    'raw corpus BLEU': "sacrebleu's inside",
    'longest common': "rouge-score's inside",
    'union of LCS': "rouge-score's inside",
    'summary-level LCS': "rouge-score's inside",
}


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


def _cases(name):
    if not (GOLDEN / name).exists():
        pytest.skip(f'{GOLDEN / name} is absent')
    return json.loads((GOLDEN / name).read_text())['cases']


def _same(ours, expected, tolerance):
    if isinstance(expected, dict):
        assert expected.keys() <= ours.keys()
        for key, value in expected.items():
            _same(ours[key], value, tolerance)
    else:
        assert ours == pytest.approx(expected, abs=max(tolerance, 1e-9)) if isinstance(expected, (int, float)) else ours == expected


def _rank(given):
    targets = given['targets']
    found = metrics_choices.rank_classification(
        [target[0][0] for target in targets], [target[0][1] for target in targets], [target[1] for target in targets], given['scores'],
        weights=[target[2] for target in targets], num_classes=given['num_classes'] or 0,
        lengths=[target[3] for target in targets] if given.get('normalize_by_target_length') else None,
    )  # fmt: skip
    return {{'auc_roc': 'auc-roc', 'auc_pr': 'auc-pr', 'macro_f1': 'mean_3class_f1'}.get(name, name): value for name, value in found.items()}


def _auc(given):
    limit = given['targets_threshold']
    targets = [target if limit is None else target >= limit for target in given['targets']]
    return {'auc-roc': metrics_choices.auc_roc(targets, given['predictions']), 'auc-pr': metrics_choices.auc_pr(targets, given['predictions'])}


def _by_example(streams):
    return [list(texts) for texts in zip(*streams, strict=True)]


def _rouge(name, given):
    from rouge_score import rouge_scorer

    found = rouge_scorer.RougeScorer([name], use_stemmer=given['stemming']).score(given['target'], given['prediction'])[name]
    ours = metrics_text.rouge([given['target']], [given['prediction']], (name,), given['stemming'])[name]
    assert ours == pytest.approx(100 * found.fmeasure)
    return found._asdict()


def _groups(metric):
    return lambda given: metric(given['targets'], given['predictions'], metrics_text.accuracy)


def _span(given):
    spans = []
    for text in given['predictions']:
        parts = text.replace(':', ' ').split()
        spans.append((int(parts[1]), int(parts[3])) if len(parts) == 4 and parts[1].isdecimal() and parts[3].isdecimal() else None)
    return metrics_text.span_squad(given['targets'], spans)


def _pairs(function, *more):
    return lambda given: function(given['targets'], given['predictions'], *more)


OURS = {
    'bleu': lambda given: metrics_text.bleu(
        _by_example(given['targets']) if isinstance(given['targets'][0], list) else given['targets'], given['predictions']
    ),
    'rouge mean F': _pairs(metrics_text.rouge),
    'squad EM/F1': _pairs(metrics_text.squad),
    'trivia_qa EM/F1': _pairs(metrics_text.trivia_qa),
    'qa metrics on already normalised text (no normalisation)': _pairs(metrics_text.answers),
    'normalize_squad': metrics_text.normalize_squad,
    'normalize_trivia_qa': metrics_text.normalize_trivia_qa,
    'span_squad': _span,
    'sequence_accuracy': _pairs(metrics_text.sequence_accuracy),
    'mean multiclass F1 (3)': lambda given: {'mean_3class_f1': metrics_text.macro_f1(given['targets'], given['predictions'], 3)['macro_f1']},
    'all_match': _pairs(metrics_text.all_match),
    'pearson': lambda given: {'pearson_corrcoef': metrics_text.pearson(given['targets'], given['predictions'])['pearson']},
    'spearman': lambda given: {'spearman_corrcoef': metrics_text.spearman(given['targets'], given['predictions'])['spearman']},
    'matthews x100': lambda given: {'matthews_corrcoef': metrics_text.matthews(given['targets'], given['predictions'])['matthews']},
    'binary F1, predictions other than 0/1 count as wrong': _pairs(metrics_text.binary_f1),
    'accuracy': _pairs(metrics_text.accuracy),
    'accuracy, first example per group only': _groups(metrics_text.first_of_groups),
    'accuracy averaged over groups': _groups(metrics_text.mean_over_groups),
    'F1 over all answers': lambda given: {'f1': metrics_text.multirc(given['targets'], given['predictions'])['f1a']},
    'auc (values 0..1)': _auc,
    'coqa_tokenize': lambda given: metrics_text.normalize_squad(given).split(),
    'sequence_f1': lambda given: metrics_text.sequence_f1(given['target'], given['prediction']),
    'coqa_f1': _pairs(metrics_text.coqa_f1),
    'corpus BLEU (references per stream)': lambda given: metrics_text.bleu(
        _by_example(given['reference_streams']), given['predictions'], **{'tokenize': '13a'} | given['options']
    )['bleu'],
    'binary classification': lambda given: {
        **metrics_text.accuracy(given['targets'], given['predictions']),
        **metrics_text.binary_f1(given['targets'], given['predictions']),
        'matthews_corrcoef': metrics_text.matthews(given['targets'], given['predictions'])['matthews'],
    },
}


def _answer(function, given):
    if function in OURS:
        return OURS[function](given)
    if function.startswith('rank_classification'):
        return _rank(given)
    if function in ('rouge1', 'rouge2', 'rougeL', 'rougeLsum'):
        return _rouge(function, given)
    if function == 'accuracy averaged over groups, with group scores':
        apart = metrics_text.groups(given['targets'], given['predictions'], metrics_text.accuracy)
        named = {f'{group}-{name}': value for group, scores in apart.items() for name, value in scores.items()}
        return metrics_text.mean_over_groups(given['targets'], given['predictions'], metrics_text.accuracy) | named
    if function.startswith('multiclass classification, 4'):
        scores = metrics_text.accuracy(given['targets'], given['predictions'])
        return scores | {'mean_4class_f1': metrics_text.macro_f1(given['targets'], given['predictions'], 4)['macro_f1']}
    if function == 'correlation with ties':
        return OURS['pearson'](given) | OURS['spearman'](given)
    assert function == 'corpus BLEU, max n-gram order', function
    import sacrebleu

    return sacrebleu.BLEU(max_ngram_order=given['max_ngram_order']).corpus_score(given['predictions'], given['reference_streams']).score


def test_golden_metrics():
    checked, left = 0, set()
    for case in _cases('metrics.json'):
        reason = next((start for start in NOT_OURS if case['function'].startswith(start)), None)
        if reason:
            left.add(reason)
            continue
        if case['expected'] == 'error':
            with pytest.raises(ValueError, match='5 predictions for 6 examples'):
                metrics_text.answers(case['input']['targets'], case['input']['predictions'])
        else:
            _same(_answer(case['function'], case['input']), case['expected'], case['tolerance'])
        checked += 1
    assert left == NOT_OURS.keys() and checked >= 100, 'each exception is there'


def test_golden_corpus():
    cases = _cases('rouge_corpus_large.json')
    texts = cases[0]['input']
    assert cases[0]['function'].startswith('rouge mean F (asserted')
    ours = {stemming: metrics_text.rouge(texts['targets'], texts['predictions'], stemming=stemming) for stemming in (False, True)}
    checked = 0
    for case in cases:
        function, expected, tolerance = case['function'], case['expected'], case['tolerance']
        if function.startswith('rouge mean F'):
            _same(ours[False], expected, tolerance)
        elif function.startswith(('rouge mean precision', 'rouge mid values')):
            _same(ours[case['input']['stemming']], {name: 100 * values['fmeasure'] for name, values in expected.items()}, 100 * tolerance)
        elif function.startswith('corpus BLEU'):
            tokenize = next(part.removeprefix('tokenize=') for part in function.split(', ') if part.startswith('tokenize='))
            _same(metrics_text.bleu(texts['targets'], texts['predictions'], tokenize), expected, tolerance)
        else:
            continue
        checked += 1
    assert checked == 9


@pytest.mark.slow
def test_golden_corpus_as_one_summary():
    cases = _cases('rouge_corpus_large.json')
    whole = ['\n'.join(cases[0]['input'][key]) for key in ('targets', 'predictions')]
    case = next(case for case in cases if case['function'].startswith('rougeLsum F of the whole'))
    _same(metrics_text.rouge([whole[0]], [whole[1]], ('rougeLsum',))['rougeLsum'], 100 * case['expected'], 100 * case['tolerance'])


def test_golden_averages():
    checked = 0
    for case in _cases('mixtures_averages.json'):
        function, given = case['function'], case['input']
        if 'average' in function:
            names = {}
            for name in given:
                task = name.split(' (')[0]
                names.setdefault('MNLI' if task.startswith('MNLI') else task, []).append(name)
            _same(metrics_text.mean_of_groups(given, list(names.values())), case['expected'], case['tolerance'])
            checked += 1
        elif function == 'best step per metric group':
            scores = {name: given[name] for name in given['groups']}
            names = {}
            for name, group in given['groups'].items():
                names.setdefault(group, []).append(name)
            found = metrics_text.best_steps(given['steps'], scores, list(names.values()))
            assert {name: value for name, (value, _) in found.items()} == case['expected']['max']
            assert {name: step for name, (_, step) in found.items()} == case['expected']['step']
            checked += 1
    assert checked == 3
