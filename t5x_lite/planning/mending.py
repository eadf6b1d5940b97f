"""What would make a plan fit that does not, or hide what is waited for."""

from collections.abc import Iterator
import itertools
from typing import Any

from t5x_lite.config import AttentionKernel, Config, DType, Remat
from t5x_lite.planning import formulas
from t5x_lite.planning.batches import Stage
from t5x_lite.planning.topologies import Topology

FULL = 0.9  # of a chip's memory: what the compiler's own formula leaves out must fit too


def mends(config: Config, state: dict[str, int], sizes: dict[str, int], stage: Stage, topology: Topology) -> list[str]:
    """Flags, each alone or as few together as will do, with which the formulas say that it fits, cheapest first; 'a larger slice' where none do.

    Args:
      state: bytes of a device, as `memory.of_state` gives.
    """
    found: list[str] = []
    for flags, changed, mesh in _candidates(config, sizes, stage, topology.slices):
        if any(set(fewer.split()) <= set(flags.split()) for fewer in found):
            continue
        shrunk = (sizes['fsdp'] * sizes['tensor']) / (mesh['fsdp'] * mesh['tensor'])
        if _fits(changed, sum(state.values()) * shrunk, mesh, stage, topology):
            found.append(flags)
    if found:
        return found[:3]
    whole = sum(state.values()) * sizes['fsdp'] * sizes['tensor']
    return [f'a larger slice: parameters, gradients and optimiser alone take {whole / 2**30:,.0f} GiB, and {topology.shown} has {topology.chips * topology.chip.hbm / 2**30:,.0f}']


def sends_ahead(config: Config, state: dict[str, int], sizes: dict[str, int], stage: Stage, topology: Topology) -> str:
    """Flags with which weights, and what is added up of their gradients, are sent beside what is computed (models/gathering.py); '' where they are given,
    nothing is divided over `fsdp`, or the formulas say that it would not fit.

    Args:
      state: bytes of a device, as `memory.of_state` gives.
    """
    fields: dict[str, Any] = {'gather_ahead': True, 'sum_behind': True, 'collective_dtype': config.model.dtype}
    if topology.kind == 'v5e' and max(topology.shape) > 4:  # which sends no further beside other work
        fields['gather_side'] = 2
    fields = {name: value for name, value in fields.items() if getattr(config.mesh, name) != value}
    possible = sizes['fsdp'] > 1 and config.model.dtype is not DType.float16
    if not possible or not _fits(formulas.with_field(config, 'mesh', **fields), sum(state.values()), sizes, stage, topology):
        return ''
    return ' '.join(f'--config.mesh.{name}' + ('' if value is True else f'={getattr(value, "value", value)}') for name, value in fields.items())


def _fits(config: Config, state: float, sizes: dict[str, int], stage: Stage, topology: Topology) -> bool:
    attending = formulas.attending(config, sizes, stage, topology.platform)
    return state + formulas.activations(attending, sizes, stage) + formulas.working(attending, sizes, stage) < FULL * topology.chip.hbm


def _candidates(config: Config, sizes: dict[str, int], stage: Stage, slices: int) -> Iterator[tuple[str, Config, dict[str, int]]]:
    model, parts = config.model, config.optim.microbatches
    rows = stage[2] // (sizes['data'] * sizes['fsdp'])  # of a device
    more = [count for count in range(parts + 1, rows + 1) if rows % count == 0]
    meshes = [('', sizes)]
    kept = slices if config.mesh.slices_along == 'data' else 1  # of the data axis, which goes across them
    if sizes['data'] > kept:
        every = sizes['data'] // kept * sizes['fsdp']
        if model.d_model % every == 0:
            meshes.append((f'--config.mesh.data={kept} --config.mesh.fsdp={every}', sizes | {'data': kept, 'fsdp': every}))
    attentions = [('', model.attention)]
    if model.attention in (AttentionKernel.dense, AttentionKernel.auto) and model.remat == Remat.none:
        attentions.append(('--config.model.attention=blockwise', AttentionKernel.blockwise))
    stronger = [policy for policy in (Remat.none, Remat.dots, Remat.full) if list(Remat).index(policy) >= list(Remat).index(model.remat)]
    for (of_mesh, mesh), (of_way, way, remats), (of_attention, attention) in itertools.product(meshes, _ways(config, stronger), attentions):
        for remat, count in itertools.product(remats, [parts, *more]):
            flags = [of_mesh, of_way, of_attention]
            flags.append(f'--config.model.remat={remat.name}' if remat != model.remat else '')
            flags.append(f'--config.optim.microbatches={count}' if count != parts else '')
            if any(flags):
                changed = formulas.with_field(formulas.with_field(config, 'model', remat=remat, attention=attention), 'optim', microbatches=count)
                yield ' '.join(filter(None, flags)), formulas.with_field(changed, 'mesh', **way), mesh


def _ways(config: Config, remats: list[Remat]) -> Iterator[tuple[str, dict[str, bool], list[Remat]]]:
    """(flags, fields of the mesh, what recomputation goes with them): weights that were made whole ahead and kept may be gathered where they are used, or be
    sent a second time."""
    mesh = config.mesh
    yield '', {}, remats
    if mesh.gather_ahead and not mesh.gather_again:
        fields = {'gather_ahead': False, **({'sum_behind': False} if mesh.sum_behind else {})}
        yield ' '.join(f'--config.mesh.{name}=False' for name in fields), fields, remats
        fields = {'gather_again': True, **({} if mesh.sum_behind else {'sum_behind': True})}
        yield ' '.join(f'--config.mesh.{name}' for name in fields), fields, [Remat.full]
