"""Reply in dialogues, as a GPT (:gpt) or a T5 (:t5), learnt from jsonl of turns or messages or a csv of contexts and replies; only replies are learnt.

    python -m t5x_lite.train --config=configs/dialogue.py:gpt --config.init_from=runs/gpt --config.data.train=dialogues.jsonl --workdir=runs/dialogue
    python -m t5x_lite.predict --workdir=runs/dialogue --text="A: My parcel is lost. B:"

Rows are {"turns": ["Hi.", "Hello."]}, {"messages": [{"role": "user", "content": "Hi."}, ...]} or context,reply (t5x_lite/tasks/dialogues.py). A is who
writes, B who replies; of what is too long the newest is kept. 1e-5, 4 epochs (3 to 5), batch 16, 10 % warm-up. Unmeasured here.
"""

from configs import completion
from t5x_lite.config import Config
from t5x_lite.errors import UserError, nearest

VARIANTS = {
    'gpt': ('t5x_lite.models.language_model:Decoder', 't5x_lite.tasks.examples:Continuations'),
    't5': ('t5x_lite.models.language_model:EncoderDecoder', 't5x_lite.tasks.examples:TaskExamples'),
}


def get_config(variant: str = 'gpt') -> Config:
    if variant not in VARIANTS:
        raise UserError(f'configs/dialogue.py has no variant {variant!r}, {nearest(variant, VARIANTS)}')
    config = completion.get_config()
    config.model.module, config.data.source = VARIANTS[variant]
    config.epochs, config.optim.learning_rate = 4.0, 1e-5
    config.data.target_len = 64 * (variant == 't5')
    config.data.tasks.turns, config.data.tasks.inputs, config.data.tasks.targets = True, '{context} B:', ' {reply}'
    return config
