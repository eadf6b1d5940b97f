"""What comes of the steps that were taken: metrics fetched late, lines on the terminal and in metrics.jsonl, the end of a run that is not finite."""

from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from t5x_lite.config import Config, NonFinite
from t5x_lite.data.pipeline import DataFunction
from t5x_lite.errors import NotFinite
from t5x_lite.training import features, paths
from t5x_lite.training.goodput import Goodput
from t5x_lite.training.telemetry import Clock, Console, MetricsLog, Window, peak_flops
from t5x_lite.training.watch import Watch

# Steps whose metrics may be on their way while the next are computed: the host never waits for the newest.
_IN_FLIGHT = 2
_SHARE = 'share/'  # of the rows, in metrics.jsonl: of each task of a mixture, or corpus

Metrics = Callable[[], dict[str, Any]]  # waits for a step, and fetches what `make_train_step` returns of it


class Accounts:
    """Of one launch of a run.

    Args:
      module: the model.
      window: sums of the steps since the last line, some of which may be those of an earlier launch.
    """

    def __init__(self, config: Config, data: DataFunction, module: Any, watch: Watch, window: Window, log: MetricsLog, goodput: Goodput):
        self._config, self._data, self._module, self._watch = config, data, module, watch
        self._window, self._log, self._goodput = window, log, goodput
        peak = peak_flops(jax.devices()[0])
        self._peak = peak * jax.device_count() if peak else None
        self._console, self._clock = Console(config.steps, config.log), Clock()
        self._in_flight: deque[tuple[int, Metrics]] = deque()
        self._compile_seconds: dict[str, float] = {}  # {} or {'compile_seconds': since the last line}

    def taken(self, step: int, metrics: Metrics) -> None:
        """A step is under way; those that are long over are accounted for."""
        self._in_flight.append((step, metrics))
        self.settle(_IN_FLIGHT)

    def settle(self, keep: int = 0) -> None:
        """Accounts for all steps but the newest `keep`.

        Raises:
          NotFinite: a loss or gradient is not, and config.optim.nonfinite says to stop.
        """
        while len(self._in_flight) > keep:
            step, metrics = self._in_flight.popleft()
            self._account(step, metrics())

    def compiled(self, seconds: float) -> None:
        self._goodput.add('compile', seconds)
        self._console.pause(seconds)
        self._compile_seconds['compile_seconds'] = self._compile_seconds.get('compile_seconds', 0.0) + seconds

    def aside(self, seconds: float) -> None:
        """Were spent on something else than training."""
        self._console.pause(seconds)
        self._clock.aside_seconds += seconds

    def _account(self, step: int, metrics: dict[str, Any]) -> None:
        config, stage, window, clock = self._config, self._data.stage_at(step - 1), self._window, self._clock
        finite, tokens = bool(metrics['finite']), float(metrics['tokens'])
        if not finite:
            self._not_finite(step, metrics)
        window.add('steps_skipped', 0.0 if finite else 1.0)
        if finite:
            window.add('loss', float(metrics['loss']))
            self._watch.trained(step, float(metrics['loss']))
            window.add('grad_norm', float(metrics['grad_norm']))
            for name, (total, weight) in metrics['metrics'].items():
                window.add(name, float(total), float(weight))
        window.add('tokens', tokens)
        if len(self._data.names) > 1:
            for name, rows in self._data.counts(step - 1).items():
                window.add(f'{_SHARE}{name}', rows, stage.batch_size)
        clock.tokens += tokens
        clock.steps += 1
        rate, flops = float(metrics['learning_rate']), step_flops(config, self._module, stage)
        shown = {name: value for name, value in window.means().items() if name not in ('steps_skipped', 'tokens')}
        said = {name: value for name, value in shown.items() if not name.startswith(_SHARE)}
        self._console.step(step, tokens, said | {'lr': rate}, self._peak, flops)
        if step % config.log.every_steps == 0 or step == config.steps:
            self._write(step, metrics, shown | {'learning_rate': rate}, flops)

    def _write(self, step: int, metrics: dict[str, Any], line: dict[str, Any], flops: float) -> None:
        """A line of metrics.jsonl; the next window begins."""
        clock, sums = self._clock, self._window.sums
        seconds = clock.seconds(self._compile_seconds.get('compile_seconds', 0.0))
        line |= {'tokens': sums['tokens'][0], 'steps_skipped': sums['steps_skipped'][0]}
        if 'loss_scale' in metrics:
            line['loss_scale'] = float(metrics['loss_scale'])
        if 'layer_norms' in metrics:
            line['layer_norms'] = {
                kind: {path: np.asarray(x).tolist() for path, x in paths.leaves(tree).items()} for kind, tree in metrics['layer_norms'].items()
            }
        timing = {'tokens_per_second': clock.tokens / seconds, 'seconds_per_step': seconds / clock.steps}
        if self._peak:
            timing['mfu'] = flops / timing['seconds_per_step'] / self._peak
        timing |= self._compile_seconds | self._goodput.metrics()
        self._log.write(step, line | {name: round(value, 6) for name, value in timing.items()})
        self._goodput.mark(step)
        sums.clear()
        self._compile_seconds.clear()
        clock.restart()

    def _not_finite(self, step: int, metrics: dict[str, Any]) -> None:
        """Says so of a step, or ends the run."""
        if 'overflowed' in metrics and bool(metrics['overflowed']):
            scale = float(metrics['loss_scale'])
            print(
                f'step {step:,}: a gradient was not finite in float16 with a loss scale of {scale:,.0f}; the step is passed over, and the scale {scale / 2:,.0f} now'
            )
            return
        first, rows = int(self._data.indices(step - 1)[0]), self._data.stage_at(step - 1).batch_size
        what = (
            f'step {step:,}: loss {float(metrics["loss"])}, gradient norm {float(metrics["grad_norm"])} on the batch of step {step:,} '
            f'(examples {first:,} to {first + rows - 1:,}); the parameters are as before it'
        )
        if self._config.optim.nonfinite == NonFinite.stop:
            raise NotFinite(
                f'{what}. Look at the batch with --dry_run --dry_run_step={step}, lower config.optim.learning_rate in another --workdir, '
                'or pass over such steps with --config.optim.nonfinite=skip'
            )
        print(f'warning: skipped {what}')


def step_flops(config: Config, module: Any, stage: Any) -> float:
    """FLOPs of a step: three forward passes' worth (forward, and two products for each in the backward pass) of every row, padding included."""
    kind = type(module)
    if features.wanted(config):
        return 3.0 * stage.batch_size * kind.head_flops(config.model)
    return 3.0 * stage.batch_size * kind.forward_flops(config.model, stage.seq_len, stage.max_predictions)
