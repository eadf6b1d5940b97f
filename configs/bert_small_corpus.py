"""BERT on a few megabytes of text, in minutes on a CPU: what launch/quickstart.sh runs.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=wordpiece --vocab_size=2000
    python -m t5x_lite.train --config=configs/bert_small_corpus.py --config.data.path=data/mine --workdir=runs/small_corpus \\
        --config.data.stages="((0, 32, 64, 13), (2000, 64, 32, 26))"

The stages, (from step, length, batch, masked words of a row), are short rows first: as many tokens a step, and attention finds its neighbours a thousand steps
sooner (tests/benchmarks/EVIDENCE.md). Without them rows are 64 long throughout.

Differs from BERT's recipe in what a small model and few steps need: norm before each block, a learning rate twenty times higher, wider
initial weights, positions that start as sinusoids (so that attention soon finds its neighbours), and 40 % of the tokens masked (Wettig et
al., 2022), for more targets a step; held-out text is masked as BERT's. What two cores need: bf16 operands, GELU by tanh, layers unrolled, no dropout.
"""

from t5x_lite.config import (
    Activation, CheckpointConfig, Config, DataConfig, DType, EvalConfig, LogConfig, MlmConfig, ModelConfig, NormPlace, OptimConfig, PositionInit,
)  # fmt: skip


def get_config() -> Config:
    return Config(
        steps=4000,
        batch_size=32,
        loss='bert_flax.losses:MlmNspLoss',
        model=ModelConfig(
            module='bert_flax.bert:BertForPreTraining',
            num_layers=2,
            d_model=128,
            num_heads=4,
            d_ff=512,
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
        data=DataConfig(source='bert_flax.objectives:MlmNsp', seq_len=64, mlm=MlmConfig(probability=0.4, validation_probability=0.15, max_predictions=26)),
        optim=OptimConfig(learning_rate=2e-3, warmup_fraction=0.05, b2=0.98),
        eval=EvalConfig(every_steps=500, batches=40),
        checkpoint=CheckpointConfig(every_steps=500),
        log=LogConfig(every_steps=20),
    )
