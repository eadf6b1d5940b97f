"""Choose the right one of some choices, from a table (csv, tsv, jsonl) of questions: SWAG, RACE, CommonsenseQA, tests of your own.

    python -m t5x_lite.train --config=configs/choice.py --config.init_from=runs/base --config.data.train=questions.csv --workdir=runs/choice
    python -m t5x_lite.predict --workdir=runs/choice --text="What barks?" --choices="a cat|a dog|a tree"

`init_from` is a run of ours or a Hugging Face folder: BERT, GPT or T5. Columns are guessed and said: the question's, a column a choice (or one of lists in
jsonl), and a label that is the right choice's number, letter or text. SWAG as it comes: --config.data.text_columns=sent1,sent2; RACE: article,question.
The recipe is BERT's for SWAG (Devlin et al., 2018, section 4.4): 3 epochs, batch 16, 2e-5; for one GPU. The paper's BERT base has 81.6 % on SWAG (dev).
RACE (RoBERTa; Liu et al., 2019, table 10): --config.epochs=4 --config.optim.learning_rate=1e-5 --config.optim.warmup_fraction=0.06 and sequences of 512.
Unmeasured here.
"""

from t5x_lite.config import Best, CheckpointConfig, Config, DataConfig, EvalConfig, LogConfig, ModelConfig, OptimConfig


def get_config() -> Config:
    return Config(
        epochs=3.0,
        batch_size=16,
        init_architecture=True,
        init_fresh=('classifier/.*', 'encoder/pooler/.*'),
        loss='t5x_lite.tasks.classification:ChoiceLoss',
        model=ModelConfig(module='t5x_lite.models.heads:ChoiceHead'),
        data=DataConfig(source='t5x_lite.data.choices:ChoiceExamples', seq_len=128, length_buckets=(32, 48, 64, 96, 128)),
        optim=OptimConfig(learning_rate=2e-5, warmup_fraction=0.1),
        eval=EvalConfig(every_steps=500, batch_size=16),
        checkpoint=CheckpointConfig(every_steps=500, keep_last=1, best_metric='accuracy', best=Best.highest),
        log=LogConfig(every_steps=10),
    )
