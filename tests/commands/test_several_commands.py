"""Several heads from the first command to the last: trained together, gone on with, repeated, scored, asked, begun from; and mistakes in one line."""

import dataclasses
import json
import shlex
import shutil

import pytest

from t5x_lite import cli, dry_run
from t5x_lite.assemble import assemble, load_for_use
from t5x_lite.config_values import differences, flatten, from_json
from t5x_lite.errors import UserError
from t5x_lite.interop import bases
from t5x_lite.training import checkpoint, paths
from t5x_lite.training.telemetry import TIMING
from tests import several_material
from tests.commands import forked, material

SMALL = (
    '--config.batch_size=8', '--config.eval.batch_size=8', '--config.epochs=1', f'--config.init_from={material.PRETRAINED}', '--config.log.tensorboard=False',
    '--config.log.every_steps=3', '--config.checkpoint.every_steps=4', '--config.checkpoint.keep_last=9', '--config.optim.learning_rate=1e-3',
)  # fmt: skip


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('several')
    several_material.files(place)
    return place


def flags(place):
    short = [f'--config.heads.{name}.data.{field}' for name in ('mood', 'tags', 'spans') for field in ('seq_len=32', 'length_buckets=()')]
    return (
        '--config=configs/several.py', *SMALL, '--config.heads.mood=configs/classify.py', f'--config.heads.mood.data.train={place}/mood.tsv',
        f'--config.heads.tags.data.train={place}/train.conll', f'--config.heads.tags.data.validation={place}/dev.conll', '--config.heads.tags=configs/ner.py',
        '--config.heads.tags.model.crf', '--config.heads.tags.weight=0.5', '--config.heads.spans', 'configs/squad.py',
        f'--config.heads.spans.data.train={place}/spans.json', '--config.heads.spans.data.max_question=8', '--config.checkpoint.best_metric=tags/f1', *short,
    )  # fmt: skip


@pytest.fixture(scope='module')
def said(place):
    return forked.run('train', *flags(place), f'--workdir={place}/run').success


def params_of(run):
    return paths.leaves(bases.Weights().run(str(run))[1])


def lines_of(run):
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]


def assert_same(ours, theirs):
    one, other = params_of(ours), params_of(theirs)
    assert one.keys() == other.keys() and all(one[path].tobytes() == other[path].tobytes() for path in one)
    assert lines_of(ours) == lines_of(theirs)


def test_what_is_said_and_written(place, said):
    assert 'mood: 3 labels: bad (' in said and 'mood: baseline, majority: ' in said and "tags: baseline, each word's most frequent tag: " in said
    assert 'at random: encoder/pooler' not in said and 'at random: heads/mood, heads/spans, heads/tags' in said
    config = from_json(str(place / 'run' / 'config.json'))
    heads = {head.name: head for head in config.heads}
    assert heads['mood'].data.labels == ('bad', 'fair', 'good') and heads['mood'].model.num_labels == 3
    assert heads['tags'].model.crf and heads['tags'].weight == 0.5 and heads['tags'].model.num_labels == 5 and heads['tags'].metric == 'f1'
    assert config.model.body == 'bert_flax.bert:Bert' and config.steps == round((36 + 24 + 11) / 8)
    last = lines_of(place / 'run')[-1]
    assert {'eval/mood/accuracy', 'eval/mood/cross_entropy', 'eval/tags/f1', 'eval/tags/crf_loss', 'eval/spans/em', 'eval/average'} <= last.keys()
    average = (last['eval/mood/accuracy'] + last['eval/tags/f1'] + last['eval/spans/f1'] / 100) / 3
    assert last['eval/average'] == pytest.approx(average)
    learnt = [line for line in lines_of(place / 'run') if 'loss' in line]
    assert learnt and all(line['share/mood'] + line['share/tags'] + line['share/spans'] == pytest.approx(1) for line in learnt)


def test_gone_on_with_and_repeated_it_is_the_same(place, said):
    shutil.copytree(place / 'run', place / 'again')
    _, newest = checkpoint.locate(str(place / 'again'))
    shutil.rmtree(place / 'again' / 'checkpoints' / str(newest))
    assert f'resumed {place}/again from step 8' in forked.run('train', *flags(place), f'--workdir={place}/again').success
    assert_same(place / 'again', place / 'run')
    forked.run('train', f'--config={place}/run/config.json', f'--workdir={place}/repeated').success
    assert_same(place / 'repeated', place / 'run')


def test_scored_and_asked_by_head(place, said):
    lines = forked.run('evaluate', f'--workdir={place}/run').success.splitlines()
    shown = dict(line.split()[:2] for line in lines if line.startswith('  ') and '/' in line or line.startswith('  average'))
    last = lines_of(place / 'run')[-1]
    for name in ('mood/accuracy', 'tags/f1', 'spans/f1', 'average'):
        assert float(shown[name]) == pytest.approx(last[f'eval/{name}'], abs=1e-3), name
    record = json.loads((place / 'run' / 'evaluation.json').read_text())
    assert set(record['by_class']) == {'mood', 'tags'} and set(record['by_class']['mood']) == {'bad', 'fair', 'good'}
    low, high = record['intervals']['mood/accuracy']
    assert low <= record['mood/accuracy'] <= high
    one = forked.run('predict', f'--workdir={place}/run', '--text=the cat', '--head=mood').success.splitlines()
    assert one[0] == 'the cat' and {line.split()[0] for line in one[1:]} == {'bad', 'fair', 'good'}
    refused = forked.run('predict', f'--workdir={place}/run', '--text=the cat').error
    assert 'head spans: 1 texts in' in refused and '--head=NAME asks one head alone' in refused
    assert "--head=mod: no head 'mod', did you mean 'mood'?" in forked.run('predict', f'--workdir={place}/run', '--text=the cat', '--head=mod').error


def test_begun_from_each_other_and_asked_side_by_side(place, said):
    """A run of one head from that of several, and one of two heads from that."""
    train = ('--config=configs/classify.py', f'--config.data.train={place}/mood.tsv', '--config.data.seq_len=32', '--config.data.length_buckets=()')
    found = forked.run('train', *train, *SMALL, f'--config.init_from={place}/run', f'--workdir={place}/single').success
    assert f'weights from {place}/run; at random: classifier/bias, classifier/kernel\n' in found
    both = [flag for flag in flags(place) if 'spans' not in flag and flag != 'configs/squad.py']
    found = forked.run('train', *both, f'--config.init_from={place}/single', f'--workdir={place}/two').success
    assert f'weights from {place}/single; at random: heads/mood, heads/tags\n' in found
    (place / 'texts.txt').write_text('the cat\na man red\n')
    forked.run('predict', f'--workdir={place}/two', f'--input={place}/texts.txt', f'--output={place}/answers.jsonl').success
    answers = [json.loads(line) for line in (place / 'answers.jsonl').read_text().splitlines()]
    assert [answer['text'] for answer in answers] == ['the cat', 'a man red']
    assert all('label' in answer['heads']['mood'] and len(answer['heads']['tags']['words']) == len(answer['text'].split()) for answer in answers)


def parsed(*flags):
    cli._joined(['train', *flags])
    return cli._load_config('configs/several.py')


BEGUN = ('--config.heads.mood=configs/classify.py', '--config.heads.tags=configs/ner.py')
FLAGS = [
    (('--config.heads=x',), ('--config.heads are several', '--config.heads.NAME=configs/FILE.py')),
    (('--config.heads.mood=configs/clasify.py',), ('--config.heads.mood=configs/clasify.py: no such file', "did you mean 'configs/classify.py'?")),
    (('--config.heads.mood.data.train=x',), ("--config.heads.mood.data.train: there is no head 'mood' yet", '--config.heads.mood=configs/FILE.py')),
    ((*BEGUN, '--config.heads.tag.weight=2'), ("--config.heads.tag.weight: no head 'tag'", "did you mean 'tags'?")),
    ((*BEGUN, '--config.heads.tags.data.trian=x'), ('--config.heads.tags.data.trian: no such field', "did you mean 'train'?")),
    ((*BEGUN, '--config.heads.tags.weight=much'), ('--config.heads.tags.weight=much: expected a number',)),
    ((*BEGUN, '--config.heads.tags.weight=True'), ('--config.heads.tags.weight is True; expected a number',)),
    ((*BEGUN, '--config.heads.tags.model.crf=maybe'), ('expected True or False',)),
    ((*BEGUN, '--config.heads.tags.model.pooling=man'), ('--config.heads.tags.model.pooling', "did you mean 'mean'?")),
    ((*BEGUN, '--config.heads.tags.model.d_model=8'), ('--config.heads.tags.model.d_model: no such field',)),
]


@pytest.mark.parametrize('flags, words', FLAGS, ids=lambda case: case[-1] if isinstance(case[0], str) else '')
def test_flags_that_cannot_be(flags, words):
    material.refused(words, parsed, *flags)


def test_flags_of_every_type():
    config = parsed(
        *BEGUN, '--config.heads.mood.data.text_columns=a,b', '--config.heads.mood.model.pooling=mean', '--config.heads.tags.weight=2',
        '--noconfig.heads.tags.data.every_piece', '--config.heads.tags.model.crf', '--config.heads.mood.data.length_buckets=(8, 16)',
    )  # fmt: skip
    mood, tags = config.heads
    assert mood.data.text_columns == ('a', 'b') and mood.model.pooling.name == 'mean' and mood.data.length_buckets == (8, 16)
    assert (tags.weight, tags.model.crf, tags.data.every_piece, tags.metric) == (2.0, True, False, 'f1')
    written = flatten(config)
    assert written['heads.tags.weight'] == 2.0 and written['heads.mood.data.text_columns'] == ['a', 'b'] and 'heads.mood.name' not in written
    changed = parsed(*BEGUN, '--config.heads.mood.data.train=elsewhere')
    assert not differences(changed, parsed(*BEGUN)), 'where files lie may differ'
    assert differences(parsed(*BEGUN, '--config.heads.mood.weight=2'), parsed(*BEGUN)) == ['heads.mood.weight (1.0 there, 2.0 here)']


def test_a_config_written_as_flags_is_the_same():
    config = parsed(*BEGUN, '--config.heads.tags.model.crf', '--config.heads.mood.data.text_columns=a', '--config.heads.mood.data.length_buckets=(8, 16)')
    written = [shlex.split(flag)[0] for flag in dry_run.as_flags(config) if flag.startswith('--config.heads.')]
    assert written and parsed(*written).heads == config.heads


def with_flags(place, *more):
    cli._joined(['train', *flags(place), *more])
    config = cli._load_config('configs/several.py')
    config.batch_size, config.init_from = 8, str(material.PRETRAINED)
    return config


MISTAKES = [
    (('--config.heads.tags.weight=0',), ('config.heads.tags.weight is 0.0; it must be above 0',)),
    (('--config.heads.tags.weight=-1',), ('config.heads.tags.weight is -1.0',)),
    (('--config.heads.tags.rate=2',), ('config.heads.tags.rate is 2.0, and config.mix.rates proportional', '--config.mix.rates=given')),
    (('--config.heads.tags.name=mood',), ('two heads have the name mood',)),
    (('--config.heads.tags.name=a/b',), ("'a/b' cannot be a name",)),
    (('--config.heads.tags.name=layers',), ("'layers' cannot be a name",)),
    (('--config.heads.tags.data.train=',), ('--config.heads.tags.data.train is empty; give the file to learn from',)),
    (('--config.heads.tags.data.train=gone.conll',), ('head tags: ', 'gone.conll')),
    (('--config.heads.mood.data.layout=decoder',), ('config.heads.mood.data.layout: one body reads the rows of all heads', '--config.data.layout')),
    (('--config.heads.mood.data.tokenizer=x',), ('config.heads.mood.data.tokenizer: one body reads',)),
    (('--config.heads.mood.data.seq_len=64',), ('config.heads.mood.data.seq_len: sequences of 64', 'config.model.max_positions=32')),
    (('--config.heads.mood.model.crf=True',), ('config.heads.mood.model.crf scores the tags of tokens together',)),
    (('--config.heads.mood.loss=a:B',), ("config.heads.mood.loss 'a:B'",)),
    (('--config.heads.mood.data.source=',), ('config.heads.mood.data.source is empty',)),
]


@pytest.mark.parametrize('more, words', MISTAKES, ids=lambda case: case[0].partition('heads.')[2] if case[0].startswith('--') else '')
def test_mistakes(place, more, words):
    def complete():
        dry_run.check(assemble(with_flags(place, *more)))

    material.refused(words, complete)


def test_mistakes_of_the_whole(place, said):
    config = with_flags(place)
    material.refused(('config.data.train is of one head', '--config.heads.mood.data.train'), assemble, _with_data(config, train='x'))
    material.refused(('config.data.layout=decoder, and', 'reads encoder'), assemble, _with_data(config, layout=type(config.data.layout).decoder))
    material.refused(('config.heads is empty',), assemble, dataclasses.replace(config, heads=()))
    alone = dataclasses.replace(config.model, module='t5x_lite.models.heads:SequenceHead')
    material.refused(('config.heads names mood, tags, spans', 'is one model'), assemble, dataclasses.replace(config, model=alone))
    run = from_json(str(place / 'run' / 'config.json'))
    run.heads[0].name = 'mod'
    with pytest.raises(UserError, match="config.heads.mod: no head 'mod', did you mean 'mood'?"):
        load_for_use(run, str(place / 'run'), None)


def _with_data(config, **fields):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def test_a_metric_that_is_none_is_refused_before_training(place):
    wrong = (*flags(place), f'--workdir={place}/never')
    assert "best_metric=tags/f is not a held-out metric of this run; did you mean 'tags/f1'?" in forked.run(
        'train', *wrong, '--config.checkpoint.best_metric=tags/f'
    ).error
    assert 'config.heads.mood.metric=acuracy is not among its scores' in forked.run('train', *wrong, '--config.heads.mood.metric=acuracy').error
    assert not (place / 'never').exists()


def test_a_head_that_gets_no_batch_is_warned_of_and_the_run_goes_on(place, said):
    assert 'learns nothing' not in said
    rates = ('--config.mix.rates=given', '--config.heads.tags.rate=0.001', '--config.log.every_steps=1')
    shown = forked.run('train', *flags(place), *rates, f'--workdir={place}/silent').success
    warning = 'head tags: its share of the batches is 0.05%, and none of the 9 of this run is of it: it learns nothing; give it more '
    assert shown.count(f'warning: {warning}') == 1 and 'finished 9 steps' in shown
    assert (place / 'silent' / 'warnings.txt').read_text().count(warning) == 1
    last = lines_of(place / 'silent')[-1]
    assert 0 <= last['eval/tags/f1'] <= 1 and not any('warning: head' in line for line in said.splitlines())
    assert f'warning: {warning}' in forked.run('train', *flags(place), *rates, '--dry_run').success
