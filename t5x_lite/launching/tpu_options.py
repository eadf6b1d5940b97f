"""The options of launch/tpu_vm.sh, and what is wrong with them, before a machine is asked for. (Standard library only.)"""

import argparse
from collections.abc import Sequence
import os

from t5x_lite.errors import UserError
from t5x_lite.launching import accelerators, command_lines


def parsed(argv: Sequence[str], module_doc: str) -> tuple[argparse.Namespace, list[str]]:
    """(options, flags of train; with --stop, those are not looked at).

    Raises:
      UserError: an option that is not there, is missing, or that Google Cloud would refuse.
    """
    options = command_lines.parser(module_doc)
    options.add_argument('--name', required=True, help='of the queued resource and its node')
    options.add_argument('--project', required=True, help='Google Cloud project')
    options.add_argument('--zone', required=True, help='such as us-east5-a')
    options.add_argument('--type', required=True, help='accelerator type, such as v5p-128 or v6e-64')
    options.add_argument('--slices', type=command_lines.at_least(1), default=1, help='slices of that type (1); with --stop, those of --name')
    options.add_argument('--runtime', default='', help='TPU software version; by default the one for JAX on this type')
    tier = options.add_mutually_exclusive_group()
    tier.add_argument('--spot', action='store_true', help='cheaper machines that can be taken away at any time')
    tier.add_argument('--reserved', action='store_true', help='machines of a reservation')
    options.add_argument('--network', default='', help='by default that of the project')
    options.add_argument('--subnetwork', default='')
    options.add_argument('--service_account', default='', help='of the workers')
    options.add_argument('--internal_ip', action='store_true', help='no external addresses: for a launcher inside the same network')
    options.add_argument('--commit', default='', help='what to launch; by default HEAD, which then must be all there is')
    options.add_argument('--setup', default='', help='command that every worker runs before it installs: mounting a shared disk, say')
    options.add_argument('--retries', type=command_lines.at_least(0), default=5, help='how often machines that were lost are asked for again (5)')
    options.add_argument('--backoff', type=command_lines.seconds, default=60.0, help='seconds before the first retry (60); doubled each time, to 16 times that')
    options.add_argument('--poll', type=command_lines.seconds, default=30.0, help='seconds between two looks at the request (30)')
    options.add_argument('--wait', type=command_lines.seconds, default=86400.0, help='seconds to wait for machines at most (a day)')
    options.add_argument('--delete', action='store_true', help='delete the machines at the end, however the training ended')
    options.add_argument('--stop', action='store_true', help='only stop the training of --name, which saves first')
    given, flags = command_lines.parsed(options, argv)
    command_lines.named('--name', given.name, '[a-z]([a-z0-9-]{0,48}[a-z0-9])?', 'lower case letters, digits and dashes, a letter first, 50 at most')
    command_lines.named('--project', given.project, '[a-z0-9][a-z0-9.:-]*', 'the ID of a project, such as my-project-1')
    command_lines.named('--zone', given.zone, r'[a-z]+-[a-z]+\d+-[a-z0-9]+', 'a zone, such as us-east5-a')
    generation = accelerators.of_type(given.type)
    given.runtime = given.runtime or generation.runtime
    if not given.stop:
        flags = command_lines.checked_flags(flags)
        _check_workdir(given, command_lines.workdir(flags))
    return given, flags


def _check_workdir(given: argparse.Namespace, workdir: str) -> None:
    """Raises UserError where each worker would have a folder of its own; says where that may be."""
    if workdir.startswith(command_lines.BUCKET):
        return
    if not os.path.isabs(workdir):
        mend = 'name gs://BUCKET/FOLDER, or the whole path of one that all workers share'
        raise UserError(f'--workdir={workdir}: would be a folder of each worker, and lost with its machine; {mend}')
    if not given.setup:
        said = f'launch: {workdir} must be on a disk that all workers share, and nothing mounts one here (--setup); gs://BUCKET/FOLDER needs none'
        print(f'{"# " * given.dry_run}{said}', flush=True)
