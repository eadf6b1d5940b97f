"""A plan: the step that training would take, compiled for devices that need not be there, and read."""

import dataclasses
import time
from typing import Any

import jax

from t5x_lite import several
from t5x_lite.assemble import Run
from t5x_lite.config import AttentionKernel, Config
from t5x_lite.config_values import from_dict, to_dict
from t5x_lite.dry_run import unpadded
from t5x_lite.errors import UserError
from t5x_lite.planning import batches, formulas, gates, hlo, memory, mending, overlap, products, roofline, traffic
from t5x_lite.planning.batches import Stage
from t5x_lite.planning.collectives import Collective, collectives
from t5x_lite.planning.estimate import ASSUMPTIONS, Estimate, estimate, mfu
from t5x_lite.planning.topologies import TPUS, Topology, parse
from t5x_lite.stages import stages
from t5x_lite.training import driving, partitioning, slices
from t5x_lite.training.step import Program, make_program


@dataclasses.dataclass
class StagePlan:
    """Of the steps that share shapes.

    Attributes:
      steps: how many there are.
      memory: {kind: bytes} of a device.
      used: bytes that the compiler reserves on a device; of a step that does not fit, what it says that it would need (0: it does not say).
      room: bytes that there are: the compiler's own figure where it refuses, else the chip's; 0 where none is known.
      flops: compiled, of all devices; model_flops: by formula.
      untold: loops whose trips could not be read, so that `flops` is too low.
      collectives: compiled ones; by formula where nothing is compiled.
      estimate: of what was compiled; None where nothing was, no figures are published, or it does not fit.
      mfu: at estimate.step.
      predicted: seconds of a step by the formulas that are held to published runs (roofline.py); None where no figures are published.
      predicted_mfu: at `predicted`.
      seconds: that compiling took.
    """

    stage: Stage
    steps: int
    fits: bool | None
    memory: dict[str, int]
    used: float
    room: float
    flops: float
    model_flops: float
    untold: tuple[str, ...]
    collectives: list[Collective]
    estimate: Estimate | None
    mfu: float | None
    predicted: float | None
    predicted_mfu: float | None
    gates: list[gates.Gate]
    mends: list[str]
    seconds: float


@dataclasses.dataclass
class Plan:
    config: Config
    topology: Topology
    mesh: dict[str, int]
    parameters: int
    compiled: bool
    stages: list[StagePlan]
    price: float  # of a chip for an hour; 0: not given
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float | None:
        """Of the whole run, by the formulas; None where no figures are published."""
        return self._whole([stage.predicted for stage in self.stages])

    @property
    def scheduled_seconds(self) -> float | None:
        """The same by the compiler's schedule; None also where a stage does not fit."""
        return self._whole([stage.estimate and stage.estimate.step for stage in self.stages])

    def _whole(self, seconds: list[float | None]) -> float | None:
        return None if None in seconds else sum(stage.steps * each for stage, each in zip(self.stages, seconds, strict=True))

    @property
    def chip_hours(self) -> float | None:
        return None if self.seconds is None else self.seconds * self.topology.chips / 3600

    def as_json(self) -> dict[str, Any]:
        """Plain values: what was asked, what was read of the compiler, what follows."""
        each = []
        for stage in self.stages:
            plain = dataclasses.asdict(stage)
            plain['collectives'] = [
                {
                    'kind': one.kind, 'axes': list(one.axes), 'devices': len(one.group), 'bytes': one.bytes, 'times': one.times, 'sent': round(one.sent),
                    'slices': one.slices, 'sent_between_slices': round(one.between),
                    'hidden': one.hidden if self.compiled else None, 'flops_meanwhile': one.meanwhile, 'place': one.place or one.name,
                }
                for one in stage.collectives
            ]  # fmt: skip
            plain['estimate'] = None if stage.estimate is None else dataclasses.asdict(stage.estimate) | {'step': stage.estimate.step, 'best': stage.estimate.best}
            each.append(plain)
        hours = self.chip_hours
        return {
            'topology': self.topology.text, 'slices': self.topology.slices, 'chips': self.topology.chips, 'chip': dataclasses.asdict(self.topology.chip),
            'mesh': self.mesh, 'compiled': self.compiled, 'parameters': self.parameters, 'stages': each, 'run_seconds': self.seconds, 'chip_hours': hours,
            'cost': hours * self.price if hours is not None and self.price else None, 'price_per_chip_hour': self.price or None,
            'assumptions': list(self.assumptions), 'config': to_dict(self.config),
        }  # fmt: skip


def make(run: Run, topology: Topology, price: float = 0.0) -> Plan:
    """
    Args:
      run: assembled; data are not needed where a corpus is read.
      price: of a chip for an hour, in whatever money.

    Raises:
      UserError: a topology, mesh, batch or config that training would refuse.
    """
    run = on(run, topology)
    config = run.config
    mesh = partitioning.make_mesh(config, topology.devices())
    if not topology.compiled:  # what `auto` picks there, not here
        longest = max(stages(config), key=lambda stage: max(stage[1], stage[3]))
        run = on(dataclasses.replace(run, config=formulas.attending(config, dict(mesh.shape), longest, topology.platform)), topology)
        config = run.config
    partitioning.check_stages(config, mesh, config.optim.microbatches)
    program = make_program(config, mesh)
    parameters = sum(leaf.size for leaf in unpadded(config, mesh).values())
    each = zip(stages(several.apart(config)['']), steps(config), strict=True)
    planned = [_stage(run, program, topology, stage, count, parameters) for stage, count in each]
    return Plan(config, topology, dict(mesh.shape), parameters, topology.compiled, planned, price, _assumptions(topology))


def on(run: Run, topology: Topology) -> Run:
    """The run with what depends on devices that are not there: the attention of GPUs, and slices where devices do not say of which they are.

    Raises:
      UserError: a config that can have no plan, or none of so many slices.
    """
    config = run.config
    if config.heads:
        raise UserError('config.heads: a plan is made of one head at a time; give the config of the one whose step is largest')
    if config.mesh.slices not in (-1, topology.slices):
        count = config.mesh.slices
        raise UserError(f'config.mesh.slices={count}, and the plan is for {topology.slices}; give --slices={count}, or leave the field at -1')
    if topology.slices > 1 and topology.kind not in TPUS:
        config = formulas.with_field(config, 'mesh', slices=topology.slices)
    if not topology.compiled and config.model.attention == AttentionKernel.cudnn:
        config = formulas.with_field(config, 'model', attention=AttentionKernel.blockwise)
    return dataclasses.replace(run, config=config)


def steps(config: Config) -> tuple[int, ...]:
    """Of each stage."""
    starts = [*(stage[0] for stage in stages(config)), config.steps]
    return tuple(max(0, min(after, config.steps) - start) for start, after in zip(starts, starts[1:], strict=False))


def plain(value: Any) -> Any:
    """What JSON has no type for: enums by name."""
    return getattr(value, 'name', str(value))


def from_json(found: dict[str, Any]) -> Plan:
    """The plan that `Plan.as_json` wrote. Of collectives it has what is shown of them: which devices of an axis belong together is not kept.

    Raises:
      KeyError, TypeError, ValueError: `found` is not of this form.
    """
    each = []
    for given in found['stages']:
        fields = {field.name: given[field.name] for field in dataclasses.fields(StagePlan)}
        fields['stage'], fields['untold'] = tuple(given['stage']), tuple(given['untold'])
        fields['collectives'] = [
            Collective(
                one['place'], one['kind'], tuple(one['axes']), tuple(range(one['devices'])), one['bytes'], one['times'], one['flops_meanwhile'], 0, (),
                one['place'], one['slices'], hidden=one['hidden'] or 0.0,
            )
            for one in given['collectives']
        ]  # fmt: skip
        estimated = given['estimate']
        if estimated is not None:
            fields['estimate'] = Estimate(**{field.name: estimated[field.name] for field in dataclasses.fields(Estimate)})
        fields['gates'] = [gates.Gate(**gate) for gate in given['gates']]
        each.append(StagePlan(**fields))
    return Plan(
        from_dict(Config, found['config']), parse(found['topology'], found['slices']), found['mesh'], found['parameters'], found['compiled'], each,
        found['price_per_chip_hour'] or 0.0, tuple(found['assumptions']),
    )  # fmt: skip


def _assumptions(topology: Topology) -> tuple[str, ...]:
    by_formulas = tuple(f'by formulas: {line}' for line in roofline.ASSUMPTIONS) if topology.timed else ()
    if topology.compiled:
        return *by_formulas, *(f'as scheduled: {line}' for line in ASSUMPTIONS)
    return (
        *by_formulas,
        'not compiled: there is no compiler for GPUs without one; FLOPs are those of the program as it is handed to a compiler',
        'activations by the formula of Korthikanti et al. (2022), collectives by the shapes',
        'all GPUs of a host linked by NVLink; several hosts (--slices) by an adapter for each GPU, at chip.network of plan.json',
        'attention=auto and cudnn count as blockwise: they keep no scores, and make them again in the backward pass',
    )


def lowered(program: Program, batch: dict[str, jax.ShapeDtypeStruct]) -> jax.stages.Lowered:
    """The step that training compiles, for shapes instead of arrays."""
    with jax.set_mesh(program.mesh):
        return driving.traced(program, batch).lower()


def _stage(run: Run, program: Program, topology: Topology, stage: Stage, steps: int, parameters: int) -> StagePlan:
    config, mesh = program.config, program.mesh
    batch = batches.placed(batches.shapes(run, config, stage), mesh)
    began = time.perf_counter()
    ready = lowered(program, batch)
    state, expected = memory.of_state(program, batch), formulas.model_flops(config, stage)
    predicted = roofline.predict(program, batch, stage, topology).step
    predicted_mfu = None if predicted is None else mfu(expected, predicted, topology)
    if not topology.compiled:
        return _by_formula(program, topology, stage, steps, ready, state, expected, parameters, predicted)
    try:
        compiled = ready.compile(driving.compiler_options(program))
    except Exception as error:  # of the compiler: JAX's own, or the plugin's
        if (over := memory.exceeded(error)) is None:
            raise
        advice = mending.mends(config, state, dict(mesh.shape), stage, topology)
        return StagePlan(
            stage, steps, False, state, over[0], over[1] or topology.chip.hbm, 0.0, expected, (), [], None, None, predicted, predicted_mfu, [], advice,
            time.perf_counter() - began,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    module = hlo.parse(compiled.as_text())
    kinds = memory.by_kind(state, compiled.memory_analysis(), memory.kept_for_backward(module))
    along, works = config.mesh.slices_along, traffic.works(module)
    if topology.kind in TPUS:  # whose program is that of one slice
        sent = collectives(module, slices.within(mesh.shape, topology.slices, along), along=along)
    else:
        sent = collectives(module, mesh.shape, topology.slices, along)
    sent = overlap.hidden(module, sent, works, topology, mesh)
    found = estimate(works, sent, topology, mesh)
    flops, used, room = products.total(module) * topology.chips, sum(kinds.values()), topology.chip.hbm
    share = None if found is None else mfu(expected, found.step, topology)
    held = gates.gates(
        collectives=sent, largest=formulas.largest_gathered(program), exchanged=formulas.largest_exchanged(config, dict(mesh.shape), stage),
        overlaps=topology.kind in TPUS, sends_ahead=mending.sends_ahead(config, state, dict(mesh.shape), stage, topology), flops=flops, model_flops=expected,
        remat=config.model.remat, memory=used / room if room else 0.0, mfu=predicted_mfu, parameters=parameters,
    )  # fmt: skip
    # A TPU's compiler refuses what does not fit; XLA's for CPUs does not know how much there is.
    return StagePlan(
        stage, steps, True if room else None, kinds, used, room, flops, expected, module.untold, sent, found, share, predicted, predicted_mfu, held, [], seconds
    )


def _by_formula(
    program: Program, topology: Topology, stage: Stage, steps: int, ready: jax.stages.Lowered, state: dict[str, int], expected: float, parameters: int,
    predicted: float | None,
) -> StagePlan:  # fmt: skip
    config, chip = program.config, topology.chip
    module = hlo.parse(ready.as_text(dialect='hlo'))
    flops, sent = float(products.total(module)), formulas.planned(program, stage, slices=topology.slices)
    sizes = dict(program.mesh.shape)
    kinds = state | {'activations': formulas.activations(config, sizes, stage), 'temporaries': formulas.working(config, sizes, stage)}
    used = sum(kinds.values())
    fits = used <= mending.FULL * chip.hbm
    advice = [] if fits else mending.mends(config, state, sizes, stage, topology)
    held = gates.gates(
        collectives=None, largest=0, exchanged=0, overlaps=False, sends_ahead='', flops=flops, model_flops=expected, remat=config.model.remat,
        memory=used / chip.hbm, mfu=None, parameters=parameters,
    )  # fmt: skip
    predicted_mfu = None if predicted is None else mfu(expected, predicted, topology)
    return StagePlan(
        stage, steps, fits, kinds, used, chip.hbm, flops, expected, module.untold, sent, None, None, predicted, predicted_mfu, held, advice, 0.0
    )
