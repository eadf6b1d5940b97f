"""Examples as text, to the character."""

import re

import pytest

from t5x_lite.errors import UserError
from t5x_lite.tasks import languages, named_entities, pronouns, questions, text_formats


def test_classification():
    row = {'sentence2': 'It is wet.', 'sentence1': 'It rains.', 'label': 0, 'idx': 4}
    found = text_formats.classification(row, 'rte', ('entailment', 'not_entailment'))
    assert found == {'inputs': 'rte sentence1: It rains. sentence2: It is wet.', 'targets': 'entailment', 'idx': 4}
    assert text_formats.classification(row | {'label': -1}, 'rte', ('a', 'b'))['targets'] == '<unk>'
    assert text_formats.classification(row | {'label': '1'}, 'rte', ('a', 'b'))['targets'] == 'b'
    for label in (2, -2, 0.5, 'a', None, float('nan')):
        with pytest.raises(UserError, match=rf'label {re.escape(repr(label))} is no class; expected 0 \(a\), 1 \(b\), or -1'):
            text_formats.classification(row | {'label': label}, 'rte', ('a', 'b'))
    row = {'question': 'Who?', 'answer': 'Bo', 'paragraph': '<b>1: </b>Bo.<br>', 'label': 1, 'idx': {'question': 3, 'answer': 0}}
    found = text_formats.classification(row, 'multirc', ('False', 'True'), ('question', 'answer', 'paragraph'))
    assert found == {'inputs': 'multirc question: Who? answer: Bo paragraph: 1: Bo. ', 'targets': 'True', 'idx/question': 3, 'idx/answer': 0}


@pytest.mark.parametrize(('score', 'text'), [(0, '0.0'), (0.1, '0.0'), (0.3, '0.4'), (0.5, '0.4'), (2.55, '2.6'), (4.95, '5.0'), (5, '5.0')])
def test_scores_are_rounded_to_a_fifth(score, text):
    assert text_formats.stsb_target(score) == text


def test_scores_are_held_against_what_people_said():
    found = text_formats.stsb({'sentence1': 'a', 'sentence2': 'b', 'label': 1.7})
    assert (found['inputs'], found['targets'], found['value']) == ('stsb sentence1: a sentence2: b', '1.6', 1.7)
    hidden = text_formats.stsb({'sentence1': 'a', 'sentence2': 'b', 'label': -1})
    assert (hidden['targets'], hidden['references']) == ('-1.0', ['<unk>']), 'nothing is scored against it'
    for label in (float('nan'), 'inf', 'high', None):
        with pytest.raises(UserError, match='score .* is not a number; give one of 0 to 5'):
            text_formats.stsb({'sentence1': 'a', 'sentence2': 'b', 'label': label})


def test_translation_and_summaries():
    assert text_formats.translate({'en': 'Yes.', 'fr': 'Oui.'}, 'fr', 'en') == {'inputs': 'translate French to English: Oui.', 'targets': 'Yes.'}
    row = {'zh-cn': '好。', 'nb': 'Bra.', 'el': 'Καλά.'}
    assert text_formats.translate(row, 'zh-cn', 'nb')['inputs'] == 'translate Chinese to Norwegian Bokmål: 好。'
    assert text_formats.translate(row, 'el', 'zh-cn') == {'inputs': 'translate Greek to Chinese: Καλά.', 'targets': '好。'}
    with pytest.raises(UserError, match=r"no language 'fx-x', did you mean '..'\?; codes are those of ISO 639-1"):
        text_formats.translate({'en': ''}, 'en', 'fx-x')
    assert len(languages.ENGLISH_NAMES) == 184
    found = text_formats.summarize({'text': 'Long.', 'short': ['S.', 'T.']}, 'text', 'short', 'tldr')
    assert found == {'inputs': 'tldr: Long.', 'targets': 'S.', 'references': ['S.', 'T.']}
    with pytest.raises(UserError, match="column 'short' is an empty list"):
        text_formats.summarize({'text': 'Long.', 'short': []}, 'text', 'short')
    assert text_formats.summarize_after({'article': 'Long.', 'highlights': 'S.'})['inputs'] == 'Long.\nTL;DR:'


def test_templates():
    row = {'text': 'a {b} c', 'stars': 3, 'lines': ['x', 'y'], 'none': None}
    assert text_formats.fill('review: {text} {{{stars}}}', row) == 'review: a {b} c {3}'
    assert text_formats.fill('{lines}', row) == 'x y'
    assert text_formats.from_template(row, '{text}', '{lines}') == {'inputs': 'a {b} c', 'targets': 'x', 'references': ['x', 'y']}
    assert text_formats.from_template(row, '{text}', 'is {lines}') == {'inputs': 'a {b} c', 'targets': 'is x y'}
    with pytest.raises(UserError, match="no column 'txet', did you mean 'text'"):
        text_formats.fill('{txet}', row)
    with pytest.raises(UserError, match="'none' has no value"):
        text_formats.fill('{none}', row)
    with pytest.raises(UserError, match='write {column}'):
        text_formats.columns_of('{text')
    with pytest.raises(UserError, match='{} names no column'):
        text_formats.columns_of('{}')
    with pytest.raises(UserError, match="no column 'text.__class__'"):
        text_formats.fill('{text.__class__}', row)


def test_choices():
    rows = [{'ask': 'Why?', 'a': 'x', 'b': 'y', 'label': 1}]
    found = text_formats.choices(rows, '{ask}', ['{a}', '{b}'])
    assert [(example['idx'], example['targets'], example['is_correct']) for example in found] == [((0, 0), 'x', False), ((0, 1), 'y', True)]
    assert [example['targets'] for example in text_formats.choices(rows, '{ask}', ['{a}', '{b}'], only_right=True)] == ['y']


def test_questions():
    row = {'id': '1', 'context': 'He paid 10.5 (or so).', 'question': 'How much?', 'answers': {'text': ['10.5', '10.5 or so']}}
    found = questions.squad(row)
    assert found['inputs'] == 'question: How much ? context: He paid 10 . 5 ( or so ) . '
    assert (found['targets'], found['references']) == ('10 . 5', ['10 . 5', '10 . 5 or so'])
    assert questions.squad_span(row)['targets'] == 'start: 2 end: 5', 'between 10 and 5 are two empty words, as . and the blank behind it end one each'
    for answers in (['eleven'], [''], [' '], []):
        assert questions.squad_span(row | {'answers': answers}) == []
    found = questions.squad(row, with_context=False)
    assert (found['inputs'], found['targets'], found['context']) == (
        'squad trivia question: How much ? ', '10 . 5', 'He paid 10 . 5 ( or so ) . '
    )  # fmt: skip
    assert questions.squad(row | {'context': '"Ten"'})['inputs'] == 'question: How much ? context: " Ten " '
    assert questions.squad(row | {'question': 'How much'})['inputs'].startswith('question: How much context: ')


@pytest.mark.parametrize(
    ('context', 'answer', 'span'),
    [
        ('My dog , the old one , barks . ', 'barks', 'start: 9 end: 9'),  # my dog _ _ the old one _ _ barks
        ('My dog, the old one, barks.', 'barks', 'start: 7 end: 7'),
        ('My dog barks', 'barks', ''),  # nothing follows
        ('My dog barks', 'dog', 'start: 1 end: 1'),
        ('a café bar . ', 'bar', 'start: 3 end: 3'),  # é is no letter of ASCII
        ('so - so it is', 'so', 'start: 0 end: 0'),
        ('one two', 'one two three', ''),
        ('a , b', '', 'start: 1 end: 1'),
        ('a b', '', ''),
    ],
)
def test_spans_count_empty_words(context, answer, span):
    assert questions.span_answer(context, answer) == span


def test_trivia_of_tfds():
    row = {'question': 'Which town?', 'answer': {'normalized_aliases': ['st. ives', 'ÉZE', ':)']}}
    row |= {'entity_pages': {'wiki_context': ['In St. Ives.', 'In éze.']}, 'search_results': {'search_context': ['ST, IVES', 'yes :)']}}
    found = questions.trivia_qa(row)
    assert [example['inputs'].partition('context: ')[2] for example in found] == ['In St . Ives . ', 'ST , IVES', 'yes : ) ']
    assert [example['targets'] for example in found] == ['st . ives', 'st . ives', ' : ) ']
    assert found[0]['inputs'] == 'question: Which town ? context: In St . Ives . '


def test_records_are_repeated_for_each_answer():
    row = {'query': '@placeholder won', 'entities': ['A', 'B'], 'passage': 'Said "no"\n@highlight\nAll'}
    row |= {'answers': ['A', 'B'], 'idx': {'passage': 1, 'query': 2}}
    found = questions.record(row)
    assert [example['targets'] for example in found] == ['A', 'B']
    assert found[0]['inputs'] == 'record query: @placeholder won entities: A, B passage: Said "no" All'


def test_pronouns_are_marked_at_their_index():
    assert pronouns.mark_word('Then he met him and he won.', 'he', 5) == 'Then he met him and *he* won.'
    assert pronouns.mark_word('Ann  saw it ', 'it', 3) == 'Ann  saw *it* ', 'blanks stay as they are'
    assert pronouns.mark_word('It broke.', 'It', 0) == '*It* broke.'
    assert pronouns.mark_word('Ann saw it', 'it', 2) == 'Ann saw *it* '
    # Not at its index: the nearest, what is attached set off, blanks at the end dropped.
    assert pronouns.mark_word('Then he met his friend, he said.', 'he', 4) == 'Then he met his friend, *he* said.'
    assert pronouns.mark_word('"Shame on her!" they cried. ', 'her', 2) == '"Shame on *her* !" they cried.'
    with pytest.raises(UserError, match="'she' does not occur"):
        pronouns.mark_word('He left.', 'she', 0)


def test_spans_are_marked():
    row = {'text': 'Ann saw Eve when she left .', 'span1_text': 'Ann', 'span1_index': 0, 'span2_text': 'she', 'span2_index': 4, 'label': 1, 'idx': 0}
    assert pronouns.wsc(row) == {'inputs': 'wsc text: * Ann * saw Eve when # she # left .', 'targets': 'True'}
    commas = row | {'text': 'Ann, she said, left.', 'span2_index': 1}
    assert pronouns.wsc(commas)['inputs'] == 'wsc text: * Ann *, # she # said, left.'
    assert pronouns.wsc(row | {'text': 'Ann  saw Eve when she left .'})['inputs'] == 'wsc text: * Ann *  saw Eve when she left .', 'two blanks'
    absent = row | {'span1_text': 'Joe'}
    assert pronouns.wsc(absent)['inputs'] == 'wsc text: Ann saw Eve when she left .', 'where the first is not marked, the second is looked for too far on'
    assert pronouns.wsc(row | {'label': -1})['targets'] == '<unk>'
    assert pronouns.wsc_simple(row)['inputs'] == 'wsc: Ann saw Eve when *she* left .'
    assert pronouns.wsc_simple(row | {'label': 0}, only_right=True) == []
    assert pronouns.wsc_simple(row | {'label': -1})['references'] == ['<unk>']


@pytest.mark.parametrize(
    ('sentence', 'pronoun', 'marked'),
    [
        ('The lid hit the pan when it fell, and it broke.', 'it', 'The lid hit the pan when *it* fell, and it broke.'),
        ('They hired the twins, since they, too, sang.', 'they', 'They hired the twins, since *they*, too, sang.'),
        ('It fell on the pan.', 'It', 'It fell on the pan.'),  # nothing before it
        ('The pan fell on it!', 'it', 'The pan fell on it!'),
        ('The pan fell.', 'it', 'The pan fell.'),
    ],
)
def test_definite_pronouns(sentence, pronoun, marked):
    row = {'sentence': sentence, 'pronoun': pronoun, 'candidates': ['The lid', 'the pan'], 'label': 1}
    assert pronouns.dpr_simple(row) == {'inputs': f'wsc: {marked}', 'targets': 'the pan'}
    with pytest.raises(UserError, match='label 2 is no class'):
        pronouns.dpr_simple(row | {'label': 2})


@pytest.mark.parametrize(
    ('premise', 'hypothesis', 'marked', 'referent'),
    [
        ('The cup fell off the shelf because it was crooked.', 'The shelf was crooked.', 'because *it* was', 'The shelf'),
        ("Ben lost to the twins, so he took their ball.", "he took the twins' ball", 'took *their* ball', 'the twins'),
        ("Ben lost to Jo, and took his ball.", "He took Ben's ball.", 'took *his* ball', 'Ben'),
        ('Jo fed the cat before the dog saw it!', 'Jo fed the dog.', 'saw *it* !', ''),
        ('The man lifted his son so everyone could see him.', 'The people could see the son.', 'see *him* .', 'the son'),
    ],
)
def test_pronouns_are_found_by_aligning(premise, hypothesis, marked, referent):
    row = {'sentence1': premise, 'sentence2': hypothesis, 'label': 1, 'idx': 0}
    if not referent:
        with pytest.raises(UserError, match='no pronoun of'):
            pronouns.wnli_simple(row)
        return
    found = pronouns.wnli_simple(row)
    assert marked in found['inputs'] and found['targets'] == referent


def test_named_entities():
    words = 'Ann Lee of Rome met Bo'.split()
    found = named_entities.from_tags({'tokens': words, 'tags': ['I-PER', 'I-PER', 'O', 'I-LOC', 'O', 'I-PER']})
    assert (found['inputs'], found['targets']) == ('ner: Ann Lee of Rome met Bo', 'PER: Ann Lee; LOC: Rome; PER: Bo')
    assert named_entities.parse(found['targets']) == found['entities']
    side_by_side = named_entities.from_tags({'tokens': 'a b c d'.split(), 'tags': ['I-A', 'B-A', 'I-A', 'I-B']})
    assert side_by_side['targets'] == 'A: a; A: b c; B: d'
    assert named_entities.from_tags({'tokens': ['no'], 'tags': ['O']})['targets'] == 'none'
    assert named_entities.parse('none') == []
    assert named_entities.parse('ORG: A; B') == [('ORG', 'A; B')]
    for text in ('', 'Ann', 'PER: ', 'maybe PER: Ann'):
        assert named_entities.parse(text) is None, text
    for wrong, words in (('PER', "tag 'PER'"), ('B', 'have no type to name entities by')):
        with pytest.raises(UserError, match=words):
            named_entities.from_tags({'tokens': ['Ann'], 'tags': [wrong]})
