"""Answers in texts of your own, some hundreds or thousands of questions in SQuAD's form: configs/squad.py with more of each example.

    python -m t5x_lite.train --config=configs/custom_qa.py --config.init_from=runs/squad --config.data.train=questions.json --workdir=runs/mine
    python -m t5x_lite.predict --workdir=runs/mine --text="Who wrote it?" --text_b="It was written by Ann Lee in Rome."

`init_from` is best a run of configs/squad.py, whose head goes on learning. Answers without `answer_start` are looked for; what is not in its text is
counted and named. 5e-5, 4 epochs (3 from some thousand questions on), batch 16, 10 % warm-up. Unmeasured here.
"""

from configs import squad
from t5x_lite.config import Config


def get_config() -> Config:
    config = squad.get_config()
    config.epochs, config.batch_size = 4.0, 16
    config.optim.learning_rate = 5e-5
    config.eval.every_steps = config.checkpoint.every_steps = 200
    return config
