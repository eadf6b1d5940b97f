"""Tags of words: the loss, and the scores of a whole held-out set, counted on words."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Config
from t5x_lite.data import tagged, tags, word_pieces
from t5x_lite.data.word_pieces import IGNORED, Pieces
from t5x_lite.evaluation import metrics_tags
from t5x_lite.training.losses import Batch, Metrics, example_weights


class TaggingLoss:
    """- log p of the tags: of each tagged token with a softmax, of each sentence with a conditional random field (config.model.crf), whichever `TokenHead` has.

    Divided by the tagged tokens or by the sentences of the global batch, so that a learning rate means the same with batches of any size.
    """

    def __init__(self, config: Config):
        self._config, self._sentences, self._width = config, config.model.crf, config.data.seq_len

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        tagged_BL = batch['labels'] != IGNORED
        counted_B = (jnp.any(tagged_BL, axis=1) if self._sentences else jnp.sum(tagged_BL, axis=1)).astype(jnp.float32)
        return {'loss': jnp.sum(counted_B * example_weights(batch))}

    def __call__(self, outputs: dict[str, jax.Array], batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        weights_B = example_weights(batch)
        total = -jnp.sum(outputs['log_likelihood'] * weights_B)
        tagged_BL = batch['labels'] != IGNORED
        right_B = jnp.sum((outputs['tags'] == batch['labels']) & tagged_BL, axis=1).astype(jnp.float32)
        tokens_B = jnp.sum(tagged_BL, axis=1).astype(jnp.float32)
        name = 'crf_loss' if self._sentences else 'cross_entropy'
        return {'loss': total}, {
            name: (total, self.weights(batch)['loss']),
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
        names = tagged.tag_set(self._config)
        plain = names.scheme is None
        targets, predictions = [], []
        for found, owners, wanted, weight in zip(*(collected[name] for name in ('tags', 'words', 'targets', 'weights')), strict=True):
            if weight > 0:
                wanted = wanted[wanted != IGNORED]
                pieces = Pieces(np.zeros(len(owners), np.int32), owners, len(wanted))
                targets.append(names.tags(wanted))
                predictions.append(word_pieces.word_tags(pieces, found, names, '' if plain else tags.OUTSIDE, self._config.data.every_piece))
        scores = {'accuracy': metrics_tags.accuracy(targets, predictions)}
        if plain:
            return scores
        return scores | metrics_tags.entities([tags.spans(row, names.scheme) for row in targets], [tags.spans(row) for row in predictions])
