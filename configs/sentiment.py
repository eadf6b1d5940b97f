"""Sentiment of texts, positive or negative, from a csv, tsv or jsonl of yours: configs/classify.py with a rate that keeps most of what was learnt before.

    python -m t5x_lite.train --config=configs/sentiment.py --config.init_from=runs/base --config.data.train=reviews.csv --workdir=runs/sentiment
    python -m t5x_lite.predict --workdir=runs/sentiment --text="I want my money back"

2e-5, 3 epochs (4 where examples are fewer than some thousands: --config.epochs=4), batch 32, 10 % warm-up. BERT base at rates of 2e-5 to 5e-5 has 93.5 % on
SST-2 (test; Devlin et al., 2018, table 1). That is for thousands of examples: a model of 6 layers of 384 (MiniLM) has learnt nothing from 320 of SST-2 after
30 such steps (52.0 % of 200 held out, as a majority vote; measured). For hundreds --config.epochs=10 --config.optim.learning_rate=1e-4. More is in
tests/benchmarks/EVIDENCE.md.
"""

from configs import classify
from t5x_lite.config import Config


def get_config() -> Config:
    config = classify.get_config()
    config.optim.learning_rate = 2e-5
    return config
