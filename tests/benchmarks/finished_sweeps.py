"""What the benchmarks that read sweeps share: the results of one, and a table and a picture of several."""

import os
from typing import Any

from t5x_lite.config_values import from_json
from t5x_lite.errors import UserError
from t5x_lite.sweeps import plan, table


def results_of(folder: str) -> table.Results:
    """
    Raises:
      UserError: it is no sweep.
    """
    base = os.path.join(folder, plan.BASE)
    if not os.path.exists(base):
        raise UserError(f'--sweeps={folder} is no sweep: it has no {plan.BASE}; give the --workdir of t5x_lite.sweep')
    return table.collect(plan.opened(folder, from_json(base)))


def task_of(folder: str) -> str:
    """Its name in tables and pictures: the folder's own."""
    return os.path.basename(os.path.normpath(folder))


def write(folder: str, name: str, text: str, figure: Any) -> None:
    """FOLDER/NAME.md and FOLDER/NAME.png; the text is printed too."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f'{name}.md'), 'w', encoding='utf-8') as file:
        file.write(text)
    figure.savefig(os.path.join(folder, f'{name}.png'), dpi=110)
    print(text)
