"""Does a tokenizer fit the text that a run learns from? Counted on a sample of its batches. (numpy only)

    'electroencephalography was recorded'  ->  electro ##ence ##pha ##log ##raphy was recorded      7 pieces of 3 words: 2.3 a word
"""

from collections.abc import Iterable
import dataclasses

import numpy as np

from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.tokenizer import Tokenizer

# Of English, a WordPiece or byte-pair vocabulary of 30,000 pieces has next to none unknown, and 1.1 to 1.5 pieces a word; Rust et al. (2021, 'How good is your
# tokenizer?') show how models suffer where their vocabulary was made for other languages.
MOST_UNKNOWN, MOST_PIECES = 0.02, 2.5
_ENOUGH, _BATCHES = 20_000, 32  # tokens, or batches, that are looked at
_LEAST = 200  # words that say something


@dataclasses.dataclass
class Counts:
    """Of a sample without special tokens. Each unknown piece is a piece, and a word where its tokenizer replaces whole words by it."""

    pieces: int = 0
    words: int = 0
    unknown: int = 0


def count(tokenizer: Tokenizer, batches: Iterable[dict[str, np.ndarray]]) -> Counts:
    """Of both sides of an encoder-decoder. Characters of scripts without spaces count as words; `words` is 0 where pieces do not tell words apart."""
    special = np.zeros(tokenizer.vocab_size, bool)
    special[sorted(tokenizer.special_ids)] = True
    if tokenizer.unk_id is not None and tokenizer.unk_id != tokenizer.eos_id:  # GPT-2 has one token for both
        special[tokenizer.unk_id] = False
    begins = _begins(tokenizer)
    found = Counts()
    for batch in batches:
        for tokens, ids in (('tokens', 'sequence_ids'), ('decoder_tokens', 'decoder_sequence_ids')):
            if tokens in batch and ids in batch:
                pieces = batch[tokens][batch[ids] > 0]
                pieces = pieces[~special[pieces]]
                found.pieces += len(pieces)
                found.words += int(begins[pieces].sum())
                found.unknown += 0 if tokenizer.unk_id is None else int((pieces == tokenizer.unk_id).sum())
        if found.pieces >= _ENOUGH:
            break
    return found


def _begins(tokenizer: Tokenizer) -> np.ndarray:
    """bool [vocab_size]: pieces that begin a word; none where pieces are characters or nothing marks what continues."""
    pieces = [tokenizer.token(number) for number in range(tokenizer.vocab_size)]
    ordinary = [piece for number, piece in enumerate(pieces) if number not in tokenizer.special_ids]
    if any(piece.endswith('</w>') for piece in ordinary):  # GPT-1 marks the ends: as many
        return np.array([piece.endswith('</w>') for piece in pieces])
    if not tokenizer.is_continuation.any() or all(len(piece) <= 1 for piece in ordinary):
        return np.zeros(len(pieces), bool)
    return ~tokenizer.is_continuation | np.array([any(map(_unspaced, piece)) for piece in pieces])


def _unspaced(character: str) -> bool:
    """Of a script that writes words without spaces: Thai, Lao, Myanmar, Khmer, kana, Han."""
    code = ord(character)
    return 0x0E00 <= code <= 0x0EFF or 0x1000 <= code <= 0x109F or 0x1780 <= code <= 0x17FF or 0x3040 <= code <= 0x9FFF or 0x20000 <= code <= 0x3FFFF


def mismatch(counts: Counts, given: bool) -> str:
    """What there is to say of a tokenizer that does not fit; '' where it does.

    Args:
      given: it came with weights; one that was made for the text may have as many pieces a word as its maker wants.
    """
    if counts.pieces < _LEAST:
        return ''
    found, mend = [], 'weights with a vocabulary for this language or field (or a cased one for cased text) know it better'
    if counts.unknown > MOST_UNKNOWN * counts.pieces:
        found.append(f'{counts.unknown / counts.pieces:.1%} of its pieces are unknown, where {MOST_UNKNOWN:.0%} are much')
    if given and counts.words >= _LEAST and counts.pieces > MOST_PIECES * counts.words:
        found.append(f'it has {counts.pieces / counts.words:.2f} pieces a word, where 1.5 are usual and {MOST_PIECES} many')
    return f'the tokenizer does not fit the text: {" and ".join(found)}; {mend}' if found else ''


def of_run(data: DataFunction, tokenizer: Tokenizer, given: bool) -> str:
    """`mismatch` of the first batches of a run."""
    steps = range(min(_BATCHES, data.config.steps))
    return mismatch(count(tokenizer, map(data.batch, steps)), given)
