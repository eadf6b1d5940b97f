"""A preparation as one Apache Beam pipeline: for corpora that outgrow one machine. The same bytes as the local form's, for any number of workers.

Every step (beam_steps.py) is made of functions of the local form (`workers`, `filter_steps`, `spans`, `near_duplicates`, `splitting`, `shards`); here is what
goes where:

    files -> what pieces they have -> (one worker) which block each piece is in -> blocks                read twice, each file by one worker
    blocks -> cleaned -> spans by hash -> repeated sentences -> blocks without them                      joined by key
    blocks -> signatures -> bands by hash -> pairs -> (one worker) clusters -> blocks without them       joined by key
    blocks -> counts and keys -> (one worker) what is held out
    blocks -> sample -> (one worker) tokenizer
    blocks -> encoded -> lengths -> (one worker) what goes into which shard -> shards                    written by the workers

What one worker gathers is small: a few numbers for each quarter of a megabyte, pairs of documents, the sample. Input and output lie where all workers see them
under the same path: a shared file system, for Dataflow one that its workers mount (there is no gs:// here), and the workers have this package. Runners repeat
what fails; a pipeline that is interrupted begins again. A shard appears under its name when it is whole, the manifest last.
"""

from collections.abc import Callable, Iterable
import functools
import json
import os
import re
import shlex
from typing import Any


from t5x_lite.data import beam_steps, filter_steps, tokenizers, workers
from t5x_lite.data.preparation_settings import Settings
from t5x_lite.errors import UserError

_MARK = '\u2020'  # around the message of a UserError, which runners bury in traces of theirs


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


def run(plan: beam_steps.Plan, loaded: Any, log: Callable[[str], None]) -> tuple[dict, dict[str, list[dict]]]:
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


def _build(beam: Any, pipeline: Any, plan: beam_steps.Plan, result: str) -> None:
    def apart(name: str, values: Any, sides: dict) -> Any:
        """What has side inputs stays a stage of its own: the in-process runner waits for ever where it is fused with what they are made of (Beam's issue
        26190)."""
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
    read = mapped('look at files', files, functools.partial(beam_steps.look, plan))
    packed = gathered('pack', functools.partial(beam_steps.pack, plan), read)
    facts = mapped('facts', packed, beam_steps.facts_of)
    places = spread('places', packed, beam_steps.places_of)
    pieces = spread('read', {'file': files, 'places': places} | 'files and places' >> beam.CoGroupByKey(), functools.partial(beam_steps.read, plan))
    blocks = mapped('blocks', by_key('pieces of blocks', pieces), beam_steps.block_of)
    counts = []

    def without(name: str, found: Any, key: str, decisions: Any) -> Any:
        """Blocks with decisions attached: (block.start or block.index, int64 array)."""
        keyed = found | f'{name}: keyed' >> beam.Map(_keyed, key)
        both = {'blocks': keyed, 'removed': decisions} | f'{name}: join' >> beam.CoGroupByKey()
        return spread(f'{name}: attach', both, functools.partial(beam_steps.attach, key))

    if job.rules:
        cleaned = mapped('clean', blocks, functools.partial(filter_steps.clean, job))
        long = mapped('judge', by_key('parts', spread('only parts', cleaned, beam_steps.part)), functools.partial(beam_steps.judge, job.rules))
        counts += [cleaned | 'counts of rules' >> beam.Map(beam_steps.counts_of), long | 'counts of long' >> beam.Map(_second)]
        dropped = (spread('dropped', cleaned, beam_steps.dropped_of), spread('dropped long', long, beam_steps.dropped_of_long)) | 'all dropped' >> beam.Flatten()
        blocks = without('rules', blocks, 'start', dropped)
        ranges = gathered('ranges', beam_steps.ranges_of, long)
        keyed = spread('spans', cleaned, beam_steps.hashes_of_spans, ranges=one(ranges))
        repeated = spread('repeated', by_key('spans by hash', keyed), beam_steps.repeated_in)
        sentences = mapped('sentences', by_key('repeated by block', repeated), beam_steps.unique)
        counts.append(sentences | 'counts of spans' >> beam.Map(beam_steps.counts_of_spans))
        blocks = without('spans', blocks, 'index', sentences)
    if job.minhash:
        signed = mapped('sign', blocks, functools.partial(filter_steps.sign, job))
        signatures = spread('signatures', by_key('signed by document', signed | 'signed' >> beam.Map(_keyed, 'start')), beam_steps.signatures_of)
        entries = spread('bands', signatures, functools.partial(beam_steps.bands_of, job.minhash))
        pairs = mapped('compare', by_key('bands by hash', entries), functools.partial(beam_steps.matches_of, job.minhash))
        near = gathered('cluster', beam_steps.others, pairs)
        counts.append(near | 'counts of near duplicates' >> beam.Map(beam_steps.counts_of_near))
        blocks = without('near duplicates', blocks, 'start', spread('near by block', near, beam_steps.by_block))

    scanned = mapped('scan', blocks, functools.partial(workers.scan, job))
    contents = scanned | 'contents' >> beam.CombineGlobally(beam_steps.add_contents)
    problems = spread('problems', scanned, beam_steps.problems_of)
    removed = gathered('removed', beam_steps.added, *counts)
    state = gathered('state', functools.partial(beam_steps.state_of, plan), problems, contents=one(contents), facts=one(facts), removed=one(removed))
    if plan.settings.tokenizer in tokenizers.TRAINERS:
        sampled = mapped('sample', blocks, functools.partial(beam_steps.sampled_of, plan), state=one(state))
        path = gathered('train the tokenizer', functools.partial(beam_steps.train, plan), sampled)
    else:
        path = mapped('take the tokenizer', state, functools.partial(beam_steps.take, plan))
    encoded = mapped('encode', blocks, functools.partial(beam_steps.encode, job), state=one(state), path=one(path))
    cut = gathered('cut into shards', functools.partial(beam_steps.cut, plan), encoded | 'lengths' >> beam.Map(beam_steps.lengths_of))
    shares = spread('shares', encoded, beam_steps.shares, cut=one(cut))
    records = mapped('write', by_key('by shard', shares), functools.partial(beam_steps.write, plan), path=one(path))
    gathered('finish', functools.partial(beam_steps.finish, plan, result), records, state=one(state))


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
