"""What a family of Hugging Face models is made of: rules that place its weights in our tree, and a few functions."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from t5x_lite.config import ModelConfig


class Rule(NamedTuple):
    """One weight of theirs and where it stands in our tree. A letter is an axis, whose size `Family.sizes` gives.

    `Rule('encoder', 'layer.{}.dense.weight', 'FD', 'encoder/layers/wi/kernel', 'DF')`: layer i's [F, D] is transposed into [i] of our
    [N, D, F]. Without '{}' there is no axis N. An axis V is padded with zeros to a multiple of `vocab_multiple` in ours, cut in theirs.

    `Rule('body', 'h.{}.c_attn.weight', 'DE', 'decoder/layers/attention/key/kernel', 'DE', part=1, parts=3)`: ours is the second third of
    their [D, 3 E].
    """

    group: str  # 'encoder', 'mlm', ...: comes whole or not at all
    name: str
    theirs: str
    path: str
    ours: str
    layers: str = 'N'  # the axis of layers that '{}' counts: stacks of a model may differ in depth
    part: int = 0
    parts: int = 1  # of ours that are joined along the last axis of theirs

    @property
    def stacked(self) -> bool:
        return '{}' in self.name

    def names(self, sizes: Mapping[str, int]) -> list[str]:
        """Of the weights behind the rule: one, or one a layer."""
        return [self.name.format(layer) for layer in range(sizes[self.layers])] if self.stacked else [self.name]

    def their_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        *shape, last = (sizes[axis] for axis in self.theirs)
        return (*shape, last * self.parts)

    def our_shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        return ((sizes[self.layers],) if self.stacked else ()) + tuple(sizes[axis] for axis in self.ours)

    def to_ours(self, value: np.ndarray) -> np.ndarray:
        """Their weight, whole, as that of one layer of ours."""
        width = value.shape[-1] // self.parts
        return value[..., self.part * width : (self.part + 1) * width].transpose([self.theirs.index(axis) for axis in self.ours])

    def to_theirs(self, value: np.ndarray) -> np.ndarray:
        """One layer of ours, as their weight or the part of it."""
        return value.transpose([self.ours.index(axis) for axis in self.theirs])


class Family(Protocol):
    """What `bert_flax.hf.Bert` shows for BERT."""

    modules: Mapping[str, str]  # architecture in config.json -> dotted name of our module
    body: str  # dotted name of the body that heads of ours are put on
    heads: frozenset[str]  # dotted names of heads that, on this body, transformers has too
    required: Mapping[str, tuple[str, ...]]  # architecture -> groups of rules without which its folder is broken
    always: tuple[str, ...]  # groups without which any folder is broken
    private: frozenset[str]  # groups of heads, whose names other architectures use for other things: read only where required
    labelled: frozenset[str]  # those of them whose outputs config.json names
    tied: Mapping[str, str]  # second name of a weight -> its name in `rules`
    head: str  # the one among these that may be a weight of its own (config.tie_embeddings); '' where none may
    depth: str  # the fields that count layers, for messages
    loss: str  # of a workdir made from a folder, with the source of its examples; '' where nothing follows from the model
    source: str

    def rules(self, config: ModelConfig) -> tuple[Rule, ...]: ...
    def canonical(self, name: str) -> str | None: ...
    def written(self, name: str, architecture: str) -> str: ...
    def sizes(self, config: ModelConfig) -> dict[str, int]: ...
    def architecture(self, stated: list[str], groups: set[str]) -> str: ...
    def export_architecture(self, groups: set[str]) -> str: ...
    def model_config(self, fields: dict[str, Any], where: str) -> ModelConfig: ...
    def exports(self, config: ModelConfig) -> bool: ...  # whether it, of the families that share a module, is the one to write this model
    def fields(self, config: ModelConfig) -> dict[str, Any]: ...
