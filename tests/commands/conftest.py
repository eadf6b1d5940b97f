"""What the tests of mistakes share."""

import pytest

from t5x_lite.interop import conversion
from tests.commands import material


@pytest.fixture(scope='session')
def stock(tmp_path_factory):
    """A folder with one of everything that can be right or wrong."""
    stock = tmp_path_factory.mktemp('bad')
    sources = material.texts(stock / 'texts')
    material.corpus(stock / 'corpus', sources, material.PRETRAINED, None)
    material.corpus(stock / 'larger', sources)
    # As many pieces as the weights have, two of them exchanged.
    swapped = stock / 'swapped'
    swapped.mkdir()
    pieces = (material.PRETRAINED / 'vocab.txt').read_text().split('\n')
    pieces[10], pieces[11] = pieces[11], pieces[10]
    (swapped / 'vocab.txt').write_text('\n'.join(pieces))
    material.corpus(stock / 'other', sources, swapped, None)
    conversion.to_native(str(material.PRETRAINED), str(stock / 'run'))
    conversion.to_native(str(material.FIXTURES / 'bert_classifier'), str(stock / 'classifier'))
    conversion.to_native(str(material.FIXTURES / 'bert_encoder'), str(stock / 'encoder'))
    rows = material.reviews()
    material.table(stock / 'train.tsv', rows)
    material.table(stock / 'odd.tsv', [*rows, ('odd one out', 'neutral')])
    material.table(stock / 'nan.tsv', [*((text, str(number)) for number, (text, _) in enumerate(rows)), ('odd', 'nan')])
    material.table(stock / 'one.tsv', [row for row in rows if row[1] == 'pos'])
    (stock / 'latin.tsv').write_bytes(b'text\tlabel\ncaf\xe9 au lait\tpos\ntea\tneg\n')
    (stock / 'latin.txt').write_bytes(b'a good line\na caf\xe9\n')
    (stock / 'empty.txt').write_bytes(b'')
    (stock / 'blank.txt').write_text(' \n\n')
    (stock / 'file').write_text('mine\n')
    (stock / 'nothing').mkdir()
    return stock
