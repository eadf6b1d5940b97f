"""Translations: a T5 on a table of sentences, one column a language (csv, tsv, jsonl).

    python -m t5x_lite.train --config=configs/translate.py --config.init_from=runs/t5 --config.data.train=sentences.tsv --workdir=runs/translate
    python -m t5x_lite.predict --workdir=runs/translate --text="translate English to German: A dog." --config.decode.method=beam

Columns `en` and `de`; of others --config.data.tasks.inputs="translate English to French: {en}" --config.data.tasks.targets="{fr}". Parallel files, a
sentence a line: t5x_lite/tasks/local.py and configs/t5_tasks.py. T5's own recipe (Adafactor at a constant 1e-3) for 10 epochs, batch 32. In 2^18 such steps
T5 base has 30.9 BLEU on WMT English to German (Raffel et al., 2020, table 14); unmeasured here.
"""

from configs import t5_tasks
from t5x_lite.config import Config


def get_config() -> Config:
    config = t5_tasks.get_config()
    config.epochs = 10.0
    config.data.seq_len = config.data.target_len = 128
    config.data.tasks.inputs, config.data.tasks.targets, config.data.tasks.metrics = 'translate English to German: {en}', '{de}', ('bleu', 'chrf')
    config.data.tasks.pack = False  # a batch counts examples
    config.eval.examples_while_training = 50
    return config
