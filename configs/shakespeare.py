"""A GPT on the characters of tiny Shakespeare: nanoGPT's setting for a CPU (config/train_shakespeare_char.py and its README).

    head -c 1003854 input.txt > train.txt; tail -c +1003855 input.txt > valid.txt        # nanoGPT's split, 90 % and 10 %
    python -m t5x_lite.prepare --input=train.txt --validation_input=valid.txt --documents=file --tokenizer=characters --output=data/shakespeare
    python -m t5x_lite.train --config=configs/shakespeare.py --config.data.path=data/shakespeare --workdir=runs/shakespeare
    python -m t5x_lite.predict --workdir=runs/shakespeare --text="ROMEO:" --config.decode.method=sample --config.decode.temperature=0.8

4 layers, 4 heads, 128 wide, 64 characters, batch 12, 2,000 steps: 1.805 on all of the validation part, in two and a half minutes on one core. The learning rate
is twice nanoGPT's, at which it gives 1.885 and nanoGPT itself 1.886 on the same machine (its README says 1.88): tests/benchmarks/EVIDENCE.md.
"""

from t5x_lite.config import Activation, CheckpointConfig, Config, DataConfig, EvalConfig, Init, LogConfig, ModelConfig, NormPlace, OptimConfig, Schedule


def get_config() -> Config:
    return Config(
        steps=2000,
        batch_size=12,
        loss='t5x_lite.training.losses:LmLoss',
        model=ModelConfig(
            module='t5x_lite.models.language_model:Decoder',
            num_layers=4,
            d_model=128,
            num_heads=4,
            d_ff=512,
            max_positions=64,
            activation=Activation.gelu_tanh,
            norm_place=NormPlace.pre,
            norm_eps=1e-5,
            init=Init.residual,
            dropout=0.0,
            attention_dropout=0.0,
            scan_layers=False,
        ),
        data=DataConfig(source='t5x_lite.data.language_modelling:CausalLm', seq_len=64, concatenate=True),
        optim=OptimConfig(
            learning_rate=2e-3, schedule=Schedule.cosine, end_fraction=0.1, warmup_steps=100, b2=0.99, eps=1e-8,
            decay=(('.*/(bias|scale)', 0.0), ('.*', 0.1)),
        ),  # fmt: skip
        eval=EvalConfig(every_steps=250, batches=0, batch_size=64),
        checkpoint=CheckpointConfig(every_steps=500),
        log=LogConfig(every_steps=20),
    )
