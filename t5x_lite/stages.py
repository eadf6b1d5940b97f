"""The stages of a run: sequence length and batch size, which may change as it goes."""

import math

from t5x_lite.config import Config
from t5x_lite.dotted_names import resolve


def stages(config: Config) -> tuple[tuple[int, int, int, int], ...]:
    """((from_step, seq_len, batch_size, max_predictions), ...) with max_predictions 0 resolved.

    max_predictions are the tokens predicted in a row: masked ones, or the targets of an encoder-decoder.
    """
    mlm = config.data.mlm
    given = config.data.stages or ((0, config.data.seq_len, config.batch_size, mlm.max_predictions or config.data.target_len),)
    source = resolve(config.data.source, 'config.data.source', 'get') if config.data.source else None

    def predictions(length: int) -> int:
        return source.predictions(config, length) if hasattr(source, 'predictions') else math.ceil(mlm.probability * length)

    return tuple((start, length, batch, most or predictions(length)) for start, length, batch, most in given)
