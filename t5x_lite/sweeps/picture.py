"""A sweep as a picture: the score against one field, a line for each value of another, a panel for each combination of the rest. Points are runs, lines means.

Numbers go along the axis before names do, and learning rates before other numbers; these, and what spans more than a factor of 20, on a logarithmic scale.
"""

import math
import os
from typing import Any

from t5x_lite.evaluation import reporting
from t5x_lite.sweeps import grid, runs
from t5x_lite.sweeps.table import REPEATS, Group, Results

PICTURE = 'sweep.png'
_WIDE = 20
_MOST_TICKS = 10
_STYLES = ('-', '--', ':', '-.')  # of lines beyond the colours there are
_APART = 0.12  # of lines at one name, where names stand 1 apart
_GREY = '#444444'


def write(folder: str, results: Results) -> None:
    """Draws OUT/sweep.png.

    Raises:
      UserError: matplotlib is not installed.
    """
    draw(results, reporting.matplotlib_figure()).savefig(os.path.join(folder, PICTURE), dpi=150)


def axes_of(results: Results) -> tuple[str, str, list[str]]:
    """(the field along the axis, that of the lines, those of the panels); '' and [] where there is none."""
    fields = [field for field in results.rows[0].values if field not in REPEATS]
    numbers = [field for field in fields if all(_is_number(row.values[field]) for row in results.rows)]
    rates = [field for field in numbers if 'rate' in field.rpartition('.')[2]]
    along = next(iter([*rates, *numbers, *fields]), '')
    rest = [field for field in fields if field != along]
    return along, rest[0] if rest else '', rest[1:]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Axis:
    """Where values of the field along the axis stand: at themselves, or names side by side."""

    def __init__(self, results: Results, field: str):
        self.field = field
        values = [row.values[field] for row in results.rows] if field else ['']
        self.numeric = bool(field) and all(map(_is_number, values))
        if self.numeric:
            self._places = {self._name(value): float(value) for value in sorted(values)}
            low, high = min(self._places.values()), max(self._places.values())
            self.logarithmic = low > 0 and low < high and (high / low >= _WIDE or 'rate' in field.rpartition('.')[2])
        else:
            self._places = {name: float(place) for place, name in enumerate(dict.fromkeys(map(self._name, values)))}
            self.logarithmic = False

    def _name(self, value: Any) -> str:
        return (f'{value:g}' if self.numeric else grid.as_text(self.field, value) or "''") if self.field else 'all runs'

    def place(self, group: Group, line: int, lines: int) -> float:
        here = self._places[self._name(group.values[self.field] if self.field else '')]
        return here if self.numeric else here + _APART * (line - (lines - 1) / 2)

    def set_up(self, axes: Any) -> None:
        axes.set_xlabel(self.field)
        if self.logarithmic:
            axes.set_xscale('log')
        if len(self._places) <= _MOST_TICKS or not self.numeric:
            long = not self.numeric and max(map(len, self._places)) * len(self._places) > 40
            turned = {'rotation': 30, 'ha': 'right'} if long else {}
            axes.set_xticks(list(self._places.values()), [_cut(name) for name in self._places], **turned)
            axes.minorticks_off()
        if not self.numeric:
            axes.set_xlim(-0.6, len(self._places) - 0.4)


def _cut(text: str, most: int = 32) -> str:
    return text if len(text) <= most else f'{text[: most - 3]}...'


def draw(results: Results, figure_class: Any) -> Any:
    """The figure."""
    along, by, rest = axes_of(results)
    axis = _Axis(results, along)
    lines = {name: number for number, name in enumerate(dict.fromkeys(_value(group, by) for group in results.groups))}
    panels: dict[str, list[Group]] = {}
    for group in results.groups:
        panels.setdefault(', '.join(f'{field.rpartition(".")[2]}={_cut(_value(group, field))}' for field in rest), []).append(group)
    columns = min(3, len(panels))
    figure = figure_class(figsize=(max(6.4, 4.6 * columns), 4.2 * math.ceil(len(panels) / columns)), layout='constrained')
    first = None
    for number, (title, groups) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(math.ceil(len(panels) / columns), columns, number, sharey=first)
        first = first or axes
        for name, line in lines.items():
            _draw_line(axes, axis, [group for group in groups if _value(group, by) == name], line, len(lines), name, results)
        best = results.best
        if best is not None and best in groups:
            place = axis.place(best, lines[_value(best, by)], len(lines))
            ring = {'marker': 'o', 'markersize': 12, 'markerfacecolor': 'none', 'markeredgecolor': _GREY, 'linestyle': 'none'}
            axes.plot([place], [best.mean], label=f'best: {best.mean:.4g}', **ring)
        axis.set_up(axes)
        axes.set_title(title, fontsize=10)
        axes.set_ylabel(results.metric.replace('_', ' '))
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False, title=by if len(lines) > 1 else None, title_fontsize=8)
    return figure


def _value(group: Group, field: str) -> str:
    return (grid.as_text(field, group.values[field]) or "''") if field else ''


def _draw_line(axes: Any, axis: _Axis, groups: list[Group], line: int, lines: int, name: str, results: Results) -> None:
    """The groups of one line: their means, the runs behind them, and along the lower edge those that failed."""
    colour, style = reporting.PALETTE[line % len(reporting.PALETTE)], _STYLES[line // len(reporting.PALETTE) % len(_STYLES)]
    placed = sorted(((axis.place(group, line, lines), group) for group in groups), key=lambda pair: pair[0])
    repeated = any(len(group.rows) > 1 for group in groups)
    means = [(place, group.mean) for place, group in placed if math.isfinite(group.mean)]
    if means:
        label = _cut(name) if lines > 1 else 'mean' if repeated else None
        axes.plot(*zip(*means, strict=True), color=colour, linestyle=style if axis.numeric else 'none', linewidth=1.6, marker='o', markersize=5, label=label)
    points = [(place, row.scores[results.metric]) for place, group in placed for row in group.rows if results.metric in row.scores]
    if repeated and points:
        axes.plot(*zip(*points, strict=True), color=colour, linestyle='none', marker='o', markersize=4, alpha=0.4, label='a run' if lines == 1 else None)
    failed = [place for place, group in placed for row in group.rows if row.state.kind in (runs.FAILED, runs.DIVERGED)]
    if failed:
        edge = axes.get_xaxis_transform()  # heights as shares of the panel
        axes.plot(failed, [0.03] * len(failed), color=colour, linestyle='none', marker='x', transform=edge, label='failed' if lines == 1 else None)
