"""Questions with choices from tables: what is guessed, rows by hand, and mistakes named by line."""

import json

import numpy as np
import pytest

from t5x_lite.data import choice_columns
from t5x_lite.data.choices import ChoiceExamples
from t5x_lite.errors import UserError
from tests.data import table_material
from tests.data.table_material import CLS, PAD, SEP, VOCAB, words

SWAG = 'id,sent1,sent2,gold-source,ending0,ending1,label\n' + ''.join(f'{n},a man sings,the dog,gold,runs,sleeps,{n % 2}\n' for n in range(20))


def examples(folder, files, split='train', **fields) -> ChoiceExamples:
    return table_material.examples(ChoiceExamples, folder, files, split, seq_len=12, **fields)


def refused(tmp_path, text, name='t.csv', **fields):
    with pytest.raises(UserError) as caught:
        examples(tmp_path, {name: text}, **fields)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_swag_as_it_comes(tmp_path):
    found = examples(tmp_path, {'t.csv': SWAG})
    assert found.resolved == {
        'data.text_columns': ('sent1', 'sent2'), 'data.choice_columns': ('ending0', 'ending1'), 'data.label_column': 'label', 'data.choice_labels': 'from_0',
        'model.num_labels': 2,
    }  # fmt: skip
    batch = found.get(np.arange(4))
    assert batch['tokens'].shape == batch['token_types'].shape == batch['sequence_ids'].shape == (4, 2, 12)
    for row in batch['tokens']:
        assert [words(choice) for choice in row] == ['a man sings the dog runs', 'a man sings the dog sleeps']
    ids = [VOCAB.index(word) for word in 'a man sings'.split()], [VOCAB.index(word) for word in 'the dog runs'.split()]
    assert batch['tokens'][0, 0].tolist() == [CLS, *ids[0], SEP, *ids[1], SEP, *[PAD] * 3]
    assert batch['token_types'][0, 0].tolist() == [0] * 5 + [1] * 4 + [0] * 3 and batch['sequence_ids'][0, 0].tolist() == [1] * 9 + [0] * 3
    said = found.describe()
    assert "question 'sent1' and 'sent2' (guessed), choices 'ending0', 'ending1' (guessed), label 'label' (guessed), which says its number from 0" in said
    second = int(found.labels.sum())
    always = f'guessing reaches 0.5000, always the same number {max(second, 18 - second) / 18:.4f}'
    assert f'2 choices; right is number 1 ({18 - second}), number 2 ({second}); {always}' in said


def test_lists_of_any_length_and_letters(tmp_path):
    rows = [{'question': 'the man', 'choices': ['a cat', 'the dog', 'a man'][: 2 + n % 2], 'answer': 'ABC'[n % (2 + n % 2)]} for n in range(12)]
    text = ''.join(json.dumps(row) + '\n' for row in rows)
    found = examples(tmp_path, {'t.jsonl': text}, validation='t.jsonl')
    assert found.resolved['data.choice_labels'] == 'letter' and found.resolved['model.num_labels'] == 3
    held_out = examples(tmp_path, {'t.jsonl': text}, 'validation', validation='t.jsonl')
    batch = held_out.get(np.arange(2))
    assert batch['labels'].tolist() == [0, 1] and batch['labels'].dtype == np.int32
    assert [words(choice) for choice in batch['tokens'][0]] == ['the man a cat', 'the man the dog', ''] and not batch['sequence_ids'][0, 2].any()
    assert (batch['tokens'][0, 2] == PAD).all() and batch['sequence_ids'][1, 2].any()
    known = {'validation': 't.jsonl', 'train': '', 'text_columns': ('question',), 'choice_columns': ('choices',), 'label_column': 'answer'}
    again = examples(tmp_path, {'t.jsonl': text}, 'validation', choice_labels='letter', **known)
    assert again.fingerprint == held_out.fingerprint, 'an evaluation needs no training table'


@pytest.mark.parametrize('labels, kind', [('1 2 1', 'from_1'), ('0 1 1', 'from_0'), ('b A b', 'letter'), ('red green red', 'text')])
def test_what_labels_say(tmp_path, labels, kind):
    rows = ''.join(f'which one,red,green,{label}\n' for label in labels.split() * 4)
    found = examples(tmp_path, {'t.csv': 'question,option_a,option_b,answer\n' + rows}, validation='t.csv')
    assert found.resolved['data.choice_labels'] == kind
    wanted = [choice_columns.read(label, ('red', 'green'), kind) for label in labels.split() * 4]
    assert found.labels.tolist() == wanted and set(wanted) == {0, 1}


def test_seeds_and_epochs(tmp_path):
    """Held out are rows of the table, and an epoch shows each of the others once."""
    train, held_out = examples(tmp_path, {'t.csv': SWAG}), examples(tmp_path, {'t.csv': SWAG}, 'validation')
    assert (len(train), len(held_out)) == (18, 2)
    assert sorted(train.get(np.arange(18))['labels']) == sorted(train.labels) and train.width(np.arange(3)) == 12
    assert train.labels.sum() + held_out.labels.sum() == 10


def test_right_answers_may_share_a_place(tmp_path):
    """Places are no classes: none must be there to be learnt, neither of all questions nor of a part, and four questions may have four."""
    files = {'t.jsonl': ''.join(json.dumps({'question': f'the man {number}', 'choices': ['red', 'green'], 'answer': 'A'}) + '\n' for number in range(7))}
    for fields in ({'folds': 3, 'fold': 1}, {'folds': 7}, {}):
        train, held_out = (examples(tmp_path, files, split, **fields) for split in ('train', 'validation'))
        assert len(train) + len(held_out) == 7 and not train.labels.any() and not held_out.labels.any()
    assert 'right is number 1 (5)' in examples(tmp_path, files, folds=3, fold=1).describe()
    rows = [{'question': 'the man', 'choices': ['red', 'green', 'a cat', 'a dog'], 'answer': letter} for letter in 'ABCD']
    files = {'t.jsonl': ''.join(json.dumps(row) + '\n' for row in rows)}
    assert [len(examples(tmp_path, files, split)) for split in ('train', 'validation')] == [3, 1]
    for fields, said in (({'folds': 5}, '4 questions are too few for config.data.folds=5'), ({'validation_fraction': 0.9}, '4 questions are too few to set 90%')):
        with pytest.raises(UserError, match=said):
            examples(tmp_path, files, **fields)


def test_columns_that_cannot_be_told(tmp_path):
    message = refused(tmp_path, 'question,left,right,label\nwho,a,b,0\nwho,b,a,1\n')
    assert 'which columns are the choices? none look like them; name them with --config.data.choice_columns (columns: question, left, right, label)' in message
    assert "no column 'rihgt' (--config.data.choice_columns); did you mean 'right'?" in refused(
        tmp_path, 'question,left,right,label\nwho,a,b,0\n', choice_columns=('left', 'rihgt')
    )
    text = 'question,choice1,choice2,choice3,answer\n' + 'who,red,green,man,1\nwho,red,green,man,2\n' * 6
    message = refused(tmp_path, text)
    assert "no label (column 'answer') is 0 or the number of choices" in message and '--config.data.choice_labels=from_0 or from_1' in message
    assert examples(tmp_path, {'t.csv': text}, choice_labels='from_1').labels.min() == 0
    assert "--config.data.choice_labels is 'letters'; did you mean 'letter'?" in refused(tmp_path, text, choice_labels='letters')
    assert 'name a column twice' in refused(tmp_path, text, text_columns=('choice1',), choice_columns=('choice1', 'choice2'))


def test_rows_that_are_wrong_are_named(tmp_path):
    head = 'question,choice1,choice2,answer\n'
    assert "t.csv:4: the label is '2', not its number from 0 (red | green)" in refused(tmp_path, head + 'who,red,green,0\nwho,red,green,1\nwho,red,green,2\n')
    assert 't.csv:3: 1 choices; a question has two or more' in refused(tmp_path, head + 'who,red,green,0\nwho,,green,1\n')
    both = refused(tmp_path, head + 'who,red,green,red\nwho,red,red,red\n', choice_labels='text')
    assert "t.csv:3: the label is 'red', not the text of one choice (red | red)" in both
    assert "t.jsonl:1: the choices (column 'options') are not a list" in refused(
        tmp_path, '{"question": "who", "options": "red", "answer": "red"}\n', 't.jsonl', choice_columns=('options',)
    )
    assert "t.jsonl:1: choice 2 is 3; expected a text" in refused(tmp_path, '{"question": "who", "options": ["red", 3], "answer": "red"}\n', 't.jsonl')
    assert 'config.data.regression is of classes' in refused(tmp_path, SWAG, regression=True)
    wrong = 'question,choice1,choice2,answer\nwho,red,green,7\n'
    with pytest.raises(UserError, match="v.csv:2: the label is '7'"):
        examples(tmp_path, {'t.csv': wrong.replace(',7', ',0') + 'who,red,green,1\n', 'v.csv': wrong}, validation='v.csv')
