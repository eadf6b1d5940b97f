"""Mixout (Lee et al., 2020): while a model learns, each weight is, with a probability, the pretrained one.

    mixed = (u where dropped, w elsewhere, less p u) / (1 - p)        with w what is learnt, u what it began as, p config.tune.mixout

The mean of `mixed` over what is dropped is w, so evaluation uses w as it is; with u = 0 this is dropout of weights. All that learns and was not drawn at
random is mixed (biases and norms too, where the authors' code mixes the weights of linear layers alone). One draw a step, for all its microbatches; what is
dropped is a function of (seed, step, path, place in the array): the same on any mesh.
"""

from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
import optax

from t5x_lite.config import Config
from t5x_lite.errors import UserError
from t5x_lite.training import paths
from t5x_lite.training.optim import from_pretrained


class Pretrained(NamedTuple):
    """In the state of the optimiser, so that a resumed run knows it: {path of a parameter: what it was}, nested."""

    values: Any


def remembering(config: Config, transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """`transformation`, with what is to be mixed in kept in its state; itself where config.tune.mixout is 0."""
    if not config.tune.mixout:
        return transformation

    def init(params: Any) -> Pretrained:
        return Pretrained(paths.nested({path: leaf + 0 for path, leaf in paths.leaves(params).items() if from_pretrained(config, path)}))

    return optax.chain(transformation, optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state)))


def check(config: Config, learns: Any) -> None:
    """Raises UserError where config.tune.mixout has nothing to mix among what learns (a tree, abstract or not)."""
    if not config.tune.mixout:
        return
    # Parts of config.tune.unfreeze are a tuple of trees.
    names = [path for tree in (learns if isinstance(learns, tuple) else (learns,)) for path in paths.leaves(tree)]
    if not any(from_pretrained(config, path) for path in names):
        raise UserError(
            f'config.tune.mixout={config.tune.mixout} mixes what learns with its pretrained value, and nothing that learns has one '
            f'({", ".join(names[:3])}); leave it out'
        )


def mixed(config: Config, learns: Any, opt_state: Any, step: jax.Array, seed: Any) -> Any:
    """What learns (a tree, or a tuple of one for each part), as a step of the run of this seed sees it."""
    remembered = [leaf.values for leaf in jax.tree.leaves(opt_state, is_leaf=_is_pretrained) if _is_pretrained(leaf)]
    trees = learns if isinstance(learns, tuple) else (learns,)
    done = tuple(_mixed(config, tree, paths.leaves(start), step, seed) for tree, start in zip(trees, remembered, strict=True))
    return done if isinstance(learns, tuple) else done[0]


def _mixed(config: Config, tree: Any, start: dict[str, jax.Array], step: jax.Array, seed: Any) -> Any:
    p, key = config.tune.mixout, jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), zlib.crc32(b'mixout')), step)

    def mix(path: str, w: jax.Array) -> jax.Array:
        if path not in start:
            return w
        u = start[path]
        dropped = jax.random.bernoulli(jax.random.fold_in(key, zlib.crc32(path.encode())), p, w.shape)
        return (jnp.where(dropped, u, w) - p * u) / (1 - p)

    return paths.map_paths(mix, tree)


def _is_pretrained(leaf: Any) -> bool:
    return isinstance(leaf, Pretrained)
