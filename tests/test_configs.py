"""Every shipped config, in every variant, is complete and fits together: parsed, checked, and its step traced at full size."""

import ast
import importlib
import inspect
from pathlib import Path
import re

import jax
import numpy as np
import pytest

from configs import bert as bert_configs, dialogue, gpt as gpt_configs, objectives as objective_configs, summarise, t5 as t5_configs
from t5x_lite import cli
from t5x_lite.assemble import assemble
from t5x_lite.checks import finalize
from t5x_lite.config import Config, Layout
from t5x_lite.config_values import from_dict, to_dict
from t5x_lite.data import features, packing
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.stages import stages
from t5x_lite.training import partitioning
from t5x_lite.training.step import eval_step, make_program, make_train_step

FOLDER = Path(__file__).resolve().parents[1] / 'configs'
VARIANTS = {
    'bert': tuple(bert_configs.SIZES), 'gpt': gpt_configs.VARIANTS, 't5': tuple(t5_configs.SIZES), 'dialogue': tuple(dialogue.VARIANTS),
    'summarise': summarise.VARIANTS,
    'objectives': tuple(name for name in objective_configs.VARIANTS if name not in objective_configs.NONE),
}  # fmt: skip
RECIPES = (
    'sentiment', 'topic', 'spam', 'pairs', 'similarity', 'multi_label', 'squad', 'custom_qa', 'ner', 'domain_ner', 'completion', 'dialogue', 'summarise', 'translate',
)  # fmt: skip
SHIPPED = [(path.stem, variant) for path in sorted(FOLDER.glob('*.py')) for variant in VARIANTS.get(path.stem, (None,))]


def config_of(name: str, variant: str | None) -> Config:
    module = importlib.import_module(f'configs.{name}')
    return module.get_config(variant) if variant else module.get_config()


def batch_of(config: Config, length: int, size: int, predictions: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What `config.data.source` makes, by shape alone."""
    whole, numbers = jax.ShapeDtypeStruct((size, length), np.int32), jax.ShapeDtypeStruct((size, predictions), np.int32)
    if config.loss == 't5x_lite.training.losses:LmLoss':
        return features_of(config.data.layout, length, size, predictions) | {'token_types': whole}
    batch = {'tokens': whole, 'token_types': whole, 'sequence_ids': whole, 'example_weights': jax.ShapeDtypeStruct((size,), np.float32)}
    source = config.data.source.split(':')[1]
    if source == 'LabelledExamples':
        if config.data.label_separator:
            return batch | {'labels': jax.ShapeDtypeStruct((size, config.model.num_labels), np.float32)}
        return batch | {'labels': jax.ShapeDtypeStruct((size,), np.float32 if config.data.regression else np.int32)}
    if source == 'QuestionExamples':
        numbers, weights = jax.ShapeDtypeStruct((size,), np.int32), jax.ShapeDtypeStruct((size,), np.float32)
        return batch | {'answer_starts': numbers, 'answer_ends': numbers, 'answer_weights': weights}
    if source == 'ChoiceExamples':
        whole = jax.ShapeDtypeStruct((size, 4, length), np.int32)
        return batch | dict.fromkeys(('tokens', 'token_types', 'sequence_ids'), whole) | {'labels': jax.ShapeDtypeStruct((size,), np.int32)}
    if source == 'TaggedExamples':
        return batch | dict.fromkeys(('labels', 'tagged', 'words'), whole) | {'word_tags': numbers}
    weights = jax.ShapeDtypeStruct((size, predictions), np.float32)
    batch |= {'masked_positions': numbers, 'masked_targets': numbers, 'masked_weights': weights}
    more = {'MlmNsp': {'next_sentence_labels': jax.ShapeDtypeStruct((size,), np.int32)}, 'PackedMlm': {'positions': whole}}
    return batch | more[source]


def features_of(layout: Layout, length: int, size: int, predictions: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Of decoders and encoder-decoders, by a row of each (t5x_lite.data.features)."""
    rows, one, none = packing.alone(1), np.ones(1, np.int32), np.ones(1, np.int64)
    if layout != Layout.encoder_decoder:
        batch = features.of_decoder(rows, one, none, one, none, length, start_id=0, pad_id=0, prefix=False)
    else:
        batch = features.of_encoder_decoder(rows, one, none, one, none, length, predictions, start_id=0, pad_id=0)
    batch['example_weights'] = np.ones(1, np.float32)
    return {name: jax.ShapeDtypeStruct((size, *values.shape[1:]), values.dtype) for name, values in batch.items()}


# Several heads have the steps of their own configs: tests/training/test_several.py.
@pytest.mark.parametrize('name, variant', [shipped for shipped in SHIPPED if shipped[0] != 'several'])
def test_the_step_of_every_config_traces(name, variant):
    config = config_of(name, variant)
    resolve(config.data.source, 'config.data.source', 'get')
    if config.init_architecture:
        # What a fine-tuning run takes from its weights and finds in its table.
        config.init_architecture, config.epochs, config.model.body = False, 0.0, 'bert_flax.bert:Bert'
        config.model.num_labels = 1 if config.data.regression else 2
    config = assemble(config).config
    program = make_program(config, partitioning.make_mesh(config, jax.devices()[:1]))
    for _, length, size, predictions in stages(config):
        batch = batch_of(config, length, size, predictions)
        state, metrics = jax.eval_shape(make_train_step(program), program.abstract, batch)
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), program.abstract
        )
        assert {'loss', 'grad_norm', 'learning_rate', 'finite', 'tokens', 'metrics'} <= metrics.keys()
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(program.abstract.params))
        scores, _ = jax.eval_shape(eval_step(program), program.abstract.params, batch)
        assert scores.keys() == metrics['metrics'].keys()
        assert type(program.module).forward_flops(config.model, length, predictions) > 0


@pytest.mark.parametrize('name, variant', SHIPPED)
def test_every_config_is_checked_and_survives_json(name, variant):
    config = config_of(name, variant)
    assert isinstance(config, Config)
    complete = finalize(config)
    assert complete == finalize(complete) == from_dict(Config, to_dict(complete))
    assert config_of(name, variant) == config, 'get_config has no memory'


@pytest.mark.parametrize('name', sorted({name for name, _ in SHIPPED}))
def test_every_config_file_says_how_to_run_it(name):
    text = inspect.getdoc(importlib.import_module(f'configs.{name}'))
    assert f'python -m t5x_lite.train --config=configs/{name}.py' in text
    assert 'easured' in text or name not in RECIPES, 'what is known of its result'
    assert len((FOLDER / f'{name}.py').read_text().splitlines()) <= 60, 'one screen'
    flags = re.findall(r'--(config\.[\w.]+)=', text)
    for flag in flags:
        cli.type_of(flag.removeprefix('config.'))  # raises where there is no such field


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(UserError, match="no variant 'bsae', did you mean 'base'"):
        bert_configs.get_config('bsae')


def test_no_default_hides_in_a_get():
    for path in FOLDER.glob('*.py'):
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        ]
        assert not [call for call in calls if call.func.attr == 'get' and len(call.args) > 1], path
