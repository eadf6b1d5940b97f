"""T5 1.0 and 1.1 (Raffel et al., 2020), small to 11B and XXL, pre-trained by span corruption.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=sentencepiece --vocab_size=32100
    python -m t5x_lite.train --config=configs/t5.py:v1_1_base --config.data.path=data/mine --workdir=runs/t5      # any variant

The recipe on C4: 2^19 steps of 128 x 512 (1.1: 2^20 of 2048 x 512, no dropout), Adafactor, 1 / sqrt(max(step, 10,000)), z-loss 1e-4, on slices of TPU v3 pods
(up to 1,024 chips). Published, none measured here: 1.0 base, then fine-tuned, has 83.28 on GLUE and 80.88 EM on SQuAD (the paper's baseline, table 1); 1.1 base
a loss of 1.942 on C4 after 2^16 steps (nanoT5, with AdamW and scaled steps: 1.953; one A100). Of the other sizes the paper gives results of a longer,
multi-task pre-training only. 1.0 small has 60,506,624 parameters. Fine-tuning is configs/t5_tasks.py; for a CPU see configs/t5_small_corpus.py.
"""

from t5x_lite.config import Activation, Config, DataConfig, Init, ModelConfig, Norm, NormPlace, OptimConfig, Optimizer, Positions, Schedule
from t5x_lite.errors import UserError, nearest

# width, feed-forward, heads, head size, layers of each stack
SIZES = {
    'small': (512, 2048, 8, 64, 6), 'base': (768, 3072, 12, 64, 12), 'large': (1024, 4096, 16, 64, 24), '3b': (1024, 16384, 32, 128, 24),
    '11b': (1024, 65536, 128, 128, 24), 'v1_1_small': (512, 1024, 6, 64, 8), 'v1_1_base': (768, 2048, 12, 64, 12),
    'v1_1_large': (1024, 2816, 16, 64, 24), 'v1_1_xl': (2048, 5120, 32, 64, 24), 'v1_1_xxl': (4096, 10240, 64, 64, 24),
}  # fmt: skip


def get_config(variant: str = 'v1_1_base') -> Config:
    if variant not in SIZES:
        raise UserError(f'configs/t5.py has no variant {variant!r}, {nearest(variant, SIZES)}')
    width, hidden, heads, head_size, layers = SIZES[variant]
    later = variant.startswith('v1_1')
    return Config(
        steps=2**20 if later else 2**19,
        batch_size=2048 if later else 128,
        loss='t5x_lite.training.losses:LmLoss',
        z_loss=1e-4,
        model=ModelConfig(
            module='t5x_lite.models.language_model:EncoderDecoder',
            default_vocab_size=32128, num_layers=layers, d_model=width, num_heads=heads, head_size=head_size, d_ff=hidden,
            activation=Activation.gelu_tanh if later else Activation.relu, gated=later, use_bias=False, norm=Norm.rms, norm_place=NormPlace.pre,
            norm_eps=1e-6, init=Init.fan_in, positions=Positions.relative, scale_attention=False, tie_embeddings=not later, scale_logits=not later,
            **dict.fromkeys(('dropout', 'attention_dropout', 'hidden_dropout', 'output_dropout'), 0.0 if later else 0.1),
        ),  # fmt: skip
        data=DataConfig(source='t5x_lite.data.span_corruption:SpanCorruption', seq_len=512, concatenate=True),
        optim=OptimConfig(
            name=Optimizer.adafactor, learning_rate=0.01, schedule=Schedule.inverse_sqrt, warmup_steps=10_000, decay=(('.*', 0.0),)
        ),
    )
