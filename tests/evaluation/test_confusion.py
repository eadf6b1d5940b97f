"""The picture of a confusion matrix shows what the matrix holds."""

import builtins

import numpy as np
import pytest

from t5x_lite.errors import UserError
from t5x_lite.evaluation import confusion, metrics, reporting

pytest.importorskip('matplotlib')


def _axes(counts, names):
    return confusion.draw(np.array(counts), names, reporting.matplotlib_figure(), 'title').axes[0]


def test_cells_and_names():
    axes = _axes([[3, 1, 0], [0, 12345, 0], [0, 0, 0]], ['cat', 'dog $1', 'x' * 40])
    shades = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shades, [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {((0, 0), '3'), ((1, 0), '1'), ((1, 1), '12.3k')}
    assert [label.get_text() for label in axes.get_yticklabels()] == ['cat  75%', r'dog \$1  100%', 'x' * 19 + '…  -']
    assert (axes.get_xlabel(), axes.get_title()) == ('prediction', 'title')


def test_of_many_classes_the_rarest_are_one():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 100, 3000)
    targets[:1000] = 70
    counts = metrics.confusion_matrix(targets, targets, 100)
    axes = _axes(counts, [f'c{index}' for index in range(100)])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == 60 and labels[-1] == '(other)  100%' and 'c70  100%' in labels and not axes.texts


def test_file_with_any_names(tmp_path):
    names = ['$a_b$', 'été', 'two\nlines', '']
    confusion.save([0, 1, 2, 3, 4, 0], [0, 1, 2, 3, -1, 9], names, str(tmp_path / 'a.png'))
    data = (tmp_path / 'a.png').read_bytes()
    assert data.startswith(b'\x89PNG') and len(data) > 3000


def test_counts_of_other_classes():
    with pytest.raises(ValueError, match=r'counts are \(2, 2\) for 3 classes'):
        _axes([[1, 0], [0, 1]], ['a', 'b', 'c'])


def test_without_matplotlib_the_mend_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name.startswith('matplotlib'):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, '__import__', absent)
    with pytest.raises(UserError, match='pictures need matplotlib'):
        confusion.save([0], [0], ['a'], str(tmp_path / 'a.png'))
