"""launch/tpu_vm.sh --slices: one request, the same run on all workers of all slices at once."""

import pytest

from t5x_lite.launching import tpu_vm
from tests.launching.stand_ins import one_error
from tests.launching.test_tpu_vm import ABSENT, QUEUE, VM, clone, launch, state, tools, verbs  # noqa: F401
# ruff: noqa: F811


def _nodes(tools, verb):
    """The slices that a command was for."""
    return sorted(next(word for word in argv[5:] if word.startswith('t5')).partition(':')[0] for argv in tools.calls(f'{VM} {verb}'))


def test_several_slices_are_one_request_and_train_together(tools, launch, clone):
    tools.lay(f'{QUEUE} describe', ABSENT, state('WAITING_FOR_RESOURCES'), state('ACTIVE'))
    done = launch('--slices=3', '--delete')
    assert done.returncode == 0, done.stderr
    assert verbs(tools) == ['describe', 'create', 'describe', 'describe', *['scp'] * 3, *['ssh install'] * 3, *['ssh train'] * 3, 'delete']
    (create,) = tools.calls(f'{QUEUE} create')
    assert {'--node-count=3', '--node-prefix=t5', '--accelerator-type=v5p-16'} <= set(create) and not any(word.startswith('--node-id') for word in create)
    assert _nodes(tools, 'scp') == ['t5-0', 't5-1', 't5-2'] and _nodes(tools, 'ssh') == sorted(2 * ['t5-0', 't5-1', 't5-2'])
    assert all('--worker=all' in argv for argv in tools.calls(VM))
    commands = {argv[5]: argv[6].removeprefix('--command=') for argv in tools.calls(f'{VM} ssh') if 'on_worker.sh train' in argv[6]}
    assert len({command.removeprefix('QUIET=1 ') for command in commands.values()}) == 1  # the same run
    assert {node: command.startswith('QUIET=1 ') for node, command in commands.items()} == {'t5-0': False, 't5-1': True, 't5-2': True}


def test_a_lost_slice_is_waited_for(tools, launch):
    """The service makes it again, while the request may be ACTIVE all the time."""
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    tools.lay(f'{VM} ssh t5-0', {}, {'status': 75}, {}, {}, {})
    tools.lay(f'{VM} ssh t5-1', {}, {'status': 255}, {'status': 1}, {}, {})
    done = launch('--slices=2')
    assert done.returncode == 0, done.stderr
    assert 'the connection to a worker broke; retry 1 of 5' in done.stdout and 'a slice is not back yet; retry 2 of 5' in done.stdout
    assert verbs(tools).count('ssh train') == 4 and not {'create', 'delete'} & set(verbs(tools))


def test_a_slice_that_cannot_install_at_first_is_a_mistake(tools, launch):
    tools.lay(f'{QUEUE} describe', state('ACTIVE'))
    tools.lay(f'{VM} ssh t5-1', {'status': 1})
    assert 'a worker could not install it (exit status 1' in one_error(launch('--slices=2'))


@pytest.mark.parametrize('statuses, found', [((0, 0), 0), ((75, 255), 255), ((2, 255), 255), ((75, 2), 2), ((0, 75), 75), ((75, 1), 1), ((0,), 0)])
def test_the_status_of_several_slices(statuses, found):
    assert tpu_vm.worst(statuses) == found


def test_several_slices_stop_and_show_their_commands(tools, launch):
    assert launch('--stop', '--slices=2', flags=()).returncode == 0
    assert _nodes(tools, 'ssh') == ['t5-0', 't5-1'] and all('on_worker.sh' in argv[6] for argv in tools.calls())
    done = launch('--slices=2', '--dry_run')
    assert done.returncode == 0 and len(tools.calls()) == 2
    commands = [line.split() for line in done.stdout.splitlines() if line.startswith('gcloud')]
    assert [(words[4], next(word for word in words[5:] if 't5' in word and '/' not in word)[:4]) for words in commands if 'tpu-vm' in words] == [
        ('scp', 't5-0'), ('scp', 't5-1'), *[('ssh', 't5-0'), ('ssh', 't5-1')] * 2,
    ]  # fmt: skip
    assert 'no whole number of at least 1' in one_error(launch('--slices=0'))
