"""Score a run on held-out data, and on tasks by what it writes.

    python -m t5x_lite.evaluate --workdir=runs/tiny                      # its best or newest checkpoint, on its own validation part
    python -m t5x_lite.evaluate --workdir=runs/mine --step=500 --config.data.validation=dev.csv
    python -m t5x_lite.evaluate --workdir=runs/t5_tasks                  # each task by generated text, and their average
    python -m t5x_lite.evaluate --workdir=runs/gpt --config.data.tasks.files=my_tasks.py --config.data.tasks.names=mine --shots=0,1,4 --config.decode.rank

Prints the scores with intervals (bootstrap over examples, --resamples), of labels class by class with a picture of what each was taken for (confusion.png), and
beside a language model's what counts alone reach on the same positions; writes them to workdir/evaluation.json. With --shots, tasks are asked after so many
demonstrations each, and the whole is one table; config.eval.examples bounds how many examples of a task are answered.
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import os
from typing import Any

from absl import flags
import numpy as np

from t5x_lite import cli, mirrors, several
from t5x_lite.assemble import Run, assemble, load_for_use
from t5x_lite.config import Config
from t5x_lite.config_values import from_json
from t5x_lite.data import tokenizers
from t5x_lite.data.corpus import Corpus
from t5x_lite.data.several import data_function
from t5x_lite.errors import UserError
from t5x_lite.evaluation import baselines, detail, spread, task_scores
from t5x_lite.evaluation.generation import Generator
from t5x_lite.evaluation.several import evaluator_of
from t5x_lite.training import checkpoint, devices, partitioning, places
from t5x_lite.training.step import Program, make_program
from t5x_lite.training.telemetry import as_json

_CONFIG = cli.define_config_flags()
_STEP = flags.DEFINE_string('step', None, 'The checkpoint to score: ' + places.STEP_HELP)
_EMA = flags.DEFINE_bool('ema', True, 'Score the moving average of the weights where the run keeps one.')
_SHOTS = flags.DEFINE_list('shots', None, 'Numbers of demonstrations to ask tasks with, such as 0,1,4; default: config.decode.shots.')
_RESAMPLES = flags.DEFINE_integer('resamples', spread.SAMPLES, 'Draws of the held-out examples behind the 95 % intervals; 0: no intervals.', lower_bound=0)
_SHOWN = flags.DEFINE_integer('shown', 2, 'Answers shown of each task.', lower_bound=0)


def main(argv: Sequence[str]) -> None:
    del argv
    devices.configure(_CONFIG.value)
    shots = _shots()
    if shots is not None and not (_CONFIG.value.data.tasks.names or _CONFIG.value.data.tasks.inputs):
        raise UserError('--shots asks tasks, and there is none; name some: --config.data.tasks.names=NAME')
    config, params, step = load_for_use(_CONFIG.value, cli.workdir(), _STEP.value, ema=_EMA.value)
    run = assemble(config, training=False, trained_with=os.path.join(cli.workdir(), 'tokenizer'))
    if run.validation is None:
        raise UserError(
            'there are no held-out data; give --config.data.path=DIR (what prepare wrote), --config.data.validation=FILE or --config.data.tasks.names=NAME'
        )
    program = make_program(run.config, partitioning.make_mesh(run.config))
    for line in run.validation.describe():
        print(line)
    if said := _learnt_from(run.config, cli.workdir()):
        print(f'warning: {said}')
    evaluator = evaluator_of(program, run.validation, step - 1 if step else 0)
    params = evaluator.place(params)
    judge = _judge(program, params, run, shots) if run.config.data.tasks.names or run.config.data.tasks.inputs else None
    scores: dict[str, Any]
    scores, judged = evaluator.in_detail(params)
    nats = '' if 'mean_squared_error' in scores else ' (losses in nats)'
    print(f'held out, {cli.workdir()} at step {step:,}{nats}')
    details = detail.of(judged, _RESAMPLES.value)
    print('\n'.join(details.lines(scores)))
    if 'mlm_loss' in scores:
        scores |= _beside_counts(run, step, scores)
    if 'lm_loss' in scores:
        scores |= _beside_frequencies(run, step, scores)
    folder = mirrors.folder_of(cli.workdir())
    path = os.path.join(folder, 'evaluation.json')
    scores |= details.record()
    _write(path, {'step': step} | scores)
    if judge:
        tasks, averages = judge()
        _write(path, {'step': step} | scores | {'tasks': tasks, 'averages': averages})
    written = [path, *details.draw(folder)]
    mirrors.upload(cli.workdir())
    print(mirrors.named(f'written to {", ".join(written)}'))


def _learnt_from(config: Config, workdir: str) -> str:
    """What there is to say where held-out rows may be others than those of training: set aside by seed, of a file that is not what it was."""
    each = several.apart(config)
    if not any(one.data.train and not one.data.validation for one in each.values()) or any(one.data.augment.synonyms for one in each.values()):
        return ''
    found, then = checkpoint.locate(workdir)[0], checkpoint.data_of(workdir)
    saved = from_json(os.path.join(found, 'config.json'))
    ours, theirs = [{head.name: head for head in one.heads} or {'': one} for one in (config, saved)]
    if not then or ours.keys() != theirs.keys():
        return ''
    for name, one in theirs.items():
        one.data.train = ours[name].data.train  # it may have moved
    saved.data.tokenizer = os.path.join(found, 'tokenizer')
    if data_function(saved, 'train').fingerprint == then:
        return ''
    return (
        'rows are held out by seed, and the files that they are of are not those of training (more rows, or others): some that are scored may have been '
        'learnt from; give rows that were not with --config.data.validation=FILE'
    )


def _write(path: str, scores: dict[str, Any]) -> None:
    with open(path, 'w', encoding='utf-8') as file:
        json.dump(as_json(scores), file, indent=2, allow_nan=False)
        file.write('\n')


def _shots() -> list[int] | None:
    if _SHOTS.value is None:
        return None
    try:
        found = [int(number) for number in _SHOTS.value]
    except ValueError as error:
        raise UserError(f'--shots={",".join(_SHOTS.value)}: expected whole numbers, such as 0,1,4') from error
    if not found or min(found) < 0:
        raise UserError(f'--shots={",".join(_SHOTS.value)}: expected whole numbers of at least 0, such as 0,1,4')
    return found


def _beside_counts(run: Run, step: int, scores: dict[str, float]) -> dict[str, float]:
    contexts = baselines.contexts_of(run.validation.evaluation_batches(step - 1 if step else 0), tokenizers.load(run.tokenizer_path))
    # Targets of several corpora are judged by the counts of the first: they share its tokenizer.
    unigram = baselines.unigram(Corpus(run.config.data.path[0], 'train').unigram_counts, contexts.targets)
    print(
        f'on the same {len(contexts):,} masked positions\n'
        f'  most frequent token: accuracy        {unigram.accuracy:.4f}  (the model: {scores["mlm_accuracy"] / max(unigram.accuracy, 1e-9):.1f} times)\n'
        f'  unigram: loss                        {unigram.cross_entropy:.4f}  ({_gain(unigram.cross_entropy - scores["mlm_loss"])})'
    )
    return {'unigram_loss': unigram.cross_entropy, 'most_frequent_token_accuracy': unigram.accuracy}


def _beside_frequencies(run: Run, step: int, scores: dict[str, float]) -> dict[str, float]:
    targets = baselines.targets_of(run.validation.evaluation_batches(step - 1 if step else 0))
    unigram, perplexity = baselines.own_unigram(targets), float(np.exp(scores['lm_loss']))
    print(
        f'  {"perplexity":<32} {perplexity:.2f}\n'
        f'on the same {len(targets):,} tokens, with the best frequencies that could be known of them\n'
        f'  most frequent token: accuracy        {unigram.accuracy:.4f}\n'
        f'  unigram: loss                        {unigram.cross_entropy:.4f}  ({_gain(unigram.cross_entropy - scores["lm_loss"])})'
    )
    return {'perplexity': perplexity, 'unigram_loss': unigram.cross_entropy, 'most_frequent_token_accuracy': unigram.accuracy}


def _gain(nats: float) -> str:
    return f'the model: {abs(nats):.2f} nats {"below" if nats >= 0 else "above"}'


def _judge(program: Program, params: Any, run: Run, shots: list[int] | None) -> Callable[[], tuple[dict[str, Any], dict[str, float]]]:
    """What answers all questions, which are read and checked now. It gives {how asked: {task: scores}} and {how asked: average}, printed as a table."""
    generator = Generator(run.config, params, tokenizers.load(run.tokenizer_path), program.mesh, run.config.eval.batch_size or run.config.batch_size)
    scorer = task_scores.TaskScores(generator, run.config)
    rounds = [dataclasses.replace(run.config.decode, shots=count) for count in shots or [run.config.decode.shots]]
    questions = [(decode, task, scorer.questions(task, decode)) for decode in rounds for task in scorer.tasks]

    def judge() -> tuple[dict[str, Any], dict[str, float]]:
        rows, found, averages = [], {}, {}
        for decode, task, asked in questions:
            judged, how = scorer(asked), scorer.asked(decode)
            rows.append((task.name, how, judged.scores))
            found.setdefault(how, {})[task.name] = judged.scores
            for prompt, wanted, answer in judged.examples[: _SHOWN.value]:
                print(f'  {task.name}: {prompt[-200:]!r}\n    wanted {wanted!r}\n    wrote  {answer!r}', flush=True)
            if len(scorer.tasks) > 1 and task is scorer.tasks[-1]:
                averages[how] = scorer.average(found[how])
                rows.append(('average', how, {'': averages[how]}))
        print(task_scores.table(rows))
        return found, averages

    return judge


if __name__ == '__main__':
    cli.run(main)
