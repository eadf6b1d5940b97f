"""Words and the sub-words they are cut into: labels of words put on pieces, and predictions of pieces read as tags of words. (numpy only)

A model reads pieces, people tag words. Worked example, BERT's layout, IOB2, `every` piece labelled or the first of each word:

    words                0      1        2          3       B-PER I-PER O B-LOC
                         Ann    Leehy    '\\x01'    Rome    a control character is no piece at all
    pieces        [CLS]  ann    lee ##hy            rome  [SEP]
    words            -1  0      1   1               3        -1
    first            -1  B-PER  I-PER -1            B-LOC    -1      -1 is ignored
    every            -1  B-PER  I-PER I-PER         B-LOC    -1

Labels are those of entities, not copies: with `every`, 'S-LOC' of a word of three pieces is B, I, E (BIOES), and an entity that loses its first word to
nothingness or its last to truncation begins or ends where it is still there. So labels are always legal, as a CRF with transitions of the scheme needs.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses

import numpy as np

from t5x_lite.data import tags
from t5x_lite.data.tags import TagSet
from t5x_lite.data.tokenizer import Tokenizer
from t5x_lite.errors import UserError

IGNORED = -1  # as a word: none; as a label: not counted


@dataclasses.dataclass
class Pieces:
    """A sentence in pieces.

    Attributes:
      ids: int32 [pieces], special tokens among them.
      words: int32 [pieces], the word that each is a part of, ascending; IGNORED at special tokens.
      num_words: of the whole sentence.
      lost: how many at its end found no room.
    """

    ids: np.ndarray
    words: np.ndarray
    num_words: int
    lost: int = 0

    def labelled(self, every: bool) -> np.ndarray:
        """int [labels]: the places in `ids` that carry a label, first pieces of words or every piece of one."""
        first = np.ones(len(self.words), bool)
        first[1:] = self.words[1:] != self.words[:-1]
        return np.flatnonzero((self.words != IGNORED) & (first | every))


class WordCutter:
    """Cuts sentences of words with a tokenizer. Special tokens in words are text, as everywhere in raw text.

    Words are cut as in a text with single spaces between them: with byte-level BPE (and characters) all but the first of a sentence begin with a space, which
    is why 'Rome' has two spellings there. WordPiece, SentencePiece and GPT-1's BPE mark words themselves.
    """

    def __init__(self, tokenizer: Tokenizer, seq_len: int, before: Sequence[int] = (), after: Sequence[int] = ()):
        """
        Args:
          seq_len: pieces of a sentence at most, with `before` and `after`.
          before, after: special tokens around each sentence, as (cls_id,) and (sep_id,).
        """
        self._tokenizer, self._room = tokenizer.literal(), seq_len - len(before) - len(after)
        self._before, self._after = list(before), list(after)
        if self._room < 1:
            raise UserError(f'a sequence of {seq_len} has no room for words beside {len(before) + len(after)} special tokens; raise config.data.seq_len')
        encode = self._tokenizer.encode
        self._space = '' if encode('a b') == encode('a') + encode('b') else ' '

    def cut(self, rows: Iterable[tuple[str, Sequence[str]]]) -> list[Pieces]:
        """Sentences (where, words) in pieces. What does not fit is left out by whole words from the end; a word that is empty or of control characters alone
        may have no piece, and others keep their numbers.

        Raises:
          UserError: a word is not Unicode.
        """
        rows = list(rows)
        known = self._encoded(rows)
        return [self._sentence([known[word] for word in self._spelt(words)]) for _, words in rows]

    def _spelt(self, words: Sequence[str]) -> list[str]:
        return [self._space * (place > 0 and word != '') + word for place, word in enumerate(words)]

    def _encoded(self, rows: Sequence[tuple[str, Sequence[str]]]) -> Mapping[str, list[int]]:
        distinct = list({word: None for _, words in rows for word in self._spelt(words)})
        try:
            return dict(zip(distinct, self._tokenizer.encode_batch(distinct), strict=True))
        except UserError:
            for where, words in rows:
                for number, word in enumerate(words, 1):
                    try:
                        self._tokenizer.encode(word)
                    except UserError as error:
                        raise UserError(f'{where}: word {number}: {error}') from error
            raise

    def _sentence(self, parts: list[list[int]]) -> Pieces:
        lengths = np.array([len(part) for part in parts], np.int64)
        kept = int(np.searchsorted(np.cumsum(lengths), self._room, side='right'))
        ids = [*self._before, *(piece for part in parts[:kept] for piece in part), *self._after]
        words = np.full(len(ids), IGNORED, np.int32)
        words[len(self._before) : len(ids) - len(self._after)] = np.repeat(np.arange(kept, dtype=np.int32), lengths[:kept])
        return Pieces(np.array(ids, np.int32), words, len(parts), len(parts) - kept)


def labels(pieces: Pieces, words: Sequence[str], tag_set: TagSet, every: bool = False, where: str = '') -> np.ndarray:
    """int32 [pieces]: ids of tags, IGNORED where there is none.

    Args:
      words: the tag of each word of the sentence, in the set's scheme.
      every: every piece of a word has a label, else the first.

    Raises:
      UserError: not one tag a word, an unknown or an illegal one.
    """
    if len(words) != pieces.num_words:
        raise UserError(f'{where or "a sentence"}: {pieces.num_words} words and {len(words)} tags; give one tag a word')
    tag_set.ids(words, where)
    at = pieces.labelled(every)
    owners = pieces.words[at]
    if _plain(tag_set):
        named = [words[owner] for owner in owners]
    else:
        tags.check(words, tag_set.scheme, where)
        there = [(kind, *np.searchsorted(owners, ends).tolist()) for kind, *ends in tags.spans(words, tag_set.scheme)]
        named = tags.from_spans([entity for entity in there if entity[1] < entity[2]], len(at), tag_set.scheme)
    result = np.full(len(pieces.ids), IGNORED, np.int32)
    result[at] = tag_set.ids(named)
    return result


def word_tags(pieces: Pieces, predicted: np.ndarray, tag_set: TagSet, missing: str, every: bool = False) -> list[str]:
    """The tag of each word of a sentence.

    As the first piece says; with `every` and a scheme, each word belongs to the entity of its first piece, and these are written in the scheme (B I E of a
    word is S), entities that begin and end inside a word left out. Only those are made legal: illegal tags of first pieces stay for the score to judge.

    Args:
      predicted: int [pieces], ids of tags; those of special tokens are not looked at.
      missing: the tag of words that have no piece or were lost.
    """
    at = pieces.labelled(every)
    named = tag_set.tags(np.asarray(predicted)[at].tolist())
    owners, first = np.unique(pieces.words[at], return_index=True)
    result = [missing] * pieces.num_words
    if not every or _plain(tag_set):
        for owner, place in zip(owners.tolist(), first.tolist(), strict=True):
            result[owner] = named[place]
        return result
    entities = []
    for kind, start, stop in tags.spans(named):
        covered = np.searchsorted(first, [start, stop])  # words whose first piece is in the entity
        if covered[0] < covered[1]:
            entities.append((kind, *covered.tolist()))
    for owner, tag in zip(owners.tolist(), tags.from_spans(entities, len(owners), tag_set.scheme), strict=True):
        result[owner] = tag
    return result


def _plain(tag_set: TagSet) -> bool:
    """Whether tags say nothing of where entities end, so that pieces have the tags of their words."""
    return tag_set.scheme is None or tag_set.scheme.name == 'IO'
