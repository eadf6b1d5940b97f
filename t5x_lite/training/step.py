"""The train state and the one jitted step over a mesh."""

from collections.abc import Callable, Collection, Hashable
import contextlib
import dataclasses
from typing import Any

import flax.linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from t5x_lite.config import Config
from t5x_lite.config_values import flatten
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.models import several
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.placing import placed_by
from t5x_lite.models.transformer import cut_at
from t5x_lite.training import adapters, loss_scale, mixout, optim, partitioning, paths, sharing, tuning
from t5x_lite.training.losses import Batch, Loss, divide


@struct.dataclass
class TrainState:
    step: jax.Array  # int32 []: steps taken
    params: Any
    opt_state: Any
    ema: Any  # a tree like params, or {} where config.ema_decay is 0
    skipped: jax.Array  # int32 []: steps whose loss or gradient was not finite
    loss_scale: Any = struct.field(default_factory=dict)  # loss_scale.LossScale, or {} where the loss is not scaled


@dataclasses.dataclass(frozen=True)
class Program:
    """What a config compiles to: the module, its loss, the mesh, and where the state lives. With config.tune.unfreeze, from one of its steps on."""

    config: Config
    module: Any  # linen's, or what has its `init` and `apply`
    loss: Loss
    mesh: Mesh
    transformation: optax.GradientTransformation
    abstract: TrainState  # ShapeDtypeStructs with shardings
    begin: Callable[[jax.Array], TrainState]  # of a random key; not jitted
    tuning: tuning.Tuning  # what learns; the optimiser's state and the gradients are of that
    key: Hashable  # the same for programs that differ in numbers alone

    def init(self, only: Collection[str] | None = None) -> TrainState:
        """The state that config.seed begins with, already sharded; `only` as `initializer` has it."""
        return self.initializer(only)(jax.random.key(self.config.seed))

    def initializer(self, only: Collection[str] | None = None) -> Callable[[jax.Array], TrainState]:
        """Jitted: the state that a random key begins with.

        Args:
          only: paths of parameters. What else there is of them is neither drawn nor held: `params` are these alone, and `ema` is empty.
        """

        def part(state: TrainState) -> TrainState:
            if only is None:
                return state
            return state.replace(params=paths.nested({path: leaf for path, leaf in paths.leaves(state.params).items() if path in only}), ema={})

        # Unconstrained inside, and moved out by the output shardings: the values do not depend on the mesh.
        key = ('init', self.key, None if only is None else frozenset(only))
        return sharing.kept(key, lambda: jax.jit(lambda key: part(self.begin(key)), out_shardings=part(self.shardings)))

    @property
    def shardings(self) -> TrainState:
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract)


def dummy_batch() -> dict[str, np.ndarray]:
    """Enough of a batch for any module to make its parameters."""
    names = ('tokens', 'token_types', 'sequence_ids', 'decoder_tokens', 'decoder_sequence_ids')
    return {name: np.ones((1, 8), np.int32) for name in names}


def boxed_parameters(config: Config, module: Any, key: jax.Array) -> Any:
    """The parameters that a run begins with, each in a box with the names of its logical axes."""
    return adapters.added_to(config.tune, module.init(key, dummy_batch())['params'], key)


def make_program(config: Config, mesh: Mesh, step: int = 0) -> Program:
    """Abstract state, shardings and how it begins; nothing is computed yet.

    Args:
      step: what learns is as it is from this step on.

    Raises:
      UserError: for dotted names that do not resolve, and rules that do not fit the parameters.
    """
    if config.tune.prompt % mesh.shape['sequence']:
        raise UserError(
            f'config.mesh.sequence={mesh.shape["sequence"]} does not divide the {config.tune.prompt} virtual tokens of config.tune.prompt; change one of them'
        )
    module = several.made(config)
    loss = resolve(config.loss, 'config.loss', 'weights')(config)
    transformation = mixout.remembering(config, optim.optimizer(config))

    def init_boxed(key: jax.Array) -> Any:
        return boxed_parameters(config, module, key)

    def of_params(params: Any) -> TrainState:
        ema = jax.tree.map(lambda x: x + 0, params) if config.ema_decay else {}
        zero = jnp.zeros([], jnp.int32)
        return TrainState(zero, params, _begin(transformation, learning, params), ema, zero + 0, loss_scale.begin(config))

    boxed = jax.eval_shape(init_boxed, jax.random.key(config.seed))
    learning = tuning.plan(config.tune, nn.unbox(boxed), config.init_fresh, step=step, steps=config.steps)
    mixout.check(config, learning.select(nn.unbox(boxed)))
    shardings = partitioning.parameter_shardings(boxed, mesh, config.mesh)
    abstract = jax.eval_shape(of_params, nn.unbox(boxed))
    paths.values(config.optim.decay, abstract.params, 'config.optim.decay')
    placed = partitioning.state_shardings(abstract, abstract.params, shardings, mesh)
    abstract = jax.tree.map(lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract, placed)
    reads = tuple((name, str(flatten(config)[name])) for name in getattr(loss, 'reads', ()))
    key = sharing.key(config, mesh, type(module), type(loss), reads, str(learning.parts), bool(any(learning.rates)))
    return Program(config, module, loss, mesh, transformation, abstract, lambda key: of_params(nn.unbox(init_boxed(key))), learning, key)


def numbers(program: Program) -> dict[str, Any]:
    """What a step takes as an input, so that the compiled step serves every run whose program has the same key: numpy arrays, nested."""
    return {'seed': np.uint32(program.config.seed & 0xFFFFFFFF), 'optim': optim.numbers(program.config), 'rates': program.tuning.factors()}


def batch_loss(program: Program, params: Any, batch: Batch, weights: dict[str, jax.Array], key: DropoutKey | None) -> tuple[jax.Array, Any]:
    """(sum over terms of sum / weight, metrics) of a batch, or of the part of it that a microbatch is."""
    with placed_by(program.config.mesh), cut_at(program.tuning.cuts):
        outputs = program.module.apply({'params': params}, batch, dropout=key)
    terms, metrics = program.loss(outputs, batch)
    return sum(divide(total, weights[name]) for name, total in terms.items()), metrics


def gradients(
    program: Program, params: Any, batch: Batch, key: DropoutKey, mix: Callable[[Any], Any] | None = None, scale: jax.Array | None = None
) -> tuple[jax.Array, Any, Any]:
    """(loss, gradients of what learns, metrics) of the global batch, in `microbatches` parts that add up to it exactly.

    Args:
      mix: what learns -> what of it is used (training/mixout.py).
      scale: of the loss that is differentiated (training/loss_scale.py); what is returned is not scaled.
    """
    learns = program.tuning.select(params)
    if mix is None:
        return _gradients(program, params, learns, batch, key, scale)
    used, back = jax.vjp(mix, learns)
    loss, grads, metrics = _gradients(program, params, used, batch, key, scale)
    return loss, back(grads)[0], metrics


def _gradients(program: Program, params: Any, learns: Any, batch: Batch, key: DropoutKey, scale: jax.Array | None) -> tuple[jax.Array, Any, Any]:
    weights = program.loss.weights(batch)

    def scaled_loss(learns: Any, part: Batch, part_key: DropoutKey) -> tuple[jax.Array, Any]:
        loss, metrics = batch_loss(program, program.tuning.merge(params, learns), part, weights, part_key)
        return loss if scale is None else loss * scale, (loss, metrics)

    def of_part(part: Batch, rows: jax.Array) -> tuple[jax.Array, Any, Any]:
        (_, (loss, metrics)), grads = jax.value_and_grad(scaled_loss, has_aux=True)(learns, part, key.replace(rows=rows))
        return loss, grads, metrics

    loss, grads, metrics = _of_parts(program.config.optim.microbatches, of_part, batch, key.rows)
    return loss, grads if scale is None else jax.tree.map(lambda g: g / scale, grads), metrics


def _of_parts(count: int, of_part: Callable[..., Any], batch: Batch, rows: jax.Array) -> Any:
    """The sum of what `count` parts of a batch give."""
    if count == 1:
        return of_part(batch, rows)

    def split(x: jax.Array) -> jax.Array:
        # Row r goes to part r % count, so that each device keeps its rows.
        return x.reshape((x.shape[0] // count, count) + x.shape[1:]).swapaxes(0, 1)

    parts = (jax.tree.map(split, batch), split(rows))
    shapes = jax.eval_shape(of_part, *jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    total, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, of_part(*part)), None), zeros, parts)
    return total


def make_train_step(program: Program) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """step(state, batch, given=numbers(program)) -> (state, metrics); not jitted.

    `given` are the numbers of this run, or of another whose program has the same key.

    A step whose loss or gradient is not finite leaves parameters and optimiser as they were, whatever the config's policy: nothing bad can be saved.
    Metrics are {'name': (sum, weight)} and the scalars 'loss', 'grad_norm', 'learning_rate', 'finite', 'tokens' (real ones); of a loss that is scaled also
    'loss_scale' (of this step) and 'overflowed' (it is not finite because that was too large).
    """
    config, own, on_cpu = program.config, numbers(program), program.mesh.devices.flat[0].platform == 'cpu'

    def train_step(state: TrainState, batch: Batch, given: dict[str, Any] = own) -> tuple[TrainState, dict[str, Any]]:
        n = given['optim']
        rows = jnp.arange(batch['tokens'].shape[0], dtype=jnp.uint32)
        with _belonging_together(config):
            mix = (lambda learns: mixout.mixed(config, learns, state.opt_state, state.step, given['seed'])) if config.tune.mixout else None
            key = DropoutKey.create(given['seed'], state.step, rows, config.model.dropout_bits)
            loss, grads, metrics = gradients(program, state.params, batch, key, mix, loss_scale.factor(state.loss_scale))
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        clipped = grads
        if config.optim.clip_norm:
            clip = jnp.minimum(1.0, n['clip'] / jnp.maximum(norm, 1e-12))
            clipped = jax.tree.map(lambda g: g * clip, grads)
        learns = program.tuning.select(state.params)

        def keep(new: Any, old: Any) -> Any:
            kept = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
            # XLA:CPU would make a moment anew where a parameter needs it, out of what it was, and so copy both moments before it changes them where they lie: more
            # to read and write, and the memory of both (test_step.py counts copies). Elsewhere one loop reads and writes all four.
            return jax.lax.optimization_barrier(kept) if on_cpu else kept

        transformation = mixout.remembering(config, optim.optimizer(config, n, keep))
        updates, opt_state = _updates(program, transformation, clipped, state.opt_state, learns)
        updates = program.tuning.scale(updates, given['rates'])

        params = program.tuning.merge(state.params, keep(optax.apply_updates(learns, updates), learns))
        ema = _average(program, n, state.ema, params) if config.ema_decay else {}

        new_state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=keep(ema, state.ema),
            skipped=state.skipped + jnp.where(finite, 0, 1),
            loss_scale=loss_scale.after(state.loss_scale, config, finite),
        )
        scalars = {
            'loss': loss,
            'grad_norm': norm,
            'learning_rate': optim.schedule(config, n)(state.step),
            'finite': finite,
            'tokens': sum(jnp.sum(batch[name] > 0) for name in ('sequence_ids', 'decoder_sequence_ids') if name in batch),
        }
        if state.loss_scale:
            scalars |= {'loss_scale': state.loss_scale.scale, 'overflowed': loss_scale.overflowed(state.loss_scale, loss, finite)}
        if config.log.layer_norms:
            scalars['layer_norms'] = {
                kind: paths.map_paths(_layer_norm, tree) for kind, tree in (('param', state.params), ('grad', grads), ('update', updates))
            }
        return new_state, {'metrics': metrics, **scalars}

    return train_step


def _begin(transformation: optax.GradientTransformation, learning: tuning.Tuning, params: Any) -> Any:
    """The optimiser's state of what learns: one, or a tuple of one for each part."""
    learns = learning.select(params)
    return transformation.init(learns) if len(learning.parts) == 1 else tuple(map(transformation.init, learns))


def begun_at(program: Program, params: Any) -> Any:
    """The optimiser's state of parameters that training begins at, placed."""
    return jax.jit(lambda params: _begin(program.transformation, program.tuning, params), out_shardings=program.shardings.opt_state)(params)


def grown(before: Program, after: Program, state: TrainState) -> TrainState:
    """A state of `before`, with an optimiser's state for what begins to learn in `after` (config.tune.unfreeze); the schedule goes on for all alike."""
    had, has = len(before.tuning.parts), len(after.tuning.parts)
    if had == has:
        return state

    def grow(state: TrainState) -> Any:
        old = (state.opt_state,) if had == 1 else state.opt_state
        count = next(leaf.count for leaf in jax.tree.leaves(old[0], is_leaf=_is_schedule) if _is_schedule(leaf))
        new = [after.transformation.init(tree) for tree in after.tuning.select(state.params)[had:]]
        return old + tuple(jax.tree.map(lambda leaf: leaf._replace(count=count + 0) if _is_schedule(leaf) else leaf, one, is_leaf=_is_schedule) for one in new)

    return state.replace(opt_state=jax.jit(grow, out_shardings=after.shardings.opt_state)(state))


def _is_schedule(leaf: Any) -> bool:
    return isinstance(leaf, optax.ScaleByScheduleState)


def _updates(program: Program, transformation: optax.GradientTransformation, grads: Any, opt_state: Any, learns: Any) -> tuple[Any, Any]:
    """(updates, state) of the optimiser, which keeps a state for each part that began to learn at its own time."""
    update = transformation.update
    if len(program.tuning.parts) == 1:
        return update(grads, opt_state, learns)
    pairs = list(map(update, grads, opt_state, learns))
    return tuple(updates for updates, _ in pairs), tuple(state for _, state in pairs)


def _average(program: Program, n: optim.Numbers, ema: Any, params: Any) -> Any:
    """Of what learns; the rest stays bitwise."""
    select = program.tuning.select
    return program.tuning.merge(ema, jax.tree.map(lambda e, p: n['ema'] * e + n['1-ema'] * p, select(ema), select(params)))


@contextlib.contextmanager
def _belonging_together(config: Config):
    """Says in a line, while a step is traced, that the model, the loss and the data of a config do not fit each other."""
    try:
        yield
    except KeyError as error:
        raise UserError(
            f'{error.args[0]!r} is missing: config.loss={config.loss} asks for it, and neither config.model.module={config.model.module} nor '
            f'config.data.source={config.data.source} gives it; choose three that belong together, as in configs/'
        ) from error


def _layer_norm(path: str, x: jax.Array) -> jax.Array:
    """The L2 norm: one number, or one a layer of stacked parameters."""
    axes = tuple(range(1 if paths.is_stacked(path) else 0, x.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes))


def eval_step(program: Program) -> Callable[[Any, Batch], tuple[Any, dict[str, jax.Array]]]:
    """(params, batch) -> ({metric: (sum, weight)}, outputs to collect by example); not jitted."""

    def step(params: Any, batch: Batch):
        with _belonging_together(program.config), placed_by(program.config.mesh):
            outputs = program.module.apply({'params': params}, batch)
            _, metrics = program.loss(outputs, batch)
            collect = getattr(program.loss, 'collect', None)
            return metrics, collect(outputs, batch) if collect else {}

    return step
