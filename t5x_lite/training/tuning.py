"""Which parameters learn, and how fast: config.tune, as rules over paths.

In these rules every layer of a stack has a path of its own, 'encoder/layers/3/mlp/wi/kernel', though its parameters lie in one array with those of the other
layers. What does not learn has no gradient and no state in the optimiser.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import TuneConfig
from t5x_lite.errors import UserError
from t5x_lite.training import adapters, paths

_EMBEDDINGS = re.compile(r'(.*/)?(embeddings|relative_bias)/.*')


def layer_paths(path: str, leaf: Any) -> list[str]:
    """The paths of the layers of a stacked parameter, or the path itself."""
    if not paths.is_stacked(path):
        return [path]
    before, after = _parts(path)
    return [f'{before}layers/{layer}/{after}' for layer in range(leaf.shape[0])]


def _parts(path: str) -> tuple[str, str]:
    before, after = f'/{path}'.split('/layers/', 1)
    return f'{before}/'.removeprefix('/'), after


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What of each parameter learns.

    Attributes:
      layers: {path: numbers of the layers that learn; None: the whole array}, of what learns in part or whole.
      rates: {path: factor on the learning rate, or one of each of those layers}; empty: all 1.
      whole: everything learns, at one rate.
    """

    layers: dict[str, tuple[int, ...] | None]
    rates: dict[str, Any]
    whole: bool

    def select(self, params: Any) -> Any:
        """What learns, as a tree; `params` itself where that is everything."""
        if self.whole:
            return params
        found = paths.leaves(params)
        return paths.nested({path: found[path] if kept is None else _rows(found[path], kept) for path, kept in self.layers.items()})

    def merge(self, params: Any, learnt: Any) -> Any:
        """`params` with `learnt`, a tree as `select` gives, in its place."""
        if self.whole:
            return learnt
        new = paths.leaves(learnt)

        def take(path: str, leaf: Any) -> Any:
            if path not in self.layers:
                return leaf
            kept = self.layers[path]
            if kept is None:
                return new[path]
            first = kept[0]
            if kept == tuple(range(first, leaf.shape[0])):  # an upper part: what lies below it can be left out of a backward pass
                return jnp.concatenate([leaf[:first], new[path]])
            return leaf.at[np.array(kept)].set(new[path])

        return paths.map_paths(take, params)

    def scale(self, updates: Any) -> Any:
        """Updates, a tree as `select` gives, times the factors of their rates."""
        if not self.rates:
            return updates

        def scaled(path: str, update: Any) -> Any:
            factor = np.asarray(self.rates[path], np.float32)
            return update * jnp.asarray(factor.reshape(factor.shape + (1,) * (update.ndim - factor.ndim)), update.dtype)

        return paths.map_paths(scaled, updates)


def _rows(leaf: Any, layers: tuple[int, ...]) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(layers), *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)
    return leaf[layers[0] :] if layers == tuple(range(layers[0], leaf.shape[0])) else leaf[np.array(layers)]


def plan(config: TuneConfig, params: Any, fresh: Sequence[str] = ()) -> Tuning:
    """The rules of a config, held against parameters (abstract or not).

    Args:
      fresh: config.init_fresh: patterns of what starts at random, and so learns beside adapters.

    Raises:
      UserError: a pattern that is none or matches nothing, more layers frozen than there are, nothing left that learns.
    """
    named = {path: layer_paths(path, leaf) for path, leaf in paths.leaves(params).items()}
    every = [name for names in named.values() for name in names]
    adapted = [name for name in every if adapters.is_added(name)]
    learns = dict.fromkeys(every, not config.train and not adapted)
    learns |= dict.fromkeys([name for name in every if adapted and any(re.fullmatch(pattern, name) for pattern in fresh)], True)
    learns |= dict.fromkeys(adapted, True)
    for pattern in config.train:
        learns |= dict.fromkeys(_matches(pattern, every, 'config.tune.train'), True)
    if config.freeze_layers:
        learns |= dict.fromkeys(_bottom(config.freeze_layers, named), False)
    for pattern in config.freeze:
        learns |= dict.fromkeys(_matches(pattern, every, 'config.tune.freeze'), False)
    learns |= dict.fromkeys([name for name in adapted if not adapters.learns(name)], False)
    if not any(learns.values()):
        raise UserError('config.tune leaves nothing that learns; narrow config.tune.freeze and .freeze_layers, or widen config.tune.train')
    layers: dict[str, tuple[int, ...] | None] = {}
    for path, names in named.items():
        kept = tuple(number for number, name in enumerate(names) if learns[name])
        if kept:
            layers[path] = kept if len(kept) < len(names) else None
    factors = _factors(config, named)
    rates = {}
    if any(factors[name] != 1.0 for name in every if learns[name]):
        for path, kept in layers.items():
            of_layers = [factors[name] for name in named[path]]
            rates[path] = [of_layers[number] for number in (kept or range(len(of_layers)))] if paths.is_stacked(path) else of_layers[0]
    return Tuning(layers, rates, whole=all(learns.values()))


def _matches(pattern: str, names: Sequence[str], field: str) -> list[str]:
    try:
        found = [name for name in names if re.fullmatch(pattern, name)]
    except re.error as error:
        raise UserError(f'{field}: {pattern!r} is not a regular expression ({error})') from error
    if not found:
        raise UserError(f'{field}: {pattern!r} matches no parameter; paths are such as {", ".join(names[:2] + names[-2:])}')
    return found


def _bottom(count: int, named: dict[str, list[str]]) -> list[str]:
    """The embeddings, and what belongs to the first `count` layers of each stack."""
    found = [path for path in named if _EMBEDDINGS.fullmatch(path)]
    for path, names in named.items():
        if paths.is_stacked(path):
            if count > len(names):
                raise UserError(f'config.tune.freeze_layers={count}, and the stack of {_parts(path)[0].rstrip("/") or "the model"} has {len(names)} layers; lower it')
            found += names[:count]
    return found


def _factors(config: TuneConfig, named: dict[str, list[str]]) -> dict[str, float]:
    """Of each layer's path: the first of config.rates that matches, times config.layer_decay for each layer above it."""
    every = [name for names in named.values() for name in names]
    factors = {}
    for pattern, factor in config.rates:
        for name in _matches(pattern, every, 'config.tune.rates'):
            factors.setdefault(name, factor)
    depth = max((len(names) for path, names in named.items() if paths.is_stacked(path)), default=0)

    def above(path: str, number: int) -> int:
        """Layers between it and the top: 0 for heads, 1 for the last layer, depth + 1 for embeddings (Clark et al., 2020, ELECTRA; Howard & Ruder, 2018)."""
        if paths.is_stacked(path):
            return len(named[path]) - number
        return depth + 1 if _EMBEDDINGS.fullmatch(path) else 0

    return {
        name: (factors[name] if name in factors else 1.0) * config.layer_decay ** above(path, number)
        for path, names in named.items()
        for number, name in enumerate(names)
    }
