"""Scores as the reference implementations have them, case by case."""

import functools

import pytest

from t5x_lite.evaluation import metrics_choices, metrics_text
from t5x_lite.tasks import answers
from tests import golden


def _same(ours, expected, case):
    if isinstance(expected, dict):
        assert expected.keys() <= ours.keys()
        for key, value in expected.items():
            _same(ours[key], value, case)
    elif isinstance(expected, (int, float)):
        assert ours == pytest.approx(expected, abs=max(case['tolerance'], 1e-9)), case
    else:
        assert ours == expected, case


def _pairs(function, *more, **names):
    """Scores of targets and predictions; `names`: {ours: theirs}."""

    def found(given):
        return {names.get(name, name): value for name, value in function(given['targets'], given['predictions'], *more).items()}

    return found


def _all(*functions):
    return lambda given: {name: value for function in functions for name, value in function(given).items()}


def _by_example(streams):
    return [list(texts) for texts in zip(*streams, strict=True)]


def _bleu(given):
    several = isinstance(given['targets'][0], list)
    return metrics_text.bleu(_by_example(given['targets']) if several else given['targets'], given['predictions'])


def _corpus_bleu(given, **options):
    return metrics_text.bleu(_by_example(given['reference_streams']), given['predictions'], **options)['bleu']


def _raw_bleu(given, value=0.01):
    return _corpus_bleu(given, tokenize='none', smooth_method='floor', smooth_value=value, use_effective_order=True) / 100


def _raw_bleus(given):
    """Without effective order."""
    return {
        str(value): _corpus_bleu(given, tokenize='none', smooth_method='floor', smooth_value=value, use_effective_order=False) / 100 for value in (0.1, 0.0)
    }


def _sentence_bleu(given):
    options = {key: given[key] for key in ('smooth_method', 'smooth_value', 'lowercase', 'tokenize')}
    return metrics_text.bleu([given['references']], [given['prediction']], use_effective_order=True, **options)['bleu']


def _token_bleu(given):
    """Of up to four tokens in a row and equal weights, as corpora of texts are scored."""
    references = [[' '.join(tokens) for tokens in several] for several in given['references']]
    return metrics_text.bleu(references, list(map(' '.join, given['candidates'])), tokenize='none', smooth_method='none')['bleu'] / 100


def _rouge(name, given):
    """The F; precision and recall are not reported."""
    found = metrics_text.rouge([given['target']], [given['prediction']], (name,), given['stemming'])[name]
    return {'fmeasure': found / 100}


def _lines(sentences):
    return '\n'.join(' '.join(map(str, tokens)) for tokens in sentences)


def _longest(given):
    """The length behind the F of rougeL."""
    found = metrics_text.rouge([_lines([given['a']])], [_lines([given['b']])], ('rougeL',))['rougeL'] / 100
    return {'length': found * (len(given['a']) + len(given['b'])) / 2}


def _union(given):
    """The length behind the F of rougeLsum."""
    found = metrics_text.rouge([_lines([given['reference']])], [_lines(given['candidates'])], ('rougeLsum',))['rougeLsum'] / 100
    return found * (len(given['reference']) + sum(map(len, given['candidates']))) / 2


def _summary(given):
    return {'fmeasure': metrics_text.rouge([_lines(given['references'])], [_lines(given['candidates'])], ('rougeLsum',))['rougeLsum'] / 100}


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


def _span(given):
    return metrics_text.span_squad(given['targets'], list(map(answers.span, given['predictions'])))


def _grouped(given):
    apart = metrics_text.groups(given['targets'], given['predictions'], metrics_text.accuracy)
    named = {f'{group}-{name}': value for group, scores in apart.items() for name, value in scores.items()}
    return metrics_text.mean_over_groups(given['targets'], given['predictions'], metrics_text.accuracy) | named


def _refused(given):
    with pytest.raises(ValueError, match='5 predictions for 6 examples'):
        metrics_text.answers(given['targets'], given['predictions'])
    return 'error'


PEARSON, SPEARMAN = _pairs(metrics_text.pearson, pearson='pearson_corrcoef'), _pairs(metrics_text.spearman, spearman='spearman_corrcoef')
MATTHEWS = _pairs(metrics_text.matthews, matthews='matthews_corrcoef')
RANKS = 'rank_classification: target = [[example, choice], is_correct, weight, target length]'
TOKENS = 'BLEU 0..1 on token lists, no smoothing'

RATES = (
    'mixing rate min(examples*scale, maximum)^(1/temperature)',
    'mixing rate from characters',
    'rates of nested mixtures',
    'rates of nested mixtures, repeated task',
    'mixing proportions min(n,K)^(1/T)/sum',
    'GLUE mixture weights (training examples)',
    'SuperGLUE mixture weights (training examples)',
)


def test_metrics():
    ours = {
        'bleu': _bleu,
        'corpus BLEU (references per stream)': lambda given: _corpus_bleu(given, **{'tokenize': '13a'} | given['options']),
        'raw corpus BLEU 0..1: whitespace tokens, floor smoothing .01, effective order': _raw_bleu,
        'raw BLEU 0..1, floor smoothing .1 / 0': _raw_bleus,
        'sentence BLEU, effective order': _sentence_bleu,
        'rouge mean F': _pairs(metrics_text.rouge),
        **{name: functools.partial(_rouge, name) for name in ('rouge1', 'rouge2', 'rougeL', 'rougeLsum')},
        'longest common subsequence (indices into the first)': _longest,
        'union of LCS of several candidates': _union,
        'summary-level LCS': _summary,
        'squad EM/F1': _pairs(metrics_text.squad),
        'trivia_qa EM/F1': _pairs(metrics_text.trivia_qa),
        'qa metrics on already normalised text (no normalisation)': _pairs(metrics_text.answers),
        'qa metrics, different lengths: error': _refused,
        'normalize_squad': metrics_text.normalize_squad,
        'normalize_trivia_qa': metrics_text.normalize_trivia_qa,
        'span_squad': _span,
        'coqa_tokenize': lambda given: metrics_text.normalize_squad(given).split(),
        'sequence_f1': lambda given: metrics_text.sequence_f1(given['target'], given['prediction']),
        'coqa_f1': _pairs(metrics_text.coqa_f1),
        'sequence_accuracy': _pairs(metrics_text.sequence_accuracy),
        'all_match': _pairs(metrics_text.all_match),
        'accuracy': _pairs(metrics_text.accuracy),
        'accuracy, first example per group only': _pairs(metrics_text.first_of_groups, metrics_text.accuracy),
        'accuracy averaged over groups': _pairs(metrics_text.mean_over_groups, metrics_text.accuracy),
        'accuracy averaged over groups, with group scores': _grouped,
        'F1 over all answers': _pairs(metrics_text.multirc, f1a='f1'),
        'binary F1, predictions other than 0/1 count as wrong': _pairs(metrics_text.binary_f1),
        'mean multiclass F1 (3)': _pairs(metrics_text.macro_f1, 3, macro_f1='mean_3class_f1'),
        'pearson': PEARSON,
        'spearman': SPEARMAN,
        'correlation with ties': _all(PEARSON, SPEARMAN),
        'matthews x100': MATTHEWS,
        'binary classification': _all(_pairs(metrics_text.accuracy), _pairs(metrics_text.binary_f1), MATTHEWS),
        'multiclass classification, 4 classes (prediction 4 is invalid: counts only as missed)': _all(
            _pairs(metrics_text.accuracy), _pairs(metrics_text.macro_f1, 4, macro_f1='mean_4class_f1')
        ),
        'auc (values 0..1)': _auc,
        RANKS: _rank,
    }
    left = {
        'word edit distance': 'no task here is judged by it',
        'mean absolute error': 'STS-B, the one task of numbers, is judged by correlations',
        'hamming loss x100': '100 minus the accuracy, which is run',
        'corpus BLEU, max n-gram order': "BLEU is of four words in a row; other orders are sacrebleu's, which would be held against itself",
        'n-gram matches and totals': "counts inside sacrebleu; what follows from them is run as 'raw BLEU'",
        'BLEU 0..1 from counts': 'counts of no text; scores here are of texts',
        f'{TOKENS} (closest reference length)': 'run below where it is of four words in a row',
        TOKENS: 'run below where it is of four words in a row',
    }

    def same(found, expected, case):
        if case['function'] in ('rouge1', 'rouge2', 'rougeL', 'rougeLsum', 'summary-level LCS'):
            expected = {'fmeasure': expected['fmeasure']}
        elif case['function'].startswith('longest'):
            expected = {'length': expected['length']}
        elif case['function'].startswith('union'):
            expected = len(expected)
        _same(found, expected, case)

    golden.hold('metrics', golden.compared(ours, same), left)


def test_bleu_of_tokens():
    checked, other = 0, 0
    for case in golden.cases('metrics'):
        if case['function'].startswith(TOKENS):
            given = case['input']
            if given.get('max_n', 4) != 4 or set(given.get('weights') or [0.25]) != {0.25}:
                other += 1
                continue
            _same(_token_bleu(given), case['expected'], case)
            checked += 1
    assert (checked, other) == (5, 4), 'other orders and weights are no score of ours'


def test_corpus():
    """Of rouge, precision and recall are not reported."""
    texts = golden.cases('rouge_corpus_large')[0]['input']
    rouge = functools.cache(lambda stemming=False: metrics_text.rouge(texts['targets'], texts['predictions'], stemming=stemming))

    def same(found, expected, case):
        if 'precision' in case['function'] or 'mid values' in case['function']:
            case = case | {'tolerance': 100 * case['tolerance']}
            expected = {name: 100 * values['fmeasure'] for name, values in expected.items()}
        _same(found, expected, case)

    ours = {
        'rouge mean F (asserted against the bootstrap values)': lambda _: rouge(),
        'rouge mean F, exact mean': lambda _: rouge(),
        'rouge mean precision/recall/F, stemming False': lambda _: rouge(),
        'rouge mean precision/recall/F, stemming True': lambda _: rouge(True),
        'rouge mid values against ROUGE-1.5.5': lambda given: rouge(given['stemming']),
        **{
            f'corpus BLEU, tokenize={name}, exp smoothing': functools.partial(
                lambda name, _: metrics_text.bleu(texts['targets'], texts['predictions'], name), name
            )
            for name in ('intl', '13a', 'none')
        },
    }
    left = {'rougeLsum F of the whole files as one summary (line = sentence)': 'half a minute: test_corpus_as_one_summary, marked slow'}
    golden.hold('rouge_corpus_large', golden.compared(ours, same), left)


@pytest.mark.slow
def test_corpus_as_one_summary():
    cases = golden.cases('rouge_corpus_large')
    whole = ['\n'.join(cases[0]['input'][key]) for key in ('targets', 'predictions')]
    case = next(case for case in cases if case['function'].startswith('rougeLsum F of the whole'))
    found = metrics_text.rouge([whole[0]], [whole[1]], ('rougeLsum',))['rougeLsum']
    _same(found, 100 * case['expected'], {'tolerance': 100 * case['tolerance']})


def _average(given):
    tasks = {}
    for name in given:
        task = name.split(' (')[0]
        tasks.setdefault('MNLI' if task.startswith('MNLI') else task, []).append(name)
    return metrics_text.mean_of_groups(given, list(tasks.values()))


def _best(given):
    groups = {}
    for name, group in given['groups'].items():
        groups.setdefault(group, []).append(name)
    found = metrics_text.best_steps(given['steps'], {name: given[name] for name in given['groups']}, list(groups.values()))
    return {'max': {name: score for name, (score, _) in found.items()}, 'step': {name: step for name, (_, step) in found.items()}}


def test_averages():
    ours = {
        'GLUE average: mean over tasks, task with two metrics averaged first, MNLI m/mm averaged': _average,
        'SuperGLUE average': _average,
        'best step per metric group': _best,
    }
    golden.hold('mixtures_averages', golden.compared(ours, _same), dict.fromkeys(RATES, 'rates of mixtures: tests/tasks/test_registry.py'))
