"""What the commands share: flags in, one line out when the input is wrong."""

import os
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from t5x_lite import config as config_lib


def define_config_flags():
    """--config and --workdir, for the commands that work on a run.

    --config takes a Python file with get_config (configs/bert.py:base) or a config.json that a run wrote. Where it is absent, the one in --workdir is used.
    """
    flags.DEFINE_string('workdir', None, 'Folder of the run: config.json, metrics.jsonl, checkpoints/, tokenizer/.', required=True)
    return config_flags.DEFINE_config_file('config', None, 'configs/FILE.py[:variant], or the config.json of a run.', lock_config=True)


def workdir() -> str:
    return flags.FLAGS.workdir


def run(main: Callable[[Sequence[str]], None]) -> None:
    """`app.run`, but a `UserError` prints as one line and exits with status 2."""

    def parse(argv: Sequence[str]) -> list[str]:
        argv = _expand_config(list(argv))
        _check_fields(argv)
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise config_lib.UserError(f'unexpected argument {rest[1]!r}; every option is written --name=value')
        return rest

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            main(argv)
        except config_lib.UserError as error:
            _fail(error)

    def guarded_parse(argv: Sequence[str]) -> list[str]:
        try:
            return parse(argv)
        except (config_lib.UserError, flags.Error, KeyError, AttributeError, TypeError, ValueError) as error:
            return _fail(error)

    app.run(guarded, flags_parser=guarded_parse)


def get_config(path: str) -> config_lib.Config:
    """What config_flags finds here for --config=RUN/config.json (see `_expand_config`)."""
    return config_lib.from_json(path)


def _fail(error: Exception):
    message = str(error.args[0] if error.args else error)
    if 'Error whilst parsing config file' in message:  # config_flags puts a traceback into the message; its last line says what is wrong
        message = [line for line in message.splitlines() if 'Error' in line][-1].strip().split('Error: ', 1)[-1]
    message = ' '.join(message.split())
    print(f'error: {message}', file=sys.stderr, flush=True)
    sys.exit(2)


def _expand_config(argv: list[str]) -> list[str]:
    """Rewrites --config=RUN/config.json, and supplies it from --workdir, in terms that config_flags reads."""
    if 'config' not in flags.FLAGS:
        return argv
    given = {arg.split('=', 1)[0].lstrip('-'): arg.split('=', 1)[1] for arg in argv[1:] if arg.startswith('--') and '=' in arg}
    path = given.get('config')
    if path is None and 'workdir' in given and not any(arg.startswith('--help') for arg in argv):
        path = os.path.join(given['workdir'], 'config.json')
        if not os.path.exists(path):
            flags.FLAGS(argv)  # a misspelt flag is the likelier mistake: absl names the nearest
            raise config_lib.UserError(f'--config is missing, and {path} does not exist; give --config=configs/FILE.py[:variant]')
        argv = argv[:1] + [f'--config={path}'] + argv[1:]
    if path is None:
        return argv
    source = path if path.endswith('.json') else path.split(':')[0]
    if not os.path.exists(source):
        raise config_lib.UserError(f'--config={path}: no such file {source}')
    if path.endswith('.json'):
        argv = [arg if arg != f'--config={path}' else f'--config={__file__}:{path}' for arg in argv]
    return argv


def _check_fields(argv: Sequence[str]) -> None:
    """Names the nearest field for --config.a.b where there is none; config_flags would show a traceback."""
    for arg in argv[1:]:
        name = arg.lstrip('-').split('=', 1)[0].removeprefix('no') if arg.startswith('--noconfig.') else arg.lstrip('-').split('=', 1)[0]
        if not arg.startswith('-') or not name.startswith('config.'):
            continue
        part, path = config_lib.Config(), 'config'
        for field in name.split('.')[1:]:
            if not hasattr(part, '__dataclass_fields__') or field not in part.__dataclass_fields__:
                known = part.__dataclass_fields__ if hasattr(part, '__dataclass_fields__') else ()
                raise config_lib.UserError(f'--{path}.{field}: no such field, {config_lib.nearest(field, known)}')
            part, path = getattr(part, field), f'{path}.{field}'
        if hasattr(part, '__dataclass_fields__'):
            raise config_lib.UserError(f'--{path} is a group of fields; set one of them: {", ".join(part.__dataclass_fields__)}')
