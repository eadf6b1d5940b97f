"""Commands given by mistake: one line on standard error, a status, no traceback (`Result.error`), and nothing that was saved is lost."""

import hashlib
from pathlib import Path
import shutil

import pytest

from t5x_lite.assemble import assemble
from t5x_lite.config_values import to_json
from tests.commands import forked, material

SMALL = 'configs/bert_small_corpus.py'
PRETRAINING = '--config.loss=bert_flax.losses:MlmNspLoss --config.data.source=bert_flax.objectives:MlmNsp'


def tree(folder: Path) -> dict[str, str]:
    """{file: hash} of everything below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob('*')) if path.is_file()
    }


FLAGS = [
    ('train', '', '--workdir is missing'),
    ('train', '--workdir=', '--workdir is empty'),
    ('train', '--config=configs/bert.py:tiny --workdir=s3://bucket/run', '--workdir=s3://bucket/run', 'or gs://BUCKET/FOLDER, is needed'),
    ('prepare', '--input={}/texts --output=s3://bucket/data', '--output=s3://bucket/data', 'write there and copy it, or mount the place'),
    ('train', '--workdir={}/new', '--config is missing', 'configs/FILE.py'),
    ('train', '--workdir={}/new --config', '--config has no value'),
    ('train', '--config=configs/bert.py:tiny', '--workdir is missing'),
    ('train', '--config=configs/bert.py:tinny --workdir={}/new', "no variant 'tinny'", "did you mean 'tiny'?"),
    ('train', '--config=configs/brt.py --workdir={}/new', 'no such file configs/brt.py', "did you mean 'configs/bert.py'?"),
    ('train', '--config=configs --workdir={}/new', 'no such file'),
    ('train', '--config={}/absent.json --workdir={}/new', 'absent.json'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --dryrun', '--dryrun', 'did you mean dry_run'),
    ('train', '--config=configs/bert.py:tiny --workdr={}/new', '--workdr', 'did you mean workdir'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optim.learning_rte=1', '--config.optim.learning_rte', "did you mean 'learning_rate'?"),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optm.b1=1', '--config.optm', "did you mean 'optim'?"),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optim=1', '--config.optim is a group', 'learning_rate'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.seed.x=1', '--config.seed.x', 'no such field'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.steps=ten', '--config.steps=ten', 'a whole number'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.steps', '--config.steps has no value'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optim.b1=x', '--config.optim.b1=x', 'a number'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.deterministic=maybe', '--config.deterministic=maybe', 'True or False'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.optim.name=adam', '--config.optim.name=adam', "did you mean 'adamw'?"),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --config.data.stages=((0,12', '--config.data.stages', 'max_predictions'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new extra', "unexpected argument 'extra'", '--name=value'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new --dry_run=perhaps', '--dry_run=perhaps', 'True or False'),
    ('train', '--config=configs/bert.py:tiny --workdir={}/new', 'there are no data', '--config.data.path', '--dry_run'),
    ('train', '--config={}/syntax.py --workdir={}/new', 'syntax.py:2', 'invalid syntax'),
    ('train', '--config={}/raises.py --workdir={}/new', 'raises.py:4', 'learning_rte'),
    ('train', '--config={}/imports.py --workdir={}/new', 'imports.py:1', "No module named 'not_there'"),
    ('train', '--config={}/returns.py --workdir={}/new', 'returns.py', 'get_config returned dict'),
    ('train', '--config={}/without.py --workdir={}/new', 'without.py', 'no function get_config'),
    ('train', '--config=configs/classify.py:base --workdir={}/new', 'configs/classify.py has no variants'),
    ('evaluate', '--workdir={}/absent', 'absent/config.json does not exist'),
    ('evaluate', '--workdir={}/run --step=7', 'no checkpoint of step 7'),
    ('evaluate', '--workdir={}/run --step=x', '--step=x', 'there are those of 0, and best and newest'),
    ('evaluate', '--workdir={}/run', 'there are no held-out data', '--config.data.path'),
    ('evaluate', '--workdir={}/run --config.data.path={}/other PRETRAINING', 'piece 10', '--tokenizer={}/run/tokenizer'),
    ('evaluate', '--workdir={}/run --config.data.path={}/larger PRETRAINING', '200 pieces', '120'),
    ('predict', '--workdir={}/run', '--text', '--input'),
    ('predict', '--workdir={}/run --text=a --input=b', 'one of them'),
    ('predict', '--workdir={}/run --text_b=a --input=-', '--text_b goes with --text'),
    ('predict', '--workdir={}/run --text=abc', 'no [MASK]'),
    ('predict', '--workdir={}/classifier --text=', '--text is empty'),
    ('predict', '--workdir={}/run --input={}/absent', '--input={}/absent', 'No such file'),
    ('predict', '--workdir={}/run --input={}/nothing', '--input={}/nothing', 'directory'),
    ('predict', '--workdir={}/run --input={}/empty.txt', 'empty.txt', 'a text a line'),
    ('predict', '--workdir={}/classifier --input={}/latin.txt', 'latin.txt:2', 'not UTF-8'),
    ('predict', '--workdir={}/classifier --text=abc --output={}/file/x', '--output={}/file/x', 'Not a directory'),
    ('predict', '--workdir={}/run --text=[MASK] --top=0', '--top=0', 'positive'),
    ('prepare', '', '--input and --output are missing'),
    ('prepare', '--input={}/absent --output={}/new', '--input={}/absent', 'no such file'),
    ('prepare', '--input={}/empty.txt --output={}/empty', 'no text'),
    ('prepare', '--input={}/blank.txt --output={}/blank', 'no text'),
    ('prepare', '--input={}/latin.txt --output={}/latin', 'latin.txt:2', 'not UTF-8', '--skip_broken'),
    ('prepare', '--input={}/texts --output={}/corpus --tokenizer=wordpeice', "did you mean 'wordpiece'?"),
    ('prepare', '--input={}/texts --output={}/file --vocab_size=200', '{}/file', '--output'),
    ('prepare', '--input={}/texts --output={}/larger --vocab_size=300', '{}/larger', 'vocab_size (200 there, 300 here)'),
    ('prepare', '--input={}/texts --output={}/new --vocab_size=-3', '--vocab_size=-3'),
    ('convert', '', '--input and --output and --format are missing'),
    ('convert', '--input={}/run --output={}/new --format=torch', '--format=torch', 'hf'),
    ('convert', '--input={}/absent --output={}/new --format=hf', '{}/absent', 'no such folder'),
    ('convert', '--input={}/run --output={}/corpus --format=hf', '{}/corpus', 'not empty'),
]  # fmt: skip


@pytest.fixture(scope='module')
def config_files(stock):
    for name, text in {
        'syntax': 'def get_config():\n    return (1,,)\n',
        'raises': 'from t5x_lite.config import Config, OptimConfig\n\ndef get_config():\n    return Config(optim=OptimConfig(learning_rte=1.0))\n',
        'imports': 'import not_there\n',
        'returns': 'def get_config():\n    return {}\n',
        'without': 'steps = 3\n',
    }.items():
        (stock / f'{name}.py').write_text(text)


@pytest.mark.parametrize('case', FLAGS, ids=lambda case: f'{case[0]} {case[1]}'.strip())
def test_one_line_and_a_status(stock, config_files, case):
    command, flags, *words = case
    flags = flags.replace('PRETRAINING', PRETRAINING)
    error = forked.run(command, *flags.replace('{}', str(stock)).split()).error
    for word in words:
        assert word.replace('{}', str(stock)) in error, error
    assert not (stock / 'new').exists()


def test_a_new_interpreter_says_the_same(stock):
    """That the server, and what it imported, hides nothing."""
    for flags in (
        ['--config=configs/bert.py:tinny', f'--workdir={stock}/new'],
        ['--config=configs/bert.py:tiny', f'--workdir={stock}/new', '--config.stepz=3'],
    ):
        alone = forked.start('train', *flags)
        assert (alone.status, alone.error) == (2, forked.run('train', *flags).error)


# Nothing that was saved is lost.


def test_places_that_cannot_be_written(stock):
    for workdir in (stock / 'file', stock / 'file' / 'below'):
        error = forked.run('train', f'--config={SMALL}', f'--config.data.path={stock}/corpus', f'--workdir={workdir}').error
        assert str(workdir) in error
    assert (stock / 'file').read_text() == 'mine\n'


def test_a_workdir_of_another_run(stock, tmp_path):
    workdir = tmp_path / 'run'
    shutil.copytree(stock / 'run', workdir)
    (workdir / 'config.json').write_text(to_json(assemble(material.config_of(stock)).config))
    before = tree(workdir)
    flags = [f'--workdir={workdir}', '--config.optim.learning_rate=0.5', '--config.steps=11']
    error = forked.run('train', *flags).error
    assert forked.run('train', *flags, '--dry_run').error == error
    for word in (str(workdir), 'another run', 'optim.learning_rate (0.0001 there, 0.5 here)', 'steps (10 there, 11 here)', '--workdir'):
        assert word in error
    assert tree(workdir) == before


def test_a_run_that_cannot_start_claims_no_workdir(stock, tmp_path):
    workdir = tmp_path / 'run'
    flags = [
        f'--config={SMALL}',
        f'--config.data.path={stock}/corpus',
        f'--workdir={workdir}',
        '--config.model.module=bert_flax.bert:BertForMaskedLm',
    ]
    assert "'nsp_logits' is missing" in forked.run('train', *flags).error
    assert not workdir.exists()


def test_answers_are_kept_until_there_are_better_ones(stock, tmp_path):
    output = tmp_path / 'answers.jsonl'
    output.write_text('precious\n')
    texts = tmp_path / 'texts.txt'
    texts.write_bytes(b'good\n' * 40 + b'caf\xe9\n')
    assert 'texts.txt:41' in forked.run('predict', f'--workdir={stock}/classifier', f'--input={texts}', f'--output={output}').error
    assert output.read_text() == 'precious\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['answers.jsonl', 'texts.txt']
    texts.write_bytes(b'good\n' * 40)
    assert '40 answers' in forked.run('predict', f'--workdir={stock}/classifier', f'--input={texts}', f'--output={output}').success
    assert len(output.read_text().splitlines()) == 40


def test_outputs_that_exist_stay(stock):
    before = {name: tree(stock / name) for name in ('corpus', 'larger', 'run')}
    forked.run('prepare', f'--input={stock}/texts', f'--output={stock}/run', '--vocab_size=200').error
    forked.run('convert', f'--input={stock}/classifier', f'--output={stock}/run', '--format=hf').error
    forked.run('prepare', f'--input={stock}/latin.txt', f'--output={stock}/corpus', f'--tokenizer={material.PRETRAINED}').error
    assert {name: tree(stock / name) for name in before} == before


def test_standard_input_that_is_closed(stock):
    assert 'standard input is closed' in forked.run('predict', f'--workdir={stock}/run', '--input=-', stdin=None).error
    assert 'empty' in forked.run('predict', f'--workdir={stock}/run', '--input=-', stdin=b'').error
    assert '[MASK] 1:' in forked.run('predict', f'--workdir={stock}/run', '--input=-', stdin=b'a [MASK]\n').success
