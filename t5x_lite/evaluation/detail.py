"""What `evaluate` says beside scores: how far they may be trusted, class by class, and what was taken for what."""

from collections.abc import Mapping
import dataclasses
import os

from t5x_lite.errors import UserError
from t5x_lite.evaluation import confusion, metrics_classes, spread
from t5x_lite.evaluation.metrics_judged import Judged
from t5x_lite.evaluation.spread import Spread

_SHOWN = 30  # classes on the terminal


def of(judged: Mapping[str, Judged], resamples: int) -> 'Details':
    """
    Args:
      judged: {name of a head: its answers}, '' for the only one.
      resamples: draws of the examples; 0: no intervals.
    """
    intervals: dict[str, Spread] = {}
    for head, each in judged.items():
        if resamples and each.count:
            found = spread.of_scores(each.score, each.count, resamples)
            intervals |= {f'{head}/{name}' if head else name: value for name, value in found.items()}
    return Details(judged, intervals, resamples)


@dataclasses.dataclass(frozen=True)
class Details:
    judged: Mapping[str, Judged]
    intervals: Mapping[str, Spread]
    resamples: int

    def lines(self, scores: Mapping[str, float]) -> list[str]:
        """Scores with their intervals, and the table of each head's classes."""
        lines = []
        for name, value in scores.items():
            found = self.intervals[name] if name in self.intervals else None
            lines.append(f'  {name:<32} {value:.4f}' + (f'  ({found.low:.4f} to {found.high:.4f})' if found else ''))
        if self.intervals:
            counts = ' and '.join(f'{each.count:,} {each.unit}' for each in self.judged.values())
            lines.append(f'  in brackets: {spread.LEVEL:.0%} of {self.resamples:,} draws of the {counts}, with repeats (bootstrap)')
        for head, each in self.judged.items():
            lines += _table(head, each)
        return lines

    def record(self) -> dict[str, object]:
        """For evaluation.json; {} where there is nothing beside scores."""
        found: dict[str, object] = {}
        if self.intervals:
            found['intervals'] = {name: [each.low, each.high] for name, each in self.intervals.items()}
        classes = {head: dict(each.by_class) for head, each in self.judged.items() if each.by_class}
        if not classes:
            return found
        tables = {'by_class': classes, 'class_means': {head: metrics_classes.means(each) for head, each in classes.items()}}
        return found | {name: table[''] if '' in table else table for name, table in tables.items()}

    def draw(self, folder: str) -> list[str]:
        """Pictures of what classes were taken for; their paths, none without matplotlib."""
        written = []
        for head, each in self.judged.items():
            if each.taken_for is None or not len(each.taken_for[0]):
                continue
            path = os.path.join(folder, f'confusion_{head}.png' if head else 'confusion.png')
            try:
                confusion.save(*each.taken_for, path, head)
            except UserError as error:
                print(f'no picture of what was taken for what: {error}')
                return written
            written.append(path)
        return written


def _table(head: str, judged: Judged) -> list[str]:
    if not judged.by_class:
        return []
    rows = sorted(judged.by_class.items(), key=lambda item: -item[1]['count'])
    width = max(13, *(len(name) for name, _ in rows[:_SHOWN]))
    lines = [f'{f"{head}, class" if head else "class":<{width}}  precision  recall      f1  examples']
    for name, found in rows[:_SHOWN]:
        lines.append(f'{name:<{width}}  {found["precision"]:9.4f}  {found["recall"]:6.4f}  {found["f1"]:6.4f}  {found["count"]:8,}')
    if len(rows) > _SHOWN:
        lines.append(f'... {len(rows) - _SHOWN} more in evaluation.json')
    total = sum(found['count'] for _, found in rows)
    for name, found in metrics_classes.means(judged.by_class).items() if len(rows) > 1 else ():
        lines.append(f'{f"{name} mean":<{width}}  {found["precision"]:9.4f}  {found["recall"]:6.4f}  {found["f1"]:6.4f}  {total:8,}')
    return [f'  {line}' for line in lines]
