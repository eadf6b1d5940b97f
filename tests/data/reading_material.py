"""What tests of reading share: tokenizers of every kind, and files of questions."""

import json

from t5x_lite.data import tokenizers
from t5x_lite.data.squad_files import Answer, Question
from tests.fixtures.make_tokenizer_fixtures import FOLDER

SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
PAD, UNK, CLS, SEP = 0, 1, 2, 3
WORDS = ['who', '?', 'it', 'was', 'bo', 'li', 'here', 'zo', '##e', '.', *(f'w{number}' for number in range(40))]
KINDS = ('wordpiece', 'byte_bpe', 'gpt1', 'sentencepiece', 'characters')


def wordpiece():
    return tokenizers.wordpiece({piece: index for index, piece in enumerate(SPECIAL + WORDS)}, lowercase=True)


def tokenizer(kind):
    if kind == 'wordpiece':
        return tokenizers.load(str(FOLDER.parent / 'bert_encoder'))
    if kind == 'characters':
        return tokenizers.train_characters(['abcdefghijklmnopqrstuvwxyz ZSİ👍'])
    return tokenizers.load(str(FOLDER / kind))


def question(context, answer=None, start=None, id='q', text='who ?'):
    """A question with one answer, or with none."""
    return Question(id, 'T', context, text, () if answer is None else (Answer(answer, start),), f'file[{id}]')


def squad_json(*rows, context='It was Bo Li here.'):
    """The contents of a file with these qas."""
    return json.dumps({'version': 'v2.0', 'data': [{'title': 'T', 'paragraphs': [{'context': context, 'qas': list(rows)}]}]})
