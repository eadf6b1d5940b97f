"""Several heads on one body: where their parameters lie, and that each computes what it would alone."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite import several
from t5x_lite.config import DataConfig, HeadConfig, HeadModelConfig
from t5x_lite.errors import UserError
from t5x_lite.models.dropout import DropoutKey
from t5x_lite.models.several import find_body, made, params_of
from t5x_lite.training import paths
from t5x_lite.training.step import dummy_batch
from tests import several_material as material
from tests.models import test_heads

SHORT = DataConfig(seq_len=8)
BODIES = {name: dataclasses.replace(body, module=material.BERT.module) for name, body in test_heads.BODIES.items()}


def of_body(name):
    # Finished configs of other tests' bodies, whose positions are fewer.
    heads = tuple(material.head(each, seq_len=8) for each in material.SOURCES)
    return material.config(*heads, model=BODIES[name])


def begun(*configs):
    """The parameters that each begins with."""

    def init():
        return [nn.unbox(made(config).init(jax.random.key(0), dummy_batch())['params']) for config in configs]

    return jax.jit(init)()


@pytest.mark.parametrize('body', BODIES)
def test_each_head_computes_what_it_computes_alone(body):
    config = of_body(body)
    (everything,), rows = begun(config), test_heads.batch()
    key = DropoutKey.create(0, jnp.int32(3), jnp.arange(3, dtype=jnp.uint32)) if body == 'bert' else None

    def both(params, rows):
        found = {}
        for name, one in several.apart(config).items():
            of_head = rows | {several.FEATURE + name: jnp.ones(3, jnp.int32)}
            ours = made(config).apply({'params': params}, of_head, dropout=key)
            found[name] = ours, made(one).apply({'params': params_of(params, name)}, rows, dropout=key)
        return found

    for name, (ours, theirs) in jax.jit(both)(everything, rows).items():
        assert ours.keys() == theirs.keys() and 'hidden' in ours
        for output in ours:
            np.testing.assert_array_equal(ours[output], theirs[output], err_msg=f'{name} {output}')


@pytest.mark.parametrize('body', ('bert', 'gpt'))
def test_heads_begin_as_they_would_alone(body):
    config = of_body(body)
    singles = several.apart(config)
    everything, *alone = begun(config, *singles.values())
    everything, seen = paths.leaves(everything), set()
    for name, tree in zip(singles, alone, strict=True):
        for path, leaf in paths.leaves(tree).items():
            here = path if path in everything else f'heads/{name}/{path}'
            np.testing.assert_array_equal(leaf, everything[here], err_msg=path)
            seen.add(here)
    assert seen == everything.keys()
    assert {path for path in seen if path.startswith('heads/')} == {f'heads/{path}' for path in (
        'mood/classifier/kernel', 'mood/classifier/bias', 'tags/classifier/kernel', 'tags/classifier/bias', 'tags/crf/transitions', 'tags/crf/start',
        'tags/crf/end', 'spans/span/kernel', 'spans/span/bias',
    )}  # fmt: skip


def test_what_is_no_head_is_refused():
    heads = (material.head('mood'), HeadConfig('mlm', loss='x:Y', model=HeadModelConfig('bert_flax.bert:BertForMaskedLm'), data=SHORT))
    with pytest.raises(UserError, match='config.heads.mlm.model.module=bert_flax.bert:BertForMaskedLm is no head'):
        made(material.config(*heads))
    with pytest.raises(UserError, match='config.heads is empty, and t5x_lite.models.several:SeveralHeads is made of several'):
        made(dataclasses.replace(material.config(), heads=()))
    alone = dataclasses.replace(material.BERT, module='t5x_lite.models.heads:SequenceHead')
    with pytest.raises(UserError, match='config.heads names mood, tags, spans, and config.model.module=.*SequenceHead is one model; take'):
        made(material.config(model=alone))


class OnAnother(test_heads.SequenceHead):
    body = 't5x_lite.models.language_model:Decoder'


def test_bodies_that_differ_are_refused():
    free = dataclasses.replace(material.BERT, body='')
    one = HeadConfig('one', loss='x:Y', model=HeadModelConfig('bert_flax.bert:BertForClassification'), data=SHORT)
    other = HeadConfig('other', loss='x:Y', model=HeadModelConfig('tests.models.test_several:OnAnother'), data=SHORT)
    assert find_body(material.config(one, material.head('mood'), model=free)) == 'bert_flax.bert:Bert'
    assert find_body(material.config(model=free)) == ''
    with pytest.raises(UserError, match='different bodies: one for bert_flax.bert:Bert, other for t5x_lite.models.language_model:Decoder; '):
        find_body(material.config(one, other, model=free))
