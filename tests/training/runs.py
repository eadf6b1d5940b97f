"""Small runs of the real command: a corpus of invented words, a model that steps in milliseconds, processes killed at a chosen place."""

from collections.abc import Callable
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from t5x_lite.config import CheckpointConfig, Config, DataConfig, EvalConfig, LogConfig, ModelConfig, OptimConfig
from t5x_lite.config_values import to_json
from t5x_lite.data import preparation
from t5x_lite.models import layers
from t5x_lite.models.dropout import dropout as _dropout
from t5x_lite.models.placing import gathered
from t5x_lite.models.products import product
from t5x_lite.training import checkpoint, paths
from t5x_lite.training.telemetry import TIMING

BERT, TOY = 'bert_flax.bert:BertForPreTraining', 'tests.training.runs:Toy'
ROOT = Path(__file__).resolve().parents[2]
STEPS = 30


class Toy(nn.Module):
    """The inputs and outputs of BERT's pre-training, traced in a moment: a process that trains it starts in half the time.

    It has what a checkpoint could treat apart: a vocabulary, a stack of layers, biases, dropout.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, batch, dropout=None):
        config, normal = self.config, layers.truncated_normal(0.1)
        width, rows, dtype = config.d_model, layers.padded_vocabulary(config), layers.compute_dtype(config)
        table = layers.Embedding((rows, width), ('vocab', 'embed'), dtype, normal, name='tokens')
        kernel, bias = _Stack(width, name='layers')()
        x = table(batch['tokens'])
        for layer in range(2):
            x = x + jnp.tanh(layers.plus(product('BLD,DE->BLE', x, kernel[layer], dtype), bias[layer]))
            x = _dropout(x, config.dropout, dropout, layer)
        masked = jnp.take_along_axis(x, batch['masked_positions'][:, :, None], axis=1) if 'masked_positions' in batch else x
        output = layers.partitioned(self, 'output', normal, (width, 2), ('embed', 'labels'))
        return {'mlm_logits': table.attend(masked), 'nsp_logits': jnp.mean(x.astype(jnp.float32), axis=1) @ gathered(output, ('embed', 'labels'))}

    @staticmethod
    def forward_flops(config, length, predictions):
        return 2 * length * config.d_model**2


class _Stack(nn.Module):
    width: int

    @nn.compact
    def __call__(self):
        shape, axes = (2, self.width, self.width), ('layers', 'embed', 'heads')
        kernel = layers.partitioned(self, 'kernel', layers.truncated_normal(0.1), shape, axes)
        bias = layers.partitioned(self, 'bias', nn.initializers.zeros, shape[:2], axes[::2])
        return gathered(kernel, axes), gathered(bias, axes[::2])


def prepare_corpus(folder: Path, seed: int = 0) -> str:
    """Sentences of invented words, prepared; its folder."""
    rng = random.Random(seed)
    words = [''.join(rng.choices('abcdefgh', k=rng.randint(2, 6))) for _ in range(150)]
    texts = folder / 'texts'
    texts.mkdir(parents=True)
    for number in range(60):
        sentences = (' '.join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(rng.randint(4, 12)))
        (texts / f'{number:02}.txt').write_text(' .\n'.join(sentences) + '\n')
    settings = preparation.Settings(
        input=(str(texts),), output=str(folder / 'corpus'), vocab_size=200, validation_fraction=0.2, sentences='line', workers=1
    )
    preparation.prepare(settings, log=lambda line: None)
    return settings.output


def small_config(corpus: str, module: str = TOY, **fields) -> Config:
    """What a resumed run could get wrong: two stages, microbatches, averaged weights, dropout, log windows that a checkpoint falls into.

    Lines are logged every 3 steps, checkpoints saved every 5, held-out data looked at every 9; length and batch change at step 13.
    """
    config = Config(
        seed=1,
        steps=STEPS,
        ema_decay=0.9,
        loss='bert_flax.losses:MlmNspLoss',
        model=ModelConfig(module=module, num_layers=2, d_model=16, num_heads=2, d_ff=32, max_positions=32, vocab_multiple=8),
        data=DataConfig(source='bert_flax.objectives:MlmNsp', path=(corpus,), stages=((0, 16, 16, 3), (13, 32, 8, 5)), prefetch=2),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=3, microbatches=2),
        checkpoint=CheckpointConfig(every_steps=5, keep_last=2),
        eval=EvalConfig(every_steps=9, batches=2, batch_size=8),
        log=LogConfig(every_steps=3, tensorboard=False),
    )
    for name, value in fields.items():
        part, field = config, name
        if '.' in name:
            group, field = name.split('.')
            part = getattr(config, group)
        assert hasattr(part, field), name
        setattr(part, field, value)
    return config


class Run:
    """A workdir, and the command that trains in it.

    Args:
      cache: compiled programs shared among runs, so that starting again takes seconds.
    """

    def __init__(self, workdir: Path, config: Config, cache: Path):
        self.workdir, self.checkpoints = workdir, workdir / checkpoint.FOLDER
        self.config_file = cache.parent / f'{workdir.name}.json'
        self.config_file.write_text(to_json(config))
        self._environment = os.environ | {
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': '',  # one device
            'JAX_COMPILATION_CACHE_DIR': str(cache),
            'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
            'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
        }
        self.output = ''

    def start(self, *flags: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, '-m', 't5x_lite.train', f'--config={self.config_file}', f'--workdir={self.workdir}', *flags],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(self, process: subprocess.Popen, timeout: float = 300) -> int:
        """The exit status; what it printed is added to `output`."""
        try:
            self.output += process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            self._ask_where(process)
            process.kill()
            self.output += process.communicate()[0]
            raise AssertionError(f'the run did not end:\n{self.output}')
        return process.returncode

    def _ask_where(self, process: subprocess.Popen) -> None:
        """Makes a process that hangs print the stacks of its threads."""
        process.send_signal(signal.SIGUSR1)
        time.sleep(2)

    def finish(self, *flags: str) -> 'Run':
        """Runs the command, which must succeed."""
        status = self.wait(self.start(*flags))
        assert status == 0, self.output
        return self

    def kill_when(self, condition: Callable[['Run'], bool], number: int = signal.SIGKILL) -> 'Run':
        """Runs the command and signals it while `condition` holds: it is stopped first, so that nothing moves between look and kill."""
        process = self.start()
        while process.poll() is None:
            if condition(self):
                process.send_signal(signal.SIGSTOP)
                while _state(process.pid) not in 'TZ':
                    time.sleep(0.0005)
                held = condition(self)
                if held:
                    process.send_signal(number)
                process.send_signal(signal.SIGCONT)
                if held:
                    status = self.wait(process)
                    assert status == (-number if number == signal.SIGKILL else 0), self.output
                    return self
            time.sleep(0.0005)
        self.wait(process)
        raise AssertionError(f'the run ended before it could be killed:\n{self.output}')

    def lines(self) -> list[dict]:
        """metrics.jsonl without the timing."""
        path = self.workdir / 'metrics.jsonl'
        text = path.read_text() if path.exists() else ''
        whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith('\n')]
        return [{name: value for name, value in line.items() if name not in TIMING} for line in whole]

    def logged(self, step: int, held_out: bool = False) -> bool:
        """Whether there is a line of this step or of a later one."""
        return any(line['step'] >= step and any(name.startswith('eval/') for name in line) == held_out for line in self.lines())

    def saved(self) -> list[int]:
        return sorted(int(path.name) for path in self.checkpoints.glob('*') if path.name.isdigit())

    def saving(self, step: int) -> bool:
        return any(self.checkpoints.glob(f'{step}.orbax-checkpoint-tmp*'))

    def contents(self, step: int) -> dict[str, np.ndarray]:
        """Every array of a checkpoint."""
        folder = self.checkpoints / str(step)
        host = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        saved = ocp.checkpointables_metadata(folder).metadata
        saved = {name: saved[name] for name in ('params', 'ema', 'training') if name in saved}
        abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host), saved)
        return {path: np.asarray(x) for path, x in paths.leaves(ocp.load_checkpointables(folder, abstract)).items()}


def _state(pid: int) -> str:
    """The letter of a process's state: T is stopped."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except FileNotFoundError:
        return 'Z'


def assert_same(run: Run, reference: Run) -> None:
    """The same checkpoints bit for bit, where both kept them (the last they must), and the same metrics line by line."""
    assert reference.saved()[-1] in run.saved(), run.output
    for step in set(run.saved()) & set(reference.saved()):
        ours, theirs = run.contents(step), reference.contents(step)
        assert ours.keys() == theirs.keys()
        different = [path for path in ours if ours[path].dtype != theirs[path].dtype or ours[path].tobytes() != theirs[path].tobytes()]
        assert not different, f'step {step}: {different}\n{run.output}'
    assert run.lines() == reference.lines(), run.output
