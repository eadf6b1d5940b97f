"""Commands on language models: continuing, ranking, demonstrations, stop texts; and what is refused of them."""

import json

import pytest

from tests.commands import forked, material

GPT = ('--config.model.num_layers=1', '--config.model.d_model=16', '--config.model.num_heads=2', '--config.model.d_ff=16', '--config.model.max_positions=128')
TASKS = '--config.data.tasks.inputs=review: {text}', '--config.data.tasks.targets={label}', '--config.data.tasks.metrics=accuracy'


@pytest.fixture(scope='module')
def gpt(tmp_path_factory):
    """A GPT of one layer after two steps."""
    place = tmp_path_factory.mktemp('gpt')
    material.corpus(place / 'corpus', material.texts(place / 'texts', documents=20), 'byte_bpe', 300)
    material.table(place / 'train.tsv', material.reviews())
    material.table(place / 'dev.tsv', material.reviews(4))
    flags = (
        '--config=configs/gpt_small_corpus.py', f'--config.data.path={place}/corpus', f'--workdir={place}/run', *GPT, '--config.steps=2', '--config.batch_size=4',
        '--config.data.seq_len=32', '--config.eval.batches=1', '--config.log.tensorboard=False',
    )  # fmt: skip
    assert 'finished 2 steps' in forked.run('train', *flags).success
    return place


def predict(gpt, *flags, **options):
    return forked.run('predict', f'--workdir={gpt}/run', *flags, **options)


def test_stop_texts_as_they_stand(gpt, tmp_path):
    """A space, a line's end and a comma may all be stop texts."""
    everything = predict(gpt, '--text=abc', '--config.decode.max_new_tokens=24', f'--output={tmp_path}/all.jsonl')
    assert everything.success
    text = json.loads((tmp_path / 'all.jsonl').read_text())['answers'][0]['text']
    for stop in (text[2], text[1:3], text[3:5] or text[-1]):
        if stop.startswith(('(', '[')) or '\\' in stop:
            continue
        assert predict(gpt, '--text=abc', '--config.decode.max_new_tokens=24', f'--config.decode.stop={stop}', f'--output={tmp_path}/one.jsonl').success
        answer = json.loads((tmp_path / 'one.jsonl').read_text())['answers'][0]
        assert answer['ended'] and answer['text'] == text[: text.index(stop)]


def stops(gpt, *flags):
    shown = forked.run('train', f'--config={gpt}/run/config.json', *flags, '--dry_run').success
    return next(line for line in shown.splitlines() if line.startswith('--config.decode.stop='))


def test_stop_flags_are_not_cut_at_commas(gpt):
    assert stops(gpt, '--config.decode.stop=\n') == stops(gpt, '--config.decode.stop=\\n') == '--config.decode.stop="(\'\\\\n\',)"'
    assert stops(gpt, '--config.decode.stop=. ') == '--config.decode.stop="(\'. \',)"' and stops(gpt, '--config.decode.stop=,') == '--config.decode.stop="(\',\',)"'
    assert stops(gpt, "--config.decode.stop=('a', ', ')") == '--config.decode.stop="(\'a\', \', \')"'
    assert 'nothing between the commas' in forked.run('train', '--config=configs/bert.py:tiny', '--config.data.labels=,', '--dry_run').error


def test_demonstrations_before_a_text(gpt, tmp_path):
    few = (*TASKS, f'--config.data.train={gpt}/train.tsv', '--config.decode.shots=2', '--config.decode.max_new_tokens=4')
    (tmp_path / 'questions.txt').write_text('review: good one\nreview: bad one\n')
    assert '2 answers' in predict(gpt, *few, f'--input={tmp_path}/questions.txt', f'--output={tmp_path}/few.jsonl').success
    rows = [json.loads(line) for line in (tmp_path / 'few.jsonl').read_text().splitlines()]
    assert [row['text'] for row in rows] == ['review: good one', 'review: bad one'] and all('\n' not in row['answers'][0]['text'] for row in rows)
    alone = predict(gpt, '--text=review: good one', '--config.decode.max_new_tokens=4', f'--output={tmp_path}/alone.jsonl')
    assert alone.success and json.loads((tmp_path / 'alone.jsonl').read_text())['answers'][0]['log_prob'] != rows[0]['answers'][0]['log_prob']
    ranked = predict(gpt, *few, '--text=review: good one', '--config.decode.rank').success.splitlines()
    assert ranked[0] == 'review: good one' and {line.split()[-1] for line in ranked[1:]} == {'pos', 'neg'}
    calibrated = predict(gpt, *few, '--text=review: good one', '--config.decode.calibrate').success.splitlines()
    assert {line.split()[-1] for line in calibrated[1:]} == {'pos', 'neg'} and calibrated[1:] != ranked[1:]
    assert predict(gpt, *few, '--text=review: good one').success.startswith('review: good one')


def test_few_shots_in_one_table(gpt):
    flags = (*TASKS, f'--config.data.train={gpt}/train.tsv', f'--config.data.validation={gpt}/dev.tsv', '--config.eval.batches=1')
    shown = forked.run('evaluate', f'--workdir={gpt}/run', *flags, '--shots=0,1,2', '--config.decode.rank', '--shown=0').success
    for shots in (0, 1, 2):
        assert f'{shots} shots, ranked' in shown
    written = json.loads((gpt / 'run' / 'evaluation.json').read_text())['tasks']
    assert all('accuracy' in written[f'{shots} shots, ranked']['table'] for shots in (0, 1, 2))


REFUSED = [
    ('--text=', 'the prompt is empty'),
    (f'--text={"abc " * 200}', 'tokens leaves nothing of the 128 positions'),
    ('--text=a --config.decode.max_new_tokens=199', 'needs more than the 128 positions'),
    ('--text=a --choices=', 'an empty continuation'),
    ('--text=a --choices=b||c', '--choices=b||c: an empty continuation'),
    ('--text=a --choices=b|b', "'b' is there twice"),
    ('--text=a --choices=b|c --config.decode.rank', "config.decode.rank is of a task's classes"),
    ('--text=a --config.decode.shots=2', 'config.decode.shots is of a task; name it with --config.data.tasks.names'),
    ('--text=a --config.decode.rank --config.data.tasks.names=addition_2_digits', 'addition_2_digits has no classes to rank'),
    ('--text=a --config.decode.shots=2 --config.data.tasks.names=adition_2_digits', "did you mean 'addition_2_digits'"),
    ('--text=a --config.decode.shots=2 --config.data.tasks.names=addition_2_digits,addition_3_digits', 'is of one task'),
    ('--text=a --config.decode.shots=20 --config.data.tasks.names=addition_2_digits', 'positions'),
    ('--text=a --text_b=b', '--text_b'),
    ('--text=a --config.decode.top_k=3', 'is for sampling'),
]


@pytest.mark.parametrize(('flags', 'said'), REFUSED)
def test_what_is_refused_of_predict(gpt, flags, said):
    words = [flags] if flags.startswith('--text=abc ') else flags.split()
    assert said in predict(gpt, *words).error


def test_shots_without_a_task(gpt):
    assert '--shots asks tasks, and there is none' in forked.run('evaluate', f'--workdir={gpt}/run', '--shots=2').error


def test_adapters_of_a_language_model(gpt):
    """Each is trained, scored and asked alone; then both side by side on their base."""
    strategies = {'lora': ('--config.tune.lora=((".*/attention/(query|value)", 2, 4.0),)',), 'in_front': ('--config.tune.prompt=3', '--config.tune.prefix=2')}
    ask, alone = ('--text=abc', '--config.decode.max_new_tokens=4'), {}
    for name, tune in strategies.items():
        flags = (
            '--config=configs/gpt_small_corpus.py', f'--config.data.path={gpt}/corpus', f'--config.init_from={gpt}/run', f'--workdir={gpt}/{name}', *GPT, *tune,
            '--config.steps=3', '--config.batch_size=4', '--config.data.seq_len=32', '--config.eval.batches=1', '--config.log.tensorboard=False',
            '--config.optim.learning_rate=0.1',
        )  # fmt: skip
        said = forked.run('train', *flags).success
        loss = said.split('lm_loss ')[-1].split()[0]
        assert float(forked.run('evaluate', f'--workdir={gpt}/{name}').success.split('lm_loss')[1].split()[0]) == pytest.approx(float(loss), rel=1e-3)
        assert forked.run('predict', f'--workdir={gpt}/{name}', *ask, f'--output={gpt}/{name}.jsonl').success
        alone[name] = json.loads((gpt / f'{name}.jsonl').read_text())
    assert forked.run('predict', f'--workdir={gpt}/run', f'--adapter={gpt}/lora,{gpt}/in_front', *ask, f'--output={gpt}/both.jsonl').success
    both = json.loads((gpt / 'both.jsonl').read_text())
    assert both == {'text': 'abc', 'runs': {f'{gpt}/{name}': answer for name, answer in alone.items()}}
