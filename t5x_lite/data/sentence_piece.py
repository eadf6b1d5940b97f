"""SentencePiece (Kudo & Richardson, 2018) as T5 has it: a unigram model (Kudo, 2018), and sentinels <extra_id_0>, <extra_id_1>, ... behind it.

Ids are those of the sentencepiece library itself. The copy of a T5 vocabulary in a tokenizer.json gives the same on ordinary text, but its
normaliser treats a letter and its combining marks as one, and drops marks that it should keep: so where a folder has both, the model counts.

Sentinels are numbered downwards from vocab_size - 1 (Raffel et al., 2020): with T5's 32,000 pieces and 100 of them <extra_id_0> is 32099.
"""

import functools
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece
import tokenizers as library

from t5x_lite.data import protobuf
from t5x_lite.data.tokenizer import SENTINEL, Tokenizer
from t5x_lite.data.tokenizer_files import special_names, write_json, write_text
from t5x_lite.errors import UserError

EXTRA_IDS = 100
MODES = ('[NLU]', '[NLG]', '[S2S]')  # of UL2's denoisers (Tay et al., 2022)
MODEL = 'spiece.model'
_CLASSES = ('T5Tokenizer', 'MT5Tokenizer')  # whose ids are SentencePiece's own; others shift them or clean the text before
_COVERAGE = 0.99999  # of the characters of the training text (mT5: Xue et al., 2021); the others are unknown
_THREADS = 8  # sums of floats over threads: their number decides the last digits, and with them pieces
# Numbers of sentencepiece_model.proto: fields of the model; of a piece; of its trainer; of its normaliser; types of pieces and of models.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _TYPE = 1, 3
_MODEL_TYPE, _CHARSMAP = 3, 2
_CONTROL, _USER, _UNIGRAM = 3, 4, 1


class SentencePiece(Tokenizer):
    """A tokenizer that runs a SentencePiece model. Attributes and methods as `Tokenizer`.

    Special tokens in a text stand for themselves, as in transformers, and what is between them is tokenised on its own:
    'a <extra_id_0> b' is ['▁a', '<extra_id_0>', '▁b'].
    """

    def __init__(self, model: bytes, extra_ids: int, names: dict[str, str] | None = None, literal: bool = False):
        """
        Args:
          model: the file's contents.
          extra_ids: sentinels to put behind its pieces; none are where the model has its own (mT5).
          names: spellings of cls, sep and mask, which SentencePiece does not know.
          literal: special tokens in a text are text.

        Raises:
          ValueError: not a model.
        """
        self._model, self._literal, self._given_names = model, literal, names or {}
        self._processor = sentencepiece.SentencePieceProcessor()
        # Modes are ours to find, not the library's: it would put a '▁' before one that begins a text, and find it in raw text.
        self._processor.LoadFromSerializedProto(_with_types(model, dict.fromkeys(MODES, _CONTROL)))
        processor, types = self._processor, _types(model)
        pieces = [processor.IdToPiece(index) for index in range(processor.GetPieceSize())]
        self.extra_ids = 0 if any(map(SENTINEL.fullmatch, pieces)) else extra_ids
        roles = {'pad': processor.pad_id(), 'unk': processor.unk_id(), 'eos': processor.eos_id(), 'bos': processor.bos_id()}
        roles = {role: index for role, index in roles.items() if index >= 0}
        roles |= {role: pieces.index(name) for role, name in self._given_names.items() if role not in roles and name in pieces}
        special = {index for index, (piece, kind) in enumerate(zip(pieces, types, strict=True)) if kind == _CONTROL or piece in MODES}
        pieces += [f'<extra_id_{number}>' for number in reversed(range(self.extra_ids))]
        self._set_vocabulary(pieces, roles, frozenset(special))
        self._ids = {piece: index for index, piece in reversed(list(enumerate(pieces)))}
        self._spelt = {pieces[index]: index for index in self.special_ids} | {pieces[index].removeprefix('▁'): index for index in self.sentinel_ids}
        choices = '|'.join(map(re.escape, sorted(self._spelt, key=len, reverse=True)))
        self._special = re.compile(choices) if choices and not literal else None
        starts = [index in self.special_ids or piece.startswith('▁') for index, piece in enumerate(pieces)]
        self.is_continuation = ~np.array(starts)

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(b'%d %s' % (self.extra_ids, self._model)).hexdigest()

    @functools.cached_property
    def keeps_whitespace(self) -> bool:
        probe = (' a\n\n b', '  c\tA \n')
        return self.decode([index for text in probe for index in self.encode(text)]) == ''.join(probe)

    def encode(self, text: str) -> list[int]:
        if self._special is None:
            return self._processor.Encode(_utf8(text), out_type=int)
        ids = []
        for start, stop, special in self._sections(text):
            ids += [special] if special is not None else self._processor.Encode(_utf8(text[start:stop]), out_type=int)
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids, offsets = [], []
        for start, stop, special in self._sections(text):
            if special is not None:
                ids.append(special)
                offsets.append((start, stop))
                continue
            data = _utf8(text[start:stop])
            # Which character each byte belongs to.
            characters = start + np.cumsum((np.frombuffer(data + b'a', np.uint8) & 0xC0) != 0x80) - 1
            found = self._processor.Encode(data, out_type='serialized_proto')
            for number, value, _ in protobuf.fields(found):
                if number == 2:  # a piece: id 2, begin 4, end 5
                    piece = {2: 0, 4: 0, 5: 0} | {key: inner for key, inner, _ in protobuf.fields(value)}
                    ids.append(piece[2])
                    offsets.append((int(characters[piece[4]]), int(characters[piece[5]])))
        return ids, offsets

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text. Unknown pieces are ' ⁇ ', as in SentencePiece; special tokens are spelt or left out. Other ids as in `Tokenizer`."""
        parts, run = [], []

        def end_run():
            if run:
                text = self._processor.Decode(run)
                # The library takes the first '▁' of a text for the one that it put there itself.
                inside = parts and self._pieces[run[0]].startswith('▁') and not text.startswith(' ')
                parts.append(' ' * bool(inside) + text)
                run.clear()

        for index in self._checked(ids):
            if index >= self.vocab_size:
                continue
            if index not in self.special_ids or (index == self.unk_id and skip_special):
                run.append(index)
                continue
            end_run()
            if not skip_special:
                parts.append(self._pieces[index].removeprefix('▁'))
        end_run()
        return ''.join(parts)

    def id(self, token: str) -> int:
        return self._ids[token]

    def literal(self) -> 'SentencePiece':
        return SentencePiece(self._model, self.extra_ids, self._given_names, literal=True)

    def save(self, path: str) -> None:
        """Writes spiece.model, tokenizer_config.json for transformers' T5Tokenizer, and, of a unigram model, a tokenizer.json for other software."""
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, MODEL), 'wb') as file:
            file.write(self._model)
        names = {f'{role}_token': name for role, name in self._names.items() if name}
        config = {'tokenizer_class': _CLASSES[0], 'extra_ids': self.extra_ids, **names}
        modes = [mode for mode in MODES if mode in self._ids]
        if modes:
            sentinels = [self._pieces[index] for index in self.sentinel_ids]
            config['additional_special_tokens'] = sentinels + modes
        write_json(os.path.join(path, 'tokenizer_config.json'), config)
        if (backend := self._unigram()) is not None:
            write_text(os.path.join(path, 'tokenizer.json'), backend.to_str(pretty=True) + '\n')

    def _unigram(self) -> library.Tokenizer | None:
        """The `tokenizers` library's version of the model, put together as transformers does; None where that has no such kind."""
        specs = {number: {key: value for key, value, _ in protobuf.fields(part)} for number, part, _ in protobuf.fields(self._model)}
        if specs[_TRAINER].get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM or self.unk_id is None:
            return None
        own = self._processor.GetPieceSize()
        scores = [(piece, self._processor.GetScore(index) if index < own else 0.0) for index, piece in enumerate(self._pieces)]
        byte_fallback = any(map(self._processor.IsByte, range(own)))
        backend = library.Tokenizer(library.models.Unigram(scores, self.unk_id, byte_fallback))
        if charsmap := specs[_NORMALIZER].get(_CHARSMAP):
            backend.normalizer = library.normalizers.Precompiled(charsmap)
        metaspace = {'replacement': '▁', 'prepend_scheme': 'always', 'split': True}
        cutters = [library.pre_tokenizers.WhitespaceSplit(), library.pre_tokenizers.Metaspace(**metaspace)]
        backend.pre_tokenizer = library.pre_tokenizers.Sequence(cutters)
        decoders = [library.decoders.ByteFallback()] if byte_fallback else []
        backend.decoder = library.decoders.Sequence([*decoders, library.decoders.Metaspace(**metaspace)])
        special = [self._pieces[index] for index in sorted(self.special_ids)]
        backend.add_special_tokens([library.AddedToken(piece, normalized=False, special=True) for piece in special])
        if self.eos_id is not None:
            eos = self._pieces[self.eos_id]
            backend.post_processor = library.processors.TemplateProcessing(
                single=['$A', eos], pair=['$A', eos, '$B', eos], special_tokens=[(eos, self.eos_id)]
            )
        return backend

    @property
    def _words_stand_alone(self) -> bool:
        return False

    def _sections(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """(start, stop, id) of what lies in the text: id None where it is to be tokenised."""
        end = 0
        for match in self._special.finditer(text) if self._special else ():
            if match.start() > end:
                yield end, match.start(), None
            yield *match.span(), self._spelt[match.group()]
            end = match.end()
        if end < len(text):
            yield end, len(text), None


def train_sentence_piece(texts: Iterable[str], vocab_size: int) -> SentencePiece:
    """Learns a unigram model with the settings of T5 (Raffel et al., 2020, section 2.2.1): pad 0, eos 1, unk 2, no bos, NFKC, white space collapsed.

    Of `vocab_size` ids 100 are sentinels, and UL2's three mode tokens follow unk; there are fewer where the text holds fewer pieces. As with T5
    there is no fallback to bytes: characters that make up less than a hundred thousandth of the text are unknown. The same texts give the same
    model, in any process and on any machine: the number of threads is fixed.

    Raises:
      UserError: no text, or `vocab_size` does not hold its characters.
    """
    size = vocab_size - EXTRA_IDS
    smallest = EXTRA_IDS + len(MODES) + 3
    if size <= len(MODES) + 3:
        raise UserError(f'--vocab_size={vocab_size} is too small: sentinels, modes and special tokens need {smallest} ids before any text; give more')
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text for text in texts if text.strip()), model_writer=model, model_type='unigram', vocab_size=size,
            hard_vocab_limit=False, character_coverage=_COVERAGE, normalization_rule_name='nmt_nfkc', user_defined_symbols=list(MODES),
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, max_sentence_length=1 << 30, num_threads=_THREADS, minloglevel=2,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        if found := re.search(r'required_chars\. \d+ vs (\d+)', str(error)):
            raise UserError(
                f'--vocab_size={vocab_size} is too small: the characters of the text, {EXTRA_IDS} sentinels and {len(MODES) + 3} special tokens '
                f'need {int(found[1]) + EXTRA_IDS} ids before any word; give more'
            ) from error
        if 'sentences_.empty()' in str(error) or 'Input corpus is empty' in str(error):
            raise UserError('no text to train a tokenizer on') from error
        raise UserError(f'SentencePiece cannot be trained on this text ({str(error).strip()}); give more of it') from error
    return SentencePiece(model.getvalue(), EXTRA_IDS)


def reads(config: dict) -> bool:
    """Whether a model file beside this tokenizer_config.json tells all of the tokenizer; false where other software cleans the text or shifts ids."""
    return (config.get('tokenizer_class') or _CLASSES[0]).removesuffix('Fast') in _CLASSES


def read(path: str, config: dict) -> SentencePiece:
    """A SentencePiece model, with extra_ids sentinels of tokenizer_config.json; where it is silent 100, as T5, unless the model has a bos.

    Raises:
      UserError: not a model, or one that needs more than SentencePiece.
    """
    if not reads(config):
        raise UserError(
            f'{path}: {config["tokenizer_class"]} does more to a text than this model says; save it as tokenizer.json with transformers'
        )
    extra = config.get('extra_ids')
    if extra is not None and (type(extra) is not int or extra < 0):
        raise UserError(f'{os.path.join(os.path.dirname(path), "tokenizer_config.json")}: extra_ids is {extra!r}; expected a number from 0')
    with open(path, 'rb') as file:
        model = file.read()
    try:
        tokenizer = SentencePiece(model, 0, special_names(config))
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f'{path}: not a SentencePiece model ({str(error).strip() or "empty"})') from error
    if extra is None:
        extra = EXTRA_IDS if tokenizer.bos_id is None else 0
    return SentencePiece(model, extra, special_names(config))


def _types(model: bytes) -> list[int]:
    """Of each piece; 1, normal, is not written down."""
    return [{key: value for key, value, _ in protobuf.fields(piece)}.get(_TYPE, 1) for piece in _piece_messages(model)]


def _piece_messages(model: bytes) -> Iterator[bytes]:
    for number, value, _ in protobuf.fields(model):
        if number == _PIECES:
            yield value


def _with_types(model: bytes, types: dict[str, int]) -> bytes:
    """The model with other types of user-defined pieces."""
    wanted, out = {piece.encode(): kind for piece, kind in types.items()}, []
    for number, value, raw in protobuf.fields(model):
        if number == _PIECES:
            inner = list(protobuf.fields(value))
            if any(key == _PIECE and text in wanted for key, text, _ in inner) and any(key == _TYPE and kind == _USER for key, kind, _ in inner):
                kind = next(wanted[text] for key, text, _ in inner if key == _PIECE)
                rest = b''.join(part for key, _, part in inner if key != _TYPE)
                raw = protobuf.field(number, rest + protobuf.field(_TYPE, kind))
        out.append(raw)
    return b''.join(out)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f'text that is not Unicode cannot be tokenised: {text!r:.80}') from error
