"""Augmentation from the command line: synonyms are made once, kept beside the run, shown by --dry_run; what is refused."""

import json

import pytest

from tests.commands import forked, material


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp('augmented')
    material.table(place / 'train.tsv', [(f'{text} {"the model is one" if label == "pos" else "it was of two"}', label) for text, label in material.reviews(8)])
    return place


def flags(place, name, *more):
    return (
        '--config=configs/classify.py', f'--config.data.train={place}/train.tsv', f'--config.init_from={material.PRETRAINED}', '--config.data.seq_len=32',
        '--config.data.length_buckets=()', '--config.batch_size=8', '--config.eval.batch_size=8', '--config.epochs=1', '--config.log.tensorboard=False',
        '--config.data.augment.synonyms=0.5', '--config.data.augment.copies=1', f'--workdir={place}/{name}', *more,
    )  # fmt: skip


def losses(place, name):
    return [line['loss'] for line in map(json.loads, (place / name / 'metrics.jsonl').read_text().splitlines()) if 'loss' in line]


def test_a_run(place):
    said = forked.run('train', *flags(place, 'run', '--config.log.every_steps=1')).success
    assert 'training texts are changed: synonyms 50% of the words; 1 changed beside each as it is, 28 in an epoch' in said
    assert 'synonyms from' in said and ': 14 of 14 texts' in said
    assert len(losses(place, 'run')) == 4, '28 examples in batches of 8'
    made = (place / 'run' / 'synonyms.npz').read_bytes()
    again = forked.run('train', *flags(place, 'run', '--config.log.every_steps=1')).success
    assert 'finished' in again and 'synonyms from' not in again and (place / 'run' / 'synonyms.npz').read_bytes() == made
    assert forked.run('train', *flags(place, 'workers', '--config.log.every_steps=1', '--config.data.workers=1')).status == 0
    assert losses(place, 'workers') == losses(place, 'run')
    refused = forked.run('train', *flags(place, 'run', '--config.data.augment.synonyms=0.7')).error
    assert 'data.augment.synonyms' in refused and (place / 'run' / 'synonyms.npz').read_bytes() == made


def test_a_changed_example_is_shown(place):
    shown = forked.run('train', *flags(place, 'never', '--config.data.augment.synonyms=0.9'), '--dry_run').success
    after = shown.split('a changed example:\n')[1].splitlines()
    old, new = after[0].removeprefix('as it is: ').split(), after[1].removeprefix('as it is read: ').split()
    assert len(old) == len(new) and old != new and not (place / 'never').exists()


@pytest.mark.parametrize(('more', 'said'), [
    (('--config.data.augment.deletion=1.5',), 'config.data.augment.deletion is 1.5'),
    (('--config.data.augment.synonyms=0',), 'config.data.augment.copies=1 would repeat examples unchanged'),
    (('--config.init_from=', '--config.init_architecture=False', '--config.model.body=bert_flax.bert:Bert'), 'config.data.augment.synonyms asks the masked language model of config.init_from'),
    ((f'--config.init_from={material.FIXTURES}/bert_encoder',), 'has no such head'),
    (('--config.data.augment.file=absent.npz',), 'absent.npz: no such file of synonyms'),
    (('--config.data.augment.candidates=0',), 'config.data.augment.candidates is 0'),
])  # fmt: skip
def test_what_is_refused(place, more, said):
    assert said in forked.run('train', *flags(place, 'never', *more)).error
    assert not (place / 'never').exists()


def test_other_data_are_never_changed(place):
    text = '--config.data.source=t5x_lite.data.tagged:TaggedExamples'
    assert 'config.data.augment changes the texts of labelled tables' in forked.run('train', *flags(place, 'never', text)).error
