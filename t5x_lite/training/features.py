"""What a head reads of its body, computed once before training: config.tune.features. Batches then have it (`features`), and a step leaves the body out.

The feature-based way of Devlin et al. (2018, section 5.3) and Peters et al. (2019). Features are those of the weights that training begins with, without
dropout; the body stays as it was, so that the run which comes of it is one like any other. They are known by what they are computed of: the body's
parameters, the fields that shape it, the tokens of the examples. Whoever asks for the same finds them (config.tune.feature_cache).
"""

import dataclasses
import hashlib
import json
import os
import time
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from t5x_lite import remote
from t5x_lite.config import ARCHITECTURE, Config, DType, Features
from t5x_lite.config_values import to_dict
from t5x_lite.data import feature_files
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.models.placing import placed_by
from t5x_lite.models.transformer import read_layers
from t5x_lite.training import checkpoint, learnt, partitioning, paths, processes, tuning, workdirs
from t5x_lite.training.step import dummy_batch
from t5x_lite.training.telemetry import duration

_VERSION = 1  # of how features are computed; those of another are not read
_READ = ('tokens', 'token_types', 'sequence_ids', 'positions', 'prefix')  # of a batch, by bodies
_ROWS = 1024  # examples at a time, where they are only looked at


def wanted(config: Config) -> bool:
    return config.tune.features is not Features.none


def check(config: Config, params: Any) -> None:
    """
    Args:
      params: of the whole model, abstract or not.

    Raises:
      UserError: something of the body, whose states are computed once, is to learn.
    """
    if not wanted(config):
        return
    body = paths.leaves(_abstract(config)).keys()
    learning = tuning.plan(config.tune, params, config.init_fresh, steps=config.steps)
    learns = body & {path for part in learning.parts for path in part.layers}
    if learns:
        raise UserError(
            f'config.tune.features={config.tune.features.name} computes the states of the body once, and config.tune.train or config.init_fresh lets '
            f'{min(learns)} learn; narrow those patterns, or leave config.tune.features out'
        )


def attach(config: Config, workdir: str, params: Any, train: DataFunction, validation: DataFunction) -> tuple[DataFunction, DataFunction]:
    """(training data, held-out data) with `features` in their batches, read or computed now; as they were where none are wanted.

    Args:
      config: complete.
      params: that training begins with; None where config.init_from is gone and only the checkpoints of `workdir` are left.

    Raises:
      UserError: the workdir is another run's, no room for features, examples that change, several processes.
    """
    if not wanted(config):
        return train, validation
    workdirs.check_workdir(workdir, config)  # before hours are spent on it
    if checkpoint.holds_checkpoints(workdir) and checkpoint.locate(workdir)[1] >= config.steps:
        return train, validation  # nothing is left to train
    if processes.several():
        raise UserError('config.tune.features are computed by one process, and this run has several; compute them on one host, or freeze: --config.tune.freeze')
    if params is None:
        params = checkpoint.load_params(workdir, ema=False)[1]
    mesh = partitioning.make_mesh(config)
    body = _Body(config, mesh, params)
    root = config.tune.feature_cache or os.path.join(remote.cache() if remote.is_remote(workdir) else workdir, 'features')
    with jax.set_mesh(mesh):
        return tuple(data.with_features([body.folder(source, data.split, root) for source in data.every_source()]) for data in (train, validation))


def _shallow(config: Config) -> tuple[Config, int]:
    """A config whose body is no deeper than what is read of it needs, and its number of layers. Of layers below the last, one more is there: what ends a stack
    (a norm) belongs to its last."""
    model = config.model
    read, depth = read_layers(model), model.num_layers
    if read and max(read) < depth:
        depth = max(read) + 1
    return dataclasses.replace(config, model=dataclasses.replace(model, num_layers=depth, read_layers=read)), depth


def _module(config: Config) -> Any:
    return resolve(config.model.module, 'config.model.module', 'features')(config.model)


def _abstract(config: Config) -> Any:
    """The parameters that features are a function of."""
    return nn.unbox(_boxed(config))


def _boxed(config: Config) -> Any:
    module = _module(config)
    return jax.eval_shape(lambda: module.init(jax.random.key(0), dummy_batch(), method='features')['params'])


class _Body:
    """The jitted forward pass of what a head reads, with parameters on the mesh."""

    def __init__(self, config: Config, mesh: Mesh, params: Any):
        self._config, (shallow, depth) = config, _shallow(config)
        self._mesh, module, boxed = mesh, _module(shallow), _boxed(shallow)
        given = paths.leaves(params)
        needed = paths.map_paths(lambda path, leaf: np.asarray(given[path], leaf.dtype)[:depth] if paths.is_stacked(path) else given[path], nn.unbox(boxed))
        self._params = jax.tree.map(jax.device_put, needed, partitioning.parameter_shardings(boxed, mesh, config.mesh))
        self._halves = config.tune.feature_dtype is DType.bfloat16

        def features(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
            with placed_by(config.mesh):
                found = module.apply({'params': params}, batch, method='features')
            return jax.lax.bitcast_convert_type(found.astype(jnp.bfloat16), jnp.uint16) if self._halves else found.astype(jnp.float32)

        self._features = jax.jit(features)
        shape = jax.eval_shape(features, self._params, dummy_batch()).shape
        self._by_token, self._shape = len(shape) == 4, shape[-2:]
        model = shallow.model
        self._about = {
            'version': _VERSION,
            'body': type(module).body_class(model).__qualname__,
            'pooling': '' if self._by_token else module.pooling_used.name,
            'dtype': config.tune.feature_dtype.name,
            'model': {name: to_dict(getattr(model, name)) for name in (*ARCHITECTURE, 'dtype', 'read_layers') if not name.startswith('init')},
            'parameters': learnt.fingerprint(needed),
        }

    def folder(self, source: Any, split: str, root: str) -> tuple[str, bool]:
        """(where the features of a source's examples lie, whether each token has some); they are computed where there are none."""
        order, digest = _looked_at(source)
        about = self._about | {'examples': digest}
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        folder, lengths = os.path.join(root, name), source.row_lengths() if self._by_token else None
        what = f'features of {len(source):,} {split} examples'
        with workdirs.disk_errors(root), feature_files.making(folder) as missing:
            if not missing:
                print(f'{what}: read from {folder}', flush=True)
                return folder, self._by_token
            began = time.perf_counter()
            size = feature_files.write(
                folder, self._config.tune.feature_dtype.name, self._shape, len(source), lengths, about, lambda put: self._fill(source, order, what, put)
            )
            print(f'{what}: {size:,} bytes in {folder}  ({duration(time.perf_counter() - began)})', flush=True)
        return folder, self._by_token

    def _fill(self, source: Any, order: np.ndarray, what: str, put: Any) -> None:
        """Examples of like length together, so that little is padding; a batch is fetched while the next is computed."""
        config, mesh = self._config, self._mesh
        size = config.eval.batch_size or config.batch_size
        rows = np.argsort(source.row_lengths(), kind='stable')[::-1]
        said, pending = time.perf_counter(), None
        for first in range(0, len(rows), size):
            chosen = rows[first : first + size]
            filled = order[np.concatenate([chosen, np.full(size - len(chosen), chosen[0])])]
            batch = _inputs(source.get(filled, source.width(filled)))
            length = batch['tokens'].shape[1]
            placed = partitioning.to_devices(batch, partitioning.batch_shardings(batch, mesh, length), slice(0, size), size)
            coming = (chosen, self._features(self._params, placed))
            if pending:
                put(pending[0], np.asarray(pending[1])[: len(pending[0])])
            pending = coming
            if time.perf_counter() - said > config.log.console_seconds:
                said = time.perf_counter()
                print(f'{what}: {first:,} ({first / len(rows):.0%})', flush=True)
        put(pending[0], np.asarray(pending[1])[: len(pending[0])])


def _inputs(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: batch[name] for name in _READ if name in batch}


def _looked_at(source: Any) -> tuple[np.ndarray, str]:
    """(int64 [n] index of each example in the first epoch, digest of what bodies read of all examples).

    Raises:
      UserError: examples without an end, or that change from epoch to epoch.
    """
    if not hasattr(source, 'rows') or not hasattr(source, 'row_lengths'):
        raise UserError('config.tune.features keeps the states of a set of labelled examples, and config.data.source makes others; leave it out')
    count, lengths, digest = len(source), source.row_lengths(), hashlib.sha256()
    order, again = np.empty(count, np.int64), np.empty(count, np.int64)
    order[source.rows(np.arange(count))] = np.arange(count)
    again[source.rows(np.arange(count, 2 * count))] = np.arange(count, 2 * count)
    digest.update(np.asarray(lengths, np.int64).tobytes())
    for first in range(0, count, _ROWS):
        chosen = slice(first, first + _ROWS)
        width = int(lengths[chosen].max())
        found = _inputs(source.get(order[chosen], width))
        if found['tokens'].shape != (len(order[chosen]), width):
            raise UserError('config.tune.features keeps the states of one sequence an example, and these have several; leave it out')
        for name, values in found.items():
            digest.update(name.encode() + values.tobytes())
        if not first:
            later = _inputs(source.get(again[chosen], width))
            if any(not np.array_equal(later[name], values) for name, values in found.items()):
                raise UserError(
                    'config.tune.features keeps the states of each example, and these change from epoch to epoch; leave augmentation or features out'
                )
    return order, digest.hexdigest()
