"""Adapters from the first command to the last: trained, stopped, gone on with, scored, asked, begun from, merged; and checkpoints that hold only them."""

import json
import shutil

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest

from t5x_lite.interop import bases, conversion, folder
from t5x_lite.training import adapters, checkpoint, paths
from tests.commands import forked, material

LORA = '--config.tune.lora=((".*/attention/(query|value)", 4, 8.0),)'
PFEIFFER = ('--config.tune.adapters=pfeiffer', '--config.tune.adapter_size=4')


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """A pretrained folder, the same as a run of ours, and a table."""
    place = tmp_path_factory.mktemp('adapters')
    shutil.copytree(material.PRETRAINED, place / 'hf')
    conversion.to_native(str(place / 'hf'), str(place / 'native'))
    material.table(place / 'reviews.tsv', material.reviews(16))
    return place


def flags(place, name, *more, base='hf'):
    return (
        '--config=configs/classify.py', f'--config.init_from={place}/{base}', f'--config.data.train={place}/reviews.tsv', '--config.data.seq_len=16',
        '--config.epochs=1', '--config.batch_size=8', '--config.eval.batch_size=8', '--config.data.length_buckets=()', '--config.checkpoint.every_steps=2',
        '--config.optim.learning_rate=1e-2', '--config.log.tensorboard=False', *more, f'--workdir={place}/{name}',
    )  # fmt: skip


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def params_of(run):
    return paths.leaves(bases.Weights().run(str(run))[1])


def held(run):
    """The parameters in the newest checkpoint of a run."""
    workdir, step = checkpoint.locate(str(run))
    return paths.leaves(ocp.checkpointables_metadata(f'{workdir}/checkpoints/{step}').metadata['params']).keys()


@pytest.fixture(scope='module')
def lora(place):
    """What training said, from a Hugging Face folder."""
    return forked.run('train', *flags(place, 'lora', LORA)).success


def test_a_checkpoint_holds_what_learns_alone_and_the_run_is_used_as_any(place, lora):
    (said,) = [line for line in lora.splitlines() if line.startswith(f'weights from {place}/hf; at random: ')]
    assert said.endswith('; added: lora_a, lora_b, lora_scale in encoder/layers') and said.count('encoder/layers') == 1
    assert {path.split('/')[0] for path in held(place / 'lora') if not adapters.is_added(path)} == {'classifier', 'encoder'}
    assert {path for path in held(place / 'lora') if path.startswith('encoder/') and not adapters.is_added(path)} == {
        'encoder/pooler/kernel', 'encoder/pooler/bias'
    }, 'the head alone is new, and the pooler, which the folder may lack'  # fmt: skip
    base = paths.leaves(folder.load(str(place / 'hf'))[1])
    params = params_of(place / 'lora')
    for path in params.keys() & base.keys():
        assert path.startswith('encoder/pooler/') or params[path].tobytes() == base[path].tobytes(), path
    scores = forked.run('evaluate', f'--workdir={place}/lora').success
    assert 'accuracy' in scores
    said = [line for line in lora.splitlines() if line.startswith('held out at step')][-1]
    accuracy = float(said.split('accuracy ')[1].split()[0])
    assert json.loads((place / 'lora' / 'evaluation.json').read_text())['accuracy'] == pytest.approx(accuracy, abs=1e-3)
    assert '%' in forked.run('predict', f'--workdir={place}/lora', '--text=good 3 of a kind').success


def test_killed_and_repeated_it_ends_as_one_left_alone(place, lora):
    """Without its newest checkpoints, as after a kill. (Kills inside a save are in tests/training/test_resume.py.)"""
    train = ('train', *flags(place, 'again', LORA, '--config.checkpoint.keep_last=9', '--config.ema_decay=0.5'))
    forked.run(*train).success
    ours = params_of(place / 'again')
    _, newest = checkpoint.locate(str(place / 'again'))
    shutil.rmtree(place / 'again' / 'checkpoints' / str(newest))
    assert f'resumed {place}/again from step' in forked.run(*train).success
    again = params_of(place / 'again')
    assert all(again[path].tobytes() == ours[path].tobytes() for path in ours)


def test_whole_checkpoints_hold_the_same_and_a_run_may_change_to_them(place, lora):
    train = ('train', *flags(place, 'whole', LORA, '--config.checkpoint.keep_last=9'))
    forked.run(*train).success
    _, newest = checkpoint.locate(str(place / 'whole'))
    learnt_alone = bytes_of(place / 'whole' / 'checkpoints' / str(newest))
    shutil.rmtree(place / 'whole' / 'checkpoints' / str(newest))
    assert 'resumed' in forked.run(*train, '--config.checkpoint.whole=yes').success
    ours, theirs = params_of(place / 'lora'), params_of(place / 'whole')
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in theirs)
    assert held(place / 'whole') == theirs.keys() > held(place / 'lora')
    assert learnt_alone < 0.7 * bytes_of(place / 'whole' / 'checkpoints' / str(newest))


def test_a_folder_from_elsewhere_is_no_run(place, lora):
    said = forked.run('predict', f'--workdir={place}/hf', f'--adapter={place}/lora', '--text=good').error
    assert f'{place}/hf/config.json is of a Hugging Face folder, not of a run; make a run of it with' in said and 'one of the runs that learnt' in said


def test_another_adapter_in_the_same_workdir_is_refused(place, lora):
    for other in (LORA.replace('4, 8.0', '2, 8.0'), *PFEIFFER[:1], '--config.tune.ia3'):
        assert 'holds another run; it differs in tune.' in forked.run('train', *flags(place, 'lora', other)).error


def test_begun_from_a_run_with_adapters(place, lora):
    same = forked.run('train', *flags(place, 'on', LORA, base='lora')).success
    assert f'the adapters of {place}/lora go on learning' in same
    on, before = params_of(place / 'on'), params_of(place / 'lora')
    assert on.keys() == before.keys()
    a = 'encoder/layers/attention/query/lora_b'
    assert not np.array_equal(on[a], before[a]) and np.abs(on[a] - before[a]).max() < np.abs(before[a]).max() * 3
    merged = forked.run('train', *flags(place, 'full', base='lora')).success
    assert f'the adapters of {place}/lora are merged into its weights' in merged
    assert not any(map(adapters.is_added, params_of(place / 'full')))
    other = forked.run('train', *flags(place, 'other', '--config.tune.ia3', base='lora')).success
    assert 'are merged into its weights' in other
    params, expected = params_of(place / 'other'), paths.leaves(adapters.merged(paths.nested(before)))
    kernel = 'encoder/layers/attention/query/kernel'
    assert params[kernel].tobytes() == expected[kernel].tobytes() and not any('/lora_' in path for path in params)


def test_converted_it_is_merged(place, lora):
    forked.run('convert', f'--input={place}/lora', f'--output={place}/out', '--format=hf').success
    params = paths.leaves(folder.load(str(place / 'out'))[1])
    expected = paths.leaves(adapters.merged(paths.nested(params_of(place / 'lora'))))
    kernel = 'encoder/layers/attention/query/kernel'
    np.testing.assert_array_equal(params[kernel], expected[kernel])
    assert 'classifier/kernel' in params and not any(path.startswith('mlm/') for path in params), 'what the base had beside it stays there'


def test_what_was_merged_is_taken_out_again(place, lora):
    forked.run('convert', f'--input={place}/lora', f'--output={place}/merged', '--format=hf').success
    forked.run('convert', f'--input={place}/merged', f'--output={place}/restored', '--format=native', f'--unmerge={place}/lora').success
    base, merged, found = (paths.leaves(bases.Weights().initial(f'{place}/{name}')[1]) for name in ('hf', 'merged', 'restored'))
    kernel = 'encoder/layers/attention/query/kernel'
    assert np.abs(merged[kernel] - base[kernel]).max() > 1e-4
    for path in base.keys() & found.keys() - {'encoder/pooler/kernel', 'encoder/pooler/bias'}:  # that learnt
        np.testing.assert_allclose(found[path], base[path], atol=1e-6, err_msg=path)
    said = forked.run('convert', f'--input={place}/merged', f'--output={place}/never', '--format=native', f'--unmerge={place}/native').error
    assert f'--unmerge={place}/native: it has no adapters' in said


def test_bottlenecks_are_not_converted_nor_left_behind(place):
    forked.run('train', *flags(place, 'pfeiffer', *PFEIFFER, base='native')).success
    assert 'a bottleneck adapter is not linear and cannot be merged' in forked.run(
        'convert', f'--input={place}/pfeiffer', f'--output={place}/never', '--format=hf'
    ).error
    said = forked.run('train', *flags(place, 'never', base='pfeiffer')).error
    assert f'config.init_from={place}/pfeiffer has other adapters than config.tune' in said and 'cannot be merged' in said
    assert not (place / 'never').exists()


def test_a_base_that_is_gone_or_another(place, lora):
    base = place / 'gone'
    shutil.copytree(place / 'hf', base)
    forked.run('train', *flags(place, 'child', LORA, base='gone')).success
    shutil.move(base, place / 'moved')
    for command in (('evaluate',), ('predict', '--text=good')):
        assert f'{base}, which are gone' in forked.run(*command, f'--workdir={place}/child').error
    gone = forked.run('train', *flags(place, 'child', LORA, base='gone')).error
    assert f'learnt beside the weights in {base}' in gone and 'gone' in gone
    assert 'accuracy' in forked.run('evaluate', f'--workdir={place}/child', f'--config.init_from={place}/moved').success
    assert 'accuracy' in forked.run('evaluate', f'--workdir={place}/child', f'--config.init_from={place}/native').success, 'the same numbers'
    config, params = checkpoint.load_params(str(place / 'native'))
    params['encoder']['embeddings']['norm']['bias'] = params['encoder']['embeddings']['norm']['bias'] + 1e-6
    checkpoint.save_params(str(place / 'changed'), config, params, str(place / 'hf'))
    conversion.to_hf(str(place / 'changed'), str(base))
    for refused in (
        forked.run('evaluate', f'--workdir={place}/child').error,
        forked.run('train', *flags(place, 'child', LORA, base='gone')).error,
    ):
        assert 'another base' in refused and str(base) in refused and f'{place}/child' in refused


def test_many_adapters_on_one_base(place, lora, monkeypatch):
    forked.run('train', *flags(place, 'ia3', '--config.tune.ia3')).success
    text = '--text=good 3 of a kind'
    alone = {run: forked.run('predict', f'--workdir={place}/{run}', text).success.split('\n', 1)[1] for run in ('lora', 'ia3')}
    both = ''.join(['good 3 of a kind\n', *(f'{place}/{run}:\n{lines}' for run, lines in alone.items())])
    assert forked.run('predict', f'--workdir={place}/lora', f'--adapter={place}/ia3', text).success == both
    assert forked.run('predict', f'--workdir={place}/native', f'--adapter={place}/lora,{place}/ia3', text).success == both, 'the base itself is named'
    out = place / 'both.jsonl'
    said = forked.run('predict', f'--workdir={place}/lora', f'--adapter={place}/ia3', '--input=-', f'--output={out}', stdin=b'good one\nbad one\n').success
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert '2 answers' in said and [answer['text'] for answer in answers] == ['good one', 'bad one']
    assert answers[0]['runs'].keys() == {f'{place}/lora', f'{place}/ia3'} and set(answers[0]['runs'][f'{place}/ia3']['probabilities']) == {'pos', 'neg'}
    forked.run('train', *flags(place, 'beyond', '--config.tune.ia3', base='lora')).success
    refused = forked.run('predict', f'--workdir={place}/lora', f'--adapter={place}/beyond', text).error
    assert f'--adapter={place}/beyond is an adapter of another base' in refused and f'beside {place}/hf' in refused
    assert 'hold all of its weights' in forked.run('predict', f'--workdir={place}/lora', f'--adapter={place}/native', text).error
    assert '--step is of one run' in forked.run('predict', f'--workdir={place}/lora', f'--adapter={place}/ia3', '--step=2', text).error
    read, load = [], folder.load
    monkeypatch.setattr(folder, 'load', lambda path: read.append(path) or load(path))
    weights = bases.Weights()
    first, second = (paths.leaves(weights.run(str(place / run))[1]) for run in ('lora', 'ia3'))
    assert read == [str(place / 'hf')]
    assert first['encoder/embeddings/word/embedding'] is second['encoder/embeddings/word/embedding']


def test_a_frozen_run_without_adapters_needs_nothing_but_itself_unless_asked(place):
    freeze = '--config.tune.freeze_layers=1'
    forked.run('train', *flags(place, 'frozen', freeze)).success
    forked.run('train', *flags(place, 'small', freeze, '--config.checkpoint.whole=no')).success
    ours, theirs = params_of(place / 'small'), params_of(place / 'frozen')
    assert held(place / 'frozen') == theirs.keys() and 'encoder/embeddings/word/embedding' not in held(place / 'small')
    assert all(ours[path].tobytes() == theirs[path].tobytes() for path in theirs)
    assert 'config.checkpoint.whole=no keeps what learns beside' in forked.run(
        'train', '--config=configs/bert.py:tiny', '--config.checkpoint.whole=no', '--dry_run'
    ).error


def test_rules_of_lora_that_meet_are_said_before_training(place):
    rules = '--config.tune.lora=((".*/query", 4, 8.0), ("encoder/.*/(query|value)", 2, 4.0))'
    said = forked.run('train', *flags(place, 'meet', rules), '--dry_run').success.splitlines()
    line = "config.tune.lora: '.*/query' and 'encoder/.*/(query|value)' both match encoder/layers/attention/query; the first counts there (rank 4)"
    assert [each for each in said if 'both match' in each] == [line]
    shadowed = '--config.tune.lora=(("encoder/.*/(query|value)", 2, 4.0), (".*/query", 4, 8.0))'
    error = forked.run('train', *flags(place, 'meet', shadowed)).error
    assert "'.*/query' decides nothing: encoder/layers/attention/query, and all else that it matches" in error and '(\'encoder/.*/(query|value)\')' in error
    assert not (place / 'meet').exists()
