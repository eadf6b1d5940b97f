"""What is left of the documents in one block of text: the first step of everything that `prepare` does to a block."""

import dataclasses

import numpy as np

from t5x_lite.data import cleaning, near_duplicates, sentences, sources, spans


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker needs to know besides the block."""

    documents: str
    lines: bool
    field: str
    seed: int
    threshold: int = 0  # documents whose key is below are held out
    rate: float = 1.0  # share of lines in the tokenizer's sample
    whole: bool = False  # white space is text to the tokenizer: all of it is kept
    tokenizer: str = ''  # its folder
    done: tuple[tuple[str, tuple[int, int]], ...] = ()  # (split, documents before this place are in finished shards)
    rules: cleaning.Rules | None = None  # of cleaning
    minhash: near_duplicates.MinHash | None = None


@dataclasses.dataclass(frozen=True)
class Document:
    place: int  # its number in the block
    base: int  # characters of those before it, as `t5x_lite.data.spans` counts them
    text: str


@dataclasses.dataclass
class Texts:
    kept: list[tuple[int, str]]  # number of a document in the block, what is left of it
    problems: list[sources.Problem]
    emptied: int  # documents of which repeated spans left too little


def documents_of(job: Job, block: sources.Block) -> tuple[list[Document], list[sources.Problem]]:
    """The documents of a block, or its part of one, as they are in the input."""
    found, problems, base = [], [], 0
    for item in sources.documents(block, job.documents, job.field, job.whole):
        if isinstance(item, sources.Problem):
            problems.append(item)
        else:
            found.append(Document(len(found), base, item))
            base += len(item) + 1
    return found, problems


def texts_of(job: Job, block: sources.Block) -> Texts:
    """Those that are not left out, cleaned, without the sentences that are."""
    documents, problems = documents_of(job, block)
    result = Texts([], problems, 0)
    if not job.rules and not block.removed:
        result.kept = [(document.place, document.text) for document in documents]
        return result
    removed = block.removed or sources.Removed((), np.zeros(0, np.int64))
    for document in documents:
        if document.place in removed.documents:
            continue
        text = cleaning.clean(document.text, job.rules).text if job.rules and job.rules.of_pages else document.text
        first, last = np.searchsorted(removed.sentences, [document.base, document.base + len(document.text) + 1])
        if first < last:
            left = spans.without(sentences.cut(text, job.lines), removed.sentences[first:last] - document.base)
            least = job.rules.min_sentences if cleaning.FEW_SENTENCES in job.rules.names else 1
            text = ''.join(left) if block.part or sum(bool(sentence.strip()) for sentence in left) >= least else ''
            result.emptied += not block.part and not text.strip()
        if job.whole and block.part > 1 and text and not text[0].isspace() and text is not document.text:
            text = '\n' + text  # what was cleaned or cut has no white space there, and goes on with a text
        if text.strip() or (job.whole and block.part and text):
            result.kept.append((document.place, text))
    return result
