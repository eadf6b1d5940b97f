"""Tasks: sources, examples, answers and scores."""

import functools
import gzip
import json

import pytest

from t5x_lite.errors import UserError
from t5x_lite.tasks import answers, builtin, local, registry, synthetic, text_formats
from t5x_lite.tasks.sources import Files, Lines, Made, SquadJson, TaggedWords
from t5x_lite.tasks.task import Mixture, Task

LABELS = ('negative', 'positive')
classify = functools.partial(text_formats.classification, name='sst2', labels=LABELS, features=('sentence',))


def made(rows, metrics=('accuracy',), labels=LABELS, preprocess=classify, **more):
    return Task('mine', Made(lambda split: rows, ('train', 'validation')), preprocess, metrics, labels, **more)


ROWS = [{'sentence': text, 'label': label} for text, label in (('fine', 1), ('dull', 0), ('good', 1), ('bad', 0))]


def test_scores_count_what_cannot_be_read():
    task = made(ROWS, ('accuracy', 'f1', 'matthews', 'macro_f1'))
    examples = task.examples('validation')
    assert examples[0] == {'inputs': 'sst2 sentence: fine', 'targets': 'positive', 'references': ['positive']}
    scores = task.score(['positive', 'negative', 'great', ' negative '], examples)
    assert (scores['accuracy'], scores['unparsed'], scores['unparsed_percent']) == (50.0, 2.0, 50.0)
    assert scores['f1'] == pytest.approx(50)
    perfect = task.score(['positive', 'negative', 'positive', 'negative'], examples)
    assert perfect == dict.fromkeys(('accuracy', 'f1', 'matthews', 'macro_f1'), 100.0) | {'unparsed': 0.0, 'unparsed_percent': 0.0}


def test_numbers_that_are_none_count():
    rows = [{'sentence1': 'a', 'sentence2': 'b', 'label': label} for label in (0.0, 1.3, 4.9, 3.0)]
    task = made(rows, ('pearson', 'spearman'), (), text_formats.stsb)
    examples = task.examples('train')
    assert task.score(['0.0', '1.4', '5.0', '3.0'], examples)['spearman'] == pytest.approx(100)
    scores = task.score(['0.0', 'nan', 'five', '3.0'], examples)
    assert scores['unparsed'] == 2 and scores['pearson'] < 50


def test_nothing_is_scored_without_answers():
    task = made([{'sentence': 'fine', 'label': -1}])
    with pytest.raises(UserError, match='task mine: example 0 has no published answer'):
        task.score(['positive'], task.examples('train'))
    task = made(ROWS)
    with pytest.raises(UserError, match='task mine: 1 predictions for 4 examples'):
        task.score(['positive'], task.examples('train'))


def test_metrics_of_ones_own():
    def first_letter(targets, predictions):
        return {'letter': 100.0 * sum(target[0][0] == text[:1] for target, text in zip(targets, predictions)) / len(targets)}

    task = made(ROWS, (first_letter, 'exact_match'), postprocess=str.upper)
    scores = task.score(['p', 'n', 'P', 'x'], task.examples('train'))
    assert (scores['letter'], scores['exact_match']) == (75.0, 0.0)
    with pytest.raises(UserError, match="task mine: no metric 'acuracy', did you mean 'accuracy'"):
        made(ROWS, ('acuracy',))
    with pytest.raises(UserError, match='f1 is of two classes, and here are 3'):
        made(ROWS, ('f1',), (*LABELS, 'neutral')).score(['positive'] * 4, made(ROWS).examples('train'))
    with pytest.raises(UserError, match="two of its metrics give 'f1'"):
        made(ROWS, ('f1', 'squad')).score(['positive'] * 4, made(ROWS).examples('train'))


def test_classes_are_those_of_the_training_part():
    parts = {'train': ['b', 'a', 'b'], 'validation': ['a']}
    source = Made(lambda split: [{'text': text, 'label': text} for text in parts[split]])
    task = Task('mine', source, functools.partial(text_formats.from_template, inputs='{text}', targets='{label}'), ('accuracy',))
    assert task.classes == ('a', 'b')
    assert task.score(['b'], task.examples('validation'))['unparsed'] == 0
    assert task.score(['c'], task.examples('validation'))['unparsed'] == 1


def test_what_is_wrong_names_the_row(tmp_path):
    path = tmp_path / 't.tsv'
    path.write_text('text\tlabel\ngood\t1\nbad\t0\n')
    task = Task('mine', Files(str(path)), functools.partial(text_formats.from_template, inputs='{txt}', targets='{label}'), hold_out=False)
    with pytest.raises(UserError, match=r"task mine: .*t.tsv:2: template '{txt}': no column 'txt', did you mean 'text'"):
        task.examples('train')
    with pytest.raises(UserError, match=r"t.tsv:2: the row has no column 'sentence'"):
        Task('mine', Files(str(path)), classify, hold_out=False).examples('train')
    with pytest.raises(UserError, match='task mine has no test part, only train'):
        task.examples('test')
    with pytest.raises(UserError, match=r'train\[0\]: targets is 3, not a text'):
        made([{}], preprocess=lambda row: {'inputs': '', 'targets': 3}).examples('train')
    with pytest.raises(UserError, match='holds no example'):
        made([{}], preprocess=lambda row: []).examples('train')


def test_some_are_set_aside_where_there_is_no_validation():
    rows = [{'sentence': str(number), 'label': 0} for number in range(50)]
    task = Task('mine', Made(lambda split: rows, ('train',)), classify)
    train, held_out = task.examples('train', seed=1), task.examples('validation', seed=1)
    assert (len(train), len(held_out)) == (45, 5)
    assert sorted(example['inputs'] for example in train + held_out) == sorted(f'sst2 sentence: {number}' for number in range(50))
    assert held_out != task.examples('validation', seed=2)
    with pytest.raises(UserError, match='cannot be set aside'):
        task.examples('train', fraction=0.001)
    whole = Task('mine', Made(lambda split: rows, ('train',)), classify, hold_out=False)
    assert len(whole.examples('train')) == 50 and not whole.has('validation')


def test_published_files(tmp_path):
    """The forms that tasks/local.py reads."""

    def write(name, text):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith('.gz') else text.encode())

    write('train.tsv', 'a fine film\t1\na "dull one\t0\n')
    write('dev.tsv', 'what a film\t1\n')
    assert [example['targets'] for example in local.sst2(str(tmp_path)).examples('train')] == ['positive', 'negative']
    assert local.sst2(str(tmp_path)).examples('train')[1]['inputs'] == 'sst2 sentence: a "dull one'
    write('sts-train.csv.gz', 'g\tf\ty\t1\t2.55\tA man.\tA boy.\textra\ng\tf\ty\t2\t0.0\tX.\tY.\n')
    write('sts-dev.csv', 'g\tf\ty\t1\t5.000\tA.\tA.\n')
    task = local.stsb(str(tmp_path))
    assert [example['targets'] for example in task.examples('train')] == ['2.6', '0.0']
    assert task.examples('validation')[0]['inputs'] == 'stsb sentence1: A. sentence2: A.'
    for name, text in (('train.en.gz', 'One.\nTwo\u2028more.\n'), ('train.de.gz', 'Eins.\nZwei.\n'), ('val.en', 'Yes.\n'), ('val.de', 'Ja.')):
        write(name, text)
    task = local.translation(str(tmp_path), 'en', 'de')
    inputs = [example['inputs'] for example in task.examples('train')]
    assert inputs == ['translate English to German: One.', 'translate English to German: Two\u2028more.']
    assert task.score(['Ja.'], task.examples('validation'))['chrf'] == 100
    write('train.jsonl.gz', json.dumps({'source': ['First.', 'Second.'], 'target': ['S.', 'T.']}) + '\n')
    task = local.scitldr(str(tmp_path))
    task.hold_out = False
    assert task.examples('train') == [{'inputs': 'summarize: First. Second.', 'targets': 'S.', 'references': ['S.', 'T.']}]
    question = {'id': 'q', 'question': 'Who?', 'answers': [{'text': 'Bo', 'answer_start': 0}]}
    for name in ('train.json.gz', 'dev.json.gz'):
        write(name, json.dumps({'data': [{'title': 'T', 'paragraphs': [{'context': 'Bo ran.', 'qas': [question]}]}]}))
    assert local.squad(str(tmp_path)).examples('train')[0]['inputs'] == 'question: Who ? context: Bo ran . '
    span = local.squad(str(tmp_path), span=True)
    assert span.score(['start: 0 end: 0'], span.examples('validation'))['em'] == 100
    wrong = dict.fromkeys(('em', 'f1', 'exact_match'), 0.0) | {'unparsed': 1.0, 'unparsed_percent': 100.0}
    assert span.score(['Bo'], span.examples('validation')) == wrong
    for name in ('eng.train', 'eng.testa'):
        write(name, '-DOCSTART- -X- O O\n\nBo NNP I-NP I-PER\nran VB O O\n\nHi UH O O\n')
    task = local.conll2003(str(tmp_path))
    assert [example['targets'] for example in task.examples('train')] == ['PER: Bo', 'none']
    with pytest.raises(UserError, match=r'no train.fr in it, nor train.fr.gz'):
        local.translation(str(tmp_path), 'en', 'fr')


def test_questions_by_class(tmp_path):
    (tmp_path / 'train.tsv').write_text(''.join(f'NUM\tNUM:date\tWhen was {year} ?\n' for year in range(20)))
    task = local.trec(str(tmp_path))
    assert (len(task.examples('train')), len(task.examples('validation'))) == (18, 2)
    assert task.examples('validation')[0]['inputs'].startswith('trec question: When was ')
    assert local.trec(str(tmp_path), fine=True).classes == ('NUM:date',)


def test_broken_files(tmp_path):
    (tmp_path / 'a').write_text('1\n2\n')
    (tmp_path / 'b').write_text('1\n')
    with pytest.raises(UserError, match=r'a \(2 lines\) and .*b \(1 lines\) are not parallel'):
        Lines({'train': {'en': str(tmp_path / 'a'), 'de': str(tmp_path / 'b')}}).read('train')
    (tmp_path / 's.json').write_text('{"data": [{"title": "T"}]}')
    with pytest.raises(UserError, match='s.json: not a file of SQuAD 1.1'):
        SquadJson(str(tmp_path / 's.json')).read('train')
    (tmp_path / 's.json').write_text('{\n"data": [')
    with pytest.raises(UserError, match='s.json:2: not JSON'):
        SquadJson(str(tmp_path / 's.json')).read('train')
    with pytest.raises(UserError, match='a:1: .1. has no tag'):
        TaggedWords(str(tmp_path / 'a')).read('train')


def test_sums():
    task = synthetic.addition(2, 100, 50)
    train, validation = task.examples('train'), task.examples('validation')
    assert (len(train), len(validation)) == (100, 50)
    for example in train:
        first, second = example['inputs'].removeprefix('Q: What is ').removesuffix('?\nA:').split(' plus ')
        assert 0 <= int(first) < 100 and int(first) + int(second) == int(example['targets'])
    assert len({example['inputs'] for example in train + validation}) == 150, 'no sum twice'
    assert train == synthetic.addition(2, 100, 50).examples('train') != synthetic.addition(2, 100, 50, seed=1).examples('train')
    with pytest.raises(ValueError, match='100 different sums|there are 100'):
        synthetic.addition(1, 100, 1)


def test_the_likeliest_class_is_the_answer():
    task = made(ROWS)
    examples = task.examples('validation')
    found = task.score_choices([[-3, -1], [-1, -2], [-1, -9], [-4, -5]], examples)
    assert (found['accuracy'], found['f1'], found['auc_roc']) == (75.0, pytest.approx(200 / 3), 50.0)
    assert task.score_choices([[-3, -4], [-1, -2], [-1, -1.5], [-4, -5]], examples, lengths=[1, 2])['accuracy'] == 75
    with pytest.raises(UserError, match=r'task mine: scores \(4, 3\) of 4 examples with 2 classes'):
        task.score_choices([[0, 0, 0]] * 4, examples)


def test_average_of_a_benchmark():
    mixture = Mixture('b', {'one': 1, 'm': 0, 'mm': 0}, groups=(('m', 'mm'),))
    scores = {'one': {'f1': 10.0, 'accuracy': 20.0, 'unparsed': 7.0, 'unparsed_percent': 7.0}, 'm': {'accuracy': 30.0}, 'mm': {'accuracy': 50.0}}
    assert mixture.average(scores) == (15 + 40) / 2
    assert mixture.average({'one': scores['one'], 'm': scores['m']}) == (15 + 30) / 2


def test_builtin_tasks_format_their_rows():
    """Every classification task names its columns; formats are held in test_text_formats.py."""
    for task in builtin.BUILTIN:
        if isinstance(task, Task) and task.labels and task.name != 'super_glue_axb':
            row = {column: column.upper() for column in task.content} | {'label': len(task.labels) - 1, 'idx': 0, 'surplus': 'no'}
            found = task.preprocess(row)
            assert found['targets'] == task.labels[-1] and 'no' not in found['inputs'].split()
            assert all(f'{column}: {column.upper()}' in found['inputs'] for column in task.content)
    cb = next(task for task in builtin.SUPER_GLUE if task.name == 'super_glue_cb')
    assert cb.metrics == ('macro_f1', 'accuracy')


def test_multirc_and_record():
    tasks = {task.name: task for task in builtin.SUPER_GLUE}
    row = {'paragraph': 'p', 'question': 'q', 'answer': 'a', 'idx': {'paragraph': 0, 'question': 0, 'answer': 0}}
    rows = [row | {'label': label} for label in (1, 0)]
    task = tasks['super_glue_multirc']
    examples = [{'references': ['x'], **task.preprocess(row)} for row in rows]
    assert task.score(['True', 'False'], examples)['em'] == 100
    scores = task.score(['True', 'maybe'], examples)
    assert (scores['em'], scores['unparsed']) == (0, 1) and scores['f1a'] == pytest.approx(200 / 3)
    task = tasks['super_glue_record']
    examples = task.preprocess({'query': 'q', 'entities': ['A', 'B'], 'passage': 'p', 'answers': ['A', 'B'], 'idx': {'passage': 0, 'query': 0}})
    assert task.score(['B', 'wrong'], examples)['em'] == 100, 'each query once'
    task = tasks['super_glue_wsc']
    example = {'references': ['the cat'], 'inputs': '', 'targets': 'the cat', 'label': 1, 'idx': 0}
    assert task.score(['cat', 'the'], [example, example]) == {'accuracy': 50.0, 'unparsed': 1.0, 'unparsed_percent': 50.0}


@pytest.mark.parametrize(
    ('text', 'referent', 'same'),
    [
        ('a red ball', 'The ball', 1),
        ("Ann's ball", 'Ann', 0),
        ('ball', 'bat', 0),
        ('its', 'it', 0),
        ('', 'ball', None),
        (' the', 'ball', None),
        ("the twins'", 'the twins', 0),
        ("the twins' ball", 'twins', 0),
        ("the twins'", "those twins' ball", 1),
        ('ball.', 'ball', 0),  # punctuation stays
        ('red  ball', 'ball', 1),
    ],
)
def test_same_referent(text, referent, same):
    assert answers.same_referent(text, referent) == same


def test_numbers_and_spans_as_people_write_them():
    assert [answers.number(text) for text in ('3', ' 3.8\n', '10.', '1e2', '1_0', 'five', '')] == [3.0, 3.8, 10.0, 100.0, 10.0, None, None]
    assert str(answers.number('nan')) == 'nan'
    spans = {'start: 2 end: 3': (2, 3), 'start 2 end 3 or 4': (2, 3), 'from: 2 (to) 3': (2, 3), 'start: two end: 3': None, 'start: 2': None, '': None}
    assert {text: answers.span(text) for text in spans} == spans


def test_nothing_is_scored_against_what_is_not_published():
    rows = [{'sentence1': 'a', 'sentence2': 'b', 'label': -1}]
    task = made(rows, ('pearson',), (), text_formats.stsb)
    with pytest.raises(UserError, match='has no published answer'):
        task.score(['-1.0'], task.examples('train'))
    task = made([{'sentence': 'fine', 'label': 2}])
    with pytest.raises(UserError, match=r'task mine: train\[0\]: label 2 is no class; expected 0 \(negative\), 1 \(positive\)'):
        task.examples('train')


def test_translation_tasks_read_their_columns():
    assert len(builtin.WMT) == 2 * 40
    known = {task.name: task for task in builtin.WMT}
    found = known['wmt19_fr_de'].preprocess({'fr': 'Oui.', 'de': 'Ja.'})
    assert found == {'inputs': 'translate French to German: Oui.', 'targets': 'Ja.'}
    assert known['wmt16_tr_en'].source.name == 'wmt16_translate/tr-en' == known['wmt16_en_tr'].source.name
    assert known['wmt_t2t_en_de'].source.name == 'wmt_t2t_translate/de-en'
    assert not known['wmt19_en_zh'].has('test') and known['wmt18_en_zh'].has('test')
    for task in builtin.WMT:
        assert task.preprocess({code: code for code in task.name.split('_')[-2:]})['targets'] == task.name[-2:]


def test_the_file_that_local_describes(tmp_path, monkeypatch):
    """The docstring's file of tasks, run as it stands."""
    monkeypatch.setattr(registry, '_KNOWN', dict(registry._KNOWN))
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data' / 'sst2').mkdir(parents=True)
    (tmp_path / 'data' / 'stsb').mkdir()
    (tmp_path / 'data' / 'sst2' / 'train.tsv').write_text('good\t1\nbad\t0\n')
    for name in ('sts-train.csv', 'sts-dev.csv'):
        (tmp_path / 'data' / 'stsb' / name).write_text('g\tf\ty\t1\t2.5\tA.\tB.\n')
    lines = [line.removeprefix('    ') for line in local.__doc__.splitlines() if line.startswith('    ')]
    (tmp_path / 'my_tasks.py').write_text('\n'.join(lines))
    registry.load(['my_tasks.py'])
    assert [task.name for task in registry.tasks_of(['both'])] == ['sst2', 'stsb']


@pytest.mark.parametrize('ending, separator', [('csv', ','), ('tsv', '\t')])
def test_a_header_is_known_by_what_the_templates_name(tmp_path, ending, separator):
    rows = [('en', 'de'), ('A dog.', 'Ein Hund.'), ('A cat.', 'Eine Katze.'), ('Two men.', 'Zwei Herren.')]
    path = tmp_path / f'sentences.{ending}'
    path.write_text(''.join(separator.join(row) + '\n' for row in rows))

    def examples(inputs, targets):
        return builtin.of_table('', str(path), inputs, targets, ('bleu',)).examples('validation')

    assert examples('translate: {en}', '{de}')[0] == {'inputs': 'translate: A dog.', 'targets': 'Ein Hund.', 'references': ['Ein Hund.']}
    assert len(examples('{en}', '{de}')) == 3 and len(examples('{0}', '{1}')) == 4
    with pytest.raises(UserError, match="no header with a column 'fr'; its first row is 'en . de'"):
        examples('{en}', '{fr}')
