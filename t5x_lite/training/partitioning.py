"""The mesh, and where each array of a run lives on it. Rules are data in the config; a misspelt axis is an error."""

import math
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from t5x_lite.config import Config, Layout, MeshConfig
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError, nearest
from t5x_lite.models.layers import padded_vocabulary
from t5x_lite.models.placing import stored_spec
from t5x_lite.stages import stages
from t5x_lite.training import paths, slices

AXES = ('data', 'fsdp', 'tensor', 'sequence')


def axis_sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """Sizes of all axes, -1 resolved.

    Raises:
      UserError: if the axes do not multiply to `devices`.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    given = math.prod(size for size in sizes.values() if size != -1)
    if -1 in sizes.values() and devices % given == 0:
        return {axis: devices // given if size == -1 else size for axis, size in sizes.items()}
    if given != devices or -1 in sizes.values():
        shown = ' x '.join(f'{axis}={size}' for axis, size in sizes.items())
        raise UserError(f'config.mesh {shown} does not fit {devices} devices; the axes must multiply to {devices}, and one of them may be -1')
    return sizes


def make_mesh(config: Config, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh of a run, checked against what is to be divided on it.

    Raises:
      UserError: naming the field that does not divide, and the mend.
    """
    devices = jax.devices() if devices is None else devices
    parts, sizes = slices.apart(config.mesh, devices), axis_sizes(config.mesh, len(devices))
    check_model(config, sizes)
    try:
        return Mesh(slices.order(sizes, parts, config.mesh.slices_along), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    except NotImplementedError as error:  # a torus whose sides the axes would cut through
        shown = ' x '.join(f'{axis}={size}' for axis, size in sizes.items())
        raise UserError(f'config.mesh {shown} does not lie on the sides of this slice; make each axis a product of whole sides') from error


def check_model(config: Config, sizes: dict[str, int]) -> None:
    """Raises UserError where a mesh of such sizes does not divide what a model has, naming the field and the mend."""
    _check_rules(config.mesh)
    model, tensor, fsdp = config.model, sizes['tensor'], sizes['fsdp']
    for name, value in (('num_heads', model.num_heads), ('d_ff', model.d_ff)):
        if value % tensor:
            raise UserError(f'config.mesh.tensor={tensor} does not divide config.model.{name}={value}; choose a tensor axis that divides it')
    if padded_vocabulary(model) % tensor:
        raise UserError(
            f'config.mesh.tensor={tensor} does not divide the stored vocabulary of {padded_vocabulary(model)}; '
            f'set config.model.vocab_multiple to a multiple of {tensor}'
        )
    if model.d_model % fsdp:
        raise UserError(f'config.mesh.fsdp={fsdp} does not divide config.model.d_model={model.d_model}; choose an fsdp axis that divides it')


def check_batch(mesh: Mesh, batch_size: int, length: int, microbatches: int, field: str = 'config.batch_size') -> None:
    """Raises UserError where the mesh does not divide a microbatch."""
    shards, rows = mesh.shape['data'] * mesh.shape['fsdp'], batch_size // microbatches
    if rows % shards:
        part = f'each of {microbatches} microbatches has {rows} of the {batch_size} rows' if microbatches > 1 else f'a batch has {batch_size} rows'
        raise UserError(f'{part}, which the mesh axes data x fsdp = {shards} do not divide; change {field} or config.mesh')
    if length % mesh.shape['sequence']:
        raise UserError(f'config.mesh.sequence={mesh.shape["sequence"]} does not divide sequences of {length}; change one of them')


def check_stages(config: Config, mesh: Mesh, microbatches: int) -> None:
    """Raises UserError where the mesh does not divide a microbatch of one of the run's stages, inputs or targets (a head on an encoder-decoder has none)."""
    targets = config.data.layout == Layout.encoder_decoder and hasattr(resolve(config.model.module, 'config.model.module', 'apply'), 'decode')
    for _, length, rows, predictions in stages(config):
        check_batch(mesh, rows, length, microbatches)
        if targets:
            check_batch(mesh, rows, predictions, microbatches)


def _check_rules(config: MeshConfig) -> None:
    for rule in config.rules:
        if len(rule) != 2:
            raise UserError(f'config.mesh.rules: {rule!r} is not (logical axis, mesh axis)')
        for axis in rule[1] if isinstance(rule[1], tuple) else (rule[1],):
            if axis is not None and axis not in AXES:
                raise UserError(f'config.mesh.rules: {rule[0]!r} goes to {axis!r}, which is no mesh axis; {nearest(str(axis), AXES)}')


def parameter_shardings(boxed: Any, mesh: Mesh, config: MeshConfig) -> Any:
    """A tree of NamedSharding for parameters that carry logical axis names (abstract or not).

    Raises:
      UserError: for a logical axis that no rule names; it would be replicated silently otherwise.
    """
    rules = dict(config.rules)

    def sharding(keys: Any, box: nn.LogicallyPartitioned) -> NamedSharding:
        if unknown := [name for name in box.names if name is not None and name not in rules]:
            raise UserError(f'parameter {paths.path_of(keys)} has logical axis {unknown[0]!r}, for which config.mesh.rules has no rule; {nearest(unknown[0], rules)}')
        return NamedSharding(mesh, stored_spec(box.names, box.value.shape, rules, mesh.shape))

    return jax.tree_util.tree_map_with_path(sharding, boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))


def state_shardings(state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings of a whole train state: a leaf that mirrors a parameter (moments, averages), or some of its layers, lives where the parameter does, others
    everywhere.

    Args:
      state: abstract state; its leaves that mirror a parameter end in the parameter's path and have its shape.
      params: abstract parameters, unboxed.
      shardings: their NamedShardings, as `parameter_shardings` gives.
    """
    shapes, placed = paths.leaves(params), paths.leaves(shardings)
    replicated = NamedSharding(mesh, PartitionSpec())

    def sharding(path: str, leaf: Any) -> NamedSharding:
        mirrored = (name for name in placed if path.endswith('/' + name) and _mirrors(leaf.shape, name, shapes[name].shape))
        return next((placed[name] for name in mirrored), replicated)


    return paths.map_paths(sharding, state)


def _mirrors(shape: tuple[int, ...], name: str, of_parameter: tuple[int, ...]) -> bool:
    if paths.is_stacked(name) and len(shape) == len(of_parameter):
        return shape[1:] == of_parameter[1:]  # all of its layers, or those that learn
    return shape == of_parameter


def batch_shardings(batch: dict[str, Any], mesh: Mesh, length: int) -> dict[str, NamedSharding]:
    """Rows over data x fsdp; features of [B, length, ...], of choices [B, N, length], and those of a decoder beside an encoder, also over the sequence axis."""
    targets = {name for name in batch if name.startswith('decoder_') or 'decoder_tokens' in batch and name in ('targets', 'target_weights')}

    def sharding(name: str, value: Any) -> NamedSharding:
        if value.ndim == 3 and value.shape[2] == length:
            return NamedSharding(mesh, PartitionSpec(('data', 'fsdp'), None, 'sequence'))
        along = value.ndim > 1 and (value.shape[1] == length or name in targets)
        return NamedSharding(mesh, PartitionSpec(('data', 'fsdp'), 'sequence') if along else PartitionSpec(('data', 'fsdp')))

    return {name: sharding(name, value) for name, value in batch.items()}


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """The rows of the global batch that this process loads: all that its devices hold, one contiguous range."""
    sharding = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
    ranges = [index[0].indices(batch_size)[:2] for index in sharding.addressable_devices_indices_map((batch_size,)).values()]
    return slice(min(start for start, _ in ranges), max(stop for _, stop in ranges))


def to_devices(batch: dict[str, np.ndarray], shardings: dict[str, NamedSharding], rows: slice, batch_size: int) -> dict[str, jax.Array]:
    """Global arrays from this process's rows of the batch."""

    def place(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
        shape = (batch_size,) + value.shape[1:]

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return value[(slice(start - rows.start, stop - rows.start),) + index[1:]]

        return jax.make_array_from_callback(shape, sharding, piece)

    return {name: place(value, shardings[name]) for name, value in batch.items()}
