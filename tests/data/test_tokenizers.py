"""Tokenizer folders: settings that are honoured, what is saved is what loads, and what is broken."""

import json

import numpy as np
import pytest

from t5x_lite.data import tokenizers
from t5x_lite.data.characters import train_characters
from t5x_lite.errors import UserError
from tests.data.wordpiece_cases import SPECIALS, WORDS, folder
from tests.fixtures.make_tokenizer_fixtures import FOLDER


def test_special_tokens_may_be_spelt_otherwise(tmp_path):
    config = dict(do_lower_case=False, unk_token='<?>', mask_token={'content': '<blank>', 'lstrip': False}, pad_token=None)
    tokenizer = tokenizers.load(folder(tmp_path, ['<?>', '<blank>', 'a'], **config))
    assert (tokenizer.unk_id, tokenizer.mask_id, tokenizer.encode('a<blank>b')) == (0, 1, [2, 1, 0])


def test_added_tokens_of_the_config_are_whole(tmp_path):
    added = {'6': {'content': '<new thing>', 'special': False}}
    tokenizer = tokenizers.load(folder(tmp_path, SPECIALS + ['a'], do_lower_case=True, added_tokens_decoder=added))
    assert tokenizer.vocab_size == 7 and tokenizer.encode('a <new thing> a') == [5, 6, 5]
    ids, lengths = tokenizer.literal().encode_flat(['a <new thing> a', ''])
    assert ids.tolist() == [5, 6, 5] and lengths.tolist() == [3, 0]


@pytest.mark.parametrize('kind', ['wordpiece', 'byte_bpe', 'gpt1', 'sentencepiece', 'characters'])
def test_ids_that_are_no_tokens_are_refused(tmp_path, kind):
    if kind == 'characters':
        tokenizer = train_characters(['a cab'])
    else:
        tokenizer = load(tmp_path) if kind == 'wordpiece' else tokenizers.load(str(FOLDER / kind))
    size, ids = tokenizer.vocab_size, tokenizer.encode('a')
    for wrong in (-1, -4000, 2 * size + 2048, 2**31, 2**40):
        with pytest.raises(UserError, match=f'^id {wrong} is no token: the vocabulary has {size:,}, numbered from 0'):
            tokenizer.decode([*ids, wrong])
        with pytest.raises(UserError, match=f'^id {wrong} is no token'):
            tokenizer.decode(np.array([wrong]), skip_special=False)
    text = tokenizer.decode(ids)
    assert text.strip() == 'a'
    for padded in (size, size + 127, size + 1023):  # rows that pad a model's table
        assert tokenizer.decode([*ids, padded]) == tokenizer.decode(np.array([*ids, padded])) == text


def load(path, lowercase: bool = True):
    return tokenizers.load(folder(path, SPECIALS + WORDS, do_lower_case=lowercase))


def test_saved_and_loaded_from_either_file_is_the_same(tmp_path):
    cased, uncased = load(tmp_path / 'cased', lowercase=False), load(tmp_path / 'uncased')
    for name, tokenizer in (('c', cased), ('u', uncased)):
        path = tmp_path / name
        tokenizer.save(str(path))
        assert tokenizers.load(str(path)).fingerprint == tokenizer.fingerprint
        (path / 'tokenizer.json').unlink()
        assert tokenizers.load(str(path)).fingerprint == tokenizer.fingerprint
    assert cased.fingerprint != uncased.fingerprint


def test_truncation_and_padding_of_a_tokenizer_json_are_ignored(tmp_path):
    load(tmp_path).save(str(tmp_path))
    state = json.loads((tmp_path / 'tokenizer.json').read_text())
    state['truncation'] = {'direction': 'Right', 'max_length': 4, 'strategy': 'LongestFirst', 'stride': 0}
    state['padding'] = {
        'strategy': {'Fixed': 8},
        'direction': 'Right',
        'pad_to_multiple_of': None,
        'pad_id': 0,
        'pad_type_id': 0,
        'pad_token': '[PAD]',
    }
    (tmp_path / 'tokenizer.json').write_text(json.dumps(state))
    assert len(tokenizers.load(str(tmp_path)).encode('a a a a a a')) == 6


def test_broken_folders_are_named(tmp_path):
    cases = {
        'absent': (None, None, 'no such tokenizer folder'),
        'empty': ('other.txt', b'', 'no tokenizer in this folder'),
        'latin': ('vocab.txt', b'[UNK]\ncaf\xe9\n', 'not UTF-8'),
        'no_unknown': ('vocab.txt', b'[PAD]\na\n', r'no \[UNK\]'),
        'nothing': ('vocab.txt', b'', r'no \[UNK\]'),
        'json': ('tokenizer.json', b'{"model": ', 'not a tokenizer'),
        'config': ('tokenizer_config.json', b'{', 'not JSON'),
    }
    for name, (file, content, message) in cases.items():
        if file:
            (tmp_path / name).mkdir()
            (tmp_path / name / file).write_bytes(content)
        if name == 'config':
            (tmp_path / name / 'vocab.txt').write_text('[UNK]\n')
        with pytest.raises(UserError, match=message) as error:
            tokenizers.load(str(tmp_path / name))
        assert str(tmp_path / name) in str(error.value)


def test_what_we_save_loads_in_transformers(tmp_path):
    transformers = pytest.importorskip('transformers')
    trained = tokenizers.train_wordpiece(['the running dogs ran', 'the dog is Running'] * 5, 60, lowercase=False)
    trained.save(str(tmp_path))
    texts = ['the Running dog', 'the dogs ran.', '[MASK] ran']
    for theirs in (transformers.AutoTokenizer.from_pretrained(str(tmp_path)), transformers.BertTokenizer.from_pretrained(str(tmp_path))):
        assert theirs(texts, add_special_tokens=False)['input_ids'] == trained.encode_batch(texts)
        pair = theirs('the dog', 'ran')
        assert pair['input_ids'] == [2, *trained.encode('the dog'), 3, *trained.encode('ran'), 3]
        assert pair['token_type_ids'][-2:] == [1, 1]
