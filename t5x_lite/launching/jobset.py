"""A JobSet on Google Kubernetes Engine trains one run on TPU slices.

  git archive HEAD | docker build --tag=IMAGE --file=launch/gke/Dockerfile - && docker push IMAGE
  ./launch/gke/launch.sh --name=t5 --image=IMAGE --topology=v5p:4x4x4 --mount=gs://BUCKET:/data -- --config=configs/t5.py:v1_1_base --workdir=/data/t5 ...

Writes the manifest (NAME.yaml, or --output), applies it with kubectl, and shows what the first process says. The cluster has the JobSet controller and a node
pool of that topology for each slice. Preempted or lost, all processes start again from the newest checkpoint, --retries times; a mistake (exit status 2) fails
the JobSet at once. Repeated, the command attaches to a JobSet that is there; one that has ended is replaced only with --again. Nothing is deleted without
--delete.
"""

from collections.abc import Sequence
import argparse
import json
import os
import re
import subprocess
import time
from typing import Any

from t5x_lite.errors import UserError
from t5x_lite.launching import accelerators, command_lines

_JOB = 'workers'  # of the JobSet: a Job a slice
_CONTAINER = 'train'  # of a pod; the file system of a bucket adds one of its own, before it
_LINES, _MOST_BREAKS = 20, 5  # of a log whose connection broke: shown again, and in a row
_OPTIONS = 'implicit-dirs,rename-dir-limit=1000000'  # of Cloud Storage FUSE: checkpoints are folders that are renamed when they are whole


def main(argv: Sequence[str]) -> int:
    options = command_lines.parser(__doc__)
    options.add_argument('--name', required=True, help='of the JobSet: lower case letters, digits, dashes')
    options.add_argument('--image', required=True, help='with the code and its libraries; launch/gke/Dockerfile makes one')
    options.add_argument('--topology', required=True, help='of a slice, such as v5p:4x4x4 or v6e:16x16')
    options.add_argument('--slices', type=command_lines.at_least(1), default=1, help='slices of it (1); config.mesh.slices_along goes from one to the next')
    options.add_argument('--spot', action='store_true', help='on nodes that can be taken away at any time')
    options.add_argument('--mount', action='append', default=[], help='gs://BUCKET:/FOLDER, by Cloud Storage FUSE; may be repeated')
    options.add_argument('--service_account', default='', help='Kubernetes service account, which may read and write the buckets')
    options.add_argument('--namespace', default='', help='by default the one of the context')
    options.add_argument('--context', default='', help='of kubectl; by default the current one')
    options.add_argument('--retries', type=command_lines.at_least(0), default=10, help='how often all processes are started again (10)')
    options.add_argument('--grace', type=command_lines.at_least(30), default=300, help='seconds to save in when asked to end (300)')
    options.add_argument('--output', default='', help='the manifest (NAME.yaml)')
    options.add_argument('--poll', type=command_lines.seconds, default=5.0, help='seconds between two looks at pods (5)')
    options.add_argument('--wait', type=command_lines.seconds, default=86400.0, help='seconds that the first process may take to begin (a day)')
    options.add_argument('--again', action='store_true', help='replace a JobSet of this name that has ended')
    options.add_argument('--delete', action='store_true', help='delete the JobSet at the end')
    given, flags = command_lines.parsed(options, argv)
    flags = command_lines.checked_flags(flags)
    for option, value in (('--image', given.image), ('--namespace', given.namespace), ('--context', given.context), ('--service_account', given.service_account)):
        command_lines.named(option, value, r'\S+' if option == '--image' else r'\S*', 'a name without spaces')
    _check_workdir(given, command_lines.workdir(flags))
    text = as_yaml(manifest(given, flags)) + '\n'
    path, commands = given.output or f'{given.name}.yaml', Commands(given)
    if given.dry_run:
        print(f'# {path}:\n{text}')
        for said, command in commands.plan(path):
            print(f'# {said}\n{command_lines.shown(command)}')
        return 0
    command_lines.on_path('kubectl', 'install it (gcloud components install kubectl) and choose the cluster (gcloud container clusters get-credentials)')
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)
    return commands.run(path)


class Commands:
    """What is asked of kubectl."""

    def __init__(self, given: argparse.Namespace):
        self._given = given
        self._where = [f'--{name}={getattr(given, name)}' for name in ('context', 'namespace') if getattr(given, name)]

    def _kubectl(self, *arguments: str) -> list[str]:
        return ['kubectl', *arguments, *self._where]

    def state(self) -> list[str]:
        return self._kubectl('get', 'jobset', self._given.name, '--ignore-not-found', '--output=jsonpath={.metadata.name}:{.status.terminalState}')

    def apply(self, path: str) -> list[str]:
        return self._kubectl('apply', f'--filename={path}')

    def pods(self) -> list[str]:
        """Of the first process: one, or the one that failed and the one that follows it."""
        first = f'jobset.sigs.k8s.io/jobset-name={self._given.name},jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0'
        return self._kubectl('get', 'pods', f'--selector={first}', '--output=json')

    def logs(self, pod: str, lines: int = -1) -> list[str]:
        return self._kubectl('logs', pod, '--follow', f'--container={_CONTAINER}', f'--tail={lines}')

    def delete(self) -> list[str]:
        return self._kubectl('delete', 'jobset', self._given.name, '--wait=true')

    def plan(self, path: str) -> list[tuple[str, list[str]]]:
        found = [
            ('is there one of this name, and has it ended?', self.state()),
            ('if there is none', self.apply(path)),
            (f'every {self._given.poll:g} s until the first process has begun, and after each restart', self.pods()),
            ('what it says', self.logs('POD')),
            ('has the JobSet ended, and how?', self.state()),
        ]
        return found + ([('at the end', self.delete())] if self._given.delete else [])

    def _ask(self) -> str:
        """'' where there is none, 'running', 'Completed' or 'Failed'."""
        done = subprocess.run(self.state(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f'kubectl cannot look for JobSets: {" ".join(done.stderr.split())[:300]}')
        return (done.stdout.strip().partition(':')[2] or 'running') if done.stdout.strip() else ''

    def _must(self, command: list[str], what: str) -> None:
        print(f'+ {command_lines.shown(command)}', flush=True)
        if status := subprocess.run(command, check=False).returncode:
            raise UserError(f'{what} (exit status {status}, see above)')

    def run(self, path: str) -> int:
        """Returns 0 where the JobSet completed."""
        given, state = self._given, self._ask()
        if state in ('Completed', 'Failed'):
            if not given.again:
                raise UserError(f'the JobSet {given.name} has ended ({state}); add --again to replace it (the run itself goes on), or give another --name')
            self._must(self.delete(), 'the JobSet that has ended could not be deleted')
            state = ''
        if not state:
            self._must(self.apply(path), 'kubectl did not take the manifest')
        try:
            return self._follow()
        except KeyboardInterrupt:
            print(f'\nlaunch: {given.name} goes on, and costs money; repeat the command to attach; to end it: {command_lines.shown(self.delete())}')
            given.delete = False
            return 130
        finally:
            if given.delete:
                self._must(self.delete(), 'the JobSet could not be deleted')

    def _follow(self) -> int:
        """Shows the log of the first process, of each attempt, until the JobSet has ended."""
        shown: set[str] = set()
        said, until = '', time.monotonic() + self._given.wait
        while True:
            state, pods = self._ask(), self._first_pods()  # in this order: after the end no pod comes
            begun = [pod for pod in pods if pod['metadata']['uid'] not in shown and pod['status']['phase'] != 'Pending']
            for pod in begun:
                self._show(pod)
                shown.add(pod['metadata']['uid'])
            if begun:
                said, until = '', time.monotonic() + self._given.wait
                continue
            if state != 'running':
                print(f'launch: {self._given.name} is {state or "gone"}')
                return 0 if state == 'Completed' else 1
            if (now := _what_it_waits_for([pod for pod in pods if pod['metadata']['uid'] not in shown])) != said:
                print(f'launch: the first process {now}', flush=True)
                said = now
            if time.monotonic() > until:
                raise UserError(f'the first process did not begin within {self._given.wait:g} s (it {now}); see: kubectl describe jobset {self._given.name}')
            time.sleep(self._given.poll)

    def _first_pods(self) -> list[dict[str, Any]]:
        done = subprocess.run(self.pods(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f'kubectl cannot look for pods: {" ".join(done.stderr.split())[:300]}; repeat the command to attach')
        return json.loads(done.stdout)['items']

    def _show(self, pod: dict[str, Any]) -> None:
        """The log of a process to its end, through connections that break."""
        lines, breaks = -1, 0
        while True:
            command = self.logs(pod['metadata']['name'], lines)
            print(f'+ {command_lines.shown(command)}', flush=True)
            breaks = breaks + 1 if subprocess.run(command, check=False).returncode else 0
            time.sleep(self._given.poll)  # until the end of the process shows
            if not any(each['metadata']['uid'] == pod['metadata']['uid'] and each['status']['phase'] == 'Running' for each in self._first_pods()):
                return
            if breaks == _MOST_BREAKS:
                raise UserError(f'the log cannot be read (see above); {self._given.name} goes on: repeat the command to attach')
            lines = _LINES


def _what_it_waits_for(pods: list[dict[str, Any]]) -> str:
    """Of a process that has not begun: its node, its image, ..."""
    for status in (pod['status'] for pod in pods):
        waiting = [each['state']['waiting'] for each in (status['containerStatuses'] if 'containerStatuses' in status else ()) if 'waiting' in each['state']]
        conditions = status['conditions'] if 'conditions' in status else ()
        for found in [*waiting, *(each for each in conditions if each['type'] == 'PodScheduled' and each['status'] == 'False')]:
            return f'waits: {": ".join(found[name] for name in ("reason", "message") if name in found)[:300]}'
    return 'waits to be started' if pods else 'is yet to be made'


def _check_workdir(given: argparse.Namespace, workdir: str) -> None:
    """Raises UserError where what is written goes with the pod."""
    folders = [_bucket(mount)[1] for mount in given.mount]
    if len(set(folders)) < len(folders):
        raise UserError(f'--mount: {max(folders, key=folders.count)} is there twice; give each bucket a folder of its own')
    if not workdir.startswith(command_lines.BUCKET) and not any(os.path.normpath(workdir).startswith(f'{folder.rstrip("/")}/') for folder in folders):
        below = f'a folder below {" or ".join(folders)}' if folders else 'one below a --mount'
        raise UserError(f'--workdir={workdir}: would be a folder of each pod, and lost with it; name {below}, or gs://BUCKET/FOLDER')


def _bucket(mount: str) -> tuple[str, str]:
    found = re.fullmatch(r'gs://([a-z0-9][\w.-]+):(/[\w./-]+)', mount)
    if not found:
        raise UserError(f'--mount={mount}: expected gs://BUCKET:/FOLDER, as in gs://my-bucket:/data')
    return found[1], found[2]


def manifest(given: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    """The JobSet (jobset.x-k8s.io/v1alpha2): a Job a slice, a pod a host.

    GKE tells each pod its place (TPU_WORKER_ID, TPU_WORKER_HOSTNAMES, MEGASCALE_* of several slices), which JAX reads.
    """
    if not re.fullmatch(r'[a-z]([a-z0-9-]{0,38}[a-z0-9])?', given.name):
        raise UserError(f'--name={given.name}: expected lower case letters, digits and dashes, 40 at most')
    generation, shape, chips = accelerators.of_topology(given.topology)
    on_host = min(chips, generation.chips_per_host)
    hosts = chips // on_host
    if chips % on_host:
        raise UserError(f'--topology={given.topology}: {chips} chips are no whole number of hosts with {on_host} each')
    if given.slices > 1 and hosts == 1:  # https://cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice
        raise UserError(f'--slices={given.slices} --topology={given.topology}: GKE links slices of several hosts only; take a larger topology')
    mounts = [_bucket(mount) for mount in given.mount]
    selector = {'cloud.google.com/gke-tpu-accelerator': generation.gke, 'cloud.google.com/gke-tpu-topology': shape}
    if given.spot:
        selector['cloud.google.com/gke-spot'] = 'true'
    container: dict[str, Any] = {
        'name': _CONTAINER,
        'image': given.image,
        'command': [word.replace('$(', '$$(') for word in command_lines.train_line(flags)],  # $(NAME) would be a variable's value
        'env': [{'name': 'T5X_LITE_CLUSTER', 'value': 'auto'}, {'name': 'T5X_LITE_STOPPED', 'value': str(command_lines.GONE)}],
        'ports': [{'containerPort': 8471}, {'containerPort': 8080}, {'containerPort': 8431}],
        'resources': {'requests': {'google.com/tpu': on_host}, 'limits': {'google.com/tpu': on_host}},
    }
    pod: dict[str, Any] = {
        'restartPolicy': 'Never', 'terminationGracePeriodSeconds': given.grace, 'nodeSelector': selector, 'containers': [container],
    }  # fmt: skip
    if given.spot:
        pod['tolerations'] = [{'key': 'cloud.google.com/gke-spot', 'operator': 'Equal', 'value': 'true', 'effect': 'NoSchedule'}]
    if given.service_account:
        pod['serviceAccountName'] = given.service_account
    annotations = {}
    if mounts:
        annotations['gke-gcsfuse/volumes'] = 'true'
        container['volumeMounts'] = [{'name': f'bucket-{number}', 'mountPath': folder} for number, (_, folder) in enumerate(mounts)]
        pod['volumes'] = [
            {'name': f'bucket-{number}', 'csi': {'driver': 'gcsfuse.csi.storage.gke.io', 'volumeAttributes': {'bucketName': bucket, 'mountOptions': _OPTIONS}}}
            for number, (bucket, _) in enumerate(mounts)
        ]
    mistakes = {'action': 'FailJob', 'onExitCodes': {'containerName': _CONTAINER, 'operator': 'In', 'values': [command_lines.MISTAKE]}}
    job = {
        'parallelism': hosts,
        'completions': hosts,
        'completionMode': 'Indexed',
        'backoffLimit': 0,
        'podFailurePolicy': {'rules': [mistakes]},
        'template': {'metadata': {'annotations': annotations} if annotations else {}, 'spec': pod},
    }
    return {
        'apiVersion': 'jobset.x-k8s.io/v1alpha2',
        'kind': 'JobSet',
        # A slice is a node pool, and a Job has it for itself.
        'metadata': {'name': given.name, 'annotations': {'alpha.jobset.sigs.k8s.io/exclusive-topology': 'cloud.google.com/gke-nodepool'}},
        'spec': {
            'failurePolicy': {
                'maxRestarts': given.retries,
                'rules': [{'name': 'mistake', 'action': 'FailJobSet', 'onJobFailureReasons': ['PodFailurePolicy']}],
            },
            'replicatedJobs': [{'name': _JOB, 'replicas': given.slices, 'template': {'spec': job}}],
        },
    }


def as_yaml(value: Any, indent: int = 0) -> str:
    """Nested dicts and lists as YAML; texts are quoted as JSON has them, which YAML reads alike."""
    space = ' ' * indent
    if isinstance(value, dict) and value:
        lines = []
        for name, part in value.items():
            nested = isinstance(part, (dict, list)) and part
            lines.append(f'{space}{name}:' + (f'\n{as_yaml(part, indent + 2)}' if nested else f' {as_yaml(part)}'))
        return '\n'.join(lines)
    if isinstance(value, list) and value:
        return '\n'.join(f'{space}- {as_yaml(part, indent + 2).lstrip()}' for part in value)
    return json.dumps(value)


if __name__ == '__main__':
    command_lines.main(main)
