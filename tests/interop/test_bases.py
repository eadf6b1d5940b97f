"""A trained head keeps its meaning: labels take the order of the head that a run begins with, or it begins anew; nothing passes by its shape alone."""

import json
import shutil

import numpy as np
import pytest

from configs import classify, ner
from t5x_lite.assemble import assemble
from t5x_lite.data import tokenizers
from t5x_lite.evaluation.predictor import Predictor
from t5x_lite.interop import bases, conversion, folder
from t5x_lite.training import checkpoint
from tests.data.table_material import tsv
from tests.data.tagged_material import columns, sentences
from tests.fixtures.make_tokenizer_fixtures import FOLDER

CLASSIFIER = FOLDER.parent / 'bert_classifier'  # of no, perhaps, yes
WORDS = {'no': 'here', 'perhaps': 'there', 'yes': 'so'}  # of the texts of each label


def named(place, *names):
    """A copy of the classifier whose classes have these names."""
    shutil.copytree(CLASSIFIER, place)
    fields = json.loads((place / 'config.json').read_text())
    fields |= {'id2label': {str(number): name for number, name in enumerate(names)}, 'label2id': {name: number for number, name in enumerate(names)}}
    (place / 'config.json').write_text(json.dumps(fields))
    return str(place)


def config_of(place, table, **data):
    if not table.exists():
        table.write_text(tsv([(f'it was {word} {number}', label) for number in range(12) for label, word in WORDS.items()]))
    config = classify.get_config()
    config.init_from, config.data.train, config.data.seq_len, config.data.length_buckets, config.batch_size = str(place), str(table), 16, (), 8
    for name, value in data.items():
        setattr(config.data, name, value)
    return config


def by_name(config, params, place):
    """Probabilities that the model gives to each label."""
    answer, = Predictor(config, params, tokenizers.load(str(place)))([('it was here',)])
    return answer['probabilities']


@pytest.mark.parametrize('names', [('yes', 'no', 'perhaps'), ('Perhaps', 'YES', 'no')])
def test_the_same_labels_stand_in_the_order_of_the_folder(tmp_path, names):
    place = named(tmp_path / 'hf', *names)
    run = assemble(config_of(place, tmp_path / 't.tsv', class_weights=('balanced',)))
    order = tuple(name.lower() for name in names)
    assert run.config.data.labels == order and f'labels are numbered as in {place}, whose head is of the same: {", ".join(order)}' in run.notes
    source, = run.train.sources(run.train.stages[0])
    assert source.label_names == order and len(run.config.data.class_weights) == 3 and 'classifier' in run.initial
    tokenizer, batch = tokenizers.load(place), run.train.batch(0)
    assert all(WORDS[order[label]] in tokenizer.decode(tokens.tolist()).split() for tokens, label in zip(batch['tokens'], batch['labels'], strict=True))
    # What the head says by name is what it said in the folder.
    native = conversion.to_native(place, str(tmp_path / 'native'))
    theirs = by_name(native, checkpoint.load_params(str(tmp_path / 'native'))[1], place)
    assert {name.lower(): chance for name, chance in theirs.items()} == pytest.approx(by_name(run.config, run.initial, place), abs=1e-6)
    assert len(set(theirs.values())) == 3


@pytest.mark.parametrize(
    ('names', 'data', 'kept', 'said'),
    [
        (('no', 'perhaps', 'yes'), {}, True, ''),
        (('LABEL_0', 'LABEL_1', 'LABEL_2'), {}, True, ''),
        (('bad', 'fair', 'good'), {}, False, 'is of other labels (bad, fair, good): one for these begins anew'),
        (('no', 'YES', 'yes'), {}, False, 'is of other labels (no, YES, yes): one for these begins anew'),
        (('yes', 'no', 'perhaps'), {'labels': ('no', 'perhaps', 'yes')}, False, 'is of these labels in another order (yes, no, perhaps): one for these begins anew'),
        (('yes', 'no', 'perhaps'), {'labels': ('yes', 'no', 'perhaps')}, True, ''),
    ],
)
def test_a_head_is_taken_for_its_labels_alone(tmp_path, names, data, kept, said):
    place = named(tmp_path / 'hf', *names)
    run = assemble(config_of(place, tmp_path / 't.tsv', **data))
    assert run.config.data.labels == (data['labels'] if data else ('no', 'perhaps', 'yes'))
    assert ('classifier' in run.initial) is kept and 'encoder' in run.initial
    assert run.notes == ((f'the head of {place} {said}',) if said else ())


def test_a_run_that_goes_on_keeps_its_order(tmp_path):
    """With init_from or, once that is gone, without; and one from before, in the order of its data."""
    place = named(tmp_path / 'hf', 'yes', 'no', 'perhaps')
    for name, labels in (('new', ('yes', 'no', 'perhaps')), ('old', ('no', 'perhaps', 'yes'))):
        config = config_of(place, tmp_path / 't.tsv')
        run = assemble(config)
        run.config.data.labels = labels
        checkpoint.save_params(str(tmp_path / name), run.config, run.initial, place)
        assert assemble(config, workdir=str(tmp_path / name)).config.data.labels == labels
        shutil.move(place, tmp_path / 'moved')
        assert assemble(config, workdir=str(tmp_path / name)).config.data.labels == labels
        shutil.move(tmp_path / 'moved', place)


def test_tags_too(tmp_path):
    model, params = folder.load(str(CLASSIFIER))
    names, rng = ('B-PER', 'O', 'I-PER', 'I-LOC', 'B-LOC'), np.random.default_rng(0)
    model.module, model.body, model.num_labels = 't5x_lite.models.heads:TokenHead', 'bert_flax.bert:Bert', 5
    params = {name: part for name, part in params.items() if name in ('encoder', 'embeddings')}
    params['encoder'].pop('pooler', None)
    params['classifier'] = {'kernel': rng.normal(size=(model.d_model, 5)).astype(np.float32), 'bias': np.zeros(5, np.float32)}
    folder.save(str(tmp_path / 'hf'), model, params, str(CLASSIFIER), labels=names)
    (tmp_path / 't.conll').write_text(columns(sentences(40)))
    config = ner.get_config()
    config.init_from, config.data.train, config.data.seq_len, config.data.length_buckets = f'{tmp_path}/hf', f'{tmp_path}/t.conll', 16, ()
    run = assemble(config)
    assert run.config.data.labels == names and 'classifier' in run.initial and run.notes[0].startswith(f'labels are numbered as in {tmp_path}/hf')


def test_order_of_labels_by_hand():
    assert bases._in_order_of(('neg', 'pos'), ('POS', 'NEG')) == ('pos', 'neg')
    assert bases._in_order_of(('neg', 'pos'), ('pos', 'neg', 'none')) == bases._in_order_of(('a', 'A'), ('a', 'A')) == bases._in_order_of(('a', 'b'), ('a', 'c')) == ()
