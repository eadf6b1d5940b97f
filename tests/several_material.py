"""What the tests of several heads share: three kinds of head on one tiny body, and files that they learn from."""

import json

from t5x_lite.checks import finalize
from t5x_lite.config import Config, DataConfig, HeadConfig, HeadModelConfig, ModelConfig, OptimConfig
from tests.data.table_material import VOCAB, rows_of, tsv, vocabulary
from tests.data.tagged_material import columns, sentences

SOURCES = {
    'mood': ('t5x_lite.tasks.classification:LabelledLoss', 't5x_lite.data.tables:LabelledExamples', {'module': 't5x_lite.models.heads:SequenceHead'}),
    'tags': ('t5x_lite.tasks.tagging:TaggingLoss', 't5x_lite.data.tagged:TaggedExamples', {'module': 't5x_lite.models.heads:TokenHead', 'crf': True}),
    'spans': ('t5x_lite.evaluation.span_loss:SpanLoss', 't5x_lite.data.question_examples:QuestionExamples', {'module': 't5x_lite.models.heads:SpanHead'}),
}  # fmt: skip
LABELS = {'mood': 3, 'tags': 5, 'spans': 0}
BERT = ModelConfig(
    module='t5x_lite.models.several:SeveralHeads', body='bert_flax.bert:Bert', vocab_size=len(VOCAB), vocab_multiple=8, num_layers=2, d_model=32, num_heads=4,
    d_ff=64, max_positions=32,
)  # fmt: skip


def head(name: str, **data) -> HeadConfig:
    """'mood' (classes), 'tags' (a conditional random field) or 'spans'; `data` are fields of its data."""
    loss, source, model = SOURCES[name]
    data = DataConfig(source=source, **{'seq_len': 16} | data)
    return HeadConfig(name, metric='f1' if name != 'mood' else '', loss=loss, model=HeadModelConfig(num_labels=LABELS[name], **model), data=data)


def config(*heads: HeadConfig, model: ModelConfig = BERT, **fields) -> Config:
    """Of rows made by hand, where no data are given."""
    # Rounding stays rounding: see tests/training/small.py.
    base = {'steps': 20, 'batch_size': 8, 'optim': OptimConfig(learning_rate=1e-2, eps=1e-3), 'loss': 't5x_lite.tasks.several:SeveralLoss'}
    return finalize(Config(heads=heads or tuple(map(head, SOURCES)), model=model, **base | fields))


def files(folder) -> dict[str, dict[str, str]]:
    """{name: fields of data} of three files, and a tokenizer beside them."""
    (folder / 'mood.tsv').write_text(tsv(rows_of(40, labels=('bad', 'fair', 'good'))))
    (folder / 'train.conll').write_text(columns(sentences(24)))
    (folder / 'dev.conll').write_text(columns(sentences(10, seed=1)))
    texts = [f'the cat {word} a green house {number}' for number in range(6) for word in ('sings', 'sleeps')]
    paragraphs = [
        {'context': text, 'qas': [{'id': str(number), 'question': 'a cat', 'answers': [{'text': 'green house', 'answer_start': text.index('green')}]}]}
        for number, text in enumerate(texts)
    ]
    (folder / 'spans.json').write_text(json.dumps({'version': '1.1', 'data': [{'title': 'T', 'paragraphs': paragraphs}]}))
    return {
        'mood': {'train': str(folder / 'mood.tsv')},
        'tags': {'train': str(folder / 'train.conll'), 'validation': str(folder / 'dev.conll')},
        'spans': {'train': str(folder / 'spans.json'), 'max_question': 4},
    }


def with_files(folder, names=tuple(SOURCES), **fields) -> Config:
    """A config whose heads read `files`."""
    found = files(folder)
    return config(*(head(name, **found[name]) for name in names), data=DataConfig(tokenizer=vocabulary(folder)), **fields)
