"""Named entities as text, and back: 'ner: EU rejects German call' -> 'ORG: EU; MISC: German'."""

from collections.abc import Mapping
import re
from typing import Any

from t5x_lite.data import tags
from t5x_lite.errors import UserError
from t5x_lite.tasks.text_formats import Example

NONE = 'none'  # the target of a sentence without any


def from_tags(example: Mapping[str, Any]) -> Example:
    """{'tokens', 'tags'}: words joined by spaces; entities in their order, read off tags of any scheme as conlleval does.

    Raises:
      UserError: a tag that is none, or has no type that could be named.
    """
    tokens, found = list(example['tokens']), tags.spans(example['tags'])
    if any(kind == tags.UNTYPED for kind, _, _ in found):
        raise UserError(f'tags {" ".join(example["tags"])[:60]!r} have no type to name entities by; write them as B-TYPE')
    named = [(kind, ' '.join(tokens[start:stop])) for kind, start, stop in found]
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
