"""What holds between two texts: entailment (NLI), paraphrase, whether one answers the other. configs/classify.py on two columns.

    python -m t5x_lite.train --config=configs/pairs.py --config.init_from=runs/base --config.data.train=pairs.csv --workdir=runs/pairs
    python -m t5x_lite.predict --workdir=runs/pairs --text="A man sings." --text_b="Somebody makes music."

Columns with usual names (sentence1 and sentence2, premise and hypothesis, question1 and question2, ...) are found; others are named with
--config.data.text_columns=FIRST,SECOND. 3e-5, 3 epochs, batch 32, 10 % warm-up. BERT base has 84.6 % on MNLI and 88.9 F1 on MRPC (test; Devlin et al., 2018,
table 1, 3 epochs at the best of 5e-5, 4e-5, 3e-5 and 2e-5); unmeasured here.
"""

from configs import classify
from t5x_lite.config import Config


def get_config() -> Config:
    config = classify.get_config()
    config.optim.learning_rate = 3e-5
    return config
