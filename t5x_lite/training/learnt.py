"""Checkpoints that hold only what a run learnt; the rest is its base, the weights that it began with (config.init_from), known by their fingerprint.

    run metadata: {'base': {
        'path': '/runs/base/checkpoints/900', 'fingerprint': '5f0c...', 'merged': False, 'taken': ['encoder/embeddings/word/embedding', ...],
        'layers': {'encoder/layers/mlp/wi/kernel': [3]}}}

'layers' says which layers of a stacked array are there, where it is not all of them; 'taken' which parameters are, wholly or in part, the base's; 'merged' that
the base had adapters of its own, which went into its weights.
"""

import hashlib
from typing import Any

import numpy as np

from t5x_lite.config import Config, Whole
from t5x_lite.training import adapters, paths, tuning


def wanted(config: Config) -> bool:
    """Whether the checkpoints of a run, where something of its base stays as it was, leave that out."""
    if config.checkpoint.whole is Whole.auto:
        return adapters.wanted(config.tune)
    return config.checkpoint.whole is Whole.no


def fingerprint(params: Any) -> str:
    """Of the names, shapes and numbers of a tree of arrays: the same for a Hugging Face folder and the workdir made of it."""
    digest = hashlib.sha256()
    for path, leaf in sorted(paths.leaves(params).items()):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f'{path} {leaf.dtype} {leaf.shape} '.encode())
        digest.update(leaf.view(np.uint8).reshape(-1).data if leaf.ndim else leaf.tobytes())
    return digest.hexdigest()


def described(base: dict[str, Any], part: tuning.Part, params: Any) -> dict[str, Any]:
    """A base, and what of a run's parameters a checkpoint that holds `part` takes from it."""
    layers = {path: list(kept) for path, kept in part.layers.items() if kept is not None}
    return base | {'layers': layers, 'taken': [path for path in paths.leaves(params) if path in layers or path not in part.layers]}


def part_of(params: Any, base: dict[str, Any]) -> tuning.Part:
    """Which parameters a saved tree holds."""
    return tuning.Part({path: tuple(base['layers'][path]) if path in base['layers'] else None for path in paths.leaves(params)})


def together(base: Any, params: Any, description: dict[str, Any]) -> Any:
    """All parameters of a run, as nested dicts: its base's, and in their places those that it learnt. Arrays that did not learn are the base's own."""
    if description['merged']:
        base = adapters.merged(base)
    given, learnt, part = paths.leaves(base), paths.leaves(params), part_of(params, description)
    base = paths.nested({path: given[path] for path in description['taken']})
    new = {path: leaf for path, leaf in learnt.items() if part.layers[path] is None}
    partly = tuning.Part({path: kept for path, kept in part.layers.items() if kept is not None})
    return paths.nested(paths.leaves(tuning.put(base, [partly], [paths.nested({path: learnt[path] for path in partly.layers})])) | new)
