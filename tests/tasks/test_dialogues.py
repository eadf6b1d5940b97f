"""Dialogues as examples: each reply with what was said before it."""

import json

import pytest

from t5x_lite.errors import UserError
from t5x_lite.tasks import builtin, dialogues

TURNS = ['Hi.', 'Hello.\nHow can I help?', 'My parcel is lost.', 'I am sorry.']
CONTEXT = 'A: Hi. B: Hello. How can I help? A: My parcel is lost.'


def test_turns():
    assert dialogues.replies({'turns': TURNS}) == [{'context': 'A: Hi.', 'reply': 'Hello. How can I help?'}, {'context': CONTEXT, 'reply': 'I am sorry.'}]
    assert dialogues.replies({'turns': TURNS[:3]}) == dialogues.replies({'turns': TURNS})[:1], 'nobody replies to the last'


def test_messages():
    messages = [{'role': 'user' if number % 2 == 0 else 'assistant', 'content': turn} for number, turn in enumerate(TURNS)]
    assert dialogues.replies({'messages': messages}) == dialogues.replies({'turns': TURNS})
    system = [{'role': 'system', 'content': 'Be kind.'}, *messages]
    assert [found['context'] for found in dialogues.replies({'messages': system})] == ['Be kind. A: Hi.', f'Be kind. {CONTEXT}']
    twice = [messages[0], messages[1], messages[3]]
    assert [found['reply'] for found in dialogues.replies({'messages': twice})] == ['Hello. How can I help?', 'I am sorry.']


def test_two_columns():
    assert dialogues.replies({'context': 'Hi.', 'reply': 'Hello.'}) == dialogues.replies({'context': 'A: Hi.', 'reply': 'Hello.'})
    assert dialogues.replies({'context': 'Hi.', 'reply': 'Hello.', 'turns': None}) == [{'context': 'A: Hi.', 'reply': 'Hello.'}]


def test_files(tmp_path):
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'turns': TURNS, 'mood': 'kind'}) for _ in range(2)))
    (tmp_path / 'b.csv').write_text('context,reply\n"A: Hi.",Hello.\n')
    task = builtin.of_table(str(tmp_path / 'a.jsonl'), str(tmp_path / 'b.csv'), '{mood} {context} B:', ' {reply}', ('rouge',), turns=True)
    found = task.examples('train')
    assert len(found) == 4 and (found[1]['inputs'], found[1]['targets']) == (f'kind {CONTEXT} B:', ' I am sorry.')
    plain = builtin.of_table(str(tmp_path / 'a.jsonl'), str(tmp_path / 'b.csv'), '{context} B:', ' {reply}', ('rouge',), turns=True)
    assert [(example['inputs'], example['targets']) for example in plain.examples('validation')] == [('A: Hi. B:', ' Hello.')]
    (tmp_path / 'b.csv').write_text('context,reply\nHi.,Hello.\nHi.,\n')
    with pytest.raises(UserError, match=r"task table: .*b.csv:3: the reply is ''; expected a text"):
        plain.examples('validation')


@pytest.mark.parametrize(('row', 'said'), [
    ({'text': 'a'}, 'no dialogue in the columns text; expected turns'),
    ({'turns': 'a b'}, "turns is 'a b', not a list"),
    ({'turns': ['a']}, 'nobody replies in it'),
    ({'turns': []}, 'nobody replies in it'),
    ({'turns': ['a', ' ']}, "turn 2 is ' '; expected a text"),
    ({'turns': ['a', 3]}, 'turn 2 is 3; expected a text'),
    ({'messages': ['a', 'b']}, "message 1 is 'a'; expected"),
    ({'messages': [{'role': 'usr', 'content': 'a'}]}, "message 1: the role 'usr' is unknown, did you mean 'user'"),
    ({'messages': [{'role': 'assistant', 'content': 'a'}]}, 'nobody replies in it'),
])  # fmt: skip
def test_rows_that_are_no_dialogue(row, said):
    with pytest.raises(UserError, match=said):
        dialogues.replies(row)
