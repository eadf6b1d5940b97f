"""What a predictor of masked tokens must beat: predictions from counts alone. (numpy only)

Three baselines, all counted on the train split of a prepared corpus and judged on masked positions of held-out examples:
- most frequent token: its share of the targets;
- unigram: the cross-entropy of add-one smoothed token frequencies;
- two-sided bigram: p(w | left neighbour, right neighbour), the best of two mixtures (`TwoSided`).

The neighbours that a count sees are the original tokens, also where the model under test sees [MASK] or a random word in their place: this
favours the baseline. At an end of a segment the neighbour is a boundary, as at the ends of sentences in the counts.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from t5x_lite.data import random

_CHUNK_CELLS = 1 << 19  # cells of a dense [positions, vocabulary] block; a few of them fit a processor's cache
_CONTEXT_BUCKETS = np.array([1, 2, 3, 5, 9, 17, 65, 257])  # of occurrences of (left, right): mixture weights are tuned for each
_TUNING_SHARE, _TUNING_POSITIONS, _EXPONENT_POSITIONS = 0.02, 20_000, 1_000


@dataclasses.dataclass
class Contexts:
    """Masked positions: int64 [n] each. A neighbour beyond the end of its segment, or a special token, is `vocab_size`."""

    left: np.ndarray
    right: np.ndarray
    targets: np.ndarray

    def take(self, rows) -> 'Contexts':
        return Contexts(self.left[rows], self.right[rows], self.targets[rows])

    def __len__(self) -> int:
        return len(self.targets)


@dataclasses.dataclass
class Score:
    accuracy: float
    cross_entropy: float  # nats


def contexts_of(batches: Iterable[dict[str, np.ndarray]], tokenizer, positions: int = 0) -> Contexts:
    """The masked positions of batches of examples, at most `positions` of them (0: all), with their unmasked neighbours.

    tokens            [CLS] the [MASK] sat [SEP]      masked_positions [2], masked_targets [cat]
    ->  left [the], right [sat], targets [cat]
    """
    parts, count = [], 0
    for batch in batches:
        row, slot = np.nonzero(batch['masked_weights'] > 0)
        place, target = batch['masked_positions'][row, slot], batch['masked_targets'][row, slot]
        tokens = batch['tokens'].astype(np.int64)
        tokens[row, place] = target
        beyond = np.isin(tokens, sorted(tokenizer.special_ids - {tokenizer.unk_id})) | (batch['sequence_ids'] == 0)
        tokens = np.pad(np.where(beyond, tokenizer.vocab_size, tokens), ((0, 0), (1, 1)), constant_values=tokenizer.vocab_size)
        parts.append((tokens[row, place], tokens[row, place + 2], target.astype(np.int64)))
        count += len(target)
        if positions and count >= positions:
            break
    left, right, targets = (np.concatenate(part)[: positions or None] for part in zip(*parts, strict=True))
    return Contexts(left, right, targets)


def unigram(counts: np.ndarray, targets: np.ndarray) -> Score:
    """The most frequent token's accuracy and the add-one smoothed cross-entropy of int64 [vocab_size] train counts on int64 [n] targets."""
    probabilities = (counts + 1) / (counts.sum() + len(counts))
    return Score(float(np.mean(targets == counts.argmax())), float(-np.log(probabilities[targets]).mean()))


def targets_of(batches: Iterable[dict[str, np.ndarray]]) -> np.ndarray:
    """int64 [n]: the target tokens of batches for language models that count."""
    return np.concatenate([batch['targets'][batch['target_weights'] > 0] for batch in batches]).astype(np.int64)


def own_unigram(targets: np.ndarray) -> Score:
    """What no prediction without context can beat on int64 [n] targets: their own frequencies."""
    counts = np.bincount(targets)
    shares = counts[counts > 0] / len(targets)
    return Score(float(shares.max()), float(-(shares * np.log(shares)).sum()))


def evaluate(corpus, contexts: Contexts, seed: int = 0) -> dict[str, Score]:
    """All baselines by name, the last one the strongest two-sided one, chosen on held-out training text.

    Args:
      corpus: the train split of the corpus on whose validation split the contexts were drawn.
    """
    two_sided = TwoSided(corpus, seed)
    found = two_sided.scores(contexts)
    scores = {'most frequent token, unigram': unigram(np.asarray(corpus.unigram_counts), contexts.targets)}
    for name in sorted(two_sided.tuning, key=two_sided.tuning.get, reverse=True):
        scores[f'two-sided bigram, {name}'] = found[name]
    return scores


class TwoSided:
    """p(w | left, right) from counts of (left, w), (w, right) and (left, w, right).

    Parts, each a distribution over the vocabulary:
      unigram;
      left p(w | left) and right p(w | right): Kneser-Ney bigrams (Ney, Essen, Kneser, 1994), discounts n1 / (n1 + 2 n2);
      product: p(w | left)^a p(w | right)^a / p(w)^b, normalised: with a = b = 1 exact if neighbours were independent given w;
      both: p(w | left, right), absolutely discounted, which leaves what it takes to another part.
    Models:
      'linear': unigram, left, right, and both leaving its discount to (left + right) / 2;
      'product': unigram, left, right, product, and both leaving its discount to product.
    A model is a weighted sum of its parts with weights that depend on how often (left, right) occurs, tuned by expectation maximisation on
    training documents that the counts of that moment leave out (2 % of the tokens); a and b are tuned there too. The final counts have all
    of the train split.

    Attributes:
      tuning: cross-entropy of each model on those documents.
      exponents: (a, b).
    """

    MODELS = {'linear': (0, 1, 2, 4), 'product': (0, 1, 2, 3, 5)}  # columns of `_parts`

    def __init__(self, corpus, seed: int = 0):
        stream = _Stream(corpus)
        held_out = stream.slice(_TUNING_SHARE, seed)
        self._counts = _Counts(stream.without(held_out), stream.vocab_size)
        tuning = stream.contexts(held_out)
        if len(tuning) > _TUNING_POSITIONS:
            tuning = tuning.take(random.permute(np.arange(_TUNING_POSITIONS), len(tuning), random.key(seed, 'baselines.tuning')))
        self.exponents = self._tune_exponents(tuning.take(slice(_EXPONENT_POSITIONS)))
        parts, buckets = self._parts_of_targets(tuning), self._buckets(tuning)
        self._weights = {name: _tune_weights(parts[:, columns], buckets) for name, columns in self.MODELS.items()}
        self.tuning = {
            name: float(-np.log((parts[:, columns] * self._weights[name][buckets]).sum(1)).mean()) for name, columns in self.MODELS.items()
        }
        self._counts = _Counts(stream, stream.vocab_size)

    def scores(self, contexts: Contexts) -> dict[str, Score]:
        """The score of each model."""
        hits, losses = dict.fromkeys(self.MODELS, 0), dict.fromkeys(self.MODELS, 0.0)
        for part, models in self.distributions(contexts):
            for name, probabilities in models.items():
                losses[name] -= np.log(probabilities[np.arange(len(part)), part.targets]).sum()
                hits[name] += int((probabilities.argmax(1) == part.targets).sum())
        return {name: Score(hits[name] / len(contexts), float(losses[name] / len(contexts))) for name in self.MODELS}

    def distributions(self, contexts: Contexts):
        """Yields (contexts, {model: float64 [n, vocab_size] probabilities}) for consecutive parts of the contexts."""
        for part, dense in self._chunks(contexts):
            buckets = self._buckets(part)
            weights = {name: self._weights[name][buckets] for name in self.MODELS}
            yield (
                part,
                {
                    name: sum(weights[name][:, [index]] * dense[column] for index, column in enumerate(columns))
                    for name, columns in self.MODELS.items()
                },
            )

    def _chunks(self, contexts: Contexts):
        step = max(1, _CHUNK_CELLS // self._counts.vocab_size)
        for start in range(0, len(contexts), step):
            part = contexts.take(slice(start, start + step))
            yield part, self._parts(part)

    def _parts(self, contexts: Contexts) -> list[np.ndarray]:
        """unigram, left, right, product, both over mean, both over product; [n, vocab_size] or [1, vocab_size] each."""
        counts = self._counts
        left, right = counts.left.rows(contexts.left, counts.after), counts.right.rows(contexts.right, counts.before)
        product = self._product(np.log(left) + np.log(right), self.exponents)
        pairs = counts.pair_id(contexts.left, contexts.right)
        return [counts.unigram[None], left, right, product, counts.both.rows(pairs, (left + right) / 2), counts.both.rows(pairs, product)]

    def _product(self, log_sides: np.ndarray, exponents: tuple[float, float]) -> np.ndarray:
        scores = exponents[0] * log_sides - exponents[1] * self._counts.log_unigram
        scores -= scores.max(1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(1, keepdims=True)
        return scores

    def _parts_of_targets(self, contexts: Contexts) -> np.ndarray:
        found = []
        for part, dense in self._chunks(contexts):
            rows = np.arange(len(part))
            found.append(np.stack([values[rows if len(values) > 1 else 0, part.targets] for values in dense], 1))
        return np.concatenate(found)

    def _buckets(self, contexts: Contexts) -> np.ndarray:
        """How often (left, right) occurs, in steps."""
        seen = self._counts.both.totals_of(self._counts.pair_id(contexts.left, contexts.right))
        return np.searchsorted(_CONTEXT_BUCKETS, seen, side='right')

    def _tune_exponents(self, contexts: Contexts) -> tuple[float, float]:
        """Descends from (1, 1) in ever smaller steps."""
        counts, step = self._counts, max(1, _CHUNK_CELLS // self._counts.vocab_size)
        parts = [contexts.take(slice(start, start + step)) for start in range(0, len(contexts), step)]
        sides = [np.log(counts.left.rows(part.left, counts.after)) + np.log(counts.right.rows(part.right, counts.before)) for part in parts]
        sides = [side.astype(np.float32) for side in sides]

        def loss(exponents):
            found = (self._product(side, exponents)[np.arange(len(part)), part.targets] for part, side in zip(parts, sides, strict=True))
            return -sum(np.log(probabilities).sum() for probabilities in found)

        best, size = (1.0, 1.0), 0.2
        losses = {best: loss(best)}
        while size > 0.04:
            near = [(best[0] + da * size, best[1] + db * size) for da, db in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))]
            losses.update({pair: loss(pair) for pair in near if pair not in losses})
            better = min(losses, key=losses.get)
            best, size = (better, size) if better != best else (best, size / 2)
        return best


def _tune_weights(parts: np.ndarray, buckets: np.ndarray, rounds: int = 60) -> np.ndarray:
    """float64 [buckets, parts]: the likeliest weights of [n, parts] probabilities, by EM; sparse buckets lean on the weights of all."""
    weights = np.full((len(_CONTEXT_BUCKETS) + 1, parts.shape[1]), 1 / parts.shape[1])
    for _ in range(rounds):
        shares = parts * weights[buckets]
        shares /= shares.sum(1, keepdims=True)
        overall = shares.mean(0)
        for bucket in range(len(weights)):
            found = shares[buckets == bucket]
            weights[bucket] = (found.sum(0) + 20 * overall) / (len(found) + 20)
    return weights


class _Stream:
    """Documents of token ids end to end, each between boundaries, and where sentences begin."""

    def __init__(self, corpus=None, tokens=None, starts=None, vocab_size=0):
        self.vocab_size = corpus.vocab_size if corpus is not None else vocab_size
        if corpus is not None:
            bounds = np.asarray(corpus.sentence_starts)[np.asarray(corpus.document_starts)]
            pieces = [
                np.concatenate([corpus.tokens(int(a), int(b)), [self.vocab_size]]) for a, b in zip(bounds[:-1], bounds[1:], strict=True)
            ]
            tokens = np.concatenate([[self.vocab_size], *pieces]).astype(np.int64)
            # One boundary before the first document and one after each: a document's tokens lie 1 + its number further.
            sentences = np.asarray(corpus.sentence_starts)[:-1]
            starts = sentences + 1 + np.repeat(np.arange(len(bounds) - 1), np.diff(corpus.document_starts))
        self.tokens, self.sentence_starts = tokens, starts

    def slice(self, share: float, seed: int) -> np.ndarray:
        """bool [tokens]: whole documents that make up this share, or the end of the text where there are fewer than three."""
        ends = np.flatnonzero(self.tokens == self.vocab_size)
        chosen, wanted = np.zeros(len(self.tokens), bool), max(1, round(share * len(self.tokens)))
        if len(ends) < 4:
            chosen[-wanted:] = True
            return chosen
        order = random.permute(np.arange(len(ends) - 1), len(ends) - 1, random.key(seed, 'baselines.slice'))
        taken = order[: np.searchsorted(np.cumsum(np.diff(ends)[order]), wanted) + 1]
        document = np.cumsum(self.tokens == self.vocab_size) - 1  # of each token, counting the boundary before it
        document[ends] -= 1  # a boundary belongs to the document that it ends
        return np.isin(document, taken)

    def without(self, chosen: np.ndarray) -> '_Stream':
        begins = np.zeros(len(self.tokens), bool)
        begins[self.sentence_starts] = True
        return _Stream(tokens=self.tokens[~chosen], starts=np.flatnonzero(begins[~chosen]), vocab_size=self.vocab_size)

    def contexts(self, chosen: np.ndarray) -> Contexts:
        """Every token of the slice between its neighbours."""
        places = np.flatnonzero(chosen & (self.tokens != self.vocab_size))
        places = places[(places > 0) & (places < len(self.tokens) - 1)]
        return Contexts(self.tokens[places - 1], self.tokens[places + 1], self.tokens[places])


class _Counts:
    """Unigrams, both kinds of bigrams, and words between pairs of neighbours."""

    def __init__(self, stream: _Stream, vocab_size: int):
        self.vocab_size, self._base = vocab_size, vocab_size + 1
        tokens = stream.tokens
        places = np.flatnonzero(tokens != vocab_size)
        places = places[(places > 0) & (places < len(tokens) - 1)]
        words, left, right = tokens[places], tokens[places - 1], tokens[places + 1]
        # What follows or precedes a boundary inside a document is known from the ends of its sentences.
        starts = stream.sentence_starts[(stream.sentence_starts > 1) & (stream.sentence_starts < len(tokens) - 1)]
        starts = starts[(tokens[starts] != vocab_size) & (tokens[starts - 1] != vocab_size)]
        ends, boundary = starts - 1, np.full(len(starts), vocab_size)
        counts = np.bincount(tokens[places], minlength=vocab_size)
        self.unigram = (counts + 1) / (counts.sum() + vocab_size)
        self.log_unigram = np.log(self.unigram)
        self.left = _Table(np.concatenate([left, boundary]), np.concatenate([words, tokens[starts]]), vocab_size)
        self.right = _Table(np.concatenate([right, boundary]), np.concatenate([words, tokens[ends]]), vocab_size)
        # Kneser-Ney: a bigram's lower order counts in how many contexts a word stands, not how often.
        self.after, self.before = self.left.spread(self.unigram), self.right.spread(self.unigram)
        words = np.concatenate([words, tokens[starts], tokens[ends]])
        pairs = np.concatenate([left, boundary, tokens[ends - 1]]) * self._base + np.concatenate([right, tokens[starts + 1], boundary])
        self._pairs = np.unique(pairs)
        self.both = _Table(np.searchsorted(self._pairs, pairs), words, vocab_size)

    def pair_id(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The number of (left, right) among those seen; one past them for others."""
        key = left * self._base + right
        place = np.minimum(np.searchsorted(self._pairs, key), len(self._pairs) - 1)
        return np.where(self._pairs[place] == key, place, len(self._pairs))


class _Table:
    """Counts of (context, word), sorted, and discounted distributions of words from them."""

    def __init__(self, contexts: np.ndarray, words: np.ndarray, vocab_size: int):
        self._vocab_size = vocab_size
        keys, counts = np.unique(contexts * vocab_size + words, return_counts=True)
        self._contexts, self._words = keys // vocab_size, keys % vocab_size
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        self.discount = float(np.clip(once / max(1, once + 2 * twice), 0.1, 0.95))
        self._counts = counts
        size = int(self._contexts[-1]) + 1 if len(keys) else 0
        self._totals = np.bincount(self._contexts, weights=counts, minlength=size)
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(self._contexts, minlength=size))])

    def spread(self, unigram: np.ndarray) -> np.ndarray:
        """[vocab_size]: in how many contexts each word stands, as a distribution that gives every word something."""
        found = np.bincount(self._words, minlength=self._vocab_size)
        return (found + unigram * len(found)) / (found.sum() + len(found))

    def totals_of(self, contexts: np.ndarray) -> np.ndarray:
        known = contexts < len(self._totals)
        return np.where(known, self._totals[np.where(known, contexts, 0)], 0)

    def rows(self, contexts: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """[n, vocab_size]: (count - discount) / total, and the rest shared out as `lower` is, [vocab_size] or [n, vocab_size]."""
        totals = self.totals_of(contexts)
        known = np.flatnonzero(totals > 0)
        first, last = self._starts[contexts[known]], self._starts[contexts[known] + 1]
        sizes = last - first
        left_over = np.ones(len(contexts))
        left_over[known] = self.discount * sizes / totals[known]
        dense = left_over[:, None] * lower
        entries = np.repeat(first - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes) + np.arange(sizes.sum())
        row = np.repeat(known, sizes)
        dense[row, self._words[entries]] += (self._counts[entries] - self.discount) / totals[row]
        return dense
