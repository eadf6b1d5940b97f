"""Tagging and sets of labels from the command line: what is said before training, what a run answers, and mistakes in one line."""

import json
import shutil

import pytest

from t5x_lite.config_values import from_json
from t5x_lite.evaluation.metrics_reading import squad_v2
from t5x_lite.evaluation.predictor import show
from tests.commands import forked, material
from tests.data.tagged_material import columns, sentences

SMALL = (
    '--config.data.seq_len=16', '--config.data.length_buckets=()', '--config.batch_size=8', '--config.eval.batch_size=8', '--config.epochs=1',
    f'--config.init_from={material.PRETRAINED}', '--config.log.tensorboard=False',
)  # fmt: skip


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('heads')


@pytest.fixture(scope='module')
def tagger(place):
    """(workdir, what training said)."""
    (place / 'train.conll').write_text(columns(sentences(40)))
    (place / 'dev.conll').write_text(columns(sentences(10, seed=1)))
    flags = ('--config=configs/ner.py', f'--config.data.train={place}/train.conll', f'--config.data.validation={place}/dev.conll', '--config.model.crf=True')
    return place / 'tagger', forked.run('train', *SMALL, *flags, f'--workdir={place}/tagger').success


def test_what_a_tagging_run_says(tagger):
    workdir, said = tagger
    assert 'tags in IOB2 (guessed), learnt in IOB2: 5' in said and 'at random: classifier/bias, classifier/kernel, crf/' in said
    assert "baseline, each word's most frequent tag: f1 0." in said
    config = from_json(str(workdir / 'config.json'))
    assert config.model.body == 'bert_flax.bert:Bert' and config.data.labels == ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER')
    line = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()][-1]
    assert {'eval/f1', 'eval/precision', 'eval/recall', 'eval/f1_PER', 'eval/accuracy', 'eval/crf_loss'} <= line.keys()


def test_a_tagging_run_needs_nothing_but_itself(tagger, place):
    workdir, _ = tagger
    (place / 'train.conll').rename(place / 'gone.conll')
    shown = forked.run('evaluate', f'--workdir={workdir}').success
    assert '  f1  ' in shown and '  f1_LOC  ' in shown
    shown = forked.run('predict', f'--workdir={workdir}', '--text=the man (red).').success.splitlines()
    assert shown[0] == 'the man (red).' and [line.split()[0] for line in shown[1:]] == ['the', 'man', '(', 'red', ')', '.']
    (place / 'texts.txt').write_text('the man\n\na tree runs\n')
    said = forked.run('predict', f'--workdir={workdir}', f'--input={place}/texts.txt', f'--output={place}/tags.jsonl').success
    answers = [json.loads(line) for line in (place / 'tags.jsonl').read_text().splitlines()]
    assert said.startswith('3 answers') and [len(answer['words']) for answer in answers] == [2, 0, 3]
    assert all(answer.keys() == {'text', 'words', 'entities'} for answer in answers)
    refused = forked.run('predict', f'--workdir={workdir}', '--text=a', '--text_b=b').error
    assert 'words are tagged of one at a time' in refused
    (place / 'gone.conll').rename(place / 'train.conll')


def test_files_of_words_are_tagged_on_exactly_these(tagger, place):
    """So the tags of a held-out file, and its lines as jsonl, are right as often as the evaluation says; what is in its column of tags is nothing to them."""
    workdir, _ = tagger
    rows = sentences(10, seed=1)
    (place / 'held.conll').write_text(columns([(words, ['B-NONE'] * len(words)) for words, _ in rows]))
    (place / 'held.jsonl').write_text(''.join(json.dumps({'words': words}) + '\n' for words, _ in rows))
    forked.run('evaluate', f'--workdir={workdir}', f'--config.data.validation={place}/dev.conll', '--resamples=0').success
    accuracy = json.loads((workdir / 'evaluation.json').read_text())['accuracy']
    for name in ('held.conll', 'held.jsonl'):
        said = forked.run('predict', f'--workdir={workdir}', f'--input={place}/{name}', f'--output={place}/tags.jsonl').success
        answers = [json.loads(line) for line in (place / 'tags.jsonl').read_text().splitlines()]
        assert said.startswith('10 answers') and [[each['word'] for each in answer['words']] for answer in answers] == [words for words, _ in rows]
        right = [each['tag'] == tag for answer, (_, tags) in zip(answers, rows, strict=True) for each, tag in zip(answer['words'], tags, strict=True)]
        assert sum(right) / len(right) == pytest.approx(accuracy, abs=1e-6)
        assert all(answer['text'][each['start'] : each['stop']] == each['text'] for answer in answers for each in answer['entities'])
    (place / 'marks.jsonl').write_text('{"tokens": ["(the", "man)"]}\n{"text": "(the man)"}\n{"tokens": []}\n')
    shown = forked.run('predict', f'--workdir={workdir}', f'--input={place}/marks.jsonl', '--output=-').success.splitlines()
    assert [[each['word'] for each in json.loads(line)['words']] for line in shown] == [['(the', 'man)'], ['(', 'the', 'man', ')'], []]
    (place / 'wrong.conll').write_text('the O\nman\n')
    assert f'{place}/wrong.conll:2: 1 columns, and 2 in line 1' in forked.run('predict', f'--workdir={workdir}', f'--input={place}/wrong.conll').error


def test_sets_of_labels_and_baselines(place):
    rows = ''.join(f'the {text} {number}\t{label}\n' for number in range(20) for text, label in (('good day', 'good|day'), ('bad', 'bad'), ('man', '')))
    (place / 'sets.tsv').write_text('text\tlabels\n' + rows)
    flags = ('--config=configs/classify.py', f'--config.data.train={place}/sets.tsv', '--config.data.label_separator=|')
    said = forked.run('train', *SMALL, *flags, f'--workdir={place}/sets').success
    assert '3 labels: bad (' in said
    lines = [line for line in said.splitlines() if line.startswith('baseline, ')]
    assert lines[0].startswith('baseline, majority: subset_accuracy ') and lines[1].startswith('baseline, bag of words: subset_accuracy 1.0000')
    assert 'held out at step' in said and 'micro_f1' in said
    shown = json.loads(_answer(place, 'sets', 'the good day'))
    assert shown['probabilities'].keys() == {'good', 'bad', 'day'} and set(shown['labels']) <= {'good', 'bad', 'day'}
    for labels, line in ((['good', 'day'], '  good, day'), ([], '  (no label)')):
        assert show(shown | {'labels': labels}).splitlines()[1] == line
    quiet = forked.run('train', *SMALL, *flags, f'--workdir={place}/quiet', '--config.data.baselines=False').success
    assert 'baseline' not in quiet
    assert 'baseline' not in forked.run('train', *SMALL, *flags, f'--workdir={place}/sets').success, 'a finished run'


def test_choices_from_the_command_line(place):
    """From a table to an answer; the run needs nothing but itself, and mistakes are one line."""
    rows = ''.join(f'the {word} {number},a {word},a tree,a house,{"ABC"[number % 3]}\n' for number in range(12) for word in ('dog', 'man'))
    (place / 'choices.csv').write_text('question,option_a,option_b,option_c,answer\n' + rows)
    run, flags = place / 'choices', (*SMALL, '--config=configs/choice.py', f'--config.data.train={place}/choices.csv')
    said = forked.run('train', *flags, f'--workdir={run}').success
    assert "which says its letter (guessed)" in said and 'guessing reaches 0.3333' in said
    assert 'choices have no names that questions share' in forked.run(
        'train', *flags, f'--workdir={place}/never', '--config.data.class_weights=balanced').error
    assert 't5x_lite.models.heads:ChoiceHead' == from_json(str(run / 'config.json')).model.module
    (place / 'held.csv').write_text('question,option_a,option_b,option_c,answer\nthe man,a man,a tree,a house,b\n')
    (place / 'choices.csv').unlink()
    assert '  accuracy  ' in forked.run('evaluate', f'--workdir={run}', f'--config.data.validation={place}/held.csv').success
    shown = forked.run('predict', f'--workdir={run}', '--text=the man', '--choices=a man|a dog').success.splitlines()
    assert shown[0] == 'the man' and {line.split('%  ')[1] for line in shown[1:]} == {'a man', 'a dog'}
    (place / 'asked.txt').write_text('the man\ta man\ta dog\nthe dog\ta man\ta dog\ta tree\n')
    forked.run('predict', f'--workdir={run}', f'--input={place}/asked.txt', f'--output={place}/answers.jsonl').success
    answers = [json.loads(line) for line in (place / 'answers.jsonl').read_text().splitlines()]
    assert [len(answer['choices']) for answer in answers] == [2, 3] and answers[0].keys() == {'text', 'choice', 'choices'}
    assert all(sum(each['probability'] for each in answer['choices']) == pytest.approx(1, abs=1e-5) for answer in answers)
    (place / 'asked.csv').write_text('n,option_b,option_a,option_c,question\n1,a dog,a man,,the man\n2,a man,a dog,a tree,the dog\n')
    said = forked.run('predict', f'--workdir={run}', f'--input={place}/asked.csv', f'--output={place}/rows.jsonl').success
    rows = [json.loads(line) for line in (place / 'rows.jsonl').read_text().splitlines()]
    assert said.startswith('2 answers') and [row['text'] for row in rows] == ['the man', 'the dog'], 'no label, columns in another order'
    for row, answer in zip(rows, answers, strict=True):
        there, before = ({each['text']: each['probability'] for each in found['choices']} for found in (row, answer))
        assert there == pytest.approx(before, abs=1e-5)
    assert '--choices="this|that"' in forked.run('predict', f'--workdir={run}', '--text=the man').error
    assert '--choices=a: one choice' in forked.run('predict', f'--workdir={run}', '--text=the man', '--choices=a').error


def _answer(place, run, text):
    forked.run('predict', f'--workdir={place}/{run}', f'--text={text}', f'--output={place}/answer.jsonl').success
    return (place / 'answer.jsonl').read_text()


def test_mistakes(place, tagger):
    files = (f'--config.data.train={place}/train.conll', f'--workdir={place}/never')
    ner, classify = (*SMALL, '--config=configs/ner.py', *files), (*SMALL, '--config=configs/classify.py', *files)
    assert 'best_metric=F1 is not a held-out metric' in forked.run('train', *ner, '--config.checkpoint.best_metric=F1').error
    assert 'config.model.pooling=mean is of heads' in forked.run('train', *ner, '--config.model.pooling=mean').error
    assert "config.model.body 'bert_flax.bert:Bertt'" in forked.run('train', *ner, '--config.model.body=bert_flax.bert:Bertt').error
    both = ('--config.data.regression=True', '--config.data.label_separator=|')
    assert 'leave one of them out' in forked.run('train', *classify, *both).error
    assert not (place / 'never').exists()


@pytest.fixture(scope='module')
def reader(place):
    """(workdir, flags that made it) of a run that answers from texts, some of which have no answer, stopped at step 4 of 8."""
    paragraphs = []
    for number in range(24):
        text = f'the man {"sings" if number % 2 else "sleeps"} in a red house {number}'
        asked = [{'id': f'a{number}', 'question': 'the man', 'answers': [{'text': 'a red house', 'answer_start': text.index('a red')}]}]
        asked += [{'id': f'b{number}', 'question': 'a tree', 'answers': [], 'is_impossible': True}] * (number % 3 == 0)
        paragraphs.append({'context': text, 'qas': asked})
    (place / 'train.json').write_text(json.dumps({'data': [{'title': 'T', 'paragraphs': paragraphs}]}))
    (place / 'dev.json').write_text(json.dumps({'data': [{'title': 'T', 'paragraphs': paragraphs[:6]}]}))
    flags = (
        *SMALL, '--config=configs/squad.py', f'--config.data.train={place}/train.json', f'--config.data.validation={place}/dev.json', '--config.data.no_answers',
        '--config.data.max_question=4', '--config.epochs=0', '--config.steps=8', '--config.checkpoint.every_steps=4', '--config.checkpoint.keep_last=2',
    )  # fmt: skip
    forked.run('train', *flags, f'--workdir={place}/reader').success
    shutil.copytree(place / 'reader', place / 'stopped')
    shutil.rmtree(place / 'stopped' / 'checkpoints' / '8')
    return place / 'reader', flags


def test_questions_of_a_file_are_answered_one_by_one(reader, place):
    """What goes to SQuAD's script scores as the evaluation does; answers need none in the file."""
    workdir, _ = reader
    content = json.loads((place / 'dev.json').read_text())
    asked = [each | {'context': part['context']} for part in content['data'][0]['paragraphs'] for each in part['qas']]
    for each in [each for part in content['data'][0]['paragraphs'] for each in part['qas']]:
        each.pop('answers')
    (place / 'bare.json').write_text(json.dumps(content))
    said = forked.run('predict', f'--workdir={workdir}', f'--input={place}/bare.json', f'--output={place}/answers.jsonl').success
    answers = [json.loads(line) for line in (place / 'answers.jsonl').read_text().splitlines()]
    assert said.startswith('8 answers') and [answer['id'] for answer in answers] == [each['id'] for each in asked]
    assert all(each['context'][answer['start'] : answer['stop']] == answer['answer'] for each, answer in zip(asked, answers, strict=True))
    assert all((answer['no_answer'] > 0.5) == (answer['answer'] == '') for answer in answers)
    said = forked.run('predict', f'--workdir={workdir}', f'--input={place}/bare.json', f'--output={place}/predictions.json').success
    predictions, none = (json.loads((place / name).read_text()) for name in ('predictions.json', 'predictions.na_prob.json'))
    assert said.startswith('8 answers') and predictions == {answer['id']: answer['answer'] for answer in answers}
    assert none == {answer['id']: answer['no_answer'] for answer in answers} and all(0 <= chance <= 1 for chance in none.values())
    forked.run('evaluate', f'--workdir={workdir}', '--resamples=0').success
    scores = json.loads((workdir / 'evaluation.json').read_text())
    wanted = [[answer['text'] for answer in each['answers']] for each in asked]
    found = squad_v2(wanted, [predictions[each['id']] for each in asked], [none[each['id']] for each in asked], 1.0)  # the script's own threshold
    assert found['exact'] == pytest.approx(scores['exact']) and found['f1'] == pytest.approx(scores['f1'])
    (place / 'asked.csv').write_text('question,context\nthe man,the man sings in a red house 1\n')
    row, = forked.run('predict', f'--workdir={workdir}', f'--input={place}/asked.csv', '--output=-').success.splitlines()
    row, same = json.loads(row), next(answer for answer, each in zip(answers, asked, strict=True) if each['id'] == 'a1')
    assert 'id' not in row and row['answer'] == same['answer'] and row['no_answer'] == pytest.approx(same['no_answer'], abs=1e-5)
    (place / 'mine.csv').write_text('told,asked,id\nthe man sings in a red house 1,the man,7\n')
    mine, = forked.run('predict', f'--workdir={workdir}', f'--input={place}/mine.csv', '--config.data.text_columns=asked,told', '--output=-').success.splitlines()
    assert json.loads(mine) == {'id': '7'} | row
    (place / 'twice.json').write_text(json.dumps({'data': [{'paragraphs': [{'context': 'a', 'qas': [{'id': 'x', 'question': 'b'}] * 2}]}]}))
    assert f'{place}/twice.json[x]: a question before it has the same id' in forked.run('predict', f'--workdir={workdir}', f'--input={place}/twice.json').error


def test_a_run_that_is_not_finished_says_so(reader, place):
    text = ('--text=the man', '--text_b=the man sings')
    note = f'{place}/stopped is not finished: step 4 of 8 is used; its train command, repeated, goes on\n'
    assert forked.run('predict', f'--workdir={place}/stopped', *text).err == note
    assert forked.run('evaluate', f'--workdir={place}/stopped', '--resamples=0').err == note
    for step in ('4', 'newest'):
        assert not forked.run('predict', f'--workdir={place}/stopped', f'--step={step}', *text).err, 'whoever names a step knows'
    assert not forked.run('predict', f'--workdir={place}/reader', *text).err
    assert not forked.run('predict', f'--workdir={place}/reader', '--step=4', *text).err
