"""Folders of GPT and T5 alike: bit for bit there and back, the module's own tree, through a workdir."""

import pytest

from t5x_lite import assemble
from t5x_lite.interop import conversion, folder, safetensors
from t5x_lite.training import checkpoint
from tests.interop import GPT1, GPT2, T5, T5_1_1
from tests.interop.language_models import expected, leaves, made_by_the_module
from tests.interop.test_folder import assert_bitwise, tensors

EACH = pytest.mark.parametrize('source', [GPT2, GPT1, T5, T5_1_1], ids=lambda path: path.name)


@EACH
@pytest.mark.parametrize('shard', [10_000, 10**9])
def test_round_trip_is_bitwise(source, shard, tmp_path):
    config, params = folder.load(str(source))
    folder.save(str(tmp_path / 'out'), config, params, max_shard_bytes=shard)
    assert_bitwise(tensors(tmp_path / 'out'), tensors(source))
    assert (tmp_path / 'out' / safetensors.INDEX).exists() == (shard == 10_000)
    again, params_again = folder.load(str(tmp_path / 'out'))
    assert again == config
    assert_bitwise(leaves(params_again), leaves(params))


@EACH
def test_the_tree_is_the_one_that_the_module_makes(source):
    config, params = folder.load(str(source))
    assert {path: leaf.shape for path, leaf in leaves(params).items()} == made_by_the_module(config, expected(source))


@EACH
def test_through_a_workdir_and_back(source, tmp_path):
    native, back = str(tmp_path / 'native'), str(tmp_path / 'back')
    conversion.to_native(str(source), native)
    config, params = checkpoint.load_params(native)
    expected_config, expected_params = folder.load(str(source))
    assert config.model == expected_config and config.loss == 't5x_lite.training.losses:LmLoss'
    if source in (GPT1, GPT2):
        assert (config.data.source, config.data.seq_len) == ('t5x_lite.data.language_modelling:CausalLm', expected_config.max_positions)
    else:
        assert (config.data.source, config.data.seq_len) == ('t5x_lite.data.span_corruption:SpanCorruption', 512)
    conversion.to_hf(native, back)
    assert_bitwise(tensors(back), tensors(source))
    for path in (str(source), native):
        architecture, params, _ = assemble.load_initial(path)
        assert architecture == expected_config
        assert_bitwise(leaves(params), leaves(expected_params))
