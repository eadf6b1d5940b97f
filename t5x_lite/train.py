"""Pre-train or fine-tune: the config says which.

    python -m t5x_lite.train --config=configs/bert.py:tiny --config.data.path=PREPARED --workdir=runs/tiny
    python -m t5x_lite.train --config=configs/classify.py --config.init_from=runs/tiny --config.data.train=train.csv --workdir=runs/mine
    python -m t5x_lite.train --config=configs/classify.py --config.init_from=runs/tiny --config.data.train=train.csv --workdir=runs/small \\
        --config.tune.lora='((".*/attention/(query|value)", 8, 16.0),)' --config.optim.learning_rate=5e-4
    python -m t5x_lite.train --config=configs/bert.py:base --workdir=runs/base --dry_run
    python -m t5x_lite.train --config=configs/classify.py --config.init_from=runs/tiny --config.data.train=train.csv --workdir=runs/rates --find_learning_rate

Repeating a command resumes the run from its newest checkpoint; a finished run says so. --find_learning_rate trains nothing: it tries rates for 200 steps
(--find_steps) and writes WORKDIR/learning_rates.jsonl and .png. What goes wrong in a run is said in WORKDIR/warnings.txt.
"""

from collections.abc import Sequence
import sys

from absl import flags

from t5x_lite import cli, dry_run, finding_rates, mirrors, running
from t5x_lite.assemble import assemble, load_initial
from t5x_lite.errors import UserError
from t5x_lite.evaluation import synonyms
from t5x_lite.training import devices, goodput, processes
from t5x_lite.training.workdirs import check_workdir

_CONFIG = cli.define_config_flags(workdir_required=False)
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Check everything and print it, without training.')
_DRY_RUN_STEP = flags.DEFINE_integer('dry_run_step', 1, 'The step whose batch --dry_run shows an example of.', lower_bound=1)

_FIND = flags.DEFINE_bool('find_learning_rate', False, 'Try learning rates from 1e-7 to 1 from the weights that the run begins with, instead of training.')
_FIND_STEPS = flags.DEFINE_integer('find_steps', 200, 'Steps of --find_learning_rate.', lower_bound=20)


def main(argv: Sequence[str]) -> None:
    del argv
    devices.configure(_CONFIG.value)
    with processes.together(cli.ended):
        _main(cli.workdir())


def _main(workdir: str) -> None:
    if not workdir and not _DRY_RUN.value:
        raise UserError('--workdir is missing; name the folder that the run is to write')
    run = assemble(_CONFIG.value, workdir=workdir or '')
    if _DRY_RUN.value:
        if workdir and (said := check_workdir(workdir, run.config)):
            print(said)
        if run.train is not None:
            synonyms.prepare(run.config, run.train, load_initial, mirrors.folder_of(workdir) if workdir else '', step=_DRY_RUN_STEP.value - 1)
        report = dry_run.report(run, _DRY_RUN_STEP.value)
        if processes.is_first():
            print(report)
        return
    if _FIND.value:
        if processes.several():
            raise UserError('--find_learning_rate is for one process, and this run has several; run it on one host')
        finding_rates.find(run, workdir, _FIND_STEPS.value)
        return
    if running.train(run, workdir, began=goodput.process_began()) and (status := processes.stopped_status()):
        sys.exit(status)


if __name__ == '__main__':
    cli.run(main)
