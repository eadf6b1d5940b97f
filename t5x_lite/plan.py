"""Rehearse a run on machines that need not be there: does it fit, what does it send, how long does it take, what does it cost.

    python -m t5x_lite.plan --config=configs/t5.py:11b --topology=v5p:4x4x4 --config.mesh.fsdp=16 --config.mesh.tensor=4 --config.model.dtype=bfloat16
    python -m t5x_lite.plan --config=configs/bert.py:tiny --topology=cpu:8 --output=plans/tiny
    python -m t5x_lite.plan --config=configs/gpt.py:gpt2_xl --topology=gpu:8xH100 --price_per_chip_hour=2.5
    python -m t5x_lite.plan --config=configs/gpt.py:gpt2_xl --topology=v5e:4x4 --config.model.dtype=bfloat16 --mesh=auto

The step that training would take is compiled at full size by the compiler that training would use; no parameter is ever made. --topology is a slice of TPUs
(v4:4x4x4, v5e:4x4, v5p:8x8x8, v6e:16x16; needs libtpu: pip install 'jax[tpu]'), cpu:N, or gpu:NxKIND, which is not compiled but counted by formulas. Large
models take minutes. The mesh is config.mesh, as in training; a batch must be one that it divides. Writes OUTPUT/plan.json and plan.png.

--slices=2 plans for so many of them: the axis config.mesh.slices_along goes from one to the next over the data-centre network, and what crosses it is counted
apart. The other axes stay within a slice.

With --mesh=auto every mesh that divides the model and the batch is ranked by formulas, with each recomputation (config.model.remat) and the fewest
microbatches that fit; the best --compile of them are compiled, and their plans kept in --cache_dir, so that the same command compiles nothing. It ends with
the flags to copy and the plan of the best; OUTPUT/ranking.json has all of them.
"""

from collections.abc import Sequence
import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # no device is used; with libtpu installed, JAX would look for TPUs

from absl import flags

from t5x_lite import cli, outgoing
from t5x_lite.assemble import assemble
from t5x_lite.errors import UserError
from t5x_lite.evaluation import reporting
from t5x_lite.planning import keeping, making, ranking, showing, showing_ranks, topologies
from t5x_lite.planning.topologies import Topology
from t5x_lite.training import devices

_CONFIG = cli.define_config_flags(workdir_required=False)
_TOPOLOGY = flags.DEFINE_string('topology', None, 'Where to run: v5p:4x4x4, v5e:16x16, v4:..., v6e:..., cpu:8 or gpu:8xH100.', required=True)
_SLICES = flags.DEFINE_integer('slices', 1, 'How many of them, linked by the data-centre network; of gpu, hosts.', lower_bound=1)
_PRICE = flags.DEFINE_float('price_per_chip_hour', 0.0, 'What a chip costs an hour, in any money; the plan then says what the run costs.', lower_bound=0.0)
_OUTPUT = flags.DEFINE_string('output', '', 'Folder for plan.json and plan.png, or gs://BUCKET/FOLDER.')
_MESH = flags.DEFINE_enum('mesh', 'config', ['config', 'auto'], 'config: that of config.mesh. auto: the best of all meshes, recomputations and microbatches.')
_COMPILE = flags.DEFINE_integer('compile', 3, 'With --mesh=auto: how many of the best are compiled; 0: none.', lower_bound=0)
_CACHE_DIR = flags.DEFINE_string('cache_dir', '', "With --mesh=auto: a folder in which compiled plans are kept; '': t5x_lite/plans in your cache folder.")


def main(argv: Sequence[str]) -> None:
    del argv
    topology = topologies.parse(_TOPOLOGY.value, _SLICES.value)
    devices.configure(_CONFIG.value)
    if _OUTPUT.value and os.path.exists(_OUTPUT.value) and not os.path.isdir(_OUTPUT.value):
        raise UserError(f'--output={_OUTPUT.value} is a file; name a folder')
    if _OUTPUT.value:
        reporting.matplotlib_figure()  # whether there is one, before minutes are spent
    if _MESH.value != 'auto':
        for flag in (_COMPILE, _CACHE_DIR):
            if flag.present:
                raise UserError(f'--{flag.name} is for --mesh=auto; add that, or leave it out')
    with outgoing.to(_OUTPUT.value, showing_ranks.JSON if _MESH.value == 'auto' else showing.JSON) as folder:
        written = (_auto if _MESH.value == 'auto' else _one)(topology, folder)
    if written:
        print(f'\nwritten to {" and ".join(path.replace(folder, _OUTPUT.value) for path in written)}')


def _one(topology: Topology, folder: str) -> list[str]:
    """Prints the plan of the config as it stands. Returns what it wrote."""
    plan = making.make(assemble(_CONFIG.value), topology, _PRICE.value)
    print(showing.text(plan))
    return showing.write(plan, folder) if folder else []


def _auto(topology: Topology, folder: str) -> list[str]:
    """Prints the ranking of all meshes. Returns what it wrote."""
    cache = keeping.Cache(_CACHE_DIR.value)  # whether one can write there, before minutes are spent
    if _COMPILE.value:
        topology.devices()  # whether there is a compiler; and fake devices are asked for before JAX begins
    run = assemble(_CONFIG.value)
    choices = ranking.rank(run, topology)
    compiled = ranking.compile_best(run, topology, choices, _COMPILE.value, cache, lambda line: print(line, flush=True))
    for one in compiled:
        one.plan.price = _PRICE.value
    found = ranking.Ranking(_CONFIG.value, topology, choices, compiled)
    print(showing_ranks.text(found))
    if compiled:
        print(f'\n{showing.text(compiled[0].plan)}')
    return showing_ranks.write(found, folder) if folder else []


if __name__ == '__main__':
    cli.run(main)
