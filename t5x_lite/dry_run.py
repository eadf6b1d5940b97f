"""What `train --dry_run` shows: everything that can be known of a run without computing."""

from collections.abc import Callable
import dataclasses
import math
import re
from typing import Any

import jax

from t5x_lite import several
from t5x_lite.assemble import Run
from t5x_lite.config import AttentionKernel, Config
from t5x_lite.config_values import flatten
from t5x_lite.data import showing, tokenizers
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError, nearest
from t5x_lite.evaluation.several import evaluator_of
from t5x_lite.evaluation.task_scores import WhileTraining
from t5x_lite.stages import stages
from t5x_lite.training import adapters, checkpoint, driving, features, partitioning, paths, slices, tuning, watch
from t5x_lite.training.step import Program, make_program


def check(run: Run, tell: Callable[[str], None] = lambda line: None) -> Program:
    """The program of a run, after everything that its training would refuse: mesh, batches, weights, names and shapes, before any compute.

    Args:
      tell: is given, in lines, which attention is picked where config.model.attention is `auto`.

    Raises:
      UserError: naming the field and the mend.
    """
    config = run.config
    mesh = partitioning.make_mesh(config)
    for one in several.apart(config).values():
        partitioning.check_stages(one, mesh, config.optim.microbatches)
        for _, length, batch, _ in stages(one):
            partitioning.check_batch(mesh, config.eval.batch_size or batch, length, 1, 'config.eval.batch_size')
    program = make_program(config, mesh)
    features.check(config, program.abstract.params)
    if run.initial is not None:
        checkpoint.plan_merge(program.abstract.params, run.initial, (*config.init_fresh, adapters.PATTERN), config.init_from)
    if run.train is not None:
        with jax.set_mesh(mesh):
            _trace(program, run, tell)
    return program


def _trace(program: Program, run: Run, tell: Callable[[str], None]) -> None:
    """Do model, loss and data fit each other, and is the metric one that they give?"""
    config, steps = program.config, {*run.train.first_steps}
    if config.model.attention in (AttentionKernel.auto, AttentionKernel.cudnn):  # what is picked, or refused, depends on a stage's shapes
        steps |= {start for one in several.apart(config).values() for start, *_ in stages(one) if start < config.steps}
    told: dict[Any, str] = {}
    for step in sorted(steps):
        told = driving.checked(program, run.train.batch(step))[1] | told
    for said in told.values():
        tell(said)
    best, names = config.checkpoint.best_metric, held_out_metrics(program, run)
    if best and best not in names:
        raise UserError(f'config.checkpoint.best_metric={best} is not a held-out metric of this run; {nearest(best, names)}')


def held_out_metrics(program: Program, run: Run) -> list[str]:
    """The names of what is measured on held-out data, losses first."""
    names = evaluator_of(program, run.validation).metrics()
    if WhileTraining.wanted(program.config):
        names += WhileTraining(program.config, tokenizers.load(run.tokenizer_path), program.mesh).metrics
    return list(dict.fromkeys(names))


def report(run: Run, step: int = 1) -> str:
    """The whole text. Raises UserError for whatever training would refuse."""
    picked: list[str] = []
    program = check(run, picked.append)
    config, mesh = program.config, program.mesh
    parts = ['\n'.join(['config, as flags:', *as_flags(config)]), parameter_table(program), bytes_per_device(program), flops(program)]
    axes = ' x '.join(f'{axis}={size}' for axis, size in mesh.shape.items())
    count = len(slices.apart(config.mesh, list(mesh.devices.flat)))
    across = f' in {count} slices, {config.mesh.slices_along} across them' if count > 1 else ''
    parts.append(f'mesh: {axes} on {mesh.size} x {mesh.devices.flat[0].device_kind}{across}')
    if picked:
        parts.append('\n'.join(picked))
    if run.initial is not None:
        parts.append(f'weights: from {config.init_from}')
    if run.train is not None:
        parts += ['\n'.join(description(run)), example(run, step)]
        if found := warnings(run, program):
            parts.append('\n'.join(found))
    else:
        parts.append('data: none given (--config.data.path or --config.data.train)')
    return '\n\n'.join(parts)


def warnings(run: Run, program: Program) -> list[str]:
    """What the run would warn of before its first step, a line each."""
    tunings = _tunings(run.config, program.abstract.params).values()
    found = watch.before_training(run.config, tunings, run.train, run.tokenizer_path)
    return [f'warning: {kind}: {text}' for kind, text in found.items() if text]


def as_flags(config: Config) -> list[str]:
    """Every field, written as a shell takes it."""

    def literal(value: Any) -> str:
        return f'({", ".join(map(literal, value))}{"," * (len(value) == 1)})' if isinstance(value, list) else repr(value)

    def quoted(text: str) -> str:
        return text if re.fullmatch(r'[\w.,:/+-]*', text) else '"' + re.sub(r'([\\"$`])', r'\\\1', text) + '"'

    fields = {name: value for name, value in flatten(config).items() if name != 'heads'}  # where there are some, each has its own
    return [f'--config.{name}={quoted(value if isinstance(value, str) else literal(value))}' for name, value in fields.items()]


def description(run: Run) -> list[str]:
    """What is read for training and for evaluation, each line once."""
    return list(dict.fromkeys([*run.notes, *run.train.describe(), *run.validation.describe()]))


def unpadded(config: Config, mesh: Any) -> dict[str, Any]:
    """{path: abstract parameter} with the vocabulary as it is counted and exported."""
    exact = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_multiple=1), mesh=dataclasses.replace(config.mesh))
    return paths.leaves(make_program(exact, mesh).abstract.params)


def parameter_table(program: Program) -> str:
    """Each parameter with its shape, size and place; then totals, the whole and each top-level part."""
    stored, exact = paths.leaves(program.abstract.params), unpadded(program.config, program.mesh)
    rows = [('parameter', 'shape', 'count', 'sharding')]
    rows += [
        (path, ' x '.join(map(str, exact[path].shape)), f'{exact[path].size:,}', _split_over(stored[path].sharding)) for path in stored
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [f'{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}' for row in rows]
    totals: dict[str, int] = {}
    for path, leaf in exact.items():
        part = path.split('/')[0]
        totals[part] = totals.get(part, 0) + leaf.size
    lines += ['', f'parameters: {sum(totals.values()):,}'] + [f'{part}: {count:,}' for part, count in totals.items()]
    stretches = learning(program.config, exact)
    for step, learns in stretches.items():
        if len(stretches) > 1 or learns < sum(totals.values()):
            lines.append(f'learns{f" from step {step + 1:,} on" if step else ""}: {learns:,} ({learns / sum(totals.values()):.2%})')
    return '\n'.join(lines)


def learning(config: Config, exact: dict[str, Any]) -> dict[int, int]:
    """{step: how many parameters learn from it on}, of those that `unpadded` gives."""
    tree, found = paths.nested(exact), {}
    for step, learning in _tunings(config, tree).items():
        found[step] = sum(leaf.size for leaf in jax.tree.leaves(learning.select(tree)))
    return found


def _tunings(config: Config, params: Any) -> dict[int, tuning.Tuning]:
    """{step: what of abstract parameters learns from it on}."""
    return {step: tuning.plan(config.tune, params, config.init_fresh, step=step, steps=config.steps) for step in tuning.stages(config.tune, config.steps)}


def _split_over(sharding: jax.sharding.NamedSharding) -> str:
    """'-, fsdp, tensor': the mesh axes over which each dimension is split; 'whole' where none is."""
    axes = [axis if isinstance(axis, tuple) else (axis,) for axis in sharding.spec]
    split = ['+'.join(axis for axis in part if axis and sharding.mesh.shape[axis] > 1) or '-' for part in axes]
    return ', '.join(split) if set(split) - {'-'} else 'whole'


def _local_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def bytes_per_device(program: Program) -> str:
    state = program.abstract
    sizes = {
        'parameters': _local_bytes(state.params),
        'gradients': _local_bytes(program.tuning.select(state.params)),
        'optimiser': _local_bytes(state.opt_state),
        'moving average': _local_bytes(state.ema),
    }
    shown = ', '.join(f'{name} {size:,}' for name, size in sizes.items() if size)
    return f'bytes per device: {sum(sizes.values()):,} ({shown}), {sum(sizes.values()) / 2**20:,.1f} MiB, and activations'


def flops(program: Program) -> str:
    config, lines = program.config, []
    for name, one in several.apart(config).items():
        module = resolve(one.model.module)
        for start, length, batch, predictions in stages(one):
            step = 3 * batch * module.forward_flops(one.model, length, predictions)
            lines.append(f'FLOPs a step{f" of {name}" if name else ""}: {step:.4g} for {batch} x {length}' + (f' from step {start:,}' if start else ''))
    return '\n'.join(lines)


def example(run: Run, step: int) -> str:
    """The first row of a step's batch as the model will see it."""
    batch = run.train.batch(step - 1)
    tokenizer = tokenizers.load(run.tokenizer_path)
    shapes = ', '.join(f'{name} {value.dtype}{list(value.shape)}' for name, value in batch.items())
    real = showing.real_share(batch)
    first = showing.decode_example(batch, 0, tokenizer, run.train.config_at(step - 1).data.labels)
    said = f'batch of step {step:,}: {shapes}; {real:.1%} of the tokens are real\nits first example:\n{first}'
    source = None if run.config.heads else run.train.sources(run.train.stage_at(step - 1))[0]
    pairs = source.changed(run.train.indices(step - 1)) if hasattr(source, 'changed') else []
    for old, new in [pair for pair in pairs if pair[0] != pair[1]][:1]:
        said += f'\na changed example:\nas it is: {" | ".join(old)}\nas it is read: {" | ".join(new)}'
    return said
