"""A preparation as one Apache Beam pipeline: for corpora that outgrow one machine. The same bytes as the local form's, for any number of workers.

Every step is a function of the local form (`workers`, `filter_steps`, `spans`, `near_duplicates`, `splitting`, `shards`); here is only what goes where:

    files -> what pieces they have -> (one worker) which block each piece is in -> blocks                read twice, each file by one worker
    blocks -> cleaned -> spans by hash -> repeated sentences -> blocks without them                      joined by key
    blocks -> signatures -> bands by hash -> pairs -> (one worker) clusters -> blocks without them       joined by key
    blocks -> counts and keys -> (one worker) what is held out
    blocks -> sample -> (one worker) tokenizer
    blocks -> encoded -> lengths -> (one worker) what goes into which shard -> shards                    written by the workers

What one worker gathers is small: a few numbers for each quarter of a megabyte, pairs of documents, the sample. Input and output lie where all workers see them under the same
path: a shared file system, for Dataflow one that its workers mount (there is no gs:// here), and the workers have this package. Runners repeat what fails; a pipeline that is interrupted begins
again. A shard appears under its name when it is whole, the manifest last.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import json
import os
import re
import shlex
import shutil
import tempfile
from typing import Any
import uuid

import numpy as np

from t5x_lite.data import block_texts, buckets, checksums, cleaning, filter_steps, filtering, near_duplicates, shards, sources, spans, splitting, tokenizers, workers
from t5x_lite.data.preparation_settings import Settings
from t5x_lite.errors import UserError

_BUCKETS = 1 << 10  # of hashes, each joined by one worker at a time
_MARK = '\u2020'  # around the message of a UserError, which runners bury in traces of theirs


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


def load(settings: Settings) -> Any:
    """apache_beam and its pipeline options, checked before anything is read. Raises UserError where it is not installed, or options are unknown."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
    except ImportError as error:
        raise UserError(f"--runner={settings.runner} needs Apache Beam, which cannot be imported ({error}); pip install 't5x-lite[beam]'") from error
    given = [option for text in settings.beam_options for option in shlex.split(text)]
    options = PipelineOptions(given)
    if unknown := options.get_all_options(drop_default=True, retain_unknown_options=True).keys() - options.get_all_options().keys():
        raise UserError(f'--beam_options: Beam knows no {", ".join(sorted(unknown))}; see the pipeline options of {settings.runner}')
    options.view_as(StandardOptions).runner = settings.runner
    if settings.runner == 'DirectRunner' and not any(option.startswith('--direct_') for option in given):
        options.view_as(DirectOptions).direct_num_workers = settings.workers
        options.view_as(DirectOptions).direct_running_mode = 'multi_processing' if settings.workers > 1 else 'in_memory'
    return beam, options


def run(plan: Plan, loaded: Any, log: Callable[[str], None]) -> tuple[dict, dict[str, list[dict]]]:
    """Runs the pipeline. (state, as `finishing.finish` takes it; records of the shards of each split)

    Raises:
      UserError: as the local form.
    """
    beam, options = loaded
    result = os.path.join(plan.folder, 'unfinished', 'beam.json')
    if os.path.exists(result):
        os.remove(result)
    log(f'{plan.settings.runner}: {len(plan.inputs):,} file(s), {plan.facts["inputs"]["bytes"] / 1e6:,.0f} MB')
    try:
        with beam.Pipeline(options=options) as pipeline:
            _build(beam, pipeline, plan, result)
    except Exception as error:  # runners raise whatever they like
        if found := re.search(f'{_MARK}(.*?){_MARK}', str(error), re.DOTALL):
            raise UserError(found[1]) from error
        raise
    with open(result, encoding='utf-8') as file:
        found = json.load(file)
    return found['state'], found['records']


def _build(beam: Any, pipeline: Any, plan: Plan, result: str) -> None:
    def apart(name: str, values: Any, sides: dict) -> Any:
        """What has side inputs stays a stage of its own: the in-process runner waits for ever where it is fused with what they are made of (Beam's issue 26190)."""
        return values | f'{name}: apart' >> beam.Reshuffle() if sides else values

    def mapped(name: str, values: Any, function: Callable, **sides: Any) -> Any:
        return apart(name, values, sides) | name >> beam.Map(_said, function, tuple(sides), *sides.values())

    def spread(name: str, values: Any, function: Callable, **sides: Any) -> Any:
        return apart(name, values, sides) | name >> beam.FlatMap(_said, functools.partial(_listed, function), tuple(sides), *sides.values())

    def by_key(name: str, values: Any) -> Any:
        return values | name >> beam.GroupByKey()

    def gathered(name: str, function: Callable, *values: Any, **sides: Any) -> Any:
        """function([all values in any order]) as the only element."""
        parts = tuple(part | f'{name}: as one {number}' >> beam.Map(_with_none) for number, part in enumerate(values))
        none = pipeline | f'{name}: none' >> beam.Create([(None, _NOTHING)])  # a group, where there are no values
        grouped = by_key(f'{name}: together', (*parts, none) | f'{name}: all' >> beam.Flatten())
        return mapped(name, grouped, functools.partial(_of_group, function), **sides)

    one = beam.pvalue.AsSingleton
    job = plan.job
    files = pipeline | 'files' >> beam.Create(list(enumerate(plan.inputs))) | 'spread' >> beam.Reshuffle()
    read = mapped('look at files', files, functools.partial(_look, plan))
    packed = gathered('pack', functools.partial(_pack, plan), read)
    facts = mapped('facts', packed, _facts_of)
    places = spread('places', packed, _places_of)
    pieces = spread('read', {'file': files, 'places': places} | 'files and places' >> beam.CoGroupByKey(), functools.partial(_read, plan))
    blocks = mapped('blocks', by_key('pieces of blocks', pieces), _block)
    counts = []

    def without(name: str, found: Any, key: str, decisions: Any) -> Any:
        """Blocks with decisions attached: (block.start or block.index, int64 array)."""
        keyed = found | f'{name}: keyed' >> beam.Map(_keyed, key)
        both = {'blocks': keyed, 'removed': decisions} | f'{name}: join' >> beam.CoGroupByKey()
        return spread(f'{name}: attach', both, functools.partial(_attach, key))

    if job.rules:
        cleaned = mapped('clean', blocks, functools.partial(filter_steps.clean, job))
        long = mapped('judge', by_key('parts', spread('only parts', cleaned, _part)), functools.partial(_judge, job.rules))
        counts += [cleaned | 'counts of rules' >> beam.Map(_counts_of), long | 'counts of long' >> beam.Map(_second)]
        dropped = (spread('dropped', cleaned, _dropped), spread('dropped long', long, _dropped_long)) | 'all dropped' >> beam.Flatten()
        blocks = without('rules', blocks, 'start', dropped)
        ranges = gathered('ranges', _ranges, long)
        keyed = spread('spans', cleaned, _spans, ranges=one(ranges))
        repeated = spread('repeated', by_key('spans by hash', keyed), _repeated)
        sentences = mapped('sentences', by_key('repeated by block', repeated), _unique)
        counts.append(sentences | 'counts of spans' >> beam.Map(_counts_of_spans))
        blocks = without('spans', blocks, 'index', sentences)
    if job.minhash:
        signed = mapped('sign', blocks, functools.partial(filter_steps.sign, job))
        signatures = spread('signatures', by_key('signed by document', signed | 'signed' >> beam.Map(_keyed, 'start')), _signatures)
        entries = spread('bands', signatures, functools.partial(_bands, job.minhash))
        pairs = mapped('compare', by_key('bands by hash', entries), functools.partial(_matches, job.minhash))
        near = gathered('cluster', _others, pairs)
        counts.append(near | 'counts of near duplicates' >> beam.Map(_counts_of_near))
        blocks = without('near duplicates', blocks, 'start', spread('near by block', near, _by_block))

    scanned = mapped('scan', blocks, functools.partial(workers.scan, job))
    contents = scanned | 'contents' >> beam.CombineGlobally(_add_contents)
    problems = spread('problems', scanned, _problems)
    removed = gathered('removed', _sum, *counts)
    state = gathered('state', functools.partial(_state, plan), problems, contents=one(contents), facts=one(facts), removed=one(removed))
    if plan.settings.tokenizer in tokenizers.TRAINERS:
        sampled = mapped('sample', blocks, functools.partial(_sample, plan), state=one(state))
        path = gathered('train the tokenizer', functools.partial(_train, plan), sampled)
    else:
        path = mapped('take the tokenizer', state, functools.partial(_take, plan))
    encoded = mapped('encode', blocks, functools.partial(_encode, job), state=one(state), path=one(path))
    cut = gathered('cut into shards', functools.partial(_cut, plan), encoded | 'lengths' >> beam.Map(_lengths))
    shares = spread('shares', encoded, _shares, cut=one(cut))
    records = mapped('write', by_key('by shard', shares), functools.partial(_write, plan), path=one(path))
    gathered('finish', functools.partial(_finish, plan, result), records, state=one(state))


_NOTHING = 'nothing'


def _said(value: Any, function: Callable, names: tuple[str, ...], *sides: Any) -> Any:
    """function(value, name=side, ...)"""
    try:
        return function(value, **dict(zip(names, sides, strict=True)))
    except UserError as error:
        raise RuntimeError(f'{_MARK}{error}{_MARK}') from error


def _listed(function: Callable, *args: Any, **sides: Any) -> list:
    return list(function(*args, **sides))


def _with_none(value: Any) -> tuple[None, Any]:
    return None, value


def _of_group(function: Callable, group: tuple[None, Iterable], **sides: Any) -> Any:
    return function([value for value in group[1] if not isinstance(value, str) or value != _NOTHING], **sides)


def _second(pair: tuple) -> Any:
    return pair[1]


def _keyed(found: Any, key: str) -> tuple[int, Any]:
    return getattr(found, key), found


# Files and blocks.


@dataclasses.dataclass(frozen=True)
class _Looked:
    file: int
    pieces: list[tuple[int, int, bool, int]]  # size, part, last, key
    checksum: int
    size: int
    problems: list[sources.Problem]


def _look(plan: Plan, file: tuple[int, sources.Source]) -> _Looked:
    reader = plan.reader(file[1])
    pieces = [
        (len(piece.data), part, last, sources.document_key(piece.data, plan.settings.seed) if part == 1 else 0) for _, piece, part, last in reader.pieces()
    ]
    return _Looked(file[0], pieces, reader.checksum, reader.bytes_read, reader.problems)


def _pack(plan: Plan, looked: list[_Looked]) -> tuple[dict, list[tuple[int, list]]]:
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


def _facts_of(packed: tuple[dict, list]) -> dict:
    return packed[0]


def _places_of(packed: tuple[dict, list]) -> list[tuple[int, list]]:
    return packed[1]


def _read(plan: Plan, joined: tuple[int, dict]) -> Iterator[tuple[int, tuple]]:
    (source,), (places,) = joined[1]['file'], joined[1]['places']
    number = -1
    for number, (_, piece, _, _) in enumerate(plan.reader(source).pieces()):
        if number < len(places):
            block, place = places[number]
            yield block.index, (place, block, piece)
    if number + 1 != len(places):
        raise UserError(f'{source.name} changed while it was read; delete the output folder and start again')


def _block(group: tuple[int, Iterable]) -> sources.Block:
    found = sorted(group[1], key=lambda item: item[0])
    return dataclasses.replace(found[0][1], pieces=tuple(piece for _, _, piece in found))


# What is left out.


def _attach(key: str, joined: tuple[int, dict]) -> Iterator[sources.Block]:
    parts = list(joined[1]['removed'])
    for block in joined[1]['blocks']:
        before = block.removed or sources.Removed((), np.zeros(0, np.int64))
        if key == 'start':
            documents = sorted({*before.documents, *(place for part in parts for place in part.tolist())})
            yield dataclasses.replace(block, removed=dataclasses.replace(before, documents=tuple(documents)))
        else:
            yield dataclasses.replace(block, removed=dataclasses.replace(before, sentences=parts[0] if parts else before.sentences))


def _part(found: filter_steps.Cleaned) -> list[tuple[int, filter_steps.Cleaned]]:
    return [(found.start, dataclasses.replace(found, spans=found.spans[:0], counts=collections.Counter(), problems=[]))] if found.part else []


def _judge(rules: cleaning.Rules, group: tuple[int, Iterable]) -> tuple[tuple[int, int] | None, collections.Counter]:
    """(first and last block of a long document that is left out, or None; counts)"""
    long = filtering.LongDocuments(rules)
    parts = sorted(group[1], key=lambda part: part.part)
    rule = [long.verdict(part) for part in parts][-1]
    return ((parts[0].start, parts[-1].block), collections.Counter({f'{rule}.documents': 1})) if rule else (None, collections.Counter())


def _counts_of(found: filter_steps.Cleaned) -> collections.Counter:
    return found.counts


def _dropped(found: filter_steps.Cleaned) -> list[tuple[int, np.ndarray]]:
    return [(found.start, found.documents & _BELOW)] if len(found.documents) else []


def _dropped_long(found: tuple) -> list[tuple[int, np.ndarray]]:
    return [(found[0][0], np.zeros(1, np.int64))] if found[0] else []


def _ranges(found: list[tuple]) -> np.ndarray:
    return np.array(sorted(pair for pair, _ in found if pair), np.int64).reshape(-1, 2)


def _spans(found: filter_steps.Cleaned, ranges: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    entries = filtering.of_kept_documents(found.spans, ranges)
    yield from _by_number(buckets.by_hash(entries['hash'], _BUCKETS), entries)


def _repeated(group: tuple[int, Iterable[np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    positions = spans.repeated(np.concatenate(list(group[1])))
    yield from _by_number(positions >> spans.BLOCK_SHIFT, positions & _BELOW)


def _unique(group: tuple[int, Iterable[np.ndarray]]) -> tuple[int, np.ndarray]:
    return group[0], np.unique(np.concatenate(list(group[1])))


def _counts_of_spans(found: tuple[int, np.ndarray]) -> collections.Counter:
    return collections.Counter({f'{cleaning.REPEATED_SPANS}.sentences': len(found[1])})


_BELOW = (1 << spans.BLOCK_SHIFT) - 1


def _by_number(numbers: np.ndarray, entries: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    order = np.argsort(numbers, kind='stable')
    cuts = np.flatnonzero(np.diff(numbers[order])) + 1
    for part in np.split(order, cuts) if len(order) else ():
        yield int(numbers[part[0]]), entries[part]


def _signatures(group: tuple[int, Iterable[filter_steps.Signed]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(keys, signatures) of whole documents."""
    parts = sorted(group[1], key=lambda part: part.part)
    if not parts[0].part:
        yield parts[0].keys, parts[0].signatures
        return
    long = filtering.LongDocuments(None)
    rows = [long.signature(part) for part in parts][-1]
    yield np.full(len(rows), group[0] << spans.BLOCK_SHIFT), rows


def _bands(job: near_duplicates.MinHash, found: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    keys, rows = found
    entries = np.empty((len(keys), job.bands), near_duplicates.ENTRY)
    entries['hash'], entries['document'] = near_duplicates.band_hashes(rows, job.bands), keys[:, None]
    places = np.repeat(np.arange(len(keys)), job.bands)
    for bucket, chosen in _by_number(buckets.by_hash(entries['hash'].ravel(), _BUCKETS), np.arange(entries.size)):
        yield bucket, (entries.ravel()[chosen], rows[places[chosen]])


def _matches(job: near_duplicates.MinHash, group: tuple[int, Iterable]) -> np.ndarray:
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


def _others(pairs: list[np.ndarray]) -> np.ndarray:
    """int64, rising: keys of documents that are not the first of their cluster."""
    known, places = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *pairs]), return_inverse=True)
    clusters = near_duplicates.Clusters(len(known))
    clusters.join(places.reshape(-1, 2))
    return np.concatenate([np.zeros(0, np.int64), *(known[others] for others in clusters.others())])


def _by_block(keys: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    yield from _by_number(keys >> spans.BLOCK_SHIFT, keys & _BELOW)


def _counts_of_near(keys: np.ndarray) -> collections.Counter:
    return collections.Counter({f'{filtering.NEAR_DUPLICATES}.documents': len(keys)})


def _sum(counts: list[collections.Counter]) -> dict[str, int]:
    return dict(sum(counts, collections.Counter()))


# Held out, tokenizer, shards.


def _add_contents(found: Iterable) -> splitting.Contents:
    total = splitting.Contents()
    for item in found:
        (total.merge if isinstance(item, splitting.Contents) else total.add)(item)
    return total


def _problems(found: workers.Scanned) -> list[sources.Problem]:
    return found.problems


def _state(plan: Plan, problems: list[sources.Problem], contents: splitting.Contents, facts: dict, removed: dict[str, int]) -> dict:
    order = {source.name: number for number, source in enumerate(plan.inputs)}
    problems = sorted(problems + facts['problems'], key=lambda problem: (order[problem.name], problem.line))
    if problems and not plan.settings.skip_broken:
        raise problems[0].error()
    inputs = {**plan.facts['inputs'], 'checksum': facts['checksum']}
    return {'settings': plan.settings.fixed(), **splitting.state_of(contents, removed, plan.settings, {**plan.facts, 'inputs': inputs, 'broken': len(problems)})}


def _sample(plan: Plan, block: sources.Block, state: dict) -> tuple[int, str]:
    job = dataclasses.replace(plan.job, threshold=state['threshold'], rate=min(plan.settings.tokenizer_characters / state['characters'], 1.0))
    return block.index, workers.sample(job, block).text


def _train(plan: Plan, sampled: list[tuple[int, str]]) -> str:
    settings, final = plan.settings, os.path.join(plan.folder, 'tokenizer')
    with tempfile.TemporaryDirectory(dir=os.path.join(plan.folder, 'unfinished')) as place:
        path = os.path.join(place, 'sample.txt')
        with open(path, 'w', encoding='utf-8', newline='\n') as file:
            size = sum(file.write(text + '\n') for _, text in sorted(sampled) if text)
        if not size:
            raise UserError(f'--tokenizer_characters={settings.tokenizer_characters}: the sample came out empty; give more')
        workers.train(settings.tokenizer, path, settings.vocab_size, settings.lowercase, os.path.join(place, 'made'))
        return _put(os.path.join(place, 'made'), final)


def _take(plan: Plan, state: dict) -> str:
    del state  # known before: nothing is written of input that is refused
    with tempfile.TemporaryDirectory(dir=os.path.join(plan.folder, 'unfinished')) as place:
        tokenizers.load(plan.settings.tokenizer).save(os.path.join(place, 'made'))
        return _put(os.path.join(place, 'made'), os.path.join(plan.folder, 'tokenizer'))


def _put(made: str, final: str) -> str:
    shutil.rmtree(final, ignore_errors=True)
    os.replace(made, final)
    return final


def _encode(job: block_texts.Job, block: sources.Block, state: dict, path: str) -> workers.Encoded:
    return workers.encode(dataclasses.replace(job, threshold=state['threshold'], tokenizer=path), block)


def _lengths(found: workers.Encoded) -> tuple[int, bool, bool, dict[str, np.ndarray]]:
    """(block, whether it is part of a long document, its last, tokens of each document of each split)"""
    return found.block, bool(found.part), found.last, {split: new.lengths for split, new in found.splits.items()}


def _cut(plan: Plan, found: list[tuple]) -> dict[int, list[tuple[str, int, int, int]]]:
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


def _shares(found: workers.Encoded, cut: dict) -> Iterator[tuple[tuple[str, int], tuple]]:
    for split, shard, first, stop in cut[found.block] if found.block in cut else ():
        yield (split, shard), (found.block, found.start, bool(found.part), found.splits[split].of(first, stop))


def _write(plan: Plan, group: tuple[tuple[str, int], Iterable[tuple]], path: str) -> tuple[str, dict]:
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


def _finish(plan: Plan, result: str, records: list[tuple[str, dict]], state: dict) -> None:
    held_out = state['threshold'] or plan.settings.validation_input
    found = {split: sorted((record for owner, record in records if owner == split), key=lambda record: record['name']) for split in ('train', 'validation')}
    shards.write_json(result, {'state': state, 'records': found if held_out else {'train': found['train']}})
