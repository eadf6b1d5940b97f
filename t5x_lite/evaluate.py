"""Score a run on held-out data.

    python -m t5x_lite.evaluate --workdir=runs/tiny                      # its newest checkpoint, on its own validation part
    python -m t5x_lite.evaluate --workdir=runs/mine --step=500 --config.data.validation=dev.csv

Prints the scores, and beside a masked-LM run's what counts alone reach on the same masked positions; writes them to workdir/evaluation.json.
"""

from collections.abc import Sequence
import json
import math
import os

from absl import flags

from t5x_lite import cli
from t5x_lite.assemble import assemble, load_for_use
from t5x_lite.config import UserError
from t5x_lite.data import tokenizers
from t5x_lite.data.corpus import Corpus
from t5x_lite.evaluation import baselines
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.training import devices, partitioning
from t5x_lite.training.step import make_program
from t5x_lite.training.telemetry import as_json

_CONFIG = cli.define_config_flags()
_STEP = flags.DEFINE_integer('step', None, 'The checkpoint to score; the newest by default.')
_EMA = flags.DEFINE_bool('ema', True, 'Score the moving average of the weights where the run keeps one.')


def main(argv: Sequence[str]) -> None:
    del argv
    devices.configure(_CONFIG.value)
    config, params, step = load_for_use(_CONFIG.value, cli.workdir(), _STEP.value, ema=_EMA.value)
    run = assemble(config, training=False, trained_with=os.path.join(cli.workdir(), 'tokenizer'))
    if run.validation is None:
        raise UserError('there are no held-out data; give --config.data.path=DIR (what prepare wrote) or --config.data.validation=FILE')
    for line in run.validation.describe():
        print(line)
    mesh = partitioning.make_mesh(run.config)
    program = make_program(run.config, mesh)
    evaluator = Evaluator(program, run.validation, step - 1 if step else 0)
    scores = evaluator(evaluator.place(params))
    print(f'held out, {cli.workdir()} at step {step:,} (losses in nats)')
    for name, value in scores.items():
        print(f'  {name:<32} {value:.4f}')
    if 'mlm_loss' in scores:
        contexts = baselines.contexts_of(run.validation.evaluation_batches(step - 1 if step else 0), tokenizers.load(run.tokenizer_path))
        # Targets of several corpora are judged by the counts of the first: they share its tokenizer.
        unigram = baselines.unigram(Corpus(run.config.data.path[0], 'train').unigram_counts, contexts.targets)
        scores |= {'unigram_loss': unigram.cross_entropy, 'most_frequent_token_accuracy': unigram.accuracy}
        gain = unigram.cross_entropy - scores['mlm_loss']
        print(
            f'on the same {len(contexts):,} masked positions\n'
            f'  most frequent token: accuracy        {unigram.accuracy:.4f}  (the model: {scores["mlm_accuracy"] / max(unigram.accuracy, 1e-9):.1f} times)\n'
            f'  unigram: loss                        {unigram.cross_entropy:.4f}  (the model: {abs(gain):.2f} nats {"below" if gain >= 0 else "above"})'
        )
    if 'lm_loss' in scores:
        targets = baselines.targets_of(run.validation.evaluation_batches(step - 1 if step else 0))
        unigram = baselines.own_unigram(targets)
        scores |= {'perplexity': math.exp(scores['lm_loss']), 'unigram_loss': unigram.cross_entropy, 'most_frequent_token_accuracy': unigram.accuracy}
        gain = unigram.cross_entropy - scores['lm_loss']
        print(
            f'  {"perplexity":<32} {scores["perplexity"]:.2f}\n'
            f'on the same {len(targets):,} tokens, with the best frequencies that could be known of them\n'
            f'  most frequent token: accuracy        {unigram.accuracy:.4f}\n'
            f'  unigram: loss                        {unigram.cross_entropy:.4f}  (the model: {abs(gain):.2f} nats {"below" if gain >= 0 else "above"})'
        )
    path = os.path.join(cli.workdir(), 'evaluation.json')
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(as_json({'step': step} | scores), file, indent=2, allow_nan=False)
        file.write('\n')
    print(f'written to {path}')


if __name__ == '__main__':
    cli.run(main)
