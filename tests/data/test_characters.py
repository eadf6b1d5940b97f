"""Characters as tokens: ids, text that survives, folders and training."""

import json

import pytest

from t5x_lite.data import tokenizers
from t5x_lite.errors import UserError

TEXT = 'First Citizen:\nSpeak,  speak.\n\nAll:\n\té\u0301🙂\x00'


@pytest.fixture
def tokenizer():
    return tokenizers.train_characters([TEXT])


def test_ids_are_the_order_of_code_points(tokenizer):
    letters = sorted(set(TEXT))
    assert tokenizer.encode(TEXT) == [letters.index(letter) for letter in TEXT]
    assert (tokenizer.unk_id, tokenizer.eos_id, tokenizer.vocab_size) == (len(letters), len(letters) + 1, len(letters) + 2)
    assert tokenizer.bos_id == tokenizer.start_id == tokenizer.end_id == tokenizer.eos_id
    assert tokenizer.special_ids == {tokenizer.unk_id, tokenizer.eos_id} and tokenizer.sentinel_ids == ()
    starts = {tokenizer.token(index) for index in range(len(letters)) if not tokenizer.is_continuation[index]}
    assert starts == {' ', '\n', '\t'}


def test_text_survives(tokenizer):
    for one in (tokenizer, tokenizer.literal()):
        assert one.keeps_whitespace and one.decode(one.encode(TEXT), skip_special=False) == TEXT
        assert one.decode(one.encode_flat([TEXT, TEXT])[0]) == TEXT * 2
    assert tokenizer.encode('SxxS').count(tokenizer.unk_id) == 2  # each on its own
    assert tokenizer.encode('<|endoftext|>S') == [tokenizer.eos_id, tokenizer.id('S')]
    assert tokenizer.eos_id not in tokenizer.literal().encode('<|endoftext|>')
    assert len(tokenizer.literal().encode('<|endoftext|>')) == len('<|endoftext|>')
    assert tokenizer.encode_with_offsets('🙂 S')[1] == [(0, 1), (1, 2), (2, 3)]
    with pytest.raises(UserError, match='not Unicode'):
        tokenizer.encode('\ud800')
    letters = tokenizers.train_characters(['ACGT'])
    assert letters.keeps_whitespace and letters.decode([0, 1, 2, 3]) == 'ACGT'


def test_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path))
    loaded = tokenizers.load(str(tmp_path))
    assert loaded.fingerprint == tokenizer.fingerprint and loaded.keeps_whitespace and loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert (loaded.unk_id, loaded.eos_id, loaded.bos_id) == (tokenizer.unk_id, tokenizer.eos_id, tokenizer.bos_id)
    assert json.loads((tmp_path / 'tokenizer_config.json').read_text())['eos_token'] == '<|endoftext|>'
    transformers = pytest.importorskip('transformers')
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in (TEXT, 'unseen: xyz', 'a <|endoftext|>'):
        assert theirs(text, add_special_tokens=False)['input_ids'] == tokenizer.encode(text)
    assert theirs.decode(tokenizer.encode(TEXT)) == TEXT and theirs.eos_token_id == tokenizer.eos_id


def test_training_refuses_what_cannot_work():
    with pytest.raises(UserError, match=r'--vocab_size=4 is too small: the text has 3 different characters, .* need 5 pieces'):
        tokenizers.train_characters(['abc'], 4)
    assert tokenizers.train_characters(['abc'], 5).vocab_size == tokenizers.train('characters', ['ab', 'bc'], None, False).vocab_size == 5
    for nothing in ([], ['']):
        with pytest.raises(UserError, match='no text'):
            tokenizers.train_characters(nothing)
