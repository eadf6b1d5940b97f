"""A config made ready to run: what can be wrong with its fields, without data, devices or weights."""

from collections.abc import Iterator
import math
import re
from typing import Any

from t5x_lite import several
from t5x_lite.config import Adapters, Config, Decoding, DType, Features, LayerMix, Layout, Optimizer, Positions, Rates, Remat, Whole
from t5x_lite.config_values import from_dict, to_dict
from t5x_lite.errors import UserError, nearest
from t5x_lite.stages import stages

_AT_LEAST_0 = (
    'epochs', 'z_loss', 'model.vocab_size', 'model.num_decoder_layers', 'model.head_size', 'model.local_window', 'model.num_labels',
    'data.target_len', 'data.augment.copies', 'data.mlm.max_predictions', 'data.workers', 'data.max_examples', 'data.folds', 'data.fold',
    'optim.learning_rate', 'optim.warmup_steps',
    'optim.clip_norm', 'optim.end_fraction', 'tune.freeze_layers', 'tune.prefix', 'tune.prompt',
    'checkpoint.keep_every_steps', 'eval.every_steps', 'eval.batches', 'eval.batch_size', 'eval.examples', 'eval.examples_while_training',
    'eval.every_epochs', 'eval.patience', 'eval.min_improvement',
    'log.console_seconds', 'log.stall_seconds', 'decode.max_new_tokens', 'decode.top_k', 'decode.shots', 'decode.length_penalty',
)  # fmt: skip
_ABOVE_0 = (
    'steps', 'batch_size', 'model.default_vocab_size', 'model.relative_buckets', 'model.vocab_multiple', 'model.num_layers', 'model.d_model',
    'model.num_heads', 'model.d_ff', 'model.max_positions', 'model.num_segments', 'model.norm_eps', 'model.init_stddev', 'data.mlm.duplicates',
    'optim.loss_scale_steps', 'tune.adapter_size',
    'data.prefetch', 'data.augment.candidates', 'optim.eps', 'optim.microbatches', 'checkpoint.every_steps', 'checkpoint.keep_last', 'log.every_steps', 'decode.beams',
    'data.stride', 'data.max_question', 'data.max_answer', 'decode.samples', 'decode.repetition_penalty', 'data.tasks.maximum', 'data.tasks.temperature',
)  # fmt: skip
_SHARES = (
    'tune.mixout', 'ema_decay', 'label_smoothing', 'model.dropout', 'model.attention_dropout', 'model.hidden_dropout', 'model.output_dropout',
    'optim.warmup_fraction', 'optim.b1', 'optim.b2', 'data.augment.deletion', 'data.augment.swap', 'data.augment.synonyms',
)  # fmt: skip


def finalize(config: Config) -> Config:
    """A copy with flag spellings normalised, and checked as far as it can be without data, devices or weights.

    Raises:
      UserError: naming the field and the mend.
    """
    config = from_dict(Config, to_dict(config))
    tasks = config.data.tasks
    # Not those that name columns: a name may hold a comma.
    texts = [(config.data, name) for name in ('path', 'labels', 'class_weights')]
    texts += [(tasks, name) for name in ('names', 'files', 'metrics')]
    for part, name in (*texts, (config, 'init_fresh')):
        value = getattr(part, name)
        if len(value) == 1 and isinstance(value[0], str) and ',' in value[0]:
            setattr(part, name, tuple(item.strip() for item in value[0].split(',') if item.strip()))
        elif value == ('',):
            setattr(part, name, ())
    if config.tune.features is Features.static:
        config.model.read_layers = config.model.read_layers or (0,)
    if len(config.model.read_layers) > 1 and config.model.layer_mix is LayerMix.weighted and _MIX not in config.init_fresh:
        config.init_fresh += (_MIX,)
    for right, message in _checks(config):
        if not right:
            raise UserError(message)
    for name, one in several.apart(config).items() if config.heads else ():
        with several.errors_of(name):
            finalize(one)
    return config


_MIX = 'layer_mix/.*'  # no weights to begin with have it


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
        model.head_size > 0 or model.d_model % model.num_heads == 0,
        f'config.model.num_heads={model.num_heads} does not divide config.model.d_model={model.d_model}; choose heads that divide the width',
    )
    yield (
        config.checkpoint.whole is not Whole.no or bool(config.init_from and config.init_weights),
        'config.checkpoint.whole=no keeps what learns beside the weights of config.init_from, and there are none; leave it out',
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
    yield data.folds != 1, 'config.data.folds is 1; give 2 or more, or 0 to hold config.data.validation_fraction out'
    yield (
        data.fold < max(data.folds, 1),
        f'config.data.fold is {data.fold}, and config.data.folds {data.folds}; ' + ('folds count from 0' if data.folds else 'give the number of folds too'),
    )
    yield (
        not (data.folds and data.validation),
        (
            f'config.data.folds={data.folds} holds a part of config.data.train out, and config.data.validation is given too; leave one of them out '
            '(--config.data.folds=0 --config.data.fold=0)'
        ),
    )
    tasks = data.tasks
    yield 0 < tasks.temperature < math.inf, f'config.data.tasks.temperature is {tasks.temperature}; it must be above 0'
    yield tasks.maximum > 0, f'config.data.tasks.maximum is {tasks.maximum}; it must be above 0'
    yield all(0 <= weight < math.inf for weight in tasks.weights), f'config.data.tasks.weights is {tasks.weights}; each must be at least 0'
    yield (
        tasks.rates != Rates.given or len(tasks.weights) == len(tasks.names),
        f'config.data.tasks.weights has {len(tasks.weights)} values for {len(tasks.names)} names; with rates=given, give one a name',
    )
    yield (
        optim.loss_scale >= 1 and math.frexp(optim.loss_scale)[0] == 0.5,
        f'config.optim.loss_scale is {optim.loss_scale:g}; it must be a power of two from 1 up, so that scaling rounds nothing',
    )
    yield (
        config.tune.feature_dtype is not DType.float16,
        'config.tune.feature_dtype=float16 could not hold large states; take float32, or bfloat16 for half the room',
    )
    moments = optim.moment_dtype
    yield (
        moments is DType.float32 or (moments is DType.bfloat16 and optim.name is not Optimizer.adafactor),
        f'config.optim.moment_dtype={moments.value} with config.optim.name={optim.name.value}; it is float32 or bfloat16, of the moments of adamw and lamb',
    )
    sums = config.mesh.collective_dtype
    yield (
        sums in (DType.float32, config.model.dtype) and sums is not DType.float16,
        f'config.mesh.collective_dtype={sums.value} with config.model.dtype={config.model.dtype.value}; it is float32, or bfloat16 where the model computes in that',
    )
    yield (
        config.mesh.gather_ahead or not config.mesh.sum_behind,
        'config.mesh.sum_behind=True without config.mesh.gather_ahead: gradients go back the way that weights came ahead; add --config.mesh.gather_ahead',
    )
    again = config.model.remat is Remat.full and config.mesh.sum_behind
    yield (
        again or not config.mesh.gather_again,
        f'config.mesh.gather_again=True with config.mesh.sum_behind={config.mesh.sum_behind} and config.model.remat={config.model.remat.value}: the loop that '
        'sends weights again computes layers again, and sends gradients back; take --config.mesh.sum_behind and --config.model.remat=full',
    )
    yield (
        config.mesh.gather_side >= 2,
        f'config.mesh.gather_side={config.mesh.gather_side}; it is at least 2: 4, 8 on rings of eight, or 2 on a v5e of more than 4 x 4 chips',
    )
    yield (
        sums is config.model.dtype or not config.mesh.gather_ahead,
        f'config.mesh.gather_ahead=True with config.mesh.collective_dtype={sums.value} and config.model.dtype={config.model.dtype.value}: what is sent so is '
        f'added up in the dtype of the model; take --config.mesh.collective_dtype={config.model.dtype.value}'
        + (' and --config.model.dtype=bfloat16' if config.model.dtype is DType.float16 else ''),
    )
    for field, patterns in (('init_fresh', config.init_fresh), ('optim.decay', [pattern for pattern, _ in optim.decay])):
        for pattern in patterns:
            yield not (wrong := _wrong_pattern(pattern)), f'config.{field}: {pattern!r} is not a regular expression ({wrong})'
    for pattern, decay in optim.decay:
        yield 0 <= decay < math.inf, f'config.optim.decay has {decay} for {pattern!r}; it must be at least 0'
    yield from _language_checks(config)
    yield from _feature_checks(config)
    yield from several.checks(config) if config.heads else _stage_checks(config)
    sizes = {name: getattr(config.mesh, name) for name in ('data', 'fsdp', 'tensor', 'sequence')}
    yield all(size == -1 or size > 0 for size in sizes.values()), f'config.mesh is {sizes}; an axis is -1 or above 0'
    yield list(sizes.values()).count(-1) <= 1, f'config.mesh is {sizes}; only one axis can take what is left (-1)'
    count, along = config.mesh.slices, config.mesh.slices_along
    yield count == -1 or count > 0, f'config.mesh.slices is {count}; it is above 0, or -1 for as many as there are'
    yield along in sizes, f'config.mesh.slices_along is {along!r}, which is no mesh axis; {nearest(along, sizes)}'
    profile = config.log.profile_steps
    yield (
        not profile or (len(profile) == 2 and 0 < profile[0] <= profile[1]),
        f'config.log.profile_steps is {profile}; expected (first, last)',
    )
    yield (
        not profile or config.epochs > 0 or profile[1] <= config.steps,
        (f'config.log.profile_steps is {profile}, and config.steps {config.steps}; profile earlier steps'),
    )


def _language_checks(config: Config) -> Iterator[tuple[bool, str]]:
    """Of objectives of language models, of tasks, and of decoding."""
    low, high = config.data.lm.prefix_fraction
    yield 0 <= low <= high <= 1, f'config.data.lm.prefix_fraction is {(low, high)}; expected two shares from 0 to 1, the smaller first'
    span, decode = config.data.span, config.decode
    for shown, length, density in [('', span.mean_length, span.noise_density)] + [(f'.denoisers[{n}]', d[1], d[2]) for n, d in enumerate(span.denoisers)]:
        yield 0 < density < 1, f'config.data.span{shown or ".noise_density"}: a noise density of {density}; it must lie between 0 and 1'
        yield length >= 1 or (shown and length == 0), f'config.data.span{shown or ".mean_length"}: spans of {length} tokens; the mean must be at least 1'
    for number, denoiser in enumerate(span.denoisers):
        yield denoiser[3] > 0, f'config.data.span.denoisers[{number}]: a rate of {denoiser[3]}; it must be above 0'
    tasks = config.data.tasks
    yield (
        not tasks.weights or tasks.rates == Rates.given,
        f'config.data.tasks.weights is {tasks.weights}, and config.data.tasks.rates {tasks.rates.name}; add --config.data.tasks.rates=given, or leave them out',
    )
    yield (
        not (tasks.names and (tasks.inputs or tasks.targets)),
        'config.data.tasks.names and the templates config.data.tasks.inputs and .targets exclude each other; register the table as a task, or leave one out',
    )
    if decode.method != Decoding.sample:
        for name, usual in (('samples', 1), ('top_k', 0), ('top_p', 1.0), ('min_p', 0.0), ('temperature', 1.0)):
            value = getattr(decode, name)
            yield value == usual, f'config.decode.{name}={value} is for sampling; add --config.decode.method=sample, or leave it out'
    yield 0 <= decode.temperature < math.inf, f'config.decode.temperature is {decode.temperature}; it must be at least 0 (0 is greedy)'
    yield 0 < decode.top_p <= 1, f'config.decode.top_p is {decode.top_p}; it must be above 0 and at most 1 (1: all)'
    yield 0 <= decode.min_p < 1, f'config.decode.min_p is {decode.min_p}; it must be at least 0 and below 1'
    data = config.data
    yield (
        not (data.regression and data.label_separator),
        f'config.data.regression is for one number a row, config.data.label_separator={data.label_separator!r} for sets of labels; leave one of them out',
    )
    augment = data.augment
    yield (
        not augment.synonyms or bool(augment.file or config.init_from and config.init_weights),
        'config.data.augment.synonyms asks the masked language model of config.init_from, and there is none; give its folder, or leave synonyms out',
    )
    yield (
        not augment.copies or bool(augment.deletion or augment.swap or augment.synonyms),
        f'config.data.augment.copies={augment.copies} would repeat examples unchanged; give deletion, swap or synonyms too, or more epochs',
    )
    yield 0 < data.label_threshold < 1, f'config.data.label_threshold is {data.label_threshold}; it must lie between 0 and 1'
    tune = config.tune
    yield 0 < tune.layer_decay <= 1, f'config.tune.layer_decay is {tune.layer_decay}; it must be above 0 and at most 1 (1: all layers alike)'
    layers = tune.freeze_layers
    yield layers < 1 or layers == int(layers), f'config.tune.freeze_layers is {layers}; give a number of layers, or a share of them below 1 (0.5)'
    for pattern, factor in tune.rates:
        yield 0 <= factor < math.inf, f'config.tune.rates: the factor of {pattern!r} is {factor}; it must be at least 0'
    for _, pattern, factor in tune.unfreeze:
        yield 0 <= factor < math.inf, f'config.tune.unfreeze: the factor of {pattern!r} is {factor}; it must be at least 0'
    yield from _care_checks(config)
    yield '' not in decode.stop, 'config.decode.stop holds an empty text, at which every answer would end; leave it out'


def _care_checks(config: Config) -> Iterator[tuple[bool, str]]:
    """Of early stopping and mixout."""
    yield (
        not config.tune.mixout or bool(config.init_from and config.init_weights),
        f'config.tune.mixout={config.tune.mixout} mixes in the weights of config.init_from, and there are none; leave it out',
    )
    held_out = config.eval
    yield not (held_out.every_epochs and config.data.stages), 'config.data.stages and config.eval.every_epochs exclude each other; use config.eval.every_steps'
    yield (
        not held_out.min_improvement or held_out.patience > 0,
        f'config.eval.min_improvement={held_out.min_improvement} is for config.eval.patience, which is 0; give the evaluations to wait, or leave it out',
    )
    if held_out.patience:
        given = f'config.eval.patience={held_out.patience}'
        yield bool(config.checkpoint.best_metric), f'{given} watches config.checkpoint.best_metric, which is empty; name a held-out metric, such as accuracy'
        yield (
            held_out.every_steps > 0 or held_out.every_epochs > 0,
            f'{given} needs evaluations on the way, and config.eval.every_steps is 0; give it, or config.eval.every_epochs',
        )


def _feature_checks(config: Config) -> Iterator[tuple[bool, str]]:
    tune, read, depth = config.tune, config.model.read_layers, config.model.num_layers
    for layer in read:
        yield (
            -depth - 1 <= layer <= depth,
            f'config.model.read_layers={read}: the body has {depth} layers, from 0 (the embeddings) to {depth}, or from -1 (the last) down to {-depth - 1}',
        )
    places = [layer % (depth + 1) for layer in read]
    yield len(set(places)) == len(places), f'config.model.read_layers={read} names a layer twice; leave one out'
    if tune.features is Features.none:
        return
    name = f'config.tune.features={tune.features.name}'
    yield bool(config.init_from and config.init_weights), f'{name} are those of pretrained weights; give --config.init_from'
    yield (
        tune.features is not Features.static or places == [0],
        f'{name} are those of the embeddings, and config.model.read_layers={read} names others; leave it out, or take contextual ones',
    )
    added = {
        'lora': tune.lora, 'adapters': tune.adapters is not Adapters.none, 'ia3': tune.ia3, 'prefix': tune.prefix, 'prefix_cross': tune.prefix_cross,
        'prompt': tune.prompt, 'unfreeze': tune.unfreeze,
    }  # fmt: skip
    for field, given in added.items():
        yield not given, f'{name} computes the states of the body once, and config.tune.{field} changes them; leave one of them out'


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
        if config.data.target_len and not config.data.mlm.max_predictions:
            in_most = 'config.data.target_len'
        if given:
            in_length = in_batch = in_most = f'config.data.stages[{number}]'
        yield length > 3, f'{in_length}: the sequence length is {length}; it must be above 3'
        yield (
            length <= model.max_positions or model.positions != Positions.learned,
            (
                f'{in_length}: sequences of {length} are longer than config.model.max_positions={model.max_positions}; '
                f'give at most {model.max_positions}' + ('' if config.init_from else ', or raise the positions')
            ),
        )
        yield batch > 0, f'{in_batch}: the batch size is {batch}; it must be above 0'
        yield (
            0 < most and (most <= length or config.data.layout is Layout.encoder_decoder),
            f'{in_most}: {most} predictions in sequences of {length}; give from 1 to {length}, or 0 to follow config.data.mlm.probability',
        )
        yield (
            most <= model.max_positions or model.positions != Positions.learned,
            f'{in_most}: targets of {most} are longer than config.model.max_positions={model.max_positions}; give at most that',
        )
        count = config.optim.microbatches
        yield batch % count == 0, f'{in_batch}: config.optim.microbatches={count} does not divide the batch of {batch}; change one of them'
