"""Any objective on any architecture that can express it, at equal FLOPs a step: what an ablation of the one against the other needs.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=sentencepiece --vocab_size=32100
    python -m t5x_lite.train --config=configs/objectives.py:encoder_decoder_span --config.data.path=data/mine --workdir=runs/encoder_decoder_span

Variants are ARCHITECTURE_OBJECTIVE: encoder, decoder, encoder_decoder; mlm, mlm_nsp, causal, prefix, span, ul2. README.md has the table of what goes together.
8 layers of 512 (8 + 8 for two stacks), 256 tokens; the batch is what brings a step to that of 128 rows of `decoder_causal` (--dry_run prints FLOPs; a test
holds them within 1 %). mlm_nsp needs a WordPiece tokenizer. Nothing was measured with it.
"""

from t5x_lite.config import Activation, Config, DataConfig, Init, Layout, ModelConfig, NormPlace, OptimConfig, Schedule
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError, nearest
from t5x_lite.stages import stages

_LM, _BERT = 't5x_lite.models.language_model:', 'bert_flax.bert:'
MODULES = {'encoder': f'{_BERT}BertForMaskedLm', 'decoder': f'{_LM}Decoder', 'encoder_decoder': f'{_LM}EncoderDecoder'}
SOURCES = {
    'mlm': 't5x_lite.data.objectives:PackedMlm', 'mlm_nsp': 'bert_flax.objectives:MlmNsp', 'causal': 't5x_lite.data.language_modelling:CausalLm',
    'prefix': 't5x_lite.data.language_modelling:PrefixLm', 'span': 't5x_lite.data.span_corruption:SpanCorruption',
    'ul2': 't5x_lite.data.denoisers:MixtureOfDenoisers',
}  # fmt: skip
NONE = ('encoder_decoder_causal', 'encoder_decoder_mlm_nsp', 'decoder_mlm_nsp')  # make no sense: --dry_run says why
VARIANTS = tuple(f'{architecture}_{objective}' for architecture in MODULES for objective in SOURCES)


def get_config(variant: str = 'decoder_causal', rows: int = 128) -> Config:
    if variant not in VARIANTS:
        raise UserError(f'configs/objectives.py has no variant {variant!r}, {nearest(variant, VARIANTS)}')
    architecture = max((name for name in MODULES if variant.startswith(f'{name}_')), key=len)
    objective = variant.removeprefix(f'{architecture}_')
    masked = architecture == 'encoder' and objective.startswith('mlm')
    losses = {'mlm': 'bert_flax.losses:MlmLoss', 'mlm_nsp': 'bert_flax.losses:MlmNspLoss'}
    config = Config(
        steps=100_000,
        batch_size=rows,
        loss=losses[objective] if masked else 't5x_lite.training.losses:LmLoss',
        model=ModelConfig(
            module=f'{_BERT}BertForPreTraining' if variant == 'encoder_mlm_nsp' else MODULES[architecture],
            default_vocab_size=32100, num_layers=8, d_model=512, num_heads=8, d_ff=2048, activation=Activation.gelu_tanh, norm_place=NormPlace.pre,
            norm_eps=1e-6, init=Init.residual, causal=architecture == 'encoder' and not masked,
        ),  # fmt: skip
        data=DataConfig(source=SOURCES[objective], seq_len=256, layout=Layout[architecture]),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=4000, schedule=Schedule.cosine, end_fraction=0.1, b2=0.98),
    )
    if variant != 'decoder_causal' and variant not in NONE:
        config.batch_size = round(rows * _flops(get_config('decoder_causal')) / _flops(config))
    return config


def _flops(config: Config) -> float:
    """Of a row."""
    _, length, _, predictions = stages(config)[0]
    model = config.model
    model.vocab_size = model.default_vocab_size
    flops = resolve(model.module).forward_flops(model, length, predictions)
    model.vocab_size = 0
    return flops
