"""The source of BERT's examples, which writes down which of them this process was asked for.

    LATE_PROCESS=1 LATE_SECONDS=0.2    makes that process wait before each of its batches (LATE_PROCESS=alone: one that is),
    LATE_AFTER=60                      but for the first so many, some of which are looked at before training
"""

import json
import os
import time

from bert_flax.objectives import MlmNsp


class Recorded(MlmNsp):
    def __init__(self, config, split, *args, **kwargs):
        super().__init__(config, split, *args, **kwargs)
        self._split, self._calls = split, 0

    def get(self, indices, *args, **kwargs):
        index = os.environ['JAX_PROCESS_ID'] if 'JAX_PROCESS_ID' in os.environ else 'alone'
        with open(os.path.join(os.environ['RECORDED'], f'{self._split}-{index}.jsonl'), 'a', encoding='utf-8') as file:
            file.write(json.dumps([int(number) for number in indices]) + '\n')
        self._calls += 1
        if 'LATE_PROCESS' in os.environ and os.environ['LATE_PROCESS'] == index and self._calls > int(os.environ.get('LATE_AFTER', 0)):
            time.sleep(float(os.environ['LATE_SECONDS']))
        return super().get(indices, *args, **kwargs)
