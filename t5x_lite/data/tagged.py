"""Fine-tuning examples from tagged words: entities (NER) or parts of speech. (numpy only)

    config.data.source = 't5x_lite.data.tagged:TaggedExamples', and from flags alone
    --config.data.train=eng.train --config.data.validation=eng.testa --config.data.label_column=3

Files: t5x_lite.data.tagged_files. Where labels lie, and how they are read back: t5x_lite.data.word_pieces, with a worked example. Features beside those of
every encoder:

    labels [B, L] int32      ids of tags, -1 where none counts
    tagged [B, L] int32      1 where one counts: the first piece of each word, or every piece (config.data.every_piece)
    words [B, L] int32       the word that each piece is a part of, -1 at special tokens
    word_tags [B, W] int32   held-out data only: the tag of every word of the sentence, those that found no room too; -1 after the last
"""

from collections.abc import Sequence
import dataclasses
import functools
import hashlib
from typing import Any

import numpy as np

from t5x_lite.config import Config
from t5x_lite.data import class_weights, held_out, tables, tagged_files, tags, text_rows, tokenizers, word_pieces
from t5x_lite.data.in_epochs import InEpochs
from t5x_lite.data.tagged_files import Sentence
from t5x_lite.data.tags import OUTSIDE, TagSet
from t5x_lite.data.word_pieces import IGNORED, WordCutter
from t5x_lite.errors import UserError

PLAIN = 'none'  # as a scheme: tags are names


def tag_set(config: Config) -> TagSet:
    """The tags of a complete config, in the scheme that is learnt; where weights from elsewhere do not say it, the first that has all their marks."""
    scheme, names = config.data.tag_scheme_out, tuple(config.data.labels)
    if not scheme and _marks_entities([('', names)]):
        scheme = tags.detect([('config.data.labels', (name,)) for name in names]).name
    return TagSet(names, None if scheme in ('', PLAIN) else tags.scheme_of(scheme, '--config.data.tag_scheme_out'))


def legal(tag_set: TagSet) -> tuple[str, ...]:
    """What config.model.crf_legal says: a text a tag, of 0 and 1 for the tags that may follow, start and end as two more; () where any may follow any."""
    return tuple(''.join('01'[ok] for ok in row.tolist()) for row in tag_set.transitions) if tag_set.scheme is not None else ()


def cutter(config: Config, tokenizer: tokenizers.Tokenizer, seq_len: int) -> WordCutter:
    """Sentences as a body expects them: between [CLS] and [SEP], or before the end that an encoder-decoder's inputs have."""
    before, after = text_rows.frame(tokenizer, config.data.layout)
    return WordCutter(tokenizer, seq_len, before, after)


class TaggedExamples(InEpochs):
    """The sentences of one split, cut into pieces at once, as an endless sequence of examples.

    Attributes:
      tags: the `TagSet`.
      resolved: the guessed fields as 'data.labels', 'data.tag_scheme', ..., so that a later evaluation or prediction does not need the training file.
      fingerprint: hexadecimal digits of the pieces, labels and tags.

    Raises:
      UserError: anything wrong with the files, with file, line and word.
    """

    def __init__(self, config: Config, split: str, seed: int, seq_len: int, max_predictions: int = 0, corpus: Any = None):
        del max_predictions, corpus  # of the objectives on prepared corpora
        data = config.data
        self._begin(config, split, seed, seq_len)
        given = data.tag_scheme and data.labels  # by the config of a run
        if not data.train and (split == 'train' or not data.validation or not given):
            raise UserError('--config.data.train is empty; give the file to learn from: a word and its tag a line (CoNLL), or jsonl')
        if len(data.text_columns) > 1:
            raise UserError(f'{tagged_files.WORD_FLAG} names {len(data.text_columns)} columns; tagged words have one')
        self._columns = (data.text_columns[0] if data.text_columns else '', data.label_column)
        train = self._read(data.train) if split == 'train' or not data.validation or not given else []
        validation = self._read(data.validation) if data.validation else []
        self._choose(config, train or validation)
        mine, name = (train, data.train) if split == 'train' or not data.validation else (validation, data.validation)
        rows, said = held_out.rows_of(split, len(mine), data, seed, name, 'sentences')
        self._notes = [f'{split}: {name}, {len(mine):,} sentences, {sum(len(sentence.words) for sentence in mine):,} words{said}']
        self.sentences = [self._rewritten(mine[row]) for row in rows]
        for sentence in () if split == 'validation' else validation:
            self.tags.ids(self._rewritten(sentence).tags, sentence.where)  # a wrong tag there should not wait for the first evaluation
        self.tokenizer_path = tables.find_tokenizer(config)
        tokenizer = tokenizers.load(self.tokenizer_path)
        self._pad = tokenizer.pad_id or 0
        self._cut = cutter(config, tokenizer, seq_len).cut([(sentence.where, sentence.words) for sentence in self.sentences])
        self._labels = [
            word_pieces.labels(pieces, sentence.tags, self.tags, data.every_piece, sentence.where)
            for pieces, sentence in zip(self._cut, self.sentences, strict=True)
        ]
        self._lengths = np.array([len(pieces.ids) for pieces in self._cut], np.int32)
        every = np.concatenate(self._labels)
        counts = np.bincount(every[every != IGNORED], minlength=len(self.tags.names))
        self.resolved |= {
            'data.class_weights': class_weights.resolved(data, counts, self.tags.names),
            'model.crf_legal': legal(self.tags) if config.model.crf and data.legal_tags else (),
        }
        # Two columns at least, so that W is the same for all batches and never 0.
        self._most_words = max(2, max(len(sentence.words) for sentence in self.sentences))

    def _read(self, path: str) -> list[Sentence]:
        found, *columns = tagged_files.read(path, *self._columns)
        self._columns = tuple(columns)
        return found

    def _choose(self, config: Config, sentences: Sequence[Sentence]) -> None:
        """The scheme of the files, the one that is learnt, and the tags."""
        data = config.data
        rows = [(sentence.where, sentence.tags) for sentence in sentences]
        self._guessed = not data.tag_scheme
        if data.tag_scheme == PLAIN or (self._guessed and not _marks_entities(rows)):
            if data.tag_scheme_out not in ('', PLAIN):
                raise UserError(f'--config.data.tag_scheme_out={data.tag_scheme_out} marks entities, and the tags are plain names; leave it out')
            self._source, target = None, None
        else:
            self._source = tags.detect(rows) if self._guessed else tags.scheme_of(data.tag_scheme, '--config.data.tag_scheme')
            if data.tag_scheme_out == PLAIN:
                raise UserError('--config.data.tag_scheme_out=none goes with --config.data.tag_scheme=none: give both, or neither')
            target = tags.scheme_of(data.tag_scheme_out or 'IOB2', '--config.data.tag_scheme_out')
        self._target = target
        if data.labels:
            self.tags = TagSet(tuple(map(str, data.labels)), target)
        else:
            self.tags = TagSet.of([(sentence.where, self._rewritten(sentence).tags) for sentence in sentences], target)
        if len(self.tags.names) < 2:
            raise UserError(f'{sentences[0].where}: every word has the tag {self.tags.names[0]!r}; nothing can be learnt from one')
        self.resolved = {
            'data.text_columns': (self._columns[0],),
            'data.label_column': self._columns[1],
            'data.labels': self.tags.names,
            'data.tag_scheme': self._source.name if self._source else PLAIN,
            'data.tag_scheme_out': target.name if target else PLAIN,
            'model.num_labels': len(self.tags.names),
        }

    def _rewritten(self, sentence: Sentence) -> Sentence:
        """With its tags in the scheme that is learnt."""
        if self._source is None:
            return sentence
        return dataclasses.replace(sentence, tags=tuple(tags.convert(sentence.tags, self._source, self._target, sentence.where)))

    def row_lengths(self) -> np.ndarray:
        return self._lengths

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(self.tags.names).encode())
        for pieces, labels in zip(self._cut, self._labels, strict=True):
            digest.update(pieces.ids.tobytes() + labels.tobytes())
        return digest.hexdigest()[:16]

    def get(self, indices, width: int = 0) -> dict[str, np.ndarray]:
        """Features of int64 [n] indices, padded to `width` columns (0: as these rows need)."""
        rows = self._positions(np.asarray(indices, np.int64))
        width = width or self._width(rows)
        features = {'labels': np.full((len(rows), width), IGNORED, np.int32)} | pieces_features([self._cut[row] for row in rows], width, self._pad)
        for place, row in enumerate(rows):
            features['labels'][place, : len(self._labels[row])] = self._labels[row]
        features['tagged'] = (features['labels'] != IGNORED).astype(np.int32)
        if self.split == 'validation':
            features['word_tags'] = np.full((len(rows), self._most_words), IGNORED, np.int32)
            for place, row in enumerate(rows):
                ids = self.tags.ids(self.sentences[row].tags)
                features['word_tags'][place, : len(ids)] = ids
        return features

    def describe(self) -> str:
        """What was read and guessed, a line each."""
        lines = list(self._notes)
        lines.append(f'columns: words {self._columns[0]}, tags {self._columns[1]}')
        guessed = ' (guessed)' if self._guessed else ''
        if self._source is None:
            lines.append(f'{len(self.tags.names)} tags{guessed}: {_some(self.tags.names)}')
        else:
            spans = [kind for sentence in self.sentences for kind, _, _ in tags.spans(sentence.tags, self._target)]
            counts = {kind: spans.count(kind) for kind in sorted({tags.split(name)[1] for name in self.tags.names if name != OUTSIDE})}
            lines.append(f'entities: {_some([f"{kind} ({count:,})" for kind, count in counts.items()])}')
            lines.append(f'tags in {self._source.name}{guessed}, learnt in {self._target.name}: {len(self.tags.names)}')
        lines += class_weights.say(self.resolved['data.class_weights'], self.tags.names) if self.split == 'train' else []
        lost = sum(pieces.lost for pieces in self._cut)
        cut = sum(pieces.lost > 0 for pieces in self._cut)
        lines.append(
            f'tokens: {self._lengths.mean():.1f} a sentence, at most {self._lengths.max()}; '
            f'{cut:,} of {len(self):,} cut at {self.seq_len}, {lost:,} words lost, which count as {OUTSIDE} in scores'
        )
        lines.append(f'tokenizer: {self.tokenizer_path}')
        return '\n'.join(lines)


def pieces_features(rows: Sequence[word_pieces.Pieces], width: int, pad_id: int) -> dict[str, np.ndarray]:
    """tokens, token_types, sequence_ids, words: int32 [n, width]; example_weights: float32 [n], ones."""
    tokens, real = np.full((len(rows), width), pad_id, np.int32), np.zeros((len(rows), width), np.int32)
    words = np.full((len(rows), width), IGNORED, np.int32)
    for place, pieces in enumerate(rows):
        count = len(pieces.ids)
        tokens[place, :count], real[place, :count], words[place, :count] = pieces.ids, 1, pieces.words
    return {
        'tokens': tokens, 'token_types': np.zeros_like(tokens), 'sequence_ids': real, 'words': words,
        'example_weights': np.ones(len(rows), np.float32),
    }  # fmt: skip


def _marks_entities(rows: Sequence[tags.Row]) -> bool:
    """Whether tags are of entities: some are O, and some a mark and a type. One bad tag among them is a mistake, not another kind of tags."""
    names = {tag for _, sentence in rows for tag in sentence}
    return OUTSIDE in names and any(name[1:2] == '-' and name[0] in tags.CONLL.marks for name in names)


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:20]) + (f', ... {len(names) - 20} more' if len(names) > 20 else '')
