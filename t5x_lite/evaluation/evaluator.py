"""Held-out scores of parameters: sums on the devices, whole-set scores on the host."""

from typing import Any

import jax
import numpy as np

from t5x_lite.data.pipeline import DataFunction
from t5x_lite.evaluation.metrics_judged import Judged
from t5x_lite.training import partitioning, processes, sharing
from t5x_lite.training.step import Program, eval_step


class Evaluator:
    """`evaluator(params)` -> {'mlm_loss': 2.1, ...} over the fixed held-out batches of `data`."""

    def __init__(self, program: Program, data: DataFunction, step: int = 0):
        """`step`: batches have the length of this step's stage."""
        self._program, self._data, self._step = program, data, step
        self._compiled = sharing.kept(('evaluation', program.key), lambda: jax.jit(eval_step(program)))

    def place(self, params: Any) -> Any:
        """Parameters from the host on the mesh, where training would have them."""
        return self.place_on(self._program, params)

    @staticmethod
    def place_on(program: Program, params: Any) -> Any:
        def place(value: Any, leaf: Any) -> jax.Array:
            # What is on a device already may be shared by several runs, and stays.
            on_device = isinstance(value, jax.Array) and value.dtype == leaf.dtype
            return jax.device_put(value, leaf.sharding) if on_device else processes.placed(np.asarray(value, leaf.dtype), leaf.sharding)

        return jax.tree.map(place, params, program.abstract.params)

    def metrics(self, params: Any = None) -> list[str]:
        """The names that a call gives, of abstract parameters (None: those of the program); nothing is computed."""
        params = self._program.abstract.params if params is None else params
        metrics, collected = jax.eval_shape(eval_step(self._program), params, next(self._data.evaluation_batches(self._step)))
        ones = {name: np.ones(leaf.shape, leaf.dtype) for name, leaf in collected.items()}
        return [*metrics, *(self._program.loss.summarize(ones) if collected else ())]

    def __call__(self, params: Any) -> dict[str, float]:
        scores, collected = self._run(params)
        return scores | (self._program.loss.summarize(collected) if collected else {})

    def in_detail(self, params: Any) -> tuple[dict[str, float], dict[str, Judged]]:
        """(scores, {'': answers one by one}, {} where the loss gives none)."""
        scores, collected = self._run(params)
        if not collected:
            return scores, {}
        judged = {'': self._program.loss.judged(collected)} if hasattr(self._program.loss, 'judged') else {}
        return scores | self._program.loss.summarize(collected), judged

    def _run(self, params: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """(means over the held-out set, what the loss collected of each example)."""
        mesh = self._program.mesh
        size = self._program.config.eval.batch_size or self._data.stage_at(self._step).batch_size
        partitioning.check_batch(mesh, size, self._data.stage_at(self._step).seq_len, 1, 'config.eval.batch_size')
        rows = partitioning.local_rows(mesh, size)
        sums: dict[str, np.ndarray] = {}
        collected: list[dict[str, np.ndarray]] = []
        for batch in self._data.evaluation_batches(self._step, rows):
            placed = partitioning.to_devices(batch, partitioning.batch_shardings(batch, mesh, batch['tokens'].shape[-1]), rows, size)
            metrics, outputs = self._compiled(params, placed)
            for name, pair in processes.fetched(metrics).items():
                sums[name] = sums.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
            if outputs:
                collected.append(processes.fetched(outputs))
        scores = {name: float(total / weight) if weight else 0.0 for name, (total, weight) in sums.items()}
        return scores, {name: np.concatenate([part[name] for part in collected]) for name in (collected[0] if collected else ())}
