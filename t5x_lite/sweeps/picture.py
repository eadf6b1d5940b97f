"""A sweep as a picture: the score against one field, a line for each value of another, a panel for each combination of the rest. Points are runs, lines means.

Numbers go along the axis before names do, and learning rates before other numbers; these, and what spans more than a factor of 20, on a logarithmic scale.
"""

import io
import math
import os
import textwrap
from typing import Any

from t5x_lite import remote
from t5x_lite.evaluation import reporting
from t5x_lite.sweeps import grid, runs
from t5x_lite.sweeps.table import REPEATS, Group, Results

PICTURE = 'sweep.png'
_WIDE = 20
_MOST_TICKS, _CLOSE = 10, 0.08  # a share of the axis
_STYLES = ('-', '--', ':', '-.')  # of lines beyond the colours there are
_ENTRY, _LETTER = 0.55, 0.065  # inches of a legend's entry beside its words, and of a letter, at 8 points
_APART = 0.12  # of lines at one name, where names stand 1 apart
_GREY = '#444444'


def write(folder: str, results: Results) -> None:
    """Draws OUT/sweep.png.

    Raises:
      UserError: matplotlib is not installed.
    """
    drawn = io.BytesIO()
    draw(results, reporting.matplotlib_figure()).savefig(drawn, format='png', dpi=150)
    remote.write(os.path.join(folder, PICTURE), drawn.getvalue())


def axes_of(results: Results) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The fields along the axis, of the lines, and of the panels; several together where runs are a list, in which few of their values meet."""
    fields = [field for field in results.rows[0].values if field not in REPEATS]
    numbers = [field for field in fields if all(_is_number(row.values[field]) for row in results.rows)]
    rates = [field for field in numbers if 'rate' in field.rpartition('.')[2]]
    along = (*rates, *numbers, *fields)[:1]
    rest = tuple(field for field in fields if field not in along)
    if rest and _share(results, (along, rest)) <= 0.5:
        return tuple(fields), (), ()
    if len(rest) > 1 and _share(results, tuple((field,) for field in rest)) <= 0.5:
        return along, rest, ()
    return along, rest[:1], rest[1:]


def _share(results: Results, parts: tuple[tuple[str, ...], ...]) -> float:
    """How many of all combinations of values of these there are."""
    found = [[_value(group, part) for part in parts] for group in results.groups]
    return len({tuple(values) for values in found}) / math.prod(len(set(column)) for column in zip(*found, strict=True))


def _value(group: Group, fields: tuple[str, ...]) -> str:
    """'lamb' of one field; of several those that the run names: 'name=lamb, freeze_layers=2'."""
    texts = {field: grid.as_text(field, group.values[field]) or "''" for field in fields}
    if len(fields) < 2:
        return ''.join(texts.values())
    named = group.rows[0].run.fields
    return ', '.join(f'{field.rpartition(".")[2]}={text}' for field, text in texts.items() if field in named) or 'base'


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Axis:
    """Where groups stand along the axis: at a number, or names side by side."""

    def __init__(self, results: Results, fields: tuple[str, ...]):
        self._fields, self._title = fields, fields[0] if len(fields) == 1 else ''
        values = [group.values[self._title] for group in results.groups] if self._title else []
        self.numeric = bool(values) and all(map(_is_number, values))
        self.logarithmic = False
        if self.numeric:
            self._places = {grid.as_text(self._title, value): float(value) for value in sorted(values)}
            low, high = min(values), max(values)
            self.logarithmic = 0 < low < high and (high / low >= _WIDE or 'rate' in self._title.rpartition('.')[2])
        else:
            self._places = {name: float(place) for place, name in enumerate(dict.fromkeys(map(self._name, results.groups)))}

    def _name(self, group: Group) -> str:
        return _value(group, self._fields) if self._fields else 'all runs'

    def place(self, group: Group, line: int, lines: int) -> float:
        here = self._places[self._name(group)]
        return here if self.numeric else here + _APART * (line - (lines - 1) / 2)

    def _labels(self) -> list[str]:
        """A name at each place, none where numbers stand too close for it."""
        if not self.numeric:
            return ['\n'.join(_wrapped(name)) for name in self._places]
        heights = [math.log(place) if self.logarithmic else place for place in self._places.values()]
        labels, last = [], -math.inf
        for name, height in zip(self._places, heights, strict=True):
            far = height - last >= _CLOSE * (heights[-1] - heights[0])
            labels.append(_shown(float(name), self.logarithmic) if far else '')
            last = height if far else last
        return labels

    def set_up(self, axes: Any) -> None:
        axes.set_xlabel(self._title)
        if self.logarithmic:
            axes.set_xscale('log')
        if len(self._places) <= _MOST_TICKS or not self.numeric:
            long = not self.numeric and min(max(map(len, self._places)), 24) * len(self._places) > 80
            turned = {'rotation': 30, 'ha': 'right'} if long else {}
            axes.set_xticks(list(self._places.values()), self._labels(), **turned)
            axes.minorticks_off()
        if not self.numeric:
            axes.set_xlim(-0.6, len(self._places) - 0.4)


def _shown(value: float, logarithmic: bool) -> str:
    """'3e-5' where all are powers, else '0.1'."""
    if not logarithmic or 0.1 <= value < 10_000:
        return f'{value:g}'
    mantissa, exponent = f'{value:e}'.split('e')
    return f'{float(mantissa):g}e{int(exponent)}'


def _wrapped(name: str) -> list[str]:
    """Four lines at most, no word of which goes on in the next."""
    lines = [_cut(line, 28) for line in textwrap.wrap(name, 24, break_long_words=False, break_on_hyphens=False)]
    return lines if len(lines) <= 4 else [*lines[:3], '...']


def _cut(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f'{text[: most - 3]}...'


def draw(results: Results, figure_class: Any) -> Any:
    """The figure."""
    along, by, rest = axes_of(results)
    axis = _Axis(results, along)
    lines = {name: number for number, name in enumerate(dict.fromkeys(_value(group, by) for group in results.groups))}
    panels: dict[str, list[Group]] = {}
    for group in results.groups:
        panels.setdefault(', '.join(f'{field.rpartition(".")[2]}={_cut(_value(group, (field,)))}' for field in rest), []).append(group)
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
        axes.set_ylabel(results.metric.replace('_', ' ') + (' (faint: runs)' if any(len(group.rows) > 1 for group in groups) else ''))
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
        if any(_failed(group) for group in groups):
            axes.plot([], [], color=_GREY, linestyle='none', marker='x', label='failed (hollow: mean of the others)')
        axes.margins(y=0.1)
    entries = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if entries:
        title = by[0] if len(by) == 1 and len(lines) > 1 else None
        columns = _legend_columns(list(entries), figure.get_figwidth())
        figure.legend(entries.values(), entries.keys(), loc='outside lower center', ncols=columns, fontsize=8, frameon=False, title=title, title_fontsize=8)
    return figure


def _legend_columns(labels: list[str], inches: float) -> int:
    """As many, up to four, as stand side by side; a legend is not cut to the figure but by it."""

    def width(columns: int) -> float:
        rows = math.ceil(len(labels) / columns)
        return sum(_ENTRY + _LETTER * max(map(len, labels[first : first + rows])) for first in range(0, len(labels), rows))

    return next((columns for columns in (4, 3, 2) if width(columns) <= inches), 1)


def _draw_line(axes: Any, axis: _Axis, groups: list[Group], line: int, lines: int, name: str, results: Results) -> None:
    """The groups of one line: their means, the runs behind them, and along the lower edge those that failed."""
    colour, style = reporting.PALETTE[line % len(reporting.PALETTE)], _STYLES[line // len(reporting.PALETTE) % len(_STYLES)]
    placed = sorted(((axis.place(group, line, lines), group) for group in groups), key=lambda pair: pair[0])
    means = [(place, group) for place, group in placed if math.isfinite(group.mean)]
    if means:
        drawn = {'color': colour, 'linestyle': style if axis.numeric else 'none', 'linewidth': 1.6}
        axes.plot([place for place, _ in means], [group.mean for _, group in means], marker='o', markersize=5, label=_cut(name) if lines > 1 else None, **drawn)
    for place, group in means:
        if len(group.ended) < len(group.rows):
            axes.plot([place], [group.mean], color=colour, marker='o', markersize=5, markerfacecolor='white')
    points = [(place, row.scores[results.metric]) for place, group in placed for row in group.rows if results.metric in row.scores]
    if points and any(len(group.rows) > 1 for group in groups):
        axes.plot(*zip(*points, strict=True), color=colour, linestyle='none', marker='o', markersize=4, alpha=0.4)
    failed = [place for place, group in placed if _failed(group)]
    if failed:
        # Heights as shares of the panel, those of lines apart.
        heights = [0.03 + 0.035 * line] * len(failed)
        axes.plot(failed, heights, color=colour, linestyle='none', marker='x', transform=axes.get_xaxis_transform())


def _failed(group: Group) -> bool:
    return any(row.state.kind in (runs.FAILED, runs.DIVERGED) for row in group.rows)
