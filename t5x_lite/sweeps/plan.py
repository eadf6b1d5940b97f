"""The folder of a sweep, and its runs: named, told apart, and checked before any of them begins.

    OUT/base.json       the config that all runs begin with
    OUT/sweep.json      {"runs": [{"name": "learning_rate=1e-05_seed=0", "fields": {"optim.learning_rate": 1e-05, "seed": 0}}, ...], "metric": "accuracy", ...}
    OUT/runs/NAME/      workdirs, such as `train` writes

A command with another grid adds to the runs that are there; a run that two grids have is one.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os
import re
import shlex
from typing import Any

from t5x_lite import dry_run, remote
from t5x_lite.assemble import assemble
from t5x_lite.checks import finalize
from t5x_lite.config import Config
from t5x_lite.config_values import differences, flatten, from_json, to_json
from t5x_lite.errors import UserError, nearest
from t5x_lite.sweeps import grid

BASE, SWEEP, RUNS = 'base.json', 'sweep.json', 'runs'

# Runs that differ in these alone need the same checks of data, shapes and names: one of them is enough. Their values are checked in every run.
_ALIKE = ('seed', 'data.fold', 'optim.learning_rate', 'optim.warmup_fraction', 'model.dropout', 'model.attention_dropout', 'label_smoothing')


@dataclasses.dataclass(frozen=True)
class Planned:
    name: str
    fields: grid.Fields
    config: Config  # the base with these, not yet completed by data and weights
    workdir: str


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Attributes:
    runs: all that the folder has or is to have.
    wanted: those of this command.
    metric, best: as they were asked for, '' where nothing was.
    """

    folder: str
    base: Config
    runs: list[Planned]
    wanted: list[Planned]
    metric: str = ''
    best: str = ''

    def save(self) -> None:
        """Makes the folder this sweep's."""
        if not remote.is_remote(self.folder):
            os.makedirs(self.folder, exist_ok=True)
        runs = [{'name': run.name, 'fields': run.fields} for run in self.runs]
        written = {'metric': self.metric, 'best': self.best, 'runs': runs}
        for name, text in ((BASE, to_json(self.base)), (SWEEP, json.dumps(written, indent=1))):
            remote.write(os.path.join(self.folder, name), f'{text}\n'.encode())


def opened(folder: str, base: Config, combinations: Sequence[grid.Fields] | None = None, metric: str = '', best: str = '') -> Sweep:
    """The sweep of a folder with what a command adds to it; nothing is written.

    Args:
      combinations: fields of the runs of this command; None: those that are there.

    Raises:
      UserError: the folder has a sweep of another config, or none, and nothing is added.
    """
    path = os.path.join(folder, SWEEP)
    written = _read(path) if remote.exists(path) else {'runs': [], 'metric': '', 'best': ''}
    if combinations is None and not written['runs']:
        example = '--grid="optim.learning_rate=1e-5,3e-5; seed=0..2"'
        raise UserError(f'{folder} has no sweep, and neither --grid nor --runs is given; name fields and values: {example}')
    if remote.exists(os.path.join(folder, 'config.json')):
        raise UserError(f'{folder} is the folder of a run (config.json); give another --workdir for the sweep')
    added = list(combinations or ())
    if written['runs']:
        _check_base(folder, base, [run['fields'] for run in written['runs']] + added)
    runs = [_planned(folder, base, run['name'], run['fields']) for run in written['runs']]
    there = {_key(run.config): run for run in runs}
    wanted = []
    for fields in added:
        config = grid.changed(base, fields)
        key = _key(config)
        if key not in there:
            there[key] = _planned(folder, base, _new_name(fields, {run.name for run in there.values()}), fields)
        wanted.append(there[key])
    wanted = runs if combinations is None else list({run.name: run for run in wanted}.values())
    return Sweep(folder, base, list(there.values()), wanted, metric or written['metric'], best or written['best'])


def _read(path: str) -> dict[str, Any]:
    try:
        return json.loads(remote.read(path))
    except json.JSONDecodeError as error:
        raise UserError(f'{path}:{error.lineno}: not JSON ({error.msg}); bring the file back, or give another --workdir') from error


def _check_base(folder: str, base: Config, runs: Sequence[grid.Fields]) -> None:
    """Fields that every run sets may differ."""
    before = from_json(os.path.join(folder, BASE))
    values = flatten(before)
    always = set.intersection(*map(set, runs))
    if found := differences(grid.changed(base, {name: values[name] for name in always}), before):
        more = [f'and {len(found) - 5} more fields'] if len(found) > 5 else []
        raise UserError(f'{folder} holds a sweep of another config; it differs in {"; ".join(found[:5] + more)}. Give another --workdir, or the same fields')


def _planned(folder: str, base: Config, name: str, fields: grid.Fields) -> Planned:
    return Planned(name, fields, grid.changed(base, fields), os.path.join(folder, RUNS, name))


def _key(config: Config) -> str:
    return json.dumps(flatten(config), sort_keys=True)


def _new_name(fields: grid.Fields, taken: set[str]) -> str:
    return next(name for name in (_name(fields, short=True), _name(fields, short=False)) if name not in taken)


def _name(fields: grid.Fields, short: bool) -> str:
    """'learning_rate=1e-05_seed=0': no commas, which divide the values of flags that take several runs."""
    lasts = [field.rpartition('.')[2] for field in fields]
    names = [last if short and lasts.count(last) == 1 else field for last, field in zip(lasts, fields, strict=True)]
    parts = []
    for shown, (field, value) in zip(names, fields.items(), strict=True):
        text = grid.as_text(field, value)
        plain = re.sub(r'[^\w.+-]+', '-', text).strip('-')[:40]
        parts.append(f'{shown}={plain}' if plain == text else f'{shown}={plain}-{_digest(text)}'.replace('=-', '='))
    name = '_'.join(parts) or 'base'
    return name if len(name) <= 200 else f'{name[:190]}-{_digest(name)}'


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def check(sweep: Sweep, runs: Sequence[Planned]) -> int:
    """Whether these can begin: each value, and what follows from it for data, weights, shapes and names. Returns how many were assembled for that.

    Raises:
      UserError: naming the run.
    """
    seen = set()
    for run in runs:
        try:
            finalize(run.config)
            for name in ('deterministic', 'compilation_cache'):
                if getattr(run.config, name) != getattr(sweep.base, name):
                    raise UserError(f'config.{name} is of the whole process; give it as a flag, for all runs')
            values = flatten(Config())
            if (key := _key(grid.changed(run.config, {name: values[name] for name in _ALIKE}))) in seen:
                continue
            seen.add(key)
            assembled = assemble(run.config, workdir=run.workdir)
            if assembled.train is None:
                raise UserError('there are no data to train on; give --config.data.path=DIR (what prepare wrote) or --config.data.train=FILE')
            names = dry_run.held_out_metrics(dry_run.check(assembled), assembled)
            if sweep.metric and sweep.metric not in names:
                raise UserError(f'--metric={sweep.metric} is not a held-out metric of it; {nearest(sweep.metric, names)}')
        except UserError as error:
            raise UserError(f'run {run.name}: {error}') from error
    return len(seen)


def launch_lines(sweep: Sweep, runs: Sequence[Planned]) -> list[str]:
    """A command each, quoted for a shell, for the folder in which the sweep was planned."""
    lines = []
    for run in runs:
        flags = [f'--config.{name}={grid.as_text(name, value)}' for name, value in run.fields.items()]
        lines.append(shlex.join(['python', '-m', 't5x_lite.train', f'--config={os.path.join(sweep.folder, BASE)}', *flags, f'--workdir={run.workdir}']))
    return lines
