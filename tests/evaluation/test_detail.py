"""What evaluate says beside scores: intervals of the scores themselves, classes, pictures."""

import json

import numpy as np
import pytest

from t5x_lite.config import Config, DataConfig, ModelConfig
from t5x_lite.data import tags
from t5x_lite.evaluation import detail, metrics, metrics_tags, spread
from t5x_lite.evaluation.metrics_judged import Judged
from t5x_lite.tasks.classification import ChoiceLoss, LabelledLoss
from t5x_lite.tasks.tagging import TaggingLoss


def labelled(targets, logits, **data):
    config = Config(data=DataConfig(**data), model=ModelConfig(num_labels=len(data['labels']) if 'labels' in data else 1))
    collected = {'logits': np.asarray(logits, np.float32), 'labels': np.asarray(targets), 'weights': np.r_[np.ones(len(targets) - 1), 0].astype(np.float32)}
    return LabelledLoss(config).judged(collected), LabelledLoss(config).summarize(collected)


def test_classes_one_by_one():
    logits = np.eye(3)[[0, 1, 1, 2, 2, 0]]
    judged, scores = labelled([0, 1, 2, 2, 2, 1], logits, labels=('a', 'b', 'c'))
    assert judged.count == 5, 'what fills a batch does not count'
    assert scores == judged.scores() == metrics.classification([0, 1, 2, 2, 2], [0, 1, 1, 2, 2], 3)
    assert judged.score(np.array([2, 2]))['accuracy'] == 0 and judged.score(np.array([0, 2]))['accuracy'] == 0.5
    assert judged.by_class['c'] == {'precision': 1.0, 'recall': pytest.approx(2 / 3), 'f1': pytest.approx(0.8), 'count': 3}
    targets, predictions, names = judged.taken_for
    assert targets.tolist() == [0, 1, 2, 2, 2] and predictions.tolist() == [0, 1, 1, 2, 2] and names == ('a', 'b', 'c')


def test_numbers_and_sets_of_labels():
    judged, scores = labelled(np.array([1.0, 2.0, 4.0, 9.0], np.float32), [[1.0], [3.0], [3.5], [0.0]], regression=True)
    assert judged.count == 3 and not judged.by_class and judged.taken_for is None
    assert scores['pearson'] == judged.scores()['pearson'] == metrics.pearson([1, 2, 4], [1, 3, 3.5])
    sets = np.array([[1, 0], [1, 1], [0, 0], [1, 1]], np.float32)
    judged, scores = labelled(sets, [[5.0, -5.0], [5.0, -5.0], [-5.0, -5.0], [0.0, 0.0]], labels=('x', 'y'), label_separator='|')
    assert scores['subset_accuracy'] == pytest.approx(2 / 3) and judged.by_class['y']['recall'] == 0 and judged.by_class['y']['count'] == 1


def test_choices():
    loss = ChoiceLoss(Config())
    judged = loss.judged({'right': np.array([True, False, True, True]), 'weights': np.array([1.0, 1.0, 1.0, 0.0])})
    assert judged.scores() == {'accuracy': pytest.approx(2 / 3)} and judged.unit == 'questions'


def tagged(names, scheme, targets, predictions, width=4):
    """Sentences whose words are a piece each."""
    config = Config(data=DataConfig(labels=names, tag_scheme=scheme, tag_scheme_out=scheme, seq_len=width), model=ModelConfig(num_labels=len(names)))
    ids = {name: number for number, name in enumerate(names)}

    def filled(rows):
        return np.array([[ids[tag] for tag in row] + [-1] * (width - len(row)) for row in rows], np.int32)

    words = np.array([[*range(len(row))] + [-1] * (width - len(row)) for row in targets], np.int32)
    collected = {'tags': np.maximum(filled(predictions), 0), 'words': words, 'targets': filled(targets), 'weights': np.ones(len(targets), np.float32)}
    return TaggingLoss(config).judged(collected), TaggingLoss(config).summarize(collected)


def test_entities_of_any_draw_of_sentences():
    targets = [['B-PER', 'I-PER', 'O'], ['B-LOC', 'O'], ['O', 'B-PER', 'O', 'B-LOC'], ['O', 'O']]
    predictions = [['B-PER', 'O', 'O'], ['B-LOC', 'O'], ['O', 'B-PER', 'O', 'B-PER'], ['I-LOC', 'O']]
    judged, scores = tagged(('O', 'B-LOC', 'B-PER', 'I-LOC', 'I-PER'), 'IOB2', targets, predictions)

    def by_hand(rows):
        wanted, given = [targets[row] for row in rows], [predictions[row] for row in rows]
        spans = [tags.spans(row, tags.scheme_of('IOB2', '')) for row in wanted], [tags.spans(row) for row in given]
        return {'accuracy': metrics_tags.accuracy(wanted, given)} | metrics_tags.entities(*spans)

    assert scores == judged.scores() == by_hand(range(4))
    for rows in ([2, 2, 0], [1], [0, 3, 3, 1]):
        drawn, expected = judged.score(np.array(rows)), by_hand(rows)
        assert {name: drawn[name] for name in ('accuracy', 'f1', 'precision', 'recall')} == {
            name: expected[name] for name in ('accuracy', 'f1', 'precision', 'recall')
        }
    assert judged.by_class['LOC'] == {'precision': 0.5, 'recall': 0.5, 'f1': 0.5, 'count': 2} and judged.taken_for is None


def test_plain_tags_are_taken_for_each_other():
    judged, scores = tagged(('NN', 'VB'), 'none', [['NN', 'VB'], ['VB']], [['NN', 'NN'], ['VB']])
    assert scores == {'accuracy': pytest.approx(2 / 3)} and judged.by_class['VB']['recall'] == 0.5
    assert [part.tolist() for part in judged.taken_for[:2]] == [[0, 1, 1], [0, 0, 1]]


def test_lines_record_and_picture(tmp_path):
    judged, scores = labelled([0, 1, 2, 2, 2, 1], np.eye(3)[[0, 1, 1, 2, 2, 0]], labels=('a', 'b', 'c'))
    details = detail.of({'': judged}, 50)
    lines = details.lines({'cross_entropy': 0.5} | scores)
    low, high = details.intervals['accuracy'].low, details.intervals['accuracy'].high
    assert low < scores['accuracy'] < high
    assert lines[0] == '  cross_entropy                    0.5000' and lines[1] == f'  accuracy                         0.8000  ({low:.4f} to {high:.4f})'
    assert '95% of 50 draws of the 5 rows' in lines[4] and lines[6].split() == ['c', '1.0000', '0.6667', '0.8000', '3']
    assert [line.split() for line in lines[-2:]] == [['macro', 'mean', '0.8333', '0.8889', '0.8222', '5'], ['weighted', 'mean', '0.9000', '0.8000', '0.8133', '5']]
    record = json.loads(json.dumps(details.record()))
    assert record['class_means']['macro']['f1'] == pytest.approx((1 + 2 / 3 + 0.8) / 3)
    assert record['intervals']['accuracy'] == [low, high] and record['by_class']['a']['f1'] == 1.0
    pytest.importorskip('matplotlib')
    assert details.draw(str(tmp_path)) == [f'{tmp_path}/confusion.png'] and (tmp_path / 'confusion.png').stat().st_size > 1000


def test_several_heads_have_names_and_many_classes_are_cut(tmp_path):
    names = tuple(f'class {number}' for number in range(40))
    judged, scores = labelled(np.arange(41) % 40, np.eye(40)[np.arange(41) % 40], labels=names)
    details = detail.of({'topic': judged, 'none': Judged(0, 'rows', lambda rows: {})}, 20)
    assert set(details.intervals) == {'topic/accuracy', 'topic/macro_f1', 'topic/matthews'}
    lines = details.lines({f'topic/{name}': value for name, value in scores.items()})
    assert lines[-3] == '  ... 10 more in evaluation.json' and any(line.startswith('  topic, class') for line in lines)
    assert set(details.record()['by_class']) == {'topic'}
    alone = detail.of({'': judged}, 0).record()
    assert alone.pop('class_means').keys() == {'macro', 'weighted'} and alone == {'by_class': dict(judged.by_class)}, 'no draws, no intervals'


def test_scores_drawn_together_are_those_drawn_one_by_one():
    values = np.random.default_rng(0).random(40)
    together = spread.of_scores(lambda rows: {'mean': values[rows].mean(), 'most': values[rows].max()}, 40, 100)
    assert together['mean'] == spread.of_metric(lambda rows: values[rows].mean(), 40, 100) and together['most'].value == values.max()
