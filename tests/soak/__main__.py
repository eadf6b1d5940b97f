"""A run that is killed and started again, many times, and must end as one that nothing touched.

    python -m tests.soak --output=soaks/one --cycles=200
    python -m tests.soak --output=soaks/four --cycles=40 --processes=4

In each cycle the real command starts (forked, so that imports cost nothing), and a process of it gets SIGKILL, or SIGTERM, at a moment that --seed
chooses: while it starts, restores, compiles, after a step, inside a save or as one ends. After each cycle nothing that was saved may be missing, no
checkpoint be torn, and every line of metrics.jsonl, those of steps that will be repeated too, be that of the run that nothing touched; at the end so
must all arrays of the checkpoints, bit for bit. Stopped (Ctrl-C) and repeated, the command goes on with the next cycle.

OUTPUT holds settings.json, the two workdirs untouched/ and killed/, cycles.jsonl, and logs/ of each launch.
"""

from collections import Counter
from collections.abc import Sequence
import contextlib
import json
import pathlib
import shutil
import signal
import statistics
import time
from typing import Any

from absl import flags

from t5x_lite import cli
from t5x_lite.errors import UserError
from t5x_lite.training import goodput
from tests.soak import cycles, judging
from tests.soak.server import Server
from tests.training import runs

_OUTPUT = flags.DEFINE_string('output', None, 'Folder of the soak.', required=True)
_CYCLES = flags.DEFINE_integer('cycles', 200, 'How often the run is killed.', lower_bound=1)
_PROCESSES = flags.DEFINE_integer('processes', 1, 'That train the run together.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Of the moments.')

_STEPS = 8  # a cycle
_LAST_STEPS = 60  # of the last launch, which nothing touches: the run must not be over before
_EVALUATE_EVERY = 20


class SoakFailed(UserError):
    """A fault of the framework's."""


class Soak:
    def __init__(self, folder: pathlib.Path, count: int, processes: int, seed: int):
        self._folder, self._count, self._processes, self._seed = folder, count, processes, seed
        settings = {'cycles': count, 'processes': processes, 'seed': seed}
        file = folder / 'settings.json'
        if file.exists() and (there := json.loads(file.read_text())) != settings:
            raise UserError(f'{folder} holds another soak, {there}; give the same flags, or another --output')
        if folder.exists() and not file.exists() and any(folder.iterdir()):
            raise UserError(f'--output={folder} holds something else; give another folder')
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
        (folder / 'logs').mkdir(exist_ok=True)
        self._journal = folder / 'cycles.jsonl'
        self._done = [json.loads(line) for line in self._journal.read_text().splitlines() if line.endswith('}')] if self._journal.exists() else []
        self._journal.write_text(''.join(json.dumps(done) + '\n' for done in self._done))
        self._config = self._make_config()
        self._untouched, self._killed = (runs.Run(folder / name, self._config, folder / 'cache') for name in ('untouched', 'killed'))
        self._flags = [f'--config={self._killed.config_file}', f'--config.compilation_cache={folder}/cache']

    def _make_config(self) -> Any:
        corpus = self._folder / 'data'
        if not (corpus / 'whole').exists():
            shutil.rmtree(corpus, ignore_errors=True)
            runs.prepare_corpus(corpus)
            (corpus / 'whole').touch()
        steps = _STEPS * self._count + _LAST_STEPS
        fields = {
            'data.source': 'tests.soak.paced:Paced', 'data.stages': ((0, 16, 16, 3), (steps // 2, 32, 8, 5)), 'steps': steps, 'log.every_steps': 1,
            'checkpoint.every_steps': cycles.SAVE_EVERY, 'checkpoint.keep_last': 3, 'eval.every_steps': _EVALUATE_EVERY,
            'mesh.fsdp': 2 if self._processes % 2 == 0 else 1,
        }  # fmt: skip
        return runs.small_config(str(corpus / 'corpus'), **fields)

    def run(self) -> str:
        """What a person should see of the whole. Raises SoakFailed where something was lost."""
        with contextlib.closing(Server()) as server:
            self._finish(server, self._untouched, 'untouched')
            reference = judging.by_step(self._untouched.lines())
            seconds = dict.fromkeys(cycles.PHASES, 1.0)
            for cycle in range(len(self._done), self._count):
                self._cycle(server, cycle, seconds, reference)
            self._finish(server, self._killed, 'last')
        try:
            runs.assert_same(self._killed, self._untouched)
        except AssertionError as error:
            raise SoakFailed(f'{self._folder}/killed did not end as {self._folder}/untouched: {error}') from error
        places = ', '.join(f'{count} {place}' for place, count in Counter(done['plan'] for done in self._done).most_common())
        arrays = self._killed.contents(self._config.steps)
        return (
            f'{len(self._done)} cycles ({places}): ends as the run that nothing touched, {len(arrays)} arrays bit for bit, {len(reference)} lines of '
            f'metrics.jsonl alike; {goodput.read(str(self._killed.workdir))}'
        )

    def _cycle(self, server: Server, cycle: int, seconds: dict[str, float], reference: dict) -> None:
        plan, run = cycles.planned(self._seed, cycle, self._processes), self._killed
        cold = self._folder / 'cold'
        given = [*self._flags, f'--config.compilation_cache={cold}'] if plan.cold else self._flags
        logs = [self._folder / 'logs' / f'{cycle:03}-{index}.log' for index in range(self._processes)]
        begins = time.monotonic()
        launch = cycles.cut(server, run, given, self._processes, logs, plan, _STEPS * (cycle + 1), seconds)
        shutil.rmtree(cold, ignore_errors=True)
        said, names = [log.read_text(errors='replace') for log in logs], [path.name for path in run.checkpoints.glob('*')]
        found = judging.faults(plan, launch.statuses, said, launch.newest, run.saved(), names, run.lines(), reference)
        if found:
            raise SoakFailed(f'cycle {cycle + 1} ({plan}): {"; ".join(found)}; see {logs[0]} and its neighbours')
        taken = time.monotonic() - begins
        done = {'cycle': cycle, 'plan': str(plan.place), 'signal': plan.signal.name, 'process': plan.process, 'statuses': launch.statuses}
        done |= {'saved': max(run.saved(), default=0), 'logged': launch.step(), 'seconds': round(taken, 2)}
        self._done.append(done)
        with open(self._journal, 'a', encoding='utf-8') as file:
            file.write(json.dumps(done) + '\n')
        left = int((self._count - cycle - 1) * statistics.fmean(each['seconds'] for each in self._done))
        print(f'cycle {cycle + 1}/{self._count}  {plan}  step {done["saved"]:,} saved  {taken:.1f} s  {left // 60}:{left % 60:02} left', flush=True)

    def _finish(self, server: Server, run: runs.Run, name: str) -> None:
        """To its end; a run that is over says so at once."""
        logs = [self._folder / 'logs' / f'{name}-{index}.log' for index in range(self._processes)]
        launch = cycles.Launch(server, run, self._flags, self._processes, logs)
        while launch.running and not any(launch.statuses):
            launch.look()
        launch.end(asked=False)
        if any(launch.statuses):
            index = next(index for index, status in enumerate(launch.statuses) if status)
            raise SoakFailed(f'the launch {name!r} ended with status {launch.statuses}; see {logs[index]}')


def main(argv: Sequence[str]) -> None:
    del argv
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background is told to ignore it
    print(Soak(pathlib.Path(_OUTPUT.value).resolve(), _CYCLES.value, _PROCESSES.value, _SEED.value).run())


if __name__ == '__main__':
    cli.run(main)
