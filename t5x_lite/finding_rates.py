"""What `train --find_learning_rate` does: a range test of a run, said, written and drawn."""

import dataclasses
import json
import os

from t5x_lite import dry_run, mirrors
from t5x_lite.assemble import Run
from t5x_lite.config import TuneConfig
from t5x_lite.errors import UserError
from t5x_lite.evaluation import rate_picture, reporting
from t5x_lite.training import range_test, recipe_rates, workdirs

CURVE, PICTURE = 'learning_rates.jsonl', 'learning_rates.png'


def find(run: Run, workdir: str, steps: int) -> None:
    """Tests rates from 1e-7 to 1 for a run; writes WORKDIR/learning_rates.jsonl and, with matplotlib, learning_rates.png. Checkpoints are not touched.

    Raises:
      UserError: what training would refuse; weights that are gone; a workdir that cannot be written.
    """
    if run.train is None:
        raise UserError('there are no data to find a learning rate on; give --config.data.path=DIR or --config.data.train=FILE')
    if run.initial is None and run.config.init_from and run.config.init_weights:
        raise UserError(f'config.init_from={run.config.init_from} is gone, and a test begins with its weights; bring it back')
    program = dry_run.check(run)
    print('\n'.join(dry_run.description(run)), flush=True)
    print(f'{steps} steps at learning rates from {range_test.LOWEST:g} to {range_test.HIGHEST:g}', flush=True)
    rates, losses = range_test.measure(run.config, run.train, run.initial, steps)
    finding = range_test.find(rates, losses)
    folder = mirrors.folder_of(workdir)
    with workdirs.disk_errors(workdir):
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, CURVE), 'w', encoding='utf-8') as file:
            for step, values in enumerate(zip(rates, losses, range_test.smoothed(losses), strict=True), 1):
                file.write(json.dumps({'step': step} | dict(zip(('learning_rate', 'loss', 'smoothed'), map(float, values)))) + '\n')
        written = [CURVE]
        try:
            rate_picture.draw(rates, losses, finding, reporting.matplotlib_figure()).savefig(os.path.join(folder, PICTURE), dpi=150)
            written.append(PICTURE)
        except UserError as error:  # without matplotlib
            print(f'no picture: {error}')
        mirrors.upload(workdir)
    print(said(run, finding, [program.tuning]))
    print(f'written to {" and ".join(os.path.join(workdir, name) for name in written)}')


def said(run: Run, finding: range_test.Finding, tunings) -> str:
    """The finding in lines."""
    lines = []
    if finding.too_high is not None:
        lines.append(f'from {finding.too_high:.2g} on the loss is above {range_test.ABOVE:g} times its lowest: too high')
    if finding.steepest is None:
        return '\n'.join([*lines, 'the loss never falls clearly: more steps (--find_steps) or larger batches tell more, or there is little to learn here'])
    lines.insert(0, f'the loss falls most steeply at {finding.steepest:.2g} and is lowest at {finding.lowest:.2g}')
    tried = dataclasses.replace(run.config, optim=dataclasses.replace(run.config.optim, learning_rate=finding.steepest))
    beyond = recipe_rates.of_run(tried, tunings)
    if beyond:
        lines.append(f'but {beyond.rpartition("; ")[0]}: so short a test does not see what is forgotten slowly; stay within the recipe')
    else:
        begin = f'try --config.optim.learning_rate={finding.steepest:.1g}'
        lines.append(begin + ('' if run.config.tune == TuneConfig() else ', with these fields of config.tune') + ', and a third and three times of it')
    return '\n'.join(lines)
