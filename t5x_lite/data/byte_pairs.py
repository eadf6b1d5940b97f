"""Byte-pair encodings kept as a vocabulary and a list of merges: byte-level (GPT-2, RoBERTa) and GPT-1's over lower-cased words.

Byte-level BPE (Radford et al., 2019, section 2.2) cuts text before each word, number, run of punctuation and run of white space, spells each
part in 256 printable characters that stand for bytes ('Ġ' is a space), and joins them by the merges, the earliest learnt first. Nothing is
unknown, and decoding gives the text back, byte for byte.

GPT-1 (Radford et al., 2018) cleaned text with ftfy and cut it with spaCy. What runs here is what transformers runs: BERT's cleaning and
cutting in lower case, then BPE in which '</w>' marks the end of a word. On plain text both agree; where ftfy mends broken encodings, or
spaCy keeps '...' or an abbreviation in one piece, they do not.
"""

import json
import os
from collections.abc import Iterable

import tokenizers as library

from t5x_lite.data.tokenizer import END_OF_TEXT, Tokenizer
from t5x_lite.data.tokenizer_files import add_tokens, read_json, read_text, special_names
from t5x_lite.errors import UserError

_WORD_END = '</w>'
_ROBERTA = ('<s>', '<pad>', '</s>', '<unk>', '<mask>')


def byte_bpe(
    vocab: dict[str, int], merges: list[tuple[str, str]], add_prefix_space: bool = False, names: dict[str, str] | None = None
) -> Tokenizer:
    """The tokenizer of GPT-2 over these pieces. Special tokens are <|endoftext|>, RoBERTa's and `names`, where the vocabulary has them."""
    roberta = _ROBERTA if set(_ROBERTA[:4]) <= vocab.keys() else ()
    backend = library.Tokenizer(
        library.models.BPE(vocab, merges, dropout=None, continuing_subword_prefix='', end_of_word_suffix='', fuse_unk=False)
    )
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = library.decoders.ByteLevel()
    special = [name for name in dict.fromkeys([*(names or {}).values(), END_OF_TEXT, *roberta]) if name in vocab]
    # RoBERTa's <mask> takes the space before it.
    backend.add_special_tokens([library.AddedToken(name, lstrip=name == '<mask>', normalized=False, special=True) for name in special])
    if roberta:
        pair = ('</s>', vocab['</s>']), ('<s>', vocab['<s>'])
        backend.post_processor = library.processors.RobertaProcessing(*pair, add_prefix_space=add_prefix_space)
    return Tokenizer(backend, names)


def train_byte_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learns a byte-level BPE of at most `vocab_size` pieces (fewer where no pair repeats any more): 256 bytes, merges, <|endoftext|> last.

    Ids stand as in GPT-2: bytes first, in the order of their characters, then merges in the order in which they were learnt. The same texts
    give the same vocabulary in any process and with any number of threads: the alphabet is complete and numbered before anything is counted,
    and ties between merges go to the lower pair of numbers.

    Raises:
      UserError: no text, or `vocab_size` does not hold the bytes.
    """
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    if vocab_size <= len(alphabet):
        raise UserError(f'--vocab_size={vocab_size} is too small: 256 bytes and {END_OF_TEXT} need {len(alphabet) + 1} pieces; give more')
    backend = library.Tokenizer(library.models.BPE())
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    seen = False

    def passed_on():
        nonlocal seen
        for text in texts:
            seen = seen or bool(text.strip())
            yield text

    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size - 1, min_frequency=2, show_progress=False, special_tokens=[], initial_alphabet=alphabet
    )
    backend.train_from_iterator(passed_on(), trainer)
    if not seen:
        raise UserError('no text to train a tokenizer on')
    vocab, merges = _pairs(backend)
    return byte_bpe(vocab | {END_OF_TEXT: len(vocab)}, merges)


def read(vocab_path: str, merges_path: str, config: dict) -> Tokenizer:
    """vocab.json and merges.txt of Hugging Face, or OpenAI's encoder.json and vocab.bpe, which are the same under other names.

    Raises:
      UserError: a file is broken, the two do not fit together, or they belong to neither kind of this module.
    """
    vocab, merges = read_json(vocab_path), []
    wrong = next((piece for piece, index in vocab.items() if type(index) is not int or index < 0), None)
    if wrong is not None or not vocab:
        raise UserError(f'{vocab_path}: not a vocabulary' + (f', {wrong!r} has id {vocab[wrong]!r}' if vocab else ', it is empty'))
    for number, line in enumerate(read_text(merges_path).split('\n'), 1):
        if not line or (number == 1 and line.startswith('#version')):
            continue
        pair = tuple(line.split(' '))
        if len(pair) != 2:
            raise UserError(f'{merges_path}:{number}: {line!r:.60} is not a merge of two pieces')
        absent = next((piece for piece in (*pair, ''.join(pair)) if piece not in vocab), None)
        if absent is not None:
            raise UserError(
                f'{merges_path}:{number}: {absent!r} is not in {os.path.basename(vocab_path)}; the two files belong to different vocabularies'
            )
        merges.append(pair)
    names, folder = special_names(config), os.path.dirname(vocab_path)
    missing = sum(letter not in vocab for letter in library.pre_tokenizers.ByteLevel.alphabet())
    if any(piece.endswith(_WORD_END) for piece in vocab) and (names.get('unk') or '<unk>') in vocab:
        tokenizer = _gpt1(vocab, merges, names)
    elif not missing:
        tokenizer = byte_bpe(vocab, merges, bool(config.get('add_prefix_space')), names)
    else:
        raise UserError(
            f'{vocab_path}: neither byte-level BPE ({missing} of the 256 bytes are missing) nor GPT-1\'s (pieces ending in {_WORD_END} and <unk>); '
            'save this tokenizer as tokenizer.json with transformers'
        )
    return Tokenizer(tokenizer._backend, names) if add_tokens(tokenizer._backend, config, folder) else tokenizer


def _gpt1(vocab: dict[str, int], merges: list[tuple[str, str]], names: dict[str, str]) -> Tokenizer:
    unknown = names.get('unk') or '<unk>'
    backend = library.Tokenizer(
        library.models.BPE(
            vocab, merges, dropout=None, unk_token=unknown, continuing_subword_prefix='', end_of_word_suffix=_WORD_END, fuse_unk=False
        )
    )
    backend.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    backend.decoder = library.decoders.BPEDecoder(suffix=_WORD_END)
    backend.add_special_tokens([name for name in dict.fromkeys([unknown, *names.values()]) if name in vocab])
    return Tokenizer(backend, names | {'unk': unknown})


def _pairs(backend: library.Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) of a BPE model."""
    model = json.loads(backend.to_str())['model']
    return model['vocab'], [tuple(pair) for pair in model['merges']]
