"""Raw text to a prepared corpus: what `python -m t5x_lite.prepare` does.

Three passes over the input: a scan (finds broken input before hours are spent, counts documents, decides which are held out), a sample for
the tokenizer where one is trained, and the encoding. One process reads and writes, others work on blocks, and results are taken in the
order of the blocks. So the corpus depends on the input and the settings alone, and memory on the size of a block and the number of
processes, not on the input.
"""

import concurrent.futures.process
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator

import numpy as np

from t5x_lite.data import corpus, progress, shards, sources, tokenizers, workers
from t5x_lite.errors import UserError, nearest

_EXACT = 4096  # held-out documents: up to so many, their number is exact
_FREE = ('output', 'workers')  # settings that do not change the corpus


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a corpus is made of: the flags of `python -m t5x_lite.prepare`, which explains them."""

    input: tuple[str, ...]
    output: str
    tokenizer: str = 'wordpiece'  # a kind of tokenizers.TRAINERS, or a folder
    vocab_size: int | None = None  # None: tokenizers.DEFAULT_SIZES, or that of the folder
    lowercase: bool | None = None  # None: WordPiece yes, others no, or as the folder says
    field: str = 'text'
    documents: str = 'file'
    sentences: str = 'auto'
    validation_fraction: float = 0.05
    validation_input: tuple[str, ...] = ()
    tokenizer_characters: int = 40_000_000
    shard_tokens: int = 1 << 24
    skip_broken: bool = False
    tfds_dir: str = ''
    seed: int = 0
    workers: int = 0  # 0: one a core; 1: this process alone


def prepare(settings: Settings, log: Callable[[str], None] = print) -> dict:
    """Writes the corpus (laid out as in `t5x_lite.data.corpus`) into settings.output and returns its manifest.

    Repeating it finishes what was interrupted, with the same bytes as if nothing had happened, and does nothing where all is done.

    Raises:
      UserError: wrong settings; missing, empty or broken input; a folder that holds something else; a full disk.
    """
    settings = _checked(settings)
    try:
        with contextlib.closing(_Preparation(settings, _inputs(settings), log)) as preparation:
            return preparation.run()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOENT):
            raise
        raise UserError(
            f'{error.filename or settings.output}: {error.strerror}; finished shards are kept, repeat the command to go on'
        ) from error
    except KeyboardInterrupt as error:
        raise UserError('interrupted; finished shards are kept, repeat the command to go on') from error
    except concurrent.futures.process.BrokenProcessPool as error:
        raise UserError(
            'a worker process died (out of memory?); finished shards are kept, repeat the command with fewer --workers'
        ) from error


def _checked(settings: Settings) -> Settings:
    """The settings with their defaults filled in."""
    trained = settings.tokenizer in tokenizers.TRAINERS
    if not trained and not os.path.exists(settings.tokenizer):
        raise UserError(f'--tokenizer={settings.tokenizer}: no such kind or folder, {nearest(settings.tokenizer, tokenizers.TRAINERS)}')
    for name, choices in (('documents', sources.DOCUMENTS), ('sentences', ('auto', 'line'))):
        if getattr(settings, name) not in choices:
            raise UserError(f'--{name}={getattr(settings, name)}: {nearest(getattr(settings, name), choices)}')
    if not 0 <= settings.validation_fraction < 1:
        raise UserError(f'--validation_fraction={settings.validation_fraction}: it must be at least 0 and below 1')
    for name, lowest in (('shard_tokens', 1), ('tokenizer_characters', 1), ('workers', 0), ('vocab_size', 1)):
        value = getattr(settings, name)
        if value is not None and value < lowest:
            raise UserError(f'--{name}={value}: it must be at least {lowest}')
    if not settings.output:
        raise UserError('--output is empty; name the folder to write')
    if not trained and settings.lowercase is not None:
        raise UserError(f'--lowercase is for training a tokenizer; the one in {settings.tokenizer} decides for itself')
    wordpiece = settings.tokenizer == 'wordpiece'
    if trained and settings.lowercase and not wordpiece:
        raise UserError(f'--lowercase is for --tokenizer=wordpiece; a {settings.tokenizer} tokenizer keeps case, leave the flag out')
    return dataclasses.replace(
        settings,
        vocab_size=(settings.vocab_size or tokenizers.DEFAULT_SIZES[settings.tokenizer]) if trained else settings.vocab_size,
        lowercase=wordpiece and settings.lowercase is not False if trained else None,
        validation_fraction=0.0 if settings.validation_input else settings.validation_fraction,
        workers=settings.workers or _cores(),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _inputs(settings: Settings) -> list[sources.Source]:
    split = '' if settings.validation_fraction else 'train'
    inputs = sources.find(settings.input, settings.tfds_dir, split)
    if not settings.validation_input:
        return inputs
    held_out = sources.find(settings.validation_input, settings.tfds_dir, 'validation', '--validation_input')
    names = {os.path.realpath(source.name) for source in inputs}
    for source in held_out:
        if os.path.realpath(source.name) in names:
            raise UserError(f'{source.name} is in both --input and --validation_input; held-out text must not be trained on')
    return inputs + held_out


class _Preparation:
    def __init__(self, settings: Settings, inputs: list[sources.Source], log: Callable[[str], None]):
        self.settings, self.inputs, self.log, self.lock = settings, inputs, log, None
        self.folder, self.work = settings.output, os.path.join(settings.output, 'unfinished')
        fixed = {key: value for key, value in dataclasses.asdict(settings).items() if key not in _FREE}
        self.fixed = json.loads(json.dumps(fixed))
        names = ''.join(f'{source.name}\n{source.size}\n{source.split}\n' for source in inputs)
        self.input_facts = {
            'files': len(inputs),
            'bytes': sum(source.size for source in inputs),
            'names_sha256': hashlib.sha256(names.encode()).hexdigest(),
        }
        self.given = None if settings.tokenizer in tokenizers.TRAINERS else tokenizers.load(settings.tokenizer)
        # White space is text to some tokenizers: then nothing of it may change.
        self.whole = self.given.keeps_whitespace if self.given else settings.tokenizer in tokenizers.KEEP_WHITESPACE
        if self.given and settings.vocab_size not in (None, self.given.vocab_size):
            raise UserError(
                f'--vocab_size={settings.vocab_size}, but {settings.tokenizer} has {self.given.vocab_size} tokens; leave the flag out'
            )

    def run(self) -> dict:
        manifest_path, state_path = os.path.join(self.folder, 'manifest.json'), os.path.join(self.work, 'state.json')
        if os.path.exists(manifest_path):
            manifest = corpus.read_manifest(self.folder)
            self._compare(manifest, manifest_path)
            shutil.rmtree(self.work, ignore_errors=True)
            self.log(f'{self.folder} is prepared already; nothing to do')
            return manifest
        with workers.Pool(self.settings.workers) as self.pool:
            self._claim_folder(state_path)
            state = self._earlier_state(state_path)
            if state:
                self.log(f'{self.folder}: going on where the last run stopped')
            else:
                state = {'settings': self.fixed, **self._scan()}
                shards.write_json(state_path, state)
            tokenizer = self._tokenizer(state)
            writers = self._encode(tokenizer, state)
        manifest = self._finish(tokenizer, state, writers)
        self._summary(manifest, tokenizer)
        return manifest

    def close(self) -> None:
        if self.lock:
            self.lock.close()

    def _claim_folder(self, state_path: str) -> None:
        """Takes an empty folder or one of ours, and keeps other runs out of it."""
        foreign = os.path.exists(self.folder) and (not os.path.isdir(self.folder) or set(os.listdir(self.folder)) - {'unfinished'})
        if foreign and not os.path.exists(state_path):
            raise UserError(f'{self.folder}: not empty, and not a prepared corpus; name another --output')
        os.makedirs(self.work, exist_ok=True)
        self.lock = open(os.path.join(self.work, 'lock'), 'w')  # held until we are done, or dead
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f'{self.folder}: another run is writing there; wait for it, or name another --output') from error

    def _earlier_state(self, path: str) -> dict | None:
        """What an interrupted run knew; None where it left nothing worth keeping."""
        if not os.path.exists(path):
            return None
        with open(path, encoding='utf-8') as file:
            state = json.load(file)
        try:
            self._compare(state, path)
        except UserError:
            if os.path.exists(os.path.join(self.folder, 'tokenizer')):
                raise
            return None
        return state

    def _compare(self, there: dict, path: str) -> None:
        """Refuses to mix settings or inputs in one folder. `there` was written to `path` by an earlier run."""
        theirs = there.get('settings', {})
        wrong = [
            f'{key} ({json.dumps(theirs.get(key))} there, {json.dumps(value)} here)'
            for key, value in self.fixed.items()
            if value != theirs.get(key)
        ]
        if wrong:
            raise UserError(f'{self.folder} was made with other settings: {", ".join(wrong)}; name another --output')
        facts = there['inputs']
        same = all(facts[key] == value for key, value in self.input_facts.items())
        if same:
            written = os.stat(path).st_mtime_ns
            if any(os.stat(source.name).st_mtime_ns >= written for source in self.inputs if source.kind != 'tfds'):
                self.log('input files were touched since; comparing their contents')
                same = self._checksum() == facts['checksum']
        if not same:
            raise UserError(f'{self.folder} was made from other files than --input names, or they changed since; name another --output')
        if self.given and self.given.fingerprint != there['tokenizer_sha256']:
            raise UserError(f'{self.folder} was made with another tokenizer than {self.settings.tokenizer} is now; name another --output')

    def _reader(self) -> sources.Reader:
        settings = self.settings
        return sources.Reader(
            self.inputs, settings.documents, settings.sentences == 'line', settings.seed, settings.field, settings.tfds_dir
        )

    def _checksum(self) -> int:
        reader = self._reader()
        for _ in reader.blocks():
            pass
        return reader.checksum

    def _job(self, **more) -> workers.Job:
        settings = self.settings
        return workers.Job(settings.documents, settings.sentences == 'line', settings.field, settings.seed, whole=self.whole, **more)

    def _over(
        self, title: str, reader: sources.Reader, function: Callable, job: workers.Job, wanted=lambda block: True, tokens=None
    ) -> Iterator:
        """Results of the blocks of the input, with progress shown and broken input refused, or counted."""
        shown = progress.Progress(title, self.log, max(self.input_facts['bytes'], 1))
        self.num_broken, self.broken = 0, []
        blocks = (block for block in reader.blocks() if wanted(block))
        for result in self.pool.in_order(function, job, blocks):
            self._refuse(result.problems)
            self._refuse(reader.problems)
            yield result
            shown.show(reader.bytes_on_disk, reader.bytes_read, tokens() if tokens else None)
        self._refuse(reader.problems)
        shown.show(reader.bytes_on_disk, reader.bytes_read, tokens() if tokens else None, last=True)

    def _refuse(self, problems: list[sources.Problem]) -> None:
        if problems and not self.settings.skip_broken:
            raise problems[0].error()
        self.num_broken += len(problems)
        self.broken = (self.broken + problems)[:5]
        problems.clear()

    def _scan(self) -> dict:
        """Counts and checks everything once; decides which documents are held out: those whose key is below a threshold."""
        reader, fraction = self._reader(), self.settings.validation_fraction
        documents = characters = keyed = 0
        smallest, largest = np.zeros(0, np.uint64), 0
        for result in self._over('reading', reader, workers.scan, self._job()):
            documents += result.documents
            characters += result.characters
            keyed += len(result.keys)
            if len(result.keys):
                smallest = np.sort(np.concatenate([smallest, result.keys]))[:_EXACT]
                largest = max(largest, int(result.keys.max()))
        for problem in self.broken:
            self.log(f'left out: {problem.name}:{problem.line}: {problem.what}')
        if not characters:
            raise UserError(f'--input={",".join(self.settings.input)}: there is no text in {len(self.inputs)} file(s)')
        threshold = 0
        if fraction:
            if keyed < 2 or int(smallest[0]) == largest:
                what = 'only one document' if keyed < 2 else 'only documents that are all the same'
                raise UserError(
                    f'{what} in the input, so none can be held out; if blank lines separate documents give --documents=paragraph, '
                    'else name held-out text with --validation_input, or give --validation_fraction=0'
                )
            count = min(max(round(fraction * keyed), 1), keyed - 1)
            threshold = int(smallest[count - 1]) + 1 if count <= len(smallest) else int(fraction * 2**64)
            threshold = min(threshold, largest)
        self.log(
            f'{documents:,} documents, {characters:,} characters'
            + (f', {self.num_broken:,} broken places left out' if self.num_broken else '')
        )
        return {
            'inputs': {**self.input_facts, 'checksum': reader.checksum},
            'tokenizer_sha256': self.given.fingerprint if self.given else '',
            'characters': characters,
            'threshold': threshold,
            'broken': self.num_broken,
        }

    def _tokenizer(self, state: dict) -> tokenizers.Tokenizer:
        final, made = os.path.join(self.folder, 'tokenizer'), os.path.join(self.work, 'tokenizer')
        if not os.path.exists(final):
            shutil.rmtree(made, ignore_errors=True)
            if self.given:
                self.given.save(made)
            else:
                self._train_tokenizer(made, state)
            os.replace(made, final)
            shards.sync_folder(self.folder)
        tokenizer = tokenizers.load(final)
        if tokenizer.unk_id is None:
            self.log('the tokenizer has no unknown token')
        return tokenizer

    def _train_tokenizer(self, made: str, state: dict) -> None:
        settings, path = self.settings, os.path.join(self.work, 'sample.txt')
        rate = min(settings.tokenizer_characters / state['characters'], 1.0)
        size = 0
        with open(path, 'w', encoding='utf-8', newline='\n') as file:
            for result in self._over('sampling', self._reader(), workers.sample, self._job(threshold=state['threshold'], rate=rate)):
                if result.text:
                    size += file.write(result.text + '\n')
        if not size:
            raise UserError(f'--tokenizer_characters={settings.tokenizer_characters}: the sample came out empty; give more')
        start = time.monotonic()
        pieces = f' of {settings.vocab_size:,} pieces' if settings.vocab_size else ''
        self.log(f'training a {settings.tokenizer} tokenizer{pieces} on {size:,} characters')
        self.pool.apart(
            workers.train, settings.tokenizer, path, settings.vocab_size, settings.lowercase, made,
            every=progress.EVERY, tick=lambda: self.log(f'training the tokenizer, {time.monotonic() - start:.0f} s'),
        )  # fmt: skip
        os.remove(path)

    def _encode(self, tokenizer: tokenizers.Tokenizer, state: dict) -> dict[str, shards.ShardWriter]:
        held_out = state['threshold'] or self.settings.validation_input
        names = ('train', 'validation') if held_out else ('train',)
        dtype = workers.token_dtype(tokenizer.vocab_size)
        writers = {split: shards.ShardWriter(self.folder, split, dtype, self.settings.shard_tokens) for split in names}
        done = {split: writer.done for split, writer in writers.items()}
        found = sum(len(writer.records) for writer in writers.values())
        if found:
            self.log(f'{found} finished shard(s) found')

        def wanted(block: sources.Block) -> bool:
            return any(done[split][0] <= block.start for split in ([block.split] if block.split else names))

        job = self._job(threshold=state['threshold'], tokenizer=os.path.join(self.folder, 'tokenizer'), done=tuple(done.items()))
        reader = self._reader()
        results = self._over('encoding', reader, workers.encode, job, wanted, lambda: sum(writer.tokens for writer in writers.values()))
        try:
            for result in results:
                for split, new in result.splits.items():
                    if result.part:
                        writers[split].add_part(new)
                    else:
                        writers[split].add(result.block, new)
                if result.part and result.last:
                    for writer in writers.values():
                        writer.end_long(result.start)
            if reader.checksum != state['inputs']['checksum']:
                raise UserError('the input changed while it was read; delete the output folder and start again')
            for writer in writers.values():
                writer.finish((reader.num_blocks, 0))
        finally:
            for writer in writers.values():
                writer.close()
        return writers

    def _finish(self, tokenizer: tokenizers.Tokenizer, state: dict, writers: dict[str, shards.ShardWriter]) -> dict:
        splits = {}
        for split, writer in writers.items():
            records = [{key: value for key, value in record.items() if key != 'end'} for record in writer.records]
            counts = shards.count_tokens(self.folder, records, writer.dtype, tokenizer.vocab_size)
            if not counts.any():
                raise UserError(f'no tokens came out for the {split} part; is this text? Delete {self.folder} and try other input')
            shards.write_index(self.folder, split, records)
            if split == 'train':
                shards.write_npy(os.path.join(self.folder, 'unigram_counts.npy'), counts)
            totals = {key: sum(record[key] for record in records) for key in ('documents', 'sentences', 'tokens', 'characters')}
            unknown = 0 if tokenizer.unk_id is None else int(counts[tokenizer.unk_id])
            splits[split] = {**totals, 'unknown': unknown, 'shards': records}
        manifest = {
            'format': corpus.FORMAT,
            'tokenizer_sha256': tokenizer.fingerprint,
            'vocab_size': tokenizer.vocab_size,
            'dtype': workers.token_dtype(tokenizer.vocab_size).name,
            'settings': self.fixed,
            'inputs': state['inputs'],
            'broken': state['broken'],
            'splits': splits,
        }
        shards.write_json(os.path.join(self.folder, 'manifest.json'), manifest)
        shutil.rmtree(self.work, ignore_errors=True)
        return manifest

    def _summary(self, manifest: dict, tokenizer: tokenizers.Tokenizer) -> None:
        self.log(f'{"":12}{"documents":>14}{"sentences":>14}{"tokens":>16}{"characters/token":>18}{"unknown":>10}')
        for split, part in manifest['splits'].items():
            self.log(
                f'{split:12}{part["documents"]:>14,}{part["sentences"]:>14,}{part["tokens"]:>16,}'
                f'{part["characters"] / part["tokens"]:>18.2f}{part["unknown"] / part["tokens"]:>10.3%}'
            )
        if manifest['broken']:
            self.log(f'{manifest["broken"]:,} broken places of the input were left out')
        asked, got = self.settings.vocab_size, manifest['vocab_size']
        less = f', less than the {asked:,} asked for: the text has no more that repeats' if asked and got < asked else ''
        self.log(f'{got:,} pieces in the tokenizer{less}')
        if tokenizer.mask_id is not None:
            self.log(
                f'pre-train on it: python -m t5x_lite.train --config=configs/bert.py:tiny --config.data.path={self.folder} --workdir=runs/tiny'
            )
