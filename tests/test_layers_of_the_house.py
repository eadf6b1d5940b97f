"""Imports run one way, numpy rooms stay numpy, and the tree belongs to no machine: the rules that keep the house a house."""

import ast
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for package in ('t5x_lite', 'bert_flax', 'configs') for path in (ROOT / package).rglob('*.py'))

# Room -> rooms that it may import from, beside itself. A test that fails here is mended by moving code, not by a new entry.
ALLOWED = {
    'config': set(),
    'models': {'config'},
    'data': {'config'},
    'training.losses': {'config'},
    'training': {'config', 'models', 'data'},
    'evaluation.metrics': set(),
    'tasks': {'config', 'data', 'evaluation.metrics', 'training.losses'},
    'evaluation': {'config', 'models', 'data', 'tasks', 'training'},
    'interop': {'config', 'models', 'data', 'tasks', 'training', 'evaluation'},
    'assembly': {'config', 'models', 'data', 'tasks', 'training', 'evaluation', 'interop'},
    'planning': {'config', 'models', 'data', 'tasks', 'training', 'evaluation', 'interop', 'assembly'},
    'sweeps': {'config', 'models', 'data', 'tasks', 'training', 'evaluation', 'interop', 'assembly'},
    'commands': {'config', 'models', 'data', 'tasks', 'training', 'evaluation', 'interop', 'assembly', 'sweeps', 'planning'},
    'bert_flax': {'config', 'models', 'data', 'tasks', 'training', 'evaluation', 'interop'},
    'configs': {'config'},
    'launching': {'config'},
}

# Their own source never imports jax: loader processes start without it, and metrics are numbers of numpy.
NUMPY_ONLY = ('t5x_lite/data/', 't5x_lite/evaluation/metrics', 't5x_lite/tasks/examples.py', 'bert_flax/objectives.py')


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def room_of(module: str) -> str | None:
    """The room that a module is in; None for what is not ours."""
    parts = module.split('.')
    if parts[0] in ('bert_flax', 'configs'):
        return parts[0]
    if parts[0] != 't5x_lite':
        return None
    inside = '.'.join(parts[1:3])
    if inside.startswith('evaluation.metrics'):  # metrics_text and others too
        return 'evaluation.metrics'
    if inside == 'training.losses':
        return inside
    if parts[1:2] and parts[1] in ('assemble', 'dry_run', 'running'):  # a run from its config to its end
        return 'assembly'
    if parts[1:2] and parts[1] in ('config', 'config_values', 'checks', 'dotted_names', 'errors', 'mirrors', 'outgoing', 'remote', 'several', 'stages'):
        return 'config'
    return parts[1] if len(parts) > 1 and (ROOT / 't5x_lite' / parts[1]).is_dir() else 'commands'


def imported(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{path}:{node.lineno}: relative import'
            for alias in node.names:
                name = f'{node.module}.{alias.name}'
                path_of = ROOT.joinpath(*name.split('.'))
                found.add(name if path_of.is_dir() or path_of.with_suffix('.py').exists() else node.module)
    return found


def test_every_room_has_its_rules():
    rooms = {room_of(module_of(path)) for path in SOURCES if path.name != '__init__.py'}
    assert rooms <= ALLOWED.keys()


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = room_of(module_of(path))
    for name in imported(path):
        target = room_of(name)
        allowed = ALLOWED[room] | {room}
        # A part of a room, evaluation.metrics, may be imported where the room may.
        assert target is None or target in allowed or target.split('.')[0] in allowed, (
            f'{path.relative_to(ROOT)} ({room}) imports {name} ({target})'
        )


def test_the_flow_has_no_circle():
    order: list[str] = []
    while len(order) < len(ALLOWED):
        free = [room for room in ALLOWED if room not in order and ALLOWED[room] <= set(order)]
        assert free, ALLOWED.keys() - set(order)
        order += free


def test_the_framework_does_not_know_the_family():
    for path in SOURCES:
        if path.is_relative_to(ROOT / 't5x_lite'):
            assert not {name for name in imported(path) if name.split('.')[0] in ('bert_flax', 'configs', 'tests')}, path


def test_commands_are_imported_by_nothing_but_commands():
    for path in SOURCES:
        if room_of(module_of(path)) != 'commands':
            assert 'commands' not in {room_of(name) for name in imported(path)}, path


def test_sweeps_are_imported_by_their_command_alone():
    assert [path.name for path in SOURCES if room_of(module_of(path)) != 'sweeps' and 'sweeps' in {room_of(name) for name in imported(path)}] == ['sweep.py']


def test_numpy_rooms_never_import_jax():
    chosen = [path for path in SOURCES if str(path.relative_to(ROOT)).startswith(NUMPY_ONLY)]
    assert len(chosen) > 10
    for path in chosen:
        assert not {name for name in imported(path) if name.split('.')[0] in ('jax', 'flax', 'optax', 'orbax')}, path
    # Nor does anything that they import: a loader process has no need of it.
    lines = '; '.join(f'import {module_of(path)}' for path in chosen)
    code = f'{lines}; import sys; print(sorted(name for name in sys.modules if name in ("jax", "flax", "tensorflow", "torch")))'
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == '[]', result.stdout + result.stderr


def written_files() -> list[Path]:
    """What people write: sources, scripts, texts; neither environments nor runs nor anything hidden but .ci."""
    skipped = {'.git', 'runs', 'build', '__pycache__', 'node_modules'}  # .git is a file in a worktree
    files = []
    for path in ROOT.rglob('*'):
        parts = path.relative_to(ROOT).parts
        if skipped & set(parts) or any(part.startswith('.') and part != '.ci' for part in parts[:-1]) or 'egg-info' in str(path):
            continue
        if path.is_file() and (path.suffix in ('.py', '.sh', '.md', '.cfg', '.toml', '.txt', '.yaml', '.yml') or not path.suffix):
            files.append(path)
    return files


def test_no_path_of_a_machine():
    """A clone must work anywhere, and say nothing of where it was written."""
    homes = '|'.join(('root', 'home/[a-z]', 'Users/[A-Za-z]', 'work', 'mnt'))
    pattern = re.compile(rf'(?<![\w.*)}}])/({homes})[/\w]')
    for path in written_files():
        for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
            assert not pattern.search(line), f'{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}'


def test_no_drawer_for_everything():
    drawers = {'utils', 'util', 'common', 'helpers', 'helper', 'misc'}
    assert not [path for path in written_files() if path.stem.lower() in drawers or drawers & set(path.relative_to(ROOT).parts)]
