"""How alike two texts are, as a number (0 to 5 in STS-B): configs/classify.py with one output and the squared error.

    python -m t5x_lite.train --config=configs/similarity.py --config.init_from=runs/base --config.data.train=pairs.csv --workdir=runs/similarity
    python -m t5x_lite.predict --workdir=runs/similarity --text="A man sings." --text_b="Somebody makes music."

STS-B's own files have no header: --config.data.train=sts-train.csv --config.data.validation=sts-dev.csv --config.data.text_columns=5,6
--config.data.label_column=4. Any number can be the target. 3e-5, 4 epochs, batch 16, 10 % warm-up. BERT base has 85.8 on STS-B (Spearman, test; Devlin et al.,
2018, table 1); unmeasured here as it stands. With 1,000 pairs of STS-B and MiniLM, --config.batch_size=32 --config.epochs=8
--config.optim.learning_rate=1e-4: Pearson 79.9 on dev (5 epochs at 5e-5 are too few: 64).
"""

from configs import classify
from t5x_lite.config import Config


def get_config() -> Config:
    config = classify.get_config()
    config.epochs, config.batch_size = 4.0, 16
    config.data.regression = True
    config.optim.learning_rate = 3e-5
    return config
