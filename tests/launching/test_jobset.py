"""launch/gke/launch.sh: a manifest that the published API takes, and a kubectl that only pretends."""

import json
import re

import pytest

from t5x_lite.errors import UserError
from t5x_lite.launching import accelerators, jobset
from tests.launching.stand_ins import Tools, one_error

yaml = pytest.importorskip('yaml')

FLAGS = ('--config=configs/t5.py:v1_1_base', "--config.decode.stop=it's: \"$(HOME)\" #\n", '--workdir=/data/t5')

# Fields of the objects in a manifest: JobSet v1alpha2 (kubernetes-sigs/jobset, hack/python-sdk/swagger.json), batch/v1 Job and core/v1 Pod (Kubernetes 1.31).
# A field stands for a type, or for the fields inside it; '*' are names of a person's choice; a list holds what each of its items may be.
_TEXTS = {'*': str}
SCHEMA = {
    'apiVersion': str, 'kind': str, 'metadata': {'name': str, 'annotations': _TEXTS, 'labels': _TEXTS},
    'spec': {
        'failurePolicy': {
            'maxRestarts': int, 'restartStrategy': str,
            'rules': [{'name': str, 'action': str, 'onJobFailureReasons': [str], 'onJobFailureMessagePatterns': [str], 'targetReplicatedJobs': [str]}],
        },
        'successPolicy': {'operator': str, 'targetReplicatedJobs': [str]}, 'suspend': bool, 'ttlSecondsAfterFinished': int,
        'network': {'enableDNSHostnames': bool, 'publishNotReadyAddresses': bool, 'subdomain': str},
        'replicatedJobs': [{
            'name': str, 'replicas': int, 'groupName': str,
            'template': {
                'metadata': {'annotations': _TEXTS, 'labels': _TEXTS},
                'spec': {
                    'parallelism': int, 'completions': int, 'completionMode': str, 'backoffLimit': int, 'activeDeadlineSeconds': int,
                    'podFailurePolicy': {'rules': [{'action': str, 'onExitCodes': {'containerName': str, 'operator': str, 'values': [int]}}]},
                    'template': {
                        'metadata': {'annotations': _TEXTS, 'labels': _TEXTS},
                        'spec': {
                            'restartPolicy': str, 'terminationGracePeriodSeconds': int, 'nodeSelector': _TEXTS, 'serviceAccountName': str,
                            'tolerations': [{'key': str, 'operator': str, 'value': str, 'effect': str}],
                            'containers': [{
                                'name': str, 'image': str, 'command': [str], 'env': [{'name': str, 'value': str}], 'ports': [{'containerPort': int}],
                                'resources': {'requests': {'*': int}, 'limits': {'*': int}}, 'volumeMounts': [{'name': str, 'mountPath': str}],
                            }],
                            'volumes': [{'name': str, 'csi': {'driver': str, 'volumeAttributes': _TEXTS, 'readOnly': bool}}],
                        },
                    },
                },
            },
        }],
    },
}  # fmt: skip
REQUIRED = {'.spec.replicatedJobs[]': ('name', 'template'), '.spec.failurePolicy.rules[]': ('name', 'action'), '': ('apiVersion', 'kind', 'metadata', 'spec')}
ACTIONS = ('FailJobSet', 'RestartJobSet', 'RestartJobSetAndIgnoreMaxRestarts', 'RestartJob', 'RestartJobAndIgnoreMaxRestarts')


def check(value, schema, path=''):
    """Fails where a manifest has a field that the API has not, one of another type, or lacks one."""
    if isinstance(schema, dict):
        assert isinstance(value, dict), path
        for name in REQUIRED[path] if path in REQUIRED else ():
            assert name in value, f'{path}.{name}'
        for name, part in value.items():
            assert isinstance(name, str) and (name in schema or '*' in schema), f'no field {path}.{name}'
            check(part, schema['*'] if '*' in schema else schema[name], f'{path}.{name}')
    elif isinstance(schema, list):
        assert isinstance(value, list), path
        for part in value:
            check(part, schema[0], f'{path}[]')
    else:
        assert type(value) is schema, f'{path} is {value!r}'


@pytest.fixture
def tools(tmp_path):
    return Tools(tmp_path / 'tools', ('kubectl',))


@pytest.fixture
def launch(tools, tmp_path):
    def run(*options, flags=FLAGS, place=('--name=t5', '--image=r/i:1', '--topology=v5p:4x4x4', '--mount=gs://my-bucket:/data', '--poll=0')):
        return tools.run('gke/launch.sh', *place, *options, '--', *flags, cwd=tmp_path)

    return run


def _manifest(tmp_path):
    text = (tmp_path / 't5.yaml').read_text()
    found = yaml.safe_load(text)
    check(found, SCHEMA)
    return found


STATE, PODS, LOGS = 'kubectl get jobset', 'kubectl get pods', 'kubectl logs'


def pods(**phases):
    """What kubectl says of pods: {uid: phase, or what stands in its status}."""
    items = [
        {'metadata': {'name': f't5-workers-0-0-{uid}', 'uid': uid}, 'status': {'phase': phase} if isinstance(phase, str) else {'phase': 'Pending'} | phase}
        for uid, phase in phases.items()
    ]
    return {'out': json.dumps({'items': items})}


def logged(tools):
    return [argv[2].rpartition('-')[2] + (' again' if '--tail=20' in argv else '') for argv in tools.calls(LOGS)]


def test_the_manifest_is_what_the_api_takes(tools, launch, tmp_path):
    tools.lay(STATE, {}, {'out': 't5:Completed'})
    tools.lay(PODS, pods(a='Succeeded'))
    options = ('--slices=2', '--spot', '--mount=gs://other.bucket:/text/a', '--service_account=trainer', '--namespace=n')
    done = launch(*options)
    assert done.returncode == 0, done.stderr
    found = _manifest(tmp_path)
    assert (found['apiVersion'], found['kind'], found['metadata']['name']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet', 't5')
    rule = found['spec']['failurePolicy']['rules'][0]
    assert rule['action'] in ACTIONS and re.fullmatch(r'[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])
    workers = found['spec']['replicatedJobs'][0]
    job = workers['template']['spec']
    assert workers['replicas'] == 2 and job['parallelism'] == job['completions'] == 16  # 64 chips, 4 a host
    assert job['completionMode'] == 'Indexed' and job['podFailurePolicy']['rules'][0]['onExitCodes']['values'] == [2]
    pod = job['template']['spec']
    assert pod['restartPolicy'] == 'Never'  # podFailurePolicy asks for it
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': 'tpu-v5p-slice', 'cloud.google.com/gke-tpu-topology': '4x4x4', 'cloud.google.com/gke-spot': 'true',
    }  # fmt: skip
    container = pod['containers'][0]
    assert container['resources']['limits'] == container['resources']['requests'] == {'google.com/tpu': 4}
    # Kubernetes reads $(NAME) as a variable, and $$( as $(.
    assert [word.replace('$$(', '$(') for word in container['command']] == ['python', '-m', 't5x_lite.train', *FLAGS]
    assert '$$(HOME)' in container['command'][4]
    assert [mount['mountPath'] for mount in container['volumeMounts']] == ['/data', '/text/a']
    assert [volume['csi']['volumeAttributes']['bucketName'] for volume in pod['volumes']] == ['my-bucket', 'other.bucket']
    assert all('--namespace=n' in argv for argv in tools.calls())


def test_every_topology_fills_its_hosts(tmp_path):
    for topology, hosts, chips in (('v4:2x2x4', 4, 4), ('v5e:16x16', 64, 4), ('v5e:1x1', 1, 1), ('v6e:2x4', 2, 4), ('v5p:8x16x16', 512, 4), ('v6e:2x2', 1, 4)):
        given = jobset_options(topology)
        job = jobset.manifest(given, ['--workdir=w'])['spec']['replicatedJobs'][0]['template']['spec']
        assert (job['parallelism'], job['template']['spec']['containers'][0]['resources']['limits']['google.com/tpu']) == (hosts, chips), topology


def jobset_options(topology):
    from types import SimpleNamespace

    return SimpleNamespace(name='t5', image='i', topology=topology, slices=1, spot=False, mount=[], service_account='', retries=1, grace=30)


def test_yaml_holds_any_text():
    value = {'a': [{'b': 'x: y # "z"\n\t\u00e9 - [', 'c': [1, True, 'yes', '', 'null', '1e3']}, {'d': {'e': []}}], 'f/g.h': {}}
    assert yaml.safe_load(jobset.as_yaml(value)) == value == json.loads(json.dumps(value))


def test_applies_follows_and_says_how_it_ended(tools, launch):
    """Through a restart: the log of each attempt once, of the container of ours (Cloud Storage FUSE puts one of its own before it)."""
    tools.lay(STATE, {}, *[{'out': 't5:'}] * 5, {'out': 't5:Completed'})  # none, running, then done
    unplaced = {'conditions': [{'type': 'PodScheduled', 'status': 'False', 'reason': 'Unschedulable', 'message': 'no node matches'}]}
    pulling = {'containerStatuses': [{'state': {'waiting': {'reason': 'ImagePullBackOff', 'message': 'not found: r/i:1'}}}]}
    tools.lay(
        PODS, pods(), pods(a=unplaced), pods(a=pulling), pods(a='Running'), pods(a='Failed'), pods(a='Failed'), pods(a='Failed', b='Running'), pods(b='Succeeded'),
    )  # fmt: skip
    done = launch()
    assert done.returncode == 0 and 't5 is Completed' in done.stdout, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith('launch: the first')]
    assert said == [
        'launch: the first process is yet to be made', 'launch: the first process waits: Unschedulable: no node matches',
        'launch: the first process waits: ImagePullBackOff: not found: r/i:1', 'launch: the first process is yet to be made',
    ]  # fmt: skip
    assert logged(tools) == ['a', 'b'] and all('--container=train' in argv and '--tail=-1' in argv for argv in tools.calls(LOGS))
    assert [argv[1] for argv in tools.calls()].count('apply') == 1


def test_a_process_that_ended_before_anyone_looked_is_shown(tools, launch):
    """A mistake in the flags ends in seconds: it was never seen to be ready."""
    tools.lay(STATE, {}, {'out': 't5:'}, {'out': 't5:Failed'})
    tools.lay(PODS, pods(), pods(a='Failed'))
    tools.lay(LOGS, {'out': 'error: --config.steps=ten: expected a whole number\n'})
    done = launch()
    assert done.returncode == 1 and 'expected a whole number' in done.stdout and logged(tools) == ['a']


def test_a_log_whose_connection_breaks_goes_on(tools, launch):
    tools.lay(STATE, {'out': 't5:'}, {'out': 't5:Completed'})
    tools.lay(PODS, pods(a='Running'), pods(a='Running'), pods(a='Running'), pods(a='Succeeded'))
    tools.lay(LOGS, {'status': 1}, {}, {})  # an error, an end that is none, the end
    assert launch().returncode == 0 and logged(tools) == ['a', 'a again', 'a again']
    tools.lay(STATE, {'out': 't5:'})
    tools.lay(PODS, pods(b='Running'))
    tools.lay(LOGS, {'status': 1, 'err': ''})
    assert 'the log cannot be read (see above); t5 goes on: repeat the command to attach' in one_error(launch())


def test_what_does_not_begin_is_said(tools, launch):
    tools.lay(STATE, {'out': 't5:'})
    tools.lay(PODS, pods(a={'containerStatuses': [{'state': {'waiting': {'reason': 'ErrImagePull'}}}]}))
    assert 'the first process did not begin within 0 s (it waits: ErrImagePull); see: kubectl describe' in one_error(launch('--wait=0'))


def test_attaches_and_replaces_only_what_has_ended(tools, launch):
    tools.lay(PODS, pods(a='Failed'))
    tools.lay(STATE, {'out': 't5:'}, {'out': 't5:Failed'})
    assert launch().returncode == 1
    assert 'apply' not in [argv[1] for argv in tools.calls()]
    tools.lay(STATE, {'out': 't5:Failed'})
    assert 'the JobSet t5 has ended (Failed); add --again to replace it' in one_error(launch())
    tools.lay(STATE, {'out': 't5:Failed'}, {'out': 't5:Completed'})
    assert launch('--again').returncode == 0
    verbs = [argv[1] for argv in tools.calls()]
    assert verbs.count('delete') == 1 and verbs[verbs.index('delete') + 1] == 'apply'


@pytest.mark.parametrize('options, deletes', [((), False), (('--delete',), True)])
def test_deletes_only_if_asked(tools, launch, options, deletes):
    tools.lay(STATE, {}, {'out': 't5:Completed'})
    tools.lay(PODS, pods(a='Succeeded'))
    assert launch(*options).returncode == 0
    assert ('delete' in [argv[1] for argv in tools.calls()]) == deletes


def test_a_dry_run_prints_and_runs_nothing(tools, launch, tmp_path):
    done = launch('--dry_run', '--delete')
    assert done.returncode == 0 and not tools.calls() and not (tmp_path / 't5.yaml').exists()
    commands = [line.split()[1] for line in done.stdout.splitlines() if line.startswith('kubectl')]
    assert commands == ['get', 'apply', 'get', 'logs', 'get', 'delete'] and 'kind: "JobSet"' in done.stdout


@pytest.mark.parametrize(
    'option, words',
    [
        ('--topology=v5p:4x4', 'the shape of a v5p has 3 numbers'),
        ('--topology=v7:4x4', 'expected GENERATION:SHAPE'),
        ('--topology=v6e:64x64', '4,096 chips; the largest v6e has 256'),
        ('--name=T5', '--name=T5: expected lower case'),
        ('--mount=bucket:/data', 'expected gs://BUCKET:/FOLDER'),
        ('--slices=0', "--slices: '0' is no whole number of at least 1"),
        ('--topology=v5p:4x8x6', 'no v5p of that shape; there are 2x2x1, 2x2x2, 2x2x4, 2x4x4, and multiples of 4 in ascending order'),
        ('--topology=v5p:8x4x4', 'no v5p of that shape'),
        ('--topology=v6e:4x6', 'no v6e of that shape; there are 1x1, 2x2, 2x4, 4x4'),
        ('--image=a b', '--image=a b: expected a name without spaces'),
        ('--image=', '--image=: expected a name'),
        ('--namespace=a b', '--namespace=a b: expected a name without spaces'),
        ('--mount=gs://other:/data', '--mount: /data is there twice'),
    ],
)
def test_bad_options_are_one_line(tools, launch, option, words):
    assert words in one_error(launch(option)) and not tools.calls()


@pytest.mark.parametrize('workdir', ['runs/t5', '/runs/t5', '/data2/t5', '/data/../t5'])
def test_a_workdir_that_goes_with_its_pod_is_refused(tools, launch, workdir):
    said = one_error(launch(flags=('--config=a.py', f'--workdir={workdir}')))
    assert f'--workdir={workdir}: would be a folder of each pod, and lost with it; name a folder below /data, or gs://' in said and not tools.calls()
    assert launch('--dry_run', flags=('--config=a.py', '--workdir=gs://my-bucket/t5')).returncode == 0


def test_slices_of_one_host_are_refused(tools, launch):
    said = one_error(launch('--slices=2', place=('--name=t5', '--image=r/i:1', '--topology=v5e:2x2', '--mount=gs://my-bucket:/data')))
    assert 'GKE links slices of several hosts only' in said and not tools.calls()


def test_a_missing_cluster_is_one_line(tools, launch):
    tools.lay(STATE, {'status': 1, 'err': 'The connection to the server was refused\n'})
    assert 'kubectl cannot look for JobSets: The connection to the server was refused' in one_error(launch())


def test_accelerator_types_and_topologies():
    assert accelerators.of_type('v5litepod-256').runtime == 'v2-alpha-tpuv5-lite' and accelerators.of_type('v4-8').runtime == 'tpu-ubuntu2204-base'
    assert accelerators.of_topology('v5p:8x8x8')[2] == 512
    for right in ('v5p-64', 'v5p-384', 'v5p-12288', 'v4-32', 'v6e-8'):
        accelerators.of_type(right)
    for wrong in ('v5p', 'v5p-0', 'v5p-12', 'v5p-24', 'v5p-192', 'v5p-12416', 'v6e-12', 'v6e-512', '-8', 'v5p-x'):
        with pytest.raises(UserError):
            accelerators.of_type(wrong)
