"""SQuAD's scores against the published rules written down again, digit for digit."""

import collections
import random
import re
import string

import pytest

from t5x_lite.evaluation import metrics_reading, metrics_text
from t5x_lite.evaluation.metrics_reading import squad_v2


def _words(text):
    """Lower case, without punctuation, articles, and surplus spaces."""
    text = ''.join(character for character in text.lower() if character not in set(string.punctuation))
    return re.sub(r'\b(a|an|the)\b', ' ', text).split()


def _f1(gold, found):
    gold, found = _words(gold), _words(found)
    if not gold or not found:
        return int(gold == found)
    same = sum((collections.Counter(gold) & collections.Counter(found)).values())
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(found), 1.0 * same / len(gold)
    return (2 * precision * recall) / (precision + recall)


def _plain(questions, predictions, scores, threshold):
    """{id: answers}, {id: text}, {id: score}: the sequence of steps of the official script."""
    exact, f1 = {}, {}
    for key, answers in questions.items():
        gold = [answer for answer in answers if _words(answer)] or ['']
        exact[key] = max(int(_words(answer) == _words(predictions[key])) for answer in gold)
        f1[key] = max(_f1(answer, predictions[key]) for answer in gold)
    result = {}
    groups = {'': list(questions), 'HasAns_': [key for key in questions if questions[key]], 'NoAns_': [key for key in questions if not questions[key]]}
    for name, raw in (('exact', exact), ('f1', f1)):
        after = {key: float(not questions[key]) if scores and scores[key] > threshold else raw[key] for key in raw}
        for prefix, keys in groups.items():
            if keys:
                result[prefix + name] = 100.0 * sum(after[key] for key in keys) / len(keys)
                result[prefix + 'total'] = len(keys)
        if scores:
            now = best = len(groups['NoAns_'])
            at = 0.0
            for key in sorted(scores, key=lambda key: scores[key]):
                now += raw[key] if questions[key] else (-1 if predictions[key] else 0)
                if now > best:
                    best, at = now, scores[key]
            result[f'best_{name}'], result[f'best_{name}_thresh'] = 100.0 * best / len(raw), at
    return result


def _made(seed):
    source = random.Random(seed)
    words = ['the', 'a', 'An', 'Bo', 'Li', 'red', 'fox,', 'ran.', 'naïve', '1,000', '-', 'Ten', 'ten']

    def text():
        return ' '.join(source.choices(words, k=source.randrange(1, 6)))

    questions = {str(number): [text() for _ in range(source.randrange(4))] for number in range(101)}
    predictions = {key: source.choice([text(), '', 'the', *(answers or [''])]) for key, answers in questions.items()}
    return questions, predictions, {key: round(source.random(), 2) for key in questions}


@pytest.mark.parametrize('seed', range(12))
def test_to_the_last_digit(seed):
    questions, predictions, scores = _made(seed)
    for used, threshold in ((None, 1.0), (scores, 1.0), (scores, 0.4)):
        found = squad_v2(list(questions.values()), list(predictions.values()), used and list(used.values()), threshold)
        assert found == _plain(questions, predictions, used, threshold)
    answered = {key: answers for key, answers in questions.items() if any(map(_words, answers))}
    exact = [max(_words(answer) == _words(predictions[key]) for answer in answers) for key, answers in answered.items()]
    # SQuAD 1.1's script gives two texts without words an F1 of 0, and keeps answers without words.
    overlap = [max(_f1(answer, predictions[key]) if _words(answer) else 0 for answer in answers) for key, answers in answered.items()]
    found = metrics_text.squad(list(answered.values()), [predictions[key] for key in answered])
    assert found == {'em': 100.0 * sum(exact) / len(exact), 'f1': 100.0 * sum(overlap) / len(overlap)}


def test_worked_example():
    targets, predictions = [['Bo Li', 'Li'], [], [], ['ten'], ['the']], ['the Li!', '', 'no', 'ten men', '']
    found = squad_v2(targets, predictions)
    assert found == pytest.approx({
        'exact': 60.0, 'f1': 100 * (3 + 2 / 3) / 5, 'total': 5, 'HasAns_exact': 200 / 3, 'HasAns_f1': 100 * (2 + 2 / 3) / 3, 'HasAns_total': 3,
        'NoAns_exact': 50.0, 'NoAns_f1': 50.0, 'NoAns_total': 2,
    })  # fmt: skip
    found = squad_v2(targets, predictions, [-2.0, 9.0, 5.0, 1.0, 3.0], threshold=4.0)
    assert (found['exact'], found['NoAns_exact'], found['best_exact'], found['best_exact_thresh']) == (80.0, 100.0, 80.0, 3.0)
    assert found['best_f1_thresh'] == 3.0 and found['best_f1'] == pytest.approx(100 * (4 + 2 / 3) / 5)


def test_one_kind_of_question_only():
    assert 'NoAns_exact' not in squad_v2([['a b']], ['b'])
    assert squad_v2([[]], ['x'], [0.5]) == {
        'exact': 0.0, 'f1': 0.0, 'total': 1, 'NoAns_exact': 0.0, 'NoAns_f1': 0.0, 'NoAns_total': 1,
        'best_exact': 100.0, 'best_exact_thresh': 0.0, 'best_f1': 100.0, 'best_f1_thresh': 0.0,
    }  # fmt: skip


def test_what_cannot_be_scored():
    for arguments, said in (
        (([], []), 'nothing to score'),
        ((['a'], []), '1 questions, 0 predictions'),
        (([['a']], ['a'], [0.1, 0.2]), '1 questions, 1 predictions, 2 scores'),
        (([['a']], ['a'], [float('nan')]), 'nan'),
    ):
        with pytest.raises(ValueError, match=said):
            metrics_reading.squad_v2(*arguments)
