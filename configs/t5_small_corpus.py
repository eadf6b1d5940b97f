"""A T5 on a few megabytes of text by span corruption, in minutes on a CPU: what `launch/quickstart.sh t5` runs.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=sentencepiece --vocab_size=2000
    python -m t5x_lite.train --config=configs/t5_small_corpus.py --config.data.path=data/mine --workdir=runs/small_t5
    python -m t5x_lite.predict --workdir=runs/small_t5 --text="Return a list of the <extra_id_0> in the given directory."

T5 1.1's blocks with tied embeddings, 2 + 2 layers of 128, rows of 128 tokens read and 29 written. Adafactor steps in proportion to each weight, as T5's
embeddings of unit size need (with AdamW at 2e-3 the loss stays near the unigram's for 1,500 steps); bf16 operands and unrolled layers for two cores.
Fine-tuning is configs/t5_tasks.py.
"""

from t5x_lite.config import (
    Activation, CheckpointConfig, Config, DataConfig, DType, EvalConfig, Init, LogConfig, ModelConfig, Norm, NormPlace, OptimConfig, Optimizer, Positions,
    Schedule,
)  # fmt: skip


def get_config() -> Config:
    return Config(
        steps=3200,
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
        optim=OptimConfig(
            name=Optimizer.adafactor, learning_rate=2e-2, schedule=Schedule.cosine, end_fraction=0.05, warmup_fraction=0.05, decay=(('.*', 0.0),)
        ),
        eval=EvalConfig(every_steps=500, batches=40),
        checkpoint=CheckpointConfig(every_steps=500),
        log=LogConfig(every_steps=20),
    )
