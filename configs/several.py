"""Several heads on one body, trained together (multi-task learning, as MT-DNN: Liu et al., 2019), each with its data and the weight of its loss.

    python -m t5x_lite.train --config=configs/several.py --config.init_from=runs/base --workdir=runs/several \\
        --config.heads.mood=configs/classify.py --config.heads.mood.data.train=reviews.csv \\
        --config.heads.tags=configs/ner.py --config.heads.tags.data.train=eng.train --config.heads.tags.model.crf=True --config.heads.tags.weight=0.5
    python -m t5x_lite.evaluate --workdir=runs/several
    python -m t5x_lite.predict  --workdir=runs/several --head=mood --text="I want my money back"

A head begins with the config that it would have alone, and has its data, loss and layers as fields under its name; the rest, and the number of steps, is said
here once. Batches are of one head each: --config.mix.rates=proportional (to examples; with --config.mix.temperature), equal, or given
(--config.heads.mood.rate=2). Scores are mood/accuracy, tags/f1, ... and average, by which the best checkpoint is kept (--config.checkpoint.best_metric).
A run of one head may begin from this one (--config.init_from=runs/several: the body), and this one from any. The recipe is BERT's for GLUE (Devlin et al.,
2018, A.3), 3 epochs of all examples together. Unmeasured here at that size.
"""

from t5x_lite.config import Best, CheckpointConfig, Config, EvalConfig, LogConfig, ModelConfig, OptimConfig


def get_config() -> Config:
    return Config(
        epochs=3.0,
        batch_size=32,
        init_architecture=True,
        init_fresh=('heads/.*', 'encoder/pooler/.*'),
        loss='t5x_lite.tasks.several:SeveralLoss',
        model=ModelConfig(module='t5x_lite.models.several:SeveralHeads'),
        optim=OptimConfig(learning_rate=5e-5, warmup_fraction=0.1),
        eval=EvalConfig(every_steps=500, batch_size=32),
        checkpoint=CheckpointConfig(every_steps=500, keep_last=1, best_metric='average', best=Best.highest),
        log=LogConfig(every_steps=10),
    )
