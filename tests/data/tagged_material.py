"""What the tests of tagged words share: files of sentences that a tiny model can learn to tag, and the examples made of them."""

import numpy as np

from t5x_lite.data.tagged import TaggedExamples
from tests.data.table_material import examples

FIRST, LAST, PLACES, OTHERS = ('man', 'woman'), ('red', 'green', 'house'), ('tree', 'runs'), ('the', 'a', 'sings', 'sleeps')
COLUMNS = 'the X O\nman Y B-PER\nred Y I-PER\nsings Z O\n\ntree Y B-LOC\n\n'


def sentences(count: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """(words, IOB2 tags): a word of FIRST begins a person, and one of LAST belongs to it only if it stands just after; a word of PLACES is a place."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = [str(rng.choice((FIRST, LAST, PLACES, OTHERS)[kind])) for kind in rng.choice(4, rng.integers(2, 9))]
        words = [word for word, before in zip(words, ['', *words]) if not (word in LAST and before in LAST)] or ['the']
        after = zip(words, ['', *words])
        tags = ['B-PER' if word in FIRST else 'B-LOC' if word in PLACES else 'I-PER' if word in LAST and before in FIRST else 'O' for word, before in after]
        found.append((words, tags))
    return found


def columns(rows) -> str:
    return ''.join(''.join(f'{word} _ {tag}\n' for word, tag in zip(*row, strict=True)) + '\n' for row in rows)


def tagged(folder, files, split='train', seed=0, seq_len=16, **fields) -> TaggedExamples:
    return examples(TaggedExamples, folder, files, split, seed, seq_len, **fields)
