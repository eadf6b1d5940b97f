"""Checkpoints of a run, by Orbax v1: the only file that knows Orbax.

    workdir/checkpoints/1000/     parameters, their moving average and the optimiser's state apart, so that each can be read without the others
    workdir/checkpoints/1000.files  size and CRC-32 of each file in it: Orbax commits a checkpoint atomically, but would read flipped bits as weights
    workdir/checkpoints/torn-900/ a checkpoint that could not be read; set aside, never deleted
    workdir/checkpoints/deleting-800/ one that is no longer kept: renamed first, so that a kill leaves no half of a checkpoint

With adapters, parameters and average are those that were learnt; the rest lies where config.init_from says (training/learnt.py).
Unboxed trees are saved, so a checkpoint is independent of the mesh, of scanning and of everything else in config.FREE_ON_RESUME.
"""

from collections.abc import Callable
import concurrent.futures
import contextlib
import copy
import logging
import os
import re
import shutil
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from t5x_lite import mirrors, remote
from t5x_lite.config import CheckpointConfig, Config
from t5x_lite.config_values import from_json, to_json
from t5x_lite.data import tokenizers
from t5x_lite.errors import UserError, nearest
from t5x_lite.training import learnt, listings, paths, patience, places, processes
from t5x_lite.training.places import Choice as Choice, FOLDER, choose as choose, holds_checkpoints as holds_checkpoints, is_there as is_there, locate, steps_in
from t5x_lite.training.step import TrainState

_SMALL = 1 << 16  # bytes: metadata, not weights
_LOOK_SECONDS = 1.0


def _parts(state: TrainState) -> dict[str, Any]:
    parts = {'params': state.params, 'training': {'step': state.step, 'opt_state': state.opt_state, 'skipped': state.skipped}}
    if state.loss_scale:
        parts['training']['loss_scale'] = state.loss_scale
    return parts | {'ema': state.ema} if state.ema else parts


class Checkpoints:
    """The checkpoints of a workdir.

    Of several processes each writes and reads its part of the arrays; the first does all else: lists, deletes, sets aside.

    Args:
      workdir: the run's folder.
      config: what to keep.
      warn: called with each line that a person should see.
    """

    def __init__(self, workdir: str, config: CheckpointConfig, warn: Callable[[str], None] = print):
        self._folder = remote.absolute(os.path.join(workdir, FOLDER))
        self._config, self._warn = config, warn
        self._finisher = concurrent.futures.ThreadPoolExecutor(1, 'checkpoint')
        self._pending: tuple[int, concurrent.futures.Future] | None = None
        self._stuck = False  # Orbax waits for other processes, who wait for this one
        processes.by_first(self._mend)
        self._checkpointer = ocp.training.Checkpointer(
            self._folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),  # the trainer decides
            preservation_policy=ocp.training.preservation_policies.PreserveAll(),  # _tidy deletes
            cleanup_tmp_directories=True,
        )

    def _mend(self) -> None:
        """What a kill left behind."""
        for name in remote.names(self._folder):
            if name.startswith('deleting-') or name.isdigit() and not places.is_whole(self._folder, int(name)):
                remote.remove_tree(os.path.join(self._folder, name))
            elif name.isdigit():
                places.commit(self._folder, int(name))
        for step in reversed(steps_in(self._folder)):
            if damage := listings.damage(self._folder, step, most_bytes=_SMALL):  # Orbax reads the small files of all of them
                self._set_aside(step, damage)

    def steps(self) -> list[int]:
        return [info.step for info in self._checkpointer.checkpoints]

    def save(self, step: int, state: TrainState, run: dict[str, Any], metrics: dict[str, float] | None = None, *, wait: bool = False) -> None:
        """Starts saving, and first waits for the save before it.

        Args:
          run: JSON, not empty, that comes back on restore.
          metrics: held-out scores, of which config.checkpoint.best_metric chooses.

        Raises:
          UserError: if this save, or the one before it, could not be written. Earlier checkpoints are whole.
        """
        self.wait()
        if step in self.steps():
            return
        run = copy.deepcopy(run)  # written by another thread, while the caller goes on
        known = len(_failures)
        try:
            response = self._checkpointer.save_checkpointables_async(step, _parts(state), custom_metadata=run, metrics=metrics, force=True)
        except Exception as error:
            if processes.gone(error):  # there is nothing to mend here
                raise
            raise self._failed(step, error) from error
        self._pending = (step, self._finisher.submit(self._finish, step, response, known))
        if wait:
            self.wait()

    def _finish(self, step: int, response: Any, known: int) -> None:
        if processes.several():
            self._look_out(response, known)
        else:
            response.result()
        if processes.is_first():
            listings.write(self._folder, step)
            self._tidy()

    def _look_out(self, response: Any, known: int) -> None:
        """Returns when a save is whole, before which there were `known` failures.

        A process that could not write its part waits in Orbax for the others, and they for it, for twenty minutes; only the log knows the reason at once.
        """
        while True:
            try:
                return response.result(timeout=_LOOK_SECONDS)
            except TimeoutError as error:
                if str(error):  # of the save itself
                    raise
            for said, error in _failures[known:]:
                if self._folder in said:
                    self._stuck = True
                    raise error

    def _tidy(self) -> None:
        """Deletes what config.checkpoint does not keep."""
        config, infos = self._config, self._checkpointer.checkpoints
        steps = [info.step for info in infos]
        keep = set(steps[-max(config.keep_last, 1) :])
        if config.keep_every_steps:
            keep |= {step for step in steps if step % config.keep_every_steps == 0}
        keep.add(patience.best_step({info.step: (info.metrics or {}).get(config.best_metric) for info in infos}, config))
        for step in set(steps) - keep:
            self._delete(step)
        there = remote.names(self._folder)
        for name in there:
            if name.endswith('.files') and name.removesuffix('.files') not in there:
                remote.remove(os.path.join(self._folder, name))
        self._checkpointer.reload()

    def _delete(self, step: int) -> None:
        saved, leaving = (os.path.join(self._folder, name) for name in (str(step), f'deleting-{step}'))
        if remote.is_remote(saved):
            places.uncommit(self._folder, step)
            leaving = saved
        else:
            os.replace(saved, leaving)
        remote.remove_tree(leaving)

    def wait(self) -> None:
        """Returns when what was saved is on disk; raises UserError where it is not."""
        if self._pending is not None:
            (step, finished), self._pending = self._pending, None
            try:
                finished.result()
            except Exception as error:
                if processes.gone(error):
                    raise
                raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> UserError:
        whole = [saved for saved in steps_in(self._folder) if saved != step]
        kept = f'the checkpoints of steps {", ".join(map(str, whole))} are whole' if whole else 'there is no earlier one'
        return UserError(
            f'the checkpoint of step {step} could not be saved in {self._folder} ({_brief(error)}); {kept}. '
            'Mend that (free space there) and repeat the command'
        )

    def restore(self, abstract: Callable[[int, dict[str, Any]], TrainState]) -> tuple[TrainState, dict[str, Any]] | None:
        """(state, run) of the newest checkpoint that can be read, or None where there is none.

        A checkpoint that cannot be read is set aside with a warning, and the one before it is tried.

        Args:
          abstract: (step, run) -> what was saved, with the shardings that it is to have.

        Raises:
          UserError: if there are checkpoints and none can be read, and what `abstract` raises.
        """
        while found := processes.by_first(self._newest):
            step, listed = found
            if processes.several():
                self._checkpointer.reload()  # the first may have set some aside
            damage, cause = '', None
            try:
                restored = self._load(step, abstract)
            except UserError:
                raise
            except Exception as error:
                damage, cause = f'{type(error).__name__}: {_brief(error)}', error
            damages = [each for each in processes.told(damage) if each]
            if not damages:
                processes.by_first(lambda: self._settle(step, listed))
                return restored
            if listed:  # its files are as they were written, so the fault is not theirs
                whole = f'the checkpoint of step {step} in {self._folder} is whole, but cannot be restored here'
                raise UserError(f'{whole} ({damages[0]})') from cause
            processes.by_first(lambda: self._set_aside(step, damages[0]))
        return None

    def _newest(self) -> tuple[int, bool] | None:
        """(step, whether its files are listed) of the newest checkpoint whose files are whole, as far as that is known; damaged ones are set aside."""
        for step in reversed(self.steps()):
            if not (damage := listings.damage(self._folder, step)):
                return step, remote.exists(listings.path_of(self._folder, step))
            self._set_aside(step, damage)
        if any(name.startswith('torn-') for name in remote.names(self._folder)):
            raise UserError(f'no checkpoint in {self._folder} can be read; see the warnings above. Give another --workdir, or restore the files from a copy')
        return None

    def _settle(self, step: int, listed: bool) -> None:
        if not listed:
            listings.write(self._folder, step)
        self._tidy()  # what a kill kept the run from

    def _set_aside(self, step: int, reason: str) -> None:
        aside = os.path.join(self._folder, f'torn-{step}')
        while remote.exists(aside):
            aside += '+'
        remote.move(os.path.join(self._folder, str(step)), aside)
        if remote.exists(listings.path_of(self._folder, step)):
            remote.move(listings.path_of(self._folder, step), aside + '.files')
        self._warn(f'warning: the checkpoint of step {step} cannot be read ({reason}); it is set aside as {aside}, and the one before it is used')
        if hasattr(self, '_checkpointer'):
            self._checkpointer.reload()

    def _load(self, step: int, abstract: Callable[[int, dict[str, Any]], TrainState]) -> tuple[TrainState, dict[str, Any]]:
        run = self._checkpointer.checkpointables_metadata(step).custom_metadata
        if not run:  # Orbax makes do without a broken metadata file
            raise ValueError('its metadata are missing')
        loaded = self._checkpointer.load_checkpointables(step, _parts(abstract(step, dict(run))))
        training = loaded['training']
        kept = {name: training[name] for name in ('opt_state', 'skipped', 'loss_scale') if name in training}
        return TrainState(training['step'], loaded['params'], ema=loaded.get('ema', {}), **kept), dict(run)

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._finisher.shutdown()
            if self._stuck:
                return
            with contextlib.suppress(Exception):  # a save that failed is reported by `wait`, and again by Orbax
                self._checkpointer.close()


def _brief(error: Exception) -> str:
    """In one line. Of a long message the beginning and the end: TensorStore's begin with paths and end with the reason."""
    text = ' '.join(str(error).split())
    return text if len(text) <= 300 else f'{text[:100]} ... {text[-200:]}'


_failures: list[tuple[str, BaseException]] = []  # of saves in the background of this process: what Orbax logged, and why


def _worth_saying(record: logging.LogRecord) -> bool:
    if os.path.basename(record.pathname) == 'async_checkpointer.py' and record.levelno >= logging.ERROR and record.exc_info and record.exc_info[1]:
        _failures.append((record.getMessage(), record.exc_info[1]))
    return record.name != 'asyncio' and '/orbax/' not in record.pathname.replace(os.sep, '/')


# A damaged file or a full disk makes Orbax log pages of tracebacks from its threads; this file says in a line what is wrong.
for _name in ('absl', 'asyncio'):
    logging.getLogger(_name).addFilter(_worth_saying)


def load_params(path: str, ema: bool = True, load_base: Callable[[dict[str, Any]], Any] | None = None, whole: bool = True) -> tuple[Config, dict[str, Any]]:
    """(config of the run, parameters as a nested dict of numpy arrays) of a workdir or of one of its checkpoints.

    Args:
      ema: take the moving average of the weights where there is one.
      load_base: gives the parameters of a base, as the checkpoints that hold only what was learnt beside it describe it (training/learnt.py).
      whole: False: without the base, what the checkpoint itself holds.
    """
    workdir, step = locate(path)
    config = from_json(os.path.join(workdir, 'config.json'))
    folder = os.path.join(workdir, FOLDER, str(step))
    try:
        if damage := listings.damage(os.path.dirname(folder), step):
            raise OSError(damage)
        metadata = ocp.checkpointables_metadata(folder)
        saved, run = metadata.metadata, metadata.custom_metadata or {}
        name = 'ema' if ema and 'ema' in saved else 'params'
        host = jax.sharding.SingleDeviceSharding(jax.local_devices(backend='cpu')[0])
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host), saved[name])
        loaded = ocp.load_checkpointables(folder, {name: abstract})[name]
    except Exception as error:
        raise UserError(f'{folder}: the checkpoint cannot be read ({_brief(error)}); name an earlier one, {workdir}/{FOLDER}/STEP') from error
    loaded = jax.tree.map(np.asarray, loaded)
    if 'base' in run and whole:
        if load_base is None:
            raise UserError(f'{folder} holds only what was learnt beside the weights in {run["base"]["path"]}; name those too')
        loaded = learnt.together(load_base(run['base']), loaded, run['base'])
    return config, loaded


def base_of(path: str) -> dict[str, Any] | None:
    """The base that the checkpoint which `choose` takes was learnt beside; None where it holds everything."""
    run = _run_of(path)
    return run['base'] if 'base' in run else None


def data_of(path: str) -> str:
    """The fingerprint of what the run of a checkpoint learnt from; '' where it does not say."""
    run = _run_of(path)
    return run['data'] if 'data' in run else ''


def unfinished(workdir: str, step: int) -> str:
    """What there is to say where the checkpoint of a step is used of a run that has not ended, by config.steps or by config.eval.patience; else ''."""
    newest = choose(workdir, 'newest').step
    config = from_json(os.path.join(workdir, 'config.json'))
    if newest >= config.steps:
        return ''
    try:
        run = _run_of(os.path.join(workdir, FOLDER, str(newest)))
    except UserError:  # it is not the one that is used, or whoever reads its weights says so
        return ''
    if 'held_out' not in run or patience.Patience(config, run['held_out']).over:  # without: weights from elsewhere, which no run of ours has left
        return ''
    return f'{workdir} is not finished: step {step:,} of {config.steps:,} is used; its train command, repeated, goes on'


def _run_of(path: str) -> dict[str, Any]:
    """What was saved of its run with the checkpoint that `choose` takes."""
    workdir, step = locate(path)
    try:
        return ocp.checkpointables_metadata(os.path.join(workdir, FOLDER, str(step))).custom_metadata or {}
    except Exception as error:
        raise UserError(f'{workdir}/{FOLDER}/{step}: the checkpoint cannot be read ({_brief(error)}); name an earlier one, {workdir}/{FOLDER}/STEP') from error


def save_params(workdir: str, config: Config, params: Any, tokenizer_path: str) -> None:
    """Writes a workdir that holds parameters alone, at step 0: what `init_from` reads."""
    os.makedirs(workdir, exist_ok=True)
    if steps_in(os.path.join(workdir, FOLDER)):
        raise UserError(f'{workdir} holds checkpoints already; give another folder')
    copy_tokenizer(tokenizer_path, workdir)
    with open(os.path.join(workdir, 'config.json'), 'w', encoding='utf-8') as file:
        file.write(to_json(config) + '\n')
    folder = os.path.join(os.path.abspath(workdir), FOLDER, '0')
    ocp.save_checkpointables(folder, {'params': jax.tree.map(np.asarray, params)})
    listings.write(os.path.dirname(folder), 0)


def copy_tokenizer(source: str, workdir: str) -> str:
    """Copies a tokenizer's files to workdir/tokenizer, so that the run can be used when its data are gone."""
    source, target = remote.local(source), os.path.join(mirrors.folder_of(workdir), 'tokenizer')
    os.makedirs(target, exist_ok=True)
    for name in tokenizers.present(source):
        if os.path.abspath(source) != os.path.abspath(target):
            shutil.copyfile(os.path.join(source, name), os.path.join(target, name))
    return target


def plan_merge(initial: Any, loaded: Any, fresh: tuple[str, ...], source: str) -> list[str]:
    """Checks that parameters of `loaded` fit the tree of `initial` (abstract or not).

    Returns:
      the paths that `loaded` lacks, or has for another number of classes, and a pattern of `fresh` allows to start at random.

    Raises:
      UserError: for a shape that differs (name and both shapes), or an absent parameter that no pattern of `fresh` allows.
    """
    available, patterns, absent = paths.leaves(loaded), [re.compile(pattern) for pattern in fresh], []
    for path, leaf in paths.leaves(initial).items():
        free = any(pattern.fullmatch(path) for pattern in patterns)
        if path in available and (available[path].shape == leaf.shape or not free):
            if available[path].shape != leaf.shape:
                raise UserError(
                    f'{source}: parameter {path} has shape {tuple(available[path].shape)}, the model of this config {tuple(leaf.shape)}; '
                    'make config.model match, or take the architecture from there with --config.init_architecture'
                )
        elif free:
            absent.append(path)
        else:
            raise UserError(f'{source} has no parameter {path}, {nearest(path, available)}; to let it start at random, name it in --config.init_fresh')
    return absent


def merge(initial: Any, loaded: Any, fresh: tuple[str, ...], source: str) -> tuple[Any, list[str]]:
    """Parameters of `loaded` in the tree of `initial` (abstract where `loaded` has them), placed as those are; see `plan_merge` for those that it lacks and for errors."""
    absent, available = plan_merge(initial, loaded, fresh, source), paths.leaves(loaded)

    def take(path: str, leaf: Any) -> Any:
        return leaf if path in absent else processes.placed(np.asarray(available[path], leaf.dtype), leaf.sharding)

    return paths.map_paths(take, initial), absent
