"""How tasks are asked and judged, by generators that say what a test wants."""

import dataclasses

import pytest

from t5x_lite.config import Config, DataConfig, DecodeConfig, EvalConfig, TaskConfig
from t5x_lite.errors import UserError
from t5x_lite.evaluation import task_scores
from t5x_lite.evaluation.generation import Answer, Scored

TASKS = """
from t5x_lite.tasks import registry, sources
from t5x_lite.tasks.task import Task

def preprocess(row):
    return {'inputs': f'{row["text"]} ->', 'targets': row['label']}

def rows(split):
    few = [('good', 'yes'), ('bad', 'no'), ('fine', 'yes'), ('poor', 'no')]
    return [{'text': f'{text} {number}', 'label': label} for number in range(3 if split == 'train' else 2) for text, label in few]

registry.register(Task('SCORED', sources.Made(rows), preprocess, ('accuracy',), ('yes', 'no'), content=('text',)))
"""


class Oracle:
    """Answers by a function of the prompt, and remembers what it was asked."""

    def __init__(self, answer=None, log_prob=None):
        self.answer, self.log_prob, self.asked, self.decoded, self.scored = answer, log_prob, [], [], []

    def check(self, prompt, decode):
        if len(prompt) > 100:
            raise UserError('too long')

    def __call__(self, prompts, decode, seed):
        self.asked += prompts
        self.decoded.append(decode)
        return [[Answer(self.answer(prompt), (1,), -1.0, -1.0, True)] for prompt in prompts]

    def score(self, prompts, continuations):
        self.scored += list(zip(prompts, continuations))
        return [Scored(self.log_prob(prompt, text), 1) for prompt, text in zip(prompts, continuations)]


@pytest.fixture
def config(tmp_path, request):
    name = 'scored_' + ''.join(character for character in request.node.name if character.isalnum())
    path = tmp_path / 'tasks.py'
    path.write_text(TASKS.replace('SCORED', name))
    tasks = TaskConfig(names=(name,), files=(str(path),))
    return Config(data=DataConfig(source='t5x_lite.tasks.examples:TaskExamples', tasks=tasks))


def ask(scorer, decode=DecodeConfig()):
    return scorer(scorer.questions(scorer.tasks[0], decode))


def label(question: str) -> str:
    return 'yes' if question.startswith(('good', 'fine')) else 'no'


def test_a_model_that_was_taught_is_asked_as_it_was_taught(config):
    oracle = Oracle(lambda prompt: ' ' + label(prompt))
    scorer = task_scores.TaskScores(oracle, config)
    judged = ask(scorer)
    assert judged.scores == {'accuracy': 100.0, 'unparsed': 0.0, 'unparsed_percent': 0.0}
    assert oracle.asked[0] == 'good 0 ->' and len(oracle.asked) == 8 and oracle.decoded[0].stop == ()
    assert judged.examples[1] == ('bad 0 ->', 'no', 'no')


def test_what_cannot_be_read_is_counted(config):
    oracle = Oracle(lambda prompt: 'perhaps' if prompt.startswith('good') else label(prompt))
    scorer = task_scores.TaskScores(oracle, config)
    scores = ask(scorer).scores
    assert scores == {'accuracy': 75.0, 'unparsed': 2.0, 'unparsed_percent': 25.0}
    table = task_scores.table([('scored', 'as taught', scores)])
    assert 'accuracy 75.00' in table and '2 answers could not be read: 25.0 %' in table
    assert scorer.average({'a': scores, 'b': {'f1': 25.0, 'em': 35.0}}) == pytest.approx((75 + 30) / 2)
    config.data.tasks.names = ('glue',)
    halves = {'glue_mnli_matched': {'accuracy': 50.0}, 'glue_mnli_mismatched': {'accuracy': 70.0}, 'glue_rte': {'accuracy': 80.0}}
    assert scorer.average(halves) == pytest.approx((60 + 80) / 2)


def test_demonstrations_stand_in_front_and_a_line_is_an_answer(config):
    oracle = Oracle(lambda prompt: label(prompt.rpartition('\n\n')[2]))
    scorer = task_scores.TaskScores(oracle, config)
    judged = ask(scorer, DecodeConfig(shots=2))
    assert judged.scores['accuracy'] == 100.0 and oracle.decoded[0].stop == ('\n',)
    for prompt in oracle.asked:
        *shown, question = prompt.split('\n\n')
        assert len(shown) == 2 and all(part.rpartition('-> ')[2] == label(part) for part in shown) and question.endswith('->')
    again = Oracle(oracle.answer)
    ask(task_scores.TaskScores(again, config), DecodeConfig(shots=2))
    assert again.asked == oracle.asked
    other = Oracle(oracle.answer)
    ask(task_scores.TaskScores(other, dataclasses.replace(config, seed=1)), DecodeConfig(shots=2))
    assert other.asked != oracle.asked


def test_ranking_and_calibration(config):
    """A model that prefers ' no' whatever is asked, and sees a little of the truth: calibration takes the bias away."""

    def log_prob(prompt, text):
        question = prompt.rpartition('\n\n')[2]
        known = question.startswith(('good', 'fine', 'bad', 'poor'))
        return (-1.0 if text.strip() == 'no' else -3.0) + (0.5 if known and text.strip() == label(question) else 0.0)

    oracle = Oracle(log_prob=log_prob)
    scorer = task_scores.TaskScores(oracle, config)
    ranked = ask(scorer, DecodeConfig(rank=True))
    assert ranked.scores['accuracy'] == 50.0 and {answer for _, _, answer in ranked.examples} == {'no'}
    calibrated = ask(scorer, DecodeConfig(calibrate=True, shots=1))
    assert calibrated.scores['accuracy'] == 100.0
    assert any('N/A ->' in prompt for prompt, _ in oracle.scored)


def test_few_examples_of_each_task(config):
    config.eval = EvalConfig(examples=3)
    oracle = Oracle(label)
    scorer = task_scores.TaskScores(oracle, config)
    ask(scorer)
    assert len(oracle.asked) == 3
    other = Oracle(label)
    ask(task_scores.TaskScores(other, dataclasses.replace(config, seed=4)))
    assert other.asked != oracle.asked, 'drawn, since a file may be sorted by its classes'


def test_a_model_of_text_is_asked_by_prompt(config):
    """One that learnt from a corpus ends its answers nowhere else."""
    config.data.source = 't5x_lite.data.language_modelling:CausalLm'
    oracle = Oracle(label)
    scorer = task_scores.TaskScores(oracle, config)
    ask(scorer)
    assert oracle.decoded[0].stop == ('\n',) and oracle.asked[0] == 'good 0 ->'


def test_too_many_demonstrations(config):
    scorer = task_scores.TaskScores(Oracle(label), config)
    with pytest.raises(UserError, match='40 demonstrations from a training part of 12; lower --config.decode.shots'):
        ask(scorer, DecodeConfig(shots=40))


def test_what_cannot_be_asked_is_said_before_anything_is(config):
    oracle = Oracle(label)
    scorer = task_scores.TaskScores(oracle, config)
    with pytest.raises(UserError, match='example 0 with 9 demonstrations: too long'):
        scorer.questions(scorer.tasks[0], DecodeConfig(shots=9))
    plain = dataclasses.replace(scorer.tasks[0], metrics=('exact_match',), labels=())
    with pytest.raises(UserError, match='has no classes to rank; leave config.decode.rank'):
        scorer.questions(plain, DecodeConfig(rank=True))
    assert not oracle.asked
    assert scorer.asked(DecodeConfig()) == 'as taught' and scorer.asked(DecodeConfig(shots=2, calibrate=True)) == '2 shots, calibrated'
    config.data.source = 't5x_lite.data.language_modelling:CausalLm'
    assert task_scores.TaskScores(oracle, config).asked(DecodeConfig(rank=True)) == '0 shots, ranked'


def test_a_correlation_that_is_none_does_not_take_the_rest_with_it(config):
    scorer = task_scores.TaskScores(Oracle(label), config)
    assert scorer.average({'a': {'pearson': float('nan')}, 'b': {'accuracy': 50.0}}) == 25.0


def test_while_training_the_parameters_change_and_the_questions_do_not(config, monkeypatch):
    class Learner(Oracle):
        """Knows as many of the words as its 'parameters' say."""

        def __init__(self, *arguments):
            super().__init__(lambda prompt: label(prompt) if prompt.startswith(self.params) else 'perhaps')

    monkeypatch.setattr(task_scores, 'Generator', Learner)
    config.eval = EvalConfig(examples_while_training=6)
    assert task_scores.WhileTraining.wanted(config)
    judge, name = task_scores.WhileTraining(config, None, None), config.data.tasks.names[0]
    assert judge.metrics == [f'{name}/accuracy', f'{name}/unparsed', f'{name}/unparsed_percent']
    know_nothing, know_all = judge(('x',)), judge(('good', 'bad', 'fine', 'poor'))
    assert know_nothing == {f'{name}/accuracy': 0.0, f'{name}/unparsed': 6.0, f'{name}/unparsed_percent': 100.0}
    assert know_all == {f'{name}/accuracy': 100.0, f'{name}/unparsed': 0.0, f'{name}/unparsed_percent': 0.0}
    assert not task_scores.WhileTraining.wanted(dataclasses.replace(config, eval=EvalConfig(examples_while_training=0)))
    config.decode.shots = 99
    with pytest.raises(UserError, match='99 demonstrations'):
        task_scores.WhileTraining(config, None, None)
