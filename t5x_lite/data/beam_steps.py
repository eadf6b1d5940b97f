"""The steps of a preparation as an Apache Beam pipeline (beam_form.py), each a function that one worker calls for one element, made of those of the local
form."""

import collections
from collections.abc import Iterable, Iterator
import dataclasses
import os
import shutil
import tempfile
import uuid

import numpy as np

from t5x_lite.data import block_texts, buckets, checksums, cleaning, filter_steps, filtering, near_duplicates, shards, sources, spans, splitting, tokenizers, workers
from t5x_lite.data.preparation_settings import Settings
from t5x_lite.errors import UserError

_BUCKETS = 1 << 10  # of hashes, each joined by one worker at a time


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the steps need to know."""

    settings: Settings
    inputs: tuple[sources.Source, ...]
    facts: dict  # of the input and the tokenizer, for the manifest
    job: block_texts.Job
    folder: str

    def reader(self, source: sources.Source) -> sources.Reader:
        settings = self.settings
        return sources.Reader([source], settings.documents, self.job.lines, settings.seed, settings.field, settings.tfds_dir)


@dataclasses.dataclass(frozen=True)
class Looked:
    file: int
    pieces: list[tuple[int, int, bool, int]]  # size, part, last, key
    checksum: int
    size: int
    problems: list[sources.Problem]


def look(plan: Plan, file: tuple[int, sources.Source]) -> Looked:
    reader = plan.reader(file[1])
    pieces = [
        (len(piece.data), part, last, sources.document_key(piece.data, plan.settings.seed) if part == 1 else 0) for _, piece, part, last in reader.pieces()
    ]
    return Looked(file[0], pieces, reader.checksum, reader.bytes_read, reader.problems)


def pack(plan: Plan, looked: list[Looked]) -> tuple[dict, list[tuple[int, list]]]:
    """(checksum and problems of all; of each file the block of each of its pieces, without its data, and the piece's place in it)"""
    packer, checksum, problems, found = sources.Packer(), 0, [], []

    def put(blocks: Iterable[sources.Block]) -> None:
        for block in blocks:
            bare = dataclasses.replace(block, pieces=())
            for place, (owner, number) in enumerate(block.pieces):
                found[owner][1][number] = (bare, place)

    for file in sorted(looked, key=lambda file: file.file):
        checksum = checksums.joined(checksum, file.checksum, file.size)
        problems += file.problems
        found.append((file.file, [None] * len(file.pieces)))
        for number, (size, part, last, key) in enumerate(file.pieces):
            put(packer.add(plan.inputs[file.file], (file.file, number), size, part, last, key))
    put(packer.end())
    return {'checksum': checksum, 'problems': problems}, found


def facts_of(packed: tuple[dict, list]) -> dict:
    return packed[0]


def places_of(packed: tuple[dict, list]) -> list[tuple[int, list]]:
    return packed[1]


def read(plan: Plan, joined: tuple[int, dict]) -> Iterator[tuple[int, tuple]]:
    (source,), (places,) = joined[1]['file'], joined[1]['places']
    number = -1
    for number, (_, piece, _, _) in enumerate(plan.reader(source).pieces()):
        if number < len(places):
            block, place = places[number]
            yield block.index, (place, block, piece)
    if number + 1 != len(places):
        raise UserError(f'{source.name} changed while it was read; delete the output folder and start again')


def block_of(group: tuple[int, Iterable]) -> sources.Block:
    found = sorted(group[1], key=lambda item: item[0])
    return dataclasses.replace(found[0][1], pieces=tuple(piece for _, _, piece in found))


# What is left out.


def attach(key: str, joined: tuple[int, dict]) -> Iterator[sources.Block]:
    parts = list(joined[1]['removed'])
    for block in joined[1]['blocks']:
        before = block.removed or sources.Removed((), np.zeros(0, np.int64))
        if key == 'start':
            documents = sorted({*before.documents, *(place for part in parts for place in part.tolist())})
            yield dataclasses.replace(block, removed=dataclasses.replace(before, documents=tuple(documents)))
        else:
            yield dataclasses.replace(block, removed=dataclasses.replace(before, sentences=parts[0] if parts else before.sentences))


def part(found: filter_steps.Cleaned) -> list[tuple[int, filter_steps.Cleaned]]:
    return [(found.start, dataclasses.replace(found, spans=found.spans[:0], counts=collections.Counter(), problems=[]))] if found.part else []


def judge(rules: cleaning.Rules, group: tuple[int, Iterable]) -> tuple[tuple[int, int] | None, collections.Counter]:
    """(first and last block of a long document that is left out, or None; counts)"""
    long = filtering.LongDocuments(rules)
    parts = sorted(group[1], key=lambda part: part.part)
    rule = [long.verdict(part) for part in parts][-1]
    return ((parts[0].start, parts[-1].block), collections.Counter({f'{rule}.documents': 1})) if rule else (None, collections.Counter())


def counts_of(found: filter_steps.Cleaned) -> collections.Counter:
    return found.counts


def dropped_of(found: filter_steps.Cleaned) -> list[tuple[int, np.ndarray]]:
    return [(found.start, found.documents & _BELOW)] if len(found.documents) else []


def dropped_of_long(found: tuple) -> list[tuple[int, np.ndarray]]:
    return [(found[0][0], np.zeros(1, np.int64))] if found[0] else []


def ranges_of(found: list[tuple]) -> np.ndarray:
    return np.array(sorted(pair for pair, _ in found if pair), np.int64).reshape(-1, 2)


def hashes_of_spans(found: filter_steps.Cleaned, ranges: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    entries = filtering.of_kept_documents(found.spans, ranges)
    yield from by_number(buckets.by_hash(entries['hash'], _BUCKETS), entries)


def repeated_in(group: tuple[int, Iterable[np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    positions = spans.repeated(np.concatenate(list(group[1])))
    yield from by_number(positions >> spans.BLOCK_SHIFT, positions & _BELOW)


def unique(group: tuple[int, Iterable[np.ndarray]]) -> tuple[int, np.ndarray]:
    return group[0], np.unique(np.concatenate(list(group[1])))


def counts_of_spans(found: tuple[int, np.ndarray]) -> collections.Counter:
    return collections.Counter({f'{cleaning.REPEATED_SPANS}.sentences': len(found[1])})


_BELOW = (1 << spans.BLOCK_SHIFT) - 1


def by_number(numbers: np.ndarray, entries: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    order = np.argsort(numbers, kind='stable')
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    for part in np.split(order, cuts) if len(order) else ():
        yield int(numbers[part[0]]), entries[part]


def signatures_of(group: tuple[int, Iterable[filter_steps.Signed]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(keys, signatures) of whole documents."""
    parts = sorted(group[1], key=lambda part: part.part)
    if not parts[0].part:
        yield parts[0].keys, parts[0].signatures
        return
    long = filtering.LongDocuments(None)
    rows = [long.signature(part) for part in parts][-1]
    yield np.full(len(rows), group[0] << spans.BLOCK_SHIFT), rows


def bands_of(job: near_duplicates.MinHash, found: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    keys, rows = found
    entries = np.empty((len(keys), job.bands), near_duplicates.ENTRY)
    entries['hash'], entries['document'] = near_duplicates.band_hashes(rows, job.bands), keys[:, None]
    places = np.repeat(np.arange(len(keys)), job.bands)
    for bucket, chosen in by_number(buckets.by_hash(entries['hash'].ravel(), _BUCKETS), np.arange(entries.size)):
        yield bucket, (entries.ravel()[chosen], rows[places[chosen]])


def matches_of(job: near_duplicates.MinHash, group: tuple[int, Iterable]) -> np.ndarray:
    """int64 [n, 2]: pairs of documents (by their keys) that make the same clusters as all that match in this bucket."""
    parts = list(group[1])
    entries, rows = np.concatenate([part for part, _ in parts]), np.concatenate([part for _, part in parts])
    known, first, places = np.unique(entries['document'], return_index=True, return_inverse=True)
    entries['document'] = places  # numbers that count through these documents, in their order
    clusters = near_duplicates.Clusters(len(known))
    for pairs in near_duplicates.matches(entries, lambda documents: rows[first[documents]], job.threshold, clusters.joined):
        clusters.join(pairs)
    others = np.concatenate(list(clusters.others()))
    return np.stack([known[clusters.firsts(others)], known[others]], 1)


def others(pairs: list[np.ndarray]) -> np.ndarray:
    """int64, rising: keys of documents that are not the first of their cluster."""
    known, places = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *pairs]), return_inverse=True)
    clusters = near_duplicates.Clusters(len(known))
    clusters.join(places.reshape(-1, 2))
    return np.concatenate([np.zeros(0, np.int64), *(known[others] for others in clusters.others())])


def by_block(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    yield from by_number(keys >> spans.BLOCK_SHIFT, keys & _BELOW)


def counts_of_near(keys: np.ndarray) -> collections.Counter:
    return collections.Counter({f'{filtering.NEAR_DUPLICATES}.documents': len(keys)})


def added(counts: list[collections.Counter]) -> dict[str, int]:
    return dict(sum(counts, collections.Counter()))


# Held out, tokenizer, shards.


def add_contents(found: Iterable) -> splitting.Contents:
    total = splitting.Contents()
    for item in found:
        (total.merge if isinstance(item, splitting.Contents) else total.add)(item)
    return total


def problems_of(found: workers.Scanned) -> list[sources.Problem]:
    return found.problems


def state_of(plan: Plan, problems: list[sources.Problem], contents: splitting.Contents, facts: dict, removed: dict[str, int]) -> dict:
    order = {source.name: number for number, source in enumerate(plan.inputs)}
    problems = sorted(problems + facts['problems'], key=lambda problem: (order[problem.name], problem.line))
    if problems and not plan.settings.skip_broken:
        raise problems[0].error()
    inputs = {**plan.facts['inputs'], 'checksum': facts['checksum']}
    return {'settings': plan.settings.fixed(), **splitting.state_of(contents, removed, plan.settings, {**plan.facts, 'inputs': inputs, 'broken': len(problems)})}


def sampled_of(plan: Plan, block: sources.Block, state: dict) -> tuple[int, str]:
    job = dataclasses.replace(plan.job, threshold=state['threshold'], rate=min(plan.settings.tokenizer_characters / state['characters'], 1.0))
    return block.index, workers.sample(job, block).text


def train(plan: Plan, sampled: list[tuple[int, str]]) -> str:
    settings, final = plan.settings, os.path.join(plan.folder, 'tokenizer')
    with tempfile.TemporaryDirectory(dir=os.path.join(plan.folder, 'unfinished')) as place:
        path = os.path.join(place, 'sample.txt')
        with open(path, 'w', encoding='utf-8', newline='\n') as file:
            size = sum(file.write(text + '\n') for _, text in sorted(sampled) if text)
        if not size:
            raise UserError(f'--tokenizer_characters={settings.tokenizer_characters}: the sample came out empty; give more')
        workers.train(settings.tokenizer, path, settings.vocab_size, settings.lowercase, os.path.join(place, 'made'))
        return put(os.path.join(place, 'made'), final)


def take(plan: Plan, state: dict) -> str:
    del state  # known before: nothing is written of input that is refused
    with tempfile.TemporaryDirectory(dir=os.path.join(plan.folder, 'unfinished')) as place:
        tokenizers.load(plan.settings.tokenizer).save(os.path.join(place, 'made'))
        return put(os.path.join(place, 'made'), os.path.join(plan.folder, 'tokenizer'))


def put(made: str, final: str) -> str:
    shutil.rmtree(final, ignore_errors=True)
    os.replace(made, final)
    return final


def encode(job: block_texts.Job, block: sources.Block, state: dict, path: str) -> workers.Encoded:
    return workers.encode(dataclasses.replace(job, threshold=state['threshold'], tokenizer=path), block)


def lengths_of(found: workers.Encoded) -> tuple[int, bool, bool, dict[str, np.ndarray]]:
    """(block, whether it is part of a long document, its last, tokens of each document of each split)"""
    return found.block, bool(found.part), found.last, {split: new.lengths for split, new in found.splits.items()}


def cut(plan: Plan, found: list[tuple]) -> dict[int, list[tuple[str, int, int, int]]]:
    """{block: [(split, shard, first document, stop)]}"""
    shard, tokens, result = collections.Counter(), collections.Counter(), collections.defaultdict(list)
    for block, part, last, lengths in sorted(found, key=lambda item: item[0]):
        for split, sizes in lengths.items():
            if part and len(sizes):
                result[block].append((split, shard[split], 0, len(sizes)))
                tokens[split] += int(sizes.sum())
            for first, stop, after in () if part else shards.runs(sizes, tokens[split], plan.settings.shard_tokens):
                result[block].append((split, shard[split], first, stop))
                full = after >= plan.settings.shard_tokens
                shard[split], tokens[split] = shard[split] + full, 0 if full else after
        for split in list(tokens) if part and last else ():
            if tokens[split] >= plan.settings.shard_tokens:
                shard[split], tokens[split] = shard[split] + 1, 0
    return dict(result)


def shares(found: workers.Encoded, cut: dict) -> Iterator[tuple[tuple[str, int], tuple]]:
    for split, shard, first, stop in cut[found.block] if found.block in cut else ():
        yield (split, shard), (found.block, found.start, bool(found.part), found.splits[split].of(first, stop))


def write(plan: Plan, group: tuple[tuple[str, int], Iterable[tuple]], path: str) -> tuple[str, dict]:
    (split, shard), shares = group
    dtype = workers.token_dtype(tokenizers.load(path).vocab_size)
    place = os.path.join(plan.folder, 'unfinished', f'shard-{uuid.uuid4().hex}')  # of this attempt
    os.makedirs(os.path.join(place, 'unfinished'))
    writer, long = shards.ShardWriter(place, split, dtype, plan.settings.shard_tokens, shard), None
    for block, start, part, documents in sorted(shares, key=lambda share: share[0]):
        if long is not None and (not part or start != long):
            writer.end_long(long)
        long = start if part else None
        if part:
            writer.add_part(documents)
        else:
            writer.add(block, documents)
    if long is not None:
        writer.end_long(long)
    writer.finish((0, 0))
    (record,) = writer.records
    for name in os.listdir(place):
        if name != 'unfinished':
            os.replace(os.path.join(place, name), os.path.join(plan.folder, name))
    shutil.rmtree(place)
    return split, record


def finish(plan: Plan, result: str, records: list[tuple[str, dict]], state: dict) -> None:
    held_out = state['threshold'] or plan.settings.validation_input
    found = {split: sorted((record for owner, record in records if owner == split), key=lambda record: record['name']) for split in ('train', 'validation')}
    shards.write_json(result, {'state': state, 'records': found if held_out else {'train': found['train']}})
