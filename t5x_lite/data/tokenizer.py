"""What a tokenizer is: text to ids and back, the ids of its special tokens, and how it is saved.

The class here runs any tokenizer of the `tokenizers` library (WordPiece, byte-level BPE, GPT-1's BPE, characters, and whatever a
tokenizer.json holds); `t5x_lite.data.sentence_piece` has the one that runs SentencePiece's own library. How each kind is made, read and
trained stands in the module of its name, and `t5x_lite.data.tokenizers` chooses between them.
"""

import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tokenizers as library

from t5x_lite.data.tokenizer_files import ROLES, write_json, write_text
from t5x_lite.errors import UserError

SPECIAL_TOKENS = {'pad': '[PAD]', 'unk': '[UNK]', 'cls': '[CLS]', 'sep': '[SEP]', 'mask': '[MASK]'}  # BERT's
END_OF_TEXT = '<|endoftext|>'  # GPT-2's only special token
_OTHER_SPELLINGS = {
    'pad': ('<pad>',), 'unk': ('<unk>', END_OF_TEXT), 'cls': ('<s>',), 'sep': ('</s>',), 'mask': ('<mask>',),
    'eos': (END_OF_TEXT, '</s>'), 'bos': (END_OF_TEXT, '<s>'),
}  # fmt: skip
SENTINEL = re.compile(r'▁?<extra_id_(\d+)>')  # T5's; the mark is there where seqio put them into the model itself
_CACHED_WORDS = 1 << 16
_PADDED = 1024  # rows that a table may have beyond the vocabulary, so that meshes divide it
_WORDS = re.compile(r'[^ \n!-/:-@\[-`{-~]+|[\n!-/:-@\[-`{-~]')  # BERT cuts at spaces and around each ASCII punctuation mark
_BYTE_SPACES = ('Ġ', 'Ċ', 'ĉ', 'č')  # space, newline, tab and carriage return in the alphabet of byte-level BPE


class Tokenizer:
    """A trained tokenizer. Ids never include special tokens unless the text spells them ('Paris is [MASK].').

    Attributes:
      vocab_size: one more than the highest id.
      pad_id, unk_id, cls_id, sep_id, mask_id, eos_id, bos_id: int, or None where the vocabulary lacks the token. With GPT-2's, eos, bos and
        unk are all <|endoftext|>.
      special_ids: frozenset of the ids of all special tokens.
      sentinel_ids: tuple of the ids of <extra_id_0>, <extra_id_1>, ... in this order, as T5's span corruption uses them; () without any.
      is_continuation: bool[vocab_size], true where a piece continues a word ('##ing'; in byte-level BPE a piece without leading white space,
        in SentencePiece one without '▁'): whole-word masking groups by it. False throughout for GPT-1's, which marks the ends of words.
      keeps_whitespace: decode(encode(a) + encode(b)) == a + b, white space included: a text may be cut anywhere, and `prepare` must not touch
        its spaces and newlines.
    """

    def __init__(self, backend: library.Tokenizer, names: dict[str, str] | None = None):
        """`names` spells the special tokens: {'pad': '[PAD]', ...}; roles left out are looked for under their usual names."""
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        vocab = backend.get_vocab(with_added_tokens=True)
        pieces = [''] * (max(vocab.values()) + 1)
        for piece, index in vocab.items():
            pieces[index] = piece
        added = {index for index, token in backend.get_added_tokens_decoder().items() if token.special}
        found = {role: _spelling(role, names or {}, vocab) for role in ROLES}
        self._set_vocabulary(pieces, {role: vocab[name] for role, name in found.items() if name}, frozenset(added))
        self.is_continuation = self._continuations(json.loads(backend.to_str()))

    def _set_vocabulary(self, pieces: list[str], roles: dict[str, int], special: frozenset[int]) -> None:
        """`pieces` by id, '' where there is none; ids of the roles; ids that are special besides those."""
        self._pieces, self.vocab_size = pieces, len(pieces)
        self._names = {role: pieces[roles[role]] if role in roles else None for role in ROLES}
        ids = [roles.get(role) for role in ROLES]
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id, self.eos_id, self.bos_id = ids
        sentinels = {int(match[1]): index for index, piece in enumerate(pieces) if (match := SENTINEL.fullmatch(piece))}
        self.sentinel_ids = tuple(sentinels[number] for number in sorted(sentinels))
        self.special_ids = special | frozenset(roles.values()) | frozenset(self.sentinel_ids)
        self._cache: dict[str, tuple[int, ...]] = {}

    @property
    def end_id(self) -> int | None:
        """What ends a text: eos, else sep (BERT)."""
        return self.sep_id if self.eos_id is None else self.eos_id

    @property
    def start_id(self) -> int | None:
        """What a decoder begins with: bos, else cls (BERT), else pad (T5)."""
        return next((index for index in (self.bos_id, self.cls_id, self.pad_id) if index is not None), None)

    @property
    def blank_id(self) -> int | None:
        """What stands where a token is hidden: mask, else the first sentinel."""
        return next(iter(self.sentinel_ids), None) if self.mask_id is None else self.mask_id

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the ids of a text; equal for equal tokenizers, whichever release of the library saved them."""
        state = json.loads(self._backend.to_str())
        added = [[token['id'], token['content'], token['special']] for token in state['added_tokens']]
        model = {key: value for key, value in state['model'].items() if key != 'vocab'}
        if model['type'] == 'BPE':  # some files write '' for what others leave out
            model = {key: value or None for key, value in model.items()}
        parts = [self._pieces, added, model, state['normalizer'], state['pre_tokenizer']]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def keeps_whitespace(self) -> bool:
        probe = (' a\n\n b', '  c\tA \n')
        if isinstance(self._backend.model, library.models.BPE) and not self._backend.normalizer and not self._backend.pre_tokenizer:
            return True  # characters, of which the probe's need not be pieces
        return self.decode([index for text in probe for index in self.encode(text)]) == ''.join(probe)

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
        """The text. Ids just beyond the vocabulary, which only pad the table of a model, are left out.

        Raises:
          UserError: an id below 0, or so high that no padding explains it (1,024 more than there are, or twice as many).
        """
        return self._backend.decode(self._checked(ids), skip_special_tokens=skip_special)

    def _checked(self, ids: Sequence[int]) -> list[int]:
        found = [int(index) for index in ids]
        most = self.vocab_size + max(_PADDED, self.vocab_size)
        wrong = next((index for index in found if not 0 <= index < most), None)
        if wrong is not None:
            raise UserError(f'id {wrong} is no token: the vocabulary has {self.vocab_size:,}, numbered from 0; decode with the tokenizer that encoded')
        return found

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
        """Writes a folder that transformers reads: tokenizer.json, tokenizer_config.json, and the kind's older vocabulary files beside them
        (WordPiece: vocab.txt; byte-level BPE and GPT-1: vocab.json and merges.txt)."""
        os.makedirs(path, exist_ok=True)
        backend = library.Tokenizer.from_str(self._backend.to_str())
        config = {f'{role}_token': name for role, name in self._names.items() if name}
        state = json.loads(backend.to_str())
        if isinstance(backend.model, library.models.WordPiece):
            normalizer = state['normalizer'] or {}
            config = {
                'tokenizer_class': 'BertTokenizer',
                'do_lower_case': normalizer.get('lowercase', False),
                'strip_accents': normalizer.get('strip_accents'),
                'tokenize_chinese_chars': normalizer.get('handle_chinese_chars', False),
                **config,
            }
            lines = [piece or f'[unused-{index}]' for index, piece in enumerate(self._pieces)]
            write_text(os.path.join(path, 'vocab.txt'), ''.join(line + '\n' for line in lines))
        elif pre := _pairs_class(state):
            config = {**pre, **config}
            write_text(os.path.join(path, 'vocab.json'), json.dumps(state['model']['vocab'], ensure_ascii=False) + '\n')
            merges = ''.join(f'{" ".join(pair)}\n' for pair in state['model']['merges'])
            write_text(os.path.join(path, 'merges.txt'), '#version: 0.2\n' + merges)
        elif isinstance(backend.model, library.models.BPE):
            config = {'tokenizer_class': 'PreTrainedTokenizerFast', 'clean_up_tokenization_spaces': False, **config}
        write_text(os.path.join(path, 'tokenizer.json'), backend.to_str(pretty=True) + '\n')
        write_json(os.path.join(path, 'tokenizer_config.json'), config)

    def _run(self, encode: Callable, text):
        try:
            return encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError) as error:  # what the library raises for half a surrogate pair
            raise UserError(f'text that is not Unicode cannot be tokenised: {text!r:.80}') from error

    def _continuations(self, state: dict) -> np.ndarray:
        kind = state['model']['type']
        if prefix := getattr(self._backend.model, 'continuing_subword_prefix', None):
            return np.array([piece.startswith(prefix) for piece in self._pieces])
        if kind == 'Unigram':
            starts = ('▁',)
        elif kind == 'BPE' and not getattr(self._backend.model, 'end_of_word_suffix', None):
            starts = (*_BYTE_SPACES, *' \n\t\r')
        else:
            return np.zeros(self.vocab_size, bool)
        ordinary = [bool(piece) and index not in self.special_ids for index, piece in enumerate(self._pieces)]
        return np.array([real and not piece.startswith(starts) for real, piece in zip(ordinary, self._pieces, strict=True)])

    @functools.cached_property
    def _words_stand_alone(self) -> bool:
        state = json.loads(self._backend.to_str())
        bert = (state['normalizer'] or {}).get('type') == 'BertNormalizer' and (state['pre_tokenizer'] or {}).get(
            'type'
        ) == 'BertPreTokenizer'
        spells_specials = bool(state['added_tokens']) and not self._backend.encode_special_tokens
        return bert and not spells_specials and all(token['special'] for token in state['added_tokens'])


def _spelling(role: str, names: dict[str, str], vocab: dict[str, int]) -> str | None:
    """The token of a role: as `names` says, else the first of its usual spellings that the vocabulary has."""
    spellings = (*((SPECIAL_TOKENS[role],) if role in SPECIAL_TOKENS else ()), *_OTHER_SPELLINGS[role])
    if role in ('cls', 'sep') and not ('<s>' in vocab and '</s>' in vocab):  # T5 has only the second, and it is no separator
        spellings = spellings[:1]
    return next((name for name in (names.get(role), *spellings) if name in vocab), None)


def _pairs_class(state: dict) -> dict | None:
    """The class in transformers of a tokenizer whose vocabulary can also be written as vocab.json and merges.txt; None for others."""
    model, pre = state['model'], state['pre_tokenizer'] or {}
    if model['type'] != 'BPE' or not model['merges']:
        return None
    if model['end_of_word_suffix'] == '</w>' and pre.get('type') == 'BertPreTokenizer':
        return {'tokenizer_class': 'OpenAIGPTTokenizer'}
    if pre.get('type') == 'ByteLevel':
        roberta = '<s>' in model['vocab'] and END_OF_TEXT not in model['vocab']
        name = 'RobertaTokenizer' if roberta else 'GPT2Tokenizer'
        return {'tokenizer_class': name, 'add_prefix_space': pre['add_prefix_space']}
    return None
