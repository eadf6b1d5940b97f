"""Summaries of texts: a T5 (configs/summarise.py:t5) or a GPT (:gpt), from a table with the columns `text` and `summary`.

    python -m t5x_lite.train --config=configs/summarise.py:t5 --config.init_from=runs/t5 --config.data.train=articles.jsonl --workdir=runs/summaries
    python -m t5x_lite.predict --workdir=runs/summaries --text="summarize: A long text." --config.decode.method=beam
    python -m t5x_lite.train --config=configs/summarise.py:gpt --config.init_from=runs/gpt --config.data.train=articles.jsonl --workdir=runs/tldr
    python -m t5x_lite.predict --workdir=runs/tldr --text="A long text. TL;DR:"

Other columns: --config.data.tasks.inputs="summarize: {article}" --config.data.tasks.targets="{highlights}". gpt: 3e-5, 3 epochs (2 to 3), batch 16, 10 %
warm-up; of a text that is too long the end is read. t5: T5's own recipe (configs/t5_tasks.py: Adafactor at a constant 1e-3) for 15 epochs (10 to 20). In
2^18 such steps on CNN/DailyMail T5 base has 42.05 ROUGE-1 and 20.34 ROUGE-2 (Raffel et al., 2020, table 14). Both unmeasured here.
"""

from configs import completion, t5_tasks
from t5x_lite.config import Config
from t5x_lite.errors import UserError, nearest

VARIANTS = ('t5', 'gpt')


def get_config(variant: str = 't5') -> Config:
    if variant not in VARIANTS:
        raise UserError(f'configs/summarise.py has no variant {variant!r}, {nearest(variant, VARIANTS)}')
    if variant == 'gpt':
        config = completion.get_config()
        config.optim.learning_rate, config.data.seq_len = 3e-5, 512
        config.data.tasks.inputs, config.data.tasks.targets = '{text} TL;DR:', ' {summary}'
        return config
    config = t5_tasks.get_config()
    config.epochs, config.batch_size = 15.0, 16
    config.data.tasks.inputs, config.data.tasks.targets, config.data.tasks.metrics = 'summarize: {text}', '{summary}', ('rouge',)
    config.data.tasks.pack = False  # a batch counts examples
    config.eval.batch_size, config.eval.examples_while_training = 16, 50
    return config
