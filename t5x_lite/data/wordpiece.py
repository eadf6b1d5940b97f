"""WordPiece: BERT's tokenizer, its vocab.txt, and training one.

WordPiece and its text cleaning are those of Devlin et al., 2018 (https://arxiv.org/abs/1810.04805) as the `tokenizers` library implements
them: control characters vanish, CJK characters and punctuation stand alone, lower case drops accents, words are cut greedily by the longest
piece.
"""

import collections
import itertools
import os
from collections.abc import Iterable

import tokenizers as library

from t5x_lite.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from t5x_lite.data.tokenizer_files import add_tokens, read_text, special_names
from t5x_lite.errors import UserError


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


def read(path: str, config: dict) -> Tokenizer:
    """A vocab.txt, a piece a line. tokenizer_config.json decides about case; where it does not, lower case unless a piece has a capital."""
    lines = read_text(path).split('\n')
    pieces = lines[:-1] if lines[-1] == '' else lines
    names = SPECIAL_TOKENS | special_names(config)
    if names['unk'] not in pieces:
        raise UserError(f'{path}: not a WordPiece vocabulary, it has no {names["unk"]} among its {len(pieces)} lines')
    vocab = {piece: index for index, piece in enumerate(pieces)}  # of equal lines the last counts, as in the original
    lowercase = config.get('do_lower_case')
    if lowercase is None:
        words = (piece for piece in pieces if not (piece.startswith('[') and piece.endswith(']')))
        lowercase = not any(word != word.lower() for word in words)
    chinese = config.get('tokenize_chinese_chars')
    tokenizer = wordpiece(vocab, lowercase, config.get('strip_accents'), True if chinese is None else chinese, names)
    added = add_tokens(tokenizer._backend, config, os.path.dirname(path))
    return Tokenizer(tokenizer._backend, names) if added else tokenizer


def _blocks(texts: Iterable[str]):
    """Texts joined by newlines into blocks: the normaliser's cost is mostly per call."""
    block, size = [], 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size > 1 << 16:
            yield '\n'.join(block)
            block, size = [], 0
    yield '\n'.join(block)
