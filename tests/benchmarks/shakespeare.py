"""A training step of the character GPT of configs/shakespeare.py, ours beside nanoGPT's, on the same machine and in turns.

    git clone https://github.com/karpathy/nanoGPT; pip install '.[parity]'
    python -m tests.benchmarks.shakespeare --nanogpt=nanoGPT [--turns=20] [--steps=20] [--threads=2]

Both train from the same weights on the same batch of 12 x 64 characters drawn at random, in float32, as nanoGPT's train.py does on a CPU: its model and
optimiser are its own, imported from the checkout; the step (forward, backward, clipping at 1.0, AdamW) is made of them. A turn is `steps` steps of one of the
two. The losses of whole runs are in EVIDENCE.md.
"""

import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from absl import flags
import jax
import numpy as np

from configs import shakespeare
from t5x_lite import cli
from t5x_lite.checks import finalize
from t5x_lite.config import Activation
from t5x_lite.errors import UserError
from t5x_lite.interop import folder, safetensors
from t5x_lite.training import checkpoint, devices, partitioning
from t5x_lite.training.step import batch_loss, make_program, make_train_step
from tests.benchmarks import turns

FLAGS = flags.FLAGS
flags.DEFINE_string('nanogpt', None, 'A checkout of nanoGPT, of which model.py is used.', required=True)
flags.DEFINE_integer('turns', 20, 'That count; two more go before.', lower_bound=1)
flags.DEFINE_integer('steps', 20, 'A turn.', lower_bound=1)
flags.DEFINE_integer('threads', 2, 'For both, on as many cores.', lower_bound=1)
flags.DEFINE_bool('compile', False, 'A turn for nanoGPT under torch.compile as well (needs a C++ compiler).')
flags.DEFINE_string('output', '', 'A file to which one JSON line is appended.')

VOCABULARY = 65  # the characters of tiny Shakespeare


class Theirs:
    """nanoGPT's GPT with its own optimiser, dropout 0 and biases, set up as its train.py does on a CPU."""

    def __init__(self, torch: Any, path: str, model: Any):
        spec = importlib.util.spec_from_file_location('nanogpt_model', os.path.join(path, 'model.py'))
        if spec is None or not os.path.isfile(spec.origin):
            raise UserError(f'--nanogpt={path}: no model.py in it; give a checkout of nanoGPT')
        nanogpt = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(nanogpt)
        torch.set_num_threads(FLAGS.threads)
        torch.manual_seed(0)
        self._torch = torch
        self.model = nanogpt.GPT(
            nanogpt.GPTConfig(model.max_positions, VOCABULARY, model.num_layers, model.num_heads, model.d_model, dropout=0.0, bias=True)
        )
        self._optimizer = self.model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), 'cpu')

    def inputs(self, batch: dict[str, np.ndarray]) -> tuple[Any, Any]:
        return tuple(self._torch.from_numpy(batch[name].astype(np.int64)) for name in ('tokens', 'targets'))

    def loss(self, inputs: tuple[Any, Any]) -> float:
        with self._torch.no_grad():
            return float(self.model(*inputs)[1])

    def steps(self, model: Any, inputs: tuple[Any, Any]) -> Callable[[], float]:
        def run() -> float:
            for _ in range(FLAGS.steps):
                _, loss = model(*inputs)
                loss.backward()
                self._torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
            return loss.item()

        return run

    def save(self, path: str) -> None:
        """As a Hugging Face folder of GPT-2, whose products are stored transposed."""
        tensors = {}
        for name, value in self.model.state_dict().items():
            if name != 'lm_head.weight':
                product = value.ndim == 2 and '.h.' in name
                tensors[name] = np.ascontiguousarray((value.T if product else value).numpy())
        os.makedirs(path)
        safetensors.write(path, {name: value.shape for name, value in tensors.items()}, tensors.__getitem__, 1 << 30)
        model = self.model.config
        fields = {
            'model_type': 'gpt2', 'vocab_size': VOCABULARY, 'n_positions': model.block_size, 'n_embd': model.n_embd, 'n_layer': model.n_layer,
            'n_head': model.n_head, 'activation_function': 'gelu', 'layer_norm_epsilon': 1e-5,
        }  # fmt: skip
        with open(os.path.join(path, 'config.json'), 'w', encoding='utf-8') as file:
            json.dump(fields, file)


class Ours:
    """configs/shakespeare.py as `t5x_lite.train` runs it: the same program, jitted step and donation."""

    def __init__(self, config: Any, weights: str, batch: dict[str, np.ndarray]):
        config = finalize(config)
        config.model.vocab_size, config.model.activation = VOCABULARY, Activation.gelu  # nanoGPT's
        self._program = program = make_program(config, partitioning.make_mesh(config, jax.devices()[:1]))
        state = program.init()
        _, loaded = folder.load(weights)
        self._state = state.replace(params=checkpoint.merge(state.params, loaded, (), weights)[0])
        shardings = partitioning.batch_shardings(batch, program.mesh, batch['tokens'].shape[1])
        self._batch = partitioning.to_devices(batch, shardings, slice(0, config.batch_size), config.batch_size)
        with jax.set_mesh(program.mesh):
            self.loss = float(jax.jit(lambda p, b: batch_loss(program, p, b, program.loss.weights(b), None)[0])(self._state.params, self._batch))
            placed = (program.shardings, {name: value.sharding for name, value in self._batch.items()})
            jitted = jax.jit(make_train_step(program), donate_argnums=0, in_shardings=placed, out_shardings=(program.shardings, None))
            self._step = jitted.lower(program.abstract, self._batch).compile()

    def run(self) -> float:
        for _ in range(FLAGS.steps):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)
        return float(metrics['loss'])


def main(argv):
    del argv
    devices.keep_freed_memory()
    torch, = turns.parity('torch')
    turns.pin(FLAGS.threads)
    config = shakespeare.get_config()
    config.optim.learning_rate = 1e-3
    rows = np.random.default_rng(0).integers(1, VOCABULARY, (config.batch_size, config.data.seq_len + 1)).astype(np.int32)
    shape = (config.batch_size, config.data.seq_len)
    batch = {
        'tokens': rows[:, :-1].copy(), 'targets': rows[:, 1:].copy(), 'target_weights': np.ones(shape, np.float32), 'sequence_ids': np.ones(shape, np.int32),
        'positions': np.broadcast_to(np.arange(shape[1], dtype=np.int32), shape).copy(), 'example_weights': np.ones(shape[0], np.float32),
    }  # fmt: skip
    theirs = Theirs(torch, FLAGS.nanogpt, config.model)
    inputs = theirs.inputs(batch)
    with tempfile.TemporaryDirectory() as place:
        theirs.save(os.path.join(place, 'weights'))
        began = time.perf_counter()
        ours = Ours(config, os.path.join(place, 'weights'), batch)
        compile_seconds = time.perf_counter() - began
    loss = theirs.loss(inputs)
    print(f'loss of the same weights and batch: nanoGPT {loss:.6f}, ours {ours.loss:.6f}')
    if abs(loss - ours.loss) > 1e-4:
        raise UserError('the losses differ by more than 1e-4: the two do not compute the same thing, and their times say nothing')

    units = {'steps': FLAGS.steps}
    taking = {'nanoGPT': turns.Competitor(theirs.steps(theirs.model, inputs), units)}
    if FLAGS.compile:
        taking['nanoGPT, torch.compile'] = turns.Competitor(theirs.steps(torch.compile(theirs.model), inputs), units)
    taking['ours'] = turns.Competitor(ours.run, units, said={'compile s': f'{compile_seconds:.0f}'})
    what = f'{FLAGS.steps} training steps of a character GPT, {config.batch_size} x {config.data.seq_len}, float32'
    turns.write(turns.measure('shakespeare', what, taking, turns.matmul_rates(torch), FLAGS.turns, packages=('jax', 'flax', 'torch')), FLAGS.output)


if __name__ == '__main__':
    cli.run(main)
