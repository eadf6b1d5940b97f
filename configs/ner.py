"""Tag words: entities (NER) or parts of speech, from column files (CoNLL) or jsonl.

    python -m t5x_lite.train --config=configs/ner.py --config.init_from=runs/base --config.data.train=eng.train --config.data.validation=eng.testa \\
        --workdir=runs/ner
    python -m t5x_lite.predict --workdir=runs/ner --text="Ann Lee moved to Rome."

`init_from` is a run of ours or a Hugging Face folder. The scheme of the files is guessed and said (--config.data.tag_scheme), IOB2 is learnt
(--config.data.tag_scheme_out). --config.model.crf=True puts a conditional random field on top; --config.data.every_piece=True labels all pieces of a word.
Parts of speech: --config.data.label_column=1, say, with --config.checkpoint.best_metric=accuracy.
The recipe is BERT's (Devlin et al., 2018, section 5.3): 3 epochs, batch 32, 5e-5, 10 % warm-up, for one GPU (hours on a CPU); unmeasured here as it stands.
With 1,000 sentences of CoNLL-2003 and MiniLM, --config.epochs=5 --config.optim.learning_rate=1e-4: 73.1 F1 on testa, 77.7 with the conditional random field.
"""

from t5x_lite.config import Best, CheckpointConfig, Config, DataConfig, EvalConfig, LogConfig, ModelConfig, OptimConfig


def get_config() -> Config:
    return Config(
        epochs=3.0,
        batch_size=32,
        init_architecture=True,
        init_fresh=('classifier/.*', 'crf/.*'),
        loss='t5x_lite.tasks.tagging:TaggingLoss',
        model=ModelConfig(module='t5x_lite.models.heads:TokenHead'),
        data=DataConfig(source='t5x_lite.data.tagged:TaggedExamples', seq_len=128, length_buckets=(16, 32, 48, 64, 96, 128)),
        optim=OptimConfig(learning_rate=5e-5, warmup_fraction=0.1),
        eval=EvalConfig(every_steps=500, batch_size=32),
        checkpoint=CheckpointConfig(every_steps=500, keep_last=1, best_metric='f1', best=Best.highest),
        log=LogConfig(every_steps=10),
    )
