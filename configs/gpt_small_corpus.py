"""A GPT on a few megabytes of text, in minutes on a CPU: what `launch/quickstart.sh gpt` runs.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=byte_bpe --vocab_size=2000
    python -m t5x_lite.train --config=configs/gpt_small_corpus.py --config.data.path=data/mine --workdir=runs/small_gpt
    python -m t5x_lite.predict --workdir=runs/small_gpt --text="Return the" --config.decode.method=sample --config.decode.temperature=0.7

GPT-2's blocks, 4 layers of 128, 128 tokens, documents packed and isolated; a learning rate and a width for few steps, bf16 operands and unrolled layers for
two cores.
"""

from t5x_lite.config import (
    Activation, CheckpointConfig, Config, DataConfig, DType, EvalConfig, Init, LogConfig, ModelConfig, NormPlace, OptimConfig, Schedule,
)  # fmt: skip


def get_config() -> Config:
    return Config(
        steps=2400,
        batch_size=16,
        loss='t5x_lite.training.losses:LmLoss',
        model=ModelConfig(
            module='t5x_lite.models.language_model:Decoder',
            num_layers=4,
            d_model=128,
            num_heads=4,
            d_ff=512,
            max_positions=128,
            activation=Activation.gelu_tanh,
            norm_place=NormPlace.pre,
            norm_eps=1e-5,
            init=Init.residual,
            dropout=0.0,
            attention_dropout=0.0,
            dtype=DType.bfloat16,
            scan_layers=False,
        ),
        data=DataConfig(source='t5x_lite.data.language_modelling:CausalLm', seq_len=128),
        optim=OptimConfig(
            learning_rate=2e-3, schedule=Schedule.cosine, end_fraction=0.1, warmup_fraction=0.05, b2=0.98,
            decay=(('.*/(bias|scale|embedding)', 0.0), ('.*', 0.1)),
        ),  # fmt: skip
        eval=EvalConfig(every_steps=500, batches=40),
        checkpoint=CheckpointConfig(every_steps=500),
        log=LogConfig(every_steps=20),
    )
