"""A Slurm job on a GPU cluster trains one run.

  ./launch/slurm.sh --nodes=4 --gpus_per_node=8 --partition=gpu --time=24:00:00 -- --config=configs/gpt.py:gpt2 --config.data.path=DIR --workdir=DIR

Writes LOGS/NAME.sbatch and submits it. Code, environment (--python) and DIRs are on a file system that all nodes share; the code runs from the folder of this
clone, as it is when the job starts. Before the time limit, and when Slurm preempts the job, all processes save and stop at the same step, and the job goes back
into the queue, --retries times; so it does when a node or a process is lost. A mistake (exit status 2) or a fault (1) ends it. Each process writes
LOGS/NAME-JOB-PROCESS.log.
"""

from collections.abc import Sequence
import argparse
import os
import re
import shlex
import subprocess
import sys

from t5x_lite.errors import UserError
from t5x_lite.launching import command_lines

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_LONGEST_NOTICE = 65535

# Slurm sends USR1 to this script ahead of the limit (--signal=B:), and the script SIGTERM to the processes: `scancel --signal` reaches job steps, not it.
# SIGTERM to the script is a preemption, after which Slurm requeues by itself, or a person's scancel, after which nobody should.
_SCRIPT = """\
#!/bin/bash
{directives}
# Written by launch/slurm.sh, which explains it; to submit it again: sbatch THIS_FILE
set -uo pipefail
cd {folder}
export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONUNBUFFERED=1 T5X_LITE_CLUSTER=slurm{more}

due='' left=''
trap 'signalled=1 due=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1
trap 'signalled=1 left=1' TERM

srun {srun} \\
    {line} &
pid=$! signalled=1
while [ -n "$signalled" ]; do # a signal ended the wait, not the step; whose status bash keeps
    signalled='' status=0
    wait $pid || status=$?
done

again=${{SLURM_RESTART_COUNT:-0}}
echo "ended with status $status, after $again restarts"
if [ -n "$left" ] || [ $status -eq 1 ] || [ $status -eq {mistake} ] || {{ [ $status -eq 0 ] && [ -z "$due" ]; }}; then
    exit $status
fi
if [ "$again" -ge {retries} ]; then
    echo "given up after $again restarts (--retries={retries}); submit it again to go on" >&2
    exit $(( status ? status : {gone} ))
fi
exec scontrol requeue "$SLURM_JOB_ID"
"""


def main(argv: Sequence[str]) -> int:
    options = command_lines.parser(__doc__)
    options.add_argument('--nodes', type=command_lines.at_least(1), default=1, help='nodes (1)')
    options.add_argument('--gpus_per_node', type=command_lines.at_least(0), default=8, help='GPUs of each (8); 0: CPUs alone')
    options.add_argument('--process_per', choices=('node', 'gpu'), default='gpu', help='a process for each GPU (the default), or a node with all of its GPUs')
    options.add_argument('--cpus_per_task', type=command_lines.at_least(0), default=0, help="of each process; 0: the cluster's default")
    options.add_argument('--partition', default='', help="by default the cluster's")
    options.add_argument('--account', default='')
    options.add_argument('--time', default='', help='limit such as 24:00:00 or 2-00:00:00')
    options.add_argument('--name', default='t5x_lite', help='of the job')
    options.add_argument('--logs', default='', help='folder of script and logs (WORKDIR/logs)')
    options.add_argument('--python', default=sys.executable, help='interpreter on the nodes that has the project with its extra cuda12 (this one)')
    options.add_argument('--notice', type=command_lines.at_least(30), default=300, help='seconds before the limit at which it saves (300)')
    options.add_argument('--retries', type=command_lines.at_least(0), default=10, help='how often the job goes back into the queue (10)')
    options.add_argument('--option', action='append', default=[], help='another option of sbatch, such as --option=--constraint=h100; may be repeated')
    given, flags = command_lines.parsed(options, argv)
    flags = command_lines.checked_flags(flags)
    _check(given)
    folder = os.path.abspath(given.logs or command_lines.logs(flags))
    if not re.fullmatch(r'[\w./@+=,:-]+', folder):
        raise UserError(f'{folder}: Slurm reads no such character in the name of a folder for logs; give another --logs')
    text, path = script(given, flags, folder), os.path.join(folder, f'{given.name}.sbatch')
    submit = ['sbatch', '--parsable', path]
    if given.dry_run:
        print(f'# {path}:\n{text}\n# submitted by\n{command_lines.shown(submit)}')
        return 0
    command_lines.on_path('sbatch', 'run this on a login node of the cluster')
    os.makedirs(folder, exist_ok=True)
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    print(f'+ {command_lines.shown(submit)}', flush=True)
    done = subprocess.run(submit, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UserError(f'sbatch did not take {path} (exit status {done.returncode}, see above)')
    job = done.stdout.strip().partition(';')[0]
    print(f'job {job}; its processes write {folder}/{given.name}-{job}-*.log\nto save and stop it: scancel --signal=TERM {job}; to see it: squeue --jobs={job}')
    return 0


def _check(given: argparse.Namespace) -> None:
    if given.time and not re.fullmatch(r'(\d+-)?\d+(:\d+){0,2}', given.time):
        raise UserError(f'--time={given.time}: expected minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS')
    if not re.fullmatch(r'[\w.-]+', given.name):
        raise UserError(f'--name={given.name}: expected letters, digits, dots and dashes; logs are called so')
    for name in ('partition', 'account'):
        if re.search(r'\s', getattr(given, name)):
            raise UserError(f'--{name}={getattr(given, name)}: Slurm reads no spaces there')
    if given.notice > _LONGEST_NOTICE:
        raise UserError(f'--notice={given.notice}: Slurm counts to {_LONGEST_NOTICE} at most')
    if given.time and given.notice >= _seconds(given.time):
        raise UserError(f'--notice={given.notice} is not less than --time={given.time}; the job would save and stop as soon as it begins: give a smaller one')
    for option in given.option:
        if not re.fullmatch(r'--[a-z][\w-]*(=\S+)?', option):
            raise UserError(f'--option={option}: expected an option of sbatch such as --option=--constraint=h100')


def _seconds(limit: str) -> int:
    """Of a limit of sbatch: MINUTES[:SECONDS], HOURS:MINUTES:SECONDS, DAYS-HOURS[:MINUTES[:SECONDS]]."""
    days, dash, rest = limit.rpartition('-')
    numbers = [int(number) for number in rest.split(':')]
    if dash or len(numbers) == 3:
        numbers += [0] * (3 - len(numbers))
    else:
        numbers = [0, *numbers, *[0] * (2 - len(numbers))]
    return int(days or 0) * 86400 + sum(number * unit for number, unit in zip(numbers, (3600, 60, 1)))


def script(given: argparse.Namespace, flags: Sequence[str], folder: str) -> str:
    """The batch script."""
    by_gpu = given.process_per == 'gpu' and given.gpus_per_node > 0
    directives = [f'--job-name={given.name}', f'--nodes={given.nodes}', f'--ntasks-per-node={given.gpus_per_node if by_gpu else 1}']
    # Not --gpus-per-task: JAX picks among all GPUs of the node the one with the number of the process there.
    directives += [f'--gpus-per-node={given.gpus_per_node}'] * bool(given.gpus_per_node)
    directives += [f'--cpus-per-task={given.cpus_per_task}'] * bool(given.cpus_per_task)
    directives += [f'--{name}={getattr(given, name)}' for name in ('partition', 'account', 'time') if getattr(given, name)]
    directives += ['--requeue', '--open-mode=append', f'--signal=B:USR1@{given.notice}', f'--output={folder}/{given.name}-%j.log', *given.option]
    more = ''
    if not given.gpus_per_node:
        more = ' JAX_PLATFORMS=cpu'
    elif not by_gpu:
        more = f' JAX_LOCAL_DEVICE_IDS={",".join(map(str, range(given.gpus_per_node)))}'
    srun = ['--kill-on-bad-exit=1', f'--output={folder}/{given.name}-%j-%t.log', '--open-mode=append']
    srun += [f'--cpus-per-task={given.cpus_per_task}'] * bool(given.cpus_per_task)
    return _SCRIPT.format(
        directives='\n'.join(f'#SBATCH {directive}' for directive in directives), folder=shlex.quote(os.getcwd()), root=shlex.quote(ROOT), more=more,
        srun=shlex.join(srun), line=shlex.join(command_lines.train_line(flags, given.python)), retries=given.retries, mistake=command_lines.MISTAKE,
        gone=command_lines.GONE,
    )  # fmt: skip


if __name__ == '__main__':
    command_lines.main(main)
