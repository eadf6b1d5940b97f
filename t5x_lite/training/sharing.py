"""What the runs of one process share: a step is compiled once for all runs that differ only in numbers which shape no computation.

    seed, steps, epochs, ema_decay, optim.learning_rate, .warmup_steps, .warmup_fraction, .end_fraction, .b1, .b2, .eps, .decay, .clip_norm,
    tune.rates, tune.layer_decay

These are inputs of a step (`step.numbers`). None of them may come from nothing or go to nothing between two runs that share: a decay, a moving average, a
clipping or a factor of 0 (of 1, for rates) leaves work out. Fields that only the host reads, such as paths of data, may differ too.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
import json
import re
from typing import Any

from t5x_lite.config import Config
from t5x_lite.config_values import flatten

NUMBERS = (
    'seed', 'steps', 'epochs', 'ema_decay', 'optim.learning_rate', 'optim.warmup_steps', 'optim.warmup_fraction', 'optim.end_fraction', 'optim.b1', 'optim.b2',
    'optim.eps', 'optim.decay', 'optim.clip_norm', 'tune.rates', 'tune.layer_decay',
)  # fmt: skip

# What neither a model nor a loss nor an optimiser reads.
OF_HOST = (
    'init_from', 'init_weights', 'data.path', 'data.weights', 'data.train', 'data.validation', 'data.validation_fraction', 'data.max_examples',
    'data.folds', 'data.fold', 'data.augment', 'data.baselines', 'data.length_buckets', 'data.group_by_length', 'data.pack', 'data.workers', 'data.prefetch',
    'data.tokenizer', 'data.tfds_dir', 'tune.feature_cache', 'optim.nonfinite', 'checkpoint', 'eval', 'decode',
    'log.every_steps', 'log.console_seconds', 'log.stall_seconds', 'log.tensorboard', 'log.profile_steps',
)  # fmt: skip

_FREE = re.compile('(' + '|'.join(map(re.escape, NUMBERS + OF_HOST)) + r')(\..*)?')
_MOST = 64  # compiled functions that are kept; a process that trains many different models would grow with each

_kept: OrderedDict[Hashable, Any] = OrderedDict()


def fixed(config: Config) -> dict[str, Any]:
    """{field: plain value} of a complete config without what may differ; of numbers, whether they are there at all."""
    optim, tune = config.optim, config.tune
    there = {
        'ema_decay': bool(config.ema_decay),
        'optim.clip_norm': bool(optim.clip_norm),
        'optim.decay': [[pattern, bool(decay)] for pattern, decay in optim.decay],
        'tune.rates': [[pattern, factor != 1.0] for pattern, factor in tune.rates],
        'tune.layer_decay': tune.layer_decay != 1.0,
    }
    return {name: value for name, value in flatten(config).items() if not _FREE.fullmatch(name)} | there


def key(config: Config, *more: Hashable) -> Hashable:
    """The same for two runs whose compiled functions are the same; `more` is what the config alone does not say."""
    return (json.dumps(fixed(config), sort_keys=True), *more)


def kept(name: Hashable, make: Callable[[], Any]) -> Any:
    """What was made under this name in this process, or is now."""
    if name not in _kept:
        _kept[name] = make()
        while len(_kept) > _MOST:
            _kept.popitem(last=False)
    _kept.move_to_end(name)
    return _kept[name]


def forget() -> None:
    """Lets go of all of it."""
    _kept.clear()
