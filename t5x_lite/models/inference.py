"""Parameters as predictions read them: the same numbers, where the passes find them without copying or rounding anything again."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.config import ModelConfig
from t5x_lite.models.layers import compute_dtype

LAYERS = 'layers'  # of a stack (transformer.layer_stack), by whatever name the stack itself goes
_ROUNDED = ('kernel', 'embedding')  # every product and every lookup rounds these to the dtype of the model,
_BIAS = 'relative_bias'  # but for a table of what is added to scores, in float32


def to_read(config: ModelConfig, params: Mapping[str, Any], few_rows: bool = False) -> dict[str, Any]:
    """Parameters for passes that change none, on one device.

    Kernels and tables are in the dtype of the model, to which each product would round them.

    On a CPU, layers are arrays of their own, {'layers': {'0': ..., '1': ...}}, and run one after the other: XLA:CPU multiplies by arrays only, so that each
    pass would first copy each layer out of the stack, which for a decoder that reads a single token takes as long as the products, twice. There, too, where
    passes are of few rows (a text, a token), kernels lie the other way round in float32 (products.turned_product): what is slower where there are many.
    """
    dtype = compute_dtype(config)

    def rounded_leaf(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        names = [part.key for part in path]
        return jnp.asarray(leaf, dtype) if names[-1] in _ROUNDED and _BIAS not in names else jnp.asarray(leaf)

    rounded = jax.tree_util.tree_map_with_path(rounded_leaf, dict(params))
    if jax.default_backend() != 'cpu':
        return rounded
    return _turned(_apart(rounded)) if few_rows and dtype == jnp.float32 else _apart(rounded)


def _apart(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {name: _layers(value) if name == LAYERS and isinstance(value, Mapping) else _apart(value) for name, value in tree.items()}


def _layers(stacked: Mapping[str, Any]) -> dict[str, Any]:
    count = jax.tree.leaves(stacked)[0].shape[0]
    return {str(number): jax.tree.map(lambda leaf: leaf[number], stacked) for number in range(count)}


def _turned(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    found = {name: value if name == _BIAS else _turned(value) for name, value in tree.items() if name != 'kernel'}
    if 'kernel' in tree:
        found['turned'] = tree['kernel'].T
    elif 'embedding' in tree:
        found['turned'] = tree['embedding']  # a table lies so already
    return found
