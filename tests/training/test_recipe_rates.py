"""Learning rates beyond published recipes are warned of, by what learns; those of the recipes are not."""

import dataclasses
import types

import pytest

from t5x_lite import finding_rates
from t5x_lite.config import Adapters, Optimizer, TuneConfig
from t5x_lite.training import partitioning, range_test, recipe_rates
from t5x_lite.training.step import make_program
from tests.training import small

HEAD = ('mlm/.*', 'nsp/.*', 'encoder/pooler/.*')
LORA = TuneConfig(lora=(('.*/attention/query', 2, 4.0),))
# Strategy, other fields, a rate as published, one beyond, and what is said of that.
RECIPES = {
    'full': (TuneConfig(), {}, 5e-5, 4e-4, '0.0004 for pretrained weights is beyond 0.0001 (Devlin et al.'),
    'full, rates by layer': (TuneConfig(layer_decay=0.5), {}, 1e-4, 8e-4, '0.0004 for pretrained weights is beyond 0.0001'),
    'a factor on some': (TuneConfig(rates=(('encoder/layers/1/.*', 10.0),)), {}, 1e-5, 2e-5, '0.0002 for pretrained weights'),
    'adafactor': (TuneConfig(), {'optim': {'name': Optimizer.adafactor}}, 1e-3, 3e-2, '0.03 for pretrained weights is beyond 0.01 (Raffel et al.'),
    'lora': (LORA, {}, 5e-4, 5e-3, '0.005 for LoRA is beyond 0.002 (Hu et al.'),
    'adapters': (TuneConfig(adapters=Adapters.houlsby), {}, 3e-3, 1e-2, '0.01 for adapters is beyond 0.003 (Houlsby'),
    'ia3': (TuneConfig(ia3=True), {}, 3e-3, 3e-2, '0.03 for (IA)^3 is beyond 0.01'),
    'prompt': (TuneConfig(prompt=4), {'model': {'max_positions': 32}}, 0.3, 1.0, '1 for prompts is beyond 0.5 (Lester'),
    'prefix': (TuneConfig(prefix=4), {}, 2e-2, 0.1, '0.1 for prefixes is beyond 0.03'),
    'biases': (TuneConfig(train=('.*/bias', *HEAD)), {}, 1e-3, 2e-3, '0.002 for pretrained biases is beyond 0.001 (Ben Zaken'),
    'head only': (TuneConfig(train=HEAD), {}, 1e-3, 5e-2, '0.05 for new layers is beyond 0.01'),
    'unfrozen later': (TuneConfig(train=HEAD, unfreeze=((0.5, 'encoder/layers/.*', 0.01),)), {}, 1e-3, 5e-2, '0.0005 for pretrained weights is beyond 0.0001'),
}  # fmt: skip


def said(tune, rate, **fields):
    optim = {'learning_rate': rate} | fields.pop('optim', {})
    fields = {'init_from': 'somewhere', 'init_fresh': HEAD} | fields
    config = small.config(tune=tune, optim=optim, **fields)
    mesh = partitioning.make_mesh(config, small.one_device())
    steps = {0, *(int(begin * config.steps) for begin, _, _ in tune.unfreeze)}
    return recipe_rates.of_run(sized(config), [make_program(config, mesh, step).tuning for step in steps])


def sized(config, layers=12, width=768):
    """As if the tiny model were as large as those of the recipes, or of another size."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_layers=layers, d_model=width))


@pytest.mark.parametrize('name', RECIPES)
def test_the_rates_of_recipes_pass_and_those_beyond_are_named(name):
    tune, fields, published, beyond, words = RECIPES[name]
    assert said(tune, published, **fields) == ''
    assert words in said(tune, beyond, **fields)


def test_without_pretrained_weights_any_rate_is_a_matter_of_taste():
    assert said(TuneConfig(), 1.0, init_from='') == '' == said(TuneConfig(), 1.0, init_weights=False)
    assert said(TuneConfig(), 1e-2, optim={'name': Optimizer.lamb}) == ''


def test_going_on_with_pretraining_may_go_higher():
    """config.data.path is a corpus."""
    config = small.config(optim={'learning_rate': 4e-4}, init_from='somewhere')
    config = sized(config)
    config.data.path = ('corpus',)
    assert recipe_rates.beyond(config, {'encoder/layers/mlp/wi/kernel': 1.0}) == ''
    config.data.path = ()
    assert 'beyond 0.0001' in recipe_rates.beyond(config, {'encoder/layers/mlp/wi/kernel': 1.0})


@pytest.mark.parametrize('layers, width, limit', [
    (12, 768, 1e-4), (24, 1024, 1e-4), (2, 1024, 1e-4 * 6**0.5), (24, 384, 2e-4), (6, 384, 2e-4 * 2**0.5), (2, 128, 6e-4 * 6**0.5),
])  # fmt: skip
def test_small_models_bear_more(layers, width, limit):
    def beyond(rate, tune=None, **optim):
        config = sized(small.config(optim={'learning_rate': rate} | optim, init_from='somewhere'), layers, width)
        return recipe_rates.beyond(config, {tune or 'encoder/layers/mlp/wi/kernel': 1.0})

    assert beyond(limit) == '' and f'is beyond {limit:.3g} (Devlin' in beyond(1.01 * limit)
    assert (f'; with {layers} layers of {width} instead of 12 of 768, ' in beyond(1.01 * limit)) == (limit > 1e-4)
    assert 'beyond 0.01 ' in beyond(2e-2, name=Optimizer.adafactor) and 'beyond 0.001 ' in beyond(2e-3, 'encoder/layers/mlp/wi/bias')
    assert 'beyond 0.002 ' in beyond(3e-3, 'encoder/layers/attention/query/lora_a')


def test_the_quickstart_is_not_warned_of():
    """2 layers of 128 at 1e-3 (launch/quickstart_bert.sh); at ten times that it is."""
    quickstart = sized(small.config(optim={'learning_rate': 1e-3}, init_from='somewhere'), 2, 128)
    assert recipe_rates.beyond(quickstart, {'encoder/layers/mlp/wi/kernel': 1.0}) == ''
    quickstart.optim.learning_rate = 1e-2
    assert 'with 2 layers of 128 instead of 12 of 768, 14.7 times as much' in recipe_rates.beyond(quickstart, {'encoder/layers/mlp/wi/kernel': 1.0})


def test_the_finder_names_the_source_whole():
    config = small.config(tune=TuneConfig(), optim={'learning_rate': 1e-5}, init_from='somewhere', init_fresh=HEAD)
    tunings = [make_program(config, partitioning.make_mesh(config, small.one_device())).tuning]
    found = finding_rates.said(types.SimpleNamespace(config=sized(config, 12, 768)), range_test.Finding(4e-4, 1e-3, None), tunings)
    assert 'Sun et al. (2019) see 4e-4 forget what was pretrained): so short a test does not see' in found
