"""Tasks and mixtures as a data source: config.data.source = 't5x_lite.tasks.examples:TaskExamples'.

    --config.data.tasks.names=glue,squad --config.data.tasks.rates=proportional
    --config.data.train=articles.jsonl --config.data.tasks.inputs='summarize: {text}' --config.data.tasks.targets='{summary}'
    --config.data.tasks.metrics=rouge

Inputs and targets end with the tokenizer's end token in both layouts; in a decoder's rows it stands between them, so a prompt ends with it too.
"""

from collections.abc import Sequence
import functools
import hashlib
from typing import Any

import numpy as np

from t5x_lite.config import Config, Layout, TooLong
from t5x_lite.data import features, packing, packing_pairs, random, tables, tokenizers
from t5x_lite.errors import UserError
from t5x_lite.tasks import builtin, registry
from t5x_lite.tasks.task import Task
from t5x_lite.tasks.text_formats import Example


class TaskExamples:
    """One task's split, tokenised at once, as an endless sequence of rows; `parts` makes those of a mixture.

    Train: every epoch has its own order by (seed, task, epoch). Validation: the order of the source, again and again. A row holds one example, or with
    config.data.tasks.pack several of this task, attention isolated; which share a row is drawn once.

    Attributes:
      num_examples: of the split; `len` counts rows.
      resolved: nothing is left to the data.
      fingerprint: hexadecimal digits of tokens and rows.
    """

    reads_inputs = ends_inputs = True  # as a prompt is then laid out

    def __init__(self, task: Task, examples: Sequence[Example], config: Config, split: str, seed: int, seq_len: int, max_predictions: int):
        """`max_predictions`: tokens of targets at most; `seq_len`: those of inputs, in a decoder's row of both together."""
        self.task, self.split, self.seq_len, self.num_examples = task, split, seq_len, len(examples)
        self.resolved: dict[str, Any] = {}
        self._seed, self._layout, self._targets_at_most = seed, layout_of(config), max_predictions
        self._tokenizer_path = tables.find_tokenizer(config)
        tokenizer = tokenizers.load(self._tokenizer_path)
        if tokenizer.end_id is None:
            raise UserError(f'the tokenizer {self._tokenizer_path} has no token that ends a text (</s>, [SEP]); tasks need one')
        self._pad, self._start = tokenizer.pad_id or 0, tokenizer.start_id
        self._keep_end = config.data.tasks.keep_end
        self._empty = sum(not str(example['targets']).strip() for example in examples)
        self._tokenize(examples, tokenizer, config.data.tasks.too_long)
        pack = config.data.tasks.pack
        self._rows = self._plan(random.key(seed, 'tasks.pack', task.name)) if pack else packing.alone(len(examples))

    @staticmethod
    def predictions(config: Config, seq_len: int) -> int:
        """Tokens of targets at most, where config.data.target_len leaves it open."""
        return config.data.target_len or seq_len

    @classmethod
    def parts(cls, config: Config, split: str, seed: int, seq_len: int, max_predictions: int) -> list[tuple['TaskExamples', float, str]]:
        """(source, weight, name) of each task of the config.

        Weights are of rows, and rates of examples: a task's weight is its rate times its rows per example. Of tasks that are learnt, those at rate 0
        stay out; of the validation part, tasks weigh as many rows as they have.

        Raises:
          UserError: no task, no such task, nothing to learn.
        """
        tasks = [task for task in of_config(config) if task.has(split)]
        if not tasks:
            raise UserError(f'none of config.data.tasks.names has a {split} part; add a task that has one')
        found = {task.name: examples_of(config, task, split) for task in tasks}
        if split == 'validation':
            for task in tasks:
                task.check(found[task.name])
        if split == 'train' and config.data.max_examples:
            found = {name: subset(examples, config.data.max_examples, seed, name) for name, examples in found.items()}
        if split == 'train' and config.data.tasks.names:
            registry.check_alone(config.data.tasks)
            rates = registry.rates(config.data.tasks, lambda name: len(found[name]) if name in found else 0)
            tasks = [task for task in tasks if rates[task.name] > 0]
            if not tasks:
                raise UserError('every task of config.data.tasks.names has rate 0; give one of them more')
        else:
            rates = {task.name: len(found[task.name]) for task in tasks}
        made = []
        for task in tasks:
            source = cls(task, found[task.name], config, split, seed, seq_len, max_predictions)
            made.append((source, rates[task.name] * len(source) / source.num_examples, task.name))
        return made

    def __len__(self) -> int:
        return len(self._rows)

    @functools.cached_property
    def fingerprint(self) -> str:
        arrays = self._inputs.ids, self._inputs.lengths, self._targets.ids, self._targets.lengths, self._rows.members, self._rows.starts
        return hashlib.sha256(repr((self.task.name, self._layout.name)).encode() + b''.join(array.tobytes() for array in arrays)).hexdigest()[:16]

    def get(self, indices) -> dict[str, np.ndarray]:
        """Features of int64 [n] indices, by layout: see data/features.py."""
        return self.together([self], np.zeros(len(indices), np.int64), np.asarray(indices, np.int64))

    @staticmethod
    def together(sources: Sequence['TaskExamples'], part: np.ndarray, local: np.ndarray) -> dict[str, np.ndarray]:
        """Features of the examples `local` (int64 [n]) of `sources[part]` (int64 [n]), those of one mixture: what `get` of each gives, at the price of one."""
        order, rows = np.argsort(part, kind='stable'), _rows_of(sources, part, local)
        taken = [sources[number]._take(rows[part == number]) for number in np.unique(part).tolist()]
        counts, *both = map(np.concatenate, zip(*taken, strict=True))
        packed = packing.Rows(np.arange(len(both[1])), np.concatenate([[0], np.cumsum(counts)]))
        one, options = sources[0], {'start_id': sources[0]._start, 'pad_id': sources[0]._pad}
        if one._layout == Layout.decoder:
            made = features.of_decoder(packed, *both, one.seq_len, prefix=one.reads_inputs, **options)
        else:
            made = features.of_encoder_decoder(packed, *both, one.seq_len, one._targets_at_most, **options)
        back = np.argsort(order)
        return {name: values[back] for name, values in made.items()}

    def _take(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Of these rows (int64 [n]): how many examples each has; and of the examples inputs, their lengths, targets, theirs, end to end."""
        taken = self._rows.take(rows)
        return np.diff(taken.starts), *(part for side in (self._inputs, self._targets) for part in (side.flat(taken.members), side.lengths[taken.members]))

    def describe(self) -> str:
        inputs, targets, cut = self._inputs.lengths, self._targets.lengths, self._cut
        said = f'tokens: inputs {inputs.mean():.1f}, at most {inputs.max()}, {cut[0]:,} cut; '
        said += f'targets {targets.mean():.1f}, at most {targets.max()}, {cut[1]:,} cut' + f', {self._empty:,} empty' * (self._empty > 0)
        rows = f'{self.num_examples:,} examples in {len(self):,} rows ({self.num_examples / len(self):.1f} a row)'
        return '\n'.join([f'{self.split}: task {self.task.name}, {rows}', said, f'tokenizer: {self._tokenizer_path}'])

    def _tokenize(self, examples: Sequence[Example], tokenizer: tokenizers.Tokenizer, too_long: TooLong) -> None:
        kept: dict[str, list[list[int]]] = {'inputs': [], 'targets': []}
        self._cut = [0, 0]
        for first in range(0, len(examples), 4096):  # bounds the memory of Python lists of texts
            some = examples[first : first + 4096]
            both = [tokenizer.encode_batch([example[key] for example in some]) for key in kept]
            for number, (inputs, targets) in enumerate(zip(*both, strict=True), first):
                room = min(self._targets_at_most, self.seq_len - 1) if self._layout == Layout.decoder else self._targets_at_most
                self._keep(kept['targets'], targets, room, 1, number, too_long, tokenizer.end_id)
                room = self.seq_len - len(kept['targets'][-1]) if self._layout == Layout.decoder else self.seq_len
                ends = self.ends_inputs or self._layout == Layout.encoder_decoder
                self._keep(kept['inputs'], inputs, room, 0, number, too_long, tokenizer.end_id if ends else None)
        self._inputs, self._targets = (features.Sequences.of(sequences) for sequences in kept.values())

    def _keep(self, into: list[list[int]], tokens: list[int], room: int, side: int, number: int, too_long: TooLong, end: int | None) -> None:
        """`end`: what stands after them, if anything."""
        room -= end is not None
        if len(tokens) > room:
            if too_long == TooLong.refuse:
                what, flag = (('inputs', 'seq_len'), ('targets', 'target_len'))[side]
                raise UserError(
                    f'task {self.task.name}: {what} of {self.split} example {number} have {len(tokens) + (end is not None):,} tokens, and there is room for '
                    f'{room + (end is not None)}; raise --config.data.{flag}, or cut such with --config.data.tasks.too_long=truncate'
                )
            self._cut[side] += 1
            tokens = tokens[len(tokens) - room :] if side == 0 and self._keep_end else tokens[:room]
        into.append(tokens if end is None else [*tokens, end])

    def _plan(self, root: int) -> packing.Rows:
        if self._layout == Layout.decoder:
            return packing.pack(self._inputs.lengths + self._targets.lengths, self.seq_len, root)
        return packing_pairs.pack_pairs(self._inputs.lengths, self._targets.lengths, self.seq_len, self._targets_at_most, root)


def _rows_of(sources: Sequence[TaskExamples], part: np.ndarray, local: np.ndarray) -> np.ndarray:
    """int64 [n]: the rows that the examples `local` of `sources[part]` are."""
    lengths = np.array([len(source) for source in sources])[part]
    epochs, places = np.divmod(local, lengths)
    if sources[0].split != 'train':
        return places
    pairs, which = np.unique(np.stack([part, epochs]), axis=1, return_inverse=True)
    roots = [random.key(sources[number]._seed, 'tasks.order', sources[number].task.name, epoch) for number, epoch in pairs.T.tolist()]
    return random.permute(places, lengths, np.array(roots, np.uint64)[which])


class Continuations(TaskExamples):
    """Examples as a text that goes on, for models that learnt to continue texts (GPT): inputs and targets follow each other with nothing between them, and
    inputs are read from the left, as in pre-training. Targets bring their own space: config.data.tasks.targets=' {reply}'. Of an encoder-decoder as
    `TaskExamples`.

        inputs 'A: Hi. B:' 5 6 7, targets ' Hello.' 8 9, end 3, start 2        TaskExamples has one more 3 after the 7, and a prefix
        tokens          2 5 6 7 8 9
        targets         5 6 7 8 9 3
        target_weights  0 0 0 1 1 1
    """

    reads_inputs = ends_inputs = False


def of_config(config: Config) -> list[Task]:
    """The tasks of a config: config.data.tasks.names, or the one that its templates make of config.data.train."""
    data, tasks = config.data, config.data.tasks
    registry.load(tasks.files)
    if tasks.names:
        return registry.tasks_of(tasks.names)
    if not tasks.inputs or not tasks.targets:
        raise UserError(
            'no task: give --config.data.tasks.names, or a table in --config.data.train with --config.data.tasks.inputs and .targets'
        )
    if not (data.train or data.validation):
        raise UserError('--config.data.train is empty; give the table that config.data.tasks.inputs and .targets are templates of')
    return [builtin.of_table(data.train, data.validation, tasks.inputs, tasks.targets, tasks.metrics, tasks.turns)]


def examples_of(config: Config, task: Task, split: str) -> list[Example]:
    """The examples of a task as training and evaluation of this config see them, whole, before any subset."""
    data = config.data
    return task.examples(split, seed=config.seed, fraction=data.validation_fraction, tfds_dir=data.tfds_dir)


def layout_of(config: Config) -> Layout:
    layout = config.data.layout
    if layout not in (Layout.decoder, Layout.encoder_decoder):
        raise UserError(f'config.data.layout is {layout.name}; tasks are text to text: decoder or encoder_decoder')
    return layout


def subset(examples: Sequence[Example], count: int, seed: int, name: str) -> list[Example]:
    """`count` of the examples of the task `name`, drawn by seed, in their order; all where there are no more."""
    if count >= len(examples):
        return list(examples)
    return [examples[place] for place in np.sort(random.permute(np.arange(count), len(examples), random.key(seed, 'tasks.subset', name))).tolist()]
