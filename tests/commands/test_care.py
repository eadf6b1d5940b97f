"""Early stopping, the best checkpoint, warnings and the learning-rate finder, from the command line."""

import json
import re
import shutil

import numpy as np
import pytest

from t5x_lite import finding_rates
from t5x_lite.assemble import assemble
from t5x_lite.config import ModelConfig
from t5x_lite.interop import conversion
from t5x_lite.training import checkpoint
from tests.commands import forked, material


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('care')
    shutil.copytree(material.PRETRAINED, place / 'hf')
    material.table(place / 'reviews.tsv', material.reviews(40))
    return place


def flags(place, name, *more):
    return (
        '--config=configs/classify.py', f'--config.init_from={place}/hf', f'--config.data.train={place}/reviews.tsv', '--config.data.seq_len=16',
        '--config.batch_size=8', '--config.eval.batch_size=8', '--config.data.length_buckets=()', '--config.data.baselines=False',
        '--config.log.tensorboard=False', *more, f'--workdir={place}/{name}',
    )  # fmt: skip


@pytest.fixture(scope='module')
def stopped(place):
    """A run that learns its table in no time, and then gets no better."""
    early = ('--config.epochs=40', '--config.eval.every_epochs=0.5', '--config.checkpoint.best_metric=accuracy', '--config.eval.patience=3')
    return forked.run('train', *flags(place, 'early', *early, '--config.optim.learning_rate=3e-3', '--config.checkpoint.keep_last=1')).success


def scores_of(run):
    lines = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    return {line['step']: line['eval/accuracy'] for line in lines if 'eval/accuracy' in line}


def warned_of(said):
    return [line.removeprefix('warning: ') for line in said.splitlines() if line.startswith('warning: ')]


def test_a_run_stops_early_and_its_best_checkpoint_is_used(place, stopped):
    run = place / 'early'
    scores = scores_of(run)
    best, last = max(scores, key=scores.get), max(scores)
    step = json.loads((run / 'config.json').read_text())['eval']['every_steps']
    assert sorted(scores) == list(range(step, last + 1, step)), 'two evaluations an epoch'
    assert f'stopped early, at step {last}: no better accuracy in 3 evaluations; the best accuracy is {scores[best]:.4g}, of step {best}, which' in stopped
    assert last == best + 3 * step
    assert sorted(int(path.name) for path in (run / 'checkpoints').iterdir() if path.name.isdigit()) == [best, last]
    again = forked.run('train', '--config', str(run / 'config.json'), f'--workdir={run}').success
    assert f'finished: {run} has stopped early, at step {last}' in again

    for flag, taken in (((), best), (('--step=best',), best), (('--step=newest',), last), ((f'--step={last}',), last)):
        said = forked.run('evaluate', f'--workdir={run}', *flag)
        assert said.status == 0 and f'at step {taken} ' in said.out
        assert json.loads((run / 'evaluation.json').read_text())['accuracy'] == pytest.approx(scores[taken], abs=1e-6)
        assert said.err == ('' if flag else f'{run}: step {best} is taken, the best by accuracy ({scores[best]:.4g}); the newest, step {last}, is {run}/checkpoints/newest\n')
    said = forked.run('predict', f'--workdir={run}', '--text=good 3 of a kind')
    assert said.status == 0 and f'step {best} is taken' in said.err
    for wrong, words in (('bset', '--step=bset is no step; there are those of'), ('1', f'has no checkpoint of step 1; there are those of {best}, {last}, and best and newest')):
        assert words in forked.run('predict', f'--workdir={run}', '--text=good', f'--step={wrong}').error


def test_unfreezing_by_epoch(place):
    field = "--config.tune.unfreeze=((1.0, 'encoder/.*', 0.5),)"
    unfreezing = ('--config.epochs=2', '--config.tune.train=classifier/.*,', field, '--config.tune.unfreeze_by_epoch')
    said = forked.run('train', *flags(place, 'by_epoch', *unfreezing)).success
    config = json.loads((place / 'by_epoch' / 'config.json').read_text())
    first = round(config['steps'] / 2)
    assert config['tune']['unfreeze'][0][0] == first and not config['tune']['unfreeze_by_epoch']
    assert f'from step {first + 1} on ' in said
    again = forked.run('train', *flags(place, 'by_epoch', *unfreezing)).success
    assert 'finished: all' in again, 'the same flags are the same run'


def test_held_out_rows_that_may_have_been_learnt_from(place, stopped):
    """With a row more, others are set aside by seed; a file that has only moved is the same."""
    rows = (place / 'reviews.tsv').read_text()
    for name, text in (('moved', rows), ('grown', rows + 'good 9 of a kind\tpos\n')):
        (place / f'{name}.tsv').write_text(text)
    asked = ('evaluate', f'--workdir={place}/early', '--step=newest', '--resamples=0')
    for flag, warned in ((f'train={place}/moved.tsv', False), (f'train={place}/grown.tsv', True), (f'validation={place}/grown.tsv', False)):
        assert ('warning: rows are held out by seed, and the files' in forked.run(*asked, f'--config.data.{flag}').success) is warned, flag


def test_what_begins_from_it_begins_from_the_best(place, stopped):
    run = place / 'early'
    scores = scores_of(run)
    best, last = max(scores, key=scores.get), max(scores)
    by_step = {step: checkpoint.load_params(str(run / 'checkpoints' / str(step)))[1]['classifier']['kernel'] for step in (best, last)}
    assert not np.array_equal(by_step[best], by_step[last])
    for path, step in ((run, best), (run / 'checkpoints' / 'newest', last), (run / 'checkpoints' / 'best', best)):
        config = material.changed(assemble_config(place), init_from=str(path))
        begun = assemble(config)
        np.testing.assert_array_equal(begun.initial['classifier']['kernel'], by_step[step])
        assert bool(begun.notes) == (path == run)
    out = forked.run('convert', f'--input={run}', f'--output={place}/best_hf', '--format=hf').success
    assert f'step {best} is taken' in out
    forked.run('convert', f'--input={run}', f'--output={place}/last_hf', '--format=hf', '--step=newest').success
    for name, step in (('best_hf', best), ('last_hf', last)):
        conversion.to_native(str(place / name), str(place / f'{name}_native'))
        kernel = checkpoint.load_params(str(place / f'{name}_native'))[1]['classifier']['kernel']
        np.testing.assert_array_equal(kernel, by_step[step])


def assemble_config(place):
    from configs import classify

    return material.changed(classify.get_config(), data__train=str(place / 'reviews.tsv'), data__seq_len=16, data__length_buckets=(), init_fresh=())


def test_dropout_is_the_run_s_own_whatever_weights_say(place):
    """A Hugging Face config has hidden_dropout_prob 0.1 and the like; fields and flags decide."""
    fields = json.loads((place / 'hf' / 'config.json').read_text())
    fields |= {'hidden_dropout_prob': 0.4, 'attention_probs_dropout_prob': 0.4}
    shutil.copytree(place / 'hf', place / 'other_hf')
    (place / 'other_hf' / 'config.json').write_text(json.dumps(fields))
    for model in (ModelConfig().dropout, 0.0, 0.33):
        config = material.changed(assemble_config(place), init_from=str(place / 'other_hf'), init_fresh=('classifier/.*', 'encoder/pooler/.*'))
        config.model.dropout = config.model.attention_dropout = config.model.hidden_dropout = model
        complete = assemble(config).config.model
        assert (complete.dropout, complete.attention_dropout, complete.hidden_dropout) == (model,) * 3 and complete.num_layers == 2
    said = forked.run('train', *flags(place, 'dry', '--dry_run', '--config.model.dropout=0.27', '--config.model.attention_dropout=0.0')).success
    assert '--config.model.dropout=0.27' in said and '--config.model.attention_dropout=0.0' in said


def test_a_run_at_a_rate_out_of_all_measure_is_warned_of_and_once(place):
    bad = ('--config.epochs=8', '--config.optim.learning_rate=0.3', '--config.eval.every_steps=8', '--config.optim.warmup_fraction=0.0')
    foretold = warned_of(forked.run('train', *flags(place, 'bad', *bad, '--dry_run')).success)
    assert foretold[0].startswith('learning rate: ') and not (place / 'bad').exists()
    said = forked.run('train', *flags(place, 'bad', *bad)).success
    written = (place / 'bad' / 'warnings.txt').read_text().splitlines()
    assert sorted(warned_of(said)) == sorted(written) and set(foretold) <= set(written)
    kinds = [line.partition(':')[0] for line in written]
    assert len(set(kinds)) == len(kinds) and 'learning rate' in kinds and {'diverging', 'one class'} & set(kinds), written
    assert 'learning rate: 0.3 for pretrained weights is beyond 0.00588 (Devlin' in '\n'.join(written)


def test_a_vocabulary_that_does_not_match_is_warned_of(place):
    material.table(place / 'russian.tsv', [(f'{word} очень интересная книга {number}', label) for number in range(40) for word, label in (('это', 'pos'), ('не', 'neg'))])
    given = flags(place, 'russian', f'--config.data.train={place}/russian.tsv', '--config.epochs=1', '--config.optim.learning_rate=1e-5')
    foretold = warned_of(forked.run('train', *given, '--dry_run').success)
    said = forked.run('train', *given).success
    assert 'warning: vocabulary: the tokenizer does not fit the text: ' in said and 'of its pieces are unknown' in said
    written = (place / 'russian' / 'warnings.txt').read_text().splitlines()
    known = [line for line in written if not line.startswith('one class: ')]  # so little is learnt that this may come at the end
    assert [line.partition(':')[0] for line in known] == ['vocabulary'] and foretold == known


def test_the_learning_rate_finder(place, stopped):
    """In a folder of its own, and in that of a run, which stays as it is."""
    run = place / 'early'
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    said = forked.run('train', *flags(place, 'early', '--find_learning_rate', '--find_steps=120', '--config.log.console_seconds=0')).success
    assert re.search(r'\nstep \d+/120  loss \S+  lr \S+  ', said), said
    assert '120 steps at learning rates from 1e-07 to 1' in said and re.search(r'the loss falls most steeply at \S+ and is lowest at', said), said
    lines = [json.loads(line) for line in (run / finding_rates.CURVE).read_text().splitlines()]
    assert 60 < len(lines) <= 120 and lines[0]['learning_rate'] == pytest.approx(1e-7) and {'step', 'loss', 'smoothed', 'learning_rate'} == lines[0].keys()
    assert all(path.read_bytes() == content for path, content in before.items())
    new = {path.name for path in run.rglob('*') if path.is_file()} - {path.name for path in before}
    assert finding_rates.CURVE in new <= {finding_rates.CURVE, finding_rates.PICTURE}
    assert 'give --config.data.path=DIR or --config.data.train=FILE' in forked.run(
        'train', '--config=configs/bert.py:tiny', f'--workdir={place}/none', '--find_learning_rate'
    ).error
