"""Continue texts as yours go on: a GPT fine-tuned on a table with the columns `prompt` and `completion` (csv, tsv, jsonl); only completions are learnt.

    python -m t5x_lite.train --config=configs/completion.py --config.init_from=runs/gpt --config.data.train=mine.jsonl --workdir=runs/completion
    python -m t5x_lite.predict --workdir=runs/completion --text="Dear customer," --config.decode.method=sample --config.decode.top_p=0.9

`init_from` is a run of configs/gpt.py or a Hugging Face folder of GPT-2 or GPT-1. Other columns: --config.data.tasks.inputs="{start}"
--config.data.tasks.targets=" {rest}". Plain texts without prompts: configs/gpt.py on what prepare wrote, with init_from and this rate.
2e-5, 3 epochs (2 from tens of thousands of examples on), batch 16, 10 % warm-up. Unmeasured here.
"""

from t5x_lite.config import CheckpointConfig, Config, DataConfig, EvalConfig, LogConfig, ModelConfig, OptimConfig, TaskConfig


def get_config() -> Config:
    return Config(
        epochs=3.0,
        batch_size=16,
        init_architecture=True,
        loss='t5x_lite.training.losses:LmLoss',
        model=ModelConfig(module='t5x_lite.models.language_model:Decoder'),
        data=DataConfig(
            source='t5x_lite.tasks.examples:Continuations',
            seq_len=256,
            tasks=TaskConfig(inputs='{prompt}', targets=' {completion}', metrics=('rouge',), pack=False, keep_end=True),  # a batch counts examples
        ),
        optim=OptimConfig(learning_rate=2e-5, warmup_fraction=0.1),
        eval=EvalConfig(every_steps=0, batch_size=16, examples_while_training=50),
        checkpoint=CheckpointConfig(every_steps=500, keep_last=1),
        log=LogConfig(every_steps=10),
    )
