"""Scores of entities and tags, by hand, against seqeval where it is installed, and against stored facts of seqeval and conlleval."""

import itertools
import math
import random
import warnings

import pytest

from t5x_lite.data import tags
from t5x_lite.data.tags import CONLL, SCHEMES
from t5x_lite.errors import UserError
from t5x_lite.evaluation import metrics_tags
from t5x_lite.evaluation.metrics_tags import Found, Scores
from tests import golden

THEIRS = {'IOBES': 'BIOES'}  # seqeval's name of a scheme, and ours


def found_in(targets, predictions, scheme=CONLL) -> dict[str, Found]:
    return metrics_tags.count(*([tags.spans(sentence, scheme) for sentence in side] for side in (targets, predictions)))


def test_by_hand():
    targets = [[('PER', 0, 2), ('LOC', 3, 4)], [('PER', 0, 1)], []]
    predictions = [[('PER', 0, 2), ('ORG', 3, 4)], [('PER', 0, 2)], [('LOC', 0, 1)]]
    found = metrics_tags.count(targets, predictions)
    assert found == {'LOC': Found(0, 1, 1), 'ORG': Found(0, 1, 0), 'PER': Found(1, 2, 2)}
    assert metrics_tags.by_type(found)['PER'] == Scores(0.5, 0.5, 0.5, 2) and metrics_tags.by_type(found)['ORG'] == Scores(0, 0, 0, 0)
    assert metrics_tags.average(found, 'micro') == pytest.approx(Scores(1 / 4, 1 / 3, 2 / 7, 3))
    assert metrics_tags.average(found, 'macro') == pytest.approx(Scores(1 / 6, 1 / 6, 1 / 6, 3))
    assert metrics_tags.average(found, 'weighted') == pytest.approx(Scores(1 / 3, 1 / 3, 1 / 3, 3))
    expected = {'precision': 1 / 4, 'recall': 1 / 3, 'f1': 2 / 7, 'macro_f1': 1 / 6, 'weighted_f1': 1 / 3, 'f1_LOC': 0, 'f1_ORG': 0, 'f1_PER': 0.5}
    assert metrics_tags.entities(targets, predictions) == pytest.approx(expected)


def test_lenient_and_strict_differ_where_tags_are_illegal():
    targets, predictions = [['B-PER', 'I-PER', 'O']], [['I-PER', 'I-PER', 'O']]
    assert metrics_tags.average(found_in(targets, predictions), 'micro').f1 == 1
    assert metrics_tags.average(found_in(targets, predictions, SCHEMES['IOB2']), 'micro').f1 == 0


def test_accuracy_counts_words():
    assert metrics_tags.accuracy([['O', 'B-X'], ['NN']], [['O', 'I-X'], ['NN']]) == pytest.approx(2 / 3)
    assert metrics_tags.accuracy([[0, 3]], [[0, 3]]) == 1
    assert math.isnan(metrics_tags.accuracy([[]], [[]]))


def test_nothing_to_find_is_zero_and_mistakes_are_said():
    for how in metrics_tags.AVERAGES:
        assert metrics_tags.average({}, how) == Scores(0, 0, 0, 0)
        assert metrics_tags.average({'X': Found(0, 2, 0)}, how) == Scores(0, 0, 0, 0)
    with pytest.raises(ValueError, match='1 sentences in targets and 2 in predictions'):
        metrics_tags.count([[]], [[], []])
    with pytest.raises(ValueError, match='as many sentences, and tags'):
        metrics_tags.accuracy([['O']], [['O', 'O']])
    with pytest.raises(ValueError, match="average is 'mean'"):
        metrics_tags.average({}, 'mean')


def some_tags(source: random.Random, marks: str, lengths: list[int]) -> list[list[str]]:
    names = ['O', *(f'{mark}-{kind}' for mark in marks for kind in ('LOC', 'PER', 'MISC'))]
    return [[source.choice(names) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize('mode, name', [('default', 'IOB2'), ('default', 'IOE2'), ('default', 'BIOES'),
                                        *(('strict', name) for name in ('IOB1', 'IOB2', 'IOE2', 'BIOES', 'BILOU'))])  # fmt: skip
def test_equals_seqeval_on_thousands_of_random_tags(mode, name):
    """Legal or not. IOE1, where they differ by intent, is in tests/data/test_tags.py."""
    theirs = pytest.importorskip('seqeval.metrics', reason='live comparison needs seqeval')
    schemes = pytest.importorskip('seqeval.scheme')
    source, marks = random.Random(3), SCHEMES[name].marks
    options = {'mode': 'strict', 'scheme': getattr(schemes, {'BIOES': 'IOBES'}.get(name, name))} if mode == 'strict' else {}
    score = theirs.sequence_labeling.precision_recall_fscore_support if mode == 'default' else theirs.v1.precision_recall_fscore_support
    keywords = {} if mode == 'default' else {'scheme': options['scheme']}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for _ in range(60):
            lengths = [source.randrange(1, 15) for _ in range(source.randrange(1, 20))]
            targets = some_tags(source, marks, lengths)
            # Half of the predicted tags are the targets, so that some entities are right.
            predictions = [[source.choice(pair) for pair in zip(*both, strict=True)] for both in zip(targets, some_tags(source, marks, lengths), strict=True)]
            found = found_in(targets, predictions, CONLL if mode == 'default' else SCHEMES[name])
            if not found:
                continue
            each = zip(*score(targets, predictions, average=None, **keywords), strict=True)
            assert [tuple(scores) for scores in metrics_tags.by_type(found).values()] == [pytest.approx(scores, rel=1e-12) for scores in each]
            for how in metrics_tags.AVERAGES:
                wanted = score(targets, predictions, average=how, **keywords)
                assert metrics_tags.average(found, how) == pytest.approx(wanted, rel=1e-12)
            assert metrics_tags.average(found, 'micro').f1 == pytest.approx(theirs.f1_score(targets, predictions, **options), rel=1e-12)
            assert metrics_tags.accuracy(targets, predictions) == pytest.approx(theirs.accuracy_score(targets, predictions), rel=1e-12)


# What each stored fact is run through, or why not.
def _strict(name):
    return lambda given: [list(span) for span in tags.spans(given, SCHEMES[THEIRS.get(name, name)])]


def _both(given):
    return given['y_true'], given['y_pred']


def _averaged(scheme):
    def run(given):
        found, how = found_in(*_both(given), scheme), given['average']
        if how == 'none':
            return [scores.f1 for scores in metrics_tags.by_type(found).values()]
        return metrics_tags.average(found, how)
    return run  # fmt: skip


def _f1(scheme):
    def run(given):
        scores = _averaged(scheme)(given)
        return scores.f1 if isinstance(scores, Scores) else scores[0]
    return run  # fmt: skip


def _conlleval(given):
    targets, predictions = _both(given)
    found = found_in(targets, predictions)

    def said(some):
        return {name: round(100 * getattr(some, name), 2) for name in ('precision', 'recall', 'f1')}

    total = Found(*(sum(parts) for parts in zip(*found.values(), strict=True)))
    return {
        'tokens': sum(map(len, targets)),
        'gold_phrases': total.actual,
        'found_phrases': total.predicted,
        'correct_phrases': total.right,
        'accuracy': round(100 * metrics_tags.accuracy(targets, predictions), 2),
        **said(metrics_tags.average(found, 'micro')),
        'by_type': {kind: {**said(scores), 'found': found[kind].predicted} for kind, scores in metrics_tags.by_type(found).items()},
    }


def _report(given):
    found = found_in(*_both(given))
    rows = metrics_tags.by_type(found) | {f'{how} avg': metrics_tags.average(found, how) for how in metrics_tags.AVERAGES}
    return {name: dict(zip(('precision', 'recall', 'f1-score', 'support'), scores, strict=True)) for name, scores in rows.items()}


RUN = {
    **{f'strict entities, scheme {name} (exclusive end)': _strict(name) for name in ('IOB1', 'IOB2', 'IOE1', 'IOE2', 'IOBES', 'BILOU')},
    'get_entities (conll, inclusive end)': lambda given: [[kind, start, stop - 1] for kind, start, stop in tags.spans(given)],
    # One sentence after the other with an O between, as seqeval counts places.
    'get_entities over several sequences (one separator position between), no types': lambda given: [
        [kind, start, stop - 1] for kind, start, stop in tags.spans([tag for sentence in given for tag in (*sentence, 'O')])
    ],
    'conll F1': _f1(CONLL),
    'strict IOB2 F1': _f1(SCHEMES['IOB2']),
    'strict IOB2 precision, recall, F, support per type (A, B, C)': lambda given: [
        list(column) for column in zip(*metrics_tags.by_type(found_in(*_both(given), SCHEMES['IOB2'])).values(), strict=True)
    ],
    'strict IOB2 precision, recall, F, support': lambda given: list(_averaged(SCHEMES['IOB2'])(given)),
    'strict, no entities': lambda given: list(_averaged(SCHEMES['IOB2'])(given)),
    'classification report (conll)': _report,
    'conll scores, percentages to 2 decimals': _conlleval,
    'conll scores, random BIO tags': _conlleval,
    'conll scores, random EIO tags': _conlleval,
    'sorted set of types': lambda given: list(found_in(*_both(given), SCHEMES['IOB2'])),
    'auto-detected scheme': lambda given: {'BIOES': 'IOBES'}.get(name := tags.detect([('', sentence) for sentence in given]).name, name),
}
NOT_RUN = {
    'get_entities, suffix style': "tags written 'PER-B' are not read; they are refused as no tag",
    'token TP/FP/FN/TN': 'a measure of tokens that only seqeval has; entities and accuracy are what is reported',
}
_IOE1 = 'strict entities, scheme IOE1 (exclusive end)'
DIFFERENT = {
    # seqeval 1.2 does not take an E that begins an entity of IOE1 (its authors' note), so that the legal first two of these lose one; E E has a first entity
    # as E I has, and its last E, which nothing follows, is none.
    (_IOE1, ('E-PER', 'I-PER')): [['PER', 0, 1], ['PER', 1, 2]],
    (_IOE1, ('E', 'I')): [['_', 0, 1], ['_', 1, 2]],
    (_IOE1, ('E-PER', 'E-PER')): [['PER', 0, 1]],
    (_IOE1, ('E', 'E')): [['_', 0, 1]],
}


_REASON = "IOE1 where seqeval loses an entity of one word that another follows (its authors' note)"


def test_stored_facts_of_seqeval_and_conlleval():
    golden.hold('ner_chunking', {name: _checked(name, run) for name, run in RUN.items()}, NOT_RUN, {_REASON: len(DIFFERENT)})
    suffixes = next(case for case in golden.cases('ner_chunking') if case['function'] == 'get_entities, suffix style')
    with pytest.raises(UserError, match='is not O or one of'):
        tags.spans(suffixes['input'])


def _checked(name, run):
    def check(case):
        ours, wanted = run(case['input']), case['expected']
        key = (name, tuple(case['input'])) if name.startswith('strict entities') else None
        if key in DIFFERENT:
            assert ours == DIFFERENT[key] != wanted
            return _REASON
        assert _close(ours, wanted, case['tolerance']), ours
        return None

    return check


def _close(ours, wanted, tolerance) -> bool:
    if isinstance(wanted, dict):
        return ours.keys() == wanted.keys() and all(_close(ours[key], wanted[key], tolerance) for key in wanted)
    if isinstance(wanted, list):
        return len(ours) == len(wanted) and all(itertools.starmap(lambda a, b: _close(a, b, tolerance), zip(ours, wanted, strict=True)))
    return ours == wanted if isinstance(wanted, str) else abs(ours - wanted) <= max(tolerance, 1e-12)
