"""Apply a run: fill in masked words, label texts, tag their words, continue them (GPT) or answer them (T5).

    python -m t5x_lite.predict --workdir=runs/tiny --text="The [MASK] of the story."
    python -m t5x_lite.predict --workdir=runs/reviews --text="I want my money back"
    python -m t5x_lite.predict --workdir=runs/pairs --text="first text" --text_b="second text"
    python -m t5x_lite.predict --workdir=runs/squad --text="a question" --text_b="a text that answers it"
    python -m t5x_lite.predict --workdir=runs/swag --text="She opened the door and" --choices="went in.|ate it."
    python -m t5x_lite.predict --workdir=runs/reviews --input=new.txt --output=labels.jsonl     # a text a line; - reads standard input
    python -m t5x_lite.predict --workdir=runs/reviews --input=new.csv --output=labels.jsonl     # or jsonl: the texts of its rows, in the columns of training
    python -m t5x_lite.predict --workdir=runs/swag --input=new.csv --output=answers.jsonl       # or tsv, jsonl: questions and choices, likewise
    python -m t5x_lite.predict --workdir=runs/squad --input=dev.json --output=answers.jsonl     # SQuAD's form, or csv, jsonl: columns question and context
    python -m t5x_lite.predict --workdir=runs/squad --input=dev.json --output=predictions.json  # {id: answer}, what evaluate-v2.0.py takes
    python -m t5x_lite.predict --workdir=runs/ner --input=new.conll --output=tags.jsonl         # words as they are divided there, or jsonl: {"words": [...]}
    python -m t5x_lite.predict --workdir=runs/reviews --input=- --output=-      # stays open, answers each line as it comes, as JSON
    python -m t5x_lite.predict --workdir=runs/gpt --text="Once upon a time" --config.decode.method=sample --config.decode.temperature=0.8
    python -m t5x_lite.predict --workdir=runs/t5 --text="translate English to German: A dog." --config.decode.method=beam
    python -m t5x_lite.predict --workdir=runs/gpt --text="A dog is an" --choices=" animal| plant"
    python -m t5x_lite.predict --workdir=runs/base --adapter=runs/mood,runs/topic --text="I want my money back"       # one base, read once
    python -m t5x_lite.predict --workdir=runs/several --head=mood --text="I want my money back"       # without --head all answer, side by side
    python -m t5x_lite.predict --workdir=runs/gpt --text="Q: What is 3 plus 4?\nA:" --config.data.tasks.names=addition_2_digits --config.decode.shots=4

Labels, tags and words are shown with their probabilities; generated text appears as it is generated. --output writes one JSON object a text. Lines that
arrive together are answered together, --batch_size at a time; none waits for others that have not arrived. With
config.decode.shots, demonstrations of a task stand before the text, which is a question as that task asks them; config.decode.rank orders its classes.
"""

from collections.abc import Iterator, Sequence
import itertools
import os
from typing import Any

from absl import flags
import jax

from t5x_lite import cli, outgoing, several
from t5x_lite.assemble import load_for_use
from t5x_lite.config import Config, DecodeConfig
from t5x_lite.config_values import from_json
from t5x_lite.data import tokenizers
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.evaluation import answer_files, asking, incoming
from t5x_lite.evaluation.answer_predictor import AnswerPredictor
from t5x_lite.evaluation.batching import Asked, Texts
from t5x_lite.evaluation.choice_predictor import ChoicePredictor
from t5x_lite.evaluation.evaluator import Evaluator
from t5x_lite.evaluation.generation import Generator
from t5x_lite.evaluation.predictor import Predictor, TextPredictor, show
from t5x_lite.evaluation.tag_predictor import TagPredictor
from t5x_lite.interop import bases
from t5x_lite.models import heads
from t5x_lite.models.several import params_of
from t5x_lite.tasks import examples as task_examples
from t5x_lite.tasks.few_shot import FewShot
from t5x_lite.training import checkpoint, devices, partitioning, places
from t5x_lite.training.step import make_program

_CONFIG = cli.define_config_flags()
_TEXT = flags.DEFINE_string('text', None, 'A text; [MASK] marks words to fill in.')
_TEXT_B = flags.DEFINE_string('text_b', None, 'The second text of a pair.')
_INPUT = flags.DEFINE_string(
    'input', None,
    'A file with a text a line (two texts: separated by a tab); for labels and choices a table in the columns of training (.csv, .jsonl), for answers in texts '
    "SQuAD's form (.json) or a table, for tags words (.jsonl, .conll, .bio, .iob); - is standard input.",
)  # fmt: skip
_OUTPUT = flags.DEFINE_string(
    'output', None,
    'A jsonl file for the answers (of a .json of questions, NAME.json is {id: answer}), or gs://BUCKET/FILE; - is standard output, a line as soon as it is known.',
)  # fmt: skip
_STEP = flags.DEFINE_string('step', None, 'The checkpoint to use: ' + places.STEP_HELP)
_CHOICES = flags.DEFINE_string(
    'choices', None, 'Continuations, separated by |, to rank by their probability instead of generating one; of a multiple choice run, the choices.'
)
_ADAPTER = flags.DEFINE_list(
    'adapter', [], 'Runs that hold what they learnt beside a base: that of the run --workdir, or --workdir itself. Their answers stand side by side.'
)
_HEAD = flags.DEFINE_string('head', None, 'Of a run of several heads, the one that answers; all by default, side by side.')
_TOP = flags.DEFINE_integer('top', 5, 'Words shown for a mask.', lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 32, 'Texts at a time.', lower_bound=1)


def _inputs(predictors: dict[str, Predictor | AnswerPredictor | ChoicePredictor | TagPredictor | TextPredictor]) -> Iterator[Asked | None]:
    """What --text or --input say, checked; `incoming.texts_of` has more."""
    if _INPUT.value is not None:
        yield from incoming.texts_of(_INPUT.value, predictors)
        return
    texts = (_TEXT.value,) if _TEXT_B.value is None else (_TEXT.value, _TEXT_B.value)
    if not any(map(str.strip, texts)) and not all(isinstance(predictor, TextPredictor) for predictor in predictors.values()):
        raise UserError('--text is empty; give some text')
    incoming.check(predictors, texts, 0)
    yield texts


def _choices() -> tuple[str, ...]:
    if _CHOICES.value is None:
        return ()
    choices = tuple(_CHOICES.value.split('|'))
    if '' in choices:
        raise UserError(f'--choices={_CHOICES.value}: an empty continuation; write what may follow the text, separated by |, such as --choices=" yes| no"')
    if len(set(choices)) < len(choices):
        raise UserError(f'--choices={_CHOICES.value}: {max(choices, key=choices.count)!r} is there twice; leave one out')
    return choices


def _shots(config: Config) -> tuple[FewShot | None, DecodeConfig]:
    """The demonstrations, and how to decode after them, that config.decode.shots, .rank and .calibrate ask for."""
    decode = config.decode
    wanted = [name for name in ('shots', 'rank', 'calibrate') if getattr(decode, name)]
    if not wanted:
        return None, decode
    if _CHOICES.value is not None and set(wanted) - {'shots'}:
        raise UserError(f"config.decode.{wanted[-1]} is of a task's classes, and --choices names others; give one of them")
    if not (config.data.tasks.names or config.data.tasks.inputs):
        raise UserError(f'config.decode.{wanted[0]} is of a task; name it with --config.data.tasks.names, and its file with --config.data.tasks.files')
    tasks = task_examples.of_config(config)
    if len(tasks) > 1:
        raise UserError(
            f'config.decode.{wanted[0]} is of one task, and config.data.tasks.names has {len(tasks)}: {", ".join(task.name for task in tasks)}; name one'
        )
    return asking.prompts_of(config, tasks[0], decode)


def _predictor(config: Config, params: Any, workdir: str) -> Predictor | TextPredictor:
    tokenizer = tokenizers.load(f'{workdir}/tokenizer')
    if hasattr(resolve(config.model.module), 'decode'):
        if _TEXT_B.value is not None:
            raise UserError(f'--text_b: {config.model.module} takes one text at a time; write both into --text')
        config.loss = config.loss or 't5x_lite.training.losses:LmLoss'  # of a folder from elsewhere, which names none
        program = make_program(config, partitioning.make_mesh(config))
        generator = Generator(config, Evaluator.place_on(program, params), tokenizer, program.mesh, _BATCH_SIZE.value)
        shots, decode = _shots(config)
        return TextPredictor(generator, decode, config.seed, _choices(), shots)
    if issubclass(resolve(config.model.module), heads.ChoiceHead):
        return ChoicePredictor(config, params, tokenizer, _choices(), _BATCH_SIZE.value)
    if _CHOICES.value is not None:
        raise UserError(f'--choices is of language models and of multiple choice, and {config.model.module} is neither; leave the flag out')
    if issubclass(resolve(config.model.module), heads.TokenHead):
        return TagPredictor(config, params, tokenizer, _BATCH_SIZE.value)
    if issubclass(resolve(config.model.module), heads.SpanHead):
        return AnswerPredictor(config, params, tokenizer, _BATCH_SIZE.value)
    return Predictor(config, params, tokenizer, _TOP.value, _BATCH_SIZE.value)


def _of_heads(config: Config, params: Any) -> dict[str, tuple[Config, Any]]:
    """{name: (config, parameters)} of the heads that are asked, as runs of their own; {'': ...} of a run of one."""
    if _HEAD.value is not None:
        several.find(config, _HEAD.value, f'--head={_HEAD.value}')
    found = {name: one for name, one in several.apart(config).items() if _HEAD.value in (None, name)}
    return {name: (one, params_of(params, name) if name else params) for name, one in found.items()}


def _beside(config: Config) -> dict[str, Predictor | TextPredictor]:
    """{workdir: predictor} of the runs of --adapter, and of --workdir where that is such a run too; their base is read, and lies on the device, once."""
    if _STEP.value is not None:
        raise UserError('--step is of one run, and --adapter names others; name their checkpoints, RUN/checkpoints/STEP, as --adapter')
    weights, placed = bases.Weights(), {}
    workdir, base = cli.workdir(), checkpoint.base_of(cli.workdir())
    predictors = {}
    for run in ([workdir] if base else []) + _ADAPTER.value:
        theirs = checkpoint.base_of(run)
        if theirs is None:
            raise UserError(f'--adapter={run}: its checkpoints hold all of its weights, not what it learnt beside others; ask it alone, with --workdir={run}')
        if base and theirs['fingerprint'] != base['fingerprint']:
            raise UserError(f'--adapter={run} is an adapter of another base: it was learnt beside {theirs["path"]}, and {workdir} beside {base["path"]}')
        own = from_json(os.path.join(checkpoint.locate(run)[0], 'config.json'))
        own.decode, own.mesh = config.decode, config.mesh
        if not base:
            own.init_from = workdir
        own, params, _ = load_for_use(own, run, None, weights=weights)
        for leaf in jax.tree.leaves(params):
            placed.setdefault(id(leaf), (leaf, jax.numpy.asarray(leaf)))  # the leaf too, so that its id stays its own
        asked = _of_heads(own, jax.tree.map(lambda leaf: placed[id(leaf)][1], params))
        if len(asked) > 1:
            raise UserError(f'--adapter={run} has several heads: {", ".join(asked)}; name one of them with --head')
        (own, params), = asked.values()
        predictors[run] = _predictor(own, params, checkpoint.locate(run)[0])
    return predictors


def _side_by_side(predictors: dict[str, Any], texts: Texts, what: str = 'runs') -> Iterator[dict[str, Any]]:
    copies = itertools.tee(texts, len(predictors))
    for answers in zip(*(predictor(copy) for predictor, copy in zip(predictors.values(), copies))):
        yield {'text': answers[0]['text'], what: dict(zip(predictors, answers))}


def _show_runs(answer: dict[str, Any]) -> str:
    """The text, and a line of each run or head before its answer."""
    lines = [answer['text']]
    for run, found in answer['runs' if 'runs' in answer else 'heads'].items():
        lines += [f'{run}:', show(found)[len(found['text']) + 1 :]]
    return '\n'.join(lines)


def main(argv: Sequence[str]) -> None:
    del argv
    devices.configure(_CONFIG.value)
    if (_TEXT.value is None) == (_INPUT.value is None):
        raise UserError('give --text="..." or --input=FILE (- for standard input), one of them')
    if _TEXT_B.value is not None and _TEXT.value is None:
        raise UserError('--text_b goes with --text; in an --input, two texts of a line are separated by a tab')
    with outgoing.to(_OUTPUT.value or '-') as output:
        said = _answer(output)
    if said:
        print(said)


def _answer(output: str) -> str:
    """Answers what is asked. What there is to say of answers that were written to a file."""
    if _ADAPTER.value:
        predictors = _beside(_CONFIG.value)
        asked, ask, shown = {f'--adapter={run}': each for run, each in predictors.items()}, lambda texts: _side_by_side(predictors, texts), _show_runs
    else:
        config, params, _ = load_for_use(_CONFIG.value, cli.workdir(), _STEP.value)
        predictors = {name: _predictor(*each, cli.workdir()) for name, each in _of_heads(config, params).items()}
        first = ask = next(iter(predictors.values()))
        asked, shown = {'': first}, show
        if len(predictors) > 1:
            asked = {f'head {name}': each for name, each in predictors.items()}
            ask, shown = lambda texts: _side_by_side(predictors, texts, 'heads'), _show_runs
        if isinstance(first, TextPredictor) and _TEXT.value is not None and not _OUTPUT.value and first.streams:
            for piece in first.stream(_TEXT.value):
                print(piece, end='', flush=True)
            print()
            return ''
    if output == '-':
        for answer in ask(_inputs(asked)):
            print(answer_files.line(answer) if _OUTPUT.value else shown(answer), flush=True)
        return ''
    if shown is show and output.endswith('.json') and _INPUT.value and incoming.is_squad(_INPUT.value, asked):
        no_answers = first.no_answers
        if no_answers and output != _OUTPUT.value:
            raise UserError(f'--output={_OUTPUT.value}: of a run that may give no answer this form is two files; name a local one, or NAME.jsonl')
        return answer_files.write_squad(output, ask(_inputs(asked)), no_answers, _OUTPUT.value)
    return answer_files.write(output, ask(_inputs(asked)), _OUTPUT.value)


if __name__ == '__main__':
    cli.run(main)
