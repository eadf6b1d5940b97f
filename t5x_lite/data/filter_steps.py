"""What `t5x_lite.data.filtering` does to one block of text."""

import collections
import dataclasses

import numpy as np

from t5x_lite.data import cleaning, near_duplicates, sentences, sources, spans
from t5x_lite.data.block_texts import Job, documents_of, texts_of


@dataclasses.dataclass
class Cleaned:
    """What the rules say of a block's documents, or of its part of one."""

    block: int
    start: int
    part: int
    last: bool
    documents: np.ndarray  # int64: keys of whole documents that are left out
    spans: np.ndarray  # spans.ENTRY of those that are not
    rule: str  # of a part, as `cleaning.Page`
    sentences: int  # likewise
    counts: collections.Counter
    problems: list[sources.Problem]


@dataclasses.dataclass
class Signed:
    """MinHash signatures of a block's documents, or of its part of one."""

    block: int
    start: int
    part: int
    last: bool
    keys: np.ndarray  # int64
    signatures: np.ndarray  # uint32 [keys, permutations]
    problems: list[sources.Problem]


def clean(job: Job, block: sources.Block) -> Cleaned:
    documents, problems = documents_of(job, block)
    result = Cleaned(block.index, block.start, block.part, block.last, np.zeros(0, np.int64), np.zeros(0, spans.ENTRY), '', 0, collections.Counter(), problems)
    dropped, found = [], [result.spans]
    for document in documents:
        page = cleaning.clean(document.text, job.rules) if job.rules.of_pages else cleaning.Page(document.text, '', 0, collections.Counter())
        result.counts.update({f'{rule}.lines': count for rule, count in page.lines.items()})
        if block.part:
            result.rule, result.sentences = page.rule, page.sentences
        elif rule := job.rules.verdict(page.rule, page.sentences):
            result.counts[f'{rule}.documents'] += 1
            dropped.append((block.start << spans.BLOCK_SHIFT) + document.place)
            continue
        if cleaning.REPEATED_SPANS in job.rules.names:
            found.append(spans.entries(sentences.cut(page.text, job.lines), block.index, document.base))
    result.documents, result.spans = np.array(dropped, np.int64), np.concatenate(found)
    return result


def sign(job: Job, block: sources.Block) -> Signed:
    texts = texts_of(job, block)
    kept = [(place, text) for place, text in texts.kept if text.strip()]
    keys = np.array([(block.start << spans.BLOCK_SHIFT) + place for place, _ in kept], np.int64)
    signatures = near_duplicates.signatures([text for _, text in kept], job.minhash)
    return Signed(block.index, block.start, block.part, block.last, keys, signatures, texts.problems)
