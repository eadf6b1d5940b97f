"""Dialogues as text to text: each reply is an example, what was said before it the context, and only the reply is learnt.

A row is one of

    {"turns": ["Hi.", "Hello. How can I help?", "My parcel is lost.", "I am sorry."]}     two take turns, the second is learnt
    {"messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]}      the assistant is learnt; system comes first
    context,reply                                                                         two columns of a csv: what was said, and what is said to it

and becomes, for the templates '{context} B:' and ' {reply}':

    inputs  'A: Hi. B:'                                                     targets  ' Hello. How can I help?'
    inputs  'A: Hi. B: Hello. How can I help? A: My parcel is lost. B:'     targets  ' I am sorry.'

Everything is on one line, so any tokenizer keeps it and `predict` reads it from a file: line ends inside a turn become spaces.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from t5x_lite.errors import UserError, nearest
from t5x_lite.tasks import text_formats
from t5x_lite.tasks.text_formats import Example

_NAMES = {'user': 'A', 'assistant': 'B'}
_FORMS = 'turns (a list of texts), messages (a list of {"role", "content"}), or the columns context and reply'


def replies(row: Mapping[str, Any]) -> list[Example]:
    """{'context', 'reply'} of each reply in a row, in its order.

    Raises:
      UserError: none of the forms above, a turn that is no text or empty, or no reply at all.
    """
    if row.get('turns') is not None:
        turns = [('B' if number % 2 else 'A', turn) for number, turn in enumerate(_list(row, 'turns'))]
    elif row.get('messages') is not None:
        turns = [_message(message, number) for number, message in enumerate(_list(row, 'messages'), 1)]
    elif 'context' in row and 'reply' in row:
        context = _text(row['context'], 'the context')
        return [{'context': context if context.startswith('A:') else f'A: {context}', 'reply': _text(row['reply'], 'the reply')}]
    else:
        raise UserError(f'no dialogue in the columns {", ".join(row)}; expected {_FORMS}')
    made, before = [], []
    for number, (speaker, turn) in enumerate(turns, 1):
        text = _text(turn, f'turn {number}')
        if speaker == 'B' and before:
            made.append({'context': ' '.join(before), 'reply': text})
        before.append(f'{speaker}: {text}' if speaker else text)
    if not made:
        raise UserError('nobody replies in it; give two turns or more, or remove the row')
    return made


def from_template(row: Mapping[str, Any], inputs: str, targets: str) -> list[Example]:
    """Each reply of a row by templates over {context}, {reply} and its other columns."""
    return [text_formats.from_template({**row, **reply}, inputs, targets) for reply in replies(row)]


def _list(row: Mapping[str, Any], name: str) -> Sequence[Any]:
    if not isinstance(row[name], (list, tuple)):
        raise UserError(f'{name} is {str(row[name])[:40]!r}, not a list; expected {_FORMS}')
    return row[name]


def _message(message: Any, number: int) -> tuple[str, Any]:
    """(A, B, or '' for what sets the scene; text)."""
    if not isinstance(message, Mapping) or not {'role', 'content'} <= message.keys():
        raise UserError(f'message {number} is {str(message)[:40]!r}; expected {{"role": ..., "content": ...}}')
    role = message['role']
    if role == 'system':
        return '', message['content']
    if role not in _NAMES:
        raise UserError(f'message {number}: the role {role!r} is unknown, {nearest(str(role), [*_NAMES, "system"])}')
    return _NAMES[role], message['content']


def _text(turn: Any, what: str) -> str:
    if not isinstance(turn, str) or not turn.strip():
        raise UserError(f'{what} is {turn!r}; expected a text')
    return ' '.join(turn.split())
