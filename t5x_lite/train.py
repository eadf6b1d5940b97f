"""Pre-train or fine-tune: the config says which.

    python -m t5x_lite.train --config=configs/bert.py:tiny --config.data.path=PREPARED --workdir=runs/tiny
    python -m t5x_lite.train --config=configs/classify.py --config.init_from=runs/tiny --config.data.train=train.csv --workdir=runs/mine
    python -m t5x_lite.train --config=configs/classify.py --config.init_from=runs/tiny --config.data.train=train.csv --workdir=runs/small \\
        --config.tune.lora='((".*/attention/(query|value)", 8, 16.0),)' --config.optim.learning_rate=5e-4
    python -m t5x_lite.train --config=configs/bert.py:base --workdir=runs/base --dry_run

Repeating a command resumes the run from its newest checkpoint; a finished run says so.
"""

from collections.abc import Callable, Sequence
import os
from typing import Any

from absl import flags
import jax

from t5x_lite import cli, dry_run
from t5x_lite.assemble import Run, assemble
from t5x_lite.data import tokenizers
from t5x_lite.errors import UserError
from t5x_lite.evaluation import before_tuning
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.evaluation.task_scores import WhileTraining
from t5x_lite.training import devices, features
from t5x_lite.training.step import Program
from t5x_lite.training.trainer import Trainer
from t5x_lite.training.workdirs import check_workdir

_CONFIG = cli.define_config_flags(workdir_required=False)
_DRY_RUN = flags.DEFINE_bool('dry_run', False, 'Check everything and print it, without training.')
_DRY_RUN_STEP = flags.DEFINE_integer('dry_run_step', 1, 'The step whose batch --dry_run shows an example of.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    devices.configure(_CONFIG.value)
    workdir = cli.workdir()
    if not workdir and not _DRY_RUN.value:
        raise UserError('--workdir is missing; name the folder that the run is to write')
    run = assemble(_CONFIG.value, workdir=workdir or '')
    if _DRY_RUN.value:
        if workdir and (said := check_workdir(workdir, run.config)):
            print(said)
        print(dry_run.report(run, _DRY_RUN_STEP.value))
        return
    if run.train is None:
        raise UserError(
            'there are no data to train on; give --config.data.path=DIR (what prepare wrote) or --config.data.train=FILE, or add --dry_run'
        )
    new = not os.path.exists(os.path.join(workdir, 'config.json'))
    if new:
        dry_run.check(run)  # before the workdir is claimed by a run that could not start
    print('\n'.join(dry_run.description(run)), flush=True)
    if new and run.config.data.baselines and jax.process_index() == 0 and (said := before_tuning.baselines(run.train, run.validation)):
        print(said, flush=True)
    run.train, run.validation = features.attach(run.config, workdir, run.initial, run.train, run.validation)
    Trainer(
        run.config,
        workdir,
        run.train,
        _evaluations(run),
        run.tokenizer_path,
        run.initial,
        run.base,
    ).run()


def _evaluations(run: Run) -> Callable[[Program, int], Callable[[Any], dict[str, float]]]:
    """What the trainer asks for: held-out losses, and the scores of tasks by what the model writes."""
    judges: list[WhileTraining] = []  # one for all stages: it compiles what it generates with

    def make(program: Program, step: int) -> Callable[[Any], dict[str, float]]:
        evaluator = Evaluator(program, run.validation, step)
        if not WhileTraining.wanted(run.config):
            return evaluator
        if not judges:
            judges.append(WhileTraining(run.config, tokenizers.load(run.tokenizer_path), program.mesh))
        return lambda params: evaluator(params) | judges[0](params)

    return make


if __name__ == '__main__':
    cli.run(main)
