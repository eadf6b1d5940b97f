"""Lines that show how far a long pass over files has come."""

import time
from collections.abc import Callable

EVERY = 5.0  # seconds between lines


class Progress:
    """A line every few seconds: share done, rates, time left."""

    def __init__(self, title: str, log: Callable[[str], None], total: int):
        self._title, self._log, self._total = title, log, total
        self._start = self._shown = time.monotonic()
        self._first = None

    def show(self, on_disk: int, read: int, tokens: int | None, last: bool = False) -> None:
        now = time.monotonic()
        share = on_disk / self._total
        if self._first is None:
            self._first = share, read, tokens
        if now - self._shown < EVERY and not (last and self._shown > self._start):
            return
        self._shown = now
        seconds = max(now - self._start, 1e-9)
        share0, read0, tokens0 = self._first
        parts = [f'{self._title} {share:6.1%}', f'{read / 1e6:,.0f} MB', f'{(read - read0) / 1e6 / seconds:,.1f} MB/s']
        if tokens is not None:
            parts += [f'{tokens:,} tokens', f'{(tokens - tokens0) / seconds:,.0f} tokens/s']
        if last:
            parts.append(f'{_clock(seconds)} taken')
        elif share > share0:
            parts.append(f'{_clock(seconds * (1 - share) / (share - share0))} left')
        self._log(' | '.join(parts))


def _clock(seconds: float) -> str:
    return f'{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}'
