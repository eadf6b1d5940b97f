"""Several heads on one body that learn together (multi-task learning), each with data, a loss and a weight of its own: as configs of runs of one head.

    Config(heads=(HeadConfig('mood', loss=..., model=..., data=...), HeadConfig('tags', weight=0.5, ...)), model=..., data=..., optim=..., ...)

A batch is of one head, as in MT-DNN (Liu et al., 2019, algorithm 1): what is minimised is the sum over heads of share of the batches x weight x loss. A head
that a batch is not of has a gradient of 0 there, as an embedding has whose word is not in it: decay and moments of the optimiser go on.

Data, layers, loss and scores of a head are those of its single run, made from `single(config, head)`; a batch carries its name as a feature, 'head/mood': names
of features are part of what is compiled, so there is a step for each head and nothing to choose inside it.

    batch       {'tokens': ..., 'labels': ..., 'head/mood': int32 [B], ones}
    parameters  encoder/... of all, heads/mood/classifier/kernel, heads/tags/classifier/kernel
    scores      mood/accuracy, tags/f1, average
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import math
import re

from t5x_lite.config import Config, HeadConfig, HeadModelConfig, Rates
from t5x_lite.errors import UserError, nearest

FEATURE = 'head/'  # of a batch, with the name of its head
SHARED = ('tokenizer', 'layout', 'baselines', 'workers', 'prefetch')  # of config.data: what heads have in common
_TAKEN = ('layers', 'embeddings', 'relative_bias')  # names that paths of parameters read in another way


def head_of(name: str, config: Config) -> HeadConfig:
    """A head that is made as a run of its own would be: from the config of that run."""
    of_model = {field.name: getattr(config.model, field.name) for field in dataclasses.fields(HeadModelConfig)}
    usual = type(config.data)()
    data = dataclasses.replace(config.data, **{field: getattr(usual, field) for field in SHARED})
    return HeadConfig(name, metric=config.checkpoint.best_metric, loss=config.loss, model=HeadModelConfig(**of_model), data=data)


def single(config: Config, head: HeadConfig) -> Config:
    """The config of a run of this head alone."""
    data = dataclasses.replace(head.data, **{name: getattr(config.data, name) for name in SHARED})
    model = dataclasses.replace(config.model, **{field.name: getattr(head.model, field.name) for field in dataclasses.fields(head.model)})
    return dataclasses.replace(config, heads=(), loss=head.loss, model=model, data=data)


def apart(config: Config) -> dict[str, Config]:
    """{name: config} of the runs that this one is: of each head alone, or {'': config}."""
    return {head.name: single(config, head) for head in config.heads} or {'': config}


def find(config: Config, name: str, flag: str) -> HeadConfig:
    """The head of that name.

    Raises:
      UserError: there is none.
    """
    for head in config.heads:
        if head.name == name:
            return head
    if not config.heads:
        raise UserError(f'{flag}: the run has one head, without a name; leave it out')
    raise UserError(f'{flag}: no head {name!r}, {nearest(name, [head.name for head in config.heads])}')


@contextlib.contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Says in `UserError`s about a single run whose it is: 'config.data.train' is 'config.heads.mood.data.train'. '': as they are."""
    try:
        yield
    except UserError as error:
        raise (UserError(_renamed(str(error), name)) if name else error) from error


def _renamed(message: str, name: str) -> str:
    of_model = '|'.join(field.name for field in dataclasses.fields(HeadModelConfig))
    own = rf'\bconfig\.(?=loss\b|data\.(?!(?:{"|".join(SHARED)})\b)|model\.(?:{of_model})\b)'
    renamed = re.sub(own, f'config.heads.{name}.', message)
    return renamed if renamed != message else f'head {name}: {message}'


def name_in(batch: Iterable[str]) -> str:
    """Of the head that a batch is of."""
    found = [feature.removeprefix(FEATURE) for feature in batch if feature.startswith(FEATURE)]
    if len(found) != 1:
        raise KeyError(f'{FEATURE}NAME')
    return found[0]


def checks(config: Config) -> Iterator[tuple[bool, str]]:
    """(right, message) of what can be wrong with heads beside their single runs."""
    names, mix = [head.name for head in config.heads], config.mix
    for name in names:
        yield bool(re.fullmatch(r'[\w-]+', name)) and name not in _TAKEN, f'config.heads: {name!r} cannot be a name; write letters and digits, such as sst2'
        yield names.count(name) == 1, f'config.heads: two heads have the name {name}; give one of them another'
    yield mix.maximum > 0, f'config.mix.maximum is {mix.maximum}; it must be above 0'
    yield 0 < mix.temperature < math.inf, f'config.mix.temperature is {mix.temperature}; it must be above 0'
    for head in config.heads:
        where = f'config.heads.{head.name}'
        yield 0 < head.weight < math.inf, f'{where}.weight is {head.weight}; it must be above 0; a head that is not to learn is left out'
        yield 0 < head.rate < math.inf, f'{where}.rate is {head.rate}; it must be above 0; a head that is not to learn is left out'
        yield (
            head.rate == 1.0 or mix.rates == Rates.given,
            f'{where}.rate is {head.rate}, and config.mix.rates {mix.rates.name}; add --config.mix.rates=given, or leave it out',
        )
        yield not head.data.stages, f'{where}.data.stages: rows of several heads have one length and batch size each; leave it out'
        for field in SHARED[:2]:
            ours, theirs = getattr(head.data, field), getattr(config.data, field)
            usual = getattr(type(head.data), field)
            yield ours in (usual, theirs), f'{where}.data.{field}: one body reads the rows of all heads; give it once, as --config.data.{field}'
    if config.heads:
        usual = type(config.data)()
        for field in dataclasses.fields(usual):
            same = field.name in SHARED or getattr(config.data, field.name) == getattr(usual, field.name)
            yield same, f'config.data.{field.name} is of one head, and there are several; give it to one of them: --config.heads.{names[0]}.data.{field.name}'
