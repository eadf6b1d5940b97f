"""Masked LM on classic books: the pre-training evidence for two CPU cores.

    python -m t5x_lite.prepare --input=BOOKS/train --validation_input=BOOKS/valid --output=data/books --tokenizer=wordpiece --vocab_size=1000
    python -m t5x_lite.train --config=configs/mlm_books.py --config.data.path=data/books --workdir=runs/books

60 books, 9.4M pieces; 4 layers of 192, whole books packed into rows without next-sentence prediction, first of 32 tokens (longer ones stay on
a plateau), then of 128; bf16 operands. 75 minutes on one core of a busy machine. On the three held-out books: masked accuracy 48.7 %, 2.381 nats; two-sided
bigrams, the strongest counts, reach 41.8 % and 2.529 (tests/benchmarks/EVIDENCE.md).
"""

from t5x_lite.config import (
    Activation, CheckpointConfig, Config, DataConfig, DType, EvalConfig, LogConfig, MlmConfig, ModelConfig, NormPlace, OptimConfig, PositionInit,
)  # fmt: skip


def get_config() -> Config:
    return Config(
        steps=12000,
        batch_size=16,
        loss='bert_flax.losses:MlmLoss',
        model=ModelConfig(
            module='bert_flax.bert:BertForMaskedLm',
            num_layers=4,
            d_model=192,
            num_heads=4,
            d_ff=768,
            max_positions=128,
            activation=Activation.gelu_tanh,
            norm_place=NormPlace.pre,
            dropout=0.0,
            attention_dropout=0.0,
            init_stddev=0.05,
            position_init=PositionInit.sinusoidal,
            dtype=DType.bfloat16,
            scan_layers=False,
        ),
        data=DataConfig(
            source='t5x_lite.data.objectives:PackedMlm',
            stages=((0, 32, 64, 14), (8000, 128, 16, 52)),
            mlm=MlmConfig(probability=0.4, validation_probability=0.15),
        ),
        optim=OptimConfig(learning_rate=2e-3, warmup_fraction=0.05, b2=0.98),
        eval=EvalConfig(every_steps=1000, batches=60),
        checkpoint=CheckpointConfig(every_steps=500),
        log=LogConfig(every_steps=20, console_seconds=30.0),
    )
