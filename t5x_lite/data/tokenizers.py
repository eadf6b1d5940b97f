"""The kinds of tokenizers: reading whatever a folder holds, and training one.

A tokenizer folder has Hugging Face's layout, so that `transformers` reads ours and we read theirs. What a folder holds decides how it is
read (`_KINDS`); what --tokenizer names decides how one is trained (`TRAINERS`). A new kind is one entry in each.
"""

import json
import os
from collections.abc import Callable, Iterable

import tokenizers as library

from t5x_lite import remote
from t5x_lite.data import byte_pairs, sentence_piece, tokenizer_files
from t5x_lite.data import wordpiece as wordpieces
from t5x_lite.data.byte_pairs import byte_bpe, train_byte_bpe
from t5x_lite.data.characters import train_characters
from t5x_lite.data.sentence_piece import SentencePiece, train_sentence_piece
from t5x_lite.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from t5x_lite.data.wordpiece import train_wordpiece, wordpiece
from t5x_lite.errors import UserError, nearest

__all__ = [
    'DEFAULT_SIZES', 'KEEP_WHITESPACE', 'MAY_HOLD', 'SPECIAL_TOKENS', 'TRAINERS', 'SentencePiece', 'Tokenizer', 'byte_bpe', 'load', 'present',
    'train', 'train_byte_bpe', 'train_characters', 'train_sentence_piece', 'train_wordpiece', 'wordpiece',
]  # fmt: skip

TRAINERS: dict[str, Callable[..., Tokenizer]] = {
    'wordpiece': train_wordpiece,
    'byte_bpe': train_byte_bpe,
    'sentencepiece': train_sentence_piece,
    'characters': train_characters,
}
DEFAULT_SIZES = {'wordpiece': 30_522, 'byte_bpe': 50_257, 'sentencepiece': 32_100, 'characters': None}  # None: as many as there are
KEEP_WHITESPACE = frozenset({'byte_bpe', 'characters'})  # kinds whose tokenizers do (`Tokenizer.keeps_whitespace`)

# (files, all of which must be there, how they are read), the first that fit count.
_KINDS: tuple[tuple[tuple[str, ...], Callable[..., Tokenizer]], ...] = (
    (('spiece.model',), sentence_piece.read),  # left out where tokenizer_config.json says that it is not all
    (('sentencepiece.bpe.model',), sentence_piece.read),
    (('tokenizer.json',), lambda path, config: _from_json(path, config)),
    (('vocab.json', 'merges.txt'), byte_pairs.read),
    (('encoder.json', 'vocab.bpe'), byte_pairs.read),
    (('*.model',), sentence_piece.read),
    (('vocab.txt',), wordpieces.read),
)
MAY_HOLD = 'tokenizer.json, spiece.model, vocab.json with merges.txt, encoder.json with vocab.bpe, or vocab.txt'


def present(folder: str) -> tuple[str, ...]:
    """Names of the files in a folder that make up a tokenizer, settings included; () where it holds none."""
    folder = remote.local(folder)
    found = [name for names in _vocabularies(folder) for name in names]
    return (*dict.fromkeys(found), *(name for name in tokenizer_files.SETTINGS if os.path.isfile(os.path.join(folder, name)))) if found else ()


def load(path: str) -> Tokenizer:
    """Reads a tokenizer folder in Hugging Face's layout, or one file of it: `MAY_HOLD` says what there may be.

    tokenizer_config.json beside it is honoured (do_lower_case, strip_accents, tokenize_chinese_chars, add_prefix_space, extra_ids, spellings
    of special tokens, added tokens). Where nothing says whether a vocab.txt is lower case, it is unless one of its pieces has a capital
    letter.

    Raises:
      UserError: the folder is absent, holds no tokenizer, or a file in it is broken.
    """
    path = remote.local(os.fspath(path))
    if os.path.isfile(path):
        return _load_file(path)
    if not os.path.isdir(path):
        raise UserError(f'{path}: no such tokenizer folder')
    config, found = tokenizer_files.read_config(path), _vocabularies(path)
    for names, read in found.items():
        if read is sentence_piece.read and not sentence_piece.reads(config) and len(found) > 1:
            continue  # tokenizer.json knows more
        return read(*(os.path.join(path, name) for name in names), config)
    raise UserError(f'{path}: no tokenizer in this folder; expected {MAY_HOLD}')


def train(kind: str, texts: Iterable[str], vocab_size: int | None, lowercase: bool) -> Tokenizer:
    """Trains a tokenizer of a kind in `TRAINERS`; `lowercase` is for WordPiece."""
    if kind not in TRAINERS:
        raise UserError(f'--tokenizer={kind}: no such kind or folder, {nearest(kind, TRAINERS)}')
    if kind == 'wordpiece':
        return train_wordpiece(texts, vocab_size, lowercase)
    if lowercase:
        raise UserError(f'--lowercase is for --tokenizer=wordpiece; a {kind} tokenizer keeps case, leave the flag out')
    return TRAINERS[kind](texts, vocab_size)


def _vocabularies(folder: str) -> dict[tuple[str, ...], Callable[..., Tokenizer]]:
    """The vocabularies in a folder and how each is read, best first."""
    there = sorted(name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))) if os.path.isdir(folder) else []
    found: dict[tuple[str, ...], Callable[..., Tokenizer]] = {}
    for names, read in _KINDS:
        if names == ('*.model',):
            models = [name for name in there if name.endswith('.model')]
            names = tuple(models) if len(models) == 1 else ('tokenizer.model',)
        if set(names) <= set(there):
            found.setdefault(names, read)
    return found


def _load_file(path: str) -> Tokenizer:
    folder, name = os.path.split(path)
    config = tokenizer_files.read_config(folder)
    if name.endswith('.model'):
        return sentence_piece.read(path, config)
    for pair in (('encoder.json', 'vocab.bpe'), ('vocab.json', 'merges.txt')):  # prefixes are kept: 'gpt2_encoder.json', 'gpt2_vocab.bpe'
        for mine in pair:
            if name.endswith(mine):
                files = [os.path.join(folder, name.removesuffix(mine) + other) for other in pair]
                absent = next((file for file in files if not os.path.isfile(file)), None)
                if absent:
                    raise UserError(f'{path}: its other half is missing, {absent}')
                return byte_pairs.read(*files, config)
    return _from_json(path, config) if name.endswith('.json') else wordpieces.read(path, config)


def _from_json(path: str, config: dict) -> Tokenizer:
    try:
        backend = library.Tokenizer.from_str(tokenizer_files.read_text(path))
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f'{path}: not a tokenizer ({error})') from error
    if not backend.get_vocab_size():
        raise UserError(f'{path}: the vocabulary is empty')
    state = json.loads(backend.to_str())['normalizer'] or {}
    if state.get('type') == 'BertNormalizer':
        said = {'lowercase': config.get('do_lower_case'), 'strip_accents': config.get('strip_accents')}
        said['handle_chinese_chars'] = config.get('tokenize_chinese_chars')
        options = {key: state[key] for key in ('clean_text', 'handle_chinese_chars', 'strip_accents', 'lowercase')}
        backend.normalizer = library.normalizers.BertNormalizer(
            **options | {key: value for key, value in said.items() if value is not None}
        )
    return Tokenizer(backend, tokenizer_files.special_names(config))
