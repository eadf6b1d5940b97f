"""A confusion matrix as a picture: what each class was taken for."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_lite.evaluation import metrics, reporting

MOST_CLASSES = 60  # beyond, the rarest are drawn as one
_WRITTEN = 25  # more classes leave no room for numbers in the cells
_OTHERS = '(other)'


def save(targets, predictions, names: Sequence[str], path: str, title: str = '') -> None:
    """Draws two [n] arrays of class ids into a file, .png, .pdf or .svg.

    Raises:
      UserError: matplotlib is not installed.
    """
    figure_class = reporting.matplotlib_figure()
    draw(metrics.confusion_matrix(targets, predictions, len(names)), names, figure_class, title).savefig(path, dpi=150)


def draw(counts: np.ndarray, names: Sequence[str], figure_class: Any, title: str = '') -> Any:
    """A figure of counts [classes, classes], rows are targets: shades are shares of the row, numbers are counts, and behind a name stands its recall.

    Raises:
      ValueError: `counts` is not of these classes.
    """
    counts = np.asarray(counts, np.int64)
    if counts.shape != (len(names), len(names)) or not len(names):
        raise ValueError(f'counts are {counts.shape} for {len(names)} classes')
    counts, names = _merged(counts, list(names))
    shares = metrics.ratio(counts, np.broadcast_to(counts.sum(axis=1, keepdims=True), counts.shape))
    side = min(20.0, max(3.2, 1.8 + 0.42 * len(names)))
    figure = figure_class(figsize=(side + 0.8, side), layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    places = range(len(names))
    axes.set_xticks(places, [_short(name) for name in names], rotation=0 if max(map(len, names)) <= 3 else 90)
    recalls = [f'{_short(name)}  {shares[place, place]:.0%}' if counts[place].any() else f'{_short(name)}  -' for place, name in enumerate(names)]
    axes.set_yticks(places, recalls)
    axes.tick_params(length=0, labelsize=9 if len(names) <= _WRITTEN else 6)
    axes.set_xlabel('prediction')
    axes.set_ylabel('target, and the share found')
    if title:
        axes.set_title(title)
    if len(names) <= _WRITTEN:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = 'white' if shares[row, column] > 0.55 else '#222222'
            axes.text(column, row, _number(counts[row, column]), ha='center', va='center', fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label='share of the target')
    return figure


def _merged(counts: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """The classes met most often as targets and predictions, in their order, and the others as one."""
    if len(names) <= MOST_CLASSES:
        return counts, names
    common = np.sort(np.argsort(-(counts.sum(0) + counts.sum(1)), kind='stable')[: MOST_CLASSES - 1])
    into = np.full(len(names), len(common))
    into[common] = np.arange(len(common))
    merged = np.zeros((MOST_CLASSES, MOST_CLASSES), np.int64)
    np.add.at(merged, (into[:, None], into), counts)
    return merged, [*(names[place] for place in common), _OTHERS]


def _short(name: str) -> str:
    # A dollar begins a formula in matplotlib.
    return (name if len(name) <= 20 else name[:19] + '…').replace('$', r'\$').replace('\n', ' ')


def _number(count: int) -> str:
    return str(count) if count < 10_000 else f'{count / 10 ** (3 * (power := int(math.log10(count)) // 3)):.1f}{"kMG"[power - 1]}'
