"""Weight files: what the library wrote is read, what we write the library reads, and a broken file is named."""

import json
import os
import shutil
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy as library

from t5x_lite.errors import UserError
from t5x_lite.interop import safetensors
from tests.interop import SHARDED, SINGLE


def tensors():
    random = np.random.default_rng(0)
    return {f'part.{i}.weight': random.standard_normal((4 + i, 5), np.float32) for i in range(6)} | {'scalar': np.float32(3).reshape(())}


def put(folder, values, max_shard_bytes=10**9):
    safetensors.write(str(folder), {name: value.shape for name, value in values.items()}, values.__getitem__, max_shard_bytes)


def refusal(folder) -> str:
    with pytest.raises(UserError) as raised:
        with safetensors.open_weights(str(folder)) as weights:
            for name in weights:
                weights.read(name)
    message = str(raised.value)
    assert '\n' not in message
    return message


def test_library_reads_what_we_write(tmp_path):
    put(tmp_path, tensors())
    with library.safe_open(tmp_path / 'model.safetensors', 'np') as file:
        assert file.metadata() == {'format': 'pt'}  # transformers insists
        assert {name: file.get_tensor(name).tobytes() for name in file.keys()} == {
            name: value.tobytes() for name, value in tensors().items()
        }


def test_transposed_views_are_written_as_they_read(tmp_path):
    """The library alone would write the untransposed memory."""
    value = np.arange(6, dtype=np.float32).reshape(2, 3)
    put(tmp_path, {'kernel': value.T})
    np.testing.assert_array_equal(library.load_file(tmp_path / 'model.safetensors')['kernel'], value.T)


@pytest.mark.parametrize('limit', [1, 100, 200, 10**6])
def test_shards_hold_everything_once_and_keep_to_their_size(tmp_path, limit):
    put(tmp_path, tensors(), limit)
    files = sorted(tmp_path.glob('*.safetensors'))
    held = [library.load_file(file) for file in files]
    assert sorted(name for part in held for name in part) == sorted(tensors())
    assert all(sum(value.nbytes for value in part.values()) <= limit or len(part) == 1 for part in held)
    assert (tmp_path / 'model.safetensors.index.json').exists() == (len(files) > 1)
    if len(files) > 1:
        assert [file.name for file in files] == [f'model-{i + 1:05d}-of-{len(files):05d}.safetensors' for i in range(len(files))]
        placed = json.loads((tmp_path / 'model.safetensors.index.json').read_text())['weight_map']
        assert placed == {name: file.name for file, part in zip(files, held, strict=True) for name in part}
    with safetensors.open_weights(str(tmp_path)) as weights:
        assert {name: weights.read(name).tobytes() for name in weights} == {name: value.tobytes() for name, value in tensors().items()}


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
def test_every_float_is_read_in_its_own_precision(tmp_path, dtype):
    value = np.array([[1.5, -2.25], [0.125, 65504.0]]).astype(dtype)
    library.save_file({'w': value}, tmp_path / 'model.safetensors')
    with safetensors.open_weights(str(tmp_path)) as weights:
        assert weights.shape('w') == (2, 2)
        assert weights.read('w').dtype == dtype
        assert weights.read('w').tobytes() == value.tobytes()


def test_integers_are_not_weights(tmp_path):
    library.save_file({'w': np.ones(3, np.int8)}, tmp_path / 'model.safetensors')
    assert 'w holds I8' in refusal(tmp_path)


def test_writing_holds_one_shard(tmp_path):
    values = {str(i): np.full(250_000, i, np.float32) for i in range(8)}
    tracemalloc.start()
    put(tmp_path, {name: value[::-1] for name, value in values.items()}, max_shard_bytes=1_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_100_000  # of 8,000,000: the shard being written, and the next being made


def test_truncation_is_named_wherever_it_falls(tmp_path):
    whole = (SINGLE / 'model.safetensors').read_bytes()
    header = int.from_bytes(whole[:8], 'little')
    for size in (0, 5, 8, 9, 8 + header // 2, 8 + header, 8 + header + 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / 'model.safetensors').write_bytes(whole[:size])
        message = refusal(tmp_path)
        assert 'model.safetensors: ' in message and ('truncated' in message or size < 8), message


@pytest.mark.parametrize(
    'content',
    [
        b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n',
        (10**15).to_bytes(8, 'little') + b'{}',
        (2).to_bytes(8, 'little') + b'[]',
        (2).to_bytes(8, 'little') + b'!!',
        (2).to_bytes(8, 'little') + b'\xff\xfe',
        (13).to_bytes(8, 'little') + b'{"w": {"a":1}}',
        (100_000).to_bytes(8, 'little') + b'[' * 100_000,
        (62).to_bytes(8, 'little') + b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": ["a","b"]}}'[:62],
        (61).to_bytes(8, 'little') + b'{"w": {"dtype": "XYZ", "shape": [1], "data_offsets": [0, 4]}}0000',
        (61).to_bytes(8, 'little') + b'{"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}0000',
    ],
)
def test_corrupt_headers_are_named(tmp_path, content):
    (tmp_path / 'model.safetensors').write_bytes(content)
    assert 'model.safetensors: ' in refusal(tmp_path)


def test_no_random_damage_to_a_header_ends_in_a_traceback(tmp_path):
    """Either it is refused in words, or what is read is still of floats."""
    whole, random = (SINGLE / 'model.safetensors').read_bytes(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole[:12000])
        for position in random.integers(0, 400, random.integers(1, 4)):
            damaged[position] = random.integers(256)
        (tmp_path / 'model.safetensors').write_bytes(bytes(damaged) + whole[12000:])
        try:
            with safetensors.open_weights(str(tmp_path)) as weights:
                for name in weights:
                    assert weights.read(name).shape == weights.shape(name)
        except UserError as error:
            assert 'model.safetensors' in str(error)


def test_a_missing_shard_is_named(tmp_path):
    shutil.copytree(SHARDED, tmp_path, dirs_exist_ok=True)
    os.remove(tmp_path / 'model-00002-of-00003.safetensors')
    assert 'model-00002-of-00003.safetensors: this shard' in refusal(tmp_path)


def test_a_truncated_shard_is_named(tmp_path):
    shutil.copytree(SHARDED, tmp_path, dirs_exist_ok=True)
    shard = tmp_path / 'model-00003-of-00003.safetensors'
    shard.write_bytes(shard.read_bytes()[:-10])
    assert 'model-00003-of-00003.safetensors: truncated' in refusal(tmp_path)


def test_a_tensor_that_the_index_misplaces_is_named(tmp_path):
    shutil.copytree(SHARDED, tmp_path, dirs_exist_ok=True)
    index = tmp_path / 'model.safetensors.index.json'
    content = json.loads(index.read_text())
    content['weight_map']['bert.nothing'] = 'model-00001-of-00003.safetensors'
    index.write_text(json.dumps(content))
    assert 'tensor bert.nothing is missing' in refusal(tmp_path)


@pytest.mark.parametrize(
    'content', ['', '{', '[]', '{}', '{"weight_map": {}}', '{"weight_map": {"w": "../model.safetensors"}}', '{"weight_map": {"w": 3}}']
)
def test_a_broken_index_is_named(tmp_path, content):
    (tmp_path / 'model.safetensors.index.json').write_text(content)
    assert 'model.safetensors.index.json: not an index' in refusal(tmp_path)


def test_a_folder_without_weights_says_what_it_has(tmp_path):
    assert 'no model.safetensors' in refusal(tmp_path)
    (tmp_path / 'pytorch_model.bin').touch()
    assert 'only pytorch_model.bin, a pickle' in refusal(tmp_path)
