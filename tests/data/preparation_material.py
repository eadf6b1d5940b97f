"""What the tests of preparation share: text, a run of it in this process or as the command, and what came out."""

import gzip
import hashlib
import json
import random
import sys
from pathlib import Path

from t5x_lite.data import corpus, preparation, tokenizers

ROOT = Path(__file__).resolve().parents[2]
WORDS = [''.join(random.Random(number).choices('abcdefgh', k=2 + number % 6)) for number in range(300)]


def sentence(source: random.Random) -> str:
    return ' '.join(source.choices(WORDS, k=source.randrange(3, 12))).capitalize() + '.'


def paragraphs(count: int, seed: int = 0) -> list[list[str]]:
    source = random.Random(seed)
    return [[sentence(source) for _ in range(source.randrange(1, 6))] for _ in range(count)]


def write_text(path: Path, documents: list[list[str]], separator: str = ' ') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n\n'.join(separator.join(document) for document in documents) + '\n')


def prepare(tmp_path: Path, output: str = 'out', **settings):
    """(corpus folder, lines printed). One process, unless told otherwise."""
    lines = []
    defaults = dict(input=(str(tmp_path / 'in'),), output=str(tmp_path / output), documents='paragraph', vocab_size=200, workers=1)
    preparation.prepare(preparation.Settings(**defaults | settings), log=lines.append)
    return tmp_path / output, lines


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob('*')) if path.is_file()
    }


def documents_of(folder: Path, split: str) -> list[list[str]]:
    """Decoded sentences of each document."""
    read, tokenizer = corpus.Corpus(str(folder), split), tokenizers.load(str(folder / 'tokenizer'))
    return [
        [
            tokenizer.decode(read.tokens(*read.sentence_starts[number : number + 2]))
            for number in range(*read.document_starts[document : document + 2])
        ]
        for document in range(read.num_documents)
    ]


def plain(documents: list[list[str]]) -> list[list[str]]:
    return [[sentence.lower() for sentence in document] for document in documents]


def mixed_input(tmp_path: Path) -> dict:
    """All kinds of sources, documents over several blocks among them."""
    write_text(tmp_path / 'in/a.txt', paragraphs(80, 1))
    write_text(
        tmp_path / 'in/b.txt',
        [[sentence(random.Random(number)) for number in range(150)], *paragraphs(40, 2), [' '.join(WORDS * 20)], ['End.']],
    )
    (tmp_path / 'in/c.txt.gz').write_bytes(gzip.compress('\n\n'.join(map(' '.join, paragraphs(80, 3))).encode()))
    (tmp_path / 'in/d.jsonl').write_text('\n'.join(json.dumps({'text': ' '.join(document)}) for document in paragraphs(80, 4)))
    return dict(shard_tokens=1500, validation_fraction=0.2)


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            pass
    return found + [below for child in found for below in children(child)]


def command(**settings) -> list[str]:
    return [sys.executable, '-m', 't5x_lite.prepare', *(f'--{name}={value}' for name, value in settings.items())]
