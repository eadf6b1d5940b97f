"""Curves and a table of one run or several.

    python -m t5x_lite.report --workdirs=runs/tiny --output=runs/tiny/report
    python -m t5x_lite.report --workdirs=runs/pretrained,runs/random --metrics=accuracy --output=compared

Writes OUTPUT/curves.png (a panel a metric, a colour a run: training as a thin line, held-out data as points; what counts alone reach, dashed) and
OUTPUT/summary.md (the scores of each run), and prints the latter. Needs matplotlib: pip install -e '.[report]'.
"""

from collections.abc import Sequence

from absl import flags

from t5x_lite import cli, outgoing
from t5x_lite.evaluation import reporting

_WORKDIRS = flags.DEFINE_list('workdirs', None, 'Folders of runs, separated by commas.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder to write, or gs://BUCKET/FOLDER.', required=True)
_METRICS = flags.DEFINE_list('metrics', [], 'Metrics to draw, in this order; by default all that are measured on held-out data.')


def main(argv: Sequence[str]) -> None:
    del argv
    with outgoing.to(_OUTPUT.value, reporting.SUMMARY) as folder:
        text = reporting.report(_WORKDIRS.value, folder, _METRICS.value)
    print(text)
    print(f'written to {_OUTPUT.value}/{reporting.CURVES} and {_OUTPUT.value}/{reporting.SUMMARY}')


if __name__ == '__main__':
    cli.run(main)
