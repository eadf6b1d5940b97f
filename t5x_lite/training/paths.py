"""Ordered rules over parameter paths: the first pattern that matches a path decides.

    rules = (('.*/(bias|scale)', 0.0), ('.*', 0.01))
    values(rules, params, 'config.optim.decay')     a tree like params with 0.0 or 0.01 for each leaf

A parameter that no rule covers is an error, and so is a rule that decides nothing: a misspelt pattern must not pass silently.
"""

from collections.abc import Sequence
import re
from typing import Any

import jax

from t5x_lite.errors import UserError


def path_of(keys: Sequence[Any]) -> str:
    """'encoder/layers/mlp/wi/kernel' for a path of jax.tree_util."""
    return '/'.join(str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in keys)


def leaves(tree: Any) -> dict[str, Any]:
    """{path: leaf}, in the tree's order."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def map_paths(function, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` with the path as first argument."""
    return jax.tree_util.tree_map_with_path(lambda keys, *parts: function(path_of(keys), *parts), tree, *rest)


def is_stacked(path: str) -> bool:
    """Whether a parameter's axis 0 is the layers of a stack (see models.transformer.layer_stack)."""
    return '/layers/' in f'/{path}'


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The tree of {path: leaf}: the inverse of `leaves`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split('/')
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = leaf
    return tree


def values(rules: Sequence[tuple[str, Any]], tree: Any, field: str, *, part: bool = False) -> Any:
    """The value of the first rule whose pattern matches the whole path of each leaf.

    Args:
      part: `tree` is a part of the parameters, in which a rule may decide nothing.

    Raises:
      UserError: naming `field`, for a bad pattern, a leaf that no rule matches, or a rule that decides no leaf.
    """
    compiled = []
    for pattern, value in rules:
        try:
            compiled.append((re.compile(pattern), value))
        except re.error as error:
            raise UserError(f'{field}: {pattern!r} is not a regular expression ({error})') from error
    used = set()

    def value_of(path: str, _: Any) -> Any:
        for index, (pattern, value) in enumerate(compiled):
            if pattern.fullmatch(path):
                used.add(index)
                return value
        raise UserError(f"{field}: no rule covers parameter {path}; add a last rule ('.*', value)")

    result = map_paths(value_of, tree)
    for index, (pattern, _) in enumerate(compiled):
        if index not in used and not part:
            paths = ', '.join(list(leaves(tree))[:3])
            raise UserError(f'{field}: rule {pattern.pattern!r} decides no parameter; mend or remove it (paths are such as {paths})')
    return result
