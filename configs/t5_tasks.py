"""Fine-tune a T5, or a GPT, on text-to-text tasks: a table of your own by templates, registered tasks, or a mixture of them.

    python -m t5x_lite.train --config=configs/t5_tasks.py --config.init_from=runs/t5 --config.data.train=reviews.csv \\
        --config.data.tasks.inputs="review: {text}" --config.data.tasks.targets="{stars}" --workdir=runs/reviews
    python -m t5x_lite.train --config=configs/t5_tasks.py --config.init_from=runs/t5 --config.data.tasks.files=my_tasks.py \\
        --config.data.tasks.names=sst2,stsb --workdir=runs/mixture
    python -m t5x_lite.evaluate --workdir=runs/mixture
    python -m t5x_lite.predict --workdir=runs/reviews --text="review: I want my money back"

The paper's recipe (Raffel et al., 2020, section 3.1.3): Adafactor at a constant 1e-3, dropout 0.1, 2^18 steps of 128 x 512, rates proportional to sizes with a
maximum. Steps here are for sets of thousands. For a GPT: --config.model.module=t5x_lite.models.language_model:Decoder --config.optim.name=adamw and a rate near
1e-4. Models of a few million parameters want 5e-3 to 2e-2 of Adafactor; what they reach is in tests/benchmarks/EVIDENCE.md.
"""

from t5x_lite.config import CheckpointConfig, Config, DataConfig, EvalConfig, LogConfig, ModelConfig, OptimConfig, Optimizer, Schedule


def get_config() -> Config:
    return Config(
        steps=2000,
        batch_size=32,
        init_architecture=True,
        loss='t5x_lite.training.losses:LmLoss',
        z_loss=1e-4,
        model=ModelConfig(
            module='t5x_lite.models.language_model:EncoderDecoder', dropout=0.1, attention_dropout=0.1, hidden_dropout=0.1, output_dropout=0.1
        ),
        data=DataConfig(source='t5x_lite.tasks.examples:TaskExamples', seq_len=512, target_len=128),
        optim=OptimConfig(name=Optimizer.adafactor, learning_rate=1e-3, schedule=Schedule.constant, decay=(('.*', 0.0),)),
        eval=EvalConfig(every_steps=500, batch_size=32),
        checkpoint=CheckpointConfig(every_steps=500),
        log=LogConfig(every_steps=20),
    )
