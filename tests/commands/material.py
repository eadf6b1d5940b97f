"""What the tests of commands work on: small texts, prepared corpora and tables, made in a folder of their own."""

from pathlib import Path
import random

import pytest

from t5x_lite.config import Config, DataConfig, ModelConfig
from t5x_lite.data import preparation
from t5x_lite.errors import UserError

FIXTURES = Path(__file__).resolve().parents[1] / 'fixtures'
PRETRAINED = FIXTURES / 'bert_pretraining'  # 2 layers of 32, 32 positions, 120 pieces


def texts(folder: Path, seed: int = 0, documents: int = 40) -> Path:
    """A folder of documents of invented words, a sentence a line."""
    rng = random.Random(seed)
    words = [''.join(rng.choices('abcdefgh', k=rng.randint(2, 6))) for _ in range(150)]
    folder.mkdir(parents=True)
    for number in range(documents):
        lines = (' '.join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(rng.randint(4, 12)))
        (folder / f'{number:02}.txt').write_text(' .\n'.join(lines) + '\n')
    return folder


def corpus(folder: Path, source: Path, tokenizer: Path | str = 'wordpiece', vocab_size: int | None = 200) -> Path:
    """`source`, prepared."""
    settings = preparation.Settings(
        input=(str(source),),
        output=str(folder),
        tokenizer=str(tokenizer),
        vocab_size=vocab_size,
        validation_fraction=0.2,
        sentences='line',
        workers=1,
    )
    preparation.prepare(settings, log=lambda line: None)
    return folder


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text(''.join(f'{text}\t{label}\n' for text, label in [('text', 'label'), *rows]))
    return path


def reviews(count: int = 20) -> list[tuple[str, str]]:
    return [(f'{word} {number % 7} of a kind', label) for number in range(count) for word, label in (('good', 'pos'), ('bad', 'neg'))]


def config_of(stock: Path, **fields) -> Config:
    """The architecture of the fixture's weights, on the corpus with its tokenizer. Fields: data__seq_len=16."""
    config = Config(
        steps=10,
        batch_size=8,
        loss='bert_flax.losses:MlmNspLoss',
        model=ModelConfig(module='bert_flax.bert:BertForPreTraining', num_layers=2, d_model=32, num_heads=4, d_ff=64, max_positions=32),
        data=DataConfig(source='bert_flax.objectives:MlmNsp', path=(str(stock / 'corpus'),), seq_len=32),
    )
    return changed(config, **fields)


def changed(config: Config, **fields) -> Config:
    for name, value in fields.items():
        part = config
        *groups, field = name.split('__')
        for group in groups:
            part = getattr(part, group)
        assert hasattr(part, field), name
        setattr(part, field, value)
    return config


def refused(words: tuple[str, ...], function, *args, **kwargs) -> None:
    """`function` raises a UserError of one line with these words in it."""
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert '\n' not in message
    for word in words:
        assert word in message, message
