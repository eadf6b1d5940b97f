"""The sentence splitter: what ends a sentence, what does not, and linear time on hostile text."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_lite.data import sentences

# '|' marks where a sentence ends.
CASES = [
    'One.| Two!| Three?| Four',
    'Really?!| Yes...| "Stop!"| (He did.)| Then “this.”| End.',
    '"Stop!" he said.| "Why?" she asked.',
    'Mr. Smith and Dr. J. R. Brown met St. John.| They talked.',
    'It cost 3.50 at No. 5, see Fig. 2 and vol. 3.| Cheap.',
    'He said no.| Then he left.',
    'In the U.S. Congress it passed.| It, e.g. in May, worked.',
    'She is taller than I.| He agreed.',
    '1. Introduction to this.| 2. Methods.',
    'It was 1990.| Then came 1991.',
    'Wait... what?| No.',
    'He shouted "Go!"| They went.',
    '今日は晴れ。|明日は雨！|「そう？」|はい。',
    'No stop at all',
    'Ends with spaces.   |  And tabs.\t|\tAnd newlines.\n|And more',
    'on www.example.com/a.b?c today',
    '.|',
]


@pytest.mark.parametrize('case', CASES)
def test_cuts(case):
    expected = [' '.join(part.split()) for part in case.split('|') if part.strip()]
    assert sentences.split(case.replace('|', '')) == expected


def test_never_joins_paragraphs():
    text = 'A heading without a stop\n\nA paragraph that\ngoes on. And on\n \t\nlast'
    assert sentences.split(text) == ['A heading without a stop', 'A paragraph that goes on.', 'And on', 'last']
    assert sentences.split(' \n\n \n\n\t\n') == [] == sentences.split('')


def test_lines_may_be_the_sentences():
    assert sentences.split('One. Two.\n\n  Mr.\tX. \n', lines=True) == ['One. Two.', 'Mr. X.']


def test_nothing_is_lost_or_added():
    source = random.Random(0)
    parts = [
        'word',
        'Word',
        'Mr.',
        '.',
        '!',
        '?',
        '"',
        "'",
        '(',
        ')',
        ' ',
        ' ',
        '\n',
        '\n\n',
        'é',
        '。',
        '…',
        '1',
        '12.',
        'a.b',
        'I.',
        'J.',
        '”',
    ]
    for _ in range(3000):
        text = ''.join(source.choice(parts) for _ in range(source.randrange(40)))
        found = sentences.split(text)
        assert ''.join(''.join(found).split()) == ''.join(text.split())
        assert all(sentence == ' '.join(sentence.split()) and sentence for sentence in found)


HOSTILE = ['.', '."', '. ', 'A. ', 'a. ', '(', '. (', '\n', '\n \n', 'x', '。', '"', '.)', 'Mr. ', '. "', '!?', ' ', '...   ', '1. ', 'a.']
SPLIT_ALL = """
import json, resource, sys
from t5x_lite.data import sentences
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
for unit in json.loads(sys.argv[1]):
    text = unit * (500_000 // len(unit))
    print(len(sentences.split(text)) + len(sentences.cut(text)) + len(sentences.cut(text, True)))
"""


def test_hostile_text_takes_no_quadratic_time():
    """Half a megabyte of each takes a fraction of a second; a quadratic rule would take an hour, and the limit of 120 s of CPU ends it."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, '-c', SPLIT_ALL, json.dumps(HOSTILE)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, f'stopped at {HOSTILE[len(done.stdout.split())]!r}: {done.stderr}'


# --- Text that is only cut, not changed.


@pytest.mark.parametrize('lines', [False, True])
def test_cut_text_joined_is_the_text(lines):
    for text in [*HOSTILE, '', '\n', ' \n\n ', 'A.  B', 'a\n\n\nb', '\ta. B\n', 'x\x1c\n y. \u00a0Z\u3000\n', '你好。世界。“好”']:
        parts = sentences.cut(text[:20_000], lines)
        assert ''.join(parts) == text[:20_000] and all(parts)


def test_cuts_lie_before_white_space():
    text = 'He met Mr. Xu.  It rained.\nThen\n \n  it stopped. ok\n'
    assert sentences.cut(text) == ['He met Mr. Xu.', '  It rained.', '\nThen', '\n \n  it stopped. ok\n']
    assert sentences.cut(text, lines=True) == ['He met Mr. Xu.  It rained.', '\nThen', '\n \n  it stopped. ok\n']
    assert sentences.cut('你好。世界。') == ['你好。', '世界。']
    assert sentences.cut('“A.” B') == ['“A.”', ' B']
    flat = 'One. Two three. Mr. Four? five! Six'
    assert [part.strip() for part in sentences.cut(flat)] == sentences.split(flat)
