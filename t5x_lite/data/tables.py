"""Fine-tuning examples from the user's own table of texts and labels.

    config.data.source = 't5x_lite.data.tables:LabelledExamples', and from flags alone
    --config.data.train=reviews.tsv --config.data.validation=held_out.tsv --config.data.text_columns=text --config.data.label_column=stars

One text or a pair; a class, a number (`config.data.regression`) or any number of labels (`config.data.label_separator`). What the config leaves open is
guessed from the data, and `describe` says so. How rows are laid out for an architecture: t5x_lite.data.text_rows. A worked
example of ids, for a BERT, of a pair at seq_len 8 with [CLS] 101 and [SEP] 102:

    text           'a man sings'      'someone sings'
    tokens         101 1037 2158 102 2619 10955 102 0      (longest first: 'sings' was cut from the first text)
    token_types      0    0    0   0    1     1   1 0
    sequence_ids     1    1    1   1    1     1   1 0
"""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np

from t5x_lite import remote
from t5x_lite.config import AugmentConfig, Config
from t5x_lite.data import class_weights, held_out, packing, table_columns, tokenizers
from t5x_lite.data.augmenting import Augmenter, Synonyms, digest
from t5x_lite.data.in_epochs import InEpochs
from t5x_lite.data.text_rows import TextRows, encode_texts as encode_texts, slots_of
from t5x_lite.errors import UserError


class LabelledExamples(InEpochs):
    """The rows of one split, tokenised at once, as an endless sequence of examples.

    Attributes:
      label_names: names of the classes in the order of their ids, () for regression.
      num_labels: of the classifier's outputs; 1 for regression.
      resolved: the guessed fields as 'data.text_columns', 'data.label_column', 'data.labels', 'data.class_weights', 'model.num_labels': with these in a run's
        config.json, a later evaluation or prediction does not need the training table.
      fingerprint: hexadecimal digits of the tokens, labels and label names, and of how they are changed while training.
      labels, texts: of the rows of this split, whatever is changed in them.

    Raises:
      UserError: anything wrong with the tables, with file and line.
    """

    augments = True  # config.data.augment is for it

    def __init__(self, config: Config, split: str, seed: int, seq_len: int, max_predictions: int = 0, corpus: Any = None):
        del max_predictions, corpus  # of the objectives on prepared corpora
        data = config.data
        self._begin(config, split, seed, seq_len)
        table, others, task = table_columns.load(data, split)
        self._task, self.label_names = task, task.labels
        self.num_labels = 1 if data.regression else len(task.labels)
        self.resolved = {
            'data.text_columns': task.text,
            'data.label_column': task.label,
            'data.labels': task.labels,
            'model.num_labels': self.num_labels,
        }
        labels = table_columns.label_ids(table, task)
        if others is not None and split == 'train':
            table_columns.label_ids(others, task)  # A wrong label in the validation table should not wait for the first evaluation.
        rows, said = held_out.rows_of(split, len(labels), data, seed, table.name, 'rows', labels)
        self._notes = [f'{split}: {table.name}, {len(labels):,} rows ({table.format}){said}']
        self.labels = labels[rows]  # int32 [n] classes, float32 [n] targets or float32 [n, num_labels] of 0 and 1
        if split == 'train' and not task.regression and not task.separator and (counts := self._counts()).max() == len(rows):
            raise UserError(
                f'{table.name}: every row to learn from ({len(rows):,}{said}) has the label {task.labels[counts.argmax()]!r}; nothing can be learnt from one '
                'class: ' + ('raise --config.data.max_examples' if data.max_examples else 'give rows of another')
            )
        if not task.regression:
            self.resolved['data.class_weights'] = class_weights.resolved(data, self._counts(), task.labels, len(rows) if task.separator else 0)
        places = [table.column(name, table_columns.TEXT_FLAG) for name in task.text]
        texts = [[table_columns.text_cell(table, row, column) for row in rows] for column in places]
        self.tokenizer_path = find_tokenizer(config)
        self._tokenizer, self._layout = tokenizers.load(self.tokenizer_path), data.layout
        self._rows = TextRows(self._tokenizer, texts, seq_len, data.layout)
        self.texts = [*zip(*texts, strict=True)]
        self._augment, self._augmenter = data.augment, None
        if split == 'train' and data.augment != AugmentConfig():
            self._augmenter = Augmenter(data.augment, seed)
            if data.augment.synonyms and data.augment.file:
                self.take_synonyms(data.augment.file)
        self._empty = sum(not text.strip() for column in texts for text in column)

    def _counts(self) -> np.ndarray:
        """How many examples each label has."""
        return self.labels.sum(0).astype(int) if self._task.separator else np.bincount(self.labels, minlength=self.num_labels)

    def row_lengths(self) -> np.ndarray:
        """Of the examples of an epoch, before they are changed."""
        return np.tile(self._rows.lengths, 1 + self._augment.copies * (self._augmenter is not None))

    @property
    def fingerprint(self) -> str:
        parts = [repr(self.label_names).encode(), self.labels.tobytes(), self._rows.lengths.tobytes(), self._rows.ids.tobytes()]
        if self._augmenter is not None:
            settings = dataclasses.replace(self._augment, file='')
            synonyms = self._augmenter.synonyms
            parts.append(repr((settings, synonyms.fingerprint if synonyms else '')).encode())
        return hashlib.sha256(b''.join(parts)).hexdigest()[:16]

    @property
    def text_digest(self) -> str:
        """Of what synonyms are made for."""
        return digest([text for texts in self.texts for text in texts], self._augment.candidates)

    def take_synonyms(self, path: str) -> None:
        """
        Raises:
          UserError: there is no such file, or it was made for other texts.
        """
        synonyms = Synonyms.load(path)
        if synonyms.texts != self.text_digest:
            raise UserError(f'{path}: these synonyms were made for other texts than those of this run; leave config.data.augment.file out to have them made')
        self._augmenter.synonyms = synonyms

    def rows_of(self, indices) -> np.ndarray:
        """int64: the rows of the table, in the order of `texts`, that examples are made of."""
        return self._positions(np.asarray(indices, np.int64)) % len(self.texts)

    def changed(self, indices) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        """(texts as they are, texts as they are read) of examples; the same where nothing is changed."""
        rows = self.rows_of(indices)
        as_they_are = [self.texts[row] for row in rows]
        return list(zip(as_they_are, self._changed(np.asarray(indices, np.int64)), strict=True))

    def _changed(self, indices: np.ndarray) -> list[tuple[str, ...]]:
        examples = self._positions(indices)
        rows = examples % len(self.texts)
        texts = [self.texts[row] for row in rows]
        if self._augmenter is None:
            return texts
        made = self._augmenter(texts, rows, examples, indices // len(self))
        first = len(self.texts) if self._augment.copies else 0  # examples below it stay as they are
        return [new if example >= first else old for new, old, example in zip(made, texts, examples.tolist(), strict=True)]

    def _encoded(self, indices: np.ndarray) -> tuple[TextRows, np.ndarray]:
        """Rows of tokens, and which of them the examples are."""
        if self._augmenter is None:
            return self._rows, self._positions(indices)
        columns = [list(column) for column in zip(*self._changed(indices), strict=True)]
        return TextRows(self._tokenizer, columns, self.seq_len, self._layout), np.arange(len(indices))

    def width(self, indices) -> int:
        rows, numbers = self._encoded(np.asarray(indices, np.int64))
        return self._bucket(int(rows.lengths[numbers].max(initial=0)))

    def get(self, indices, width: int = 0) -> dict[str, np.ndarray]:
        """Features of int64 [n] indices, padded to `width` columns.

        Hosts ask for different rows of one batch and must agree on its width: take `width(indices of the whole batch)`. 0 measures these
        rows alone.
        """
        rows, numbers = self._encoded(np.asarray(indices, np.int64))
        features = rows.features(numbers, width or self._bucket(int(rows.lengths[numbers].max(initial=0))))
        features['labels'] = self.labels[self.rows_of(indices)]
        return features

    @property
    def lengths(self) -> np.ndarray:
        """int32 [n]: tokens of each text of `texts`."""
        return self._rows.lengths

    def packed(self, rows: packing.Rows, width: int) -> dict[str, np.ndarray]:
        """Features of rows in which several texts of `texts` lie: t5x_lite/data/packed_texts.py."""
        features = self._rows.packed(rows, width)
        places, shape = slots_of(rows), features['spans'].shape[:2]
        features['labels'] = np.zeros(shape + self.labels.shape[1:], self.labels.dtype)
        features['labels'][places] = self.labels[rows.members]
        features['example_weights'] = np.zeros(shape, np.float32)
        features['example_weights'][places] = 1
        return features

    def describe(self) -> str:
        """What was read and guessed, a line each."""
        task, lengths = self._task, self._rows.lengths
        lines = list(self._notes)
        lines.append(f'columns: {task.say("text", " and ".join(map(repr, task.text)))}, {task.say("label", repr(task.label))}')
        if task.regression:
            lines.append(f'targets: mean {self.labels.mean():.4g}, from {self.labels.min():.4g} to {self.labels.max():.4g}')
        else:
            shown = [f'{name} ({count:,})' for name, count in zip(task.labels[:20], self._counts(), strict=False)]
            shown += [f'... {self.num_labels - 20} more'] * (self.num_labels > 20)
            lines.append(f'{self.num_labels} labels: {", ".join(shown)}; {task.labels_from}')
            lines += class_weights.say(self.resolved['data.class_weights'], task.labels) if self.split == 'train' else []
            if task.separator:
                lines.append(f'labels an example: {self.labels.sum(1).mean():.2f}, none of them in {int((self.labels.sum(1) == 0).sum()):,} rows')
        cut = int(self._rows.cut.sum())
        lines.append(
            f'tokens: {lengths.mean():.1f} an example, at most {lengths.max()}; '
            f'{cut:,} of {len(lengths):,} cut at {self.seq_len} ({cut / len(lengths):.1%})'
            + (f'; {self._empty:,} text{" is" if self._empty == 1 else "s are"} empty' if self._empty else '')
        )
        if self._augmenter is not None:
            shares = ', '.join(f'{name} {share:.0%}' for name in ('deletion', 'swap', 'synonyms') if (share := getattr(self._augment, name)))
            copies = self._augment.copies
            how = f'{copies} changed beside each as it is, {len(self):,} in an epoch' if copies else 'each is changed, anew in every epoch'
            lines.append(f'training texts are changed: {shares} of the words; {how}')
        lines.append(f'tokenizer: {self.tokenizer_path}')
        return '\n'.join(lines)


def find_tokenizer(config: Config) -> str:
    """The tokenizer's folder: config.data.tokenizer, else that of config.init_from, else that of config.data.path.

    `init_from` may be a run of ours, a checkpoint inside one, or a Hugging Face folder.
    """
    if config.data.tokenizer:
        return config.data.tokenizer
    tried = []
    if config.init_from:
        folder = remote.absolute(config.init_from)
        above = os.path.dirname(folder)
        tried += [folder, *(os.path.join(place, 'tokenizer') for place in (folder, above, os.path.dirname(above)))]
    tried += [os.path.join(path, 'tokenizer') for path in config.data.path]
    for place in tried:
        if tokenizers.present(place):
            return place
    where = (
        f'none beside {config.init_from or ", ".join(config.data.path)}'
        if tried
        else 'neither config.init_from nor config.data.path names one'
    )
    raise UserError(f'no tokenizer: {where}; give --config.data.tokenizer=DIR with {tokenizers.MAY_HOLD}')
