"""The shell scripts' own logic, with an interpreter that only pretends to make environments and to install."""

import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / 'launch'

# Answers -c with the real Python, under the version that a file beside it names; logs what it is asked to do otherwise.
FAKE = """#!/usr/bin/env bash
here=$(dirname "$0")
case "$1 ${{2:-}}" in
'-c '*)
    version=$(cat "$here/version")
    code="import platform, sys; v = tuple(map(int, '$version'.split('.'))); platform.python_version = lambda: '$version'; sys.version_info = v"$'\\n'"$2"
    shift 2
    exec {python} -c "$code" "$@" ;;
'-m venv')
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    cp "$here/version" "$3/bin/version" ;;
esac
echo "$(cat "$here/version"): $*" >>"{log}"
"""


@pytest.fixture
def clone(tmp_path):
    """A clone under a path with a space, and interpreters that log to calls.txt."""
    root = tmp_path / 'a clone'
    (root / 'launch').mkdir(parents=True)
    for name in ('environment.sh', 'test.sh'):
        shutil.copy(LAUNCH / name, root / 'launch' / name)
    (root / 'setup.cfg').write_text('[metadata]\n')
    (root / 'pyproject.toml').write_text('')
    return root


def _interpreter(clone, version, name):
    folder = clone.parent / version
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(FAKE.format(python=sys.executable, log=clone.parent / 'calls.txt'))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    (folder / 'version').write_text(version)
    return folder


def _test_sh(clone, *folders, **environment):
    tools = clone.parent / 'tools'
    tools.mkdir(exist_ok=True)
    for tool in ('bash', 'env', 'dirname', 'cat', 'rm', 'cp', 'mkdir'):
        if not (tools / tool).exists():
            (tools / tool).symlink_to(shutil.which(tool))
    path = ':'.join(map(str, [*folders, tools]))
    log = clone.parent / 'calls.txt'
    log.write_text('')
    result = subprocess.run(
        [shutil.which('bash'), str(clone / 'launch' / 'test.sh'), '-k', 'two words'], env={'PATH': path, **environment}, capture_output=True, text=True, cwd='/'
    )
    return result, log.read_text().splitlines()


def test_installs_once_and_again_when_something_changed(clone):
    python = _interpreter(clone, '3.12.4', 'python3.12')
    install = f'3.12.4: -m pip install -qq --disable-pip-version-check --no-input --editable {clone}[test]'
    tests = '3.12.4: -m pytest -n logical --maxprocesses=4 --dist=loadfile -k two words'
    result, calls = _test_sh(clone, python)
    assert result.returncode == 0, result.stderr
    assert calls == [f'3.12.4: -m venv {clone}/.venv', install, tests]
    assert 'installing' in result.stdout
    result, calls = _test_sh(clone, python)
    assert calls == [tests] and 'installed before' in result.stdout
    (clone / 'setup.cfg').write_text('[metadata]\nname = other\n')
    assert _test_sh(clone, python)[1] == [install, tests]
    # Another suitable interpreter on the PATH changes nothing; asking for it does.
    other = _interpreter(clone, '3.11.9', 'python3.11')
    assert _test_sh(clone, other, python)[1] == [tests]
    result, calls = _test_sh(clone, other, python, PYTHON='python3.11')
    assert calls == [f'3.11.9: -m venv {clone}/.venv', install.replace('3.12.4', '3.11.9'), tests.replace('3.12.4', '3.11.9')]
    assert 'making it anew' in result.stdout


@pytest.mark.parametrize('damage', ['too old', 'broken'])
def test_a_stale_environment_is_made_anew(clone, damage):
    python = _interpreter(clone, '3.13.0', 'python3')
    _test_sh(clone, python)
    if damage == 'too old':
        (clone / '.venv' / 'bin' / 'version').write_text('3.10.1')
    else:
        (clone / '.venv' / 'bin' / 'python').unlink()
        (clone / '.venv' / 'bin' / 'python').symlink_to('/nowhere/python')
    result, calls = _test_sh(clone, python)
    assert result.returncode == 0 and calls[0] == f'3.13.0: -m venv {clone}/.venv' and len(calls) == 3
    assert 'making it anew' in result.stdout


def test_without_a_suitable_python_it_says_what_to_install(clone):
    old = _interpreter(clone, '3.10.1', 'python3')
    for folders, environment, words in (
        ([old], {}, ['3.11 to 3.13', 'python3 is cpython 3.10.1', 'apt install', 'PYTHON=']),
        ([], {}, ['python3 is absent']),
        ([old], {'PYTHON': 'python3'}, ['PYTHON=python3 is cpython 3.10.1', '3.11 to 3.13']),
        ([old], {'PYTHON': '/nowhere/python'}, ['PYTHON=/nowhere/python is no Python that runs']),
    ):
        result, calls = _test_sh(clone, *folders, **environment)
        assert result.returncode == 1 and not calls and not (clone / '.venv').exists()
        assert result.stderr.startswith('error: ') and result.stderr.count('\n') == 1
        assert all(word in result.stderr for word in words), result.stderr


def test_a_failed_installation_is_tried_again(clone):
    python = _interpreter(clone, '3.12.4', 'python3.12')
    path = python / 'python3.12'
    path.write_text(path.read_text() + 'case "$2" in pip) exit 1 ;; esac\n')
    for _ in range(2):
        result, calls = _test_sh(clone, python)
        assert result.returncode == 1 and 'PIP_INDEX_URL' in result.stderr
        assert sum('-m pip install' in call for call in calls) == 1 and not any('-m pytest' in call for call in calls)


def test_quickstart_refuses_what_it_does_not_know():
    for arguments in (['--help'], ['a', 'b'], ['t5', 'a', 'b']):
        result = subprocess.run([shutil.which('bash'), str(LAUNCH / 'quickstart.sh'), *arguments], capture_output=True, text=True)
        assert result.returncode == 1 and 'usage: launch/quickstart.sh [bert | gpt | t5] [FOLDER]' in result.stderr


def _verdict(folder, accuracy, loss, tuned=0.75, kind='bert'):
    scores = {
        'pretrained': {'mlm_accuracy': accuracy, 'mlm_loss': loss, 'most_frequent_token_accuracy': 0.05, 'unigram_loss': 6.0},
        'finetuned': {'accuracy': tuned},
        'from_random': {'accuracy': 0.5},
    }
    if kind != 'bert':
        scores['pretrained'] |= {'lm_loss': loss}
        scores |= {name: {'tasks': {'as taught': {'table': {'accuracy': 100 * scores[name]['accuracy']}}}} for name in ('finetuned', 'from_random')}
    for name, values in scores.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / 'evaluation.json').write_text(json.dumps(values))
    return subprocess.run([sys.executable, str(LAUNCH / 'quickstart_verdict.py'), kind, str(folder)], capture_output=True, text=True, env={**os.environ})


def test_verdict(tmp_path):
    good = _verdict(tmp_path, 0.2, 5.0)
    assert good.returncode == 0 and not good.stderr
    assert '4.0 times' in good.stdout and '1.00 nats below' in good.stdout and '+25.0 points' in good.stdout
    for accuracy, loss, wrong, right in ((0.149, 5.0, 'times', 'nats'), (0.2, 5.31, 'nats', 'times'), (0.2, float('nan'), 'nats', 'times')):
        bad = _verdict(tmp_path, accuracy, loss)
        assert bad.returncode == 1 and bad.stderr.startswith('FAILED: ')
        assert wrong in bad.stderr and right not in bad.stderr
    for tuned in (0.5, 0.4):
        bad = _verdict(tmp_path, 0.2, 5.0, tuned)
        assert bad.returncode == 1 and 'FAILED: pre-training changed the accuracy on docstrings by' in bad.stderr


@pytest.mark.parametrize('kind, wanted', [('gpt', 1.5), ('t5', 0.7)])
def test_verdict_of_language_models(kind, wanted, tmp_path):
    good = _verdict(tmp_path, 0, 6.0 - wanted - 0.01, kind=kind)
    assert good.returncode == 0 and not good.stderr
    assert ('+25.0 points' in good.stdout) == (kind == 't5')
    bad = _verdict(tmp_path, 0, 6.0 - wanted + 0.01, kind=kind)
    assert bad.returncode == 1 and 'nats below' in bad.stderr
    worse = _verdict(tmp_path, 0, 1.0, tuned=0.4, kind=kind)
    assert worse.returncode == (kind == 't5')
