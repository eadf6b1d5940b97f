"""What can be said of a step without compiling it: FLOPs of the model, memory, and what the mesh makes devices send."""

from collections.abc import Iterator, Mapping
import dataclasses
import math

import jax

from t5x_lite.config import AttentionKernel, Config, Layout, Remat
from t5x_lite.dotted_names import resolve
from t5x_lite.models.layers import compute_dtype, head_size
from t5x_lite.planning.batches import Stage
from t5x_lite.planning.collectives import Collective
from t5x_lite.training import paths
from t5x_lite.training.step import Program


def model_flops(config: Config, stage: Stage) -> float:
    """Of a step over all devices: forward, and two products for each in the backward pass; all pairs of positions count where attention is causal too.

    By the formulas of each architecture (`forward_flops` of its module): 6 x parameters x tokens of the products, of word embeddings only as the output
    layer, and 12 x layers x width x length a token of attention.
    """
    _, length, rows, predictions = stage
    return 3.0 * rows * resolve(config.model.module, 'config.model.module', 'apply').forward_flops(config.model, length, predictions)


def largest_gathered(program: Program) -> int:
    """Elements of the largest weight that a layer has: what fully sharded training gathers at a time. Stacked layers count as one each."""
    found = paths.leaves(program.abstract.params)
    return max(leaf.size // (leaf.shape[0] if paths.is_stacked(name) else 1) for name, leaf in found.items())


def activations(config: Config, sizes: Mapping[str, int], stage: Stage) -> int:
    """Bytes that one device keeps for the backward pass, by the formula of Korthikanti et al. (2022, equations 1 and 2), in the type that is computed in.

    A layer of width h, a heads, s positions and b rows keeps 2 s b h (its input) with full recomputation; the outputs of its products, 2 s b (h + 4 h + ...),
    where only these are kept; else s b h (34 + 5 a s / h), whose second term goes where attention keeps no scores. (In float32, twice that.)
    """
    model = config.model
    item, joined = compute_dtype(model).itemsize, model.num_heads * head_size(model)
    rows = stage[2] // config.optim.microbatches // (sizes['data'] * sizes['fsdp'])
    stacks = [(model.num_layers, stage[1])]
    if config.data.layout == Layout.encoder_decoder:
        stacks.append((model.num_decoder_layers or model.num_layers, stage[3]))
    total = 0.0
    for layers, length in stacks:
        positions, tensor = rows * length / sizes['sequence'], sizes['tensor']
        inputs = positions * model.d_model * item
        kept = positions * item * (3 * joined + (2 if model.gated else 1) * model.d_ff) / tensor + 2 * inputs
        scores = 2.5 * item * positions * length * model.num_heads / tensor if model.attention == AttentionKernel.dense else 0.0
        total += layers * {Remat.full: inputs, Remat.dots: kept + inputs, Remat.none: 5 * inputs + 12 / 7 * kept + scores}[model.remat]
    return math.ceil(total)


def working(config: Config, sizes: Mapping[str, int], stage: Stage) -> int:
    """Bytes of one layer while it is computed, nothing of it recomputed, and of the logits and their gradient; the rest is small beside them."""
    model = config.model
    whole = activations(with_field(config, 'model', remat=Remat.none), sizes, stage)
    layers = model.num_layers + (model.num_decoder_layers or model.num_layers) * (config.data.layout == Layout.encoder_decoder)
    rows = stage[2] // config.optim.microbatches // (sizes['data'] * sizes['fsdp'])
    predicted = stage[1] if config.data.layout == Layout.decoder else stage[3]
    logits = 4 * rows * predicted * model.vocab_size // (sizes['tensor'] * sizes['sequence'])
    most = model.logits_megabytes * 2**20 if model.logits_megabytes else math.inf
    return math.ceil(whole / layers + 2 * min(logits, most))


def planned(program: Program, stage: Stage) -> list[Collective]:
    """What the mesh makes devices exchange in a step, by the shapes alone."""
    return list(_planned(program, stage))


def _planned(program: Program, stage: Stage) -> Iterator[Collective]:
    config, mesh, params = program.config, program.mesh, paths.leaves(program.abstract.params)
    model, sizes = config.model, dict(program.mesh.shape)
    item, again = compute_dtype(model).itemsize, model.remat != Remat.none
    parts = config.optim.microbatches

    def one(kind: str, axis: str, size: float, times: int, place: str) -> Iterator[Collective]:
        if mesh.shape[axis] > 1 and size:
            strides = math.prod(count for name, count in list(sizes.items())[list(sizes).index(axis) + 1 :])
            group = tuple(range(0, mesh.shape[axis] * strides, strides))
            yield Collective(kind, kind, (axis,), group, math.ceil(size), times, 0, math.ceil(size), (), place)

    def elements(leaf: jax.ShapeDtypeStruct, without: str) -> int:
        """Of a device's part, were it whole along one axis."""
        spec = [tuple(axis for axis in (part if isinstance(part, tuple) else (part,)) if axis not in (None, without)) for part in leaf.sharding.spec]
        return leaf.size // math.prod(mesh.shape[axis] for part in spec for axis in part)

    split = {name: leaf for name, leaf in params.items() if any('fsdp' in (part if isinstance(part, tuple) else (part,)) for part in leaf.sharding.spec)}
    whole = sum(elements(leaf, 'fsdp') for leaf in split.values())
    yield from one('all-gather', 'fsdp', whole * item, 2 * parts, 'weights, for the forward and the backward pass')
    yield from one('reduce-scatter', 'fsdp', whole * 4, parts, 'gradients of weights')
    yield from one('all-reduce', 'data', sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in params.values()) * 4, parts, 'gradients')
    stacks = [(model.num_layers, stage[1], 1)]
    if config.data.layout == Layout.encoder_decoder:
        stacks.append((model.num_decoder_layers or model.num_layers, stage[3], 2))
    for layers, length, attentions in stacks:
        rows = stage[2] // parts / (sizes['data'] * sizes['fsdp'])
        states = rows * length / sizes['sequence'] * model.d_model * item
        yield from one('all-reduce', 'tensor', states, layers * (attentions + 1) * (3 if again else 2) * parts, 'states behind attention and feed-forward')
        keys = 2 * rows * length * model.num_heads * head_size(model) / sizes['tensor'] * item
        yield from one('all-gather', 'sequence', keys, layers * attentions * (3 if again else 2) * parts, 'keys and values')


def with_field(config: Config, group: str, **fields: object) -> Config:
    """A copy with some fields of a group changed."""
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **fields)})
