"""Recipes on a person's own small file: what it finds there, and that a run of it answers."""

import json

import pytest

from tests.commands import forked, material
from tests.data.tagged_material import columns, sentences

LABELLED = {
    'sentiment': ('text,label\n', '{} of a kind,{}\n', ('pos', 'neg')),
    'spam': ('message,class\n', '{} of a kind,{}\n', ('spam', 'ham')),
    'pairs': ('premise,hypothesis,label\n', '{} of a kind,it is so,{}\n', ('yes', 'no')),
    'similarity': ('sentence1,sentence2,score\n', '{} of a kind,it is so,{}\n', ('0.5', '3.2', '5')),
    'multi_label': ('text,labels\n', '{} of a kind,{}\n', ('a|b', 'b', '')),
}
SMALL = ('--config.data.seq_len=32', '--config.batch_size=8', '--config.eval.batch_size=8', '--config.epochs=1', '--config.log.tensorboard=False')
CORPUS = ('--config.steps=1', '--config.batch_size=4', '--config.data.seq_len=32', '--config.eval.batches=1', '--config.log.tensorboard=False')
TEXTS = [{'prompt': f'ab cd {n}', 'completion': f'ef gh {n}', 'text': f'abc def {n}', 'summary': f'abc {n}', 'en': f'cab {n}', 'de': f'bac {n}'} for n in range(12)]


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    """Files of a person, and a GPT and a T5 of a layer after a step."""
    place = tmp_path_factory.mktemp('recipes')
    for name, (header, row, labels) in LABELLED.items():
        (place / f'{name}.csv').write_text(header + ''.join(row.format(f'good {n}', labels[n % len(labels)]) for n in range(30)))
    (place / 'domain_ner.conll').write_text(columns(sentences(30)))
    paragraphs = [{'context': f'it was bo {n} in two .', 'qas': [{'id': str(n), 'question': 'who was it ?', 'answers': [{'text': f'bo {n}'}]}]} for n in range(8)]
    paragraphs[3]['qas'][0]['answers'][0]['text'] = 'nobody'
    (place / 'custom_qa.json').write_text(json.dumps({'data': [{'title': 't', 'paragraphs': paragraphs}]}))
    (place / 'texts.jsonl').write_text('\n'.join(map(json.dumps, TEXTS)))
    turns = [{'turns': [f'ab {n}', f'cd {n}', f'ef {n}', f'gh {n}']} for n in range(8)]
    (place / 'dialogues.jsonl').write_text('\n'.join(map(json.dumps, turns)))
    texts = material.texts(place / 'texts', documents=12)
    for kind, tokenizer in (('gpt', 'byte_bpe'), ('t5', 'sentencepiece')):
        material.corpus(place / kind, texts, tokenizer, 300)
        sizes = [f'--config.model.{name}={size}' for name, size in (('num_layers', 1), ('d_model', 16), ('num_heads', 2), ('d_ff', 16))]
        forked.run('train', f'--config=configs/{kind}_small_corpus.py', f'--config.data.path={place}/{kind}', f'--workdir={place}/{kind}_run', *sizes, *CORPUS).success
    return place


def flags(place, name, base, data, workdir='never'):
    return (f'--config=configs/{name}', f'--config.init_from={base}', f'--config.data.train={place}/{data}', f'--workdir={place}/{workdir}', *SMALL)


@pytest.mark.parametrize('name', ['spam', 'pairs', 'similarity', 'multi_label', 'domain_ner', 'custom_qa'])
def test_heads_find_what_is_there(place, name):
    data = f'{name}.csv' if name in LABELLED else f'{name}.conll' if 'ner' in name else f'{name}.json'
    more = ('--config.data.max_question=8', '--config.data.stride=8') * (name == 'custom_qa')
    shown = forked.run('train', *flags(place, f'{name}.py', material.PRETRAINED, data), *more, '--dry_run').success
    said = {
        'spam': 'learns: ', 'pairs': "text 'premise' and 'hypothesis' (guessed)", 'similarity': 'targets: mean', 'multi_label': 'labels an example: ',
        'domain_ner': 'learns: ', 'custom_qa': 'custom_qa.json[3]',
    }  # fmt: skip
    assert said[name] in shown
    if name == 'custom_qa':
        assert 'questions have an answer that is not in the context' in shown


TEXT_TO_TEXT = {
    'completion.py': ('gpt', 'texts.jsonl'), 'dialogue.py:gpt': ('gpt', 'dialogues.jsonl'), 'dialogue.py:t5': ('t5', 'dialogues.jsonl'),
    'summarise.py:t5': ('t5', 'texts.jsonl'),
}  # fmt: skip


@pytest.mark.parametrize('name', TEXT_TO_TEXT)
def test_texts_from_texts(place, name):
    kind, data = TEXT_TO_TEXT[name]
    more = ('--config.data.target_len=16',) if kind == 't5' else ()
    shown = forked.run('train', *flags(place, name, f'{place}/{kind}_run', data), *more, '--dry_run').success
    example = shown.split('its first example:\n')[1]
    if kind == 'gpt':
        assert example.startswith('sequence 1:') and ' <|endoftext|>' in example
    else:
        assert 'sequence 1 inputs: ' in example and 'sequence 1 targets: ' in example
    examples = {'dialogues.jsonl': 14, 'texts.jsonl': 11}[data]  # a tenth of the rows is set aside
    assert f'{examples} examples in {examples} rows' in shown


def test_a_run_replies(place):
    forked.run('train', *flags(place, 'dialogue.py:gpt', f'{place}/gpt_run', 'dialogues.jsonl', 'dialogue')).success
    answer = json.loads(forked.run('predict', f'--workdir={place}/dialogue', '--text=A: ab 1 B:', '--output=-', '--config.decode.max_new_tokens=4').success)
    assert answer['text'] == 'A: ab 1 B:' and len(answer['answers']) == 1


def test_the_wrong_weights_or_file(place):
    error = forked.run('train', *flags(place, 'dialogue.py:t5', f'{place}/gpt_run', 'dialogues.jsonl')).error
    assert 'gpt_run is of t5x_lite.models.language_model:Decoder, and config.model.module t5x_lite.models.language_model:EncoderDecoder' in error
    assert "no variant 't6', did you mean 't5'" in forked.run('train', *flags(place, 'dialogue.py:t6', f'{place}/gpt_run', 'dialogues.jsonl')).error
    error = forked.run('train', *flags(place, 'dialogue.py:gpt', f'{place}/gpt_run', 'texts.jsonl')).error
    assert 'texts.jsonl:1: no dialogue in the columns prompt' in error
    error = forked.run('train', *flags(place, 'completion.py', f'{place}/gpt_run', 'dialogues.jsonl')).error
    assert "no column 'prompt'" in error
    error = forked.run('train', *flags(place, 'sentiment.py', material.PRETRAINED, 'sentiment.csv'), '--config.tune.freeze_layers=3').error
    assert 'config.tune.freeze_layers=3, and the stack of encoder has 2 layers; lower it' in error


def test_a_recipe_from_another_folder(place, tmp_path):
    """`from configs import classify` finds its neighbours wherever the command is given."""
    assert 'has no variants' in forked.run('train', '--config=configs/sentiment.py:x', f'--workdir={tmp_path}/never').error
    (tmp_path / 'configs').mkdir()
    for name in ('classify', 'sentiment'):
        (tmp_path / 'configs' / f'{name}.py').write_text((forked.ROOT / 'configs' / f'{name}.py').read_text())
    said = forked.run('train', f'--config={tmp_path}/configs/sentiment.py', f'--workdir={tmp_path}/never').error
    assert 'config.init_from' in said
