"""Hugging Face folders in and out, without torch: config.json, safetensors weights, tokenizer files.

A family (BERT, GPT-2, ...) is a table of `Rule`s and a few functions, found by a dotted name in `FAMILIES` from the folder's model_type; this
file knows no family.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging
import numpy as np

from t5x_lite import remote
from t5x_lite.config import ModelConfig
from t5x_lite.data import tokenizers
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError, nearest
from t5x_lite.interop import safetensors
from t5x_lite.interop.family import Family, Rule
from t5x_lite.interop.fields import whole_number

FAMILIES = {  # model_type in config.json -> class
    'bert': 'bert_flax.hf:Bert',
    'gpt2': 't5x_lite.interop.gpt:Gpt2',
    'openai-gpt': 't5x_lite.interop.gpt:Gpt1',
    't5': 't5x_lite.interop.t5:T5',
    'mt5': 't5x_lite.interop.t5:Mt5',
}
CONFIG = 'config.json'

Params = dict[str, Any]  # nested dicts of float32 arrays, as under flax's 'params'


def is_hf_folder(path: str) -> bool:
    """Whether `path` is meant as a Hugging Face folder (maybe a broken one: `load` says what is wrong), not as a workdir of ours."""
    if not remote.is_dir(path):
        return False
    weights = (safetensors.SINGLE, safetensors.INDEX, 'pytorch_model.bin', 'pytorch_model.bin.index.json')
    if any(remote.exists(os.path.join(path, name)) for name in weights):
        return True
    try:
        return bool({'model_type', 'architectures'} & read_fields(path).keys())
    except UserError:
        return False


def read_fields(path: str) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
      UserError: absent, or not a JSON object.
    """
    where = os.path.join(path, CONFIG)
    try:
        with open(remote.local(where), encoding='utf-8') as file:
            fields = json.load(file)
    except FileNotFoundError as error:
        raise UserError(f'{where}: does not exist; a Hugging Face folder holds config.json beside its weights') from error
    except OSError as error:
        raise UserError(f'{where}: cannot be read ({error.strerror})') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{where}: not JSON ({error})') from error
    if not isinstance(fields, dict):
        raise UserError(f'{where}: expected a JSON object, found {type(fields).__name__}')
    return fields


def load(path: str, module: str | None = None) -> tuple[ModelConfig, Params]:
    """Reads a Hugging Face folder: everything in it that maps to our tree, whatever of it `module` uses.

    Args:
      module: dotted name for the config's `module`; by default the one of the folder's architecture.

    Returns:
      The model's config, and float32 numpy arrays in nested dicts, layers stacked on axis 0, the vocabulary padded with zeros.

    Raises:
      UserError: a file is absent or broken, the config asks for what we do not have, or weights are missing, of a wrong shape or unknown.
    """
    path = remote.local(path)
    where, fields = os.path.join(path, CONFIG), read_fields(path)
    family, stated = family_of(fields, where), _stated(fields, where)
    config = family.model_config(fields, where)
    _check_tokenizer(path, config.vocab_size)
    with safetensors.open_weights(path) as weights:
        source = _by_canonical_name(family, weights, path)
        config.tie_embeddings = _resolve_tied(family, weights, source, path, config.tie_embeddings)
        rules, sizes = family.rules(config), family.sizes(config)
        groups = {rule.group for rule in rules if any(name in source for name in rule.names(sizes))}
        architecture = family.architecture(stated, groups)
        required = family.required[architecture] if architecture in stated else family.always
        groups -= family.private - set(required)
        config.module = module or family.modules[architecture]
        if config.module in family.heads:
            config.body, groups = family.body, groups & set(required)  # a pooler may lie there that the head does not use
        if family.labelled & groups:
            config.num_labels = len(label_names(fields, where))
        rules, sizes = [rule for rule in family.rules(config) if rule.group in groups | set(required)], family.sizes(config)
        _check_names(family, rules, source, config, path)
        return config, _read(rules, weights, source, sizes, config)


def label_names(fields: Mapping[str, Any], where: str = CONFIG) -> tuple[str, ...]:
    """The classes of a fine-tuned folder in the order of their ids; LABEL_0 and LABEL_1 where it says nothing, as in transformers."""
    named = fields.get('id2label')
    if named is None:
        count = whole_number({'num_labels': 2} | dict(fields), 'num_labels', where)
        return tuple(f'LABEL_{index}' for index in range(count))
    try:
        by_id = {int(index): str(label) for index, label in named.items()}
        return tuple(by_id[index] for index in range(len(by_id)))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f'{where}: id2label is {named!r}; expected names for "0", "1", ...') from error


def save(
    path: str,
    config: ModelConfig,
    params: Params,
    tokenizer_path: str = '',
    *,
    max_shard_bytes: int = 5_000_000_000,
    labels: Iterable[str] = (),
) -> None:
    """Writes a folder that `transformers` loads: config.json, model.safetensors (in shards above `max_shard_bytes`), tokenizer files.

    Args:
      params: our tree, unboxed; what `load` returned comes out bit for bit.
      tokenizer_path: a tokenizer folder; '' writes none.
      labels: names of the classes, where there is a classifier.

    Raises:
      UserError: the folder exists and is not empty; transformers has no such model; a parameter is missing, unknown or of a wrong shape.
    """
    if os.path.exists(path) and (not os.path.isdir(path) or os.listdir(path)):
        raise UserError(f'{path}: exists and is not empty; choose another output')
    config = _read_as_theirs(config)
    family = _family_of_model(config)
    leaves, sizes = dict(_flatten(params)), family.sizes(config)
    rules = [rule for rule in family.rules(config) if rule.path in leaves]
    groups = {rule.group for rule in rules}
    fields = family.fields(config)  # says what of the config has no counterpart, better than the names of its parameters would
    _check_leaves(family, groups, leaves, config)
    architecture = family.export_architecture(groups)
    names: dict[str, list[tuple[Rule, int]]] = {}
    for rule in rules:
        for layer, name in enumerate(rule.names(sizes)):
            names.setdefault(family.written(name, architecture), []).append((rule, layer))
    fields = {'architectures': [architecture], **fields, 'dtype': 'float32'}
    if family.labelled & groups:
        fields |= _label_fields(tuple(labels), config.num_labels)

    shapes = {name: parts[0][0].their_shape(sizes) for name, parts in names.items()}

    def read(name: str) -> np.ndarray:
        parts = []
        for rule, layer in sorted(names[name], key=lambda found: found[0].part):
            leaf = leaves[rule.path][layer] if rule.stacked else leaves[rule.path]
            parts.append(rule.to_theirs(np.asarray(leaf, np.float32)[tuple(slice(sizes[axis]) for axis in rule.ours)]))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)

    partial = f'{os.path.abspath(path)}.partial-{os.getpid()}'  # renamed when whole: a half-written folder never has the name asked for
    try:
        os.makedirs(partial)
        if tokenizer_path:
            tokenizer = _write_tokenizer(tokenizer_path, partial, config.vocab_size)
            ids = {
                'pad_token_id': tokenizer.pad_id, 'bos_token_id': tokenizer.bos_id, 'eos_token_id': tokenizer.end_id,
                'decoder_start_token_id': tokenizer.start_id,
            }  # fmt: skip
            fields |= {name: value for name, value in ids.items() if value is not None and (name in fields or name == 'pad_token_id')}
        with open(os.path.join(partial, CONFIG), 'w', encoding='utf-8') as file:
            json.dump(dict(sorted(fields.items())), file, indent=2, ensure_ascii=False)
            file.write('\n')
        safetensors.write(partial, shapes, read, max_shard_bytes)
        for name in os.listdir(partial):  # the library makes its files readable by their owner alone
            shutil.copymode(os.path.join(partial, CONFIG), os.path.join(partial, name))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error}); nothing was left there') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def family_of(fields: Mapping[str, Any], where: str) -> Family:
    """By the model_type of a config.json.

    Raises:
      UserError: it says none, or one that we lack.
    """
    if 'model_type' not in fields:
        raise UserError(f'{where}: field model_type is missing; add "model_type": one of {", ".join(FAMILIES)}')
    if fields['model_type'] not in list(FAMILIES):
        raise UserError(
            f'{where}: model_type is {fields["model_type"]!r}, which is not supported; {nearest(str(fields["model_type"]), FAMILIES)}'
        )
    return resolve(FAMILIES[fields['model_type']])()


def _stated(fields: Mapping[str, Any], where: str) -> list[str]:
    """Old folders state no architecture."""
    stated = fields.get('architectures') or []
    if not isinstance(stated, list) or not all(isinstance(name, str) for name in stated):
        raise UserError(f'{where}: architectures is {stated!r}; expected a list of names')
    return stated


def _family_of_model(config: ModelConfig) -> Family:
    families = [resolve(name)() for name in FAMILIES.values()]
    known = {name for family in families for name in family.modules.values()}
    for family in families:
        if config.module in {*family.modules.values(), *family.heads} and config.body in ('', family.body) and family.exports(config):
            return family
    on = f' on {config.body}' if config.body else ''
    raise UserError(f'config.model.module={config.module!r}{on} has no counterpart in transformers, {nearest(config.module, known)}')


def _read_as_theirs(config: ModelConfig) -> ModelConfig:
    """Without config.read_layers, where that is the last alone and the head is over tokens: what heads of transformers read."""
    if not config.read_layers:
        return config
    by_token = 'pooling' not in getattr(resolve(config.module, 'config.model.module', 'apply'), 'reads', ())
    if config.read_layers in ((-1,), (config.num_layers,)) and by_token:
        return dataclasses.replace(config, read_layers=())
    whole = '' if by_token else ', and BERT classifies through its pooler'
    raise UserError(f'config.model.read_layers={config.read_layers} cannot be exported: heads in transformers read what comes out of the last layer{whole}')


def _by_canonical_name(family: Family, weights: safetensors.Weights, path: str) -> dict[str, str]:
    """Canonical name -> the name in the file, buffers left out."""
    source = {}
    for name in weights:
        known = family.canonical(name)
        if known in source:
            raise UserError(f'{path}: {source[known]} and {name} are the same weight; remove one')
        if known is not None:
            source[known] = name
    return source


def _resolve_tied(family: Family, weights: safetensors.Weights, source: dict[str, str], path: str, tie: bool) -> bool:
    """Takes the second names of tied weights out of `source`. Returns whether the output layer is the word embeddings.

    A head that differs from the embeddings is one of its own whatever config.json says, as in transformers (modeling_utils.py: tie_weights).
    """
    for second, first in family.tied.items():
        if second == family.head and not tie:
            continue
        if second in source and first in source:
            if not np.array_equal(weights.read(source[second]), weights.read(source[first])):
                if second == family.head:
                    tie = False
                    continue
                raise UserError(f'{path}: {source[second]} differs from {source[first]}; only tied weights are supported')
        elif second in source:
            source[first] = source[second]
        source.pop(second, None)
    return tie


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _check_names(family: Family, rules: list[Rule], source: Mapping[str, str], config: ModelConfig, path: str) -> None:
    sizes = family.sizes(config)
    wanted = dict.fromkeys(name for rule in rules for name in rule.names(sizes))
    missing = [name for name in wanted if name not in source]
    if missing:
        raise UserError(
            f'{path}: weights are missing that {CONFIG} asks for: {_some(missing)}; copy or download the folder again, or mend {CONFIG}'
        )
    roots = {rule.name.split('.')[0] for rule in family.rules(config) if rule.group in family.always}
    unknown = [name for name in source if name not in wanted]
    inside = [source[name] for name in unknown if name.split('.')[0] in roots]
    if inside:
        raise UserError(f'{path}: weights that {CONFIG} does not account for: {_some(inside)}; check {family.depth} there')
    if unknown:
        logging.warning('%s: weights of other heads are left out: %s', path, _some(source[name] for name in unknown))


def _read(
    rules: list[Rule], weights: safetensors.Weights, source: Mapping[str, str], sizes: Mapping[str, int], config: ModelConfig
) -> Params:
    """Each tensor goes straight to its place, so that memory holds the tree and one tensor."""
    stored = set()
    for rule in rules:
        expected = rule.their_shape(sizes)
        for name in rule.names(sizes):
            file_name = source[name]
            stored.add(weights.dtype(file_name))
            if weights.shape(file_name) != expected:
                raise UserError(
                    f'{weights.file(file_name)}: {file_name} has shape {weights.shape(file_name)}, but {CONFIG} makes it {expected}'
                )
    tree: Params = {}
    for rule in rules:
        leaf = np.zeros(rule.our_shape({**sizes, 'V': _padded(config)}), np.float32)
        for layer, name in enumerate(rule.names(sizes)):
            slot = leaf[layer] if rule.stacked else leaf
            # Not bound to a name, which would keep this tensor while the next is read.
            slot[tuple(slice(sizes[axis]) for axis in rule.ours)] = rule.to_ours(weights.read(source[name]))
        *parents, last = rule.path.split('/')
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    if stored - {'F32'}:
        logging.warning('%s: weights stored as %s are read as float32', weights.folder, ', '.join(sorted(stored - {'F32'})))
    return tree


def _padded(config: ModelConfig) -> int:
    return -(-config.vocab_size // config.vocab_multiple) * config.vocab_multiple


def _flatten(tree: Mapping[str, Any], prefix: str = '') -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        yield from _flatten(value, f'{prefix}{name}/') if isinstance(value, Mapping) else [(prefix + name, value)]


def _check_leaves(family: Family, groups: set[str], leaves: Mapping[str, Any], config: ModelConfig) -> None:
    rules, sizes = family.rules(config), family.sizes(config) | {'V': _padded(config)}
    known = {rule.path for rule in rules}
    unknown = [path for path in leaves if path not in known]
    if unknown:
        raise UserError(f'parameters that have no counterpart in transformers: {_some(unknown)}')
    groups = groups | set(family.always)
    missing = [rule.path for rule in rules if rule.group in groups and rule.path not in leaves]
    if missing:
        raise UserError(f'parameters are missing: {_some(missing)}')
    for rule in rules:
        if rule.group in groups:
            expected = rule.our_shape(sizes)
            if tuple(leaves[rule.path].shape) != expected:
                raise UserError(f'parameter {rule.path} has shape {tuple(leaves[rule.path].shape)}, but the config makes it {expected}')


def _label_fields(labels: tuple[str, ...], count: int) -> dict[str, Any]:
    if labels and len(labels) != count:
        raise UserError(f'{len(labels)} labels ({_some(labels)}) for config.model.num_labels={count}')
    named = labels or tuple(f'LABEL_{index}' for index in range(count))
    fields = {
        'id2label': {str(index): name for index, name in enumerate(named)},
        'label2id': {name: index for index, name in enumerate(named)},
    }
    return fields | ({'problem_type': 'regression'} if count == 1 else {})


def _check_tokenizer(path: str, vocab_size: int) -> None:
    if tokenizers.present(path):
        _check_vocabulary(path, tokenizers.load(path).vocab_size, vocab_size)


def _check_vocabulary(path: str, pieces: int, rows: int) -> None:
    if pieces > rows:
        raise UserError(
            f'{path}: the tokenizer has {pieces:,} pieces and the weights only {rows:,} rows; this tokenizer belongs to another model'
        )
    if pieces < rows:
        logging.warning(
            '%s: the tokenizer has %d pieces and the weights %d rows; the last %d are never used', path, pieces, rows, rows - pieces
        )


def _write_tokenizer(source: str, target: str, vocab_size: int) -> tokenizers.Tokenizer:
    """Copies a tokenizer's files as they are, and adds those that transformers needs and an old folder lacks."""
    tokenizer = tokenizers.load(source)
    _check_vocabulary(source, tokenizer.vocab_size, vocab_size)
    present = tokenizers.present(source)
    if not {'tokenizer.json', 'tokenizer_config.json'} <= set(present):
        tokenizer.save(target)
    for name in present:
        shutil.copyfile(os.path.join(source, name), os.path.join(target, name))
    return tokenizer
