"""The loop: restore or initialise, step, log, evaluate, save; stop cleanly, or on the first number that is not finite."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import time
from typing import Any

import jax

from t5x_lite import mirrors
from t5x_lite.config import Config
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import Interrupted, UserError
from t5x_lite.training import adapters, checkpoint, driving, learnt, partitioning, processes, stalls, tuning, workdirs
from t5x_lite.training.accounting import Accounts
from t5x_lite.training.beginning import begun
from t5x_lite.training.goodput import Goodput
from t5x_lite.training.held_out import Evaluate, HeldOut
from t5x_lite.training.step import Program, TrainState, grown, make_program
from t5x_lite.training.telemetry import MetricsLog, Profile, Window
from t5x_lite.training.watch import Watch, before_training


class Trainer:
    """One run of a workdir.

    Args:
      config: complete (assembled): nothing in it is left to be found in the data.
      data: training batches.
      make_evaluate: (program, step) -> function of parameters to held-out scores, for batches as they are at that step.
      tokenizer_path: copied into the workdir.
      initial: parameters to start from (nested dict of numpy arrays), or None for random ones.
      base: their description, where some of them stay as they are (training/learnt.py).
      began: when the launch did, by time.monotonic(); now, if None. What came before is start-up (training/goodput.py).
    """

    def __init__(
        self,
        config: Config,
        workdir: str,
        data: DataFunction,
        make_evaluate: Callable[[Program, int], Evaluate],
        tokenizer_path: str,
        initial: dict[str, Any] | None = None,
        base: dict[str, Any] | None = None,
        began: float | None = None,
    ):
        self._began = time.monotonic() if began is None else began
        self._config, self._workdir, self._data, self._initial = config, workdir, data, initial
        self._make_evaluate = make_evaluate
        self._mesh = partitioning.make_mesh(config)
        for stage in data.stages:
            partitioning.check_batch(self._mesh, stage.batch_size, stage.seq_len, config.optim.microbatches)
        self._programs = {step: make_program(config, self._mesh, step) for step in tuning.stages(config.tune, config.steps)}
        self._program = self._programs[0]
        self._base, self._part = base, None
        if initial is not None and base is not None:
            params = self._program.abstract.params
            absent = checkpoint.plan_merge(params, initial, (*config.init_fresh, adapters.PATTERN), config.init_from)
            self._part = tuning.learnt(config.tune, params, config.init_fresh, config.steps, absent)
        self._stop_signal, self._tokenizer_path = '', tokenizer_path

    def run(self) -> str:
        """Trains to config.steps, or says that this is done already. Returns the name of the signal that came, '' where none did.

        Raises:
          Interrupted: a second signal.
          UserError: the workdir is another run's, or a process trains in it; a loss that is not finite, other data than the checkpoint's, a
            checkpoint that cannot be saved.
        """
        one = driving.One()
        try:
            with processes.signals(self.on_signal), jax.set_mesh(self.mesh), contextlib.closing(self.steps()) as steps:
                for asked in steps:
                    one.take(asked)
        except KeyboardInterrupt as error:
            raise Interrupted('interrupted without saving; repeat the command to go on from the newest checkpoint') from error
        return self._stop_signal

    @property
    def mesh(self) -> jax.sharding.Mesh:
        return self._mesh

    @property
    def stopped_by(self) -> str:
        """The signal that this run was asked to end by, or ''."""
        return self._stop_signal

    def steps(self) -> Iterator[driving.Asked]:
        """The run itself: claims its workdir, restores or begins, and asks for one step after the other. Whoever takes a step answers before going on."""
        with workdirs.disk_errors(self._workdir), workdirs.locked(self._workdir):
            workdirs.claim(self._workdir, self._config)
            with mirrors.kept(self._workdir) if processes.is_first() else contextlib.nullcontext():
                processes.by_first(lambda: checkpoint.copy_tokenizer(self._tokenizer_path, self._workdir))
                yield from self._run(checkpoint.Checkpoints(self._workdir, self._config.checkpoint))

    def _run(self, checkpoints: checkpoint.Checkpoints) -> Iterator[driving.Asked]:
        with contextlib.closing(checkpoints), contextlib.closing(Goodput(mirrors.folder_of(self._workdir), processes.is_first(), self._began)) as self._goodput:
            with self._goodput.spent('restore'):
                state, run = self._start(checkpoints)
            first, steps = int(state.step), self._config.steps
            self._watch = Watch(self._config, mirrors.folder_of(self._workdir), run.get('watch'), new=not first)
            self._held_out = HeldOut(self._config, self._data, self._make_evaluate, self._watch, run.get('held_out'))
            if first >= steps or self._held_out.over:
                done = f'all {steps:,} steps of {self._workdir} are done' if first >= steps else f'{self._workdir} has {self._stopped_early(first)}'
                print(f'finished: {done}{self._held_out.ending}; raise --config.steps in another workdir to train longer')
                return
            if not first and processes.is_first():  # who alone writes warnings; others need not read all rows of the first batches
                self._warn_before()
            log = MetricsLog(mirrors.folder_of(self._workdir), self._config.log, first)
            with contextlib.closing(log), stalls.watched(self._config.log.stall_seconds) as self._going_on:
                self._goodput.begin(first)
                yield from self._loop(state, first, Window(run.get('window')), checkpoints, log)

    def _warn_before(self) -> None:
        tunings = [program.tuning for program in self._programs.values()]
        for kind, text in before_training(self._config, tunings, self._data, self._tokenizer_path).items():
            self._watch.say(kind, text)

    def _stopped_early(self, step: int) -> str:
        return f'stopped early, at step {step:,}: no better {self._config.checkpoint.best_metric} in {self._config.eval.patience} evaluations'

    def on_signal(self, number: int, frame: Any) -> None:
        del frame
        if self._stop_signal:
            raise KeyboardInterrupt  # a second one does not wait for the step to end
        self._stop_signal = signal.Signals(number).name

    def _start(self, checkpoints: checkpoint.Checkpoints) -> tuple[TrainState, dict[str, Any]]:
        restored = checkpoints.restore(self._saved)
        if restored is not None:
            state, run = restored
            if 'base' in run:
                state = self._beside_base(state)
            if run.get('data') != self._data.fingerprint:
                raise UserError(
                    f'{self._workdir} was trained on other data than config.data gives now (corpus, tokenizer or table changed); '
                    'give the same data, or another --workdir'
                )
            print(f'resumed {self._workdir} from step {int(state.step):,}', flush=True)
            return state, run
        if self._initial is None and self._config.init_from and self._config.init_weights:
            raise UserError(f'config.init_from={self._config.init_from} is gone, and no checkpoint in {self._workdir} can be read; bring one of them back')
        return begun(self._program, self._initial), {}

    # Checkpoints that hold what was learnt beside a base.

    def _program_at(self, step: int) -> Program:
        """That of the step after so many."""
        return self._programs[max(first for first in self._programs if first <= step)]

    def _saved(self, step: int, run: dict[str, Any]) -> TrainState:
        """What the checkpoint of a step holds (abstract), checked against the weights that this run begins with."""
        state = self._program_at(max(step - 1, 0)).abstract
        if 'base' not in run:
            return state
        place = run['base']['path']
        if self._base is None or self._part is None:
            raise UserError(f'{self._workdir} holds only what was learnt beside the weights in {place}, and those of config.init_from are gone; bring them back')
        if run['base']['fingerprint'] != self._base['fingerprint']:
            raise UserError(
                f'{self._workdir} is an adapter of another base: it was learnt beside the weights in {place}, and those in {self._base["path"]} are others; '
                'bring the same weights back, or give another --workdir'
            )
        return self._only(state)

    def _only(self, state: TrainState) -> TrainState:
        """Without what is the base's."""
        return state.replace(params=self._part.select(state.params), ema=self._part.select(state.ema) if state.ema else state.ema)

    def _beside_base(self, state: TrainState) -> TrainState:
        part, params = self._part, begun(self._program, self._initial, say=lambda line: None).params

        def beside(base: Any, found: Any) -> Any:
            return tuning.put(base, [part], [found]) if base else base

        together = jax.jit(beside, out_shardings=self._program.shardings.params)
        return state.replace(params=together(params, state.params), ema=together(params, state.ema) if state.ema else state.ema)

    def _loop(
        self, state: TrainState | None, first: int, window: Window, checkpoints: checkpoint.Checkpoints, log: MetricsLog
    ) -> Iterator[driving.Asked]:
        config, data = self._config, self._data
        goodput, asked = self._goodput, None
        accounts = Accounts(config, data, self._program.module, self._watch, window, log, goodput)
        profile = Profile(config.log.profile_steps, mirrors.folder_of(self._workdir), first)

        def begin_profile() -> None:
            accounts.settle()
            profile.start()

        self._program = self._program_at(max(first - 1, 0))
        for stage_first, stage_last, rows in self._stretches(first):
            if (program := self._program_at(stage_first)) is not self._program:
                state, self._program = grown(self._program, program, asked.after() if state is None else state), program
                print(f'from step {stage_first + 1:,} on {_learning(program)} learn', flush=True)
            for step, host_batch in goodput.waits(data.loader(stage_first, stage_last, rows)):
                asked = driving.Asked(step, self._program, host_batch, rows, data.stage_at(step).batch_size, state)
                if profile.begins_with(step + 1):
                    asked.before = begin_profile
                state = None  # whoever takes the step holds it
                yield asked
                self._going_on()
                goodput.under_way(asked.taken)
                if asked.compile_seconds:
                    accounts.compiled(asked.compile_seconds)
                done = step + 1
                if processes.asked_to_stop(done):
                    self._stop_signal = signal.SIGTERM.name
                accounts.taken(done, asked.metrics)
                if profile.ends_with(done):
                    accounts.settle()
                    profile.stop(done)
                last = done == config.steps
                evaluate = last or (config.eval.every_steps > 0 and done % config.eval.every_steps == 0)
                save = last or done % config.checkpoint.every_steps == 0 or bool(self._stop_signal) or (evaluate and config.checkpoint.best_metric)
                if not evaluate and not save:
                    continue
                accounts.settle()
                began, now, scores = time.perf_counter(), asked.after(), None
                if evaluate:
                    with goodput.spent('evaluate'):
                        scores = self._held_out(self._program, now, done, log)
                    self._going_on()
                stop = self._stop_signal  # it may have come while evaluating
                if save or stop:
                    log.flush()
                    goodput.mark(done, now=True)
                    if processes.is_first():
                        mirrors.upload(self._workdir)  # before the checkpoint, which a resumed run finds every line up to
                    run, saved = {'data': data.fingerprint, 'window': window.sums, 'held_out': self._held_out.state, 'watch': self._watch.state}, now
                    if self._part is not None and learnt.wanted(config):
                        run, saved = run | {'base': learnt.described(self._base, self._part, self._program.abstract.params)}, self._only(now)
                    with goodput.spent('save'):
                        checkpoints.save(done, saved, run, scores, wait=bool(last or stop or self._held_out.over))
                    self._held_out.check(scores)
                accounts.aside(time.perf_counter() - began)
                if self._held_out.over and not last:
                    profile.stop(done)
                    self._ends(done, f'{self._stopped_early(done)}{self._held_out.ending}')
                    return
                if stop and not last:
                    profile.stop(done)
                    self._ends(done, f'stopped by {stop} at step {done:,}, which is saved; repeat the command to go on')
                    return
        events = ', tensorboard/' if config.log.tensorboard else ''
        holds = f'{self._workdir} holds checkpoints/, metrics.jsonl{events} and config.json{self._held_out.ending}'
        self._ends(config.steps, f'finished {config.steps:,} steps; {holds}')

    def _ends(self, step: int, how: str) -> None:
        if said := self._goodput.end(step):
            print(said)
        print(how)

    def _stretches(self, first: int):
        """(first step, last step, this process's rows) of each stage that is still to come, of the data and of what learns."""
        starts = sorted({stage.first_step for stage in self._data.stages} | self._programs.keys())
        for begin, last in zip(starts, [*starts[1:], self._config.steps]):
            begin, last = max(first, begin), min(last, self._config.steps)
            if begin < last:
                yield begin, last, partitioning.local_rows(self._mesh, self._data.stage_at(begin).batch_size)


def _learning(program: Program) -> str:
    """'5,120 of 9,000 parameters'."""
    learns, whole = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (program.tuning.select(program.abstract.params), program.abstract.params))
    return f'{learns:,} of {whole:,} parameters'
