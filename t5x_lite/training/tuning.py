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

from t5x_lite.config import Features, TuneConfig
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
class Part:
    """Some of the parameters.

    Attributes:
      layers: {path: numbers of the layers of a stacked array, ascending; None: the whole array}.
    """

    layers: dict[str, tuple[int, ...] | None]

    def select(self, params: Any) -> Any:
        """This part of a tree (abstract or not), as a tree with arrays of these layers."""
        found = paths.leaves(params)
        return paths.nested({path: found[path] if kept is None else _rows(found[path], kept) for path, kept in self.layers.items()})


def put(params: Any, parts: Sequence[Part], trees: Sequence[Any]) -> Any:
    """`params` with trees, each as `select` of its part gives, in their places. The parts share no layer."""
    flat = [paths.leaves(tree) for tree in trees]

    def take(path: str, leaf: Any) -> Any:
        holders = [(part.layers[path], new[path]) for part, new in zip(parts, flat, strict=True) if path in part.layers]
        if not holders:
            return leaf
        if holders[0][0] is None:
            return holders[0][1]
        where = {layer: (new, row) for kept, new in holders for row, layer in enumerate(kept)}
        # In pieces, each of neighbouring layers: what lies below the first that learns can be left out of a backward pass.
        pieces, first = [], 0
        while first < leaf.shape[0]:
            source, row = where[first] if first in where else (leaf, first)
            count = 1
            while first + count < leaf.shape[0]:
                next_source, next_row = where[first + count] if first + count in where else (leaf, first + count)
                if next_source is not source or next_row != row + count:
                    break
                count += 1
            pieces.append(source[row : row + count])
            first += count
        return pieces[0] if len(pieces) == 1 else (jnp if isinstance(leaf, jax.Array) else np).concatenate(pieces)

    return paths.map_paths(take, params)


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What of each parameter learns.

    Attributes:
      parts: what learns, by when it began (config.tune.unfreeze); else one.
      rates: for each part {path: factor on the learning rate, or one of each of its layers}; empty: all 1.
      whole: everything learns, from the beginning.
    """

    parts: tuple[Part, ...]
    rates: tuple[dict[str, Any], ...]
    whole: bool

    def select(self, params: Any) -> Any:
        """What learns, as a tree, or a tuple of one for each part; `params` itself where that is everything."""
        if self.whole:
            return params
        trees = tuple(part.select(params) for part in self.parts)
        return trees if len(trees) > 1 else trees[0]

    def merge(self, params: Any, learnt: Any) -> Any:
        """`params` with `learnt`, as `select` gives it, in its place."""
        return learnt if self.whole else put(params, self.parts, learnt if len(self.parts) > 1 else (learnt,))

    @property
    def cuts(self) -> dict[str, int]:
        """{path of stacked layers: the first of them in which anything learns}, of stacks whose lowest layers do not learn (models/transformer.cut_at)."""
        found: dict[str, int] = {}
        for path, kept in (each for part in self.parts for each in part.layers.items() if paths.is_stacked(each[0])):
            stack, first = f'{_parts(path)[0]}layers', 0 if kept is None else min(kept)
            found[stack] = min(first, found[stack]) if stack in found else first
        return {} if self.whole else {stack: first for stack, first in found.items() if first}

    def factors(self) -> tuple[dict[str, np.ndarray], ...]:
        """`rates` as arrays, float32 [] or [layers], which `scale` takes."""
        return tuple({path: np.asarray(factor, np.float32) for path, factor in rates.items()} for rates in self.rates)

    def scale(self, updates: Any, factors: tuple[dict[str, Any], ...]) -> Any:
        """Updates, as `select` gives parameters, times the factors of their rates."""
        if not any(factors):
            return updates
        if len(self.parts) > 1:
            return tuple(map(_scaled, updates, factors))
        return _scaled(updates, factors[0])


def _scaled(updates: Any, rates: dict[str, Any]) -> Any:
    def scaled(path: str, update: Any) -> Any:
        factor = rates[path]
        return update * jnp.asarray(factor.reshape(factor.shape + (1,) * (update.ndim - factor.ndim)), update.dtype)

    return paths.map_paths(scaled, updates) if rates else updates


def _rows(leaf: Any, layers: tuple[int, ...]) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((len(layers), *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding)
    neighbours = layers == tuple(range(layers[0], layers[-1] + 1))
    return leaf[layers[0] : layers[-1] + 1] if neighbours else leaf[np.array(layers)]


def stages(config: TuneConfig, steps: int) -> list[int]:
    """The steps, from 0, at which something begins to learn, or another rate.

    Raises:
      UserError: one that never comes.
    """
    for begin, pattern, _ in config.unfreeze:
        if begin < 0 or _step(begin, steps) >= steps:
            raise UserError(
                f'config.tune.unfreeze: {pattern!r} begins at {begin:g}, and the run has {steps:,} steps; give a step before its end, or a share of it (0.5)'
            )
    return sorted({0} | {_step(begin, steps) for begin, _, _ in config.unfreeze})


def _step(begin: float, steps: int) -> int:
    """Of a step, or a share (below 1) of all steps."""
    return round(begin * steps) if begin < 1 else int(begin)


def plan(config: TuneConfig, params: Any, fresh: Sequence[str] = (), *, step: int = 0, steps: int = 1) -> Tuning:
    """The rules of a config, held against parameters (abstract or not), as they are from `step` of `steps` on.

    Args:
      fresh: config.init_fresh: patterns of what starts at random, and so learns beside adapters.

    Raises:
      UserError: a pattern that is none or matches nothing, more layers frozen than there are, nothing left that learns; see `stages` too.
    """
    stages(config, steps)
    named = {path: layer_paths(path, leaf) for path, leaf in paths.leaves(params).items()}
    every = [name for names in named.values() for name in names]
    adapted = [name for name in every if adapters.is_added(name)]
    only_new = bool(adapted) or config.features is not Features.none
    learns = dict.fromkeys(every, not config.train and not only_new)
    learns |= dict.fromkeys([name for name in every if only_new and any(re.fullmatch(pattern, name) for pattern in fresh)], True)
    learns |= dict.fromkeys(adapted, True)
    for pattern in config.train:
        learns |= dict.fromkeys(_matches(pattern, every, 'config.tune.train'), True)
    if config.freeze_layers:
        learns |= dict.fromkeys(_bottom(config.freeze_layers, named), False)
    for pattern in config.freeze:
        learns |= dict.fromkeys(_matches(pattern, every, 'config.tune.freeze'), False)
    begins, now = _unfreezing(config, every, step, steps)
    learns |= {name: begin <= step for name, begin in begins.items()}
    learns |= dict.fromkeys([name for name in adapted if not adapters.learns(name)], False)
    if not any(learns.values()):
        raise UserError('config.tune leaves nothing that learns; narrow config.tune.freeze and .freeze_layers, or widen config.tune.train')
    factors = _factors(config, named, now)
    any_rates = any(factors[name] != 1.0 for name in every if learns[name])
    parts, rates = [], []
    for first in sorted({begins[name] if name in begins else 0 for name in every if learns[name]}):
        layers: dict[str, tuple[int, ...] | None] = {}
        for path, names in named.items():
            kept = tuple(n for n, name in enumerate(names) if learns[name] and (begins[name] if name in begins else 0) == first)
            if kept:
                layers[path] = kept if len(kept) < len(names) else None
        parts.append(Part(layers))
        rates.append({path: _rates([factors[name] for name in named[path]], path, kept) for path, kept in layers.items()} if any_rates else {})
    return Tuning(tuple(parts), tuple(rates), whole=all(learns.values()) and len(parts) == 1)


def learnt(config: TuneConfig, params: Any, fresh: Sequence[str], steps: int, beside: Sequence[str]) -> Part | None:
    """What a run has changed at its end, and the paths `beside`; None where that is everything."""
    last = plan(config, params, fresh, step=stages(config, steps)[-1], steps=steps)
    if last.whole:
        return None
    found = paths.leaves(params)
    rows: dict[str, set[int]] = {}
    for part in last.parts:
        for path, kept in part.layers.items():
            rows.setdefault(path, set()).update(range(found[path].shape[0]) if kept is None and paths.is_stacked(path) else kept or ())
    whole = {path for path, kept in rows.items() if not paths.is_stacked(path) or len(kept) == found[path].shape[0]} | set(beside)
    if whole == found.keys():
        return None
    return Part({path: None if path in whole else tuple(sorted(rows[path])) for path in found if path in rows or path in whole})


def _rates(of_layers: list[float], path: str, kept: tuple[int, ...] | None) -> Any:
    return [of_layers[number] for number in (kept or range(len(of_layers)))] if paths.is_stacked(path) else of_layers[0]


def _unfreezing(config: TuneConfig, every: Sequence[str], step: int, steps: int) -> tuple[dict[str, int], dict[str, float]]:
    """({path: the step from which it learns} of what config.unfreeze names, {path: its factor at `step`}); of what has begun, the latest entry counts."""
    begins: dict[str, int] = {}
    factors: dict[str, float] = {}
    for begin, pattern, factor in sorted(config.unfreeze, key=lambda entry: _step(entry[0], steps)):
        for name in _matches(pattern, every, 'config.tune.unfreeze'):
            first = _step(begin, steps)
            begins.setdefault(name, first)
            if first <= step:
                factors[name] = factor
    return begins, factors


def _matches(pattern: str, names: Sequence[str], field: str) -> list[str]:
    try:
        found = [name for name in names if re.fullmatch(pattern, name)]
    except re.error as error:
        raise UserError(f'{field}: {pattern!r} is not a regular expression ({error})') from error
    if not found:
        some = names[:: max(1, len(names) // 5)]  # of heads, embeddings and layers
        raise UserError(f'{field}: {pattern!r} matches no parameter; paths are such as {", ".join(some)}')
    return found


def _bottom(layers: float, named: dict[str, list[str]]) -> list[str]:
    """The embeddings, and what belongs to the first `layers` of each stack, or to that share (below 1) of its depth, rounded, halves up."""
    found = [path for path in named if _EMBEDDINGS.fullmatch(path)]
    for path, names in named.items():
        if paths.is_stacked(path):
            count = int(layers * len(names) + 0.5) if layers < 1 else int(layers)
            if count > len(names):
                raise UserError(f'config.tune.freeze_layers={count}, and the stack of {_parts(path)[0].rstrip("/") or "the model"} has {len(names)} layers; lower it')
            found += names[:count]
    return found


def _factors(config: TuneConfig, named: dict[str, list[str]], now: dict[str, float]) -> dict[str, float]:
    """Of each layer's path: that of `now`, else the first of config.rates that matches, times config.layer_decay for each layer above it."""
    every = [name for names in named.values() for name in names]
    factors = dict(now)
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
