"""Small parameters beside those of a pretrained model, which alone learn: config.tune.lora, .adapters, .ia3, .prefix, .prompt.

They are put into the tree of parameters, beside the weights that they change; a layer that finds them there uses them (`models.layers.Einsum`,
`models.transformer.Block`, `.Stack`, `models.attention.Attention`), so no module and no head knows of them:

    encoder/layers/attention/query/kernel     [N, D, E]
    encoder/layers/attention/query/lora_a     [N, D, R]     x W + (x A B) s, with s = alpha / R
    encoder/layers/attention/query/lora_b     [N, R, E]     zero at first: training begins at the pretrained model
    encoder/layers/attention/query/lora_scale [N]           s, which does not learn
    encoder/layers/attention/prefix_key       [N, P, E]     keys, and prefix_value values, in front of the sequence's own
    encoder/prompt                            [P, D]        virtual tokens in front of the embedded sequence

LoRA is Hu et al. (2021); (IA)^3 Liu et al. (2022), with vectors that scale keys, values and the hidden units of the feed-forward; bottleneck adapters are
Houlsby et al. (2019), after attention and feed-forward, or Pfeiffer et al. (2021), after the feed-forward alone. Prefixes are those of Li & Liang (2021),
without the network that makes them while training (as Liu et al., 2022, P-tuning v2); prompts those of Lester et al. (2021), who let an encoder's virtual
tokens read the text, where these see each other only, so that sequences packed in a row stay apart.
"""

from collections.abc import Callable
import dataclasses
import itertools
import math
import re
from typing import Any
import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.config import Adapters, Features, TuneConfig
from t5x_lite.errors import UserError, nearest
from t5x_lite.training import paths

# Of the paths of what is added.
PATTERN = r'(.*/)?(lora_(a|b|scale)|scale_(in|out)|\w+_adapter_(down|up)(_bias)?|prefix_(key|value)|prompt)'


def wanted(config: TuneConfig) -> bool:
    return bool(config.lora or config.ia3 or config.prefix or config.prefix_cross or config.prompt) or config.adapters != Adapters.none


def same(ours: TuneConfig, theirs: TuneConfig) -> bool:
    """Whether both add the same, so that one run can go on with what another learnt."""

    def added(config: TuneConfig) -> tuple:
        size = config.adapter_size if config.adapters != Adapters.none else 0
        return config.lora, config.adapters, size, config.ia3, config.prefix, config.prefix > 0 and config.prefix_cross, config.prompt

    return added(ours) == added(theirs)


def alone(config: TuneConfig) -> TuneConfig:
    """What a config adds, without rules of who learns."""
    return dataclasses.replace(config, train=(), freeze=(), freeze_layers=0, rates=(), layer_decay=1.0, unfreeze=(), mixout=0.0, features=Features.none)


def is_added(path: str) -> bool:
    return bool(re.fullmatch(PATTERN, path))


def learns(path: str) -> bool:
    """Of an added one: all but LoRA's constant."""
    return not path.endswith('/lora_scale')


def added_to(config: TuneConfig, boxed: Any, seed: int | jax.Array) -> Any:
    """A model's parameters, boxed with their logical axes, and beside them what a config adds; `boxed` itself where that is nothing.

    Args:
      boxed: abstract or not; what is added is likewise.
      seed: or a random key.

    Raises:
      UserError: a pattern of config.tune.lora that is none or matches no kernel, a rank or an alpha that is none, what the model has no place for.
    """
    if not wanted(config):
        return boxed
    boxes = {
        paths.path_of(keys): box for keys, box in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned))
    }
    kernels = {path.removesuffix('/kernel'): box for path, box in boxes.items() if path.endswith('/kernel')}
    made = {}

    def put(path: str, box: nn.LogicallyPartitioned, shape: tuple[int, ...], axes: tuple[str | None, ...], value: Callable[[jax.Array], jax.Array] | float) -> None:
        stack, names = (box.value.shape[:1], box.names[:1]) if paths.is_stacked(path) else ((), ())
        shape, names = stack + shape, names + axes
        if isinstance(box.value, jax.ShapeDtypeStruct):
            made[path] = nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)
            return
        key = jax.random.fold_in(start, zlib.crc32(path.encode()))
        made[path] = nn.LogicallyPartitioned(value(key, shape) if callable(value) else jnp.full(shape, value, jnp.float32), names)

    _check_rules(config.lora)
    start = jax.random.key(seed) if isinstance(seed, int) else seed
    used = set()
    for name, box in kernels.items():
        inputs, outputs = box.value.shape[-2:]
        in_axis, out_axis = box.names[-2:]
        for number, (pattern, rank, alpha) in enumerate(config.lora):
            if re.fullmatch(pattern, name):
                used.add(number)
                put(f'{name}/lora_a', box, (inputs, rank), (in_axis, None), lambda key, shape: jax.random.normal(key, shape) * shape[-2] ** -0.5)
                put(f'{name}/lora_b', box, (rank, outputs), (None, out_axis), 0.0)
                put(f'{name}/lora_scale', box, (), (), alpha / rank)
                break
        if config.ia3 and re.search('/attention/(key|value)$', name):
            put(f'{name}/scale_out', box, (outputs,), (out_axis,), 1.0)
        place = re.fullmatch('(.*/(cross_)?attention)/(key|value)', name)
        if config.prefix and place and (config.prefix_cross or not place[2]):
            # Small beside keys and values of a text: at first a prefix only thins them out, evenly.
            put(f'{place[1]}/prefix_{place[3]}', box, (config.prefix, outputs), (None, out_axis), lambda key, shape: jax.random.normal(key, shape) * 2e-2)
        place = re.fullmatch('((.*/)?)layers/attention/query', name)
        if config.prompt and place and f'{place[1]}layers/cross_attention/query' not in kernels:
            # As wide as Lester et al. (2021, section 3.2) draw them.
            path = f'{place[1]}prompt'
            put(path, box, (config.prompt, inputs), (None, 'embed'), lambda key, shape: jax.random.uniform(key, shape, minval=-0.5, maxval=0.5))
        if config.ia3 and name.endswith('/mlp/wo'):
            put(f'{name}/scale_in', box, (inputs,), (in_axis,), 1.0)
        place = re.fullmatch(r'(.*)/(attention|cross_attention|mlp)/(output|wo)', name)
        if place and (config.adapters == Adapters.houlsby or config.adapters == Adapters.pfeiffer and place[2] == 'mlp'):
            before, size = f'{place[1]}/{place[2]}_adapter_', config.adapter_size
            # Near the identity at first, as Houlsby et al. (2019) ask.
            put(f'{before}down', box, (outputs, size), ('embed', None), lambda key, shape: jax.random.normal(key, shape) * 1e-2)
            put(f'{before}down_bias', box, (size,), (None,), 0.0)
            put(f'{before}up', box, (size, outputs), (None, 'embed'), lambda key, shape: jax.random.normal(key, shape) * 1e-2)
            put(f'{before}up_bias', box, (outputs,), ('norm',), 0.0)
    for number, (pattern, _, _) in enumerate(config.lora):
        if number not in used:
            if taken := next((name for name in kernels if re.fullmatch(pattern, name)), ''):
                before = next(other for other, _, _ in config.lora if re.fullmatch(other, taken))
                raise UserError(
                    f'config.tune.lora: {pattern!r} decides nothing: {taken}, and all else that it matches, is decided by what stands before it ({before!r}); '
                    'the first rule that matches a kernel counts, so put the narrower first, or leave one out'
                )
            raise UserError(f'config.tune.lora: {pattern!r} matches no kernel; {nearest(pattern, kernels)}')
    wants = {
        'ia3': (config.ia3, r'scale_(in|out)'), 'adapters': (config.adapters != Adapters.none, r'\w+_adapter_down'), 'prompt': (config.prompt, 'prompt'),
        'prefix': (config.prefix, 'prefix_key'), 'prefix_cross': (config.prefix_cross, 'cross_attention/prefix_key'),
    }  # fmt: skip
    for field, (asked, kind) in wants.items():
        if asked and not any(re.fullmatch(f'(.*/)?{kind}', path) for path in made):
            raise UserError(f'config.tune.{field}: this model has no layer that takes it' + (', or config.tune.prefix is 0' if 'cross' in field else ''))
    return paths.nested(boxes | made)


def _check_rules(lora: tuple[tuple[str, int, float], ...]) -> None:
    for pattern, rank, alpha in lora:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f'config.tune.lora: {pattern!r} is not a regular expression ({error})') from error
        if rank < 1:
            raise UserError(f'config.tune.lora: the rank for {pattern!r} is {rank}; it must be at least 1')
        if not 0 < alpha < math.inf:
            raise UserError(f'config.tune.lora: alpha for {pattern!r} is {alpha}; it must be above 0 (often once or twice the rank)')


def shared_kernels(config: TuneConfig, params: Any) -> list[str]:
    """A line for each two rules of config.tune.lora that match the same kernel, of which the first counts.

    Args:
      params: of a model, abstract or not, not boxed.

    Raises:
      UserError: rules that are none, as of `added_to`.
    """
    _check_rules(config.lora)
    kernels = [path.removesuffix('/kernel') for path in paths.leaves(params) if path.endswith('/kernel')]
    matching = {name: [rule for rule in config.lora if re.fullmatch(rule[0], name)] for name in kernels}
    lines = []
    for first, second in itertools.combinations(config.lora, 2):
        if both := [name for name, rules in matching.items() if rules[:1] == [first] and second in rules]:
            more = f' and {len(both) - 1} more' if len(both) > 1 else ''
            lines.append(f'config.tune.lora: {first[0]!r} and {second[0]!r} both match {both[0]}{more}; the first counts there (rank {first[1]})')
    return lines


def merged(params: Any) -> Any:
    """Parameters with LoRA's products added to their kernels and (IA)^3's vectors multiplied into them: a model without adapters that computes the same.

    Raises:
      UserError: bottleneck adapters, prefixes and prompts, which no kernel can hold.
    """
    found = paths.leaves(params)
    if not any(map(is_added, found)):
        return params
    result = {}
    for path, leaf in found.items():
        if not is_added(path):
            product, factor = _linear(path, found)
            result[path] = (np.asarray(leaf) + product) * factor
        else:
            _check_linear(path)
    return paths.nested(result)


def unmerged(params: Any, added: Any) -> Any:
    """Parameters that `merged` gave, with what it put into them taken out again: those without adapters, but for rounding.

    Args:
      added: the adapters, beside other parameters or alone.

    Raises:
      UserError: adapters of another model, or such as cannot have been merged; a vector with a 0 in it, which leaves nothing to restore.
    """
    given, beside = paths.leaves(params), {path: leaf for path, leaf in paths.leaves(added).items() if is_added(path)}
    result = dict(given)
    for path in beside:
        _check_linear(path)
        name = path.rpartition('/')[0]
        if f'{name}/kernel' not in given:
            raise UserError(f'{path}: there is no {name}/kernel in these weights; they are of another model')
        for kind in ('kernel', 'bias'):
            if (place := f'{name}/{kind}') in given:
                product, factor = _linear(place, beside)
                shape = np.shape(given[place])
                if not _fits(np.shape(product), shape) or not _fits(np.shape(factor), shape):
                    raise UserError(f'{path}: {place} is {shape} in these weights; they are of another model')
                if not np.all(factor):
                    raise UserError(f'{path}: a 0 in it has erased weights, which cannot be restored; go back to those that were merged into')
                result[place] = np.asarray(given[place]) / factor - product
    return paths.nested(result)


def _linear(path: str, found: dict[str, Any]) -> tuple[Any, Any]:
    """(what is added to a parameter, what it is multiplied by then) by the adapters among `found`; 0 and 1 without."""
    name, _, kind = path.rpartition('/')
    product, factor = np.float32(0), np.float32(1)
    if kind == 'kernel' and f'{name}/lora_a' in found:
        a, b, scale = (np.asarray(found[f'{name}/{part}']) for part in ('lora_a', 'lora_b', 'lora_scale'))
        product = a @ b * scale.reshape(scale.shape + (1, 1))
    if kind == 'kernel' and f'{name}/scale_in' in found:
        factor = factor * np.asarray(found[f'{name}/scale_in'])[..., None]
    if kind in ('kernel', 'bias') and f'{name}/scale_out' in found:
        scale = np.asarray(found[f'{name}/scale_out'])
        factor = factor * (scale[..., None, :] if kind == 'kernel' else scale)
    return product, factor


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether what is of `shape` can be added to what is of `whole`, and leaves that its shape."""
    try:
        return np.broadcast_shapes(shape, whole) == whole
    except ValueError:
        return False


def _check_linear(path: str) -> None:
    kind = path.rpartition('/')[2]
    if '_adapter_' in kind:
        raise UserError(f'{path}: a bottleneck adapter is not linear and cannot be merged; keep it, or use LoRA')
    if kind.startswith('prefix_') or kind == 'prompt':
        raise UserError(f'{path}: what stands in front of a sequence cannot be merged into weights; keep it, or use LoRA')
