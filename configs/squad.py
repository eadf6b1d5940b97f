"""Answer questions by a span of a text: SQuAD 1.1, and 2.0 with --config.data.no_answers=True, or files of your own in that form.

    python -m t5x_lite.train --config=configs/squad.py --config.init_from=runs/base --config.data.train=train.json --config.data.validation=dev.json \\
        --workdir=runs/squad
    python -m t5x_lite.predict --workdir=runs/squad --text="Who wrote it?" --text_b="It was written by Ann Lee in Rome."

`init_from` is a run of ours or a Hugging Face folder. Contexts are read in windows that begin every --config.data.stride tokens.
The recipe is BERT's (Devlin et al., 2018, section 4.2, and its code): 2 epochs, batch 32, 3e-5, 10 % warm-up, for one GPU. The paper's BERT base has 88.5 F1 on
SQuAD 1.1 (dev); unmeasured here as it stands. What small encoders reach with 1,000 questions: tests/benchmarks/EVIDENCE.md.
"""

from t5x_lite.config import Best, CheckpointConfig, Config, DataConfig, EvalConfig, LogConfig, ModelConfig, OptimConfig


def get_config() -> Config:
    return Config(
        epochs=2.0,
        batch_size=32,
        init_architecture=True,
        init_fresh=('span/.*',),
        loss='t5x_lite.evaluation.span_loss:SpanLoss',
        model=ModelConfig(module='t5x_lite.models.heads:SpanHead'),
        data=DataConfig(source='t5x_lite.data.question_examples:QuestionExamples', seq_len=384, length_buckets=(128, 192, 256, 320, 384)),
        optim=OptimConfig(learning_rate=3e-5, warmup_fraction=0.1),
        eval=EvalConfig(every_steps=1000, batch_size=32),
        checkpoint=CheckpointConfig(every_steps=1000, keep_last=1, best_metric='f1', best=Best.highest),
        log=LogConfig(every_steps=10),
    )
