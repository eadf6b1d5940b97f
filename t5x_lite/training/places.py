"""Where the checkpoints of a run lie, and which of them is used.

    WORKDIR                      the best by config.checkpoint.best_metric where the run has one, else the newest
    WORKDIR/checkpoints/300      that of step 300
    WORKDIR/checkpoints/best     and .../newest: one of them, whatever the run has
"""

import dataclasses
import json
import os
import re

from t5x_lite import remote
from t5x_lite.config_values import from_json
from t5x_lite.errors import UserError
from t5x_lite.training import patience

FOLDER, WORDS = 'checkpoints', ('best', 'newest')
COMMITTED, _METADATA = 'commit_success.txt', '_CHECKPOINT_METADATA'  # Orbax's names
STEP_HELP = 'a step, best (by config.checkpoint.best_metric) or newest; by default the best where the run has one, else the newest.'


def steps_in(folder: str) -> list[int]:
    steps = sorted(int(name) for name in remote.names(folder) if name.isdigit())
    return [step for step in steps if is_whole(folder, step)]


def is_whole(folder: str, step: int) -> bool:
    """Whether all of a checkpoint was written. On a file system it has its name only then; in a bucket Orbax adds a last file.

    One that was copied there from elsewhere lacks that; its metadata say when it was finished.
    """
    saved = os.path.join(folder, str(step))
    if not remote.is_remote(folder) or remote.exists(os.path.join(saved, COMMITTED)):
        return True
    try:
        return bool(json.loads(remote.read(os.path.join(saved, _METADATA)))['commit_timestamp_nsecs'])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def commit(folder: str, step: int) -> None:
    """Adds the last files to a checkpoint that `is_whole` in a bucket: Orbax would take it for unfinished, and delete it."""
    saved = os.path.join(folder, str(step))
    if remote.is_remote(folder) and not remote.exists(os.path.join(saved, COMMITTED)):
        for part in [name for name in remote.names(saved) if remote.is_dir(os.path.join(saved, name))] + ['']:
            remote.write(os.path.join(saved, part, COMMITTED), b'copied from elsewhere')


def uncommit(folder: str, step: int) -> None:
    """A checkpoint in a bucket counts as unfinished from now on, before the first of its arrays is gone."""
    for name in (COMMITTED, _METADATA):
        remote.remove(os.path.join(folder, str(step), name))


def holds_checkpoints(workdir: str) -> bool:
    """Whether anything was saved there, torn or not."""
    folder = os.path.join(workdir, FOLDER)
    return any(re.match(r'\d+$|torn-', name) for name in remote.names(folder))


@dataclasses.dataclass(frozen=True)
class Choice:
    """A checkpoint of a run."""

    workdir: str
    step: int
    said: str = ''  # what a person should know, where it is not the newest and nobody asked for it


def choose(path: str, which: str = '') -> Choice:
    """The checkpoint to use of a workdir, of its checkpoints folder, or of one checkpoint in it: WORKDIR/checkpoints/300, .../best, .../newest.

    Args:
      which: a step, 'best' or 'newest'; '': what the path says, else the best by config.checkpoint.best_metric where the run has one, else the newest.

    Raises:
      UserError: where there is no checkpoint of ours, or not that one.
    """
    path = remote.absolute(path)
    folder, last = os.path.split(path)
    if os.path.basename(folder) == FOLDER and (last in WORDS or last.isdigit() and remote.is_dir(path)):
        which = which or last
    else:
        folder = path
    if not remote.is_dir(folder):
        raise UserError(f'{path}: no such folder; expected a workdir, a checkpoint in it, or a Hugging Face folder')
    workdir = os.path.dirname(folder) if os.path.basename(folder) == FOLDER else folder
    folder = os.path.join(workdir, FOLDER)
    steps = steps_in(folder)
    if not steps and remote.exists(os.path.join(workdir, 'config.json')) and remote.exists(os.path.join(workdir, 'tokenizer')):
        raise UserError(f'{workdir} is a run that has not saved a checkpoint yet; wait until it has, or repeat its train command')
    if not steps or not remote.exists(os.path.join(workdir, 'config.json')):
        ours = f'a workdir has config.json and {FOLDER}/STEP'
        raise UserError(f'{path}: no checkpoint of ours ({ours}) and no Hugging Face folder (config.json and model.safetensors)')
    if which not in WORDS and which:
        if not (which.isdigit() and int(which) in steps):
            what = f'{workdir} has no checkpoint of step {which}' if which.isdigit() else f'--step={which} is no step'
            raise UserError(f'{what}; there are those of {", ".join(map(str, steps))}, and {" and ".join(WORDS)}')
        return Choice(workdir, int(which))
    config = from_json(os.path.join(workdir, 'config.json')).checkpoint
    if which == 'newest' or not (which or config.best_metric):
        return Choice(workdir, steps[-1])
    scores = {step: _score(folder, step, config.best_metric) for step in steps}
    best = patience.best_step(scores, config)
    if best is None and which:
        raise UserError(f'{workdir} has no best checkpoint: none was saved with a score of config.checkpoint.best_metric; name a step, or newest')
    if best is None or best == steps[-1] or which:
        return Choice(workdir, steps[-1] if best is None else best)
    said = f'{workdir}: step {best:,} is taken, the best by {config.best_metric} ({scores[best]:.4g}); the newest, step {steps[-1]:,}, is {folder}/newest'
    return Choice(workdir, best, said)


def locate(path: str) -> tuple[str, int]:
    """(workdir, step) of what `choose` gives for a path."""
    choice = choose(path)
    return choice.workdir, choice.step


def is_there(path: str) -> bool:
    """Whether a path that `choose` takes exists; WORKDIR/checkpoints/best is no folder."""
    return remote.exists(os.path.dirname(path.rstrip(os.sep)) if os.path.basename(path.rstrip(os.sep)) in WORDS else path)


def _score(folder: str, step: int, metric: str) -> float | None:
    """A held-out score that was saved with a checkpoint; Orbax keeps them as JSON."""
    try:
        return json.loads(remote.read(os.path.join(folder, str(step), 'metrics', 'metrics'))).get(metric)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
