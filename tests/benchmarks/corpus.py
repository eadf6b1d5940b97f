"""Preparation with cleaning and deduplication: throughput, memory, and how well duplicates are found, on books repeated with edits that are known.

    python -m tests.benchmarks.corpus --books=FOLDER [--megabytes=50,1000] [--workers=1,2,4] [--work=DIR] [--output=FILE]

The books' paragraphs, each on a line, are cut into passages of about 2,000 characters, the documents; they come first, once each, up to half of the corpus.
Copies follow, of passages drawn by
--seed, with the edits of KINDS, each as often, until there is as much text as asked for. What a copy shares with its original is computed exactly (Jaccard of
its runs of words, as prepare's flags have them): those that share at least the threshold are the duplicates that should go, all others should stay. `prepare`
is run as a command, with
--clean=RULES and --deduplicate=minhash, for each number of workers; what it kept is read from the corpus, since every document says its number. Memory is the
peak over all its processes together, resident, pages that they share counted for each.
"""

from collections.abc import Callable, Iterator
import glob
import gzip
import hashlib
import itertools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import threading
import time

from absl import flags

from t5x_lite import cli
from t5x_lite.data import cleaning, corpus, near_duplicates, preparation_settings, tokenizers
from t5x_lite.errors import UserError
from tests.data.preparation_material import children

FLAGS = flags.FLAGS
_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PASSAGE = 2000  # characters
_RULES = tuple(rule for rule in cleaning.RULES if rule not in (cleaning.BAD_WORDS, cleaning.REPEATED_SPANS))  # a copy is to be found by its whole


def replaced(share: float) -> Callable[[list[str], random.Random, list[str]], list[str]]:
    """Single words replaced, this share of them."""

    def edit(words: list[str], source: random.Random, known: list[str]) -> list[str]:
        words = list(words)
        for place in source.sample(range(len(words)), round(share * len(words))):
            words[place] = source.choice(known)
        return words

    return edit


def dropped(share: float) -> Callable[[list[str], random.Random, list[str]], list[str]]:
    """A stretch left out."""

    def edit(words: list[str], source: random.Random, known: list[str]) -> list[str]:
        del known
        count = round(share * len(words))
        first = source.randrange(len(words) - count + 1)
        return words[:first] + words[first + count :]

    return edit


def respelt(words: list[str], source: random.Random, known: list[str]) -> list[str]:
    """Case and punctuation."""
    del known
    return [word.upper() if source.random() < 0.2 else word.replace(',', ' --') for word in words]


KINDS = {
    'none': replaced(0.0),
    'case and punctuation': respelt,
    '0.5 % of the words replaced': replaced(0.005),
    '1 % replaced': replaced(0.01),
    '2 % replaced': replaced(0.02),
    '4 % replaced': replaced(0.04),
    '10 % replaced': replaced(0.1),
    '40 % replaced': replaced(0.4),
    'a stretch of 10 % left out': dropped(0.1),
    'a stretch of 50 % left out': dropped(0.5),
}


def passages(folder: str) -> list[str]:
    names = sorted(name for name in glob.glob(os.path.join(folder, '**'), recursive=True) if name.endswith(('.txt', '.txt.gz')))
    if not names:
        raise UserError(f'--books={folder}: no .txt or .txt.gz in it')
    found: list[str] = []
    for name in names:
        with gzip.open(name, 'rt', encoding='utf-8') if name.endswith('.gz') else open(name, encoding='utf-8') as file:
            paragraphs = (' '.join(paragraph.split()) for paragraph in re.split(r'\n\s*\n', file.read()))
            lines: list[str] = []
            for line in filter(None, paragraphs):
                lines.append(line)
                if sum(map(len, lines)) >= _PASSAGE:
                    found.append('\n'.join(lines))
                    lines = []
    return list(dict.fromkeys(found))


def shared(left: str, right: str) -> float:
    """Exact Jaccard similarity of what the rules leave of two texts, as MinHash estimates it."""
    rules = cleaning.chosen(_RULES, '')
    first, second = (set(near_duplicates.shingles([cleaning.clean(text, rules).text], FLAGS.shingle)[0].tolist()) for text in (left, right))
    return len(first & second) / len(first | second)


def documents(originals: list[str], size: int) -> Iterator[tuple[str, str, float]]:
    """(text, kind of edit, similarity to its original) until there are so many bytes. Originals have no kind."""
    source = random.Random(FLAGS.seed)
    known = sorted({word for text in originals for word in text.split() if word.isalpha()})
    chosen, least, number = [], size // 2, itertools.count()
    for text in originals:
        if size <= least:
            break
        size -= len(text)
        chosen.append((f'Text number {next(number)} begins here.', text))  # a line that no rule removes
        yield '\n'.join(chosen[-1]), '', 1.0
    while size > 0:
        for kind, edit in KINDS.items():
            head, text = source.choice(chosen)
            copy = '\n'.join(' '.join(edit(line.split(' '), source, known)) for line in text.split('\n'))
            if 'stretch' in kind:
                copy = ' '.join(edit(text.split(), source, known))
            copy = f'Text number {next(number)} begins here.\n{copy}'
            size -= len(copy)
            yield copy, kind, shared(f'{head}\n{text}', copy)


def write(folder: str, originals: list[str], megabytes: int) -> list[tuple[str, float]]:
    """The corpus as jsonl files of 10 MB; kind and similarity of each document, in order."""
    os.makedirs(folder)
    made, file, number = [], None, 0
    for text, kind, similarity in documents(originals, megabytes * 1_000_000):
        if file is None or file.tell() > 10_000_000:
            if file:
                file.close()
            file = open(os.path.join(folder, f'{number:04d}.jsonl'), 'w', encoding='utf-8')
            number += 1
        file.write(json.dumps({'text': text}, ensure_ascii=False) + '\n')
        made.append((kind, similarity))
    file.close()
    return made


def run(arguments: list[str]) -> tuple[float, float]:
    """(seconds, peak resident bytes of all processes)"""
    start, peak, page = time.monotonic(), 0, os.sysconf('SC_PAGE_SIZE')
    with tempfile.TemporaryFile('w+') as said:
        running = subprocess.Popen([sys.executable, '-m', 't5x_lite.prepare', *arguments], cwd=_ROOT, stdout=subprocess.DEVNULL, stderr=said)
        ended = threading.Event()
        while not ended.wait(0.1):
            total = 0
            for pid in (running.pid, *children(running.pid)):
                try:
                    total += int(pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1]) * page
                except (OSError, IndexError):
                    pass
            peak = max(peak, total)
            if running.poll() is not None:
                ended.set()
        if running.returncode:
            said.seek(0)
            raise UserError(f'prepare ended with {running.returncode}: {said.read()[-500:]}')
    return time.monotonic() - start, peak


def kept(folder: str) -> set[int]:
    found, tokenizer = corpus.Corpus(folder, 'train'), tokenizers.load(os.path.join(folder, 'tokenizer'))
    numbers = set()
    for sentence in found.document_starts[:-1].tolist():
        text = tokenizer.decode(found.tokens(*found.sentence_starts[sentence : sentence + 2])[:24])
        numbers.add(int(re.match(r'text number ([\d ]+) begins', text)[1].replace(' ', '')))
    return numbers


def digest(folder: str) -> str:
    result = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).rglob('*')):
        if path.is_file():
            result.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return result.hexdigest()


def removal(made: list[tuple[str, float]], left: set[int], cleaned: int) -> Iterator[str]:
    """Tables of what was removed. `cleaned`: documents that went by rules of cleaning, whatever they repeat."""
    gone = [number not in left for number in range(len(made))]
    should = [bool(kind) and similarity >= FLAGS.threshold for kind, similarity in made]
    right, all_gone = sum(map(all, zip(gone, should))), sum(gone)
    yield f'{len(made):,} documents, {sum(should):,} of them duplicates (Jaccard {FLAGS.threshold} or more with their original); {all_gone:,} removed'
    yield f'precision {right / max(all_gone, 1):.4f}, recall {right / max(sum(should), 1):.4f} ({cleaned:,} documents removed by rules of cleaning count as wrong)'
    yield ''
    yield '| edits | copies | similarity, mean | duplicates | removed |'
    yield '|---|---|---|---|---|'
    for kind in ('', *KINDS):
        rows = [number for number, (name, _) in enumerate(made) if name == kind]
        if rows:
            mean = sum(made[number][1] for number in rows) / len(rows)
            shares = (100 * sum(flag[number] for number in rows) / len(rows) for flag in (should, gone))
            yield f'| {kind or "(originals)"} | {len(rows):,} | {mean:.3f} | ' + ' | '.join(f'{share:.1f} %' for share in shares) + ' |'


def main(argv: list[str]) -> None:
    del argv
    originals = passages(FLAGS.books)
    lines, peaks = [], {}
    if FLAGS.work:
        os.makedirs(FLAGS.work, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FLAGS.work or None) as place:
        for size in map(int, FLAGS.megabytes):
            made = write(f'{place}/in{size}', originals, size)
            written = sum(path.stat().st_size for path in pathlib.Path(f'{place}/in{size}').iterdir()) / 1e6
            lines += ['', f'{written:,.0f} MB of text', '', '| workers | seconds | MB/s | peak MB, all processes | same bytes |', '|---|---|---|---|---|']
            first = ''
            for workers in map(int, FLAGS.workers):
                folder = f'{place}/out{size}-{workers}'
                seconds, peak = run([
                    f'--input={place}/in{size}', f'--output={folder}', f'--workers={workers}', f'--clean={",".join(_RULES)}', '--deduplicate=minhash',
                    f'--minhash_threshold={FLAGS.threshold}', f'--minhash_words={FLAGS.shingle}', '--validation_fraction=0', '--vocab_size=8000',
                ])  # fmt: skip
                same, peaks[size, workers] = digest(folder), peak
                first = first or same
                lines.append(f'| {workers} | {seconds:,.1f} | {written / seconds:.2f} | {peak / 1e6:,.1f} | {"yes" if same == first else "NO"} |')
                print(lines[-1], flush=True)
            removed = corpus.read_manifest(folder)['removed']
            cleaned = sum(counts['documents'] for rule, counts in removed.items() if rule in cleaning.RULES and 'documents' in counts)
            lines += ['', *removal(made, kept(folder), cleaned)]
    for workers in map(int, FLAGS.workers):
        small, large = (peaks[int(size), workers] for size in (FLAGS.megabytes[0], FLAGS.megabytes[-1]))
        if len(FLAGS.megabytes) > 1:
            lines.append(f'peak at {FLAGS.megabytes[-1]} MB over that at {FLAGS.megabytes[0]} MB, {workers} worker(s): {large / small:.3f}')
    text = '\n'.join(lines) + '\n'
    print(text)
    if FLAGS.output:
        pathlib.Path(FLAGS.output).write_text(text, encoding='utf-8')


if __name__ == '__main__':
    default = preparation_settings.Settings(input=(), output='')
    flags.DEFINE_string('books', None, 'Folder with .txt or .txt.gz.', required=True)
    flags.DEFINE_list('megabytes', ['50', '1000'], 'Sizes of the corpus.')
    flags.DEFINE_list('workers', ['1', '2', '4'], 'Numbers of processes.')
    flags.DEFINE_float('threshold', default.minhash_threshold, 'Of prepare: --minhash_threshold.')
    flags.DEFINE_integer('shingle', default.minhash_words, 'Of prepare: --minhash_words.')
    flags.DEFINE_integer('seed', 0, 'Of the copies and edits.')
    flags.DEFINE_string('work', '', 'Where corpora are made, and deleted; a disk with three times the text.')
    flags.DEFINE_string('output', '', 'A file for the tables, in Markdown.')
    cli.run(main)
