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

import functools
import hashlib
import os
from typing import Any

import numpy as np

from t5x_lite.config import Config, DataConfig
from t5x_lite.data import class_weights, random, table_columns, tokenizers
from t5x_lite.data.in_epochs import InEpochs, checked_buckets, subset
from t5x_lite.data.text_rows import TextRows, encode_texts as encode_texts
from t5x_lite.errors import UserError


class LabelledExamples(InEpochs):
    """The rows of one split, tokenised at once, as an endless sequence of examples.

    Attributes:
      label_names: names of the classes in the order of their ids, () for regression.
      num_labels: of the classifier's outputs; 1 for regression.
      resolved: the guessed fields as 'data.text_columns', 'data.label_column', 'data.labels', 'data.class_weights', 'model.num_labels': with these in a run's
        config.json, a later evaluation or prediction does not need the training table.
      fingerprint: hexadecimal digits of the tokens, labels and label names.

    Raises:
      UserError: anything wrong with the tables, with file and line.
    """

    def __init__(self, config: Config, split: str, seed: int, seq_len: int, max_predictions: int = 0, corpus: Any = None):
        del max_predictions, corpus  # of the objectives on prepared corpora
        data = config.data
        self.split, self.seq_len, self._seed = split, seq_len, seed
        self._buckets = checked_buckets(data.length_buckets, seq_len)
        table, others, task = table_columns.load(data, split)
        self._task, self.label_names = task, task.labels
        self.num_labels = 1 if data.regression else len(task.labels)
        self.resolved = {
            'data.text_columns': task.text,
            'data.label_column': task.label,
            'data.labels': task.labels,
            'model.num_labels': self.num_labels,
        }
        rows, labels = np.arange(len(table.rows)), table_columns.label_ids(table, task)
        self._notes = [f'{split}: {table.name}, {len(rows):,} rows ({table.format})']
        if others is not None and split == 'train':
            table_columns.label_ids(others, task)  # A wrong label in the validation table should not wait for the first evaluation.
        if not data.validation:
            held_out = set_aside(labels, data, seed, table.name)
            rows = rows[held_out] if split == 'validation' else rows[~held_out]
            self._notes[0] += (
                f'; {"here are" if split == "validation" else "without"} the {held_out.sum():,} set aside for validation by seed {seed}'
            )
        if split == 'train' and data.max_examples:
            rows = subset(rows, data.max_examples, seed, table.name)
            self._notes[0] += f'; a subset of {len(rows):,} by seed {seed}'
        self.labels = labels[rows]  # int32 [n] classes, float32 [n] targets or float32 [n, num_labels] of 0 and 1
        if not task.regression:
            self.resolved['data.class_weights'] = class_weights.resolved(data, self._counts(), task.labels, len(rows) if task.separator else 0)
        places = [table.column(name, table_columns.TEXT_FLAG) for name in task.text]
        texts = [[table_columns.text_cell(table, row, column) for row in rows] for column in places]
        self.tokenizer_path = find_tokenizer(config)
        tokenizer = tokenizers.load(self.tokenizer_path)
        self._rows = TextRows(tokenizer, texts, seq_len, data.layout)
        self.texts = [*zip(*texts, strict=True)]  # of baselines
        self._empty = sum(not text.strip() for column in texts for text in column)

    def _counts(self) -> np.ndarray:
        """How many examples each label has."""
        return self.labels.sum(0).astype(int) if self._task.separator else np.bincount(self.labels, minlength=self.num_labels)

    def row_lengths(self) -> np.ndarray:
        return self._rows.lengths

    @functools.cached_property
    def fingerprint(self) -> str:
        parts = repr(self.label_names).encode(), self.labels.tobytes(), self._rows.lengths.tobytes(), self._rows.ids.tobytes()
        return hashlib.sha256(b''.join(parts)).hexdigest()[:16]

    def get(self, indices, width: int = 0) -> dict[str, np.ndarray]:
        """Features of int64 [n] indices, padded to `width` columns.

        Hosts ask for different rows of one batch and must agree on its width: take `width(indices of the whole batch)`. 0 measures these
        rows alone.
        """
        rows = self._positions(np.asarray(indices, np.int64))
        features = self._rows.features(rows, width or self._width(rows))
        features['labels'] = self.labels[rows]
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
            f'{cut:,} of {len(self):,} cut at {self.seq_len} ({cut / len(self):.1%})'
            + (f'; {self._empty:,} texts are empty' if self._empty else '')
        )
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
        folder = os.path.abspath(config.init_from)
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


def set_aside(labels: np.ndarray, data: DataConfig, seed: int, name: str) -> np.ndarray:
    """bool [n]: the rows set aside for validation, each class in proportion, and at least one row of each left to learn from."""
    fraction = data.validation_fraction
    if not 0 < fraction < 1:
        raise UserError(f'--config.data.validation_fraction={fraction} must lie between 0 and 1; or give --config.data.validation=FILE')
    order = random.permute(np.arange(len(labels)), len(labels), random.key(seed, 'tables.validation'))
    by_class = labels.ndim == 1 and not data.regression
    if by_class:
        order = order[np.argsort(labels[order], kind='stable')]
        first = np.unique(labels[order], return_index=True)[1]
        order = np.delete(order, first)
    count = max(1, round(fraction * len(labels)))
    if count > len(order) - (not by_class):
        raise UserError(
            f'{name}: {len(labels):,} rows are too few to set {fraction:.0%} aside for validation; give --config.data.validation=FILE'
        )
    # Evenly spaced in an order sorted by class: every class gives its share.
    held_out = np.zeros(len(labels), bool)
    held_out[order[((np.arange(count) + 0.5) * len(order) / count).astype(np.int64)]] = True
    return held_out
