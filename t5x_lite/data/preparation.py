"""Raw text to a prepared corpus: what `python -m t5x_lite.prepare` does.

Three passes over the input: a scan (finds broken input before hours are spent, counts documents, decides which are held out), a sample for
the tokenizer where one is trained, and the encoding. Where text is cleaned or deduplicated, up to two passes go before (`filtering`). One process reads and
writes, others work on blocks, and results are taken in the order of the blocks. So the corpus depends on the input and the settings alone, and memory on the
size of a block and the number of processes, not on the input.
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

from t5x_lite import outgoing
from t5x_lite.data import beam_form, beam_steps, block_texts, corpus, filtering, finishing, progress, shards, sources, splitting, tokenizers, workers
from t5x_lite.data.preparation_settings import Settings, checked, inputs
from t5x_lite.errors import UserError


_CHANGED = 'the input changed while it was read; delete the output folder and start again'


def prepare(settings: Settings, log: Callable[[str], None] = print) -> dict:
    """Writes the corpus (laid out as in `t5x_lite.data.corpus`) into settings.output and returns its manifest.

    Repeating it finishes what was interrupted, with the same bytes as if nothing had happened, and does nothing where all is done. What is to be in a bucket
    is made on this machine, which needs the room for it, and uploaded when it is whole.

    Raises:
      UserError: wrong settings; missing, empty or broken input; a folder that holds something else; a full disk; a bucket that cannot be written to.
    """
    settings = checked(settings)
    with outgoing.to(settings.output, corpus.MANIFEST, goes_on=True) as folder:
        return _made(dataclasses.replace(settings, output=folder), lambda line: log(line.replace(folder, settings.output)))


def _made(settings: Settings, log: Callable[[str], None]) -> dict:
    try:
        with contextlib.closing(_Preparation(settings, inputs(settings), log)) as preparation:
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


class _Preparation:
    def __init__(self, settings: Settings, inputs: list[sources.Source], log: Callable[[str], None]):
        self.settings, self.inputs, self.log, self.lock = settings, inputs, log, None
        self.folder, self.work = settings.output, os.path.join(settings.output, 'unfinished')
        self.fixed, self.rules, self.minhash = settings.fixed(), settings.rules, settings.minhash
        self.filtered = os.path.join(self.work, 'filtered') if self.rules or self.minhash else ''
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
        manifest_path, state_path = os.path.join(self.folder, corpus.MANIFEST), os.path.join(self.work, 'state.json')
        if os.path.exists(manifest_path):
            manifest = corpus.read_manifest(self.folder)
            self._compare(manifest, manifest_path)
            shutil.rmtree(self.work, ignore_errors=True)
            self.log(f'{self.folder} is prepared already; nothing to do')
            return manifest
        loaded = beam_form.load(self.settings) if self.settings.runner else None
        self._claim_folder(state_path)
        state = self._earlier_state(state_path)
        tokenizer, state, records = self._beam(loaded, state_path) if loaded else self._local(state, state_path)
        manifest = finishing.finish(self.folder, tokenizer, state, records)
        for line in finishing.summary(manifest, tokenizer, self.folder):
            self.log(line)
        return manifest

    def _facts(self) -> dict:
        return {'inputs': self.input_facts, 'tokenizer_sha256': self.given.fingerprint if self.given else ''}

    def _beam(self, loaded, state_path: str) -> tuple[tokenizers.Tokenizer, dict, dict[str, list[dict]]]:
        # What says whose folder this is; nothing that the local form could go on with.
        shards.write_json(state_path, {'settings': self.fixed, **self._facts(), 'inputs': {**self.input_facts, 'checksum': None}})
        state, records = beam_form.run(beam_steps.Plan(self.settings, tuple(self.inputs), self._facts(), self._job(), self.folder), loaded, self.log)
        return tokenizers.load(os.path.join(self.folder, 'tokenizer')), state, records

    def _local(self, state: dict | None, state_path: str) -> tuple[tokenizers.Tokenizer, dict, dict[str, list[dict]]]:
        with workers.Pool(self.settings.workers) as self.pool:
            if state and 'threshold' in state:
                self.log(f'{self.folder}: going on where the last run stopped')
            else:
                removed = self._filter()
                state = {'settings': self.fixed, **self._scan(removed)}
                shards.write_json(state_path, state)
            tokenizer = self._tokenizer(state)
            writers = self._encode(tokenizer, state)
        return tokenizer, state, {split: writer.records for split, writer in writers.items()}

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
        return {'removed': {}, **state}

    def _compare(self, there: dict, path: str) -> None:
        """Refuses to mix settings or inputs in one folder. `there` was written to `path` by an earlier run."""
        theirs = Settings(input=(), output='').fixed() | there['settings']  # a corpus of before a setting was made without it
        wrong = [
            f'{key} ({json.dumps(theirs[key])} there, {json.dumps(value)} here)'
            for key, value in self.fixed.items()
            if value != theirs[key]
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

    def _job(self, **more) -> block_texts.Job:
        settings = self.settings
        return block_texts.Job(
            settings.documents, settings.sentences == 'line', settings.field, settings.seed, whole=self.whole, rules=self.rules, minhash=self.minhash, **more
        )

    def _over(
        self, title: str, reader: sources.Reader, function: Callable, job: block_texts.Job, wanted=lambda block: True, tokens=None,
        decisions: filtering.Decisions | None = None,
    ) -> Iterator:  # fmt: skip
        """Results of the blocks of the input, with progress shown and broken input refused, or counted."""
        shown = progress.Progress(title, self.log, max(self.input_facts['bytes'], 1))
        self.num_broken, self.broken = 0, []
        blocks = (decisions.of(block) if decisions else block for block in reader.blocks() if wanted(block))
        for result in self.pool.in_order(function, job, blocks):
            self._refuse(result.problems)
            self._refuse(reader.problems)
            yield result
            shown.show(reader.bytes_on_disk, reader.bytes_read, tokens() if tokens else None)
        self._refuse(reader.problems)
        shown.show(reader.bytes_on_disk, reader.bytes_read, tokens() if tokens else None, last=True)

    def _decisions(self) -> filtering.Decisions | None:
        return filtering.Decisions(self.filtered) if self.filtered else None

    def _refuse(self, problems: list[sources.Problem]) -> None:
        if problems and not self.settings.skip_broken:
            raise problems[0].error()
        self.num_broken += len(problems)
        self.broken = (self.broken + problems)[:5]
        problems.clear()

    def _filter(self) -> dict[str, int]:
        """Finds what is left out, going on where an earlier run of the same settings and files stopped. Counts, as of `filtering.count`."""
        if not self.filtered:
            return {}
        path = os.path.join(self.filtered, 'made_of.json')
        mine = {'settings': self.fixed, **self._facts()}
        touched = True
        if os.path.exists(path):
            written = os.stat(path).st_mtime_ns
            touched = any(os.stat(source.name).st_mtime_ns >= written for source in self.inputs if source.kind != 'tfds')
            with open(path, encoding='utf-8') as file:
                touched = touched or json.load(file) != mine
        if touched:
            shutil.rmtree(self.filtered, ignore_errors=True)
            os.makedirs(self.filtered)
            shards.write_json(path, mine)

        def over(title: str, function: Callable, decisions: filtering.Decisions | None, first: int) -> Iterator:
            reader = self._reader()
            yield from self._over(title, reader, function, self._job(), lambda block: block.start >= first, decisions=decisions)
            self._same_input(reader, os.path.join(self.filtered, 'checksum.json'))

        return filtering.Filter(self.filtered, self.rules, self.minhash, over, self.log).run()

    def _same_input(self, reader: sources.Reader, path: str) -> None:
        """Refuses input that changed from one pass to the next."""
        if not os.path.exists(path):
            shards.write_json(path, reader.checksum)
        with open(path, encoding='utf-8') as file:
            if json.load(file) != reader.checksum:
                raise UserError(_CHANGED)

    def _scan(self, removed: dict[str, int]) -> dict:
        """Counts and checks everything once; decides which documents are held out."""
        reader, contents = self._reader(), splitting.Contents()
        for result in self._over('reading', reader, workers.scan, self._job(), decisions=self._decisions()):
            contents.add(result)
        if self.filtered:
            self._same_input(reader, os.path.join(self.filtered, 'checksum.json'))
        for problem in self.broken:
            self.log(f'left out: {problem.name}:{problem.line}: {problem.what}')
        self.log(
            f'{contents.documents:,} documents, {contents.characters:,} characters'
            + (f', {self.num_broken:,} broken places left out' if self.num_broken else '')
        )
        inputs = {**self.input_facts, 'checksum': reader.checksum}
        return splitting.state_of(contents, removed, self.settings, {**self._facts(), 'inputs': inputs, 'broken': self.num_broken})

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
            for result in self._over(
                'sampling', self._reader(), workers.sample, self._job(threshold=state['threshold'], rate=rate), decisions=self._decisions()
            ):
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
        results = self._over('encoding', reader, workers.encode, job, wanted, lambda: sum(writer.tokens for writer in writers.values()), self._decisions())
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
                raise UserError(_CHANGED)
            for writer in writers.values():
                writer.finish((reader.num_blocks, 0))
        finally:
            for writer in writers.values():
                writer.close()
        return writers

