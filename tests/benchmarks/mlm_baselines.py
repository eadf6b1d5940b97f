"""What masked-token predictions must beat on a prepared corpus, as a table.

    python -m tests.benchmarks.mlm_baselines --path=PREPARED[,PREPARED...] [--source=bert_flax.objectives:MlmNsp] [--positions=20000]
    python -m tests.benchmarks.mlm_baselines --workdir=RUN       # on the held-out batches that this run is evaluated on

The second form adds the strongest of them to the evaluation.json that `evaluate` has left there, for `report` to draw.

The masked positions are those of held-out examples, as a run draws them; counts are taken on the train split
(t5x_lite.evaluation.baselines).
"""

import json
import os
import time

from absl import flags

from t5x_lite import cli
from t5x_lite.config import Config
from t5x_lite.config_values import from_json
from t5x_lite.data import tokenizers
from t5x_lite.data.corpus import Corpus
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import UserError
from t5x_lite.evaluation import baselines

FLAGS = flags.FLAGS
flags.DEFINE_list('path', [], 'Folders that prepare wrote; with --workdir, by default those of the run.')
flags.DEFINE_string('workdir', '', 'A run: its config.json says how examples are made and how many batches are held out.')
flags.DEFINE_string('source', 'bert_flax.objectives:MlmNsp', 'Class that makes the examples (without --workdir).')
flags.DEFINE_integer('seq_len', 128, 'Tokens an example (without --workdir).', lower_bound=8)
flags.DEFINE_integer('seed', 0, 'Of the masks (without --workdir) and of the tuning of the baselines.')
flags.DEFINE_integer('positions', 0, 'Masked positions to judge; 0: all of the run, or 20,000.', lower_bound=0)


def _config() -> Config:
    if FLAGS.workdir:
        return from_json(os.path.join(FLAGS.workdir, 'config.json'))
    config = Config(seed=FLAGS.seed, batch_size=64)
    config.data.source, config.data.seq_len, config.eval.batches = FLAGS.source, FLAGS.seq_len, 0
    return config


def main(argv):
    del argv
    config = _config()
    paths = FLAGS.path or list(config.data.path)
    if not paths:
        raise UserError('--path is empty; give what prepare wrote, or --workdir')
    for path in paths:
        began = time.time()
        train, validation = Corpus(path, 'train'), Corpus(path, 'validation')
        config.model.vocab_size = max(config.model.vocab_size, validation.vocab_size)
        batches = DataFunction(config, 'validation', [validation]).evaluation_batches(config.steps - 1 if FLAGS.workdir else 0)
        limit = FLAGS.positions or (0 if FLAGS.workdir else 20_000)
        contexts = baselines.contexts_of(batches, tokenizers.load(validation.tokenizer_path), limit)
        scores = baselines.evaluate(train, contexts, FLAGS.seed)
        print(f'{path}: {train.num_tokens:,} tokens to count, {len(contexts):,} masked positions, vocabulary {train.vocab_size:,}')
        print(f'  {"":38} {"accuracy":>9} {"cross-entropy (nats)":>21}')
        for name, score in scores.items():
            print(f'  {name:38} {score.accuracy:9.2%} {score.cross_entropy:21.4f}')
        print(f'  strongest on held-out training text: {list(scores)[-1]}; {time.time() - began:.0f} s', flush=True)
        written = os.path.join(FLAGS.workdir, 'evaluation.json')
        if FLAGS.workdir and os.path.exists(written):
            strongest = list(scores.values())[-1]
            with open(written, encoding='utf-8') as file:
                found = json.load(file) | {'two_sided_loss': strongest.cross_entropy, 'two_sided_accuracy': strongest.accuracy}
            with open(written, 'w', encoding='utf-8') as file:
                json.dump(found, file, indent=2)


if __name__ == '__main__':
    cli.run(main)
