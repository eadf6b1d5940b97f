"""The loss of several heads on one body (t5x_lite/several.py)."""

import jax

from t5x_lite import several
from t5x_lite.config import Config
from t5x_lite.dotted_names import resolve
from t5x_lite.training.losses import Batch, Metrics


class SeveralLoss:
    """That of the head which a batch is of, times config.heads.NAME.weight; metrics, which are not multiplied, have its name in front.

    Attributes:
      single: {name: the loss of a head alone}.
    """

    def __init__(self, config: Config):
        self._factors = {head.name: head.weight for head in config.heads}
        self.single = {}
        for name, one in several.apart(config).items():
            with several.errors_of(name):
                self.single[name] = resolve(one.loss, 'config.loss', 'weights')(one)

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return self.single[several.name_in(batch)].weights(batch)

    def __call__(self, outputs: Batch, batch: Batch) -> tuple[dict[str, jax.Array], Metrics]:
        name = several.name_in(batch)
        terms, metrics = self.single[name](outputs, batch)
        return {term: total * self._factors[name] for term, total in terms.items()}, {f'{name}/{metric}': pair for metric, pair in metrics.items()}
