"""Spam or not: configs/classify.py with the lower half of the layers, and the embeddings, as they were.

    python -m t5x_lite.train --config=configs/spam.py --config.init_from=runs/base --config.data.train=messages.csv --workdir=runs/spam
    python -m t5x_lite.predict --workdir=runs/spam --text="You have won a prize, call now"

2e-5, 4 epochs, batch 16, 10 % warm-up, the bottom 6 of 12 layers frozen: of other depths the same share. They cost no gradient and no optimiser state.
Unmeasured here.
"""

from configs import classify
from t5x_lite.config import Config


def get_config() -> Config:
    config = classify.get_config()
    config.epochs, config.batch_size = 4.0, 16
    config.optim.learning_rate = 2e-5
    config.tune.freeze_layers = 0.5
    return config
