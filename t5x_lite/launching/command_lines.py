"""What the launchers share: their options, the one line that all of them end in, and how commands are shown. (Standard library only: it runs on a laptop.)"""

import argparse
from collections.abc import Callable, Sequence
import os
import re
import shlex
import shutil
import sys
from typing import NoReturn

from t5x_lite.errors import UserError, nearest

TRAIN = 't5x_lite.train'
MISTAKE, GONE = 2, 75  # exit statuses of train: what a person must mend; another process is gone, and starting again helps
BUCKET = 'gs://'


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if found := re.match(r'the following arguments are required: (.*)', message):
            names = found[1].split(', ')
            raise UserError(f'{" and ".join(names)} {"is" if len(names) == 1 else "are"} missing; --help explains the options')
        raise UserError(message.removeprefix('argument '))


def parser(module_doc: str) -> argparse.ArgumentParser:
    """A parser whose complaints are `UserError`s; each option is written --name=value."""
    made = _Parser(
        description=module_doc, usage='%(prog)s [OPTIONS] -- [FLAGS of python -m t5x_lite.train]', allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument('--dry_run', action='store_true', help='print every command, and run none')
    return made


def parsed(options: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """(options, flags of train: all that follows `--`).

    Raises:
      UserError: an option that is not there, or no flags.
    """
    argv = list(argv)
    own, flags = (argv[: argv.index('--')], argv[argv.index('--') + 1 :]) if '--' in argv else (argv, [])
    known = [name for action in options._actions for name in action.option_strings]
    for word in own:  # before what is missing: a misspelt option is the likelier mistake
        name = word.partition('=')[0]
        if name.startswith(('--config', '--workdir')):
            raise UserError(f'{name} is a flag of train; flags of train follow after --, as in: -- {word}')
        if name.startswith('-') and name not in known:
            raise UserError(f'{word}: no such option, {nearest(name, known)}; flags of train follow after --')
    given, rest = options.parse_known_args(own)
    if rest:
        raise UserError(f'{rest[0]!r}: every option is written --name=value; flags of train follow after --')
    return given, flags


def checked_flags(flags: Sequence[str]) -> list[str]:
    """
    Raises:
      UserError: what train needs in any case, or cannot have, is seen before a machine is asked for.
    """
    if not flags:
        raise UserError('no flags of train; give them after --, as in: -- --config=configs/bert.py:base --config.data.path=DIR --workdir=DIR')
    for flag in flags:
        if not flag.startswith('-') and not _follows(flags, flag):
            raise UserError(f'{flag!r} after --: flags of train are written --name=value')
    workdir(flags)
    return list(flags)


def _follows(flags: Sequence[str], value: str) -> bool:
    """Whether a value stands after its flag's name, `--workdir DIR`."""
    place = list(flags).index(value)
    return place > 0 and flags[place - 1].startswith('--') and '=' not in flags[place - 1]


def workdir(flags: Sequence[str]) -> str:
    """--workdir of train's flags.

    Raises:
      UserError: there is none, or it is a URL that is not gs://BUCKET/FOLDER.
    """
    found = ''
    for place, flag in enumerate(flags):
        name, equals, value = flag.partition('=')
        if re.sub('^--?', '', name) == 'workdir':
            found = value if equals else flags[place + 1] if place + 1 < len(flags) else ''
    if not found:
        raise UserError('--workdir is missing among the flags of train; each launch of a run is told its folder, after --: -- --workdir=DIR')
    if '://' in found and not found.startswith(BUCKET):
        mend = 'mount it on the machines (launch/README.md) and name the folder there'
        raise UserError(f'--workdir={found}: a folder of a file system, or gs://BUCKET/FOLDER, is needed; {mend}')
    return found


def named(option: str, value: str, pattern: str, expected: str) -> None:
    """
    Raises:
      UserError: a value that the tool behind an option would refuse, perhaps after minutes.
    """
    if not re.fullmatch(pattern, value):
        raise UserError(f'{option}={value}: expected {expected}')


def config(flags: Sequence[str]) -> str:
    """The file that --config names, a variant left out; '' where there is none."""
    found = ''
    for place, flag in enumerate(flags):
        name, equals, value = flag.partition('=')
        if re.sub('^--?', '', name) == 'config':
            found = value if equals else flags[place + 1] if place + 1 < len(flags) else ''
    return found if found.endswith('.json') else found.partition(':')[0]


def logs(flags: Sequence[str]) -> str:
    """Where processes log to if nothing says where: logs/ in the workdir.

    Raises:
      UserError: that is no folder of a file system.
    """
    found = workdir(flags)
    if found.startswith(BUCKET):
        raise UserError(f'--workdir={found}: logs are written to a folder of a file system; name one before the --: --logs=DIR')
    return os.path.join(found, 'logs')


def in_bucket(flags: Sequence[str]) -> bool:
    """Whether a flag of train names a path in a bucket, for which the machines need the extra gcs."""
    return any(BUCKET in flag for flag in flags)


def at_least(least: int) -> Callable[[str], int]:
    """A whole number, as argparse takes types."""

    def number(text: str) -> int:
        if not re.fullmatch(r'\d+', text) or int(text) < least:
            raise argparse.ArgumentTypeError(f'{text!r} is no whole number of at least {least}')
        return int(text)

    return number


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text!r} is no number of seconds')
    return value


def train_line(flags: Sequence[str], python: str = 'python') -> list[str]:
    """The one line that every launcher ends in."""
    return [python, '-m', TRAIN, *flags]


def shown(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """A command as a shell takes it."""
    return ' '.join([*(f'{name}={shlex.quote(value)}' for name, value in (environment or {}).items()), shlex.join(command)])


def main(function: Callable[[Sequence[str]], int]) -> NoReturn:
    """Runs a launcher: what a person can mend is one line and exit status 2."""
    try:
        status = function(sys.argv[1:])
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        status = 2
    except OSError as error:
        print(f'error: {error.filename or ""}: {error.strerror or error}', file=sys.stderr)
        status = 2
    sys.stdout.flush()
    sys.exit(status)


def on_path(tool: str, mend: str) -> None:
    """
    Raises:
      UserError: a program that a launcher calls is not there.
    """
    if shutil.which(tool) is None:
        raise UserError(f'{tool} is not on the PATH; {mend}')
