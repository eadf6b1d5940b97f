"""GPT-1 (Radford et al., 2018), GPT-2 (2019) and GPT-3 (Brown et al., 2020), all sizes, pre-trained by causal language modelling.

    python -m t5x_lite.prepare --input=TEXTS --output=data/mine --tokenizer=byte_bpe --vocab_size=50257       # or GPT-2's own files: --tokenizer=FOLDER
    python -m t5x_lite.train --config=configs/gpt.py:gpt2 --config.data.path=data/mine --workdir=runs/gpt2    # any variant of GPT-2 and GPT-3

GPT-1 has a lower-cased BPE: --tokenizer=FOLDER of an openai-gpt model. Published results, none measured here: gpt1 18.4 perplexity a token on BooksCorpus (100
epochs, 8 P600 GPUs, a month). gpt2 is nanoGPT's recipe (8 A100 of 40 GB, four days), which reports a validation loss of 2.85 on OpenWebText; medium to xl have
that recipe too, untried (the paper gives none; zero-shot perplexity on WikiText-2 29.41, 22.76, 19.93, 18.34). gpt3_* are the paper's (V100s; LAMBADA
zero-shot 42.7, 54.3, 60.4, 63.6, 67.1, 70.3, 72.5, 76.2 %) but for the batch, which does not grow at first, and the cosine, which ends at 300 and not 260
billion tokens; bands of 256 are ours, the paper does not say; 1.3B has 16 heads, for its 24 do not fit. For a CPU: gpt_small_corpus.py, shakespeare.py.
"""

from t5x_lite.config import Activation, Config, DataConfig, EvalConfig, Init, ModelConfig, NormPlace, OptimConfig, Schedule
from t5x_lite.errors import UserError, nearest

# layers, width, heads
GPT2 = {'gpt2': (12, 768, 12), 'gpt2_medium': (24, 1024, 16), 'gpt2_large': (36, 1280, 20), 'gpt2_xl': (48, 1600, 25)}
# and sequences of 2,048 a batch, learning rate
GPT3 = {
    'gpt3_125m': (12, 768, 12, 256, 6e-4), 'gpt3_350m': (24, 1024, 16, 256, 3e-4), 'gpt3_760m': (24, 1536, 16, 256, 2.5e-4),
    'gpt3_1_3b': (24, 2048, 16, 512, 2e-4), 'gpt3_2_7b': (32, 2560, 32, 512, 1.6e-4), 'gpt3_6_7b': (32, 4096, 32, 1024, 1.2e-4),
    'gpt3_13b': (40, 5120, 40, 1024, 1e-4), 'gpt3_175b': (96, 12288, 96, 1536, 0.6e-4),
}  # fmt: skip
VARIANTS = ('gpt1', *GPT2, *GPT3)


def get_config(variant: str = 'gpt2') -> Config:
    if variant not in VARIANTS:
        raise UserError(f'configs/gpt.py has no variant {variant!r}, {nearest(variant, VARIANTS)}')
    decay = (('.*/(bias|scale|embedding)', 0.0), ('.*', 0.1))
    optim = OptimConfig(
        learning_rate=6e-4, schedule=Schedule.cosine, end_fraction=0.1, warmup_steps=2000, b2=0.95, eps=1e-8, decay=decay
    )
    layers, width, heads = GPT2[variant] if variant in GPT2 else GPT3[variant][:3] if variant in GPT3 else (12, 768, 12)
    model = ModelConfig(
        module='t5x_lite.models.language_model:Decoder',
        default_vocab_size=50257, num_layers=layers, d_model=width, num_heads=heads, d_ff=4 * width, max_positions=1024,
        activation=Activation.gelu_tanh, norm_place=NormPlace.pre, norm_eps=1e-5, init=Init.residual, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    steps, batch = 600_000, 480
    if variant in GPT3:
        batch, optim.learning_rate = GPT3[variant][3:]
        model.max_positions, model.local_window = 2048, 256
        steps, optim.warmup_steps = (tokens // (batch * 2048) for tokens in (300_000_000_000, 375_000_000))
    if variant == 'gpt1':
        model.default_vocab_size, model.max_positions, model.norm_place, model.init = 40478, 512, NormPlace.post, Init.normal
        model.dropout = model.attention_dropout = 0.1
        optim.learning_rate, optim.b2, optim.end_fraction, optim.decay = 2.5e-4, 0.999, 0.0, (('.*/(bias|scale)', 0.0), ('.*', 0.01))
        steps, batch = 1_000_000, 64
    return Config(
        steps=steps,
        batch_size=batch,
        loss='t5x_lite.training.losses:LmLoss',
        model=model,
        data=DataConfig(source='t5x_lite.data.language_modelling:CausalLm', seq_len=model.max_positions, concatenate=True),
        optim=optim,
        eval=EvalConfig(every_steps=2000),
    )
