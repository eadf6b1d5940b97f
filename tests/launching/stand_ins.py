"""Stand-ins for gcloud, kubectl, sbatch and their kin: executables that write down how they were called, and answer what a test has laid ready for them.

What they accept is what the real tools document: `INTERFACE` has the options that our launchers may use, of
gcloud   https://cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources and .../tpus/tpu-vm (Google Cloud SDK 528)
kubectl  https://kubernetes.io/docs/reference/kubectl/generated/ (1.31)
sbatch, srun, scancel, scontrol    https://slurm.schedmd.com/sbatch.html, srun.html, scancel.html, scontrol.html (24.05)
An option that is not there, one without its value, or a positional argument too many or too few ends a stand-in with status 64.
"""

import json
import os
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).resolve().parents[2]
_PLACE = {'--project': 1, '--zone': 1}  # 1: takes a value, 0: is a switch
_WHERE = {'--context': 1, '--namespace': 1}

# {words of a command: (options, positional arguments)}
INTERFACE = {
    'gcloud compute tpus queued-resources create': (
        _PLACE | {
            '--runtime-version': 1, '--accelerator-type': 1, '--topology': 1, '--type': 1, '--node-id': 1, '--node-count': 1, '--node-prefix': 1, '--async': 0,
            '--data-disk': 1, '--description': 1, '--guaranteed': 0, '--internal-ips': 0, '--labels': 1, '--metadata': 1, '--metadata-from-file': 1,
            '--network': 1, '--range': 1, '--reserved': 0, '--scopes': 1, '--service-account': 1, '--shielded-secure-boot': 0, '--spot': 0, '--subnetwork': 1,
            '--tags': 1, '--valid-after-duration': 1, '--valid-after-time': 1, '--valid-until-duration': 1, '--valid-until-time': 1, '--quiet': 0,
        }, 1,
    ),
    'gcloud compute tpus queued-resources describe': (_PLACE | {'--format': 1}, 1),
    'gcloud compute tpus queued-resources delete': (_PLACE | {'--force': 0, '--async': 0, '--quiet': 0}, 1),
    'gcloud compute tpus tpu-vm ssh': (_PLACE | {'--worker': 1, '--command': 1, '--output-directory': 1, '--ssh-flag': 1, '--internal-ip': 0}, 1),
    'gcloud compute tpus tpu-vm scp': (_PLACE | {'--worker': 1, '--recurse': 0, '--compress': 0, '--scp-flag': 1, '--internal-ip': 0}, 2),
    'kubectl get': (_WHERE | {'--ignore-not-found': 0, '--output': 1, '--selector': 1}, (1, 2)),
    'kubectl apply': (_WHERE | {'--filename': 1, '--dry-run': 1, '--server-side': 0}, 0),
    'kubectl logs': (_WHERE | {'--follow': 0, '--tail': 1, '--selector': 1, '--prefix': 0, '--container': 1}, (0, 1)),
    'kubectl delete': (_WHERE | {'--wait': 1, '--ignore-not-found': 0}, 2),
    'sbatch': ({'--parsable': 0}, 1),
    'srun': ({'--kill-on-bad-exit': 1, '--output': 1, '--open-mode': 1, '--cpus-per-task': 1, '--label': 0, '--wait': 1}, None),
    'scancel': ({'--signal': 1, '--batch': 0, '--full': 0}, 1),
    'scontrol requeue': ({}, 1),
}  # fmt: skip

# Directives of a batch script, which are options of sbatch.
DIRECTIVES = {
    '--job-name', '--nodes', '--ntasks-per-node', '--gpus-per-node', '--cpus-per-task', '--partition', '--account', '--time', '--requeue', '--open-mode',
    '--signal', '--output', '--constraint', '--qos', '--exclusive', '--mem',
}  # fmt: skip


def complaint(argv: list[str]) -> str:
    """What the real tool would not take in a command; '' where it takes it."""
    line = ' '.join(argv)
    name = max((words for words in INTERFACE if f'{line} '.startswith(f'{words} ')), key=len, default='')
    if not name:
        return f'no such command: {line}'
    options, wanted = INTERFACE[name]
    positional, seen = 0, []
    rest = argv[len(name.split()) :]
    for place, word in enumerate(rest):
        if not word.startswith('--'):
            positional += 1
            if wanted is None:  # a command line of its own follows
                break
            continue
        option, equals, value = word.partition('=')
        if option not in options:
            return f'{name} has no option {option}'
        if options[option] and not (equals and value):
            return f'{option} of {name} needs a value'
        if not options[option] and equals:
            return f'{option} of {name} takes no value'
        seen.append(option)
    if wanted is not None and positional not in (wanted if isinstance(wanted, tuple) else (wanted,)):
        return f'{name}: {positional} positional arguments'
    if name.endswith('create') and ('--node-id' in seen) == ('--node-count' in seen):
        return 'one of --node-id and --node-count'
    if name.endswith('create') and '--node-prefix' in seen and '--node-count' not in seen:
        return '--node-prefix is of --node-count'
    if name.endswith('create') and '--node-count=1' in rest:
        return '--node-count must be above 1'
    if name.endswith('create') and not {'--runtime-version', '--accelerator-type'} <= set(seen):
        return '--runtime-version and --accelerator-type are required'
    if name.startswith('gcloud') and not {'--project', '--zone'} <= set(seen):
        return '--project and --zone'
    return ''


class Tools:
    """A folder of stand-ins that is all of the PATH.

    Each call takes the next line of what was laid ready for its command, {'out', 'err', 'status', 'sleep'}; the last one stays.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], real: tuple[str, ...] = ('bash', 'git', 'dirname', 'sh', 'cat', 'env', 'tar', 'gzip')):
        self.folder, self._log = folder / 'bin', folder / 'calls.jsonl'
        self.folder.mkdir(parents=True)
        for name in names:
            path = self.folder / name
            code = f'import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.launching import stand_ins\nstand_ins.answer({str(folder)!r}, {name!r})\n'
            path.write_text(f'#!{sys.executable} -S\n{code}')
            path.chmod(0o755)
        for name in real:
            found = next((Path(part, name) for part in os.environ['PATH'].split(':') if Path(part, name).exists()), None)
            if found:
                (self.folder / name).symlink_to(found)
        self._laid = folder / 'answers'
        self._laid.mkdir()

    def lay(self, command: str, *answers: dict) -> None:
        """For commands that begin with these words."""
        (self._laid / command.replace(' ', '_')).write_text(json.dumps(answers))

    def calls(self, begin: str = '') -> list[list[str]]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [argv for argv in map(json.loads, lines) if ' '.join(argv).startswith(begin)]

    def environment(self, **more: str) -> dict[str, str]:
        return {'PATH': str(self.folder), 'HOME': str(self.folder.parent), 'PYTHON': sys.executable, 'LANG': 'C.UTF-8'} | more

    def run(self, script: str, *arguments: str, root: Path = ROOT, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess:
        """A script of launch/, with nothing but stand-ins around it."""
        command = ['bash', str(root / 'launch' / script), *arguments]
        done = subprocess.run(command, env=self.environment(**more), cwd=cwd or self.folder.parent, capture_output=True, text=True, timeout=60)
        refused = [line for line in done.stderr.splitlines() if line.startswith('stand-in: ')]
        assert not refused, refused
        return done


def answer(folder: str, name: str) -> None:
    """What a stand-in does."""
    argv = [name, *sys.argv[1:]]
    with open(os.path.join(folder, 'calls.jsonl'), 'a', encoding='utf-8') as file:
        file.write(json.dumps(argv) + '\n')
    if wrong := complaint(argv):
        print(f'stand-in: {wrong}', file=sys.stderr)
        sys.exit(64)
    laid = os.path.join(folder, 'answers')
    line = ' '.join(argv)
    found = max((entry for entry in os.listdir(laid) if f'{line} '.startswith(entry.replace('_', ' ') + ' ')), key=len, default='')
    if not found:
        sys.exit(0)
    path = os.path.join(laid, found)
    with open(path, encoding='utf-8') as file:
        answers = json.load(file)
    if len(answers) > 1:
        with open(path, 'w', encoding='utf-8') as file:
            json.dump(answers[1:], file)
    chosen = answers[0]
    sys.stdout.write(chosen['out'] if 'out' in chosen else '')
    sys.stderr.write(chosen['err'] if 'err' in chosen else '')
    sys.stdout.flush()
    sys.exit(chosen['status'] if 'status' in chosen else 0)


def one_error(done: subprocess.CompletedProcess, status: int = 2) -> str:
    """The one line of a refused command."""
    lines = done.stderr.splitlines()
    assert done.returncode == status and len(lines) == 1 and lines[0].startswith('error: '), (done.returncode, done.stdout, done.stderr)
    return lines[0]
