"""Weights in and out, without torch.

    python -m t5x_lite.convert --input=HF_FOLDER --output=WORKDIR --format=native
    python -m t5x_lite.convert --input=WORKDIR --output=HF_FOLDER --format=hf [--ema] [--step=300]
    python -m t5x_lite.convert --input=HF_FOLDER --output=WORKDIR --format=native --unmerge=RUN      # takes the LoRA or (IA)^3 of RUN out again

HF_FOLDER, one of BERT, GPT-1, GPT-2, T5 or mT5, holds config.json, model.safetensors (or its shards and their index) and tokenizer files.
--config.init_from takes such a folder as it is, too.
"""

from collections.abc import Sequence

from absl import flags

from t5x_lite import cli
from t5x_lite.errors import UserError
from t5x_lite.interop import conversion
from t5x_lite.training import places

_INPUT = flags.DEFINE_string('input', None, 'A Hugging Face folder, or a workdir of ours or one checkpoint in it.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'Folder to write, or gs://BUCKET/FOLDER; it must be new or empty.', required=True)
_FORMAT = flags.DEFINE_enum('format', None, ['hf', 'native'], 'What to write.', required=True)
_EMA = flags.DEFINE_bool('ema', False, 'Write the moving average of the weights (--format=hf).')
_STEP = flags.DEFINE_string('step', None, 'Of a workdir (--format=hf): ' + places.STEP_HELP)
_UNMERGE = flags.DEFINE_string('unmerge', '', 'A run whose adapters were merged into these weights, and are taken out again.')
_SHARD = flags.DEFINE_integer(
    'max_shard_bytes', 5_000_000_000, 'Weights above this are written in several files (--format=hf).', lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    del argv
    if _FORMAT.value == 'native':
        if _STEP.value:
            raise UserError('--step: a Hugging Face folder has no checkpoints; it goes with --format=hf')
        if _EMA.value:
            raise UserError('--ema: a Hugging Face folder has no moving average; it goes with --format=hf')
        config = conversion.to_native(_INPUT.value, _OUTPUT.value, unmerge=_UNMERGE.value)
    else:
        config = conversion.to_hf(
            _INPUT.value, _OUTPUT.value, which=_STEP.value or '', ema=_EMA.value, max_shard_bytes=_SHARD.value, unmerge=_UNMERGE.value
        )
    print(f'{_OUTPUT.value}: {config.model.module}, {config.model.num_layers} layers of {config.model.d_model}')


if __name__ == '__main__':
    cli.run(main)
