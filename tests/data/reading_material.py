"""What tests of reading share: tokenizers of every kind, files of questions, and a config of them."""

import json

from t5x_lite.config import Config
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


def questions(folder, name, contexts, answer='bo li'):
    """A file with one question about each context."""
    paragraphs = [
        {'context': context, 'qas': [{'id': f'{name}{number}', 'question': 'who ?', 'answers': [{'text': answer, 'answer_start': context.find(answer)}]}]}
        for number, context in enumerate(contexts)
    ]
    (folder / name).write_text(json.dumps({'data': [{'title': 'T', 'paragraphs': paragraphs}]}))
    return str(folder / name)


def config_of(folder, train, validation='', **fields) -> Config:
    """Windows of 16 pieces of such files; `fields` are those of config.data."""
    (folder / 'words').mkdir(exist_ok=True)
    (folder / 'words' / 'vocab.txt').write_text('\n'.join(SPECIAL + WORDS) + '\n')
    config = Config()
    config.data.tokenizer, config.data.train, config.data.validation = str(folder / 'words'), train, validation
    config.data.seq_len, config.data.stride, config.data.max_question = 16, 4, 3
    for name, value in fields.items():
        setattr(config.data, name, value)
    return config
