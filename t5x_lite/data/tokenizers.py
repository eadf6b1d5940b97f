"""Tokenizers: text to ids and back, their folders, and training one.

A tokenizer folder has Hugging Face's layout, so that `transformers` reads ours and we read theirs. What a folder holds decides how it is
read (`_READERS`); what --tokenizer names decides how one is trained (`TRAINERS`). A new kind is one entry in each.

WordPiece and its text cleaning are those of Devlin et al., 2018 (https://arxiv.org/abs/1810.04805) as the `tokenizers` library implements
them: control characters vanish, CJK characters and punctuation stand alone, lower case drops accents, words are cut greedily by the longest
piece.
"""

import collections
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tokenizers as library

from t5x_lite.config import UserError, nearest

SPECIAL_TOKENS = {'pad': '[PAD]', 'unk': '[UNK]', 'cls': '[CLS]', 'sep': '[SEP]', 'mask': '[MASK]'}
_OTHER_SPELLINGS = {'pad': ('<pad>',), 'unk': ('<unk>',), 'cls': ('<s>',), 'sep': ('</s>',), 'mask': ('<mask>',)}
_SENTINEL = re.compile(r'<extra_id_(\d+)>')
_CACHED_WORDS = 1 << 16
_WORDS = re.compile(r'[^ \n!-/:-@\[-`{-~]+|[\n!-/:-@\[-`{-~]')  # BERT cuts at spaces and around each ASCII punctuation mark


class Tokenizer:
    """A trained tokenizer. Ids never include special tokens unless the text spells them ('Paris is [MASK].').

    Attributes:
      vocab_size: one more than the highest id.
      pad_id, unk_id, cls_id, sep_id, mask_id: int, or None where the vocabulary lacks the token.
      eos_id, bos_id: those that end and begin texts, or None.
      end_id: ends a text: eos, or sep. start_id: begins what a decoder reads: bos, or cls, or pad.
      sentinel_ids: tuple of the ids of <extra_id_0>, <extra_id_1>, ... (T5), in that order.
      special_ids: frozenset of the ids of all special tokens.
      is_continuation: bool[vocab_size], true where a piece continues a word ('##ing'): whole-word masking groups by it.
    """

    def __init__(self, backend: library.Tokenizer, names: dict[str, str] | None = None):
        """`names` spells the special tokens: {'pad': '[PAD]', ...}; roles left out are looked for under their usual names."""
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        vocab = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values()) + 1
        self._pieces = [''] * self.vocab_size
        for piece, index in vocab.items():
            self._pieces[index] = piece
        self._names = {}
        for role, usual in SPECIAL_TOKENS.items():
            spellings = ((names or {}).get(role), usual, *_OTHER_SPELLINGS[role])
            self._names[role] = next((name for name in spellings if name in vocab), None)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (vocab.get(self._names[role]) for role in SPECIAL_TOKENS)
        added = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
        self.special_ids = frozenset(added | {vocab[name] for name in self._names.values() if name})
        self.eos_id = next((vocab[name] for name in ('</s>', '[EOS]', '<|endoftext|>') if name in vocab), None)
        self.bos_id = next((vocab[name] for name in ('<s>', '[BOS]', '<|endoftext|>') if name in vocab), None)
        numbers = ((int(found[1]), vocab[found[0]]) for found in map(_SENTINEL.fullmatch, vocab) if found)
        self.sentinel_ids = tuple(index for _, index in sorted(numbers))
        self.end_id = self.sep_id if self.eos_id is None else self.eos_id
        self.start_id = next((index for index in (self.bos_id, self.cls_id, self.pad_id) if index is not None), None)
        prefix = getattr(backend.model, 'continuing_subword_prefix', None)
        self.is_continuation = np.array([bool(prefix) and piece.startswith(prefix) for piece in self._pieces])
        self._cache: dict[str, tuple[int, ...]] = {}

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the ids of a text; equal for equal tokenizers, whichever release of the library saved them."""
        state = json.loads(self._backend.to_str())
        added = [[token['id'], token['content'], token['special']] for token in state['added_tokens']]
        model = {key: value for key, value in state['model'].items() if key != 'vocab'}
        parts = [self._pieces, added, model, state['normalizer'], state['pre_tokenizer']]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self._run(self._backend.encode, text).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._run(self._backend.encode_batch_fast, list(texts))]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and for each the (start, stop) characters of `text` that it stands for."""
        encoding = self._run(self._backend.encode, text)
        return encoding.ids, encoding.offsets

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts in a row, int32[tokens], and how many each text has, int32[texts]. Ids as from `encode`; fast on much text.

        Where no piece can span a space or punctuation, words repeat so often that looking them up is several times faster than tokenising
        them again.
        """
        if not self._words_stand_alone:
            ids = self.encode_batch(texts)
            return np.fromiter(itertools.chain.from_iterable(ids), np.int32), np.fromiter(map(len, ids), np.int32, len(ids))
        words = _WORDS.findall('\n'.join(text.replace('\n', ' ') for text in texts))
        distinct = set(words)
        distinct.discard('\n')
        new = [word for word in distinct if word not in self._cache]
        known = dict(zip(new, map(tuple, self.encode_batch(new)), strict=True))
        if len(self._cache) + len(new) <= _CACHED_WORDS:
            self._cache.update(known)
            known = self._cache
        else:  # full: the words met first are mostly the frequent ones
            known.update((word, self._cache[word]) for word in distinct if word in self._cache)
        known['\n'] = (-1,)
        ids = np.fromiter(itertools.chain.from_iterable(map(known.__getitem__, words)), np.int32)
        ends = np.flatnonzero(ids < 0)
        starts = np.concatenate([[-1], ends])
        lengths = np.concatenate([ends, [len(ids)]]) - starts - 1
        return ids[ids >= 0], lengths.astype(np.int32)[: len(texts)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return self._backend.decode([int(index) for index in ids], skip_special_tokens=skip_special)

    def token(self, id: int) -> str:
        return self._pieces[id]

    def id(self, token: str) -> int:
        """Raises KeyError where the vocabulary lacks the token."""
        index = self._backend.token_to_id(token)
        if index is None:
            raise KeyError(token)
        return index

    def literal(self) -> 'Tokenizer':
        """A copy for which '[MASK]' in a text is four letters in brackets: raw text must not be able to forge special tokens."""
        backend = library.Tokenizer.from_str(self._backend.to_str())
        backend.encode_special_tokens = True
        return Tokenizer(backend, {role: name for role, name in self._names.items() if name})

    def save(self, path: str) -> None:
        """Writes tokenizer.json, tokenizer_config.json and, for WordPiece, vocab.txt into the folder `path`."""
        os.makedirs(path, exist_ok=True)
        backend = library.Tokenizer.from_str(self._backend.to_str())
        config = {f'{role}_token': name for role, name in self._names.items() if name}
        if isinstance(backend.model, library.models.WordPiece):
            normalizer = json.loads(backend.to_str())['normalizer'] or {}
            config = {
                'tokenizer_class': 'BertTokenizer',
                'do_lower_case': normalizer.get('lowercase', False),
                'strip_accents': normalizer.get('strip_accents'),
                'tokenize_chinese_chars': normalizer.get('handle_chinese_chars', False),
                **config,
            }
            lines = [piece or f'[unused-{index}]' for index, piece in enumerate(self._pieces)]
            _write(os.path.join(path, 'vocab.txt'), ''.join(line + '\n' for line in lines))
        _write(os.path.join(path, 'tokenizer.json'), backend.to_str(pretty=True) + '\n')
        _write(os.path.join(path, 'tokenizer_config.json'), json.dumps(config, indent=2) + '\n')

    def _run(self, encode: Callable, text):
        try:
            return encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError) as error:  # what the library raises for half a surrogate pair
            raise UserError(f'text that is not Unicode cannot be tokenised: {text!r:.80}') from error

    @functools.cached_property
    def _words_stand_alone(self) -> bool:
        state = json.loads(self._backend.to_str())
        bert = (state['normalizer'] or {}).get('type') == 'BertNormalizer' and (state['pre_tokenizer'] or {}).get(
            'type'
        ) == 'BertPreTokenizer'
        spells_specials = bool(state['added_tokens']) and not self._backend.encode_special_tokens
        return bert and not spells_specials and all(token['special'] for token in state['added_tokens'])


def load(path: str) -> Tokenizer:
    """Reads a tokenizer folder in Hugging Face's layout: tokenizer.json, or vocab.txt of a WordPiece vocabulary; or such a file itself.

    tokenizer_config.json beside it is honoured (do_lower_case, strip_accents, tokenize_chinese_chars, spellings of special tokens, added
    tokens). Where nothing says whether a vocab.txt is lower case, it is unless one of its pieces has a capital letter.

    Raises:
      UserError: the folder is absent, holds no tokenizer, or a file in it is broken.
    """
    path = os.fspath(path)
    if os.path.isfile(path):
        folder, name = os.path.split(path)
        kind = 'tokenizer.json' if name.endswith('.json') else 'vocab.txt'
        return _READERS[kind](path, _tokenizer_config(folder))
    if not os.path.isdir(path):
        raise UserError(f'{path}: no such tokenizer folder')
    for name, read in _READERS.items():
        if os.path.exists(os.path.join(path, name)):
            return read(os.path.join(path, name), _tokenizer_config(path))
    raise UserError(f'{path}: no tokenizer in this folder; expected {" or ".join(_READERS)}')


def wordpiece(
    vocab: dict[str, int], lowercase: bool, strip_accents: bool | None = None, chinese: bool = True, names: dict[str, str] | None = None
) -> Tokenizer:
    """BERT's tokenizer over the pieces `vocab` (piece to id). `strip_accents` None: as `lowercase`, as in the original code."""
    names = SPECIAL_TOKENS | (names or {})
    backend = library.Tokenizer(library.models.WordPiece(vocab, unk_token=names['unk'], max_input_chars_per_word=100))
    backend.normalizer = library.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    backend.decoder = library.decoders.WordPiece(prefix='##')
    backend.add_special_tokens([name for name in names.values() if name in vocab])
    if names['cls'] in vocab and names['sep'] in vocab:
        cls, sep = names['cls'], names['sep']
        backend.post_processor = library.processors.TemplateProcessing(
            single=f'{cls}:0 $A:0 {sep}:0', pair=f'{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1', special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])]
        )
    return Tokenizer(backend, names)


def train_wordpiece(texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> Tokenizer:
    """Learns a WordPiece vocabulary of at most `vocab_size` pieces (fewer where the text holds fewer) from `texts`, which is read twice.

    The same texts give the same vocabulary, in any process and with any number of threads. The library alone does not: it numbers
    continuing characters in the order of a randomly seeded hash map, and ties between merges follow the numbers. So the alphabet is counted
    and numbered here.

    The alphabet holds characters that make up a millionth of the text, at most 1,000 of them; words with others become [UNK]. Every
    character of it can start a word, and continue one unless it always stands alone (punctuation, CJK).

    Raises:
      UserError: no text, or `vocab_size` does not hold the alphabet.
    """
    if iter(texts) is texts:
        texts = list(texts)
    pieces = {name: index for index, name in enumerate(SPECIAL_TOKENS.values())}
    backend = wordpiece(dict(pieces), lowercase)._backend
    counts = collections.Counter()
    for block in _blocks(texts):
        counts.update(backend.normalizer.normalize_str(block))
    counts.pop(' ', None)
    if not counts:
        raise UserError('no text to train a tokenizer on')
    total = sum(counts.values())
    common = sorted((character for character, count in counts.items() if count * 1_000_000 >= total), key=lambda c: (-counts[c], c))
    alphabet = sorted(common[:1000])
    continuing = ['##' + c for c in alphabet if len(backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str('a' + c))) == 1]
    for piece in itertools.chain(alphabet, continuing):
        pieces[piece] = len(pieces)
    if len(pieces) > vocab_size:
        raise UserError(
            f'--vocab_size={vocab_size} is too small: the text has {len(alphabet)} different characters, which with the special tokens '
            f'need {len(pieces)} pieces before any word; give more'
        )
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS.values()) + continuing,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    backend.train_from_iterator(texts, trainer)
    learned = backend.get_vocab(with_added_tokens=True)
    for piece in sorted(learned, key=learned.__getitem__):
        pieces.setdefault(piece, len(pieces))
    return wordpiece(pieces, lowercase)


TRAINERS: dict[str, Callable[[Iterable[str], int, bool], Tokenizer]] = {'wordpiece': train_wordpiece}


def train(kind: str, texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """Trains a tokenizer of a kind in `TRAINERS`."""
    if kind not in TRAINERS:
        raise UserError(f'--tokenizer={kind}: no such kind or folder, {nearest(kind, TRAINERS)}')
    return TRAINERS[kind](texts, vocab_size, lowercase)


def _blocks(texts: Iterable[str], characters: int = 1 << 16):
    """Texts joined by newlines into blocks: the normaliser's cost is mostly per call."""
    block, size = [], 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size > characters:
            yield '\n'.join(block)
            block, size = [], 0
    yield '\n'.join(block)


def _from_json(path: str, config: dict) -> Tokenizer:
    try:
        backend = library.Tokenizer.from_str(_read(path))
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
    return Tokenizer(backend, _special_names(config))


def _from_vocab(path: str, config: dict) -> Tokenizer:
    lines = _read(path).split('\n')
    pieces = lines[:-1] if lines[-1] == '' else lines
    names = SPECIAL_TOKENS | _special_names(config)
    if names['unk'] not in pieces:
        raise UserError(f'{path}: not a WordPiece vocabulary, it has no {names["unk"]} among its {len(pieces)} lines')
    vocab = {piece: index for index, piece in enumerate(pieces)}  # of equal lines the last counts, as in the original
    lowercase = config.get('do_lower_case')
    if lowercase is None:
        words = (piece for piece in pieces if not (piece.startswith('[') and piece.endswith(']')))
        lowercase = not any(word != word.lower() for word in words)
    chinese = config.get('tokenize_chinese_chars')
    tokenizer = wordpiece(vocab, lowercase, config.get('strip_accents'), True if chinese is None else chinese, names)
    added = config.get('added_tokens_decoder') or {}
    for index, token in sorted(((int(index), token) for index, token in added.items()), key=lambda item: item[0]):
        options = {key: token[key] for key in ('single_word', 'lstrip', 'rstrip', 'normalized', 'special') if key in token}
        tokenizer._backend.add_tokens([library.AddedToken(token['content'], **options)])
        if tokenizer._backend.token_to_id(token['content']) != index:
            raise UserError(
                f'{os.path.join(os.path.dirname(path), "tokenizer_config.json")}: added token {token["content"]!r} cannot have id {index}'
            )
    return Tokenizer(tokenizer._backend, names) if added else tokenizer


_READERS = {'tokenizer.json': _from_json, 'vocab.txt': _from_vocab}


def _tokenizer_config(folder: str) -> dict:
    """tokenizer_config.json over special_tokens_map.json; {} where both are absent."""
    config = {}
    for name in ('special_tokens_map.json', 'tokenizer_config.json'):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            try:
                config.update(json.loads(_read(path)))
            except ValueError as error:
                raise error if isinstance(error, UserError) else UserError(f'{path}: not JSON ({error})') from error
    return config


def _special_names(config: dict) -> dict[str, str]:
    names = {}
    for role in SPECIAL_TOKENS:
        value = config.get(f'{role}_token')
        value = value.get('content') if isinstance(value, dict) else value
        if value:
            names[role] = value
    return names


def _read(path: str) -> str:
    try:
        with open(path, encoding='utf-8-sig') as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: not UTF-8 (byte {error.start})') from error


def _write(path: str, text: str) -> None:
    with open(path, 'w', encoding='utf-8', newline='\n') as file:
        file.write(text)
