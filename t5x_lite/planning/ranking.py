"""`--mesh=auto`: all meshes, recomputations and microbatches that a run could have, ranked by formulas; the best few compiled."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from t5x_lite.assemble import Run
from t5x_lite.config import Config, Remat
from t5x_lite.errors import UserError
from t5x_lite.planning import batches, formulas, keeping, making, meshes, mending, roofline
from t5x_lite.planning.roofline import Prediction
from t5x_lite.planning.topologies import Topology
from t5x_lite.stages import stages
from t5x_lite.training import partitioning


@dataclasses.dataclass(frozen=True)
class Choice:
    """A mesh, a recomputation and a number of microbatches, with what the formulas say of each stage.

    Attributes:
      steps: of each stage.
      fits: into `mending.FULL` of a chip's memory; None where none is published.
    """

    config: Config
    sizes: dict[str, int]
    predictions: tuple[Prediction, ...]
    steps: tuple[int, ...]
    fits: bool | None

    @property
    def seconds(self) -> float | None:
        """Of a step, the mean over the run; None where no figures of the chip are published."""
        if self.predictions[0].step is None:
            return None
        return self._mean([one.step for one in self.predictions])

    @property
    def used(self) -> int:
        """Bytes of a device, in the stage that takes most."""
        return max(one.used for one in self.predictions)

    def order(self) -> tuple[Any, ...]:
        """Of those that fit: the fastest first; of devices without figures the fewest FLOPs, then the fewest bytes sent. Of those that do not, the nearest."""
        simple = sum(size > 1 for size in self.sizes.values())  # of two alike, the one that is easier to think about
        if self.fits is False:
            return 1, self.used, simple
        if self.seconds is not None:
            return 0, self.seconds, self.used, simple
        sent = [self._mean([one.between for one in self.predictions]), self._mean([one.sent for one in self.predictions])]  # the slower network first
        return 0, self._mean([one.flops for one in self.predictions]), *sent, self.used, simple

    def _mean(self, values: Sequence[float]) -> float:
        weights = self.steps if sum(self.steps) else (1,) * len(self.steps)
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)

    def as_json(self) -> dict[str, Any]:
        return {
            'mesh': self.sizes, 'slices_along': self.config.mesh.slices_along, 'remat': self.config.model.remat.name,
            'microbatches': self.config.optim.microbatches, 'fits': self.fits,
            'step': self.seconds, 'used': self.used, 'memory': max(self.predictions, key=lambda one: one.used).memory,
            'flops': [one.flops for one in self.predictions], 'sent': [one.sent for one in self.predictions],
            'sent_between_slices': [one.between for one in self.predictions],
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Compiled:
    """`kept`: read from what an earlier command compiled."""

    choice: Choice
    plan: making.Plan
    kept: bool

    @property
    def fits(self) -> bool:
        return all(stage.fits is not False for stage in self.plan.stages)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """`choices` from the best to the worst, `compiled` too; `given` is the config that they change."""

    given: Config
    topology: Topology
    choices: list[Choice]
    compiled: list[Compiled]

    @property
    def best(self) -> Choice | None:
        """Of those that were compiled and fit; where none was compiled, of the formulas. None where nothing fits."""
        fitting = [one.choice for one in self.compiled if one.fits] if self.compiled else [one for one in self.choices if one.fits is not False]
        return fitting[0] if fitting else None

    def flags(self, choice: Choice) -> list[str]:
        """What to add to the command line, so that the config becomes that of a choice."""
        found = [f'--config.mesh.{axis}={size}' for axis, size in choice.sizes.items() if getattr(self.given.mesh, axis) != size]
        if choice.config.mesh.slices_along != self.given.mesh.slices_along:
            found.append(f'--config.mesh.slices_along={choice.config.mesh.slices_along}')
        if choice.config.model.remat != self.given.model.remat:
            found.append(f'--config.model.remat={choice.config.model.remat.name}')
        if choice.config.optim.microbatches != self.given.optim.microbatches:
            found.append(f'--config.optim.microbatches={choice.config.optim.microbatches}')
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            'topology': self.topology.text, 'slices': self.topology.slices,
            'assumptions': list(roofline.ASSUMPTIONS) if self.topology.timed else [],
            'choices': [choice.as_json() | {'flags': self.flags(choice)} for choice in self.choices],
        }  # fmt: skip


def rank(run: Run, topology: Topology) -> list[Choice]:
    """Each valid mesh with each recomputation, and the fewest microbatches with which it fits: more of them only gather weights more often.

    Raises:
      UserError: a config that can have no plan, or no valid mesh.
    """
    config = making.on(run, topology).config
    found, placing = [], meshes.Placing(config)
    shapes = [batches.shapes(run, config, stage) for stage in stages(config)]
    remats = [config.model.remat] if config.mesh.gather_again else list(Remat)  # which computes layers again in any case
    for sizes, along in meshes.candidates(config, topology):
        axes = formulas.with_field(config, 'mesh', **sizes, slices_along=along)
        program = placing.on(axes, sizes)
        placed = [batches.placed(batch, program.mesh) for batch in shapes]
        counts = microbatches(config, sizes, topology)
        for remat in remats:
            for count in counts:
                changed = formulas.with_field(formulas.with_field(axes, 'model', remat=remat), 'optim', microbatches=count)
                one = _choice(dataclasses.replace(program, config=changed), placed, topology, sizes)
                if one.fits is not False or count == counts[-1]:
                    found.append(one)
                    break
    if not found:
        raise UserError(_no_mesh(config, topology))
    return sorted(found, key=Choice.order)


def microbatches(config: Config, sizes: meshes.Sizes, topology: Topology) -> list[int]:
    """The numbers of microbatches that a mesh divides, the smallest first."""
    shards = sizes['data'] * sizes['fsdp']
    rows = [stage[2] // shards for stage in stages(config)]
    return [count for count in meshes.divisors(min(rows)) if all(size % count == 0 for size in rows)]


def _choice(program: Any, placed: Sequence[Any], topology: Topology, sizes: dict[str, int]) -> Choice:
    config = program.config
    predictions = tuple(roofline.predict(program, batch, stage, topology) for batch, stage in zip(placed, stages(config), strict=True))
    known = [roofline.fits(one, topology, mending.FULL) for one in predictions]
    return Choice(config, sizes, predictions, making.steps(config), None if None in known else all(known))


def _no_mesh(config: Config, topology: Topology) -> str:
    """Why even the simplest meshes are refused."""
    said = []
    for axis in ('data', 'fsdp', 'tensor'):
        sizes = dict.fromkeys(partitioning.AXES, 1) | {axis: topology.chips}
        try:
            meshes.check(config, sizes, topology)
        except UserError as error:
            said.append(str(error))
    return f'--mesh=auto: no mesh of {topology.shown} divides this config ({"; ".join(said)})'


def compile_best(
    run: Run, topology: Topology, choices: Sequence[Choice], count: int, cache: keeping.Cache, say: Callable[[str], None] = print
) -> list[Compiled]:
    """Plans of the first choices that fit by formulas, until so many fit by the compiler too or twice as many were tried; the fastest first.

    Args:
      say: is told what is being compiled.
    """
    found: list[Compiled] = []
    for choice in [one for one in choices if one.fits is not False][: 2 * count]:
        if sum(one.fits for one in found) == count:
            break
        changed = dataclasses.replace(run, config=choice.config)
        key = cache.key(changed, topology)
        plan = cache.read(key, choice.config)
        kept = plan is not None
        if plan is None:
            say(f'{"compiling" if topology.compiled else "reading"} {title(choice)} (large models take minutes) ...')
            plan = making.make(changed, topology)
            cache.write(key, plan)
        found.append(Compiled(choice, plan, kept))

    def order(one: Compiled) -> tuple[Any, ...]:
        return not one.fits, *((one.plan.scheduled_seconds,) if one.plan.scheduled_seconds is not None else ()), choices.index(one.choice)

    return sorted(found, key=order)


def title(choice: Choice) -> str:
    axes = ' x '.join(f'{axis}={size}' for axis, size in choice.sizes.items() if size > 1) or 'one device'
    axes += f', {choice.config.mesh.slices_along} across slices' if choice.predictions[0].between else ''
    return f'{axes}, remat={choice.config.model.remat.name}, microbatches={choice.config.optim.microbatches}'
