"""BERT beside transformers itself, where torch and transformers are installed: both ways, from the same folder."""

import shutil

import numpy as np
import pytest

from t5x_lite.interop import folder
from tests.bert_flax.hf_folders import ALL, apply, batch_of, minilm, near, real
from tests.interop import SINGLE


LIVE = {
    'erf': (
        'BertForPreTraining',
        dict(hidden_act='gelu', num_hidden_layers=4, hidden_size=48, num_attention_heads=6, intermediate_size=100, vocab_size=301),
    ),
    'tanh': (
        'BertForPreTraining',
        dict(hidden_act='gelu_pytorch_tanh', layer_norm_eps=1e-5, hidden_size=16, num_attention_heads=1, vocab_size=128),
    ),
    'fast': ('BertForMaskedLM', dict(hidden_act='gelu_fast', hidden_size=24, num_attention_heads=3, type_vocab_size=3, vocab_size=64)),
    'relu': ('BertForMaskedLM', dict(hidden_act='relu', hidden_size=32, num_attention_heads=4, max_position_embeddings=13, vocab_size=99)),
    'encoder': ('BertModel', dict(hidden_act='gelu', hidden_size=32, num_attention_heads=2, vocab_size=50)),
    'classifier': (
        'BertForSequenceClassification',
        dict(hidden_act='gelu', hidden_size=32, num_attention_heads=2, vocab_size=50, num_labels=5),
    ),
    'tags': ('BertForTokenClassification', dict(hidden_act='gelu', hidden_size=32, num_attention_heads=2, vocab_size=50, num_labels=4)),
    'choices': ('BertForMultipleChoice', dict(hidden_act='gelu', hidden_size=32, num_attention_heads=2, vocab_size=50)),
    'spans': ('BertForQuestionAnswering', dict(hidden_act='gelu', hidden_size=32, num_attention_heads=2, vocab_size=50)),
}


@pytest.mark.parametrize('name', LIVE)
def test_live_comparison(name, transformers, tmp_path):
    """Both ways: their random model through ours, and ours, exported, through theirs."""
    import torch

    architecture, fields = LIVE[name]
    torch.manual_seed(0)
    sizes = dict(num_hidden_layers=2, intermediate_size=64, max_position_embeddings=24, initializer_range=0.02)
    theirs = getattr(transformers, architecture)(transformers.BertConfig(**{**sizes, **fields})).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            parameter.normal_(1.0 if key.endswith('LayerNorm.weight') else 0.0, 0.2)
    theirs.save_pretrained(tmp_path / 'theirs')
    config, params = folder.load(str(tmp_path / 'theirs'))
    random = np.random.default_rng(1)
    arrays = {
        'input_ids': random.integers(0, fields['vocab_size'], (4, 13)),
        'token_type_ids': random.integers(0, 2, (4, 13)),
        'attention_mask': (np.arange(13) < np.array([13, 7, 1, 12])[:, None]).astype(np.int64),
    }
    if architecture == 'BertForMultipleChoice':
        arrays = {key: value.reshape(2, 2, 13) for key, value in arrays.items()}
    folder.save(str(tmp_path / 'ours'), config, params, max_shard_bytes=20_000)
    again, info = getattr(transformers, architecture).from_pretrained(tmp_path / 'ours', output_loading_info=True)
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
    outputs = apply(config, params, batch_of(arrays))
    for model in (theirs, again.eval()):
        with torch.no_grad():
            out = model(**{key: torch.tensor(value) for key, value in arrays.items()}, output_hidden_states=True)
        if architecture == 'BertForMultipleChoice':
            near(outputs['logits'], out.logits.numpy())
            continue
        near(real(arrays, outputs['hidden']), real(arrays, out.hidden_states[-1]))
        if architecture == 'BertForQuestionAnswering':
            near(real(arrays, outputs['start_logits']), real(arrays, out.start_logits))
            near(real(arrays, outputs['end_logits']), real(arrays, out.end_logits))
        for ours, key in (('pooled', 'pooler_output'), ('nsp_logits', 'seq_relationship_logits')):
            if getattr(out, key, None) is not None:
                near(outputs[ours], getattr(out, key).numpy())
        if architecture == 'BertForSequenceClassification':
            near(outputs['logits'], out.logits.numpy())
        if architecture == 'BertForTokenClassification':
            near(real(arrays, outputs['logits']), real(arrays, out.logits))
        if 'mlm_logits' in outputs:
            logits = out.prediction_logits if architecture == 'BertForPreTraining' else out.logits
            near(real(arrays, outputs['mlm_logits'][..., : config.vocab_size]), real(arrays, logits))
    state, state_again = theirs.state_dict(), again.state_dict()
    assert state.keys() == state_again.keys() and all(torch.equal(state[key], state_again[key]) for key in state)


@ALL
def test_exported_folders_load_in_transformers(source, transformers, tmp_path):
    """AutoModel and the architecture's own class find every key, and AutoTokenizer gives the same ids."""
    config, params = folder.load(str(source))
    out = tmp_path / 'out'
    folder.save(str(out), config, params, str(source), max_shard_bytes=50_000)
    architecture = folder.read_fields(str(out))['architectures'][0]
    _, info = getattr(transformers, architecture).from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
    _, info = transformers.AutoModel.from_pretrained(out, output_loading_info=True)
    assert not info['missing_keys'] and not info['mismatched_keys'], info
    text = 'The model and a wordless sentence, false? Zq!'
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(path)(text)['input_ids'] for path in (out, source))
    assert ours == theirs and ours.count(1) < 2


def test_a_tokenizer_of_ours_loads_in_transformers(transformers, tmp_path):
    """From vocab.txt alone, completed by us."""
    (tmp_path / 'vocab').mkdir()
    shutil.copy(SINGLE / 'vocab.txt', tmp_path / 'vocab')
    folder.save(str(tmp_path / 'out'), *folder.load(str(SINGLE)), str(tmp_path / 'vocab'))
    text = 'The model and a wordless sentence, false? Zq! [MASK]'
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(path)(text)['input_ids'] for path in (tmp_path / 'out', SINGLE))
    assert ours == theirs and ours.count(1) < 2


def test_a_real_folder_beside_transformers(transformers):
    import torch

    source = minilm()
    texts = [('How many roads?', 'Forty-two, so far.'), ('Zoë',) * 2]
    given = transformers.AutoTokenizer.from_pretrained(source)(texts, padding=True, return_tensors='pt')
    with torch.no_grad():
        out = transformers.AutoModel.from_pretrained(source).eval()(**given)
    arrays = {key: value.numpy() for key, value in given.items()}
    outputs = apply(*folder.load(str(source)), batch_of(arrays))
    near(real(arrays, outputs['hidden']), real(arrays, out.last_hidden_state))
    near(outputs['pooled'], out.pooler_output.numpy())
