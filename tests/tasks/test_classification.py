"""Losses and scores of classes, numbers and sets of labels, by hand."""

import numpy as np
import pytest

from t5x_lite.checks import finalize
from t5x_lite.config import Config, DataConfig, ModelConfig
from t5x_lite.data import class_weights
from t5x_lite.errors import UserError
from t5x_lite.evaluation.span_loss import SpanLoss
from t5x_lite.models.crf import NEVER
from t5x_lite.tasks.classification import ChoiceLoss, LabelledLoss


def loss_of(smoothing=0.0, kind=LabelledLoss, **data):
    return kind(Config(label_smoothing=smoothing, data=DataConfig(**data)))


def mean(loss, logits, batch):
    terms, metrics = loss({'logits': logits}, batch)
    return float(terms['loss'] / loss.weights(batch)['loss']), metrics


def some(rows=12, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    weights = np.ones(rows, np.float32)
    weights[-2:] = 0  # rows that fill up a batch
    return rng.normal(size=(rows, classes)).astype(np.float32) * 2, rng.integers(0, classes, rows).astype(np.int32), weights


@pytest.mark.parametrize('given', [(), ('0.5', '1', '2.5', '0')])
@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_weights_and_smoothing_by_hand(given, smoothing):
    logits, labels, weights = some()
    labels[0] = 2
    loss = loss_of(smoothing, class_weights=given)
    found, metrics = mean(loss, logits, {'labels': labels, 'example_weights': weights})
    w, log_p = np.array([float(one) for one in given or '1111']), np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    total = norm = 0.0
    for row, label in enumerate(labels[:10]):
        total += -(1 - smoothing) * w[label] * log_p[row, label] - smoothing / 4 * (w * log_p[row]).sum()
        norm += w[label]
    np.testing.assert_allclose(found, total / norm, rtol=1e-5)
    np.testing.assert_allclose(metrics['cross_entropy'][0] / metrics['cross_entropy'][1], -log_p[np.arange(10), labels[:10]].mean(), rtol=1e-5)


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_torch_says_the_same(smoothing):
    torch = pytest.importorskip('torch')
    logits, labels, _ = some()
    given = ('0.5', '1.25', '2.5', '3')
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels, dtype=torch.long), weight=torch.tensor([float(one) for one in given]), label_smoothing=smoothing
    )
    np.testing.assert_allclose(mean(loss_of(smoothing, class_weights=given), logits, {'labels': labels})[0], theirs.numpy(), rtol=1e-5)
    sets = (np.random.default_rng(1).random(logits.shape) < 0.3).astype(np.float32)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(sets), pos_weight=torch.tensor([float(one) for one in given])
    )
    np.testing.assert_allclose(mean(loss_of(class_weights=given, label_separator='|'), logits, {'labels': sets})[0], theirs.numpy(), rtol=1e-5)


@pytest.mark.parametrize('given, smoothing', [(('0.2', '1', '3', '5'), 0.1), ((), 0.1)])
def test_parts_of_a_batch_add_up(given, smoothing):
    """Sums of parts over the weight of the whole: what microbatches and shards do."""
    logits, labels, weights = some()
    loss, whole = loss_of(smoothing, class_weights=given), {'labels': labels, 'example_weights': weights}
    parts = [slice(0, 5), slice(5, 6), slice(6, 12)]
    total = sum(float(loss({'logits': logits[part]}, {name: values[part] for name, values in whole.items()})[0]['loss']) for part in parts)
    np.testing.assert_allclose(total / float(loss.weights(whole)['loss']), mean(loss, logits, whole)[0], rtol=1e-6)


def test_balanced_weights():
    names = ('a', 'b', 'c')
    assert class_weights.resolved(DataConfig(), np.array([1, 2, 3]), names) == ()
    balanced = DataConfig(class_weights=('balanced',))
    found = class_weights.resolved(balanced, np.array([1, 6, 5]), names)
    assert [float(one) for one in found] == pytest.approx([12 / 3, 12 / 18, 12 / 15])
    assert [float(one) for one in class_weights.resolved(balanced, np.array([0, 6, 6]), names)] == pytest.approx([1, 2 / 3, 2 / 3])
    assert [float(one) for one in class_weights.resolved(balanced, np.array([2, 10, 0]), names, 20)] == pytest.approx([9, 1, 1])
    assert class_weights.numbers(Config(data=DataConfig(class_weights=found))) == pytest.approx((4, 2 / 3, 0.8))
    assert class_weights.say(found, names) == ['class weights: a 4, b 0.6667, c 0.8']


def test_fields_that_are_wrong():
    for given, words in (
        (('balanced', '1'), "config.data.class_weights has 'balanced'; expected balanced, or finite numbers"),
        (('1', '-2'), "config.data.class_weights has '-2'"),
        (('0', '0'), 'config.data.class_weights are all 0'),
    ):
        with pytest.raises(UserError, match=words):
            class_weights.resolved(DataConfig(class_weights=given), np.array([3, 4]), ('a', 'b'))
        with pytest.raises(UserError, match=words):
            loss_of(class_weights=given)
    with pytest.raises(UserError, match='config.data.label_threshold is 1.0; it must lie between 0 and 1'):
        finalize(Config(model=ModelConfig(module='t5x_lite.models.heads:SequenceHead'), data=DataConfig(label_threshold=1.0)))


def test_fields_of_other_labels_are_refused():
    for words, kind, smoothing, data in (
        ('config.label_smoothing is of classes, and this run learns numbers', LabelledLoss, 0.1, {'regression': True}),
        ('config.data.class_weights is of classes, and this run learns numbers', LabelledLoss, 0, {'regression': True, 'class_weights': ('1', '2')}),
        ('config.label_smoothing is of classes, and this run learns sets of labels', LabelledLoss, 0.1, {'label_separator': '|'}),
        ('config.data.class_weights=balanced is found from training examples', LabelledLoss, 0, {'class_weights': ('balanced',)}),
        ('config.data.class_weights is of classes, and choices', ChoiceLoss, 0, {'class_weights': ('1', '2')}),
        ('config.label_smoothing is of classes, and answers are places', SpanLoss, 0.1, {}),
    ):
        with pytest.raises(UserError, match=words):
            loss_of(smoothing, kind, **data)


def test_choices_that_are_none_cost_nothing():
    logits = np.array([[1.0, -1.0, NEVER], [0.5, 0.0, 2.0]], np.float32)
    there = np.array([[1, 1, 0], [1, 1, 1]], np.int32)[:, :, None] * np.ones((1, 1, 4), np.int32)
    batch = {'labels': np.array([1, 2], np.int32), 'sequence_ids': there, 'example_weights': np.ones(2, np.float32)}
    log_p = [row[:count] - np.log(np.exp(row[:count]).sum()) for row, count in zip(logits, (2, 3))]
    for smoothing in (0.0, 0.3):
        wanted = [-(1 - smoothing) * row[label] - smoothing * row.mean() for row, label in zip(log_p, (1, 2))]
        found, metrics = mean(loss_of(smoothing, ChoiceLoss), logits, batch)
        np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-6)
        assert metrics['accuracy'] == (1, 2)


def test_a_threshold_of_sets_of_labels():
    logits = np.array([[1.0, -1.0], [3.0, 0.1]], np.float32)
    collected = {'logits': logits, 'labels': np.array([[1, 1], [1, 0]], np.float32), 'weights': np.ones(2)}
    assert loss_of(label_separator='|').summarize(collected)['subset_accuracy'] == 0
    low = loss_of(label_separator='|', label_threshold=0.2)  # -1 is a probability of 0.27
    assert low.summarize(collected)['micro_recall'] == 1
    high = loss_of(label_separator='|', label_threshold=0.9)  # 3 is one of 0.95
    assert high.summarize(collected)['micro_precision'] == 1 and high.summarize(collected)['micro_recall'] == pytest.approx(1 / 3)
    assert high({'logits': logits}, {'labels': collected['labels']})[1]['subset_accuracy'] == (1, 2)


def test_sets_of_labels_by_hand():
    loss = LabelledLoss(Config())
    logits = np.array([[2.0, -1.0], [0.0, 3.0], [500.0, -500.0]], np.float32)
    labels = np.array([[1, 0], [1, 0], [1, 0]], np.float32)
    batch = {'labels': labels, 'example_weights': np.array([1, 1, 0], np.float32)}
    terms, metrics = loss({'logits': logits}, batch)

    def each(x, y):
        return -np.log(1 / (1 + np.exp(-x))) if y else -np.log(1 - 1 / (1 + np.exp(-x)))

    wanted = (each(2, 1) + each(-1, 0)) / 2 + (each(0, 1) + each(3, 0)) / 2
    np.testing.assert_allclose(terms['loss'], wanted, rtol=1e-6)
    assert loss.weights(batch)['loss'] == 2
    assert metrics['subset_accuracy'][0] == 1 and metrics['subset_accuracy'][1] == 2
    extreme, _ = loss({'logits': logits}, batch | {'example_weights': np.ones(3, np.float32)})
    np.testing.assert_allclose(extreme['loss'], wanted, rtol=1e-6)  # as right as can be costs nothing, and no overflow
    scores = loss.summarize({'logits': logits, 'labels': labels, 'weights': np.array([1, 1, 0])})
    # Found: {0}, {1} of {0}, {0}: one hit of two found and of two there.
    assert (scores['micro_precision'], scores['micro_recall'], scores['subset_accuracy']) == (0.5, 0.5, 0.5)
