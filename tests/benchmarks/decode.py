"""Greedy decoding with a cache, ours beside transformers' `generate`, on the same machine and in turns.

    python -m tests.benchmarks.decode [--size=gpt2] [--batch=1] [--prompt=64] [--new=64] [--dtype=float32] [--threads=2] [--turns=10] [--output=FILE]

A GPT-2 with random weights, which travel through our Hugging Face interop, continues prompts of random tokens; a turn is the prompt's pass and all new tokens.
Before that the two must give the same tokens (in float32). Needs the extra `parity` (torch, transformers).
"""

import tempfile
from typing import Any

from absl import flags
import jax
import numpy as np

from configs import gpt as gpt_config
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import Config, DecodeConfig, DType
from t5x_lite.errors import UserError
from t5x_lite.evaluation.generation import Generator
from t5x_lite.interop import folder
from t5x_lite.training import devices
from tests.benchmarks import turns

FLAGS = flags.FLAGS


class Ids:
    """A tokenizer of texts that are ids already; its end is none that a model writes."""

    pad_id, start_id, special_ids, sentinel_ids = 0, 0, (), ()

    def __init__(self, vocabulary: int):
        self.end_id = vocabulary

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        del skip_special
        return ' '.join(map(str, ids))


def theirs(torch: Any, transformers: Any, config: Any) -> Any:
    torch.set_num_threads(FLAGS.threads)
    torch.manual_seed(0)
    fields = {'n_embd': config.d_model, 'n_layer': config.num_layers, 'n_head': config.num_heads, 'n_positions': config.max_positions}
    made = transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation='sdpa', eos_token_id=None, bos_token_id=None, **fields))
    with torch.no_grad():
        # Small random weights say much the same whatever is read; wider ones tell tokens apart.
        for name, value in made.named_parameters():
            if name.endswith('weight') and value.ndim == 2:
                value.mul_(3.0)
    return made.eval().to(getattr(torch, FLAGS.dtype))


def main(argv: list[str]) -> None:
    del argv
    devices.keep_freed_memory()
    torch, transformers = turns.parity('torch', 'transformers')
    turns.pin(FLAGS.threads)
    transformers.utils.logging.set_verbosity_error()
    model = gpt_config.get_config(FLAGS.size).model
    peer, device = theirs(torch, transformers, model), 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
    vocabulary = peer.config.vocab_size
    with tempfile.TemporaryDirectory() as place:
        peer.float().save_pretrained(place)
        peer.to(device, getattr(torch, FLAGS.dtype))
        loaded, params = folder.load(place)
    loaded.dtype = DType(FLAGS.dtype)
    loaded.scan_layers = FLAGS.scan
    config = finalize(Config(model=loaded))
    generator = Generator(config, jax.tree.map(jax.numpy.asarray, params), Ids(vocabulary), batch_size=FLAGS.batch)
    decode = DecodeConfig(max_new_tokens=FLAGS.new)
    prompts = np.random.default_rng(0).integers(0, vocabulary, (FLAGS.batch, FLAGS.prompt))
    texts, inputs = [' '.join(map(str, row)) for row in prompts], torch.from_numpy(prompts).to(device)
    how = {'attention_mask': torch.ones_like(inputs), 'max_new_tokens': FLAGS.new, 'min_new_tokens': FLAGS.new, 'do_sample': False, 'pad_token_id': 0}

    def ours() -> np.ndarray:
        return np.array([answers[0].tokens for answers in generator(texts, decode)])

    def of_peer() -> np.ndarray:
        with torch.no_grad():
            return peer.generate(inputs, **how)[:, FLAGS.prompt :].cpu().numpy()

    mine, given = ours(), of_peer()
    print(f'{np.mean(mine == given):.1%} of the tokens are equal; {len(np.unique(given))} different ones')
    if FLAGS.dtype == 'float32' and not np.array_equal(mine, given):
        raise UserError('the tokens differ: the two do not compute the same thing, and their times say nothing')
    units = {'new tokens': mine.size}
    competitors = {'transformers': turns.Competitor(of_peer, units), 'ours': turns.Competitor(ours, units)}
    what = f'{FLAGS.size}, {FLAGS.batch} x {FLAGS.new} new tokens after {FLAGS.prompt}, greedy, {FLAGS.dtype}'
    turns.write(turns.measure('decode', what, competitors, None, FLAGS.turns, packages=('jax', 'flax', 'torch', 'transformers')), FLAGS.output)


if __name__ == '__main__':
    flags.DEFINE_string('size', 'gpt2', 'A variant of configs/gpt.py.')
    flags.DEFINE_integer('batch', 1, 'Prompts at a time.', lower_bound=1)
    flags.DEFINE_integer('prompt', 64, 'Tokens of each.', lower_bound=1)
    flags.DEFINE_integer('new', 64, 'Tokens to generate.', lower_bound=1)
    flags.DEFINE_bool('scan', False, 'Ours with the loop over layers as one compiled body.')
    flags.DEFINE_enum('dtype', 'float32', [kind.value for kind in DType], 'Of both; ours keeps its parameters in float32.')
    flags.DEFINE_integer('threads', 2, 'For both, on as many cores.', lower_bound=1)
    flags.DEFINE_integer('turns', 10, 'That count; two more go before.', lower_bound=1)
    flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')
    cli.run(main)
