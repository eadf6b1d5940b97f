"""TPU slices on Google Cloud, asked for as one queued resource, train one run; all their workers start the same line.

  ./launch/tpu_vm.sh --name=t5 --project=P --zone=us-east5-a --type=v5p-128 --spot -- --config=configs/t5.py:v1_1_base --config.data.path=DIR --workdir=DIR

Asks for the machines and waits, copies the code as it is in git, installs it on every worker (extra `tpu`), trains, and shows what worker 0 says. DIRs are on a
file system that all workers share (--setup mounts one). --slices=2 asks for so many at once, which the data-centre network links: config.mesh.slices_along says
which axis of the mesh goes across. Repeated, the command attaches to what is running, or goes on where it stopped. After a preemption it
asks again, --retries times, waiting longer each time; the dead request, whose machines are gone, is removed then. Machines are deleted at the end only with
--delete, else they go on costing money. Ctrl-C leaves both machines and training as they are; --stop saves and stops the training.
"""

from collections.abc import Sequence
import argparse
import contextlib
import os
import shlex
import subprocess
import tempfile
import time

from t5x_lite.errors import UserError
from t5x_lite.launching import code, command_lines, tpu_options

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# States of a queued resource: https://cloud.google.com/tpu/docs/queued-resources. ABSENT is ours: there is none of that name.
ABSENT, ACTIVE = 'ABSENT', 'ACTIVE'
COMING = ('STATE_UNSPECIFIED', 'CREATING', 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING')
LEAVING = ('SUSPENDING', 'DELETING')
GONE = ('SUSPENDED', 'FAILED')
_CUT = 255  # exit status of ssh whose connection broke
_LEAVE_SECONDS = 10
_MOST_WAITS = 16  # of --backoff: what a wait grows to


class _Preempted(Exception):
    """The machines are gone, or the connection to them; asking again may help."""


def main(argv: Sequence[str]) -> int:
    given, flags = tpu_options.parsed(argv, __doc__)
    commit = '' if given.stop else code.commit(ROOT, given.commit)
    if not given.stop:
        code.check_config(ROOT, commit, command_lines.config(flags))
    if not given.dry_run:
        command_lines.on_path('gcloud', 'install the Google Cloud CLI, https://cloud.google.com/sdk/docs/install')
    launch = Launch(given, commit, flags)
    if given.dry_run:
        for said, commands in launch.stop_plan() if given.stop else launch.plan():
            print('\n'.join([f'# {said}', *map(command_lines.shown, commands)]))
        return 0
    return launch.together(launch.stop()) if given.stop else launch.run()


def worst(statuses: Sequence[int]) -> int:
    """Of the exit statuses of several slices the one to act upon: of a lost slice (the others end with what they make of it), a mistake, anything else."""
    failed = [status for status in statuses if status]
    known = [status for status in (_CUT, command_lines.MISTAKE) if status in failed]
    return known[0] if known else next((status for status in failed if status != command_lines.GONE), max(failed, default=0))


def pause(backoff: float, retry: int) -> float:
    """Seconds before a retry, counted from 0."""
    return backoff * min(2**retry, _MOST_WAITS)


class Launch:
    """The commands of one launch, and the order they come in."""

    def __init__(self, given: argparse.Namespace, commit: str, flags: list[str]):
        self._given, self._commit, self._flags = given, commit, flags
        self._place = f't5x_lite/{commit[:12]}'  # in the home of a worker
        # Of one slice as the request; of several as the service names those of a request.
        self._nodes = [given.name] if given.slices == 1 else [f'{given.name}-{number}' for number in range(given.slices)]
        self._lost = 0  # attempts that a preemption ended

    # Commands.

    def _queued(self, verb: str, *more: str) -> list[str]:
        given = self._given
        return ['gcloud', 'compute', 'tpus', 'queued-resources', verb, given.name, f'--project={given.project}', f'--zone={given.zone}', *more]

    def create(self) -> list[str]:
        given = self._given
        nodes = [f'--node-id={given.name}'] if given.slices == 1 else [f'--node-count={given.slices}', f'--node-prefix={given.name}']
        more = [*nodes, f'--accelerator-type={given.type}', f'--runtime-version={given.runtime}']
        more += [f'--{name}' for name in ('spot', 'reserved') if getattr(given, name)]
        more += [f'--{name}={getattr(given, name)}' for name in ('network', 'subnetwork') if getattr(given, name)]
        more += [f'--service-account={given.service_account}'] * bool(given.service_account) + ['--internal-ips'] * given.internal_ip
        return self._queued('create', *more)

    def describe(self) -> list[str]:
        return self._queued('describe', '--format=value(state.state)')

    def delete(self) -> list[str]:
        return self._queued('delete', '--force', '--quiet')

    def _on_workers(self, verb: str, *rest: str) -> list[str]:
        given = self._given
        own = ['--internal-ip'] * given.internal_ip
        return ['gcloud', 'compute', 'tpus', 'tpu-vm', verb, *rest, f'--project={given.project}', f'--zone={given.zone}', '--worker=all', *own]

    # On every worker: a command for each slice, at the same time. (`queued-resources ssh --node=all` reaches 64 workers at a time, and goes on without slices
    # that it does not reach; a run begins on all or on none.)

    def ssh(self, command: str) -> list[list[str]]:
        return [self._on_workers('ssh', node, f'--command={command}') for node in self._nodes]

    def copy(self, packed: str) -> list[list[str]]:
        return [self._on_workers('scp', packed, f'{node}:t5x_lite-{self._commit[:12]}.tar.gz') for node in self._nodes]

    def install(self) -> list[list[str]]:
        setup = f'( {self._given.setup} ) && ' if self._given.setup else ''
        packed = f't5x_lite-{self._commit[:12]}.tar.gz'
        extras = ' tpu,gcs' if command_lines.in_bucket(self._flags) else ''
        return self.ssh(f'{setup}mkdir -p {self._place} && tar -xzf {packed} -C {self._place} && bash {self._place}/launch/on_worker.sh install{extras}')

    def train(self) -> list[list[str]]:
        line = f'bash {self._place}/launch/on_worker.sh train {shlex.quote(self._given.name)} {shlex.join(command_lines.train_line(self._flags))}'
        # Each slice has a worker 0; that of the first shows its log.
        return [self._on_workers('ssh', node, f'--command={"QUIET=1 " * (number > 0)}{line}') for number, node in enumerate(self._nodes)]

    def stop(self) -> list[list[str]]:
        # Of whatever commit is there: each has the same way to stop.
        return self.ssh(f'for each in t5x_lite/*/launch/on_worker.sh; do bash "$each" stop {shlex.quote(self._given.name)}; break; done')

    def stop_plan(self) -> list[tuple[str, list[list[str]]]]:
        return [('saves and stops on all workers', self.stop())]

    def plan(self) -> list[tuple[str, list[list[str]]]]:
        """(what they are for, commands at the same time) of an undisturbed launch."""
        given = self._given
        found = [
            ('is there one of this name?', [self.describe()]),
            (f'if not, or if it is {" or ".join(GONE)} (which is deleted first)', [self.create()]),
            (f'every {given.poll:g} s until it is {ACTIVE}, for {given.wait:g} s at most', [self.describe()]),
            ('the code, as it is in git', [code.archive(ROOT, self._commit, 'CODE.tar.gz')]),
            ('to every worker', self.copy('CODE.tar.gz')),
            ('installed on every worker', self.install()),
            (f'started on every worker, or attached to; again after a preemption, {given.retries} times at most', self.train()),
        ]
        return found + ([('at the end', [self.delete()])] if given.delete else [])

    # What happens.

    def call(self, command: list[str]) -> int:
        """Runs a command for all to see; its exit status."""
        print(f'+ {command_lines.shown(command)}', flush=True)
        return subprocess.run(command, check=False).returncode

    def together(self, commands: list[list[str]]) -> int:
        """Runs a command for each slice at the same time, to the end of all. Returns the exit status that says most (`worst`)."""
        if len(commands) == 1:
            return self.call(commands[0])
        begun = []
        try:
            for command in commands:
                print(f'+ {command_lines.shown(command)}', flush=True)
                begun.append(subprocess.Popen(command))
            return worst([one.wait() for one in begun])
        except KeyboardInterrupt:  # which they have seen too
            for one in begun:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    one.wait(_LEAVE_SECONDS)
            raise
        finally:
            for one in begun:
                one.kill()

    def must(self, command: list[str], what: str) -> None:
        if status := self.call(command):
            raise UserError(f'{what} (exit status {status}, see above)')

    def state(self) -> str:
        """Of the queued resource.

        Raises:
          UserError: gcloud cannot say (no access, a wrong project or zone).
        """
        done = subprocess.run(self.describe(), capture_output=True, text=True, check=False)
        if done.returncode:
            if 'NOT_FOUND' in done.stderr or 'was not found' in done.stderr:
                return ABSENT
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise UserError(f'gcloud cannot look at {self._given.name}: {lines[0] if lines else f"exit status {done.returncode}"}')
        return done.stdout.strip() or 'STATE_UNSPECIFIED'

    def run(self) -> int:
        """The whole launch. Returns the exit status of the training."""
        given = self._given
        try:
            while True:
                try:
                    return self._once()
                except _Preempted as lost:
                    if self._lost == given.retries:
                        raise UserError(f'{lost}; given up after {self._lost} retries (--retries). Checkpoints are kept: repeat the command to go on') from lost
                    seconds = pause(given.backoff, self._lost)
                    self._lost += 1
                    print(f'launch: {lost}; retry {self._lost} of {given.retries} in {seconds:g} s', flush=True)
                    time.sleep(seconds)
        except KeyboardInterrupt:
            print(f'\nlaunch: {given.name} and its training go on, and cost money; repeat the command to attach, with --stop to stop the training')
            given.delete = False
            return 130
        finally:
            if given.delete:
                self.call(self.delete())
            else:
                print(f'launch: the machines of {given.name} are left as they are; to delete them: {command_lines.shown(self.delete())}', flush=True)

    def _once(self) -> int:
        """Machines, code, training: up to its end.

        Raises:
          _Preempted: the machines were taken away, or a process of the run was lost.
        """
        given = self._given
        self._wait_for_machines()
        with tempfile.TemporaryDirectory() as folder:
            packed = os.path.join(folder, 'code.tar.gz')
            self.must(code.archive(ROOT, self._commit, packed), 'git could not pack the code')
            for command, what in ((self.copy(packed), 'the code could not be copied to all workers'), (self.install(), 'a worker could not install it')):
                if status := self.together(command):
                    self._if_preempted()
                    if status == _CUT:
                        raise _Preempted(f'{what}: the connection broke')
                    if self._lost and given.slices > 1:  # one that is lost is made again by the service, while the request is ACTIVE
                        raise _Preempted(f'{what}: a slice is not back yet')
                    raise UserError(f'{what} (exit status {status}, see above)')
        status = self.together(self.train())
        if status not in (0, command_lines.MISTAKE):
            self._if_preempted()
        if status in (_CUT, command_lines.GONE):
            raise _Preempted('the connection to a worker broke' if status == _CUT else 'a process of the run was lost')
        return status

    def _if_preempted(self) -> None:
        """Raises _Preempted where the machines are gone or going; that shows a while after they no longer answer."""
        for look in range(3):
            if (state := self.state()) != ACTIVE:
                raise _Preempted(f'{self._given.name} is {state}')
            if look < 2:
                time.sleep(self._given.poll)

    def _wait_for_machines(self) -> None:
        until, last = time.monotonic() + self._given.wait, ''
        asked = False
        while (state := self.state()) != ACTIVE:
            if state != last:
                print(f'launch: {self._given.name} is {state}', flush=True)
                last = state
            if state in GONE:
                if asked:  # in this very attempt
                    raise _Preempted(f'{self._given.name} is {state} (why: {command_lines.shown(self._queued("describe"))})')
                self.must(self.delete(), f'the request {self._given.name}, which is {state}, could not be removed')
            elif state == ABSENT:
                self.must(self.create(), f'{self._given.name} could not be asked for')
                asked = True
            elif state not in COMING + LEAVING:
                raise UserError(f'{self._given.name} is {state}, which this launcher does not know; look at it: {command_lines.shown(self.describe())}')
            if time.monotonic() > until:
                raise UserError(f'no machines within {self._given.wait:g} s (--wait); the request stands in the queue: repeat the command to wait on')
            if state not in GONE and state != ABSENT:
                time.sleep(self._given.poll)
        print(f'launch: {self._given.name} is {ACTIVE}', flush=True)


if __name__ == '__main__':
    command_lines.main(main)
