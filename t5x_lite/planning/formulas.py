"""What can be said of a step without compiling it: FLOPs of the model, memory, and what the mesh makes devices send."""

from collections.abc import Iterator, Mapping
import dataclasses
import math

import jax
import jax.numpy as jnp

from t5x_lite.config import AttentionKernel, Config, Layout, NormPlace, Positions, Remat, SequenceAttention
from t5x_lite.dotted_names import resolve
from t5x_lite.models import kernels
from t5x_lite.models.layers import compute_dtype, head_size, padded_vocabulary
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


def largest_exchanged(config: Config, sizes: Mapping[str, int], stage: Stage) -> int:
    """Bytes of the rows of embeddings that a device exchanges at a time (models/products.py)."""
    length = max(stage[1], stage[3]) if config.data.layout == Layout.encoder_decoder else stage[1]
    tokens = stage[2] // config.optim.microbatches // (sizes['data'] * sizes['fsdp']) * length // sizes['sequence']
    return tokens * config.model.d_model * 4  # a compiler may widen them


def in_ring(config: Config, sizes: Mapping[str, int]) -> bool:
    """Whether keys and values go round (models/ring_attention.py)."""
    return config.mesh.sequence_attention is SequenceAttention.ring and sizes['sequence'] > 1


def attending(config: Config, sizes: Mapping[str, int], stage: Stage, platform: str) -> Config:
    """The config with what `auto` picks on such devices for the longest rows of a training step (models/kernels.py) in its place; a prefix that is seen
    from both sides is a matter of the data, and not known here."""
    model = config.model
    if model.attention != AttentionKernel.auto:
        return config
    length, rows = max(stage[1], stage[3]) if config.data.layout == Layout.encoder_decoder else stage[1], stage[2] // config.optim.microbatches
    asked = kernels.asked_of(
        model, sizes, rows, length, length, bias=model.positions == Positions.relative, dropout=True,
        ring=sizes['sequence'] if config.mesh.sequence_attention is SequenceAttention.ring else 1,
    )  # fmt: skip
    kernel, _ = kernels.choose(AttentionKernel.auto, dataclasses.replace(asked, platform=platform))
    return with_field(config, 'model', attention=kernel)


def keeps_scores(config: Config, sizes: Mapping[str, int]) -> bool:
    """Whether attention keeps those of whole rows; `auto` has been replaced (`attending`)."""
    return config.model.attention == AttentionKernel.dense and not in_ring(config, sizes)


def activations(config: Config, sizes: Mapping[str, int], stage: Stage) -> int:
    """Bytes that one device keeps for the backward pass, by the formula of Korthikanti et al. (2022, equations 1 and 2), in the type that is computed in.

    A layer of width h, a heads, s positions and b rows keeps 2 s b h (its input) with full recomputation; the outputs of its products, 2 s b (h + 4 h + ...),
    where only these are kept; else s b h (34 + 5 a s / h), whose second term goes where attention keeps no scores. (In float32, twice that.) Weights that are
    made whole a layer ahead are kept too.
    """
    model = config.model
    item, joined = compute_dtype(model).itemsize, model.num_heads * head_size(model)
    rows = stage[2] // config.optim.microbatches // (sizes['data'] * sizes['fsdp'])
    stacks = [(model.num_layers, stage[1], stage[1], 1)]
    if config.data.layout == Layout.encoder_decoder:  # which attends to itself, and to what was read
        stacks.append((model.num_decoder_layers or model.num_layers, stage[3], stage[3] + stage[1], 2))
    total = 0.0
    for layers, length, attended, attentions in stacks:
        positions, tensor = rows * length / sizes['sequence'], sizes['tensor']
        inputs = positions * model.d_model * item
        crossed = 2 * (attentions - 1) * rows * stage[1] / sizes['sequence'] * item * joined / tensor  # keys and values of what was read
        kept = positions * item * ((2 + attentions) * joined + (2 if model.gated else 1) * model.d_ff) / tensor + crossed + (attentions + 1) * inputs
        if model.attention == AttentionKernel.splash and model.remat == Remat.dots:  # which keeps what it gives, beside what is made of it
            kept += positions * item * attentions * joined / tensor
        scores = 2.5 * item * positions * attended * model.num_heads / tensor if keeps_scores(config, sizes) else 0.0
        total += layers * {Remat.full: inputs, Remat.dots: kept + inputs, Remat.none: 2.5 * (attentions + 1) * inputs + 12 / 7 * kept + scores}[model.remat]
        if config.mesh.gather_ahead and sizes['fsdp'] > 1:
            whole = min(layers, 4) if config.mesh.gather_again else layers  # of a layer and its gradient, and as much on their way; or of all
            total += whole * model.d_model * (4 * attentions * joined + (3 if model.gated else 2) * model.d_ff) * item / tensor
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


def planned(program: Program, stage: Stage, added_first: bool = True, slices: int = 1) -> list[Collective]:
    """What the mesh makes devices exchange in a step, by the shapes alone; sums of a few numbers (losses, norms, softmaxes) are left out.

    Args:
      added_first: whether the compiler adds sums that a tensor axis leaves in parts before it exchanges them (gradients of states by queries, keys and
        values): those for TPUs and GPUs do, XLA's for CPUs exchanges each.
      slices: that the mesh goes across, along config.mesh.slices_along.
    """
    along = program.config.mesh.slices_along
    return [dataclasses.replace(one, slices=slices) if one.axes == (along,) else one for one in _planned(program, stage, added_first)]


def _planned(program: Program, stage: Stage, added_first: bool) -> Iterator[Collective]:
    config, mesh, params = program.config, program.mesh, paths.leaves(program.abstract.params)
    model, sizes = config.model, dict(program.mesh.shape)
    item, parts = compute_dtype(model).itemsize, config.optim.microbatches

    def one(kind: str, axis: str, size: float, times: int, place: str) -> Iterator[Collective]:
        if mesh.shape[axis] > 1 and size and times:
            strides = math.prod(count for name, count in list(sizes.items())[list(sizes).index(axis) + 1 :])
            group = tuple(range(0, mesh.shape[axis] * strides, strides))
            yield Collective(kind, kind, (axis,), group, math.ceil(size), times, 0, math.ceil(size), (), place)

    def axes_of(leaf: jax.ShapeDtypeStruct) -> set[str]:
        return {axis for part in leaf.sharding.spec for axis in (part if isinstance(part, tuple) else (part,)) if axis is not None}

    def elements(leaf: jax.ShapeDtypeStruct, without: str) -> int:
        """Of a device's part, were it whole along one axis."""
        return leaf.size // math.prod(mesh.shape[axis] for axis in axes_of(leaf) - {without})

    rows = stage[2] / parts / (sizes['data'] * sizes['fsdp'])

    def states(length: float) -> float:
        return rows * length / sizes['sequence'] * model.d_model * item

    split = {name: leaf for name, leaf in params.items() if 'fsdp' in axes_of(leaf)}
    learns = paths.leaves(program.tuning.select(program.abstract.params))
    uses = {name: _uses(config, leaf) for name, leaf in learns.items()}  # each leaves a gradient of its own, which is exchanged before they are added
    lengths = [stage[1], stage[3]] if config.data.layout == Layout.encoder_decoder else [stage[1]]
    # Layers that are computed again have theirs gathered again, and once more for the gradients of their inputs; what is made whole ahead
    # is kept, or made whole a second time.
    gathers = 3 if model.remat == Remat.full else 2
    if config.mesh.gather_ahead:
        gathers = 2 if config.mesh.gather_again else 1
    gathered = divided = 0.0
    for name, leaf in split.items():
        size, word, wholes = elements(leaf, 'fsdp'), leaf.shape == (padded_vocabulary(model), model.d_model), 1
        if name.endswith('/embedding'):
            asked = lengths if word else lengths[:1]
            looked_up = [length for length in asked if leaf.shape[0] <= rows * length / sizes['sequence']]
            for length in set(asked) - set(looked_up):  # these exchange rows instead (models/products.py)
                yield from one('all-to-all', 'fsdp', states(length), 2 * parts, 'rows of embeddings, and their gradients')
            as_output = word and model.tie_embeddings
            # Made whole once for all lookups, in float32; where that is computed in, for a tied output layer too.
            ahead = config.mesh.gather_ahead
            gathered += size * ((item if ahead else 4) * bool(looked_up and not (as_output and item == 4)) + (1 if ahead else 2) * item * as_output)
            wholes = len(looked_up) + as_output
        else:
            gathered += size * gathers * item
        divided += size * wholes * (name in learns)
    yield from one('all-gather', 'fsdp', gathered, parts, 'weights, for the forward and the backward pass')
    yield from one('reduce-scatter', 'fsdp', divided * 4, parts, 'gradients of weights')
    small = sum(elements(leaf, 'fsdp') for name, leaf in learns.items() if name not in split)
    yield from one('all-reduce', 'fsdp', small * 4, parts, 'gradients of small weights')
    local = sum(uses[name] * math.prod(leaf.sharding.shard_shape(leaf.shape)) for name, leaf in learns.items())
    yield from one('all-reduce', 'data', local * 4, parts, 'gradients')
    yield from one('all-reduce', 'sequence', sum(uses[name] * elements(leaf, '') for name, leaf in learns.items()) * 4, parts, 'gradients')
    stacks = [(model.num_layers, stage[1], 1)]
    if config.data.layout == Layout.encoder_decoder:
        stacks.append((model.num_decoder_layers or model.num_layers, stage[3], 2))
    again = {Remat.none: 0, Remat.dots: 0, Remat.full: 1}[model.remat]
    for layers, length, attentions in stacks:
        forward = attentions + 1 + again * (attentions + (model.norm_place == NormPlace.post))
        backward = attentions + 1 if added_first else 3 + (attentions - 1) + (2 if model.gated else 1)
        yield from one('all-reduce', 'tensor', states(length), layers * (forward + backward) * parts, 'states around attention and feed-forward')
        if attentions == 2:  # cross-attention's keys and values, back to what the encoder gave
            yield from one('all-reduce', 'tensor', states(stage[1]), (1 if added_first else 2) * layers * parts, 'gradients of memory')
        yield from one('all-reduce', 'tensor', states(length), parts, 'embeddings of a divided vocabulary')
        forward = 2 if model.remat != Remat.none else 1
        of_keys = [length] if attentions == 1 else [length, stage[1]]
        if in_ring(config, sizes):
            causal = attentions == 2 or config.data.layout == Layout.decoder
            for size, times, place in _round(config, sizes, rows, length, of_keys, causal, forward):
                yield from one('collective-permute', 'sequence', size, layers * times * parts, place)
            continue
        for keys in of_keys:
            size = 2 * rows * keys * model.num_heads * head_size(model) / sizes['tensor'] * item
            yield from one('all-gather', 'sequence', size, layers * (forward + 1) * parts, 'keys and values')
    predicted = stage[3] if config.data.layout != Layout.decoder else stage[1]
    yield from one('all-reduce', 'tensor', states(predicted), parts, 'gradients behind the output layer')


def _round(config: Config, sizes: Mapping[str, int], rows: float, length: int, of_keys: list[int], causal: bool, forward: int) -> Iterator:
    """(bytes, times in a layer, what) that each device passes on, where keys and values go round: n - 1 times in each pass, and n times their gradients.

    Args:
      rows: of a device.
      of_keys: how many keys self-attention has, and cross-attention where there is one.
      forward: passes, of recomputation too.
    """
    count, model = sizes['sequence'], config.model
    position = rows * model.num_heads * head_size(model) / sizes['tensor'] / count
    item, sums = compute_dtype(model).itemsize, jnp.dtype(config.mesh.collective_dtype.value).itemsize
    for keys in of_keys:
        yield 2 * keys * position * item, (forward + 1) * (count - 1), 'keys and values'
        yield 2 * keys * position * sums, count, 'gradients of keys and values'
    if causal and length % (2 * count) == 0:
        # A causal row is dealt out and back: q, k, v and what comes of them; its gradient (and a number of each head), theirs. Of two devices, one part stays.
        share = 0.5 if count == 2 else 1.0
        yield share * length * position * item, 4 * forward + 4, 'a causal row, dealt out and back'
        yield share * length * rows * model.num_heads / sizes['tensor'] / count * 4, 1, 'a causal row, dealt out and back'


def _uses(config: Config, leaf: jax.ShapeDtypeStruct) -> int:
    """How often a parameter stands in a step: word embeddings in front of each stack, and as the output layer where they are tied."""
    if leaf.shape != (padded_vocabulary(config.model), config.model.d_model):
        return 1
    return (2 if config.data.layout == Layout.encoder_decoder else 1) + config.model.tie_embeddings


def with_field(config: Config, group: str, **fields: object) -> Config:
    """A copy with some fields of a group changed."""
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **fields)})
