"""How high learning rates of published recipes go, for what of a pretrained model learns.

Those of whole weights are of models like BERT base, 12 layers of 768 units. Adam moves a weight by about the rate, whatever its gradient; what a product of n
units gives then moves in proportion to n, and what L layers add up to with sqrt(L). So the limit for a model that is narrower or has fewer layers is

    limit x max(1, 768 / n) x max(1, sqrt(12 / L))

by the rules of muP (Yang et al., 2022, 'Tensor Programs V': Adam's rate for hidden weights goes with 1 / n) and depth-muP (Yang et al., 2024, 'Tensor Programs
VI': with 1 / sqrt(L)). For 2 layers of 128 that is 14.7 times as much, 1.5e-3 instead of 1e-4. Wider and deeper models keep the limit: those of 24 layers of
1,024 are fine-tuned at the rates of the base. What is added, biases and Adafactor's rates, which are relative to the size of weights, are not rescaled.
"""

from collections.abc import Iterable, Mapping
import math
import re

import numpy as np

from t5x_lite.config import Config, Layout, ModelConfig, Optimizer
from t5x_lite.training import adapters, optim
from t5x_lite.training.tuning import Tuning

# Limits are of what the sources use for Adam, with some room above; beyond them what was pretrained is soon lost, or training does not settle. A path is of
# the first kind whose pattern it matches.
_ADDED = {
    'LoRA': (r'.*/lora_\w+', 2e-3, 'Hu et al. (2021) use 2e-4 to 5e-4'),
    '(IA)^3': (r'.*/scale_(in|out)', 1e-2, 'Liu et al. (2022) use 3e-3'),
    'adapters': (r'.*_adapter_\w+', 3e-3, 'Houlsby et al. (2019) search 3e-5 to 3e-3'),
    'prefixes': (r'.*/prefix_\w+', 3e-2, 'the scripts of P-tuning v2 (Liu et al., 2022) go up to 2e-2'),
    'prompts': (r'(.*/)?prompt', 0.5, 'Lester et al. (2021) use 0.3'),
}
_BIASES = (1e-3, 'Ben Zaken et al. (2022) search 1e-4 to 1e-3')
_CLASSIFIER, _CORPUS, _TEXT_TO_TEXT = (
    (1e-4, 'Devlin et al. (2018) use 2e-5 to 5e-5; Sun et al. (2019) see 4e-4 forget what was pretrained'),
    (5e-4, 'Gururangan et al. (2020) go on pre-training with up to 5e-4'),
    (3e-4, "1e-4 to 3e-4 are what transformers' documentation of T5 advises for AdamW"),
)
_ADAFACTOR = (1e-2, 'Raffel et al. (2020) pretrain T5 with up to 1e-2 and fine-tune it at 1e-3, rates relative to the size of the weights')
_WIDTH, _LAYERS = 768, 12  # of the models that _CLASSIFIER, _CORPUS and _TEXT_TO_TEXT are of
_NEW = (1e-2, 'for what is new, beside weights that stay as they are')


def of_run(config: Config, tunings: Iterable[Tuning]) -> str:
    """`beyond` of what learns at any time of a run."""
    factors: dict[str, float] = {}
    for tuning in tunings:
        for part, rates in zip(tuning.parts, tuning.rates, strict=True):
            for path in part.layers:
                factors[path] = max(factors.get(path, 0.0), float(np.max(rates[path])) if rates else 1.0)
    return beyond(config, factors)


def beyond(config: Config, factors: Mapping[str, float]) -> str:
    """What there is to say of a learning rate that exceeds them; '' where none does, for LAMB, or without pretrained weights.

    Args:
      factors: {path: highest factor on config.optim.learning_rate} of what learns.
    """
    if not config.init_from or not config.init_weights or config.optim.name is Optimizer.lamb:
        return ''
    highest: dict[str, tuple[float, float, str]] = {}
    pretrained = [path for path in factors if optim.from_pretrained(config, path)]
    only_biases = bool(pretrained) and all(path.endswith('/bias') for path in pretrained)
    only_new = not pretrained and not any(map(adapters.is_added, factors))
    for path, factor in factors.items():
        kind, limit, source = _kind(config, path, only_biases, only_new)
        rate = config.optim.learning_rate * factor
        if rate > limit * (1 + 1e-6) and rate > highest.get(kind, (0.0,))[0]:
            highest[kind] = rate, limit, source
    said = '; '.join(f'{rate:.3g} for {kind} is beyond {limit:.3g} ({source})' for kind, (rate, limit, source) in highest.items())
    return f'{said}; lower config.optim.learning_rate, or try rates with --find_learning_rate' if said else ''


def _kind(config: Config, path: str, only_biases: bool, only_new: bool) -> tuple[str, float, str]:
    for kind, (pattern, limit, source) in _ADDED.items():
        if re.fullmatch(pattern, path):
            return kind, limit, source
    if not optim.from_pretrained(config, path):
        # A head shares the rate of what else learns, and is warned of with that.
        return ('new layers', *(_NEW if only_new else (np.inf, '')))
    if config.optim.name is Optimizer.adafactor:
        return ('pretrained weights', *_ADAFACTOR)
    if only_biases:
        return ('pretrained biases', *_BIASES)
    limit, source = _CORPUS if config.data.path else _TEXT_TO_TEXT if config.data.layout is Layout.encoder_decoder else _CLASSIFIER
    if (factor := _room(config.model)) > 1:
        source += f'; with {config.model.num_layers} layers of {config.model.d_model} instead of {_LAYERS} of {_WIDTH}, {factor:.3g} times as much'
    return 'pretrained weights', limit * factor, source


def _room(model: ModelConfig) -> float:
    """How much higher a rate a small model bears."""
    return max(1.0, _WIDTH / model.d_model) * max(1.0, math.sqrt(_LAYERS / model.num_layers))
