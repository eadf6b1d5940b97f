"""Texts with any number of labels, cells such as toxic|insult, or lists in jsonl: configs/classify.py with a sigmoid for each label.

    python -m t5x_lite.train --config=configs/multi_label.py --config.init_from=runs/base --config.data.train=comments.csv --workdir=runs/labels
    python -m t5x_lite.predict --workdir=runs/labels --text="You are wrong, and so is your dog"

A row without labels is one that has none. Another separator: --config.data.label_separator=",". 3e-5, 4 epochs, batch 32, 10 % warm-up. Unmeasured here.
"""

from configs import classify
from t5x_lite.config import Config


def get_config() -> Config:
    config = classify.get_config()
    config.epochs = 4.0
    config.data.label_separator = '|'
    config.optim.learning_rate = 3e-5
    return config
