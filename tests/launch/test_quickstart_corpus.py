"""The quickstart's text: parsed and never imported, the same bytes each time, and no leak from the task into what is learnt."""

import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / 'launch' / 'quickstart_corpus.py'


@pytest.fixture(scope='module')
def corpus():
    sys.path.insert(0, str(SCRIPT.parent))  # where its processes find it too
    yield importlib.import_module(SCRIPT.stem)
    sys.path.remove(str(SCRIPT.parent))
    del sys.modules[SCRIPT.stem]


@pytest.fixture(scope='module')
def stdlib(tmp_path_factory):
    """A few packages of the real one, and a module that must not run."""
    real, folder = pathlib.Path(sysconfig.get_path('stdlib')), tmp_path_factory.mktemp('stdlib')
    for name in ('asyncio', 'email', 'http', 'unittest', 'xml'):
        shutil.copytree(real / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
    for name in ('threading.py', 'queue.py', 'pathlib.py', 'fractions.py', 'statistics.py'):
        if (real / name).exists():
            shutil.copy(real / name, folder / name)
    for name, text in {
        'explodes.py': '"""Runs nothing. It was only parsed, and that is all."""\nimport there_is_no_such_module\nraise SystemExit\n',
        'broken.py': 'def broken(:\n',
        'test/hidden.py': '"""This is a test module. It must not be read at all."""\n',
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _run(stdlib, output, hash_seed):
    command = [sys.executable, str(SCRIPT), f'--output={output}', f'--stdlib={stdlib}', '--megabytes=0']
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, 'PYTHONHASHSEED': hash_seed})
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def written(stdlib, tmp_path_factory):
    output = tmp_path_factory.mktemp('first')
    said = _run(stdlib, output, '1')
    return output, said


def _rows(output, name):
    header, *rows = (output / 'task' / f'{name}.tsv').read_text(encoding='utf-8').split('\n')[:-1]
    assert header == 'text\tlabel'
    return [tuple(row.split('\t')) for row in rows]


def _texts(output, split):
    return {path.stem: path.read_text(encoding='utf-8') for path in (output / 'text' / split).glob('*.txt')}


def test_the_same_bytes_whatever_the_hash_seed(written, stdlib, tmp_path):
    first, said = written
    assert _run(stdlib, tmp_path, '2') == said
    names = sorted(path.relative_to(first) for path in first.rglob('*.t*'))
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob('*.t*'))
    assert all((first / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_says_what_it_made(written):
    output, said = written
    texts = {split: _texts(output, split) for split in ('train', 'validation')}
    for split, line in zip(texts, said.splitlines(), strict=False):
        assert line.startswith(f'{split}: {len(texts[split]):,} modules, ')
    assert f'{len(_rows(output, "train")):,} docstrings to learn from, {len(_rows(output, "dev")):,} held out' in said


def test_text_is_sentences_of_modules(written):
    output, _ = written
    train, validation = _texts(output, 'train'), _texts(output, 'validation')
    assert len(train) > 30 and len(validation) >= 1 and not train.keys() & validation.keys()
    assert not any('hidden' in name or 'broken' in name for name in {**train, **validation})
    for text in [*train.values(), *validation.values()]:
        blocks = text.rstrip('\n').split('\n\n')
        assert all(len(line.split()) > 1 for block in blocks for line in block.split('\n'))
        assert sum(len(block.split('\n')) for block in blocks) >= 4
    long_lines = [line for text in train.values() for line in text.split('\n') if len(line) >= 60]
    held_out = {line for text in validation.values() for line in text.split('\n') if len(line) >= 60}
    assert held_out and not held_out & set(long_lines) and len(long_lines) == len(set(long_lines))


def test_task_does_not_leak(corpus, written, stdlib):
    output, _ = written
    train, dev = _rows(output, 'train'), _rows(output, 'dev')
    assert len({label for _, label in dev}) >= 6 and {label for _, label in dev} <= {label for _, label in train}
    names = re.compile(
        r'(?i)(?<![a-z])(' + '|'.join(name.strip('_') for modules in corpus.FAMILIES.values() for name in modules) + r')(?![a-z])'
    )
    assert not any(names.search(text) for text, _ in train + dev)
    assert corpus.overlaps([text for text, _ in dev], [text for text, _ in train]).max() < 0.5
    lines = {line for text in _texts(output, 'train').values() for line in text.split('\n')}
    docstrings = corpus.without_repeats(corpus.collect(0, stdlib))
    _, again, groups = corpus.make_task(docstrings)
    assert again == dev
    judged = [docstring for docstring in docstrings if docstring.group in groups]
    assert len(judged) >= len(dev)
    assert not any(sentence in lines for docstring in judged for sentence in docstring.sentences)


def test_sentences(corpus):
    text = """Do a thing that takes more than one line to say, and
say it twice.  Then do `another`. E.g. this.

    >>> do(3)
    3

x : int
    A number of things.

=====

Returns
- a first point which is long enough to be taken for prose
- a second
"""
    assert corpus.sentences(text) == [
        'Do a thing that takes more than one line to say, and say it twice.',
        'Then do `another`.',
        'E.g. this.',
        'x : int',
        'A number of things.',
        '- a first point which is long enough to be taken for prose',
        '- a second',
    ]


def test_docstrings_have_their_place(corpus, tmp_path):
    source = (
        'class A:\n    """The class itself."""\n    def f(self):\n        "A method here."\n        def g():\n            "An inner one."\n'
        'if True:\n    def h():\n        "Under a condition."\n'
    )
    (tmp_path / 'm.py').write_text(source)
    found = corpus.read_module((str(tmp_path / 'm.py'), 'm'))
    assert [(docstring.name, docstring.group, docstring.sentences) for docstring in found] == [
        ('A', 'm:A', ['The class itself.']),
        ('A.f', 'm:A', ['A method here.']),
        ('A.f.g', 'm:A', ['An inner one.']),
        ('h', 'm:h', ['Under a condition.']),
    ]


def test_overlaps(corpus):
    np.testing.assert_allclose(corpus.overlaps(['a b c', 'D e'], ['a b c', 'c d']), [[1, 0.25], [0, 1 / 3]], rtol=1e-6)
