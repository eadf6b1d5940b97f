"""The code that is launched: a commit as git has it, never what happens to lie in the folder. (Standard library and git only.)"""

import os
import subprocess

from t5x_lite.errors import UserError
from t5x_lite.launching import command_lines


def _git(root: str, *arguments: str) -> str:
    done = subprocess.run(['git', '-C', root, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, arguments, done.stdout, done.stderr)
    return done.stdout.strip()


def commit(root: str, wanted: str = '') -> str:
    """The full name of the commit to launch.

    Args:
      wanted: any name of one. '': the newest, which must be all there is: uncommitted changes would not come along.

    Raises:
      UserError: not a git checkout, no such commit, uncommitted changes.
    """
    command_lines.on_path('git', 'the code is copied as it is in git; install it')
    try:
        _git(root, 'rev-parse', '--git-dir')
    except subprocess.CalledProcessError as error:
        raise UserError(f'{root} is not a git checkout, and the code is copied as it is in git; clone the repository, or git init and commit') from error
    try:
        found = _git(root, 'rev-parse', '--verify', '--quiet', f'{wanted or "HEAD"}^{{commit}}')
    except subprocess.CalledProcessError as error:
        raise UserError(f'--commit={wanted}: no such commit in {root}' if wanted else f'{root} has no commit yet; commit the code that is to run') from error
    changed = _git(root, 'status', '--porcelain')
    if changed and not wanted:
        names = [line.split(maxsplit=1)[1] for line in changed.splitlines()]  # after two letters, of which the first may be a space
        more = f' and {len(names) - 3} more' if len(names) > 3 else ''
        raise UserError(f'uncommitted changes in {", ".join(names[:3])}{more} would not be launched; commit them, or name what to launch: --commit=HEAD')
    return found


def check_config(root: str, commit: str, path: str) -> None:
    """
    Raises:
      UserError: the config that is to run is not in the commit; machines would be asked for in vain.
    """
    if not path or '://' in path or os.path.isabs(path):
        return
    try:
        _git(root, 'cat-file', '-e', f'{commit}:{os.path.normpath(path)}')
    except subprocess.CalledProcessError as error:
        raise UserError(f'--config={path}: not in commit {commit[:12]} of {root}, which is all that is copied; commit it, or mend the name') from error


def archive(root: str, commit: str, path: str) -> list[str]:
    """The command that packs a commit."""
    return ['git', '-C', root, 'archive', '--format=tar.gz', f'--output={path}', commit]
