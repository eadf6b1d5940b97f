"""The contract of the commands: names, flags, lines and files that scripts count on, on runs of seconds."""

import itertools
import json
import math
from pathlib import Path
import re
import shlex
import shutil

import jax
import numpy as np
import pytest

from configs import bert as bert_configs
from t5x_lite import cli, dry_run
from t5x_lite.assemble import assemble
from t5x_lite.config_values import from_json, to_dict
from t5x_lite.data.mixing import Mixture
from t5x_lite.training import checkpoint, partitioning, paths
from t5x_lite.training.step import make_program
from t5x_lite.training.telemetry import TIMING
from tests.commands import forked, material

# Layers, width, heads and the encoder with its pooler: the published sizes of uncased BERT (Devlin et al., 2018; Turc et al., 2019).
SIZES = {
    'tiny': (2, 128, 2, 4_385_920),
    'mini': (4, 256, 4, 11_170_560),
    'small': (4, 512, 8, 28_763_648),
    'medium': (8, 512, 8, 41_373_184),
    'base': (12, 768, 12, 109_482_240),
    'large': (24, 1024, 16, 335_141_888),
}
COMMANDS = ('prepare', 'train', 'sweep', 'evaluate', 'predict', 'convert')
# Two stages of different shape, two corpora in given shares, and everything that a run can write.
PRETRAIN = (
    '--config=configs/bert.py:tiny', '--config.steps=6', '--config.data.weights=3,1', '--config.data.stages=((0, 16, 8, 3), (4, 32, 4, 5))',
    '--config.model.num_layers=2', '--config.model.d_model=16', '--config.model.d_ff=32', '--config.model.max_positions=32',
    '--config.optim.learning_rate=1e-2', '--config.ema_decay=0.5', '--config.eval.every_steps=3', '--config.eval.batches=2', '--config.eval.batch_size=8',
    '--config.checkpoint.every_steps=3', '--config.log.every_steps=1', '--config.log.console_seconds=0', '--config.log.layer_norms',
    '--config.log.profile_steps=2,3',
)  # fmt: skip


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    return tmp_path_factory.mktemp('commands')


@pytest.fixture(scope='module')
def prepared(place):
    """What `prepare` says of two corpora that share a tokenizer."""
    said = []
    for name, flags in (('a', ('--tokenizer=wordpiece', '--vocab_size=200')), ('b', (f'--tokenizer={place}/a/tokenizer',))):
        texts = material.texts(place / f'texts_{name}', seed=ord(name))
        split = ('--validation_fraction=0.2', '--sentences=line', '--workers=1')
        said.append(forked.run('prepare', f'--input={texts}', f'--output={place}/{name}', *flags, *split).success)
    return said


@pytest.fixture(scope='module')
def pretrained(place, prepared):
    """(workdir, flags, what it said)."""
    flags = (*PRETRAIN, f'--config.data.path={place}/a,{place}/b', f'--workdir={place}/run')
    return place / 'run', flags, forked.run('train', *flags).success


@pytest.fixture(scope='module')
def fine_tuned(place, pretrained):
    """A run from an exported folder that is gone afterwards."""
    forked.run('convert', f'--input={pretrained[0]}', f'--output={place}/gone', '--format=hf').success
    table = material.table(place / 'reviews.tsv', material.reviews(16))
    flags = (
        '--config=configs/classify.py', f'--config.init_from={place}/gone', f'--config.data.train={table}', '--config.data.seq_len=16', '--config.epochs=1',
        '--config.batch_size=8', '--config.eval.batch_size=8', '--config.data.length_buckets=()', f'--workdir={place}/reviews',
    )  # fmt: skip
    said = forked.run('train', *flags).success
    shutil.rmtree(place / 'gone')
    return place / 'reviews', said


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


# Flags and help.


@pytest.mark.parametrize('command', COMMANDS)
def test_help_explains_the_flags(command):
    shown = forked.run(command, '--help').success
    assert f'python -m t5x_lite.{command} --' in shown
    flags = {'prepare': ('input', 'output', 'tokenizer', 'vocab_size'), 'convert': ('input', 'output', 'format')}.get(
        command, ('config', 'workdir')
    )
    for flag in flags:
        assert f'--{flag}:' in shown
    if flags[0] == 'config':
        for field in ('--config.  seed=0 steps=1000', '--config.data.  ', '--config.mesh.  data=-1', 'every_steps=1000', 'init_from='):
            assert field in shown
    assert max(map(len, shown.splitlines())) < 170


def test_commands_that_the_texts_show_exist():
    """In the README, the docs, the configs and the commands' own help: every command, flag, field and config file is there."""
    texts = [
        forked.ROOT / 'README.md',
        *forked.ROOT.glob('*/*.md'),
        *(forked.ROOT / 'tests').rglob('*.md'),
        *(forked.ROOT / 'configs').glob('*.py'),
        *(forked.ROOT / 't5x_lite').glob('*.py'),
    ]
    known: dict[str, set[str]] = {}
    seen = 0
    for path in texts:
        text = re.sub(r'\\\n\s*', ' ', path.read_text(encoding='utf-8'))
        for command, rest in re.findall(r'python -m t5x_lite\.(\w+)((?: [^\n`#|]*)?)', text):
            if command not in known:
                known[command] = set(re.findall(r'^  (?:-\w,)?--(?:\[no\])?(\w+):', forked.run(command, '--help').success, re.MULTILINE))
            for flag in re.findall(r' --([\w.]+)', rest):
                seen += 1
                if flag.startswith('config.'):
                    cli.type_of(flag.removeprefix('config.'))  # raises where there is no such field
                else:
                    assert flag in known[command] or flag.removeprefix('no') in known[command], f'{path.name}: {command} has no --{flag}'
            for file in re.findall(r' --config=(configs/\w+\.py)', rest):
                assert (forked.ROOT / file).exists(), f'{path.name}: {file}'
    assert seen > 50


def test_flags_may_be_written_in_any_order_and_form():
    """Tuples of texts as a,b or as Python writes them, of several the last; values after a space; fields before --config."""
    flags = (
        '--config.steps', '77', '--noconfig.log.tensorboard', '--config.deterministic', '--config', 'configs/bert.py:tiny', '--workdir', 'nowhere',
        '--config.init_fresh=a', '--config.init_fresh=b,c', '--config.data.labels', '0,1', "--config.data.text_columns=('x, y', 'z')",
        '--config.mesh.data=1', '--config.optim.decay=((".*", 0.5),)', '--dry_run',
    )  # fmt: skip
    shown = forked.run('train', *flags).success
    fields = dict(line.removeprefix('--config.').split('=', 1) for line in shown.splitlines() if line.startswith('--config.'))
    assert fields['steps'] == '77' and fields['log.tensorboard'] == 'False' and fields['deterministic'] == 'True'
    assert fields['init_fresh'] == "\"('b', 'c')\"" and fields['data.labels'] == "\"('0', '1')\""
    assert fields['data.text_columns'] == "\"('x, y', 'z')\"" and fields['optim.decay'] == '"((\'.*\', 0.5),)"'


# The dry run.


def test_dry_run_of_bert_base(tmp_path):
    shown = forked.run('train', '--config=configs/bert.py:base', f'--workdir={tmp_path}/base', '--dry_run').success.splitlines()
    assert shown == forked.run('train', '--config=configs/bert.py:base', '--dry_run').success.splitlines(), 'a workdir is not needed'
    assert 'parameters: 110,106,428' in shown
    assert shown[shown.index('parameters: 110,106,428') + 1] == 'encoder: 109,482,240'
    assert any(re.match(r'encoder/embeddings/word/embedding +30522 x 768 +23,440,896 ', line) for line in shown)
    assert any(line.startswith('bytes per device: ') for line in shown)
    assert any(line.startswith('FLOPs a step: ') for line in shown)
    assert 'mesh: data=1 x fsdp=1 x tensor=1 x sequence=1 on 1 x cpu' in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('size', SIZES)
def test_counts_of_all_sizes(size):
    layers, width, heads, encoder = SIZES[size]
    config = assemble(bert_configs.get_config(size)).config
    assert (config.model.num_layers, config.model.d_model, config.model.num_heads, config.model.d_ff) == (layers, width, heads, 4 * width)
    program = make_program(config, partitioning.make_mesh(config, jax.devices()[:1]))
    shown = dry_run.parameter_table(program).splitlines()
    head = (width * width + width) + 2 * width + 30_522 + (2 * width + 2)  # MLM transform, its norm, the output bias; NSP
    at = shown.index(f'parameters: {encoder + head:,}')
    assert shown[at + 1] == f'encoder: {encoder:,}'


def test_dry_run_repeats_as_flags_and_shows_what_the_model_sees(place, pretrained):
    workdir, flags, _ = pretrained
    shown = forked.run(
        'train', f'--workdir={workdir}', '--dry_run', '--dry_run_step=5', '--config.mesh.tensor=2', '--config.mesh.fsdp=2', devices=8
    ).success
    lines = shown.splitlines()
    assert 'mesh: data=2 x fsdp=2 x tensor=2 x sequence=1 on 8 x cpu' in lines
    assert any(re.match(r'encoder/layers/mlp/wi/kernel .*  -, fsdp, tensor$', line) for line in lines)
    assert any(line.startswith('FLOPs a step: ') and line.endswith('for 4 x 32 from step 4') for line in lines)
    assert [line for line in lines if line.startswith('attention: ')] == [  # of the first stage; the second has the same
        'attention: dense on cpu for 2 x 16 queries and 16 keys a device (the scores of a layer take 0.0 MiB on a device)'
    ]
    assert any(line.startswith('batch of step 5: tokens int32[4, 32]') for line in lines)  # the second stage
    at = lines.index('its first example:')
    assert lines[at + 1].startswith('segment 0: [CLS] ') and lines[at + 2].startswith('segment 1: ')
    assert re.search(r'\S\{\S+\}', lines[at + 1] + lines[at + 2]), 'a masked position with its target'
    assert any(line.startswith('next sentence: ') for line in lines[at:])
    assert sum(line.startswith('train: ') for line in lines) == 2
    # The printed config, given as flags to any config file, is the same config.
    printed = shlex.split(' '.join(line for line in lines if line.startswith('--config.')))
    again = forked.run('train', '--config=configs/classify.py', *printed, f'--workdir={place}/never', '--dry_run', devices=8).success
    assert [line for line in again.splitlines() if line.startswith('--config.')] == [line for line in lines if line.startswith('--config.')]


# Preparation.


def test_prepare_says_what_it_made_and_repeats(place, prepared):
    assert '200 pieces in the tokenizer' in prepared[0]
    assert f'--config.data.path={place}/a' in prepared[0]
    settings = ('--validation_fraction=0.2', '--sentences=line', '--tokenizer=wordpiece', '--vocab_size=200')
    again = forked.run('prepare', f'--input={place}/texts_a', f'--output={place}/a', *settings).success
    assert 'prepared already' in again
    manifests = [json.loads((place / name / 'manifest.json').read_text()) for name in 'ab']
    assert manifests[0]['tokenizer_sha256'] == manifests[1]['tokenizer_sha256'] and manifests[0]['vocab_size'] == 200


# Training.


def test_a_workdir_holds_what_it_should(pretrained):
    workdir, _, _ = pretrained
    assert {path.name for path in workdir.iterdir()} == {
        'config.json',
        'metrics.jsonl',
        'goodput.jsonl',
        'tensorboard',
        'checkpoints',
        'tokenizer',
        'profile',
    }
    assert {path.name for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit()} == {'3', '6'}
    config = json.loads((workdir / 'config.json').read_text())
    assert config == to_dict(from_json(str(workdir / 'config.json'))), 'complete: nothing is left to a default'
    assert config['model']['vocab_size'] == 200
    assert (workdir / 'tokenizer' / 'vocab.txt').exists()
    assert list((workdir / 'profile').rglob('*.xplane.pb')), 'a trace that TensorBoard and Perfetto read'
    events = b''.join(path.read_bytes() for path in (workdir / 'tensorboard').iterdir())
    for tag in (b'loss', b'learning_rate', b'eval/mlm_loss', b'tokens_per_second'):
        assert tag in events


def test_every_step_is_logged_once(pretrained):
    lines, run = metrics(pretrained[0]), assemble(from_json(str(pretrained[0] / 'config.json')))
    assert [line['step'] for line in lines if 'loss' in line] == [1, 2, 3, 4, 5, 6]
    assert [line['step'] for line in lines if 'eval/mlm_loss' in line] == [3, 6]
    padded, compiled = [], [line['step'] for line in lines if 'compile_seconds' in line]
    assert len(compiled) == 2 and compiled[0] == 1, 'compile time is reported apart, where a shape is new'
    for line in lines:
        if 'loss' not in line:
            continue
        for name in (
            'mlm_loss',
            'mlm_accuracy',
            'nsp_loss',
            'nsp_accuracy',
            'learning_rate',
            'grad_norm',
            'tokens',
            'tokens_per_second',
            'seconds_per_step',
        ):
            assert math.isfinite(line[name]), name
        assert line['loss'] == pytest.approx(line['mlm_loss'] + line['nsp_loss'], abs=1e-5)
        assert 'mfu' not in line, 'the peak of a CPU is not known'
        batch = run.train.batch(line['step'] - 1)
        assert line['tokens'] == (batch['sequence_ids'] > 0).sum(), 'padding is not counted'
        padded.append(line['tokens'] < batch['tokens'].size)
        # Of the whole gradient, before it is clipped, as grad_norm is.
        assert math.hypot(*itertools.chain.from_iterable(map(np.atleast_1d, line['layer_norms']['grad'].values()))) == pytest.approx(line['grad_norm'], rel=1e-4)
        for kind in ('param', 'grad', 'update'):
            norms = line['layer_norms'][kind]
            assert len(norms['encoder/layers/attention/query/kernel']) == 2 and np.isscalar(norms['encoder/pooler/kernel'])
    assert any(padded)


def test_lines_for_people(pretrained):
    workdir, _, said = pretrained
    assert re.search(r'^train: .*/a, 32 documents, .* tokens, vocabulary 200$', said, re.MULTILINE)
    assert re.search(r'^compiled the step for 8 x 16 in [\d.]+ s$', said, re.MULTILINE)
    assert re.search(r'^compiled the step for 4 x 32 in [\d.]+ s$', said, re.MULTILINE)
    assert re.search(r'^step 6/6  loss [\d.]+ .*mlm_accuracy .* lr [\d.e-]+  [\d,]+ tokens/s  0:00 left$', said, re.MULTILINE)
    assert re.search(r'^held out at step 3: .*mlm_loss [\d.]+', said, re.MULTILINE)
    assert f'finished 6 steps; {workdir} holds' in said


def test_corpora_are_mixed_in_their_shares(place, pretrained):
    run = assemble(from_json(str(pretrained[0] / 'config.json')))
    part, _ = Mixture([3, 1])(run.train.indices(0))
    assert np.bincount(part).tolist() == [6, 2]
    sources = run.train.sources(run.train.stages[0])
    assert [source.corpus.path for source in sources] == [str(place / 'a'), str(place / 'b')]
    batch = run.train.batch(0)
    own = sources[1].get(np.arange(2))
    np.testing.assert_array_equal(batch['tokens'][part == 1], own['tokens'])


def test_repeating_a_finished_run_says_so(pretrained):
    workdir, flags, _ = pretrained
    before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
    for again in (flags, (f'--workdir={workdir}',)):
        assert f'finished: all 6 steps of {workdir} are done' in forked.run('train', *again).success
    assert {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()} == before


def test_a_run_repeats_from_its_config_json_on_another_mesh(place, pretrained):
    workdir, _, _ = pretrained
    flags = (
        f'--config={workdir}/config.json',
        f'--workdir={place}/again',
        '--config.mesh.fsdp=2',
        '--config.mesh.tensor=2',
        '--config.log.profile_steps=()',
    )
    forked.run('train', *flags, devices=4).success
    ours, theirs = metrics(place / 'again'), metrics(workdir)
    assert len(ours) == len(theirs)
    for here, there in zip(ours, theirs):
        assert here.keys() - set(TIMING) == there.keys() - set(TIMING)
        for name in here.keys() - set(TIMING) - {'layer_norms'}:
            assert here[name] == pytest.approx(there[name], rel=2e-4, abs=1e-5), (here['step'], name)


# Evaluation.


def test_evaluate_gives_what_training_gave(pretrained):
    workdir, _, _ = pretrained
    held_out = {line['step']: line for line in metrics(workdir) if 'eval/mlm_loss' in line}
    for step, flags in ((6, ()), (3, ('--step=3',))):
        shown = forked.run('evaluate', f'--workdir={workdir}', *flags).success
        assert f'held out, {workdir} at step {step}' in shown
        assert 'most frequent token: accuracy' in shown and 'unigram: loss' in shown
        scores = json.loads((workdir / 'evaluation.json').read_text())
        assert scores['step'] == step
        for name in ('mlm_loss', 'mlm_accuracy', 'nsp_loss', 'nsp_accuracy'):
            assert scores[name] == pytest.approx(held_out[step][f'eval/{name}'], rel=1e-6)
    (workdir / 'evaluation.json').unlink()


def test_the_moving_average_is_what_is_scored(place, pretrained):
    workdir, _, _ = pretrained
    forked.run('evaluate', f'--workdir={workdir}', '--noema').success
    scores = json.loads((workdir / 'evaluation.json').read_text())
    (workdir / 'evaluation.json').unlink()
    last = next(line for line in metrics(workdir) if line['step'] == 6 and 'eval/mlm_loss' in line)
    assert abs(scores['mlm_loss'] - last['eval/mlm_loss']) > 1e-4


def test_evaluate_and_predict_take_the_config_that_trained(place, pretrained, fine_tuned):
    """What a config file leaves to the data or to `init_from` is the run's."""
    workdir, flags, _ = pretrained
    shown = forked.run('evaluate', *flags).success
    assert shown == forked.run('evaluate', f'--workdir={workdir}').success
    forked.run('predict', *flags, '--text=ab [MASK]').success
    table = material.table(place / 'held_out.tsv', material.reviews(4))
    tuned = ('--config=configs/classify.py', '--config.data.seq_len=16', f'--workdir={fine_tuned[0]}')
    assert 'accuracy' in forked.run('evaluate', *tuned, f'--config.data.validation={table}').success
    shown = forked.run('predict', *tuned, '--text=a good kind').success
    assert {line.split()[0] for line in shown.splitlines()[1:]} == {'neg', 'pos'}
    wrong = forked.run('evaluate', *flags, '--config.model.num_heads=8').error
    assert 'config.model.num_heads is 8' in wrong


# Prediction.


def test_predict_fills_masks(place, pretrained):
    workdir, _, _ = pretrained
    shown = forked.run('predict', f'--workdir={workdir}', '--text=abc [MASK] de [MASK]', '--top=3').success.splitlines()
    assert shown[0] == 'abc [MASK] de [MASK]'
    assert [line.strip().split(':')[0] for line in shown[2:]] == ['[MASK] 1', '[MASK] 2']
    assert all(len(re.findall(r'\d\.\d%', line)) == 3 for line in shown[2:])
    texts, output = place / 'texts.txt', place / 'filled.jsonl'
    texts.write_text('a [MASK]\n' * 3)
    said = forked.run('predict', f'--workdir={workdir}', f'--input={texts}', f'--output={output}').success
    assert said == f'3 answers in {output}\n'
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert [answer['text'] for answer in answers] == ['a [MASK]'] * 3 and len(answers[0]['masks'][0]) == 5
    pair = forked.run('predict', f'--workdir={workdir}', '--text=a [MASK]', '--text_b=b').success
    assert pair.startswith('a [MASK] | b\n')


def test_fine_tuning_from_an_exported_folder(place, fine_tuned):
    workdir, said = fine_tuned
    assert f'weights from {place}/gone; at random: classifier/' in said
    assert "columns: text 'text' (guessed), label 'label' (guessed)" in said
    config = from_json(str(workdir / 'config.json'))
    assert config.data.labels == ('neg', 'pos') and config.steps == 4 and config.model.d_model == 16
    assert [line['step'] for line in metrics(workdir) if 'eval/accuracy' in line] == [4]


def test_a_fine_tuned_run_needs_nothing_but_itself(fine_tuned, place):
    """Neither what it started from nor, with its own held-out table, what it was trained on."""
    workdir, _ = fine_tuned
    assert 'finished: all 4 steps' in forked.run('train', f'--workdir={workdir}').success
    table = material.table(place / 'dev.tsv', material.reviews(4))
    shown = forked.run('evaluate', f'--workdir={workdir}', f'--config.data.validation={table}').success
    assert re.search(r'^  accuracy +[01]\.\d{4}  \([01]\.\d{4} to [01]\.\d{4}\)$', shown, re.MULTILINE)
    shown = forked.run('predict', f'--workdir={workdir}', '--text=a good kind').success.splitlines()
    assert shown[0] == 'a good kind' and {line.split()[0] for line in shown[1:]} == {'neg', 'pos'}
    assert sum(float(line.split()[1].rstrip('%')) for line in shown[1:]) == pytest.approx(100, abs=0.11)


# Conversion.


def test_converted_there_and_back_bitwise(place, pretrained):
    workdir, _, _ = pretrained
    said = forked.run('convert', f'--input={workdir}', f'--output={place}/hf', '--format=hf').success
    assert said == f'{place}/hf: bert_flax.bert:BertForPreTraining, 2 layers of 16\n'
    assert {path.name for path in (place / 'hf').iterdir()} >= {'config.json', 'model.safetensors', 'vocab.txt', 'tokenizer.json'}
    forked.run('convert', f'--input={place}/hf', f'--output={place}/native', '--format=native').success
    _, ours = checkpoint.load_params(str(workdir), ema=False)
    _, theirs = checkpoint.load_params(str(place / 'native'))
    ours, theirs = paths.leaves(ours), paths.leaves(theirs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        rows = 200 if name.endswith(('word/embedding', 'output_bias')) else None
        np.testing.assert_array_equal(ours[name][:rows], theirs[name][:rows], err_msg=name)
    assert '[MASK] 1: ' in forked.run('predict', f'--workdir={place}/native', '--text=ab [MASK]').success
