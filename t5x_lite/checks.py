"""What can be wrong with the fields of a config, without data, devices or weights."""

from collections.abc import Iterator
import math
import re
from typing import Any

from t5x_lite.config import Config, Layout, UserError, stages

_AT_LEAST_0 = (
    'epochs', 'model.vocab_size', 'model.num_labels', 'data.mlm.max_predictions', 'data.workers', 'data.max_examples', 'optim.learning_rate',
    'optim.warmup_steps', 'optim.clip_norm', 'optim.end_fraction', 'checkpoint.keep_every_steps', 'eval.every_steps', 'eval.batches', 'eval.batch_size',
    'log.console_seconds',
)  # fmt: skip
_ABOVE_0 = (
    'steps', 'batch_size', 'model.vocab_multiple', 'model.num_layers', 'model.d_model', 'model.num_heads', 'model.d_ff', 'model.max_positions',
    'model.num_segments', 'model.norm_eps', 'model.init_stddev', 'data.mlm.duplicates', 'data.prefetch', 'optim.eps', 'optim.microbatches',
    'checkpoint.every_steps', 'checkpoint.keep_last', 'log.every_steps',
)  # fmt: skip
_SHARES = ('ema_decay', 'model.dropout', 'model.attention_dropout', 'optim.warmup_fraction', 'optim.b1', 'optim.b2')


def check(config: Config) -> None:
    """Raises UserError that names the first wrong field and the mend."""
    for right, message in _checks(config):
        if not right:
            raise UserError(message)


def _field(config: Config, name: str) -> Any:
    value = config
    for part in name.split('.'):
        value = getattr(value, part)
    return value


def _wrong_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return ''


def _checks(config: Config) -> Iterator[tuple[bool, str]]:
    model, data, mlm, optim = config.model, config.data, config.data.mlm, config.optim
    yield bool(model.module), 'config.model.module is empty; name a linen module such as bert_flax.bert:BertForPreTraining'
    for name in _AT_LEAST_0:
        value = _field(config, name)
        yield 0 <= value < math.inf, f'config.{name} is {value}; it must be at least 0'
    for name in _ABOVE_0:
        value = _field(config, name)
        yield 0 < value < math.inf, f'config.{name} is {value}; it must be above 0'
    for name in _SHARES:
        value = _field(config, name)
        yield 0 <= value < 1, f'config.{name} is {value}; it must be at least 0 and below 1'
    yield (
        model.d_model % model.num_heads == 0,
        f'config.model.num_heads={model.num_heads} does not divide config.model.d_model={model.d_model}; choose heads that divide the width',
    )
    yield 0 < mlm.probability < 1, f'config.data.mlm.probability is {mlm.probability}; it must lie between 0 and 1'
    held_out = mlm.validation_probability
    yield 0 <= held_out < 1, f'config.data.mlm.validation_probability is {held_out}; it must lie between 0 and 1, or be 0 for that of training'
    short = mlm.short_sequence_probability
    yield 0 <= short <= 1, f'config.data.mlm.short_sequence_probability is {short}; it must be from 0 to 1'
    yield (
        not data.weights or len(data.weights) == len(data.path),
        (f'config.data.weights has {len(data.weights)} values for {len(data.path)} paths; give one a path'),
    )
    yield all(0 < weight < math.inf for weight in data.weights), f'config.data.weights is {data.weights}; each must be above 0'
    for field, patterns in (('init_fresh', config.init_fresh), ('optim.decay', [pattern for pattern, _ in optim.decay])):
        for pattern in patterns:
            yield not (wrong := _wrong_pattern(pattern)), f'config.{field}: {pattern!r} is not a regular expression ({wrong})'
    for pattern, decay in optim.decay:
        yield 0 <= decay < math.inf, f'config.optim.decay has {decay} for {pattern!r}; it must be at least 0'
    yield from _stage_checks(config)
    sizes = {name: getattr(config.mesh, name) for name in ('data', 'fsdp', 'tensor', 'sequence')}
    yield all(size == -1 or size > 0 for size in sizes.values()), f'config.mesh is {sizes}; an axis is -1 or above 0'
    yield list(sizes.values()).count(-1) <= 1, f'config.mesh is {sizes}; only one axis can take what is left (-1)'
    profile = config.log.profile_steps
    yield (
        not profile or (len(profile) == 2 and 0 < profile[0] <= profile[1]),
        f'config.log.profile_steps is {profile}; expected (first, last)',
    )
    yield (
        not profile or config.epochs > 0 or profile[1] <= config.steps,
        (f'config.log.profile_steps is {profile}, and config.steps {config.steps}; profile earlier steps'),
    )


def _stage_checks(config: Config) -> Iterator[tuple[bool, str]]:
    given, model = config.data.stages, config.model
    yield not (config.epochs and given), 'config.data.stages and config.epochs exclude each other; use config.steps'
    starts = [stage[0] for stage in given]
    yield (
        not starts or (starts[0] == 0 and sorted(set(starts)) == starts),
        f'config.data.stages start at steps {starts}; the first must be 0, and they must rise',
    )
    for number, (_, length, batch, most) in enumerate(stages(config)):
        in_length, in_batch, in_most = ('config.data.seq_len', 'config.batch_size', 'config.data.mlm.max_predictions')
        if given:
            in_length = in_batch = in_most = f'config.data.stages[{number}]'
        yield length > 3, f'{in_length}: the sequence length is {length}; it must be above 3'
        yield (
            length <= model.max_positions,
            (
                f'{in_length}: sequences of {length} are longer than config.model.max_positions={model.max_positions}; '
                'shorten them or raise the positions'
            ),
        )
        yield batch > 0, f'{in_batch}: the batch size is {batch}; it must be above 0'
        yield (
            0 < most and (most <= length or config.data.layout is Layout.encoder_decoder),
            f'{in_most}: {most} predictions in sequences of {length}; give from 1 to {length}, or 0 to follow config.data.mlm.probability',
        )
        count = config.optim.microbatches
        yield batch % count == 0, f'{in_batch}: config.optim.microbatches={count} does not divide the batch of {batch}; change one of them'
