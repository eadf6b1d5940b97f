"""What a person did wrong, said in one line."""

from collections.abc import Iterable
import difflib


class UserError(ValueError):
    """A mistake that a person can mend. Commands print its one line, which names the file, line or flag and the mend, and exit with status 2."""


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean X?' or the list of what is known, for error messages."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'did you mean {close[0]!r}?' if close else 'known: ' + ', '.join(sorted(known))
