"""What a person did wrong, said in one line."""

from collections.abc import Iterable
import difflib


class UserError(ValueError):
    """A mistake that a person can mend. Commands print its one line, which names the file, line or flag and the mend, and exit with status 2."""


class Interrupted(UserError):
    """A person wants the command to end at once."""


class NotFinite(UserError):
    """A run whose numbers went beyond bounds; repeated, it would do so again."""


_OUT_OF_MEMORY = (
    'out of memory; lower config.batch_size or config.data.seq_len, raise config.optim.microbatches, or shard the model with config.mesh.fsdp'
)


def mendable(error: BaseException) -> UserError | None:
    """What else a person can mend, as a `UserError`: a file that cannot be used, memory that does not suffice. None for a fault of ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return UserError(f'{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}')
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and 'RESOURCE_EXHAUSTED' in str(error)):  # JAX's own
        return UserError(_OUT_OF_MEMORY)
    return None


def nearest(word: str, known: Iterable[str]) -> str:
    """'did you mean X?' or the list of what is known, for error messages."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'did you mean {close[0]!r}?' if close else 'known: ' + ', '.join(sorted(known))
