"""Windows: what they hold, where their answers point, and what is counted."""

import random

import numpy as np
import pytest

from t5x_lite.data import reading
from t5x_lite.data.reading import Windows
from t5x_lite.errors import UserError
from tests.data.reading_material import CLS, KINDS, PAD, SEP, question, tokenizer, wordpiece


def _ids(made, text):
    return made.encode(text)


def test_worked_example():
    made = wordpiece()
    context = 'it was Bo Li here'
    windows = Windows([question(context, 'Bo Li', 7)], made, 9, stride=2, max_question=2)
    who, context_ids = _ids(made, 'who ?'), _ids(made, context)
    features = windows.features(np.arange(2))
    np.testing.assert_array_equal(
        features['tokens'], [[CLS, *who, SEP, *context_ids[:4], SEP], [CLS, *who, SEP, *context_ids[2:], SEP, PAD]]
    )
    np.testing.assert_array_equal(features['token_types'], [[0] * 4 + [1] * 5, [0] * 4 + [1] * 4 + [0]])
    np.testing.assert_array_equal(features['sequence_ids'], [[1] * 9, [1] * 8 + [0]])
    assert features['answer_starts'].tolist() == [6, 4] and features['answer_ends'].tolist() == [7, 5]
    assert features['example_weights'].tolist() == [1, 1]
    assert {name: part.dtype for name, part in features.items()} == {
        'tokens': np.int32, 'token_types': np.int32, 'sequence_ids': np.int32, 'answer_starts': np.int32, 'answer_ends': np.int32,
        'example_weights': np.float32,
    }  # fmt: skip
    assert windows.features([1], 12)['tokens'].shape == (1, 12)
    with pytest.raises(ValueError, match='width 8 cuts a window of 9 tokens'):
        windows.features([0], 8)


@pytest.mark.parametrize(('length', 'room', 'stride'), [(0, 5, 2), (5, 5, 2), (6, 5, 2), (40, 7, 3), (40, 7, 7), (40, 7, 99), (11, 10, 1)])
def test_windows_cover_the_context(length, room, stride):
    found = reading.cut(length, room, stride)
    assert {token for first, count in found for token in range(first, first + count)} == set(range(length))
    assert all(count <= room for _, count in found) and found[-1][0] + found[-1][1] == length
    firsts = [first for first, _ in found]
    assert all(step == min(stride, room) for step in np.diff(firsts)) and all(first + count < length for first, count in found[:-1])


def test_an_answer_that_a_window_does_not_hold_whole_points_to_cls():
    context = ' '.join(f'w{number}' for number in range(10))
    windows = Windows([question(context, 'w4 w5', None)], wordpiece(), 9, stride=3, max_question=2)
    assert windows.firsts.tolist() == [0, 3, 6] and windows.counts.tolist() == [4, 4, 4]
    assert windows.answer_starts.tolist() == [0, 5, 0] and windows.answer_ends.tolist() == [0, 6, 0]
    kept = Windows([question(context, 'w4 w5', None)], wordpiece(), 9, 3, 2, train=True, drop_without_answer=True)
    assert kept.firsts.tolist() == [3] and '2 without it are left out' in kept.describe()[0]
    none = Windows([question(context)], wordpiece(), 9, 3, 2, train=True, drop_without_answer=True)
    assert len(none) == 3 and none.answer_starts.tolist() == [0, 0, 0] and none.weights.tolist() == [1, 1, 1]


def test_what_cannot_be_found_is_counted_and_named():
    asked = [
        question('it was bo', 'li', 0, 'lost'),
        question('it was bo', 'bo', 3, 'moved'),
        question('it was \u200b bo', '\u200b', 7, 'thrown away'),
        question('it was bo', 'bo', 7, 'long', text='who ? ' * 9),
    ]
    windows = Windows(asked, wordpiece(), 20, 5, 6, train=True)
    assert [found.id for found in windows.questions] == ['moved', 'long']
    said = '\n'.join(windows.describe())
    assert '2 of 4 questions (0 without an answer) in 2 windows' in said
    assert '1 questions are cut at 6 tokens: file[long]' in said and windows.context_columns.tolist() == [4, 8]
    assert 'tokenizer throws away: file[thrown away]' in said
    assert '1 of 4 questions have an answer that begins elsewhere' in said and 'file[moved]' in said and 'file[lost]' in said
    # To be judged they stay, and only the loss passes over them.
    windows = Windows(asked, wordpiece(), 20, 5, 6)
    assert [found.id for found in windows.questions] == ['lost', 'moved', 'thrown away', 'long']
    assert windows.weights.tolist() == [0, 1, 0, 1] and windows.first_windows.tolist() == [0, 1, 2, 3, 4]


def test_nothing_to_learn_from():
    with pytest.raises(UserError, match=r'of 1 questions none has a window; 1 of 1 questions have an answer that is not .*file\[q\]'):
        Windows([question('it was bo', 'li', 0)], wordpiece(), 20, 5, 6, train=True)
    long = question('it was bo li here', 'it was bo li', 0)
    with pytest.raises(UserError, match='no window of 8 tokens holds a whole answer'):
        Windows([long], wordpiece(), 8, 2, 4, train=True, drop_without_answer=True)


def test_special_tokens_in_a_text_are_text():
    windows = Windows([question('it was [SEP] bo', 'bo', 13, text='[CLS]')], wordpiece(), 30, 5, 8)
    row = windows.features([0])['tokens'][0]
    assert (row == SEP).sum() == 2 and (row == CLS).sum() == 1


def test_most_context_counts_a_little_for_long_windows():
    windows = Windows([question('it ' * 400)], wordpiece(), 385, 128, 8)
    assert windows.counts.tolist() == [380, 272]
    first, second = windows.most_context(0)
    # Token 254: 125 + 3.80 at the first window's right, 126 + 2.72 at the second's left; token 255: 124 + 3.80 and 127 + 2.72.
    assert (first[254], second[254 - 128]) == (True, False) and (first[255], second[255 - 128]) == (False, True)
    assert first[:255].all() and second[255 - 128 :].all()


def test_empty_and_endless_contexts():
    windows = Windows([question(''), question(' \n')], wordpiece(), 20, 5, 8)
    assert windows.counts.tolist() == [0, 0] and windows.features([0])['tokens'].tolist()[0][-2:] == [SEP, SEP]
    assert [part.tolist() for part in windows.most_context(0)] == [[]]
    text = 'it was ' * 50_000 + 'bo'
    windows = Windows([question(text, 'bo', None)], wordpiece(), 384)
    assert (windows.answer_starts > 0).sum() >= 1 and windows.features([len(windows) - 1])['tokens'].shape[1] <= 384
    assert sum(part.sum() for part in windows.most_context(0)) == 100_001


@pytest.mark.parametrize(('seq_len', 'stride', 'most'), [(10, 5, 8), (20, 0, 8), (20, 5, 0)])
def test_lengths_that_leave_no_room(seq_len, stride, most):
    with pytest.raises(UserError, match='leaves a context no room|must be above 0'):
        Windows([question('it was bo')], wordpiece(), seq_len, stride, most)


def test_a_tokenizer_with_nothing_to_divide_by():
    with pytest.raises(UserError, match='neither .CLS. and .SEP. nor an end of text'):
        Windows([question('it was bo')], tokenizer('gpt1'), 20, 5, 8)


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'gpt1'])
def test_a_target_gives_back_its_answer(kind):
    made, source = tokenizer(kind), random.Random(kind)
    words = ['cat', 'Zoë', 'Zoe\u0308', '東', '京都', 'İs', '👍🏽', 'हिन्दी', 'ﬁne', '1,5', '.']
    asked = []
    for number in range(40):
        parts = source.choices(words, k=source.randrange(1, 40))
        gaps = [source.choice([' ', '  ', '\n', '\u00a0']) for _ in parts]
        first = source.randrange(len(parts))
        last = min(len(parts) - 1, first + source.randrange(3))
        start = sum(map(len, parts[:first])) + sum(map(len, gaps[:first]))
        context = ''.join(part + gap for part, gap in zip(parts, gaps, strict=True))
        length = sum(map(len, parts[first : last + 1])) + sum(map(len, gaps[first:last]))
        asked.append(question(context, context[start : start + length], start, str(number), text=' '.join(parts[:4])))
    windows = Windows(asked, made, 60, 9, 12, train=True)
    assert [found.id for found in windows.questions] == [found.id for found in asked]
    held = np.flatnonzero(windows.answer_starts)
    for window in held:
        owner, shift = windows.owners[window], windows.firsts[window] - windows.context_columns[window]
        start, stop = windows.passages[owner].characters(windows.answer_starts[window] + shift, windows.answer_ends[window] + shift)
        answer = windows.questions[owner].answers[0]
        assert (start, windows.questions[owner].context[start:stop]) == (answer.start, answer.text)
    assert len(set(windows.owners[held])) >= 0.9 * len(asked)  # all but answers longer than a window
