"""C4's rules one by one, and all of them beside the reference implementation."""

import collections
import random

import pytest

from t5x_lite.data import cleaning, sentences
from t5x_lite.errors import UserError

GOOD = 'The river rose in the spring. It fell again in summer. Boats came up from the sea.'
LONG = 'a' * 1001


def clean(text, *names, **numbers):
    return cleaning.clean(text, cleaning.Rules(frozenset(names), **numbers))


@pytest.mark.parametrize('rule, removed, kept', [
    ('long_words', f'See {LONG} for yourself.', f'See {LONG[1:]} for yourself.'),
    ('long_words', 'a' * 5000, 'word ' * 1000 + 'end.'),
    ('terminal_punctuation', 'Home | About | Contact', 'Home, about and contact.'),
    ('terminal_punctuation', 'To be continued...', 'To be continued..'),
    ('terminal_punctuation', 'It ended (or so.)', 'He said: "So."'),
    ('terminal_punctuation', 'What is this:', 'What is this?'),
    ('terminal_punctuation', 'Stop it;', 'Stop it!'),
    ('short_lines', 'All rights reserved here.', 'All rights are reserved here.'),
    ('short_lines', '  one   two  three four. ', 'one two three four five'),
    ('javascript', 'Please switch JavaScript on to see this page.', 'Please switch the script on to see it.'),
    ('policy', 'Read our Privacy Policy to learn more of this.', 'Read our private letters to learn more of this.'),
    ('policy', 'This site uses cookies and so on and so forth.', 'This cook uses flour and so on and so forth.'),
])  # fmt: skip
def test_lines(rule, removed, kept):
    page = clean(f'{GOOD}\n{removed}\n{kept}', rule)
    assert page.text == f'{GOOD}\n{kept}' and page.lines == {rule: 1} and not page.rule
    assert clean(removed, *set(cleaning.RULES) - {rule, 'terminal_punctuation', 'short_lines', 'bad_words'}).text == removed.strip(), 'no other rule does it'


def test_citations_are_taken_out_and_their_lines_stay():
    page = clean('It rose[1] and[23] fell[edit] so[citation needed] they[] say.\nBut [a] and [1a] stay.', 'citations')
    assert page.text == 'It rose and fell so they say.\nBut [a] and [1a] stay.' and page.lines == {'citations': 1}
    assert clean('It rose in the old days.[4]', 'citations', 'terminal_punctuation').text == 'It rose in the old days.', 'before punctuation is looked for'


@pytest.mark.parametrize('rule, removed, kept', [
    ('lorem_ipsum', f'{GOOD}\nHere stands Lorem ipsum dolor sit.', f'{GOOD}\nHere stands lorem, then ipsum.'),
    ('curly_brackets', f'{GOOD}\nfunction f() {{ return a.', f'{GOOD}\nfunction f() return a }}.'),
])  # fmt: skip
def test_documents(rule, removed, kept):
    assert clean(removed, rule).rule == rule and clean(kept, rule).rule == '' and clean(kept, rule).text == kept
    assert clean(removed, 'terminal_punctuation').rule == ''
    assert clean(removed.rstrip('.'), rule, 'terminal_punctuation').rule == '', 'a line that is gone says nothing of its page, as in the reference'


def test_few_sentences():
    for text, expected in ((GOOD, ''), ('One of them. Two of them.', 'few_sentences'), ('One of them.\nTwo of them.\nThree of them.', ''), ('', 'few_sentences')):
        page = clean(text, 'few_sentences')
        rules = cleaning.Rules(frozenset(['few_sentences']))
        assert rules.verdict(page.rule, page.sentences) == expected, text
    assert clean(GOOD * 9, 'few_sentences', min_sentences=5).sentences == 5
    assert cleaning.Rules(frozenset(['javascript'])).verdict('', 0) == ''


@pytest.mark.parametrize('text, found', [
    ('You BLOODY fool.', True), ('bloody', True), ('bloodyminded', False), ('It is a damn, I say.', True), ('a damned thing', False), ('go to hell now', True),
    ('go to hello', False), ('what (to hell)', True), ('c++', True), ('c+', False),
])  # fmt: skip
def test_bad_words(tmp_path, text, found):
    (tmp_path / 'words').write_text('bloody\nDamn\n\nto hell\nc++\n')
    rules = cleaning.chosen(('bad_words',), str(tmp_path / 'words'))
    assert cleaning.clean(text, rules).rule == ('bad_words' if found else '')


def test_the_example_of_the_docstring():
    rows = [line[8:] for line in cleaning.clean.__doc__.splitlines() if line.startswith(' ' * 8)]
    page = cleaning.clean('\n'.join(row[:48].strip() for row in rows), cleaning.chosen(('c4',), ''))
    assert page.text == 'The river rose in spring. It fell again.\n\nBoats came up from the sea. They had salt.'
    said = collections.Counter(row[48:].split(':')[0] for row in rows)
    assert page.lines == {'citations': 1} | {rule: said[rule] for rule in ('terminal_punctuation', 'policy', 'short_lines')}


def test_which_rules(tmp_path):
    (tmp_path / 'words').write_text('x\n')
    (tmp_path / 'empty').write_text('\n \n')
    assert cleaning.chosen((), '') is None
    assert cleaning.chosen(('c4',), '').names == set(cleaning.RULES) - {'bad_words'}
    assert cleaning.chosen(('c4',), str(tmp_path / 'words')).names == set(cleaning.RULES)
    for names, words, message in (
        (('c5',), '', "--clean=c5: no such rule, did you mean 'c4'"),
        (('javascripts',), '', "did you mean 'javascript'"),
        (('bad_words',), '', '--clean=bad_words: which'),
        (('c4', 'bad_words'), '', '--clean=bad_words: which'),
        (('policy',), str(tmp_path / 'words'), 'no rule uses it'),
        ((), str(tmp_path / 'words'), 'no rule uses it'),
        (('c4',), str(tmp_path / 'absent'), 'absent: .*No such file.*a word or phrase a line'),
        (('c4',), str(tmp_path / 'empty'), 'the file is empty'),
    ):
        with pytest.raises(UserError, match=message):
            cleaning.chosen(names, words)
    for numbers in ({'min_line_words': 0}, {'min_sentences': 0}):
        with pytest.raises(UserError, match='must be at least 1'):
            cleaning.chosen(('c4',), '', **numbers)


_PARTS = [
    'The river rose', 'in spring', '.', '. ', '! ', '?', '"', '...', '[1]', '[edit]', '[', '{', 'lorem ipsum', 'Lorem  ipsum', 'JavaScript', 'Use cookies', 'terms of use',
    'one two three four', 'Mr. Li', LONG, '\n', '\n', '\n', '\x0b', '\u2028', '\r\n', '\t', ' ', 'é 中国。', '[citation needed]',
]  # fmt: skip


def test_equal_to_the_reference(monkeypatch):
    """3,000 made pages, text and counts; sentences are counted by our rules there as well, since nltk's model is no dependency."""
    reference = pytest.importorskip('tensorflow_datasets.text.c4_utils')
    monkeypatch.setattr(reference, '_get_sentences', lambda line: sentences.split_paragraph(' '.join(line.split())))
    clean_page = reference.get_clean_page_fn()
    names = {
        'line-filtered:too_long_word': 'long_words', 'line-filtered:no_endmark': 'terminal_punctuation', 'line-filtered:too_short': 'short_lines',
        'line-filtered:javascript': 'javascript', 'line-filtered:policy': 'policy', 'filtered:loremipsum': 'lorem_ipsum', 'filtered:squigglybracket': 'curly_brackets',
        'filtered:too_few_sentences': 'few_sentences',
    }  # fmt: skip
    rules, source, verdicts = cleaning.chosen(('c4',), ''), random.Random(0), collections.Counter()
    for _ in range(3000):
        rare = [part for part in _PARTS if part not in ('{', 'lorem ipsum') or source.random() < 0.15]
        drawn = ''.join(source.choices(rare, k=source.randrange(1, 120))).replace('spring', source.choice(['spring', 'spring and so on']))
        text = '\n'.join(line for line in drawn.splitlines() if line.strip())  # as its reader gives it
        counts = collections.Counter()
        theirs = [page.text for page in clean_page(reference.PageFeatures(text=text), counter_inc_fn=lambda name, amount=1: counts.update({name: amount}))]
        page = cleaning.clean(text, rules)
        rule = rules.verdict(page.rule, page.sentences)
        assert ([] if rule else [page.text]) == theirs, text
        ours = collections.Counter({name: count for name, count in page.lines.items() if name != 'citations'}) + collections.Counter([rule] * bool(rule))
        assert ours == collections.Counter({names[name]: count for name, count in counts.items() if name in names}), text
        verdicts[rule] += 1
    assert min(verdicts[rule] for rule in ('', 'lorem_ipsum', 'curly_brackets', 'few_sentences')) > 20, verdicts
