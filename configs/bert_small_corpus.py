"""BERT on a few megabytes of text, in minutes on a CPU: what launch/quickstart.sh runs.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=wordpiece --vocab_size=2000
    python -m t5x_lite.train --config=configs/bert_small_corpus.py --config.data.path=data/mine --workdir=runs/small_corpus

Norm before each block and a learning rate ten times BERT's learn far more in few steps. The README has what it reaches on the quickstart's text.
"""

from t5x_lite.config import CheckpointConfig, Config, DataConfig, EvalConfig, LogConfig, MlmConfig, ModelConfig, NormPlace, OptimConfig


def get_config() -> Config:
    return Config(
        steps=2500,
        batch_size=32,
        loss='bert_flax.losses:MlmNspLoss',
        model=ModelConfig(
            module='bert_flax.bert:BertForPreTraining',
            num_layers=2,
            d_model=128,
            num_heads=2,
            d_ff=512,
            max_positions=128,
            norm_place=NormPlace.pre,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        data=DataConfig(source='bert_flax.objectives:MlmNsp', seq_len=64, mlm=MlmConfig(max_predictions=10)),
        optim=OptimConfig(learning_rate=1e-3, warmup_fraction=0.05, b2=0.98),
        eval=EvalConfig(every_steps=500, batches=40),
        checkpoint=CheckpointConfig(every_steps=500),
        log=LogConfig(every_steps=20),
    )
