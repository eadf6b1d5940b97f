"""Baselines of a run's own tables."""

from pathlib import Path
import re

import numpy as np

from t5x_lite.config import Config
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.evaluation.before_tuning import baselines
from tests.data import reading_material
from tests.data.table_material import vocabulary
from tests.data.tagged_material import columns, sentences


def run_of(folder, text, name='t.tsv', source='t5x_lite.data.tables:LabelledExamples', **fields):
    (folder / name).write_text(text)
    config = Config(batch_size=4)
    config.data.source, config.data.tokenizer, config.data.train, config.data.seq_len = source, vocabulary(folder), str(folder / name), 16
    for field, value in fields.items():
        setattr(config.data, field, value)
    return DataFunction(config, 'train'), DataFunction(config, 'validation')


def test_classes_pairs_and_numbers(tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f'the {"cat" if label else "dog"} {number}', str(label)) for number, label in enumerate(rng.integers(0, 2, 60))]
    lines = baselines(*run_of(tmp_path, 'text\tlabel\n' + ''.join('\t'.join(row) + '\n' for row in rows))).splitlines()
    assert lines[0].startswith('baseline, majority: accuracy 0.') and lines[1].startswith('baseline, bag of words: accuracy 1.0000')
    pairs = 'sentence1\tsentence2\tlabel\n' + ''.join(f'{text}\ta man\t{label}\n' for text, label in rows)
    assert 'bag of words: accuracy 1.0000' in baselines(*run_of(tmp_path, pairs))
    numbers = 'text\tscore\n' + ''.join(f'{text}\t{float(label) + 0.5}\n' for text, label in rows)
    assert re.search(r'bag of words: pearson (0\.9|1\.0)', baselines(*run_of(tmp_path, numbers, regression=True)))


def test_large_tables_are_read_in_part_and_that_is_said(tmp_path):
    text = 'text\tlabel\n' + ''.join(f'{"cat" if number % 3 else "dog"} {number}\t{number % 3 > 0}\n' for number in range(100))
    said = baselines(*run_of(tmp_path, text), most_rows=20)
    assert said.endswith(' (read: 20 of the 90 train rows)') and said == baselines(*run_of(tmp_path, text), most_rows=20)


def test_tagged_words(tmp_path):
    lines = baselines(*run_of(tmp_path, columns(sentences(40)), 't.conll', 't5x_lite.data.tagged:TaggedExamples'))
    assert re.fullmatch(r"baseline, each word's most frequent tag: f1 [\d.]+, precision [\d.]+, recall [\d.]+, accuracy [\d.]+", lines), lines


def test_questions_with_choices(tmp_path):
    text = 'question,choice1,choice2,choice3,answer\n' + 'the man,red,green,house,0\nthe dog,tree,red,house,1\nthe dog,tree,red,,1\n' * 10
    run = run_of(tmp_path, text, 't.csv', 't5x_lite.data.choices:ChoiceExamples')
    lines = baselines(*run).splitlines()
    assert re.fullmatch(r'baseline, most frequent place: accuracy [\d.]+', lines[0]) and lines[1:] == ['baseline, bag of words: accuracy 1.0000']
    assert baselines(*run, most_rows=60).endswith(' (read: 20 of the 27 train questions)'), '60 choices'


def read(folder, texts, answer='bo li', **fields):
    path = reading_material.questions(folder, 'q.json', texts, answer)
    return run_of(folder, Path(path).read_text(), 'q.json', 't5x_lite.data.question_examples:QuestionExamples', max_question=3, stride=4, **fields)


def test_questions_about_texts(tmp_path):
    run = read(tmp_path, [f'the man bo li {number}' for number in range(10)])
    assert re.fullmatch(r'baseline, what stands nearest to the words of the question: em [\d.]+, f1 [\d.]+', baselines(*run))
    assert baselines(*run, most_rows=50).endswith(' (read: 5 of the 9 train questions)')


def test_questions_that_may_have_no_answer(tmp_path):
    lines = baselines(*read(tmp_path, [f'the man bo li {number}' for number in range(10)], no_answers=True)).splitlines()
    assert lines[0] == 'baseline, never an answer: exact 0.0000, f1 0.0000' and lines[1].startswith('baseline, what stands nearest')


def test_other_data_have_none(tmp_path):
    run = run_of(tmp_path, 'text\tlabel\nthe man\t1\nthe dog\t0\n' * 5)
    assert baselines(*run)
    for data in run:
        data.sources = lambda stage: [object()]
    assert baselines(*run) == ''
