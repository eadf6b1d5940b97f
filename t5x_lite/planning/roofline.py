"""How long a step would take, by formulas alone: what ranks meshes before any is compiled.

A step is the time of its products, of what else goes through main memory, and of the communication that nothing hides. Where the model stands against
measured steps: tests/planning/published.py holds it to published runs; what its few constants are, and why, is said beside them.
"""

from collections.abc import Sequence
import dataclasses

import jax

from t5x_lite.config import AttentionKernel, Config, Layout, NormPlace, Remat
from t5x_lite.models.layers import compute_dtype, head_size
from t5x_lite.planning import formulas, memory, meshes
from t5x_lite.planning.batches import Stage
from t5x_lite.planning.collectives import Collective
from t5x_lite.planning.estimate import sending
from t5x_lite.planning.topologies import Topology
from t5x_lite.training import slices
from t5x_lite.training.step import Program

# Share of the published peak that a step's products reach together: one number a chip, chosen once from all its rows of tests/planning/published.csv with
# held_out=0, so that their errors balance. It holds what the formulas have no term for (tiles that dimensions do not fill, clocks that fall under load, kernels
# of attention); H100 as PyTorch of 2023 used it; nothing of an H200 was found, which has the same cores as an H100.
REACHED = {'v4': 0.77, 'v5e': 0.86, 'v5p': 0.86, 'v6e': 0.60, 'A100': 0.65, 'H100': 0.46, 'H200': 0.46}
# Share of the time of a collective that products can hide, where there are products enough. Weights and gradients are known of long before they are
# needed; of states, half can be sent while the other half is multiplied. Set before any row was looked at, and not changed by them: in most of these runs
# communication is a few per cent of a step, so that they say little of it.
HIDDEN_WEIGHTS, HIDDEN_STATES = 0.9, 0.5

ASSUMPTIONS = (
    'a step takes the time of its products, of what else goes through main memory, and of communication that is not hidden',
    f'products together reach {", ".join(f"{share:.0%} ({kind})" for kind, share in REACHED.items())} of the peak of bf16',
    "what goes to another slice takes each chip's share of its host's adapters, and is hidden no less than the rest",
    f'products hide at most {HIDDEN_WEIGHTS:.0%} of the communication of weights and gradients, and {HIDDEN_STATES:.0%} of that of states',
    'these shares are the same for every run; how far they are off published ones: tests/benchmarks/EVIDENCE.md',
)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Of a step.

    Attributes:
      memory: {kind: bytes} of a device.
      flops: of products of one device, what is computed again too.
      traffic: bytes of one device through main memory beside those of products.
      collectives: of each device.
      products, elsewhere, waited: seconds; None where no figures of the chip are published.
    """

    memory: dict[str, int]
    flops: float
    traffic: float
    collectives: tuple[Collective, ...]
    products: float | None
    elsewhere: float | None
    waited: float | None

    @property
    def step(self) -> float | None:
        return None if self.products is None else self.products + self.elsewhere + self.waited

    @property
    def used(self) -> int:
        return sum(self.memory.values())

    @property
    def sent(self) -> float:
        return sum(one.times * one.sent for one in self.collectives)

    @property
    def between(self) -> float:
        """The part of `sent` that goes to other slices."""
        return sum(one.times * one.between for one in self.collectives)


def predict(program: Program, batch: dict[str, jax.ShapeDtypeStruct], stage: Stage, topology: Topology, *, pairs: float = 1.0) -> Prediction:
    """
    Args:
      program: with its state on a mesh, which may be of no devices (`meshes.Placing`).
      batch: placed on it.
      pairs: share of the pairs of positions that attention multiplies; ours all, kernels that skip what a causal mask hides half.
    """
    chip, sizes = topology.chip, dict(program.mesh.shape)
    config = formulas.attending(program.config, sizes, stage, topology.platform)
    state = memory.of_state(program, batch)
    gathered = 2 * formulas.largest_gathered(program) * compute_dtype(config.model).itemsize // sizes['tensor'] if sizes['fsdp'] > 1 else 0
    kinds = state | {'activations': formulas.activations(config, sizes, stage), 'temporaries': formulas.working(config, sizes, stage) + gathered}
    flops = device_flops(config, stage, topology.chips, pairs, formulas.keeps_scores(config, sizes))
    traffic = _traffic(config, sizes, stage) + 2 * (state['parameters'] + state['optimiser'] + config.optim.microbatches * state['gradients'])
    sent = tuple(formulas.planned(program, stage, topology.kind != 'cpu', topology.slices))
    if not topology.timed:
        return Prediction(kinds, flops, traffic, sent, None, None, None)
    products, elsewhere = flops / (REACHED[topology.kind] * chip.peak), traffic / chip.bandwidth
    inner = slices.within(sizes, topology.slices, config.mesh.slices_along)
    return Prediction(kinds, flops, traffic, sent, products, elsewhere, _waited(sent, topology, inner, products))


def _waited(collectives: Sequence[Collective], topology: Topology, inner: meshes.Sizes, products: float) -> float:
    waited = hidden = 0.0
    for one in collectives:
        (axis,) = one.axes
        seconds = one.times * sending(one, topology, meshes.bandwidth(topology, inner, axis) if inner[axis] > 1 else 0.0)
        share = HIDDEN_WEIGHTS if axis in ('data', 'fsdp') else HIDDEN_STATES
        waited += (1 - share) * seconds
        hidden += share * seconds
    return waited + max(0.0, hidden - products)


def stacks(config: Config, stage: Stage) -> list[tuple[int, int, int, int]]:
    """(layers, positions of a row, positions that they attend to, attentions of a layer) of the encoder or decoder, and of the decoder beside an encoder."""
    model, (_, length, _, predictions) = config.model, stage
    found = [(model.num_layers, length, length, 1)]
    if config.data.layout == Layout.encoder_decoder:
        found.append((model.num_decoder_layers or model.num_layers, predictions, predictions + length, 2))
    return found


def device_flops(config: Config, stage: Stage, devices: int, pairs: float = 1.0, keeps_scores: bool = True) -> float:
    """Of products of one device in a step, those of recomputation included: what `products.total` counts in a compiled step.

    Forward once and two products for each in the backward pass. With remat=full layers run once more, but for the last product of each where no norm
    follows it; with remat=dots only the products of attention do, if at all. Kernels that keep no scores multiply queries and keys once more in the backward
    pass.
    """
    model, rows = config.model, stage[2]
    forward = formulas.model_flops(config, stage) / 3
    attention = rows * sum(4.0 * layers * length * attended * model.num_heads * head_size(model) for layers, length, attended, _ in stacks(config, stage))
    attended = 0.0 if model.attention == AttentionKernel.splash else attention * pairs  # which keeps what it gave
    again = {Remat.none: 0.0, Remat.dots: attended, Remat.full: _layers(config, stage) - (1 - pairs) * attention}[model.remat]
    if not keeps_scores:
        again += attention * pairs / 2
    return (3 * (forward - (1 - pairs) * attention) + again) / devices


def _layers(config: Config, stage: Stage) -> float:
    """FLOPs of all layers forward, without the last product of each where nothing needs its result again."""
    model, rows, total = config.model, stage[2], 0.0
    joined = model.num_heads * head_size(model)
    for layers, length, attended, attentions in stacks(config, stage):
        crossed = attended - length  # positions whose keys and values cross-attention makes
        feed_forward = (2 if model.gated else 1) + (model.norm_place == NormPlace.post)
        products = 2 * model.d_model * (joined * (4 * length + (2 * length + 2 * crossed) * (attentions - 1)) + feed_forward * model.d_ff * length)
        total += rows * layers * (products + 4 * length * attended * joined)
    return total


def _traffic(config: Config, sizes: meshes.Sizes, stage: Stage) -> float:
    """Bytes of one device in and out of main memory between products, in a step: what norms, sums, activations and a dense softmax read and write.

    By what XLA fuses: a sum and the norm behind it read two arrays and write two; an activation reads its inputs and writes one; queries, keys, values and
    what attention makes of them are written and read once.
    """
    model = config.model
    item, joined = compute_dtype(model).itemsize, model.num_heads * head_size(model)
    rows = stage[2] / (sizes['data'] * sizes['fsdp'])
    passes = {Remat.none: 3, Remat.dots: 4, Remat.full: 4}[model.remat]  # forward, twice that backward, and forward again
    total = 0.0
    for layers, length, attended, attentions in stacks(config, stage):
        positions = rows * length / sizes['sequence']
        wide = 4 * (attentions + 1) * model.d_model
        narrow = (8 * attentions * joined + (3 if model.gated else 2) * model.d_ff) / sizes['tensor']
        scores = 12 * attended * model.num_heads / sizes['tensor'] if formulas.keeps_scores(config, sizes) else 0  # float32 and then narrower, out and in
        total += passes * layers * positions * (item * (wide + narrow) + scores)
    predicted = stage[1] if config.data.layout == Layout.decoder else stage[3]
    logits = 4 * rows * predicted / sizes['sequence'] * model.vocab_size / sizes['tensor']
    return total + 4 * logits


def why(prediction: Prediction) -> str:
    """Where the time goes, the most of it first."""
    terms = {'products': prediction.products, 'memory': prediction.elsewhere, 'waiting': prediction.waited}
    ordered = sorted(((seconds / prediction.step, name) for name, seconds in terms.items()), reverse=True)
    return ', '.join(f'{name} {share:.0%}' for share, name in ordered if share >= 0.005)


def fits(prediction: Prediction, topology: Topology, full: float) -> bool | None:
    """Whether it fits into this share of a chip's memory; None where that is not known."""
    return prediction.used <= full * topology.chip.hbm if topology.chip.hbm else None


