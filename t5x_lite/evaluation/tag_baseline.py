"""What tagging reaches without a model: each word's most frequent tag of training, and for words that it had not the most frequent of all. (numpy only)

It looks at no neighbour, so what a tagger is above it, it has from context and from the insides of words.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from t5x_lite.data import tags
from t5x_lite.data.tags import TagSet
from t5x_lite.evaluation import metrics_tags

MOST_FREQUENT = "each word's most frequent tag"

Sentence = tuple[Sequence[str], Sequence[str]]  # words and their tags, of one length


class MostFrequentTag:
    """`tagger(words)` -> tags. Of tags that are as frequent the earlier of the set wins; 'Rome' and 'rome' are two words."""

    def __init__(self, sentences: Iterable[Sentence], tag_set: TagSet):
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for words, named in sentences:
            for word, tag in zip(words, named, strict=True):
                counts[word][tag] += 1
        every = sum(counts.values(), Counter())
        order = {name: -place for place, name in enumerate(tag_set.names)}

        def best(found: Counter[str]) -> str:
            return max(found, key=lambda tag: (found[tag], order[tag]))

        self._tags, self._unseen = {word: best(found) for word, found in counts.items()}, best(every) if every else tag_set.names[0]

    def __call__(self, words: Sequence[str]) -> list[str]:
        return [self._tags[word] if word in self._tags else self._unseen for word in words]


def measure(train: Iterable[Sentence], held_out: Sequence[Sentence], tag_set: TagSet) -> dict[str, float]:
    """Scores of held-out sentences as `evaluate` gives them: accuracy, and of entities F1, precision and recall before it, as conlleval has them."""
    tagger = MostFrequentTag(train, tag_set)
    targets, predictions = [list(named) for _, named in held_out], [tagger(words) for words, _ in held_out]
    accuracy = {'accuracy': metrics_tags.accuracy(targets, predictions)}
    if tag_set.scheme is None:
        return accuracy
    found = metrics_tags.entities([tags.spans(row, tag_set.scheme) for row in targets], [tags.spans(row) for row in predictions])
    return {name: found[name] for name in ('f1', 'precision', 'recall')} | accuracy
