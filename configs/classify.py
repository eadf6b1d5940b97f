"""Fine-tune on a labelled table of your own (csv, tsv, jsonl): one text or two; classes, numbers (--config.data.regression) or sets of labels.

    python -m t5x_lite.train --config=configs/classify.py --config.init_from=runs/base --config.data.train=reviews.csv --workdir=runs/reviews
    python -m t5x_lite.predict --workdir=runs/reviews --text="I want my money back"

`init_from` is a run of ours or a Hugging Face folder: BERT, GPT (read off its last token) or T5 (the mean over its encoder's states). Columns are guessed
and said; name them with --config.data.text_columns and label_column. Sets of labels: --config.data.label_separator="|" for cells such as toxic|insult.
The recipe is BERT's for GLUE (Devlin et al., 2018, A.3): 3 epochs, batch 32, 5e-5, 10 % warm-up. SST-2 is in tests/benchmarks/EVIDENCE.md.
"""

from t5x_lite.config import CheckpointConfig, Config, DataConfig, EvalConfig, LogConfig, ModelConfig, OptimConfig


def get_config() -> Config:
    return Config(
        epochs=3.0,
        batch_size=32,
        init_architecture=True,
        init_fresh=('classifier/.*', 'encoder/pooler/.*'),
        loss='t5x_lite.tasks.classification:LabelledLoss',
        model=ModelConfig(module='t5x_lite.models.heads:SequenceHead'),
        data=DataConfig(source='t5x_lite.data.tables:LabelledExamples', seq_len=128, length_buckets=(16, 32, 48, 64, 96, 128)),
        optim=OptimConfig(learning_rate=5e-5, warmup_fraction=0.1),
        eval=EvalConfig(every_steps=0, batch_size=32),
        checkpoint=CheckpointConfig(every_steps=500, keep_last=1),
        log=LogConfig(every_steps=10),
    )
