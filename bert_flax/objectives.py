"""BERT's own pre-training examples: masked words and next sentence prediction. (numpy only)"""

import numpy as np

from t5x_lite.config import Layout
from t5x_lite.data import random
from t5x_lite.data.masking import MlmMasker
from t5x_lite.data.objectives import PlannedExamples
from t5x_lite.errors import UserError

_BLOCK = 1 << 20  # sentences planned at a time, which bounds memory


class MlmNsp(PlannedExamples):
    """Pairs of segments for MLM + NSP (Devlin et al., 2018, appendix A.2; google-research/bert create_pretraining_data.py).

    A chunk is as many whole sentences of one document as reach the target length, S - 3 tokens, or with `short_sequence_probability` a
    random one from 2 on. A random number of its sentences, but not all, becomes A. The rest is B (label 0), or, half of the time and
    whenever the chunk is a single sentence, B comes from a random sentence on of another document (label 1), and the unused sentences begin
    the next chunk. A pair that is too long loses tokens of its longer part, each from the front or from the back at random. Then tokens are
    masked (`t5x_lite.data.masking`).

    Every choice is a hash of (seed, epoch, first sentence of the chunk), so that all chunks of an epoch follow from the lengths of
    sentences alone, and an example from the place of its chunk. One difference from the original follows: the target length is drawn for
    each chunk, not once for a document, so the share of short sequences is that of the field even where documents are few and long.

    A worked example: examples 1 and 2 of seed 1, of two documents with the sentences (11 12 | 13 14 15) and (16 17 18 | 19), S = 10, P = 2,
    [CLS] = 2, [SEP] = 3, [MASK] = 4. The first is two sentences that follow each other, the second a sentence with one of the other
    document:

        tokens                2  4 17 18  3 19  3  0  0  0        2  4 12  3 19  3  0  0  0  0
        token_types           0  0  0  0  0  1  1  0  0  0        0  0  0  0  1  1  0  0  0  0
        sequence_ids          1  1  1  1  1  1  1  0  0  0        1  1  1  1  1  1  0  0  0  0
        masked_positions      1  0                                1  0
        masked_targets       16  0                               11  0
        masked_weights        1  0                                1  0
        next_sentence_labels  0                                   1

    Raises:
      UserError: the split has fewer than two documents.
    """

    refusals = {
        Layout.decoder: 'next sentence prediction reads the pooled output of an encoder, which a decoder lacks; use t5x_lite.data.objectives:PackedMlm',
        Layout.encoder_decoder: 'next sentence prediction reads a pooled output, which no decoder gives; use t5x_lite.data.objectives:PackedMlm',
    }

    def __init__(self, config, split, seed, seq_len, max_predictions, corpus):
        super().__init__(config, split, seed, seq_len, max_predictions, corpus)
        if seq_len < 5:
            raise UserError(f'config.data.seq_len is {seq_len}; a pair of segments with [CLS] and two [SEP] needs at least 5')
        self._sentences = np.asarray(corpus.sentence_starts)
        bounds = np.asarray(corpus.document_starts)
        filled = bounds[1:] > bounds[:-1]
        self._first, self._last = bounds[:-1][filled], bounds[1:][filled]  # sentences of each document
        if len(self._first) < 2:
            raise UserError(
                f'{corpus.path}: the {split} split has {len(self._first)} document; next sentence prediction takes sentences of another. '
                'Prepare with more files, or with --documents=paragraph to make each paragraph a document'
            )
        self._masker = MlmMasker(self.mlm, max_predictions, self.tokenizer)

    def _chunks(self, root, start, last):
        """Chunks that begin at sentences `start` (int64[n]) of documents that end before sentence `last` (int64[n]).

        Returns:
          target length in tokens; the sentence after A; the sentence after the chunk; whether B is random.
        """
        longest = self.seq_len - 3
        short = random.uniform(random.bits(root, start, random.key('short'))) < self.mlm.short_sequence_probability
        target = np.where(short, 2 + random.below(random.bits(root, start, random.key('target')), max(1, longest - 1)), longest)
        end = np.searchsorted(self._sentences, self._sentences[start] + target)
        end = np.clip(end, start + 1, last)
        count = end - start
        a_end = start + 1 + random.below(random.bits(root, start, random.key('split')), np.maximum(count - 1, 1))
        is_random = (count == 1) | (random.uniform(random.bits(root, start, random.key('next'))) < 0.5)
        return target, a_end, end, is_random

    def _plan(self, root):
        """The first sentence of each chunk, rising: int32[examples], or int64 where there are so many sentences."""
        kind = np.int32 if self.corpus.num_sentences < 2**31 else np.int64
        blocks, document = [], 0
        while document < len(self._first):
            stop = max(document + 1, int(np.searchsorted(self._first, self._first[document] + _BLOCK)))
            blocks.append(self._plan_block(root, self._first[document:stop], self._last[document:stop]).astype(kind))
            document = stop
        return np.concatenate(blocks)

    def _plan_block(self, root, first, last):
        """The chunks of neighbouring documents. Where the next begins follows from where one begins: computed for all, then followed."""
        base, stop = first[0], last[-1]
        starts = np.arange(base, stop)
        ends = np.repeat(last, np.diff(first, append=stop))
        _, a_end, end, is_random = self._chunks(root, starts, ends)
        following = np.where(is_random, a_end, end)
        found, here = [], first
        while len(here) > 32:
            found.append(here)
            here = following[here - base]
            going = here < last
            here, last = here[going], last[going]
        for place, until in zip(here.tolist(), last.tolist()):  # a few long documents: faster one by one
            chain, path = following[place - base : until - base].tolist(), []
            begin = place
            while place < until:
                path.append(place)
                place = chain[place - begin]
            found.append(np.array(path, np.int64))
        return np.sort(np.concatenate(found))

    def _pairs(self, plan, entries, root):
        """The spans of A and B in the token stream, int64[n] each, and more that tests look at, by name."""
        start = plan[entries].astype(np.int64)
        document = np.searchsorted(self._first, start, side='right') - 1
        target, a_end, end, is_random = self._chunks(root, start, self._last[document])
        a_start, a_stop = self._sentences[start], self._sentences[a_end]
        # One of the other documents, then one of its sentences, each equally likely.
        other = random.below(random.bits(root, start, random.key('document')), len(self._first) - 1)
        other += other >= document
        other = np.where(is_random, other, document)
        sentences = self._last[other] - self._first[other]
        b_first = np.where(is_random, self._first[other] + random.below(random.bits(root, start, random.key('sentence')), sentences), a_end)
        b_end = np.searchsorted(self._sentences, self._sentences[b_first] + target - (a_stop - a_start))
        b_end = np.where(is_random, np.clip(b_end, b_first + 1, self._last[other]), end)
        b_start, b_stop = self._sentences[b_first], self._sentences[b_end]
        a_length, b_length = a_stop - a_start, b_stop - b_start
        a_kept, b_kept = truncated(a_length, b_length, self.seq_len - 3)
        a_start = a_start + random.coin_flips(random.bits(root, start, random.key('front of A')), a_length - a_kept)
        b_start = b_start + random.coin_flips(random.bits(root, start, random.key('front of B')), b_length - b_kept)
        return {
            'start': start, 'a_end': a_end, 'end': end, 'target': target, 'is_random': is_random, 'document': document, 'other': other,
            'a_start': a_start, 'a_length': a_kept, 'b_start': b_start, 'b_length': b_kept,
        }  # fmt: skip

    def _examples(self, plan, entries, root):
        pairs = self._pairs(plan, entries, root)
        a, b = pairs['a_length'], pairs['b_length']
        rows, columns = np.arange(len(entries)), np.arange(self.seq_len)
        tokens = np.full((len(entries), self.seq_len), self.tokenizer.pad_id, np.int32)
        tokens[:, 0] = self.tokenizer.cls_id
        tokens[rows, a + 1] = tokens[rows, a + b + 2] = self.tokenizer.sep_id
        self._fill(tokens, rows, np.ones_like(a), pairs['a_start'], a)
        self._fill(tokens, rows, a + 2, pairs['b_start'], b)
        lengths = a + b + 3
        real = columns < lengths[:, None]
        return {
            **self._masker(tokens, lengths, random.bits(root, pairs['start'], random.key('masks'))),
            'token_types': (real & (columns > a[:, None] + 1)).astype(np.int32),
            'sequence_ids': real.astype(np.int32),
            'next_sentence_labels': pairs['is_random'].astype(np.int32),
        }


def truncated(a: np.ndarray, b: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """The lengths left of pairs (int64[n] each) once tokens are taken from the longer part, B of equal ones, down to `longest`."""
    return np.minimum(a, np.maximum(longest - b, -(-longest // 2))), np.minimum(b, np.maximum(longest - a, longest // 2))
