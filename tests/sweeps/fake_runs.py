"""Sweeps whose runs are on disk as if they had been trained: what tables and pictures are made of."""

import json
import os

from t5x_lite.config import CheckpointConfig, Config, ModelConfig
from t5x_lite.config_values import to_json
from t5x_lite.sweeps import grid, plan, runs

BASE = Config(
    steps=20, loss='bert_flax.losses:MlmNspLoss', checkpoint=CheckpointConfig(every_steps=10),
    model=ModelConfig(module='bert_flax.bert:BertForPreTraining', num_layers=2, d_model=8, num_heads=2, d_ff=16, max_positions=8, vocab_size=16),
)  # fmt: skip


def sweep_of(folder, text: str, base: Config = BASE, metric: str = '', best: str = '') -> plan.Sweep:
    """A sweep of this grid, saved."""
    sweep = plan.opened(str(folder), base, grid.combinations(text, '', base), metric, best)
    sweep.save()
    return sweep


def trained(run: plan.Planned, evaluations: dict[int, dict[str, float]], finished: bool = True) -> None:
    """What a run leaves: {step: held-out scores}, and 2 seconds of training a step."""
    os.makedirs(run.workdir, exist_ok=True)
    with open(os.path.join(run.workdir, 'config.json'), 'w') as file:
        file.write(to_json(run.config))
    lines = [
        {'step': step} | values
        for step, scores in evaluations.items()
        for values in ({'loss': 1.0, 'seconds_per_step': 2.0}, {f'eval/{name}': value for name, value in scores.items()} | {'eval_seconds': 1.0})
    ]
    with open(os.path.join(run.workdir, 'metrics.jsonl'), 'w') as file:
        file.writelines(json.dumps(line) + '\n' for line in lines)
    if finished:
        os.makedirs(os.path.join(run.workdir, 'checkpoints', str(run.config.steps)))


def failed(run: plan.Planned, kind: str = runs.DIVERGED, reason: str = 'step 3: loss nan') -> None:
    os.makedirs(run.workdir, exist_ok=True)
    with open(os.path.join(run.workdir, runs.OUTCOME), 'w') as file:
        json.dump({'kind': kind, 'reason': reason}, file)
