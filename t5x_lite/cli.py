"""What the commands share: flags in, one line out when the input is wrong."""

import ast
from collections.abc import Callable, Sequence
import enum
import faulthandler
import glob
import importlib.util
import inspect
import os
import re
import signal
import sys
import textwrap
import traceback
import typing

from absl import app, flags, logging

from t5x_lite import remote, several
from t5x_lite.config import Config, HeadConfig
from t5x_lite.config_values import expected, flatten, from_dict, from_json, type_of
from t5x_lite.errors import UserError, mendable, nearest

flags.disclaim_key_flags()  # what is defined here belongs to the command: --help shows it

_IN_WORKDIR = ['config.json']  # the config that a command without --config takes
_ARGV: list[str] = []  # the command line as config_flags reads it, with --config first
_OF_HEADS: dict[str, str] = {}  # {'NAME.data.train': 'FILE'} of flags --config.heads.NAME.data.train=FILE, which config_flags does not know


def define_config_flags(
    workdir_required: bool = True,
    file: str = 'config.json',
    what: str = 'Folder of the run, or gs://BUCKET/FOLDER: config.json, metrics.jsonl, checkpoints/, tokenizer/.',
) -> flags.FlagHolder[Config]:
    """--config and --workdir, for the commands that work on a run.

    --config takes a Python file with get_config (configs/bert.py:base) or a config.json that a run wrote. Where it is absent, the one in
    --workdir is used.

    Args:
      file: what it is called there.
      what: --workdir is.
    """
    from ml_collections import config_flags  # which commands without a config do not need

    _IN_WORKDIR[:] = [file]
    flags.DEFINE_string('workdir', None, what, required=workdir_required)
    holder = config_flags.DEFINE_config_dataclass(
        'config',
        Config(),
        f'configs/FILE.py[:variant], or the config.json of a run; by default the {file} in --workdir. '
        'Any field of it is a flag: --config.optim.b2=0.98.',
        sys_argv=_ARGV,
        parse_fn=_load_config,
    )
    flags.FLAGS['config'].default_as_str = ''  # pages of fields, which `_help` lists better
    return holder


def workdir() -> str:
    return flags.FLAGS.workdir


def run(main: Callable[[Sequence[str]], None]) -> None:
    """`app.run`, but what a person can mend is one line and exit status 2: a `UserError`, a wrong flag, a file that cannot be used."""

    def parse(argv: Sequence[str]) -> list[str]:
        if {'-h', '-help', '--help', '-?'} & set(argv[1:]):
            _help()
        try:
            _ARGV[:] = _with_config(_joined(argv)) if 'config' in flags.FLAGS else argv
            _no_more(flags.FLAGS(_ARGV))
            _check_places()
            return _ARGV[:1]
        except (UserError, flags.Error) as error:
            return _fail(error)

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        faulthandler.register(signal.SIGUSR1, file=2)  # `kill -USR1 PID`: where its threads are, for a command that hangs
        try:
            main(argv)
            sys.stdout.flush()
        except BrokenPipeError:  # as in `... | head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except (KeyboardInterrupt, Exception) as error:
            if (status := ended(error)) is None:
                raise
            sys.exit(status)

    app.run(guarded, flags_parser=parse)


def ended(error: BaseException) -> int | None:
    """Says in a line what ended a command. Its exit status; None for a fault of ours, of which Python says more."""
    if isinstance(error, KeyboardInterrupt):
        print('interrupted', file=sys.stderr)
        return 130
    if (said := mendable(error)) is None:
        return None
    _say(said)
    return 2


def _fail(error: Exception) -> typing.NoReturn:
    _say(error)
    sys.exit(2)


def _say(error: Exception) -> None:
    if isinstance(error, flags.Error) and isinstance(error.__context__, UserError):  # raised while absl parsed a flag
        error = error.__context__
    message = remote.named(' '.join(str(error.args[0] if error.args else error).split()))
    if not isinstance(error, UserError):
        message = _in_words(message)
    print(f'error: {message}', file=sys.stderr, flush=True)


_WORDS = {
    r"\('Non-boolean argument to boolean flag', .*\)": 'expected True or False',
    'invalid literal for int.*': 'expected a whole number',
    'could not convert string to float.*': 'expected a number',
    'value should be one of <(.*)>': r'expected one of \1',
    'Missing value for flag (.*)': r'\1 has no value; write \1=VALUE',
}


def _in_words(message: str) -> str:
    """absl's complaints, said for people."""
    missing = re.findall(r'Flag (--\w+) must have a value other than None', message)
    if missing:
        return f'{" and ".join(missing)} {"is" if len(missing) == 1 else "are"} missing; --help explains the flags'
    wrong = re.match(r'flag (--config\.([\w.]+)=.*?): ', message)
    if wrong:
        return f'{wrong[1]}: expected {expected(type_of(wrong[2]), f"config.{wrong[2]}", wrong[1].partition("=")[2])}'
    message = re.sub(r"^Unknown command line flag '(\w+)'\.?", r'--\1: no such flag,', message).replace('Did you mean:', 'did you mean')
    for pattern, words in _WORDS.items():
        message = re.sub(pattern, words, message)
    return message.removeprefix('flag ').removesuffix(',').replace(' ?', '?')


def _no_more(rest: Sequence[str]) -> None:
    if len(rest) > 1:
        raise UserError(f'unexpected argument {rest[1]!r}; every option is written --name=value')


def _check_places() -> None:
    """A bucket is there and lets us in, which is found out first. Where another URL was meant, s3://BUCKET/RUN would be a local folder `s3:`."""
    for name in ('workdir', 'output'):
        if name not in flags.FLAGS or '://' not in (value := str(flags.FLAGS[name].value)):
            continue
        if not remote.is_remote(value):
            mend = 'write there and copy it, or mount the place and name the folder there'
            raise UserError(f'--{name}={value}: a folder of a file system, or gs://BUCKET/FOLDER, is needed; {mend}')
        remote.check(value)


def _joined(argv: Sequence[str]) -> list[str]:
    """The command line with `--config.a.b value` and `--workdir value` as one argument each, and tuples of texts (`a,b`) as Python writes them.

    Raises:
      UserError: for a field that is not there, with the nearest; config_flags would show a traceback.
    """
    rest, texts = [argv[0]], {}
    _OF_HEADS.clear()
    args = iter(argv[1:])
    for arg in args:
        name, equals, value = arg.partition('=')
        name = re.sub('^--?', '--', name)
        field = re.fullmatch(r'--(no)?config\.(.*)', name)
        kind = type_of(field[2]) if field else str
        if not equals and (name in ('--config', '--workdir') or field and not field[1] and kind is not bool):
            value = next(args, None)
            if value is None:
                raise UserError(f'{name} has no value; write {name}=VALUE')
            arg = f'{name}={value}'
        if field and field[2].startswith('heads.'):
            _OF_HEADS[field[2].removeprefix('heads.')] = value if value or equals else str(not field[1])
        elif field and kind == tuple[str, ...] and not value.startswith(('(', '[')):
            texts[name] = _texts(name, value)  # of a flag given twice, the last counts
        else:
            texts.pop(name, None)
            rest.append(arg)
    return rest + [f'{name}={tuple(items)!r}' for name, items in texts.items()]


def _texts(name: str, value: str) -> list[str]:
    """`a,b` as a list. A stop text is one, as it stands: spaces, commas and (written \\n) line ends are what stops are made of."""
    if name == '--config.decode.stop':
        return [value.replace('\\n', '\n').replace('\\t', '\t')] if value else []
    items = [item.strip() for item in value.split(',') if item.strip()]
    if value and not items:
        raise UserError(f'{name}={value}: nothing between the commas; leave the flag out, or name something')
    return items


def _with_config(argv: list[str]) -> list[str]:
    """The command line with --config first, before the fields that change it; taken from --workdir where there is none."""
    given = {name: value for name, _, value in (re.sub('^--?', '', arg).partition('=') for arg in argv[1:] if arg.startswith('-'))}
    if given.get('workdir') == '':
        raise UserError('--workdir is empty; name the folder of the run')
    path = given.get('config')
    if not path:
        _no_more(flags.FLAGS([arg for arg in argv if not re.match(r'--?(no)?config\b', arg)]))  # a misspelt flag is the likelier mistake
        if 'workdir' not in given:
            raise UserError('--workdir is missing; give --workdir=DIR, and --config=configs/FILE.py[:variant] for a new run')
        path = os.path.join(given['workdir'], *_IN_WORKDIR)
        if not remote.exists(path):
            raise UserError(
                f'--config is missing, and {path} does not exist; give --config=configs/FILE.py[:variant], or the --workdir of a run'
            )
    return [argv[0], f'--config={path}', *(arg for arg in argv[1:] if not re.match('--?config=', arg))]


def _load_config(path: str) -> Config:
    """The config behind --config, with its heads as flags have them."""
    config = _config_of(path)
    # A head begins with its config, or its module, wherever that stands on the command line.
    for name, value in sorted(_OF_HEADS.items(), key=lambda flag: ('.' in flag[0], not flag[0].endswith(_MODULE))):
        config.heads = _with_flag(config, name, value)
    return config


_MODULE = '.model.module'


def _with_flag(config: Config, name: str, value: str) -> tuple[HeadConfig, ...]:
    """The heads with a flag, `name` 'mood' or 'mood.data.train', applied."""
    head, _, field = name.partition('.')
    flag = f'--config.heads.{name}'
    if not field:
        made = several.head_of(head, _config_of(value, flag))
        known = [each.name for each in config.heads]
        return tuple(made if each.name == head else each for each in config.heads) + ((made,) if head not in known else ())
    if field == _MODULE[1:] and head not in [each.name for each in config.heads]:
        config.heads += (HeadConfig(head),)
    if not config.heads:
        raise UserError(f'{flag}: there is no head {head!r} yet; begin it with the config that it would have alone, --config.heads.{head}=configs/FILE.py')
    part, kind = several.find(config, head, flag), type_of(f'heads.{name}')
    *groups, last = field.split('.')
    for group in groups:
        part = getattr(part, group)
    setattr(part, last, from_dict(kind, _plain(kind, flag, value), flag))
    return config.heads


def _plain(kind: typing.Any, flag: str, value: str) -> typing.Any:
    """The text of a flag as a config.json has it."""
    if kind is str or isinstance(kind, type) and issubclass(kind, enum.Enum):
        return value
    if kind == tuple[str, ...] and not value.startswith(('(', '[')):
        return _texts(flag, value)
    try:
        return {'true': True, 'false': False}[value.lower()] if kind is bool else ast.literal_eval(value)
    except (ValueError, SyntaxError, KeyError) as error:
        raise UserError(f'{flag}={value}: expected {expected(kind, flag.removeprefix("--"), value)}') from error


def _config_of(path: str, flag: str = '--config') -> Config:
    """The config in a file.

    Args:
      flag: that names it.

    Raises:
      UserError: with file and line where there are some.
    """
    if path.endswith('.json'):
        return from_json(path)
    source, colon, variant = path.partition(':')
    if not os.path.isfile(source):
        there = glob.glob(os.path.join(os.path.dirname(source), '*.py'))
        raise UserError(f'{flag}={path}: no such file {source}' + (f', {nearest(source, there)}' if there else ''))
    try:
        spec = importlib.util.spec_from_file_location('config_file', source)
        module = importlib.util.module_from_spec(spec)
        sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(source))))  # recipes build on their neighbours: from configs import classify
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.pop()
        get_config = getattr(module, 'get_config', None)
        if not callable(get_config):
            raise UserError(f'{source}: no function get_config in it; see configs/bert.py')
        parameters = inspect.signature(get_config).parameters.values()
        if colon and not parameters:
            raise UserError(f'{source} has no variants; give {flag}={source}')
        if not colon and any(parameter.default is parameter.empty for parameter in parameters):
            raise UserError(f'{source} needs a variant; give {flag}={source}:VARIANT')
        config = get_config(*[variant] * bool(colon))
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f'{error.filename}:{error.lineno}: {error.msg}') from error
    except Exception as error:
        lines = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if os.path.abspath(frame.filename) == os.path.abspath(source)
        ]
        raise UserError(f'{source}:{lines[-1] if lines else 1}: {type(error).__name__}: {error}') from error
    if not isinstance(config, Config):
        raise UserError(f'{source}: get_config returned {type(config).__name__}; expected a t5x_lite.config.Config')
    return config


def _help() -> typing.NoReturn:
    app.usage(shorthelp=True, writeto_stdout=True)
    if 'config' in flags.FLAGS:
        print('\nFields of --config, with the defaults that a config file starts from; t5x_lite/config.py explains each:')
        groups: dict[str, list[str]] = {}
        for name, value in flatten(Config()).items():
            group, _, field = name.rpartition('.')
            shown = {'[]': '()', '': "''"}.get(str(value), '(...)' if isinstance(value, list) else value)
            groups.setdefault(f'--config.{group}.'.replace('..', '.'), []).append(f'{field}={shown}')
        for group, fields in groups.items():
            print(textwrap.fill(' '.join(fields), 118, initial_indent=f'  {group}  ', subsequent_indent=' ' * 6, break_long_words=False))
    sys.exit(0)
