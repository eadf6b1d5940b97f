"""A corpus to be cleaned and deduplicated, of which it is known what should be left."""

import gzip
import json
from pathlib import Path
import random

WORDS = [''.join(random.Random(number).choices('abcdefghij', k=3 + number % 6)) for number in range(2000)]
BAD_LINES = ('Home | About | Contact', 'All rights reserved.', 'Switch JavaScript on to see all of this.', 'Read our privacy policy, it is long.', 'So it goes...')


def words(source: random.Random, count: int) -> list[str]:
    return source.choices(WORDS, k=count)


def sentence(source: random.Random) -> str:
    return ' '.join(words(source, source.randrange(6, 14))).capitalize() + '.'


def page(source: random.Random, lines: int = 6) -> str:
    """Lines of two sentences each."""
    return '\n'.join(f'{sentence(source)} {sentence(source)}' for _ in range(lines))


def edited(text: str, source: random.Random, share: float) -> str:
    """The text with this share of its words replaced, in single places far apart."""
    found = text.split(' ')
    for place in source.sample(range(len(found)), max(1, round(share * len(found)))):
        if found[place].isalpha():
            found[place] = source.choice(WORDS)
    return ' '.join(found)


def respelt(text: str, source: random.Random) -> str:
    """The text with a word of every other sentence replaced: no three sentences in a row are the same."""
    lines = []
    for line in text.split('\n'):
        found = line.split(' ')
        found[min(source.randrange(1, 5), len(found) - 1)] = source.choice(WORDS)
        lines.append(' '.join(found))
    return '\n'.join(lines)


def write(folder: Path, pages: list[str], parts: int = 3) -> None:
    """Some as jsonl, some as jsonl.gz."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        share = pages[part * len(pages) // parts : (part + 1) * len(pages) // parts]
        data = ''.join(json.dumps({'text': text}) + '\n' for text in share).encode()
        path = folder / f'{part}.jsonl'
        if part % 2:
            Path(f'{path}.gz').write_bytes(gzip.compress(data, mtime=0))
        else:
            path.write_bytes(data)


def corpus(folder: Path, count: int = 60, seed: int = 0) -> dict:
    """Writes pages of all kinds, two long documents of several blocks among them, and gives settings that clean them."""
    source = random.Random(seed)
    pages = []
    for number in range(count):
        text = page(source)
        if number % 3 == 0:
            text = f'{source.choice(BAD_LINES)}\n{text}\n{source.choice(BAD_LINES)}'
        if number % 10 == 1:
            text += '\nfunction f() { return it.'
        if number % 10 == 2:
            text = 'Lorem ipsum dolor sit amet now.\n' + text
        if number % 10 == 3:
            text = sentence(source)
        if number % 5 == 4 and pages:
            text = pages[source.randrange(len(pages))]
            text = edited(text, source, 0.02) if number % 2 else respelt(text, source)
        if number % 7 == 6 and pages:
            text = page(source, 3) + '\n' + '\n'.join(pages[source.randrange(len(pages))].split('\n')[1:4]) + '\n' + page(source, 2)
        pages.append(text)
    write(folder, pages)
    long = page(source, 120)
    for name, text in (('x', long), ('y', respelt(long, source)), ('z', page(source, 60) + '\nan opening { there is in it.\n' + page(source, 40))):
        (folder / f'{name}.txt').write_text(text)
    return dict(
        documents='file', clean=('c4',), deduplicate='minhash', minhash_words=3, minhash_threshold=0.6, minhash_bands=32, validation_fraction=0.1, shard_tokens=3000
    )
