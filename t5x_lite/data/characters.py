"""Characters as tokens: every character of the training text is a piece. Small texts, as nanoGPT's character-level Shakespeare.

Characters have ids from 0 in the order of their code points, then follow <unk>, for characters that the training text lacks, and
<|endoftext|>. The tokenizer is BPE without merges to the library, so that a tokenizer.json of it loads anywhere.
"""

from collections.abc import Iterable

import tokenizers as library

from t5x_lite.data.tokenizer import END_OF_TEXT, Tokenizer
from t5x_lite.errors import UserError

_UNKNOWN = '<unk>'


def train_characters(texts: Iterable[str], vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer of the characters of `texts`; `vocab_size`, where it is given, must hold them and two special tokens.

    Raises:
      UserError: no text, or it has more characters than `vocab_size`.
    """
    found: set[str] = set()
    for text in texts:
        found.update(text)
    if not found:
        raise UserError('no text to train a tokenizer on')
    pieces = [*sorted(found), _UNKNOWN, END_OF_TEXT]
    if vocab_size is not None and len(pieces) > vocab_size:
        raise UserError(
            f'--vocab_size={vocab_size} is too small: the text has {len(found):,} different characters, which with {_UNKNOWN} and '
            f'{END_OF_TEXT} need {len(pieces):,} pieces; give more, or leave the flag out'
        )
    vocab = {piece: index for index, piece in enumerate(pieces)}
    backend = library.Tokenizer(library.models.BPE(vocab, [], unk_token=_UNKNOWN, fuse_unk=False))
    backend.decoder = library.decoders.Fuse()
    backend.add_special_tokens([library.AddedToken(name, normalized=False, special=True) for name in (_UNKNOWN, END_OF_TEXT)])
    return Tokenizer(backend, {'unk': _UNKNOWN, 'eos': END_OF_TEXT, 'bos': END_OF_TEXT})
