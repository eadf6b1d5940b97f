"""Entities of a field of its own (medicine, law, ...), few sentences: configs/ner.py with the lower two thirds of the layers, and the embeddings, as they were.

    python -m t5x_lite.train --config=configs/domain_ner.py --config.init_from=runs/ner --config.data.train=mine.conll --workdir=runs/mine
    python -m t5x_lite.predict --workdir=runs/mine --text="Aspirin eased the headache."

`init_from` may be a run of configs/ner.py: a head for other tags begins anew.
2e-5, 5 epochs (4 from some thousand sentences on), batch 16, 10 % warm-up, the bottom 8 of 12 layers frozen: of other depths the same share. Unmeasured here.
"""

from configs import ner
from t5x_lite.config import Config


def get_config() -> Config:
    config = ner.get_config()
    config.epochs, config.batch_size = 5.0, 16
    config.optim.learning_rate = 2e-5
    config.tune.freeze_layers = 8 / 12
    config.eval.every_steps = config.checkpoint.every_steps = 200
    return config
