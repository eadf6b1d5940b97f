"""What the tests of GPT and T5 folders share: transformers' inputs in our words, our outputs, folders with changes."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy as library

from t5x_lite.config import Config, ModelConfig
from t5x_lite.config_values import from_dict, to_json
from t5x_lite.dotted_names import resolve
from t5x_lite.interop import folder, safetensors

TOLERANCE = 1e-4


@functools.cache
def expected(source):
    with np.load(f'{source}.npz') as arrays:
        return dict(arrays)


def batch_of(arrays):
    """A decoder predicts the token to the right, whose label is the input itself; a decoder beside an encoder, its label at the same place."""
    labels = arrays['labels']
    batch = {'tokens': arrays['input_ids'], 'sequence_ids': arrays['attention_mask']}
    if 'decoder_input_ids' in arrays:
        batch |= {'decoder_tokens': arrays['decoder_input_ids'], 'decoder_sequence_ids': labels != -100}
    else:
        labels = np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=-100)
    batch |= {'targets': np.maximum(labels, 0)}
    return {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()} | {'target_weights': jnp.asarray(labels != -100, jnp.float32)}


def apply(config, params, batch):
    return _compiled(to_json(config))({'params': params}, batch)


@functools.cache
def _compiled(fields):
    config = from_dict(ModelConfig, json.loads(fields))
    return jax.jit(resolve(config.module)(config).apply)


def loss_of(config, outputs, batch):
    loss = resolve('t5x_lite.training.losses:LmLoss')(Config(model=config))
    terms, _ = loss(outputs, batch)
    return float(terms['lm_loss'] / loss.weights(batch)['lm_loss'])


def off(config, params, arrays):
    """The largest error of the logits at places that are not padding."""
    batch = batch_of(arrays)
    logits = np.asarray(apply(config, params, batch)['lm_logits'])[..., : config.vocab_size]
    real = np.asarray(batch['decoder_sequence_ids' if 'decoder_tokens' in batch else 'sequence_ids']) > 0
    return np.abs(logits - arrays['logits'])[real].max()


def edit(path, tmp_path, rename=lambda name: name, change=lambda values: {}, **fields):
    """A copy in one file with other names, tensors (None removes) or fields of config.json (None removes)."""
    target = tmp_path / f'edited-{len(list(tmp_path.iterdir()))}'
    target.mkdir()
    with safetensors.open_weights(str(path)) as weights:
        values = {rename(name): weights.read(name) for name in weights}
    values |= change(values)
    library.save_file({name: value for name, value in values.items() if value is not None}, target / 'model.safetensors')
    shutil.copy(path / 'generation_config.json', target)
    known = json.loads((path / 'config.json').read_text()) | fields
    (target / 'config.json').write_text(json.dumps({name: value for name, value in known.items() if value is not None}))
    return target


def leaves(tree):
    return dict(folder._flatten(tree))


def made_by_the_module(config, arrays):
    """Paths and shapes of its parameters, from the module itself."""
    shapes = jax.eval_shape(resolve(config.module)(config).init, jax.random.key(0), batch_of(arrays))['params']
    return {path: leaf.value.shape if hasattr(leaf, 'value') else leaf.shape for path, leaf in leaves(shapes).items()}


def random_weights(model, seed=0):
    """Wide, biases, norms and relative positions too."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = name.endswith('weight') and ('ln_' in name or 'layer_norm' in name)
            parameter.normal_(1.0 if norm else 0.0, 0.3)
    return model.eval()


def compare(theirs, auto, arrays, tmp_path):
    """Both ways: a model of transformers through ours, and ours, exported, through theirs. Returns our config.

    Args:
      auto: the class by which people load such a folder.
      arrays: input_ids, attention_mask, labels.
    """
    import torch

    theirs.save_pretrained(tmp_path / 'theirs')
    config, params = folder.load(str(tmp_path / 'theirs'))
    folder.save(str(tmp_path / 'ours'), config, params, max_shard_bytes=20_000)
    again, info = auto.from_pretrained(tmp_path / 'ours', output_loading_info=True)
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
    state, state_again = theirs.state_dict(), again.state_dict()
    assert state.keys() == state_again.keys() and all(torch.equal(state[key], state_again[key]) for key in state)
    given = {name: torch.tensor(value) for name, value in arrays.items()}
    if theirs.config.is_encoder_decoder:
        arrays = arrays | {'decoder_input_ids': theirs._shift_right(given['labels']).numpy()}
    batch = batch_of(arrays)
    loss = loss_of(config, apply(config, params, batch), batch)
    for model in (theirs, again.eval()):
        with torch.no_grad():
            out = model(**given)
        assert off(config, params, arrays | {'logits': out.logits.numpy()}) < TOLERANCE
        assert abs(loss - out.loss.item()) < TOLERANCE
    return config
