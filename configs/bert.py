"""BERT pre-training with masked LM and next-sentence prediction (Devlin et al., 2018), sizes tiny to large.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=wordpiece --vocab_size=30522
    python -m t5x_lite.train --config=configs/bert.py:base --config.data.path=data/mine --workdir=runs/base

The original recipe for base: batch 256, 1,000,000 steps, warm-up 10,000, the first 900,000 at length 128 and the rest at 512:

    --config.data.stages="((0, 128, 256, 20), (900000, 512, 256, 76))"

On BookCorpus + Wikipedia, on 16 TPU chips for four days, the paper reports SQuAD 1.1 F1 88.5 (dev); not measured here. The other sizes (Turc et al., 2019)
take the same recipe. For minutes on a CPU see configs/bert_small_corpus.py.
"""

from t5x_lite.config import Activation, Config, DataConfig, ModelConfig, OptimConfig, Schedule
from t5x_lite.errors import UserError, nearest

# layers, width, heads
SIZES = {'tiny': (2, 128, 2), 'mini': (4, 256, 4), 'small': (4, 512, 8), 'medium': (8, 512, 8), 'base': (12, 768, 12), 'large': (24, 1024, 16)}


def get_config(variant: str = 'base') -> Config:
    if variant not in SIZES:
        raise UserError(f'configs/bert.py has no variant {variant!r}, {nearest(variant, SIZES)}')
    layers, width, heads = SIZES[variant]
    return Config(
        steps=1_000_000,
        batch_size=256,
        loss='bert_flax.losses:MlmNspLoss',
        model=ModelConfig(
            module='bert_flax.bert:BertForPreTraining',
            num_layers=layers,
            d_model=width,
            num_heads=heads,
            d_ff=4 * width,
            activation=Activation.gelu_tanh,
        ),
        data=DataConfig(source='bert_flax.objectives:MlmNsp', seq_len=128),
        optim=OptimConfig(learning_rate=1e-4, warmup_fraction=0.01, schedule=Schedule.linear_from_start, bias_correction=False),
    )
