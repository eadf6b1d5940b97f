"""From a config as a person gave it to a complete one, with its data and its initial weights."""

import dataclasses
import os
import sys
from typing import Any

import flax.linen as nn
import jax

from t5x_lite import remote, several
from t5x_lite.checks import finalize
from t5x_lite.config import ARCHITECTURE, AugmentConfig, Config, Features, Layout, ModelConfig, TuneConfig
from t5x_lite.config_values import from_json, to_dict
from t5x_lite.data import class_weights, tables, tagged, tokenizers
from t5x_lite.data.corpus import Corpus
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.data.several import SeveralData, data_function
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.interop import bases, folder
from t5x_lite.models import heads, several as several_heads
from t5x_lite.training import adapters, checkpoint, paths
from t5x_lite.training.step import dummy_batch

@dataclasses.dataclass
class Run:
    config: Config  # complete: everything that was left to the data or to `init_from` is filled in
    initial: dict[str, Any] | None  # parameters to start from, as nested dicts of numpy arrays
    tokenizer_path: str  # '' where there are no data
    train: DataFunction | SeveralData | None  # None where there are no data
    validation: DataFunction | SeveralData | None
    base: dict[str, Any] | None = None  # of `initial`, where not everything of it is to change: see training/learnt.py
    notes: tuple[str, ...] = ()  # for people


# Fields that weights fix and no shape shows; `init_from` must agree in them.
_UNSEEN = (
    'vocab_size', 'num_heads', 'head_size', 'activation', 'norm', 'norm_place', 'norm_eps', 'positions', 'relative_max_distance', 'scale_attention',
    'causal', 'local_window', 'scale_logits',
)  # fmt: skip


def assemble(config: Config, *, training: bool = True, trained_with: str = '', workdir: str = '') -> Run:
    """Opens data and weights, fills in what follows from them, and checks all of it against each other, before any compute.

    Args:
      training: False for a config that a run has completed (evaluation): `init_from` is not read, the training split not opened.
      trained_with: the tokenizer of that run; data prepared with another are refused.
      workdir: of the run that is to be trained. Once it holds checkpoints, `init_from` may be gone.

    Raises:
      UserError: anything that does not fit.
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model), data=dataclasses.replace(config.data))
    given_vocabulary = config.model.vocab_size
    architecture, initial, source_tokenizer = None, None, trained_with
    base, notes = None, ()
    if config.init_from and training:
        if workdir and not checkpoint.is_there(config.init_from) and checkpoint.holds_checkpoints(workdir):
            architecture = from_json(os.path.join(workdir, 'config.json')).model
            source_tokenizer = os.path.join(workdir, 'tokenizer')
            if not config.data.path:
                config.data.tokenizer = config.data.tokenizer or source_tokenizer
        else:
            architecture, initial, source_tokenizer = load_initial(config.init_from)
            if config.init_weights:
                initial, base, notes = _begun_with(config, initial)
                if not folder.is_hf_folder(config.init_from) and (said := checkpoint.choose(config.init_from).said):
                    notes += (said,)
        if config.init_architecture:
            for name in ARCHITECTURE:
                setattr(config.model, name, getattr(architecture, name))
        if not config.init_weights:
            initial = None
    elif training and (config.init_architecture or not config.init_weights):
        raise UserError(
            'config.init_architecture and config.init_weights need config.init_from; give a workdir or a Hugging Face folder, '
            'or start at random with --config.init_architecture=False'
        )
    if config.model.module:
        if architecture is not None and heads.wants_body(config.model):
            config.model.body = heads.body_of(architecture)
        elif config.heads and not config.model.body:
            config.model.body = several_heads.find_body(config)
        config.data.layout = _layout(config)
        if initial is not None and not config.init_fresh:
            _check_kind(config, architecture)
    config = finalize(config)
    if config.data.source and hasattr(source := resolve(config.data.source, 'config.data.source', 'get'), 'layout_of'):
        source.layout_of(config)  # whether the objective can be expressed so
    if training and config.data.augment != AugmentConfig() and not getattr(resolve(config.data.source, 'config.data.source', 'get'), 'augments', False):
        raise UserError(f'config.data.augment changes the texts of labelled tables, and {config.data.source} reads none; leave it out')

    tokenizer_path, has_data = _tokenizer(config), any(map(_has_data, several.apart(config).values()))
    for name, one in several.apart(config).items() if has_data else ():
        with several.errors_of(name):
            if not one.data.source:
                raise UserError('config.data.source is empty; name the class that makes examples, such as bert_flax.objectives:MlmNsp')
    if tokenizer_path:
        tokenizer = tokenizers.load(tokenizer_path)
        size = tokenizer.vocab_size
        if source_tokenizer and (config.init_weights or not training):
            _check_same(tokenizer, tokenizer_path, source_tokenizer, config.model.vocab_size if architecture is None else architecture.vocab_size)
        if config.model.vocab_size == 0:
            config.model.vocab_size = size
        elif size > config.model.vocab_size or (given_vocabulary and size != given_vocabulary):
            raise UserError(
                f'the tokenizer {tokenizer_path} has {size:,} pieces, the model {config.model.vocab_size:,}; '
                + (
                    'leave config.model.vocab_size out to take it from the tokenizer'
                    if given_vocabulary
                    else 'prepare the data with the tokenizer of the weights'
                )
            )
    elif config.model.vocab_size == 0:
        config.model.vocab_size = config.model.default_vocab_size
    if initial is not None and not config.init_architecture:
        for name in _UNSEEN:
            ours, theirs = (to_dict(getattr(model, name)) for model in (config.model, architecture))
            if ours != theirs:
                raise UserError(
                    f'config.model.{name} is {ours}, and the weights in {config.init_from} have {theirs}; give '
                    f'--config.model.{name}={theirs}, or --config.init_architecture to take all such fields from them'
                )

    train = validation = None
    if has_data:
        if training:
            train = data_function(config, 'train')
            if not config.heads and 'data.labels' in (told := _told(train)):
                order, said = bases.order_of_labels(config, initial, told['data.labels'], workdir)
                if order:
                    config.data.labels, notes = order, notes + said
                    train = data_function(config, 'train')  # anew: numbers of labels, and weights of classes, follow their order
            for filled, data in [(head, train.single[head.name]) for head in config.heads] or [(config, train)]:
                for name, value in _told(data).items():
                    group, field = name.split('.')
                    setattr(getattr(filled, group), field, value)
            epoch = train.num_examples / config.batch_size  # in steps
            if config.epochs:
                config.steps = max(1, round(config.epochs * epoch))
            if config.eval.every_epochs:
                config.eval.every_steps = max(1, round(config.eval.every_epochs * epoch))
            if config.tune.unfreeze_by_epoch:
                config.tune.unfreeze = tuple((float(round(begin * epoch)), pattern, factor) for begin, pattern, factor in config.tune.unfreeze)
                config.tune.unfreeze_by_epoch = False
            if initial is not None and not config.heads:
                initial, said = bases.without_head_of_other_labels(config, initial)
                notes += said
        config = finalize(config)
        if len(config.tune.lora) > 1 and training:
            notes += tuple(adapters.shared_kernels(config.tune, nn.unbox(_abstract(config))))
        if train is not None:
            train.complete(config)
        validation = data_function(config, 'validation')
        for data in (train, validation):
            for corpus in data.corpora if data is not None else ():
                corpus.verify()
    elif config.epochs and training:
        raise UserError('config.epochs needs data to count; give config.data.train or config.data.path, or config.steps')
    elif config.tune.unfreeze_by_epoch and training:
        raise UserError('config.tune.unfreeze_by_epoch needs data to count; give config.data.train or config.data.path, or steps in config.tune.unfreeze')
    return Run(config, initial, tokenizer_path, train, validation, base, notes)


def _told(data: DataFunction) -> dict[str, Any]:
    """{field of the config: what the data say of it}."""
    return getattr(data.sources(data.stages[0])[0], 'resolved', {})


def _has_data(config: Config) -> bool:
    return bool(config.data.path or config.data.train or config.data.validation or config.data.tasks.names)


def _layout(config: Config) -> Layout:
    """How examples reach the model: the module says so, and a config that says otherwise is wrong. Of one that is silent, the data decide."""
    module = resolve(config.model.module, 'config.model.module', 'apply')
    if config.heads or hasattr(module, 'of_run'):
        several_heads.made(config)  # are they heads?
    for field, asked in (('model.read_layers', config.model.read_layers), ('tune.features', config.tune.features is not Features.none)):
        if asked and not hasattr(module, 'features'):
            raise UserError(f'config.{field} is of heads on a body, and config.model.module={config.model.module} is none; leave it out')
    given = config.data.layout
    if not hasattr(module, 'layout') and not hasattr(module, 'layout_of'):
        return given
    reads = module.layout_of(config.model) if hasattr(module, 'layout_of') else module.layout  # of a head, as its body does
    if given not in (Layout.auto, reads):
        raise UserError(f'config.data.layout={given.name}, and {config.model.module} reads {reads.name} examples; leave the field out')
    if config.heads:
        for name, one in several.apart(config).items():
            with several.errors_of(name):
                _layout(one)
    elif config.data.pack:
        _check_packs(config, module)
    return reads


def _check_packs(config: Config, module: Any) -> None:
    if 'pooling' not in getattr(module, 'reads', ()) or not hasattr(module, 'body_class'):
        raise UserError(f'config.data.pack is for t5x_lite.models.heads:SequenceHead, and config.model.module is {config.model.module}; leave it out')
    if not getattr(module.body_class(config.model), 'packs', False):
        raise UserError(f'config.data.pack: {config.model.body or module.body} reads one text a row; leave it out (--config.data.group_by_length pads less too)')
    if config.tune.features is not Features.none:
        raise UserError('config.tune.features keeps what the body says of each text, and the rest needs no tokens; leave config.data.pack out')


def _check_kind(config: Config, architecture: ModelConfig) -> None:
    """A GPT is no T5: said before the first parameter that it lacks."""
    ours, theirs = (resolve(module, 'config.model.module', 'apply') for module in (config.model.module, architecture.module))
    if hasattr(ours, 'decode') and hasattr(theirs, 'decode') and ours.layout != theirs.layout:
        raise UserError(
            f'config.init_from={config.init_from} is of {architecture.module}, and config.model.module {config.model.module}; take the variant of the config '
            f'for it, or --config.model.module={architecture.module}'
        )


def load_initial(path: str) -> tuple[ModelConfig, dict[str, Any], str]:
    """(architecture, parameters, tokenizer folder) of a workdir or checkpoint of ours, or of a Hugging Face folder."""
    return bases.Weights().initial(path)


def _begun_with(config: Config, initial: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None, tuple[str, ...]]:
    """(weights that training begins with, their description where some stay as they are, what there is to say of them)."""
    source = config.init_from
    has = any(map(adapters.is_added, paths.leaves(initial)))
    # A folder from elsewhere has none.
    goes_on = has and adapters.same(config.tune, from_json(os.path.join(checkpoint.locate(source)[0], 'config.json')).tune)
    merged = has and not goes_on
    base = bases.describe(source, initial, merged) if config.tune != TuneConfig() else None
    if goes_on:
        return initial, base, (f'the adapters of {source} go on learning',)
    if not merged:
        return initial, base, ()
    try:
        return adapters.merged(initial), base, (f'the adapters of {source} are merged into its weights',)
    except UserError as error:
        raise UserError(f'config.init_from={source} has other adapters than config.tune, to be merged into its weights, and {error}') from error


def load_for_use(
    config: Config, workdir: str, step: int | str | None, *, ema: bool = True, weights: bases.Weights | None = None
) -> tuple[Config, dict[str, Any], int]:
    """(complete config, parameters, step) of a run that is to be evaluated or applied.

    `config` is the run's own with whatever flags changed in it; fields that the weights fix must not be among those. `weights` may have read its base.
    Of `step` see `checkpoint.choose`; where nobody names one, and the best is not the newest or the run is not finished, standard error says which was taken.
    """
    choice = checkpoint.choose(workdir, '' if step is None else str(step))
    nobody_asked = step is None and choice.workdir == remote.absolute(workdir)
    found, step = choice.workdir, choice.step
    for said in (choice.said, checkpoint.unfinished(found, step) if nobody_asked else ''):
        if said:
            print(said, file=sys.stderr, flush=True)
    saved = from_json(os.path.join(found, 'config.json'))
    moved = config.init_from if config.init_from != saved.init_from else ''
    _, params = (weights or bases.Weights()).run(os.path.join(found, checkpoint.FOLDER, str(step)), ema=ema, moved=moved)
    _fill_in(config, saved)
    config.tune = adapters.alone(saved.tune)  # what is beside the weights
    for name in ARCHITECTURE:
        if name not in _DRAWN and getattr(config.model, name) != getattr(saved.model, name):
            raise UserError(
                f'config.model.{name} is {getattr(config.model, name)}, and the weights in {found} have {getattr(saved.model, name)}; '
                'leave --config out to use the config of the run'
            )
    config = finalize(config)
    expected = nn.unbox(adapters.added_to(config.tune, _abstract(config), config.seed))
    available = paths.leaves(params)
    if not available.keys() & paths.leaves(expected).keys():
        raise UserError(f'{found} holds no parameter of {config.model.module} with its head; fine-tune it: --config.init_from={workdir}')
    checkpoint.plan_merge(expected, params, (), found)
    if config.heads or config.data.train or config.data.validation or config.data.tasks.names:
        config.data.tokenizer = os.path.join(found, 'tokenizer')  # init_from may be gone
    return config, paths.map_paths(lambda path, _: available[path], expected), step


def _abstract(config: Config) -> Any:
    """The parameters of a complete config's model, abstract and boxed, without what config.tune adds."""
    module = several_heads.made(config)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), dummy_batch())['params'])


_DRAWN = ('init', 'init_stddev', 'position_init')  # how weights began, which no longer matters


def _fill_in(config: Config, saved: Config) -> None:
    """What a config file leaves to the data and to `init_from`, the run has found."""
    for name in ARCHITECTURE if config.init_architecture else ('vocab_size',):
        if config.init_architecture or not getattr(config.model, name):
            setattr(config.model, name, getattr(saved.model, name))
    if config.model.read_layers not in ((), saved.model.read_layers):
        raise UserError(
            f'config.model.read_layers is {config.model.read_layers}, and the head of this run reads {saved.model.read_layers or "what its body gives"}; '
            'leave it out'
        )
    config.model.read_layers, config.model.layer_mix = saved.model.read_layers, saved.model.layer_mix
    if heads.wants_body(config.model):
        config.model.body = heads.body_of(saved.model)
        config.data.layout = _layout(config)
    for ours, theirs in [(head, several.find(saved, head.name, f'config.heads.{head.name}')) for head in config.heads] or [(config, saved)]:
        ours.model.num_labels = ours.model.num_labels or theirs.model.num_labels
        for name in ('labels', 'text_columns', 'label_column', 'label_separator', 'tag_scheme', 'tag_scheme_out', 'choice_columns', 'choice_labels'):
            setattr(ours.data, name, getattr(ours.data, name) or getattr(theirs.data, name))
        if tuple(ours.data.class_weights) == class_weights.BALANCED:
            ours.data.class_weights = theirs.data.class_weights
        if ours.model.crf:
            ours.model.crf_legal = tagged.legal(tagged.tag_set(ours)) if ours.data.legal_tags else ()


def _tokenizer(config: Config) -> str:
    if config.heads or config.data.train or config.data.validation or config.data.tasks.names:
        return tables.find_tokenizer(config) if any(map(_has_data, several.apart(config).values())) else ''
    if config.data.path:
        return Corpus(config.data.path[0], 'train').tokenizer_path
    return ''


def _check_same(tokenizer: tokenizers.Tokenizer, path: str, source_path: str, rows: int) -> None:
    """Equal sizes are not enough: weights learnt with one vocabulary are noise under another."""
    if os.path.abspath(path) == os.path.abspath(source_path):
        return
    try:
        source = tokenizers.load(source_path)
    except UserError as error:
        if tokenizer.vocab_size == rows:
            return  # weights without a tokenizer beside them: their number of pieces is all there is to compare
        raise UserError(
            f'the tokenizer {path} has {tokenizer.vocab_size:,} pieces, the weights {rows:,}, and there is no tokenizer beside them '
            f'({source_path}); put its files there ({tokenizers.MAY_HOLD}), and prepare the data with it'
        ) from error
    if source.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f'the vocabulary of {path} has {tokenizer.vocab_size:,} pieces, that of the weights ({source_path}) {source.vocab_size:,}; '
            f'prepare the data with --tokenizer={source_path}'
        )
    for number in range(source.vocab_size):
        if source.token(number) != tokenizer.token(number):
            raise UserError(
                f'the vocabulary of {path} does not match that of the weights ({source_path}): piece {number} is '
                f'{tokenizer.token(number)!r} here and {source.token(number)!r} there; prepare the data with --tokenizer={source_path}'
            )
