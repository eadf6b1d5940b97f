"""The data of a run as a function: (seed, step) -> global batch. (numpy only)

    data = DataFunction(config, 'train')
    data.batch(1000)                            # the whole batch of step 1000
    data.batch(1000, rows=slice(64, 128))       # the part of it that a host feeds, identical to slicing the whole
    for step, batch in data.loader(1000, 2000, rows=slice(64, 128)): ...

Nothing else decides what is in it: not the number of hosts, loader threads or processes, nor where a run was interrupted.
"""

import bisect
import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from t5x_lite.config import Config
from t5x_lite.config_values import to_dict
from t5x_lite.data import loading, packed_texts
from t5x_lite.data.corpus import Corpus
from t5x_lite.data.feature_files import FeatureFile, WithFeatures
from t5x_lite.data.mixing import Mixture
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError, nearest
from t5x_lite.stages import stages

_VERSION = 1  # of the rules by which examples are drawn; runs of another version are not resumed


@dataclasses.dataclass(frozen=True)
class Stage:
    """Steps that share a sequence length and a batch size."""

    first_step: int
    seq_len: int
    batch_size: int
    max_predictions: int
    first_example: int  # examples of this length that earlier stages took


class DataFunction:
    """The batches of one split, 'train' or 'validation'.

    Each length of sequence has its own sources (one a corpus) and its own plan, and a counter of examples that is a function of the step.
    Several corpora mix in exact shares (`Mixture`) by `config.data.weights`, or in proportion to their tokens; a source class with
    `parts(config, split, seed, length, predictions) -> [(source, weight, name)]` says itself what is mixed; with `together(sources, part, local)` it makes
    the rows of a batch at once, whichever of its sources they are of.

    Attributes:
      stages: in the order of their steps; without config.data.stages there is one.
      names: of what is mixed, the tasks of a source class that has `parts`, else the paths of the corpora.
      fingerprint: 16 hexadecimal digits of what the examples are made of (texts, tokenizer, source, layout, settings of objectives and stages, seed).
        Resuming a run on data with another fingerprint would silently train on something else.

    Raises:
      UserError: no corpus, a broken one, corpora of different tokenizers, a vocabulary larger than the model's.
    """

    def __init__(self, config: Config, split: str, corpora: list[Any] | None = None):
        """`corpora`: `Corpus` objects, or anything with their attributes, instead of those at config.data.path."""
        self.config, self.split = config, split
        if not config.data.source:
            raise UserError('config.data.source is empty; name the class that makes examples, such as bert_flax.objectives:MlmNsp')
        self._source_class = resolve(config.data.source, 'config.data.source', 'get')
        for field in ('folds', 'group_by_length'):
            if getattr(config.data, field) and not getattr(self._source_class, 'in_epochs', False):
                raise UserError(f'config.data.{field} is for labelled tables, tagged words and questions, not for {config.data.source}; leave it out')
        if config.data.pack:
            packed_texts.check(config, self._source_class)
        self._given, self._features = corpora, []
        self._corpora = self._open(corpora)
        self.stages = _stages(config)
        self._sources: dict[tuple[int, int], list[Any]] = {}
        self._mixtures: dict[tuple[int, int], Mixture] = {}
        self._named = hasattr(self._source_class, 'parts')
        for length, most in dict.fromkeys((stage.seq_len, stage.max_predictions) for stage in self.stages):
            # Made at once: what is wrong with one of them should show before the first step.
            self._sources[length, most], weights, names = zip(*self._parts(length, most), strict=True)
            self._mixtures[length, most] = Mixture(weights)
            self.names = names

    def complete(self, config: Config) -> None:
        """Takes a config in which is filled in what the data told: opening them anew would read tables twice, and forget which columns were guessed."""
        self.config = config

    def __reduce__(self):
        # Loader processes open the files themselves; plans and memory maps do not travel.
        return _opened, (type(self), self.config, self.split, self._given, self._features)

    def reads_synonyms(self, path: str) -> None:
        """Loader processes, which open the data themselves, read config.data.augment.file from there."""
        data = self.config.data
        self.config = dataclasses.replace(self.config, data=dataclasses.replace(data, augment=dataclasses.replace(data.augment, file=path)))

    def _parts(self, length: int, most: int) -> list[tuple[Any, float, str]]:
        """(source, weight, name): what a source class that has `parts` says, else a source of each corpus."""
        config = self.config
        if hasattr(self._source_class, 'parts'):
            return self._source_class.parts(config, self.split, config.seed, length, most)
        if config.data.pack:
            source = self._source_class(config, self.split, config.seed, length, most)
            return [(packed_texts.PackedTexts(source, config.seed, length), 1.0, '')]
        weights = config.data.weights or [corpus.num_tokens for corpus in self._corpora]
        return [
            (self._source_class(config, self.split, config.seed, length, most, corpus), weight, corpus.path if corpus else '')
            for corpus, weight in (zip(self._corpora, weights, strict=True) if self._corpora else [(None, 1)])
        ]

    def _open(self, corpora):
        data = self.config.data
        if not getattr(self._source_class, 'from_corpus', False):
            return []
        if corpora is None:
            if not data.path:
                raise UserError(f'{data.source} reads a corpus; give what prepare wrote: --config.data.path=DIR')
            corpora = [Corpus(path, self.split) for path in data.path]
        for corpus in corpora:
            if corpus.manifest['tokenizer_sha256'] != corpora[0].manifest['tokenizer_sha256']:
                raise UserError(
                    f'{corpora[0].path} and {corpus.path} were prepared with different tokenizers; '
                    f'prepare the second with --tokenizer={corpora[0].tokenizer_path}'
                )
            if 0 < self.config.model.vocab_size < corpus.vocab_size:
                raise UserError(
                    f'{corpus.path} has a vocabulary of {corpus.vocab_size:,}, the model of {self.config.model.vocab_size:,}; '
                    f'set --config.model.vocab_size={corpus.vocab_size}'
                )
        return list(corpora)

    @property
    def num_examples(self) -> int:
        """Of the first stage, in all that is mixed."""
        return sum(map(len, self.sources(self.stages[0])))

    @property
    def corpora(self) -> tuple[Any, ...]:
        """The corpora that are read; () for labelled tables."""
        return tuple(self._corpora)

    @property
    def first_steps(self) -> tuple[int, ...]:
        """Steps whose batches differ in kind: of this function all are alike (t5x_lite.data.several has one a head)."""
        return (0,)

    def config_at(self, step: int) -> Config:
        """The config that tells what is in the batch of a step."""
        del step
        return self.config

    def stage_at(self, step: int) -> Stage:
        """The stage that step belongs to; steps count from 0."""
        return self.stages[bisect.bisect_right(self.stages, step, key=lambda stage: stage.first_step) - 1]

    def sources(self, stage: Stage) -> list[Any]:
        """The example sources of a stage, one a corpus."""
        return self._sources[stage.seq_len, stage.max_predictions]

    def every_source(self) -> list[Any]:
        """Those of all stages."""
        return [source for sources in self._sources.values() for source in sources]

    def with_features(self, folders: list[tuple[str, bool]]) -> 'DataFunction':
        """The same data with `features` in every batch.

        Args:
          folders: of each of `every_source`: where its features lie (data/feature_files.py), and whether each of its tokens has some.
        """
        data, left = copy.copy(self), iter(folders)
        data._features = folders
        data._sources = {}
        for key, sources in self._sources.items():
            files = [FeatureFile(folder, source.row_lengths() if by_token else None) for source, (folder, by_token) in zip(sources, left)]
            data._sources[key] = list(map(WithFeatures, sources, files))
        return data

    def describe(self) -> list[str]:
        """What is read, in lines for people."""
        lines = [
            f'{self.split}: {corpus.path}, {corpus.num_documents:,} document{"s" * (corpus.num_documents != 1)}, {corpus.num_sentences:,} sentences, {corpus.num_tokens:,} tokens, '
            f'vocabulary {corpus.vocab_size:,}'
            for corpus in self._corpora
        ]
        for source in self.sources(self.stages[0]):
            if hasattr(source, 'describe'):
                lines += source.describe().splitlines()
        if self._named and self.split == 'train':
            lines.append('shares of the rows: ' + ', '.join(f'{name} {share:.2%}' for name, share in self.shares().items()))
        return lines

    def indices(self, step: int) -> np.ndarray:
        """int64[B]: the numbers of the examples of a step, counted over all examples of its length."""
        stage = self.stage_at(step)
        return stage.first_example + (step - stage.first_step) * stage.batch_size + np.arange(stage.batch_size)

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        """The batch of a step, or those rows of it; example_weights are all 1, but for texts that a row has not (config.data.pack)."""
        stage = self.stage_at(step)
        part, local = self._mixtures[stage.seq_len, stage.max_predictions](self.indices(step))
        return self._make(self.sources(stage), part, local, rows)

    def shares(self) -> dict[str, float]:
        """{name: share of the rows} of what is mixed, in the first stage."""
        stage = self.stages[0]
        return dict(zip(self.names, self._mixtures[stage.seq_len, stage.max_predictions].shares.tolist()))

    def counts(self, step: int) -> dict[str, int]:
        """{name: rows} of what is mixed in the batch of a step."""
        return dict(zip(self.names, np.bincount(self.parts(step), minlength=len(self.names)).tolist()))

    def parts(self, step: int) -> np.ndarray:
        """int64[B]: the place in `names` of what each row of a step's batch is of."""
        stage = self.stage_at(step)
        return self._mixtures[stage.seq_len, stage.max_predictions](self.indices(step))[0]

    def _make(self, sources, part, local, rows):
        """Examples `local` (int64[B]) of sources `part` (int64[B]), or `rows` of them."""
        if self.config.data.pack:
            return sources[0].get(local[rows or slice(None)])
        # Where the width of a batch follows from what is in it, it follows from the whole of it.
        present = [(number, source) for number, source in enumerate(sources) if hasattr(source, 'width') and (part == number).any()]
        widths = [source.width(local[part == number]) for number, source in present]
        options = {'width': max(widths)} if widths else {}
        part, local = part[rows or slice(None)], local[rows or slice(None)]
        if hasattr(self._source_class, 'together'):
            return self._source_class.together(sources, part, local) | {'example_weights': np.ones(len(part), np.float32)}
        batch: dict[str, np.ndarray] = {}
        for number in np.unique(part).tolist():
            here = np.flatnonzero(part == number)
            for name, values in sources[number].get(local[here], **options).items():
                batch.setdefault(name, np.empty((len(part), *values.shape[1:]), values.dtype))[here] = values
        batch['example_weights'] = np.ones(len(part), np.float32)
        return batch

    def evaluation_size(self, step: int = 0, only: str = '') -> int:
        """How many batches `evaluation_batches` gives."""
        stage = self.stage_at(step)
        size = self.config.eval.batch_size or stage.batch_size
        every = -(-sum(len(self.sources(stage)[number]) for number in self._chosen(only)) // size)
        return min(every, self.config.eval.batches) if self._corpora and self.config.eval.batches else every

    def _chosen(self, only: str) -> list[int]:
        """The numbers of all parts, or of the one of that name."""
        if only and only not in self.names:
            raise UserError(f'no part {only!r} in the {self.split} data, {nearest(only, self.names)}')
        return [self.names.index(only)] if only else list(range(len(self._sources[self.stages[0].seq_len, self.stages[0].max_predictions])))

    def evaluation_batches(self, step: int = 0, rows: slice | None = None, only: str = '') -> Iterator[dict[str, np.ndarray]]:
        """The same batches each time, in the shapes of the stage at `step`, with each example of epoch 0 at most once.

        They are the first config.eval.batches (0: all; sources without a corpus always give all), in which several corpora are spread
        evenly. The last batch is filled up with its first example, at weights (of example, masked tokens, targets) 0.

        Args:
          only: the part of this name, one task of a mixture; '': all.
        """
        sources = self.sources(self.stage_at(step))
        size = self.config.eval.batch_size or self.stage_at(step).batch_size
        chosen_parts = self._chosen(only)
        lengths = np.array([len(source) if number in chosen_parts else 0 for number, source in enumerate(sources)])
        part = np.repeat(np.arange(len(sources)), lengths)
        local = np.arange(len(part)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        order = np.argsort((local + 0.5) / lengths[part], kind='stable')
        for first in range(0, self.evaluation_size(step, only) * size, size):
            chosen = order[first : first + size]
            filled = np.concatenate([chosen, np.full(size - len(chosen), chosen[0])])
            batch = self._make(sources, part[filled], local[filled], rows)
            padding = (np.arange(size) >= len(chosen))[rows or slice(None)]
            for name in ('example_weights', 'masked_weights', 'target_weights'):
                if name in batch:
                    batch[name][padding] = 0
            yield batch

    @property
    def fingerprint(self) -> str:
        data = self.config.data
        parts = {
            'version': _VERSION,
            'seed': self.config.seed,
            'split': self.split,
            'source': data.source,
            **{name: to_dict(getattr(data, name)) for name in ('layout', 'concatenate', 'mlm', 'lm', 'span')},
            'weights': data.weights,
            'stages': stages(self.config),
            'corpora': [_identity(corpus, self.split) for corpus in self._corpora],
            'examples': [getattr(source, 'fingerprint', '') for source in self.sources(self.stages[0])],
        } | ({'shares': self.shares()} if self._named else {}) | ({'group_by_length': self.config.batch_size} if data.group_by_length else {})
        parts |= {'pack': True} if data.pack else {}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def loader(self, first_step: int, last_step: int, rows: slice | None = None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(step, batch) for first_step <= step < last_step, made ahead of time.

        By config.data.workers processes, or by threads of this one if 0; neither their number nor config.data.prefetch changes a batch.
        What goes wrong in one of them is raised here, a `UserError` as itself.
        """
        data = self.config.data
        return loading.load(functools.partial(self.batch, rows=rows), first_step, last_step, data.workers, data.prefetch)


def _opened(kind: type[DataFunction], config: Config, split: str, corpora: list[Any] | None, features: list[tuple[str, bool]]) -> DataFunction:
    data = kind(config, split, corpora)
    return data.with_features(features) if features else data


def _stages(config: Config) -> list[Stage]:
    """Stages with their example counters: one that returns to a length goes on where the last of that length ended, repeating nothing."""
    taken: dict[int, int] = {}
    given = stages(config)
    result = []
    for number, (first, length, size, most) in enumerate(given):
        result.append(Stage(first, length, size, most, taken.get(length, 0)))
        if number + 1 < len(given):
            taken[length] = result[-1].first_example + (given[number + 1][0] - first) * size
    return result


def _identity(corpus, split: str):
    """What a prepared corpus holds, wherever it lies."""
    shards = corpus.manifest['splits'][split]['shards']
    return [corpus.manifest['tokenizer_sha256'], *([shard[name] for name in ('sha256', 'documents', 'sentences')] for shard in shards)]
