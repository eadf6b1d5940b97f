"""Tags of words: the loss, and the scores of a whole held-out set, counted on words."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config
from t5x_lite.data import class_weights, tagged, tags, word_pieces
from t5x_lite.data.word_pieces import IGNORED, Pieces
from t5x_lite.errors import UserError
from t5x_lite.evaluation import metrics_classes, metrics_tags
from t5x_lite.evaluation.metrics_judged import Judged
from t5x_lite.training.losses import Batch, Metrics, class_cross_entropy, example_weights, target_weights


class TaggingLoss:
    """- log p of the tags: of each tagged token with a softmax, of each sentence with a conditional random field (config.model.crf), whichever `TokenHead` has.

    Divided by the tagged tokens or by the sentences of the global batch, so that a learning rate means the same with batches of any size. With
    config.data.class_weights and config.label_smoothing, each tagged token of a softmax costs and weighs as `losses.class_cross_entropy` says.

    Raises:
      UserError: one of these with a conditional random field, which scores whole sentences.
    """

    def __init__(self, config: Config):
        self._config, self._sentences, self._width = config, config.model.crf, config.data.seq_len
        self._class_weights, self._smoothing = class_weights.numbers(config), config.label_smoothing
        for name, given in (('data.class_weights', self._class_weights), ('label_smoothing', self._smoothing)):
            if given and self._sentences:
                raise UserError(f'config.{name} is of single tags, and config.model.crf scores those of a sentence together; leave one of them out')

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        tagged_BL = batch['labels'] != IGNORED
        if self._class_weights:
            return {'loss': jnp.sum(jnp.sum(target_weights(batch['labels'], self._class_weights), axis=1) * example_weights(batch))}
        counted_B = (jnp.any(tagged_BL, axis=1) if self._sentences else jnp.sum(tagged_BL, axis=1)).astype(jnp.float32)
        return {'loss': jnp.sum(counted_B * example_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        weights_B = example_weights(batch)
        plain = total = -jnp.sum(outputs['log_likelihood'] * weights_B)
        if self._class_weights or self._smoothing:
            each_BL = class_cross_entropy(outputs['logits'], batch['labels'], self._class_weights, self._smoothing)
            total = jnp.sum(jnp.sum(each_BL, axis=1) * weights_B)
        tagged_BL = batch['labels'] != IGNORED
        right_B = jnp.sum((outputs['tags'] == batch['labels']) & tagged_BL, axis=1).astype(jnp.float32)
        tokens_B = jnp.sum(tagged_BL, axis=1).astype(jnp.float32)
        name, count = ('crf_loss', self.weights(batch)['loss']) if self._sentences else ('cross_entropy', jnp.sum(tokens_B * weights_B))
        return {'loss': total}, {
            name: (plain, count),
            'token_accuracy': (jnp.sum(right_B * weights_B), jnp.sum(tokens_B * weights_B)),
        }

    def collect(self, outputs: dict[str, jax.Array], batch: Batch) -> dict[str, jax.Array]:
        """What `summarize` needs of each sentence, at one width whatever the batch's."""
        more = [(0, 0), (0, self._width - batch['words'].shape[1])]
        return {
            'tags': jnp.pad(outputs['tags'], more),
            'words': jnp.pad(batch['words'], more, constant_values=IGNORED),
            'targets': batch['word_tags'],
            'weights': example_weights(batch),
        }

    def summarize(self, collected: dict[str, np.ndarray]) -> dict[str, float]:
        """Scores on words, those that were cut off counted as O (of plain tags: as wrong): accuracy; of entities as conlleval has them, precision, recall,
        F1 and 'f1_PER' of each type (`metrics_tags.entities`)."""
        return self.judged(collected).scores()

    def judged(self, collected: dict[str, np.ndarray]) -> Judged:
        """The same, sentence by sentence; of plain tags what each was taken for."""
        names = tagged.tag_set(self._config)
        plain = names.scheme is None
        targets, predictions = [], []
        for found, owners, wanted, weight in zip(*(collected[name] for name in ('tags', 'words', 'targets', 'weights')), strict=True):
            if weight > 0:
                wanted = wanted[wanted != IGNORED]
                pieces = Pieces(np.zeros(len(owners), np.int32), owners, len(wanted))
                targets.append(names.tags(wanted))
                predictions.append(word_pieces.word_tags(pieces, found, names, '' if plain else tags.OUTSIDE, self._config.data.every_piece))
        right = np.array([sum(map(str.__eq__, *pair)) for pair in zip(targets, predictions, strict=True)])
        words = np.array([len(row) for row in targets])

        def accuracy(rows: np.ndarray) -> dict[str, float]:
            return {'accuracy': float(right[rows].sum() / count) if (count := words[rows].sum()) else float('nan')}

        if plain:
            every = [*names.names, '']  # '': of a word that was cut off
            ids = [np.array([every.index(tag) for row in rows for tag in row], np.int64) for rows in (targets, predictions)]
            taken_for = [part[ids[1] < len(names.names)] for part in ids]
            return Judged(len(targets), 'sentences', accuracy, metrics_classes.by_class(*ids, names.names), (*taken_for, names.names))
        spans = [tags.spans(row, names.scheme) for row in targets], [tags.spans(row) for row in predictions]
        whole = metrics_tags.count(*spans)
        # [sentences, types, 3]: what is counted once is summed for any draw of sentences.
        counts = np.zeros((len(targets), len(whole), 3), np.int64)
        for number, pair in enumerate(zip(*spans, strict=True)):
            for kind, found in metrics_tags.count(*([part] for part in pair)).items():
                counts[number, list(whole).index(kind)] = found

        def score(rows: np.ndarray) -> dict[str, float]:
            found = {kind: metrics_tags.Found(*some) for kind, some in zip(whole, counts[rows].sum(axis=0).tolist(), strict=True)}
            return accuracy(rows) | metrics_tags.reported(found)

        by_type = {kind: {'precision': p, 'recall': r, 'f1': f, 'count': n} for kind, (p, r, f, n) in metrics_tags.by_type(whole).items()}
        return Judged(len(targets), 'sentences', score, by_type)
