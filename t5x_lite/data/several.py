"""The data of several heads as one function, (seed, step) -> batch; each batch is of one of them. (numpy only)

Which head has the batch of a step follows from the step: shares are exact and spread evenly (`Mixture`). A head's batches are those of its single run, in
their order, so with equal rates of two heads:

    step     0          1          2          3
    batch    mood's 0   tags' 0    mood's 1   tags' 1
"""

import functools
import hashlib
import json
from collections.abc import Iterator

import numpy as np

from t5x_lite import several
from t5x_lite.config import Config, Rates
from t5x_lite.data import loading
from t5x_lite.data.mixing import PERIOD, Mixture
from t5x_lite.data.pipeline import DataFunction, Stage


class SeveralData:
    """The batches of one split; what a `DataFunction` offers to those who train.

    Attributes:
      single: {name: the data of a head alone}.
      stages: one, as long as the longest rows of any head.

    Raises:
      UserError: anything wrong with the data of a head, which is named.
    """

    def __init__(self, config: Config, split: str):
        self.split, self.single = split, {}
        for name, one in several.apart(config).items():
            with several.errors_of(name):
                self.single[name] = DataFunction(one, split)
        self.names = tuple(self.single)
        self.complete(config)
        self.stages = [Stage(0, max(data.stages[0].seq_len for data in self.single.values()), config.batch_size, 0, 0)]
        self._mixture = Mixture([self._rate(name) for name in self.names])

    def complete(self, config: Config) -> None:
        """Takes a config in which is filled in what the data told."""
        self.config = config
        for name, one in several.apart(config).items():
            self.single[name].complete(one)

    def __reduce__(self):
        return type(self), (self.config, self.split)

    def _rate(self, name: str) -> float:
        mix, head = self.config.mix, several.find(self.config, name, 'config.heads')
        if mix.rates == Rates.given:
            return head.rate
        return 1.0 if mix.rates == Rates.equal else min(self._examples(name), mix.maximum) ** (1 / mix.temperature)

    def _examples(self, name: str) -> int:
        data = self.single[name]
        return sum(map(len, data.sources(data.stages[0])))

    @property
    def num_examples(self) -> int:
        return sum(map(self._examples, self.names))

    @property
    def corpora(self) -> tuple:
        return tuple(corpus for data in self.single.values() for corpus in data.corpora)

    @property
    def first_steps(self) -> tuple[int, ...]:
        """A step of each head, its first."""
        period = self._mixture(np.arange(PERIOD))[0].tolist()
        return tuple(map(period.index, range(len(self.names))))

    def at(self, step: int) -> tuple[str, int]:
        """(the head that has the batch of a step, which of its batches)."""
        part, local = self._mixture(np.array([step]))
        return self.names[part[0]], int(local[0])

    def config_at(self, step: int) -> Config:
        """The single run whose batch that of a step is."""
        return self.single[self.at(step)[0]].config

    def stage_at(self, step: int) -> Stage:
        del step
        return self.stages[0]

    def batch(self, step: int, rows: slice | None = None) -> dict[str, np.ndarray]:
        name, local = self.at(step)
        batch = self.single[name].batch(local, rows)
        return batch | {several.FEATURE + name: np.ones(len(batch['tokens']), np.int32)}

    def indices(self, step: int) -> np.ndarray:
        """int64 [B]: the numbers of the examples of a step, of its head's."""
        name, local = self.at(step)
        return self.single[name].indices(local)

    def shares(self) -> dict[str, float]:
        """{name: share of the batches}."""
        return dict(zip(self.names, self._mixture.shares.tolist()))

    def without_batch(self) -> dict[str, str]:
        """{name: what to say} of heads whose share is too small for a single batch in config.steps."""
        steps = self.config.steps
        there = set(self._mixture(np.arange(min(steps, PERIOD)))[0].tolist())
        return {
            name: f'its share of the batches is {share:.2%}, and none of the {steps:,} of this run is of it: it learns nothing; give it more '
            f'(config.mix.rates=equal, or given with config.heads.{name}.rate), or raise config.steps'
            for number, (name, share) in enumerate(self.shares().items()) if number not in there
        }  # fmt: skip

    def counts(self, step: int) -> dict[str, int]:
        """{name: rows} in the batch of a step."""
        return {name: self.stages[0].batch_size * (name == self.at(step)[0]) for name in self.names}

    def describe(self) -> list[str]:
        lines = [f'{name}: {line}' for name, data in self.single.items() for line in data.describe()]
        if self.split == 'train':
            lines.append('shares of the batches: ' + ', '.join(f'{name} {share:.2%}' for name, share in self.shares().items()))
        return lines

    @property
    def fingerprint(self) -> str:
        parts = {'shares': self.shares(), 'heads': {name: data.fingerprint for name, data in self.single.items()}}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def loader(self, first_step: int, last_step: int, rows: slice | None = None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """As that of a `DataFunction`."""
        data = self.config.data
        return loading.load(functools.partial(self.batch, rows=rows), first_step, last_step, data.workers, data.prefetch)


def data_function(config: Config, split: str) -> DataFunction | SeveralData:
    """The data of a run."""
    return SeveralData(config, split) if config.heads else DataFunction(config, split)
