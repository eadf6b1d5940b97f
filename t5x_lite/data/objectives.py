"""Objectives: how examples are made from a prepared corpus. (numpy only)

An objective is a class that `config.data.source` names. It is an endless sequence of examples: each epoch has as many, and example i is a
pure function of (seed, i), so that any process can make any example at any time. `PlannedExamples` has what objectives over a corpus share:
a plan for each epoch, computed from lengths alone, and a permutation of it.
"""

import abc
import dataclasses
import math
import threading
from typing import Any

import numpy as np

from t5x_lite.config import Config, Layout, Masking
from t5x_lite.data import packing, random, tokenizers
from t5x_lite.data.masking import MlmMasker
from t5x_lite.errors import UserError

_PLANS_KEPT = 2  # batches near the end of an epoch need two
_SECTION = 1 << 16  # tokens
FULL = 0.985  # of packed rows: real tokens below which more cuts are made
_ROLES = {'end': 'token that ends a text (</s>, <|endoftext|> or [SEP])', 'start': 'token to begin with (<s>, [CLS] or [PAD])', 'blank': 'token that stands for a hidden one ([MASK] or <extra_id_0>)'}


class PlannedExamples(abc.ABC):
    """An endless, random-access sequence of examples with a plan an epoch. Subclasses give `_plan` and `_examples`, and say what they need.

    With dynamic masking each epoch has its own plan and masks; with static masking there are `config.data.mlm.duplicates` of them, then the
    same again, each time in a new order. Epochs number as many examples as epoch 0 (another plan may hold slightly more or fewer: random
    ones are then left out or repeated), so that finding example `i` takes no plan but its own.

    Attributes:
      layouts: those that the class can express; the first stands for `auto`.
      refusals: for others, why not: a sentence that says what to use instead.
      needs: special tokens that the tokenizer must have, as `t5x_lite.data.tokenizers.Tokenizer` names them, without '_id'.
      concatenates: whether config.data.concatenate means something to it.
    """

    from_corpus = True  # tells the pipeline to open config.data.path
    layouts: tuple[Layout, ...] = (Layout.encoder,)
    refusals: dict[Layout, str] = {}
    needs: tuple[str, ...] = ('pad', 'cls', 'sep', 'mask')
    concatenates = False

    def __init__(self, config: Config, split: str, seed: int, seq_len: int, max_predictions: int, corpus: Any):
        """`corpus` is a `t5x_lite.data.corpus.Corpus` or anything with its attributes; `seed` may be any integer."""
        self.layout = self.layout_of(config)
        if config.data.concatenate and not self.concatenates:
            raise UserError(f'config.data.concatenate is for language models; {type(self).__name__} keeps documents apart: leave it out')
        self.corpus, self.split, self.seq_len, self.max_predictions = corpus, split, seq_len, max_predictions
        self.mlm = config.data.mlm
        if split == 'validation' and self.mlm.validation_probability:
            self.mlm = dataclasses.replace(self.mlm, probability=self.mlm.validation_probability)
        if self.mlm.masking is Masking.static and self.mlm.duplicates < 1:
            raise UserError(f'config.data.mlm.duplicates is {self.mlm.duplicates}; static masking needs at least 1')
        if not 0 <= self.mlm.short_sequence_probability <= 1:
            raise UserError(f'config.data.mlm.short_sequence_probability is {self.mlm.short_sequence_probability}; it must lie from 0 to 1')
        self.tokenizer = tokenizers.load(corpus.tokenizer_path)
        absent = [role for role in self.needs if getattr(self.tokenizer, f'{role}_id') is None]
        if absent:
            name, token = type(self).__name__, _ROLES.get(absent[0], f'[{absent[0].upper()}]')
            raise UserError(f'{corpus.tokenizer_path} has no {token}, which {name} needs; prepare with another --tokenizer')
        # Another length, corpus or objective draws other numbers from the same seed.
        self._root = random.key(seed, type(self).__name__, split, seq_len, corpus.num_sentences, corpus.num_tokens)
        self._plans: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._size = 0

    @classmethod
    def layout_of(cls, config: Config) -> Layout:
        """The layout of the examples; UserError where the class cannot express it."""
        layout = cls.layouts[0] if config.data.layout is Layout.auto else config.data.layout
        if layout not in cls.layouts:
            why = cls.refusals.get(layout, f'it makes examples for {" or ".join(known.name for known in cls.layouts)}')
            raise UserError(f'config.data.source {cls.__name__} cannot be laid out for config.data.layout={layout.name}: {why}')
        return layout

    def __len__(self) -> int:
        """Examples of epoch 0."""
        if not self._size:
            self._size = len(self._plan_of(0))
        return self._size

    def get(self, indices) -> dict[str, np.ndarray]:
        """The examples with these numbers (int64[n] >= 0): a dict of arrays whose first axis is n."""
        epochs, numbers = np.divmod(np.atleast_1d(np.asarray(indices, np.int64)), len(self))
        result: dict[str, np.ndarray] = {}
        for epoch in np.unique(epochs).tolist():
            here = np.flatnonzero(epochs == epoch)
            planned = epoch % self.mlm.duplicates if self.mlm.masking is Masking.static else epoch
            plan = self._plan_of(planned)
            entries = random.permute(numbers[here] % len(plan), len(plan), random.key(self._root, 'order', epoch))
            for name, part in self._examples(plan, entries, random.key(self._root, 'epoch', planned)).items():
                result.setdefault(name, np.empty((len(epochs), *part.shape[1:]), part.dtype))[here] = part
        return result

    def _plan_of(self, epoch: int):
        if (plan := self._plans.get(epoch)) is None:
            with self._lock:
                if (plan := self._plans.get(epoch)) is None:
                    plan = self._plan(random.key(self._root, 'epoch', epoch))
                    kept = list(self._plans.items())[-(_PLANS_KEPT - 1) :]
                    self._plans = dict([*kept, (epoch, plan)])
        return plan

    @abc.abstractmethod
    def _plan(self, root: int):
        """Whatever `_examples` needs, from lengths alone and the key of the epoch; its len() is the number of examples, at least 1."""

    @abc.abstractmethod
    def _examples(self, plan, entries: np.ndarray, root: int) -> dict[str, np.ndarray]:
        """The examples with these places (int64[n]) in the plan made with the same `root`; each depends on nothing else."""

    def _fill(self, tokens: np.ndarray, row: np.ndarray, column: np.ndarray, start: np.ndarray, length: np.ndarray) -> None:
        """Copies spans of the corpus into tokens[row, column:column + length]."""
        read = self.corpus.tokens
        for r, c, s, n in zip(row.tolist(), column.tolist(), start.tolist(), length.tolist()):
            tokens[r, c : c + n] = read(s, s + n)


@dataclasses.dataclass
class Pieces:
    """The plan of an epoch: spans of text, and which of them share a row."""

    start: np.ndarray  # int64[pieces], place in the token stream
    length: np.ndarray  # int64[pieces], without special tokens
    rows: packing.Rows

    def __len__(self) -> int:
        return len(self.rows)


class PiecewiseExamples(PlannedExamples):
    """Examples of documents cut into pieces. Subclasses give `_longest`, and `_plan` by way of `_pieces`.

    A piece is a document. A longer one is cut into pieces of at most `_longest` tokens, at the last end of a sentence that fits. Inside a
    sentence it is cut only if the sentence is longer than that, or if `_plan` says so for want of short pieces to fill rows up with.
    """

    short_probability = 0.0  # of pieces (but not documents that fit) that are made shorter, down to 2 tokens: cuts then fall elsewhere each epoch

    def __init__(self, config, split, seed, seq_len, max_predictions, corpus):
        super().__init__(config, split, seed, seq_len, max_predictions, corpus)
        self._sentences = np.asarray(corpus.sentence_starts)

    @abc.abstractmethod
    def _longest(self, root: int, start: np.ndarray):
        """The most tokens of a piece that begins at `start` (int64[n], place in the token stream): an int, or int64[n]."""

    def _sections(self):
        """Bounds of documents in the token stream, int64[n + 1]. Very long ones count as several, cut at many places at once."""
        documents = np.asarray(self.corpus.document_starts)
        if self._sentences[-1] < _SECTION:
            return np.unique(self._sentences[documents])
        offset = self._sentences[:-1] - np.repeat(self._sentences[documents[:-1]], np.diff(documents))
        section = offset // _SECTION
        inside = np.flatnonzero(section[1:] > section[:-1]) + 1
        return np.unique(self._sentences[np.concatenate([documents, inside])])

    def _slacks(self):
        """What to try in turn as `slack` of `_pieces` until rows are full enough: from cuts at sentence ends alone to a cut whenever one is due."""
        return self.seq_len, self.seq_len // 8, self.seq_len // 16, self.seq_len // 32, 0

    def _pieces(self, root, slack):
        """Start (in the token stream) and length of every piece, int64[pieces] each, in the order of the corpus.

        A sentence end counts if a piece of full length would leave at most `slack` tokens to it.
        """
        bounds = self._sections()
        here, last = bounds[:-1], bounds[1:]
        found = []
        while len(here):
            longest = self._longest(root, here)
            short, target = np.False_, longest
            if self.short_probability:
                short = random.uniform(random.bits(root, here, random.key('short'))) < self.short_probability
                draws = random.bits(root, here, random.key('target'))
                target = np.where(short, 2 + random.below(draws, np.maximum(1, longest - 1)), longest)
            before = self._sentences[np.searchsorted(self._sentences, here + target, side='right') - 1]
            after = self._sentences[np.minimum(np.searchsorted(self._sentences, here, side='right'), len(self._sentences) - 1)]
            # The last sentence end that counts; else, for a short piece, the first end if the row holds that; else a cut.
            end = np.where(short & (after <= here + longest), after, here + longest)
            end = np.where((before > here) & (short | (before >= here + longest - slack)), before, end)
            end = np.where(last - here <= longest, last, end)
            found.append((here, end - here))
            going = end < last
            here, last = end[going], last[going]
        start, length = (np.concatenate(parts) for parts in zip(*found))
        order = np.argsort(start)
        return start[order], length[order]


class PackedMlm(PiecewiseExamples):
    """Masked language modelling without next sentence prediction, over packed rows.

    This is the objective of encoders, Layout.encoder. Decoders and encoder-decoders learn the same text to text: for their layouts this is
    `t5x_lite.data.text_to_text:TextToTextMlm`.

    A unit is a document, as [CLS] ... [SEP] with its own sequence id and positions from 0. A longer one is cut into pieces of at most S - 2
    tokens, at the last end of a sentence that fits. Inside a sentence it is cut only if the sentence is longer than that, or if there are
    so few short pieces to fill rows up with that over 1.5 % of an epoch would be padding: then also where the last sentence end leaves more
    than S/8 tokens free, or S/16, S/32, 0, whichever comes first to suffice. With `short_sequence_probability` a piece (but not a document
    that fits) is made shorter, down to 2 tokens, so that the cuts fall elsewhere each epoch. Pieces are packed by `packing.pack`.

    Masks are counted and drawn for a row as a whole, min(P, max(1, round(probability x tokens))): every token of a row is as likely to be
    predicted, however short its sequence. (At least one a sequence would predict far too many words of titles and one-word lines, and
    overflow P in rows of many.)

    A worked example: examples 0 and 1 of seed 2, of the documents (11 12 | 13), (14 15) and (16 17 | 18 19 20 21), S = 9, P = 2, [CLS] = 2,
    [SEP] = 3, [MASK] = 4:

        tokens            2  4 12 13  3  2 14 15  3        2 16  4 18 19 20 21  3  0
        token_types       0  0  0  0  0  0  0  0  0        0  0  0  0  0  0  0  0  0
        sequence_ids      1  1  1  1  1  2  2  2  2        1  1  1  1  1  1  1  1  0
        positions         0  1  2  3  4  0  1  2  3        0  1  2  3  4  5  6  7  0
        masked_positions  1  0                             2  0
        masked_targets   11  0                            17  0
        masked_weights    1  0                             1  0
    """

    layouts = (Layout.encoder, Layout.encoder_decoder, Layout.decoder)
    needs = ('pad', 'start', 'end', 'blank')  # of BERT: [PAD], [CLS], [SEP], [MASK]

    def __new__(cls, config, *arguments):
        if cls.layout_of(config) is Layout.encoder:
            return super().__new__(cls)
        from t5x_lite.data.text_to_text import TextToTextMlm  # which builds on what is defined here

        return TextToTextMlm(config, *arguments)

    def __init__(self, config, split, seed, seq_len, max_predictions, corpus):
        super().__init__(config, split, seed, seq_len, max_predictions, corpus)
        self.short_probability = self.mlm.short_sequence_probability
        self._masker = MlmMasker(self.mlm, max_predictions, self.tokenizer)

    @classmethod
    def predictions(cls, config: Config, length: int) -> int:
        return math.ceil(config.data.mlm.probability * length) if cls.layout_of(config) is Layout.encoder else length

    def _longest(self, root, start):
        return self.seq_len - 2

    def _plan(self, root):
        for slack in self._slacks():
            start, length = self._pieces(root, slack)
            rows = packing.pack(length + 2, self.seq_len, random.key(root, 'rows'))
            if (length + 2).sum() >= FULL * len(rows) * self.seq_len:
                break
        return Pieces(start, length, rows)

    def _examples(self, plan, entries, root):
        rows = plan.rows.take(entries)
        length = plan.length[rows.members]
        layout = packing.Layout.of(rows, length + 2, self.seq_len)
        tokens = np.full((len(entries), self.seq_len), self.tokenizer.pad_id, np.int32)
        tokens[layout.row, layout.column] = self.tokenizer.start_id
        tokens[layout.row, layout.column + length + 1] = self.tokenizer.end_id
        self._fill(tokens, layout.row, layout.column + 1, plan.start[rows.members], length)
        keys = random.bits(random.key(root, 'masks'), rows.members[rows.starts[:-1]])  # a row is named by its first piece
        return {
            **self._masker(tokens, layout.used, keys),
            'token_types': np.zeros_like(tokens),
            'sequence_ids': layout.sequence_ids,
            'positions': layout.positions,
        }
