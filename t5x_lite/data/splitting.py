"""What a corpus holds, and which of its documents are held out: those whose key (`sources.document_key`) is below a threshold. (numpy only)"""

import numpy as np

from t5x_lite.data import cleaning, filtering, workers
from t5x_lite.data.preparation_settings import Settings
from t5x_lite.errors import UserError

EXACT = 4096  # held-out documents: up to so many, their number is exact


class Contents:
    """Sums of what `workers.scan` found in blocks; those of some blocks and of others can be added."""

    def __init__(self):
        self.documents = self.characters = self.emptied = 0
        self._keyed, self._smallest, self._largest = 0, np.zeros(0, np.uint64), 0

    def add(self, found: workers.Scanned) -> None:
        self.documents += found.documents
        self.characters += found.characters
        self.emptied += found.emptied
        self._add_keys(len(found.keys), found.keys, int(found.keys.max(initial=0)))

    def merge(self, other: 'Contents') -> None:
        self.documents += other.documents
        self.characters += other.characters
        self.emptied += other.emptied
        self._add_keys(other._keyed, other._smallest, other._largest)

    def _add_keys(self, count: int, keys: np.ndarray, largest: int) -> None:
        self._keyed += count
        if len(keys):
            self._smallest = np.sort(np.concatenate([self._smallest, keys]))[:EXACT]
        self._largest = max(self._largest, largest)

    def threshold(self, fraction: float) -> int:
        """Keys below it are about this share of all; 0 for none. Raises UserError where there is nothing to hold out."""
        if not fraction:
            return 0
        keyed, smallest, largest = self._keyed, self._smallest, self._largest
        if keyed < 2 or int(smallest[0]) == largest:
            what = 'only one document' if keyed < 2 else 'only documents that are all the same'
            raise UserError(
                f'{what} in the input, so none can be held out; if blank lines separate documents give --documents=paragraph, '
                'else name held-out text with --validation_input, or give --validation_fraction=0'
            )
        count = min(max(round(fraction * keyed), 1), keyed - 1)
        threshold = int(smallest[count - 1]) + 1 if count <= len(smallest) else int(fraction * 2**64)
        return min(threshold, largest)


def state_of(contents: Contents, removed: dict[str, int], settings: Settings, facts: dict) -> dict:
    """What the steps after a scan need to know of it, with `facts` added. Raises UserError where there is no text, or nothing to hold out."""
    if not contents.characters:
        rest = ', or none that its rules leave' if removed else ''
        raise UserError(f'--input={",".join(settings.input)}: there is no text in {facts["inputs"]["files"]} file(s){rest}')
    emptied = {f'{cleaning.REPEATED_SPANS}.documents': contents.emptied} if contents.emptied else {}
    return {
        'characters': contents.characters,
        'threshold': contents.threshold(settings.validation_fraction),
        'removed': filtering.count({**removed, **emptied}),
        **facts,
    }
