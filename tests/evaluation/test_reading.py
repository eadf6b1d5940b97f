"""Replies against the original's rules written down again, plainly, and on their own edges."""

import itertools
import math

import numpy as np
import pytest

from t5x_lite.data.reading import Windows
from t5x_lite.evaluation import metrics_reading, reading
from tests.data.reading_material import question, wordpiece

CONTEXT = ' '.join(f'w{number % 40}' for number in range(30))


def _plain(windows, number, starts, ends, best, max_answer, null, threshold):
    """run_squad.py's rules (of a file of one question), one span at a time: (text, [(text, score)], margin)."""
    rows = range(windows.first_windows[number], windows.first_windows[number + 1])
    spans = [(windows.firsts[row], windows.firsts[row] + windows.counts[row]) for row in rows]

    def context_score(token, span):
        return min(token - span[0], span[1] - 1 - token) + 0.01 * (span[1] - span[0])

    found = []
    for row, span in zip(rows, spans, strict=True):
        length, column = windows.lengths[row], windows.context_columns[row]
        top = [sorted(range(length), key=lambda place, part=part: -part[place])[:best] for part in (starts[row], ends[row])]
        for start, end in itertools.product(*top):
            tokens = start - column + span[0], end - column + span[0]
            if not all(span[0] <= token < span[1] for token in tokens) or not 0 <= tokens[1] - tokens[0] < max_answer:
                continue
            over = [context_score(tokens[0], other) for other in spans if other[0] <= tokens[0] < other[1]]
            first_best = [other for other in spans if other[0] <= tokens[0] < other[1]][over.index(max(over))]
            if first_best == span:
                found.append((starts[row][start] + ends[row][end], tokens))
    null_score = min(starts[row][0] + ends[row][0] for row in rows)
    if null:
        found.append((null_score, None))
    found.sort(key=lambda each: -each[0])
    listed = []
    for score, tokens in found:
        context = windows.questions[number].context
        words = context.split()
        text = ' '.join(words[tokens[0] : tokens[1] + 1]) if tokens else ''
        if len(listed) < best and text not in [seen for seen, _ in listed]:
            listed.append((text, score))
    if null and '' not in [seen for seen, _ in listed]:
        listed.append(('', null_score))
    text, score = next(each for each in listed if each[0])
    if null and null_score - score > threshold:
        text = ''
    return text, listed, null_score - score


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('null', [False, True])
def test_as_the_original(seed, null):
    rng = np.random.default_rng(seed)
    asked = [question(CONTEXT, id='a'), question(CONTEXT[: 9 * (seed + 1)].rpartition(' ')[0] or 'w1', id='b', text='who ? who')]
    windows = Windows(asked, wordpiece(), 16, stride=3 + seed % 4, max_question=3)
    starts, ends = (np.round(rng.normal(size=(len(windows), 16)), 1) for _ in range(2))  # rounded: equal scores too
    found = list(reading.replies(windows, starts, ends, best=5, max_answer=4, null=null, threshold=0.5))
    for number, reply in enumerate(found):
        try:
            text, listed, margin = _plain(windows, number, starts, ends, 5, 4, null, 0.5)
        except StopIteration:  # no span among the n best: the original fails
            continue
        assert (reply.id, reply.text) == ('ab'[number], text)
        assert [(each.text, each.score) for each in reply.best] == listed
        total = sum(math.exp(score) for _, score in listed)
        assert [each.probability for each in reply.best] == pytest.approx([math.exp(score) / total for _, score in listed])
        assert reply.null_margin == pytest.approx(margin) if null else math.isnan(reply.null_margin)
        assert all(windows.questions[number].context[each.start : each.stop] == each.text for each in reply.best)
    assert any(reply.text for reply in found)


def test_a_model_that_knows_gives_the_answer_in_its_characters():
    context = 'Yes .  It was   Bo  Li , here . ' * 3 + 'Zoe\u0308.'
    asked = [question(context, 'Zoe\u0308', None, 'a'), question(context, 'Bo  Li , here', context.rfind('Bo'), 'b'), question(context, id='c')]
    windows = Windows(asked, wordpiece(), 16, stride=4, max_question=3)
    starts, ends = np.zeros((2, len(windows), 16))
    starts[np.arange(len(windows)), windows.answer_starts] = 5
    ends[np.arange(len(windows)), windows.answer_ends] = 5
    found = list(reading.replies(windows, starts, ends, null=True))
    assert [reply.text for reply in found] == ['Zoe\u0308', 'Bo  Li , here', '']
    assert found[1].start == context.rfind('Bo') and found[2].null_margin == 10
    # The threshold decides how sure 'no answer' must be.
    again = list(reading.replies(windows, starts, ends, null=True, threshold=10))
    assert again[2].text and again[0].text == 'Zoe\u0308'
    assert [reply.text for reply in reading.replies(windows, starts, ends, null=True, threshold=-11)] == ['', '', '']


def test_the_best_threshold_is_found_and_used():
    rng = np.random.default_rng(5)
    asked = [question(CONTEXT, 'w7 w8' if number % 2 else None, None, str(number)) for number in range(60)]
    windows = Windows(asked, wordpiece(), 16, 5, 3)
    starts, ends = rng.normal(size=(2, len(windows), 16))
    for part, columns in ((starts, windows.answer_starts), (ends, windows.answer_ends)):
        part[np.arange(len(windows)), columns] += rng.normal(2.5, 1.5, len(windows))  # a model that is often right
    targets = [[answer.text for answer in each.answers] for each in asked]
    always = list(reading.replies(windows, starts, ends, null=True, threshold=math.inf))
    assert all(reply.text for reply in always)
    found = metrics_reading.squad_v2(targets, [reply.text for reply in always], [reply.null_margin for reply in always], math.inf)
    for name in ('exact', 'f1'):
        chosen = list(reading.replies(windows, starts, ends, null=True, threshold=found[f'best_{name}_thresh']))
        again = metrics_reading.squad_v2(targets, [reply.text for reply in chosen])
        assert again[name] == pytest.approx(found[f'best_{name}']) and again[name] > found[name]


def test_padding_and_width_change_nothing():
    rng = np.random.default_rng(1)
    windows = Windows([question(CONTEXT)], wordpiece(), 16, 5, 3)
    starts, ends = rng.normal(size=(2, len(windows), 16))
    wide = [np.concatenate([part, np.full((len(windows), 40), 99.0)], axis=1) for part in (starts, ends)]
    ragged = [[row[:length] for row, length in zip(part, windows.lengths, strict=True)] for part in (starts, ends)]
    # NaN is unequal to itself: the margin is left out.
    first, second, third = (next(reading.replies(windows, *pair)).best for pair in ((starts, ends), wide, ragged))
    assert first == second == third


def test_question_and_long_spans_are_never_answers():
    windows = Windows([question(CONTEXT[:30])], wordpiece(), 16, 5, 3)
    starts, ends = np.zeros((2, 1, 16))
    starts[0, 1], ends[0, 2] = 50, 50  # in the question
    starts[0, 4], ends[0, 11] = 9, 9  # eight tokens
    reply = next(reading.replies(windows, starts, ends, best=3, max_answer=3))
    assert 1 <= len(reply.text.split()) <= 3


def test_where_the_n_best_make_no_span_all_are_looked_at():
    windows = Windows([question('w1 w2 w3')], wordpiece(), 16, 5, 3)
    starts, ends = np.zeros((2, 1, 16))
    starts[0, 6], ends[0, 4] = 3, 2  # the best start comes after the best end
    reply = next(reading.replies(windows, starts, ends, best=1))
    assert reply.text == 'w3'
    starts[:], ends[:] = -np.inf, -np.inf  # a head that rules all out
    starts[0, 0] = ends[0, 0] = 0
    assert next(reading.replies(windows, starts, ends)).text == ''


def test_nothing_to_answer_with():
    windows = Windows([question('')], wordpiece(), 16, 5, 3)
    reply = next(reading.replies(windows, np.zeros((1, 16)), np.zeros((1, 16)), null=True))
    assert (reply.text, reply.null_margin, [each.text for each in reply.best]) == ('', math.inf, [''])
    reply = next(reading.replies(windows, np.zeros((1, 16)), np.zeros((1, 16))))
    assert (reply.text, reply.best) == ('', ())


def test_logits_that_do_not_fit():
    windows = Windows([question('w1 w2')], wordpiece(), 16, 5, 3)
    for starts in (np.zeros((2, 16)), np.zeros((1, 3)), np.full((1, 16), np.nan)):
        with pytest.raises(ValueError, match='2 rows of starts|window 0 has 7 tokens'):
            list(reading.replies(windows, starts, np.zeros((1, 16))))
