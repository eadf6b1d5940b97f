"""Fine-tuning examples from the user's own table of questions with choices. (numpy only)

    config.data.source = 't5x_lite.data.choices:ChoiceExamples', and from flags alone
    --config.data.train=swag.csv --config.data.text_columns=sent1,sent2 --config.data.choice_columns=ending0,ending1,ending2,ending3

A question and each of its choices are a pair of texts (t5x_lite.data.text_rows); with two text columns the first stands by itself, and the second right before
each choice: a passage, then question and option (RACE), or a sentence, then the beginning of the next and an ending (SWAG). Columns left open, and what the
labels say of the right choice, are guessed, and `describe` says so. A worked example at seq_len 7, [CLS] 2, [SEP] 3, 'who ?' with 'Ann', 'Bo Li' and no third:

    tokens        2 10 11 3 20 3 0     2 10 11 3 21 22 3     0 0 0 0 0 0 0       [B, N, L]: N is the most that a question of the file has
    token_types   0  0  0 0  1 1 0     0  0  0 0  1  1 1     0 0 0 0 0 0 0
    sequence_ids  1  1  1 1  1 1 0     1  1  1 1  1  1 1     0 0 0 0 0 0 0
    labels        1                                                              [B], of 'Bo Li'
"""

from collections.abc import Sequence
import functools
import hashlib
from typing import Any

import numpy as np

from t5x_lite.config import Config, Layout
from t5x_lite.data import choice_columns, held_out, table_columns, table_files, tables, tokenizers
from t5x_lite.data.choice_columns import TEXT_FLAG
from t5x_lite.data.in_epochs import InEpochs
from t5x_lite.data.text_rows import TextRows
from t5x_lite.errors import UserError

Question = tuple[tuple[str, ...], tuple[str | None, ...]]  # its one or two texts, and its choices, of which some may be absent


def pair(texts: tuple[str, ...], choice: str) -> tuple[str, str]:
    """The two texts that a question's and one of its choices are read as."""
    return texts[0], ' '.join((*texts[1:], choice))


class ChoiceRows:
    """Questions with their choices as rows of tokens.

    Attributes:
      lengths: int32 [n], of the longest choice of each question; cut: bool [n], whether tokens of any were left out.
      most: N, choices of a question at most.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, questions: Sequence[Question], seq_len: int, layout: Layout = Layout.auto):
        self.most = max((len(choices) for _, choices in questions), default=0)
        self._places = np.full((len(questions), self.most), -1, np.int64)
        firsts, seconds = [], []
        for number, (texts, choices) in enumerate(questions):
            for place, choice in enumerate(choices):
                if choice is not None:
                    self._places[number, place] = len(firsts)
                    first, second = pair(texts, choice)
                    firsts.append(first)
                    seconds.append(second)
        self._rows, self._pad = TextRows(tokenizer, [firsts, seconds], seq_len, layout), tokenizer.pad_id or 0
        there = self._places >= 0
        self.lengths = np.where(there, self._rows.lengths[self._places], 0).max(axis=1, initial=0)
        self.cut = (there & self._rows.cut[self._places]).any(axis=1)

    def features(self, rows: np.ndarray, width: int) -> dict[str, np.ndarray]:
        """tokens, token_types, sequence_ids: int32 [n, N, width]; example_weights: float32 [n], ones."""
        places = self._places[rows].reshape(-1)
        found, there = self._rows.features(np.maximum(places, 0), width), (places >= 0)[:, None]
        found['tokens'] = np.where(there, found['tokens'], self._pad).astype(np.int32)
        for name in ('token_types', 'sequence_ids'):
            found[name] = found[name] * there
        shaped = {name: found[name].astype(np.int32).reshape(len(rows), self.most, width) for name in ('tokens', 'token_types', 'sequence_ids')}
        return shaped | {'example_weights': np.ones(len(rows), np.float32)}

    def digest(self) -> bytes:
        return self._places.tobytes() + self._rows.lengths.tobytes() + self._rows.ids.tobytes()


class ChoiceExamples(InEpochs):
    """The questions of one split, tokenised at once, as an endless sequence of examples.

    Attributes:
      questions, labels: of this split; labels are int32 [n], the place of the right choice of each.
      resolved: the guessed fields as 'data.text_columns', 'data.choice_columns', ..., and the most choices of a question as 'model.num_labels', so that a later
        evaluation or prediction does not need the training table.
      fingerprint: hexadecimal digits of tokens and labels.

    Raises:
      UserError: anything wrong with the tables, with file and line.
    """

    def __init__(self, config: Config, split: str, seed: int, seq_len: int, max_predictions: int = 0, corpus: Any = None):
        del max_predictions, corpus  # of the objectives on prepared corpora
        data = config.data
        for name, wanted in (('regression', False), ('label_separator', ''), ('labels', ())):
            if getattr(data, name) != wanted:
                raise UserError(f'config.data.{name} is of classes, and questions with choices have none; leave it out')
        self._begin(config, split, seed, seq_len)
        columns, complete = choice_columns.named(data)
        needs_train = split == 'train' or not data.validation or not (complete and data.choice_labels)
        if needs_train and not data.train:
            raise UserError('--config.data.train is empty; give the table to learn from (csv, tsv, jsonl, each also .gz, or tfds:NAME)')
        tables_read = {
            name: table_files.read(getattr(data, name), columns, complete, data.tfds_dir)
            for name, wanted in (('train', needs_train), ('validation', data.validation)) if wanted
        }  # fmt: skip
        first = next(iter(tables_read.values()))
        task = choice_columns.choose(first, data)
        task = choice_columns.decide_kind(first, task, choice_columns.choices_of(first, task))
        self._task, known = task, {}
        for name, table in tables_read.items():  # both: a wrong label in the validation table should not wait for the first evaluation
            if name == split or not data.validation or split == 'train':
                choices = choice_columns.choices_of(table, task)
                known[name] = table, choices, choice_columns.label_ids(table, task, choices)
        table, choices, labels = known[split if split in known else 'train']
        # Whatever the places of right answers: a choice is scored by itself, so a place is no class that must be there to be learnt.
        rows, said = held_out.rows_of(split, len(labels), data, seed, table.name, 'questions')
        self._notes = [f'{split}: {table.name}, {len(labels):,} questions ({table.format}){said}']
        self.labels = labels[rows]
        places = [table.column(name, TEXT_FLAG) for name in task.text]
        texts = [tuple(table_columns.text_cell(table, row, column) for column in places) for row in rows]
        self.tokenizer_path = tables.find_tokenizer(config)
        self.questions = [(text, choices[row]) for text, row in zip(texts, rows, strict=True)]
        self._rows = ChoiceRows(tokenizers.load(self.tokenizer_path), self.questions, seq_len, data.layout)
        self._choices = np.array([sum(choice is not None for choice in choices[row]) for row in rows])
        self.resolved = {
            'data.text_columns': task.text, 'data.choice_columns': task.choices, 'data.label_column': task.label, 'data.choice_labels': task.kind,
            'model.num_labels': self._rows.most,
        }  # fmt: skip

    def row_lengths(self) -> np.ndarray:
        return self._rows.lengths

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.labels.tobytes() + self._rows.digest()).hexdigest()[:16]

    def get(self, indices, width: int = 0) -> dict[str, np.ndarray]:
        """Features of int64 [n] indices, padded to `width` columns (0: as these rows need)."""
        rows = self._positions(np.asarray(indices, np.int64))
        return self._rows.features(rows, width or self._width(rows)) | {'labels': self.labels[rows]}

    def describe(self) -> str:
        """What was read and guessed, a line each."""
        task, lengths, lines = self._task, self._rows.lengths, list(self._notes)
        listed = ', '.join(map(repr, task.choices))
        kinds = {'text': 'the text of the right choice', 'letter': 'its letter', 'from_0': 'its number from 0', 'from_1': 'its number from 1'}
        label = f'{task.say("label", repr(task.label))}, {task.say("which says", kinds[task.kind])}'
        lines.append(f'columns: {task.say("question", " and ".join(map(repr, task.text)))}, {task.say("choices", listed)}, {label}')
        counts = np.bincount(self.labels, minlength=self._rows.most)
        least, most = int(self._choices.min()), int(self._choices.max())
        right = ', '.join(f'number {place} ({count:,})' for place, count in enumerate(counts, 1))
        lines.append(
            f'{least if least == most else f"{least} to {most}"} choices; right is {right}; '
            f'guessing reaches {float((1 / self._choices).mean()):.4f}, always the same number {counts.max() / len(self):.4f}'
        )
        cut = int(self._rows.cut.sum())
        lines.append(f'tokens: {lengths.mean():.1f} a longest choice, at most {lengths.max()}; {cut:,} of {len(self):,} questions cut at {self.seq_len}')
        lines.append(f'tokenizer: {self.tokenizer_path}')
        return '\n'.join(lines)
