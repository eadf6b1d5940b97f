"""Plans that were compiled before: kept in a folder under everything that the compiled step depends on, so that a repeated command compiles nothing."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from pathlib import Path
import platform

from t5x_lite.assemble import Run
from t5x_lite.config import Config
from t5x_lite.errors import UserError
from t5x_lite.planning import batches, making
from t5x_lite.planning.topologies import TPUS, Topology
from t5x_lite.stages import stages
from t5x_lite.training import sharing

# What compilers read beside the program.
_ENVIRONMENT = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'TPU_MEGACORE')


class Cache:
    """Plans in a folder, one file each."""

    def __init__(self, folder: str = ''):
        """
        Args:
          folder: '' for t5x_lite/plans in the user's cache folder.

        Raises:
          UserError: nothing can be kept there.
        """
        self.folder = os.path.abspath(os.path.expanduser(folder)) if folder else _usual()
        try:
            os.makedirs(self.folder, exist_ok=True)
        except OSError as error:
            raise UserError(f'--cache_dir={folder or self.folder}: {error.strerror}; give a folder that can be written to') from error
        if not os.access(self.folder, os.W_OK):
            raise UserError(f'--cache_dir={folder or self.folder} cannot be written to; give a folder that can')

    def key(self, run: Run, topology: Topology) -> str:
        """Of the config as far as a step depends on it, its batches, the slice, the versions of what compiles, and the code of the model."""
        config = run.config
        shapes = [{name: [value.shape, str(value.dtype)] for name, value in batches.shapes(run, config, stage).items()} for stage in stages(config)]
        what = {
            'config': sharing.fixed(config), 'stages': stages(config), 'batches': shapes, 'topology': topology.text, 'slices': topology.slices,
            'versions': _versions(topology),
            'code': _code(config), 'environment': {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        }  # fmt: skip
        return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:32]

    def read(self, key: str, config: Config) -> making.Plan | None:
        """The plan that was kept, for a config that differs in nothing but numbers; None where there is none that can be read."""
        try:
            with open(self._path(key), encoding='utf-8') as file:
                plan = making.from_json(json.load(file))
        except (OSError, ValueError, KeyError, TypeError):  # not there, or cut off, or of another version of this file
            return None
        stages_ = [dataclasses.replace(stage, steps=count) for stage, count in zip(plan.stages, making.steps(config), strict=True)]
        return dataclasses.replace(plan, config=config, stages=stages_)

    def write(self, key: str, plan: making.Plan) -> None:
        path = self._path(key)
        with open(f'{path}.{os.getpid()}', 'w', encoding='utf-8') as file:
            json.dump(plan.as_json(), file, default=making.plain)
        os.replace(f'{path}.{os.getpid()}', path)

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, f'{key}.json')


def _usual() -> str:
    above = os.environ['XDG_CACHE_HOME'] if os.environ.get('XDG_CACHE_HOME') else os.path.join(os.path.expanduser('~'), '.cache')
    return os.path.join(above, 't5x_lite', 'plans')


def _versions(topology: Topology) -> dict[str, str]:
    names = ['jax', 'jaxlib', 'flax', 'optax', *(['libtpu'] if topology.kind in TPUS else [])]
    versions = {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name)}
    return versions | ({} if topology.kind in TPUS else {'processor': platform.processor() or platform.machine()})


def _code(config: Config) -> str:
    """A digest of the framework's sources and of the packages that the config names."""
    folders = {Path(__file__).resolve().parents[1]}
    for name in (config.model.module, config.model.body, config.loss, config.data.source):
        spec = importlib.util.find_spec(name.partition(':')[0].partition('.')[0]) if name else None
        if spec is not None and spec.submodule_search_locations:
            folders |= set(map(Path, spec.submodule_search_locations))
        elif spec is not None and spec.origin:
            folders.add(Path(spec.origin))
    digest = hashlib.sha256()
    for folder in sorted(folders):
        for path in sorted(folder.rglob('*.py')) if folder.is_dir() else [folder]:
            digest.update(f'{path.relative_to(folder.parent)}\n'.encode() + path.read_bytes())
    return digest.hexdigest()


