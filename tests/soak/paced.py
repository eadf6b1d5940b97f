"""BERT's examples, a moment late: steps that take no time would be over before anything could happen to them."""

import time

from bert_flax.objectives import MlmNsp

SECONDS = 0.02


class Paced(MlmNsp):
    def get(self, *args, **kwargs):
        time.sleep(SECONDS)
        return super().get(*args, **kwargs)
