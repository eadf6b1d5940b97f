"""Writes the quickstart's text: what this Python already carries, and a labelled task made of the same text.

    python launch/quickstart_corpus.py --output=DIR [--megabytes=12]

    DIR/text/train/*.txt         for pre-training: the language reference (pydoc_data.topics) and the docstrings of the standard library
    DIR/text/validation/*.txt    and of installed libraries; one file a module, one sentence a line, a blank line between docstrings.
                                 Whole modules are held out
    DIR/task/train.tsv           text TAB label: a function's or class's docstring -> the family of modules that it comes from
    DIR/task/dev.tsv             (`FAMILIES`; module names are struck out). Split by class: methods of one class are on one side;
                                 few to learn from, for that is where pre-training helps

Nothing is imported: sources are parsed. What is in `dev.tsv` is not in `text`, and no text of it is nearly one of `train.tsv`. The same
Python and the same libraries give the same bytes.
"""

import ast
import collections
import concurrent.futures
import dataclasses
import hashlib
import importlib.util
import itertools
import multiprocessing
import os
import pathlib
import re
import sys
import sysconfig
import warnings

import numpy as np

FAMILIES = {
    'asynchronous': ('asyncio', 'selectors'),
    'files': ('pathlib', 'shutil', 'tarfile', 'zipfile', 'tempfile', 'os', 'posixpath', 'ntpath', 'glob', 'fileinput', 'filecmp', '_pyio'),
    'imports': ('importlib', 'pkgutil', 'runpy', 'zipimport', 'modulefinder', 'inspect'),
    'mail': ('email', 'mailbox', 'smtplib', 'imaplib', 'poplib', 'mimetypes'),
    'markup': ('xml', 'html', 'json', 'plistlib', 'xmlrpc'),
    'numbers': ('_pydecimal', 'decimal', 'fractions', 'statistics', 'random', 'numbers', 'colorsys'),
    'parallel': ('multiprocessing', 'threading', 'concurrent', 'queue', 'subprocess', '_threading_local'),
    'tests': ('unittest', 'doctest', 'pdb', 'bdb', 'cProfile', 'profile', 'pstats', 'trace', 'timeit'),
    'web': ('http', 'urllib', 'wsgiref', 'socketserver', 'ftplib', 'webbrowser', 'socket', 'ssl'),
    'windows': ('tkinter', 'turtle'),
}
LIBRARIES = (
    'numpy', 'jax', 'flax', 'optax', 'orbax', 'grain', 'absl', 'ml_collections', 'etils', 'tensorflow_datasets', 'tensorboardX', 'google',
    'matplotlib', 'scipy', 'sklearn', 'rich', 'requests', 'urllib3', 'simple_parsing', 'treescope', 'PIL', 'fsspec', 'pyarrow', 'pip',
    'setuptools', 'networkx', 'torch',
)  # fmt: skip
LIBRARY_BYTES = 2_000_000  # at most of each, so that no library's manner prevails
SKIPPED = frozenset(
    'test tests testing _test _vendor __pycache__ site-packages dist-packages idlelib lib2to3 distutils turtledemo ensurepip msilib'
    ' pydoc_data'.split()
)
TRAIN_ROWS, DEV_ROWS = 50, 150  # at most of a family: few to learn from, as where pre-training is needed, and many to judge by
DEV_SHARE, HELD_OUT_SHARE = 0.5, 0.06


@dataclasses.dataclass
class Docstring:
    module: str  # dotted
    name: str  # 'Class.method', 'function', '' for the module's own
    sentences: list[str]

    @property
    def group(self) -> str:
        return f'{self.module}:{self.name.split(".")[0]}'


def share(name: str) -> float:
    """A number in [0, 1) that belongs to the name, on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], 'big') / 2**64


def sentences(text: str) -> list[str]:
    """Prose joined and cut at ends of sentences, anything else line by line; without doctests, rulers and single words."""
    found = []
    for paragraph in re.split(r'\n\s*\n', text.encode('utf-8', 'ignore').decode()):
        lines = [
            line for line in paragraph.expandtabs().splitlines() if not re.match(r'\s*(>>>|\.\.\. )', line) and re.search('[A-Za-z]', line)
        ]
        level = len({len(line) - len(line.lstrip()) for line in lines}) == 1
        prose = (
            level and not any(re.match(r'\s*([-*+|:@#]|\d+[.)])', line) for line in lines) and all(len(line) > 40 for line in lines[:-1])
        )
        if prose:
            lines = re.split(r'(?<=[a-z)`\'"][.!?]) +(?=[A-Z`\'"])', ' '.join(line.strip() for line in lines))
        found += [' '.join(line.split()) for line in lines if len(line.split()) > 1]
    return found


def read_module(job: tuple[str, str]) -> list[Docstring]:
    """The docstrings of (path, module), module, classes and functions in the order of the source; none where it does not parse."""
    path, module = job
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of invalid escapes in others' strings
            tree = ast.parse(pathlib.Path(path).read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return []
    found = []

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                add(child, prefix + child.name)
                walk(child, prefix + child.name + '.')
            elif isinstance(child, (ast.If, ast.Try, ast.With)):
                walk(child, prefix)

    def add(node, name):
        text = ast.get_docstring(node)
        if text and (kept := sentences(text)):
            found.append(Docstring(module, name, kept))

    add(tree, '')
    walk(tree, '')
    return found


def sources(root: pathlib.Path, prefix: str = '') -> list[tuple[str, str]]:
    """(path, module) of the Python files below a folder, in order of their names."""
    paths = [path for path in root.rglob('*.py') if not SKIPPED.intersection(path.relative_to(root).parts[:-1])]
    paths = [path for path in paths if not re.match(r'test_|.*_test\.|conftest|setup\.', path.name)]
    names = {path: '.'.join((prefix, *path.relative_to(root).with_suffix('').parts)).strip('.').removesuffix('.__init__') for path in paths}
    return sorted(((str(path), name) for path, name in names.items()), key=lambda job: job[1])


def topics(stdlib: pathlib.Path) -> list[Docstring]:
    """The language reference, which pydoc shows: each topic a module of one text."""
    path = stdlib / 'pydoc_data' / 'topics.py'
    if not path.exists():
        return []
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'topics':
            return [Docstring(f'topics.{name}', '', sentences(text)) for name, text in sorted(ast.literal_eval(node.value).items())]
    return []


def collect(limit: int, stdlib: pathlib.Path) -> list[Docstring]:
    """The reference, the standard library and then the libraries in their order, until `limit` bytes."""
    found = topics(stdlib)
    # Spawned: a fork of a process with threads, as that of the tests is, may wait for ever.
    with concurrent.futures.ProcessPoolExecutor(min(4, os.cpu_count() or 1), multiprocessing.get_context('spawn')) as pool:
        for part in pool.map(read_module, sources(stdlib), chunksize=16):
            found += part
        size = sum(_size(docstring) for docstring in found)
        for library in LIBRARIES:
            spec = importlib.util.find_spec(library)  # looks for it, imports nothing
            left = min(LIBRARY_BYTES, limit - size)
            jobs = [job for place in (spec and spec.submodule_search_locations) or () for job in sources(pathlib.Path(place), library)]
            for start in range(0, len(jobs), 64):
                if left <= 0:
                    break
                for docstring in (docstring for part in pool.map(read_module, jobs[start : start + 64], chunksize=8) for docstring in part):
                    if left > 0:
                        found.append(docstring)
                        left -= _size(docstring)
                        size += _size(docstring)
    return found


def _size(docstring: Docstring) -> int:
    return sum(len(sentence) + 1 for sentence in docstring.sentences)


def without_repeats(docstrings: list[Docstring]) -> list[Docstring]:
    """Each docstring, and each sentence of 60 characters or more, only where it first occurs."""
    seen, found = set(), []
    for docstring in docstrings:
        whole = ' '.join(docstring.sentences)
        kept = [sentence for sentence in docstring.sentences if len(sentence) < 60 or sentence not in seen]
        if whole in seen or not kept:
            continue
        seen.update([whole, *kept])
        found.append(dataclasses.replace(docstring, sentences=kept))
    return found


def make_task(docstrings: list[Docstring]) -> tuple[list[tuple[str, str]], list[tuple[str, str]], set[str]]:
    """(text, label) rows to learn from and to be judged by, and the groups of the latter."""
    families = {module: family for family, modules in FAMILIES.items() for module in modules}
    names = re.compile(r'(?i)(?<![a-z])(' + '|'.join(sorted({name.strip('_') for name in families}, key=len, reverse=True)) + r')(?![a-z])')
    rows = collections.defaultdict(list)
    for docstring in docstrings:
        family = families.get(docstring.module.split('.')[0])
        text = names.sub('module', ' '.join(docstring.sentences))
        if family and docstring.name and len(text.split()) >= 8:
            rows[family].append((docstring.group, ' '.join(text.split()[:80])))
    train, dev, dev_groups = [], [], set()
    for family, examples in rows.items():
        # By hash of the group: neither the order of modules nor a change in one of them moves the others.
        examples = sorted(examples, key=lambda example: (share(example[0]), example))
        for_dev = [example for example in examples if share('dev ' + example[0]) < DEV_SHARE][:DEV_ROWS]
        held_out = {group for group, _ in for_dev}
        dev_groups |= held_out
        dev += [(text, family) for _, text in for_dev]
        train += [(text, family) for group, text in examples if group not in held_out][:TRAIN_ROWS]
    if train and dev:
        near = overlaps([text for text, _ in dev], [text for text, _ in train]).max(1)
        dev = [row for row, most in zip(dev, near, strict=True) if most < 0.5]
    return sorted(train, key=_shuffled), sorted(dev, key=_shuffled), dev_groups


def overlaps(texts: list[str], others: list[str]) -> np.ndarray:
    """Jaccard's, [texts, others]: words that two texts share, of all their words."""
    columns: dict[str, int] = collections.defaultdict(itertools.count().__next__)
    found = [[sorted({columns[word] for word in re.findall('[a-z]+', text.lower())}) for text in part] for part in (texts, others)]
    held = [np.zeros((len(part), len(columns)), np.float32) for part in found]
    for matrix, part in zip(held, found, strict=True):
        for row, used in enumerate(part):
            matrix[row, used] = 1
    shared = held[0] @ held[1].T
    return shared / np.maximum(1, held[0].sum(1)[:, None] + held[1].sum(1) - shared)


def _shuffled(row: tuple[str, str]) -> float:
    return share('row ' + '\t'.join(row))


def write(output: pathlib.Path, limit: int, stdlib: pathlib.Path) -> str:
    """Makes everything and returns what to print."""
    docstrings = without_repeats(collect(limit, stdlib))
    train, dev, dev_groups = make_task(docstrings)
    hidden = {sentence for docstring in docstrings if docstring.group in dev_groups for sentence in docstring.sentences}
    modules = collections.defaultdict(list)
    for docstring in docstrings:
        kept = [sentence for sentence in docstring.sentences if docstring.group not in dev_groups and sentence not in hidden]
        if kept:
            modules[docstring.module].append(kept)
    sizes = collections.Counter()
    for split in ('train', 'validation'):
        (output / 'text' / split).mkdir(parents=True, exist_ok=True)
        for old in (output / 'text' / split).glob('*.txt'):
            old.unlink()
    for module, parts in modules.items():
        if sum(map(len, parts)) < 4:  # the next sentence needs a sentence before it
            continue
        split = 'validation' if share('text ' + module) < HELD_OUT_SHARE else 'train'
        text = '\n\n'.join('\n'.join(part) for part in parts) + '\n'
        (output / 'text' / split / f'{module}.txt').write_text(text, encoding='utf-8')
        sizes[split, 'modules'] += 1
        sizes[split, 'bytes'] += len(text.encode())
    (output / 'task').mkdir(exist_ok=True)
    for name, rows in (('train', train), ('dev', dev)):
        (output / 'task' / f'{name}.tsv').write_text(
            'text\tlabel\n' + ''.join(f'{text}\t{label}\n' for text, label in rows), encoding='utf-8'
        )
    commonest = max(collections.Counter(label for _, label in dev).values(), default=0) / max(1, len(dev))
    lines = [
        f'{split}: {sizes[split, "modules"]:,} modules, {sizes[split, "bytes"] / 1e6:.1f} MB of text' for split in ('train', 'validation')
    ]
    lines.append(
        f'task: {len(train):,} docstrings to learn from, {len(dev):,} held out, {len(FAMILIES)} families (commonest: {commonest:.1%})'
    )
    return '\n'.join(lines)


def main(argv):
    del argv
    print(write(pathlib.Path(FLAGS.output), round(FLAGS.megabytes * 1e6), pathlib.Path(FLAGS.stdlib)))


if __name__ == '__main__':
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    from absl import flags

    from t5x_lite import cli

    FLAGS = flags.FLAGS
    flags.DEFINE_string('output', None, 'Folder to write.', required=True)
    flags.DEFINE_float('megabytes', 12.0, 'Of text, about; what the language reference and the standard library (2) lack, libraries give.')
    flags.DEFINE_string('stdlib', sysconfig.get_path('stdlib'), 'Folder of the standard library.')
    cli.run(main)
