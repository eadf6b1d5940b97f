"""The picture of a learning-rate range test: each step's loss, the smoothed ones, and where they fall and rise."""

from typing import Any

import numpy as np

from t5x_lite.training.range_test import ABOVE, Finding, smoothed


def draw(rates: np.ndarray, losses: np.ndarray, finding: Finding, figure_class: Any) -> Any:
    """A figure: rates as a logarithmic axis."""
    figure = figure_class(figsize=(6.4, 4.2), layout='constrained')
    axes = figure.add_subplot()
    smooth = smoothed(losses)
    axes.plot(rates, losses, '.', color='#56b4e9', markersize=4, label='a step')
    axes.plot(rates, smooth, color='#0072b2', linewidth=1.8, label='smoothed')
    marks = (
        (finding.steepest, '#009e73', '--', 'steepest fall: {:.2g}'), (finding.lowest, '#444444', ':', 'lowest: {:.2g}'),
        (finding.too_high, '#d55e00', '-.', f'{ABOVE:g} times the lowest: {{:.2g}}'),
    )  # fmt: skip
    for rate, colour, style, words in marks:
        if rate is not None:
            axes.axvline(rate, color=colour, linestyle=style, linewidth=1.3, label=words.format(rate))
    axes.set_xscale('log')
    # Where the loss explodes it would press all else into a line.
    top = max(float(np.max(smooth[: max(len(smooth) // 2, 1)])), float(smooth.min()) * 1.5)
    low = float(min(losses.min(), smooth.min()))
    axes.set_ylim(low - 0.05 * (top - low), top + 0.15 * (top - low))
    axes.set_xlabel('learning rate')
    axes.set_ylabel('training loss')
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
