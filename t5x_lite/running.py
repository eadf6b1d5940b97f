"""One run, assembled, from here to its end: what `train` does, and `sweep` for its runs, one after another or abreast."""

from collections.abc import Callable, Sequence
import os
import time
from typing import Any

from t5x_lite import dry_run, mirrors, remote
from t5x_lite.assemble import Run, load_initial
from t5x_lite.data import tokenizers
from t5x_lite.errors import UserError
from t5x_lite.evaluation import before_tuning, synonyms
from t5x_lite.evaluation.several import evaluator_of
from t5x_lite.evaluation.task_scores import WhileTraining
from t5x_lite.training import abreast, features, processes
from t5x_lite.training.step import Program
from t5x_lite.training.trainer import Trainer
from t5x_lite.training.workdirs import check_workdir


def train(run: Run, workdir: str, *, checked: bool = False, baselines: bool = True, began: float | None = None) -> str:
    """Trains in `workdir`, or goes on there. Returns the name of the signal that stopped it, '' where it came to its end.

    Args:
      began: when the launch did, by time.monotonic(); now, if None.

    Other args and errors: of `_prepare`.
    """
    began = time.monotonic() if began is None else began
    _prepare(run, workdir, checked, baselines)
    return Trainer(run.config, workdir, run.train, evaluations(run), run.tokenizer_path, run.initial, run.base, began).run()


def train_abreast(runs: Sequence[Run], workdirs: Sequence[str], *, baselines: bool = True) -> tuple[str, list[UserError | None]]:
    """Trains runs that have been checked, and can go together (`abreast.groups`), as one vmapped run; see `abreast.train_abreast`."""
    for number, (run, workdir) in enumerate(zip(runs, workdirs, strict=True)):
        _prepare(run, workdir, True, baselines and not number)
    return abreast.train_abreast(runs, workdirs, evaluations)


def _prepare(run: Run, workdir: str, checked: bool, baselines: bool) -> None:
    """All that comes before the first step: checks, a description, baselines, what is computed once.

    Args:
      checked: by `dry_run.check` already.
      baselines: False: what a majority vote and a bag of words reach has been said already.

    Raises:
      UserError: whatever a person can mend, most of it before any compute.
    """
    if run.train is None:
        raise UserError('there are no data to train on; give --config.data.path=DIR (what prepare wrote) or --config.data.train=FILE, or add --dry_run')
    new = not remote.exists(os.path.join(workdir, 'config.json'))
    if new and not checked:
        # Before the workdir is claimed by a run that could not start.
        dry_run.check(run)
    print('\n'.join(dry_run.description(run)), flush=True)
    check_workdir(workdir, run.config)  # before anything is put into it

    def prepare_synonyms() -> None:
        synonyms.prepare(run.config, run.train, load_initial, mirrors.folder_of(workdir), lambda line: print(line, flush=True))

    processes.by_first(prepare_synonyms)  # who keeps them in the workdir
    if not processes.is_first():
        prepare_synonyms()
    if new and baselines and run.config.data.baselines and processes.is_first() and (said := before_tuning.baselines(run.train, run.validation)):
        print(said, flush=True)
    run.train, run.validation = features.attach(run.config, workdir, run.initial, run.train, run.validation)


def evaluations(run: Run) -> Callable[[Program, int], Callable[[Any], dict[str, float]]]:
    """What the trainer asks for: held-out losses, and the scores of tasks by what the model writes."""
    judges: list[WhileTraining] = []  # one for all stages: it compiles what it generates with

    def make(program: Program, step: int) -> Callable[[Any], dict[str, float]]:
        evaluator = evaluator_of(program, run.validation, step)
        if not WhileTraining.wanted(run.config):
            return evaluator
        if not judges:
            judges.append(WhileTraining(run.config, tokenizers.load(run.tokenizer_path), program.mesh))
        return lambda params: evaluator(params) | judges[0](params)

    return make
