"""Many runs that differ in fields, a grid or a list of them: trained one after another or written out for a cluster; one table, one picture, the best config.

    python -m t5x_lite.sweep --config=configs/classify.py --config.init_from=runs/base --config.data.train=reviews.csv --workdir=sweeps/reviews \\
        --grid="optim.learning_rate=1e-5,3e-5,1e-4; seed=0..2" --metric=accuracy
    python -m t5x_lite.sweep --workdir=sweeps/reviews                   # goes on; with another --grid it adds to the runs that are there
    python -m t5x_lite.sweep --workdir=sweeps/reviews --lines=lines.sh  # for a cluster: a command a line for each run that is not finished
    python -m t5x_lite.sweep --workdir=sweeps/reviews --collect         # the table of what has finished so far
    python -m t5x_lite.train --config=sweeps/reviews/best.json --workdir=runs/best

--grid is a product: fields between semicolons, values between commas, 0..4 for whole numbers, data.fold=all for the folds of config.data.folds. --runs is a
file with a run a line, `tune.freeze_layers=3 optim.learning_rate=5e-5` or JSON (.jsonl); with both, each line is crossed with the grid. All runs are checked
before the first begins. Runs share what is compiled where they differ in numbers alone (rates, seeds); --abreast=4 trains four such as one.
One that fails is recorded, the others go on, and the command ends with an error. A repeated command does not repeat what is finished.

The workdir holds runs/NAME (a workdir each), sweep.md and sweep.csv, sweep.png (with matplotlib: pip install -e '.[report]'), best.json, and what was asked
for: base.json, sweep.json. Runs that differ in nothing but seed and data.fold are judged by their mean.
"""

from collections.abc import Sequence
import os

from absl import flags

from t5x_lite import cli
from t5x_lite.errors import UserError
from t5x_lite.sweeps import grid, picture, plan, runs, table
from t5x_lite.training import devices

_CONFIG = cli.define_config_flags(file=plan.BASE, what='Folder of the sweep, or gs://BUCKET/FOLDER: runs/, sweep.md, sweep.csv, sweep.png, best.json.')
_GRID = flags.DEFINE_multi_string('grid', [], 'Fields and their values: "optim.learning_rate=1e-5,3e-5; seed=0..2". May be given several times.')
_RUNS = flags.DEFINE_string('runs', '', 'A file with a run a line: field=value field=value, or (.jsonl) an object of fields.')
_METRIC = flags.DEFINE_string('metric', '', 'The held-out metric that decides; default: config.checkpoint.best_metric, else the loss.')
_BEST = flags.DEFINE_enum('best', '', ['', 'lowest', 'highest'], 'Which value of it is best; default: lowest for losses and errors, else highest.')
_LINES = flags.DEFINE_string('lines', '', 'Write a launch line for each run that is not finished to this file (-: the terminal), instead of training.')
_ABREAST = flags.DEFINE_integer(
    'abreast', 1, 'At most so many runs are trained as one (vmap), of those that differ in numbers alone: rates, seeds. For accelerators.', lower_bound=1
)
_COLLECT = flags.DEFINE_bool('collect', False, 'Write the table of what has finished, instead of training.')


def main(argv: Sequence[str]) -> None:
    del argv
    devices.configure(_CONFIG.value)
    if _LINES.value and _COLLECT.value:
        raise UserError('--lines and --collect exclude each other; give one of them')
    axes = ';'.join(filter(str.strip, _GRID.value))
    asked = grid.combinations(axes, _RUNS.value, _CONFIG.value) if axes or _RUNS.value else None
    sweep = plan.opened(cli.workdir(), _CONFIG.value, asked, _METRIC.value, _BEST.value)
    if _COLLECT.value:
        _show(sweep)
        return
    waiting = runs.to_train(sweep)
    plan.check(sweep, waiting)
    sweep.save()
    if _LINES.value:
        _write_lines(sweep, waiting)
        return
    done = len(sweep.wanted) - len(waiting)
    counted = f'{len(sweep.wanted):,} run{"s" * (len(sweep.wanted) > 1)}'
    print(f'{counted}, {"done before" if not waiting else f"{done:,} of them done, the others checked" if done else "checked"}', flush=True)
    signal = runs.train(sweep, waiting, lambda line: print(line, flush=True), _ABREAST.value)
    if signal:
        print(f'\nstopped by {signal}; repeat the command to go on')
    _show(sweep)
    failed = [run.name for run in sweep.wanted if runs.state_of(run.workdir).kind in (runs.FAILED, runs.DIVERGED)]
    if failed and not signal:
        some = ', '.join(failed[:5]) + (f' and {len(failed) - 5} more' if len(failed) > 5 else '')
        raise UserError(f'{len(failed)} of {len(sweep.wanted)} runs failed: {some}; the reasons are in {os.path.join(sweep.folder, table.TABLE)}')


def _write_lines(sweep: plan.Sweep, waiting: Sequence[plan.Planned]) -> None:
    lines = plan.launch_lines(sweep, waiting)
    if _LINES.value == '-':
        print('\n'.join(lines))
        return
    with open(_LINES.value, 'w', encoding='utf-8') as file:
        file.writelines(f'{line}\n' for line in lines)
    print(f'{len(lines):,} lines written to {_LINES.value}, to be run in this folder; then  python -m t5x_lite.sweep --workdir={sweep.folder} --collect')


def _show(sweep: plan.Sweep) -> None:
    """Writes and prints what there is."""
    results = table.collect(sweep)
    print(f'\n{table.write(sweep, results)}')
    written = [table.TABLE, table.ROWS]
    if any(row.scores for row in results.rows):
        try:
            picture.write(sweep.folder, results)
            written.append(picture.PICTURE)
        except UserError as error:
            print(f'no picture: {error}')
    print(f'written to {sweep.folder}: {", ".join(written)}')


if __name__ == '__main__':
    cli.run(main)
