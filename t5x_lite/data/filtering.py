"""What of a corpus is left out: documents and sentences, by the rules of `cleaning` and `spans` and as `near_duplicates`.

Two passes over the blocks find it, before anything else is done with them: one cleans each document by itself and collects its spans, one makes signatures of
what is left. Between and after them spans and signatures are joined, out of core (8 bytes a document for the clusters, which may lie on disk, and nothing
else grow with the corpus). What was found is a list of numbers in the order of the corpus, and each later pass hands a block its own (`Removed`). Nothing is
written twice: documents are read from the input as ever, and `block_texts.texts_of` gives what is left of them.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
import dataclasses
import json
import os

import numpy as np

from t5x_lite.data import cleaning, filter_steps, near_duplicates, passes, shards, sources, spans

NEAR_DUPLICATES = 'near_duplicates'
MINHASH = 'minhash'
_COMMIT_BLOCKS, _COMMIT_BYTES = 64, 1 << 26


def count(counts: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """{'short_lines': {'lines': 3}} of {'short_lines.lines': 3}, in the order of the rules."""
    order = (*cleaning.RULES, NEAR_DUPLICATES)
    result: dict[str, dict[str, int]] = {}
    for name in sorted((name for name in counts if counts[name]), key=lambda name: (order.index(name.partition('.')[0]), name)):
        rule, _, unit = name.partition('.')
        result.setdefault(rule, {})[unit] = int(counts[name])
    return result


class Decisions:
    """What is left out, in files in the order of the corpus. Blocks must be asked for in their order."""

    def __init__(self, folder: str):
        self._documents = [_Rising(os.path.join(folder, name)) for name in ('rules.documents', 'near.documents')]
        self._sentences = _Rising(os.path.join(folder, 'sentences'))

    def of(self, block: sources.Block) -> sources.Block:
        """The block with what is left out of it."""
        documents = np.concatenate([file.of(block.start) for file in self._documents])
        return dataclasses.replace(block, removed=sources.Removed(tuple(documents.tolist()), self._sentences.of(block.index)))


class _Rising:
    """Rising int64 numbers of a file, by what is above their lower 32 bits; asked for in rising order. A file that is not there is empty."""

    def __init__(self, path: str):
        self._chunks = passes.read(path, np.dtype('<i8')) if os.path.exists(path) else iter(())
        self._left, self._found = np.zeros(0, np.int64), (-1, np.zeros(0, np.int64))

    def of(self, block: int) -> np.ndarray:
        """The lower bits of those of this block."""
        if block != self._found[0]:
            parts = []
            while True:
                first, last = np.searchsorted(self._left, [block << spans.BLOCK_SHIFT, (block + 1) << spans.BLOCK_SHIFT])
                parts.append(self._left[first:last] & ((1 << spans.BLOCK_SHIFT) - 1))
                self._left = self._left[last:]
                if len(self._left) or (chunk := next(self._chunks, None)) is None:
                    break
                self._left = chunk
            self._found = block, np.concatenate(parts)
        return self._found[1]


class LongDocuments:
    """Puts the results of a long document's parts together, which come in their order."""

    def __init__(self, rules: cleaning.Rules | None):
        self._rules = rules
        self._rule, self._sentences, self._signature = '', 0, None

    def verdict(self, found: filter_steps.Cleaned) -> str | None:
        """The rule that removes the document, or ''; None where this is not its last part."""
        if found.part == 1:
            self._rule, self._sentences = '', 0
        self._rule = self._rule or found.rule
        self._sentences += found.sentences
        return self._rules.verdict(self._rule, self._sentences) if found.last and self._rules else '' if found.last else None

    def signature(self, found: filter_steps.Signed) -> np.ndarray | None:
        """uint32 [1 or 0, permutations] of the document; None where this is not its last part."""
        if found.part == 1:
            self._signature = found.signatures
        elif len(found.signatures):
            self._signature = np.minimum(self._signature, found.signatures) if len(self._signature) else found.signatures
        return self._signature if found.last else None


class Filter:
    """Finds what is left out.

    Args:
      folder: for its files. Where an earlier run left some, it goes on from there.
      rules, job: what to look for; None for not.
      over: over(title, function, decisions, first) yields the results of `function(job, block)` for the blocks from `first` on, in their order, with what is left
        out by Decisions given to each.
    """

    def __init__(self, folder: str, rules: cleaning.Rules | None, job: near_duplicates.MinHash | None, over: Callable, log: Callable[[str], None]):
        self._folder, self._rules, self._job, self._over, self._log = folder, rules, job, over, log

    def run(self) -> dict[str, int]:
        """Does what is not done yet. Counts, as of `count`."""
        counts: collections.Counter = collections.Counter()
        for name, wanted, step in (('rules', self._rules, self._clean), ('near', self._job, self._deduplicate)):
            path = os.path.join(self._folder, f'{name}.done')
            if wanted and not os.path.exists(path):
                os.makedirs(self._folder, exist_ok=True)
                kept = step()
                shards.write_json(path, dict(kept.counts))
                kept.remove()
            if wanted:
                with open(path, encoding='utf-8') as file:
                    counts.update(json.load(file))
        return dict(counts)

    def _clean(self) -> passes.Pass:
        kept = passes.Pass(self._folder, 'clean', {'documents': np.dtype('<i8'), 'spans': spans.ENTRY, 'ranges': np.dtype(('<i8', 2))})
        try:
            self._going_on(kept)
            long, blocks = LongDocuments(self._rules), kept.end
            for found in self._over('cleaning', filter_steps.clean, None, kept.end):
                documents, ranges = found.documents, np.zeros((0, 2), np.int64)
                if found.part and (rule := long.verdict(found)):
                    found.counts[f'{rule}.documents'] += 1
                    documents, ranges = np.array([found.start << spans.BLOCK_SHIFT]), np.array([[found.start, found.block]])
                kept.add({'documents': documents, 'spans': found.spans, 'ranges': ranges}, found.counts)
                blocks = found.block + 1
                if found.last:
                    kept.commit(blocks, _COMMIT_BLOCKS, _COMMIT_BYTES)
            kept.commit(blocks)
            write_all(os.path.join(self._folder, 'rules.documents'), kept.read('documents'))
            ranges = np.concatenate([np.zeros((0, 2), np.int64), *kept.read('ranges')])
            chunks = (of_kept_documents(chunk, ranges) for chunk in kept.read('spans'))
            removed = spans.repeated_on_disk(chunks, kept.total('spans'), blocks, os.path.join(self._folder, 'spans'))
            kept.counts[f'{cleaning.REPEATED_SPANS}.sentences'] += write_all(os.path.join(self._folder, 'sentences'), removed)
        finally:
            kept.close()
        return kept

    def _deduplicate(self) -> passes.Pass:
        kept = passes.Pass(self._folder, 'sign', {'keys': np.dtype('<i8'), 'signatures': np.dtype(('<u4', self._job.permutations))})
        try:
            self._going_on(kept)
            long, blocks = LongDocuments(None), kept.end
            for found in self._over('comparing', filter_steps.sign, Decisions(self._folder), kept.end):
                signatures = long.signature(found) if found.part else found.signatures
                if signatures is not None:
                    keys = found.keys if not found.part else np.full(len(signatures), found.start << spans.BLOCK_SHIFT)
                    kept.add({'keys': keys, 'signatures': signatures}, {})
                blocks = found.block + 1
                if found.last:
                    kept.commit(blocks, _COMMIT_BLOCKS, _COMMIT_BYTES)
            kept.commit(blocks)
            total = kept.total('keys')
            self._log(f'joining the signatures of {total:,} documents')
            clusters = near_duplicates.duplicates_on_disk(
                kept.read('signatures'), total, lambda rows: kept.fetch('signatures', rows), self._job, self._folder
            )
            removed = write_all(os.path.join(self._folder, 'near.documents'), (kept.fetch('keys', others) for others in clusters.others()))
            kept.counts[f'{NEAR_DUPLICATES}.documents'] += removed
        finally:
            kept.close()
        return kept

    def _going_on(self, kept: passes.Pass) -> None:
        if kept.end:
            self._log(f'going on after {kept.end:,} blocks')


def of_kept_documents(found: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """The spans.ENTRY [n] that are in none of the long documents that are left out, int64 [m, 2] first and last block of each, rising."""
    if not len(ranges):
        return found
    blocks = found['position'] >> spans.BLOCK_SHIFT
    place = np.searchsorted(ranges[:, 0], blocks, side='right') - 1
    return found[(place < 0) | (blocks > ranges[place, 1])]


def write_all(path: str, chunks: Iterable[np.ndarray]) -> int:
    """Writes int64 numbers, all or nothing, and says how many."""
    total = 0
    with open(path + '.part', 'wb') as file:
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, '<i8').data if len(chunk) else b'')
            total += len(chunk)
    os.replace(path + '.part', path)
    return total
