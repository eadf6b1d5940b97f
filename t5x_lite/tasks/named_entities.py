"""Named entities as text, and back: 'ner: EU rejects German call' -> 'ORG: EU; MISC: German'."""

from collections.abc import Mapping, Sequence
import re
from typing import Any

from t5x_lite.errors import UserError
from t5x_lite.tasks.text_formats import Example

NONE = 'none'  # the target of a sentence without any


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, start, stop) of IOB1 or IOB2 tags; the two differ in whether a first 'B-' is written, which changes nothing here.

    An entity begins at 'B-X', and at 'I-X' that follows another type or 'O'.
    """
    found: list[tuple[str, int, int]] = []
    for place, tag in enumerate(tags):
        mark, _, kind = tag.partition('-')
        if tag == 'O':
            continue
        if mark not in ('B', 'I') or not kind:
            raise UserError(f'tag {tag!r} is not O, B-TYPE or I-TYPE')
        if mark == 'I' and found and found[-1][0] == kind and found[-1][2] == place:
            found[-1] = (kind, found[-1][1], place + 1)
        else:
            found.append((kind, place, place + 1))
    return found


def from_tags(example: Mapping[str, Any]) -> Example:
    """{'tokens', 'tags'}: words joined by spaces; entities in their order."""
    tokens = list(example['tokens'])
    named = [(kind, ' '.join(tokens[start:stop])) for kind, start, stop in spans(example['tags'])]
    targets = '; '.join(f'{kind}: {text}' for kind, text in named) or NONE
    return {'inputs': f'ner: {" ".join(tokens)}', 'targets': targets, 'entities': named}


def parse(text: str) -> list[tuple[str, str]] | None:
    """The entities that a text names; None where it is not written as `from_tags` writes. Types are words in capitals, so '; ' may be in a name."""
    text = text.strip()
    if text == NONE:
        return []
    parts = re.split(r'(?:^|; )([A-Z][A-Z_]*): ', text)
    if len(parts) < 3 or parts[0] or not all(part.strip() for part in parts[2::2]):
        return None
    return list(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
