"""A T5 on a few megabytes of text by span corruption, in minutes on a CPU: what `launch/quickstart.sh t5` runs.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=sentencepiece --vocab_size=2000
    python -m t5x_lite.train --config=configs/t5_small_corpus.py --config.data.path=data/mine --workdir=runs/small_t5
    python -m t5x_lite.predict --workdir=runs/small_t5 --text="Return a list of the <extra_id_0> in the given directory."

T5 1.1's blocks with tied embeddings, 2 + 2 layers of 128, 114 tokens of text a row and 128 read; AdamW, since Adafactor's rate of the paper is for longer
runs; bf16 operands and unrolled layers for two cores. Fine-tuning is configs/t5_tasks.py.
"""

from t5x_lite.config import (
    Activation, CheckpointConfig, Config, DataConfig, DType, EvalConfig, Init, LogConfig, ModelConfig, Norm, NormPlace, OptimConfig, Positions, Schedule,
)  # fmt: skip


def get_config() -> Config:
    return Config(
        steps=4000,
        batch_size=16,
        loss='t5x_lite.training.losses:LmLoss',
        z_loss=1e-4,
        model=ModelConfig(
            module='t5x_lite.models.language_model:EncoderDecoder',
            num_layers=2,
            d_model=128,
            num_heads=4,
            d_ff=384,
            activation=Activation.gelu_tanh,
            gated=True,
            use_bias=False,
            norm=Norm.rms,
            norm_place=NormPlace.pre,
            norm_eps=1e-6,
            init=Init.fan_in,
            positions=Positions.relative,
            scale_attention=False,
            scale_logits=True,
            dropout=0.0,
            attention_dropout=0.0,
            dtype=DType.bfloat16,
            scan_layers=False,
        ),
        data=DataConfig(source='t5x_lite.data.span_corruption:SpanCorruption', seq_len=128),
        optim=OptimConfig(learning_rate=2e-3, schedule=Schedule.cosine, end_fraction=0.1, warmup_fraction=0.05, b2=0.98, decay=(('.*', 0.0),)),
        eval=EvalConfig(every_steps=500, batches=40),
        checkpoint=CheckpointConfig(every_steps=500),
        log=LogConfig(every_steps=20),
    )
