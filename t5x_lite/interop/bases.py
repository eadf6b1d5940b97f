"""Weights from anywhere: Hugging Face folders, runs of ours, and runs that hold only what they learnt, put together with their base."""

import os
import re
from typing import Any

from t5x_lite import remote
from t5x_lite.config import Config, ModelConfig
from t5x_lite.config_values import from_json
from t5x_lite.errors import UserError
from t5x_lite.interop import folder
from t5x_lite.training import checkpoint, learnt, paths


class Weights:
    """Reads weights; a base that several runs learnt on is read once, and its arrays are shared by what is given for them."""

    def __init__(self):
        self._bases: dict[str, tuple[Any, str]] = {}  # {path: (parameters, fingerprint)}

    def run(self, path: str, *, ema: bool = True, moved: str = '') -> tuple[Config, dict[str, Any]]:
        """(config, parameters as nested dicts of numpy arrays) of a workdir, or of a checkpoint in it.

        Args:
          moved: where its base lies now; '': where it was.

        Raises:
          UserError: there is no checkpoint, its base is gone, or another stands in its place.
        """

        def base_of(description: dict[str, Any]) -> Any:
            place = moved or description['path']
            if place not in self._bases:
                if not remote.exists(place):
                    raise UserError(
                        f'{path} holds only what was learnt beside the weights in {place}, which are gone; bring them back, or (evaluate, predict) '
                        'name where they lie now with --config.init_from=DIR'
                    )
                params = self.initial(place)[1]
                self._bases[place] = params, learnt.fingerprint(params)
            params, found = self._bases[place]
            if found != description['fingerprint']:
                raise UserError(
                    f'{path} is an adapter of another base: it was learnt beside the weights in {description["path"]}, and those in {place} are others '
                    'now; bring the same weights back'
                )
            return params

        return checkpoint.load_params(path, ema, base_of)

    def initial(self, path: str) -> tuple[ModelConfig, dict[str, Any], str]:
        """(architecture, parameters, tokenizer folder) of a workdir or checkpoint of ours, or of a Hugging Face folder."""
        if folder.is_hf_folder(path):
            architecture, params = folder.load(path)
            return architecture, params, path
        config, params = self.run(path)
        return config.model, params, os.path.join(checkpoint.locate(path)[0], 'tokenizer')


def describe(path: str, params: Any, merged: bool) -> dict[str, Any]:
    """A base, as checkpoints of what is learnt beside it name it (training/learnt.py)."""
    if folder.is_hf_folder(path):
        place = remote.absolute(path)
    else:
        workdir, step = checkpoint.locate(path)
        place = os.path.join(workdir, checkpoint.FOLDER, str(step))
    return {'path': place, 'fingerprint': learnt.fingerprint(params), 'merged': merged}


_OF_LABELS = ('classifier', 'crf')  # what means something for certain labels, in their order


def _labels_of(place: str) -> tuple[str, ...]:
    """What the head of a run or a folder was learnt for, in its order; () where that is not said: LABEL_0, ... name nothing."""
    if not folder.is_hf_folder(place):
        return tuple(from_json(os.path.join(checkpoint.locate(place)[0], 'config.json')).data.labels)
    names = folder.label_names(folder.read_fields(place), place)
    return () if all(re.fullmatch(r'LABEL_\d+', name) for name in names) else names


def _in_order_of(labels: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    """The labels in the order of others that are the same but for capitals; () where they are not.

    ('neg', 'pos'), ('POS', 'NEG')  ->  ('pos', 'neg')
    """
    ours, order = {label.casefold(): label for label in labels}, [label.casefold() for label in theirs]
    same = len(ours) == len(labels) == len(order) and ours.keys() == set(order)
    return tuple(ours[name] for name in order) if same else ()


def order_of_labels(config: Config, initial: dict[str, Any] | None, found: tuple[str, ...], workdir: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(labels, a note) of a run whose labels stand otherwise in the data: in the order of the head of config.init_from, which then keeps its meaning.

    Of a run that has begun, the order is what it was. ((), ()) where there is nothing to change: no such head, other labels, an order that the config gives.

    Args:
      found: labels in the data.
      workdir: of the run; '' where it has none yet.
    """
    if config.data.labels or not found:
        return (), ()
    begun = os.path.join(workdir, 'config.json')
    if workdir and checkpoint.holds_checkpoints(workdir) and remote.exists(begun):
        order = _in_order_of(found, tuple(from_json(begun).data.labels))
        return (order if order != found else ()), ()
    if initial is None or not any(name in initial for name in _OF_LABELS):
        return (), ()
    order = _in_order_of(found, _labels_of(config.init_from))
    if not order or order == found:
        return (), ()
    return order, (f'labels are numbered as in {config.init_from}, whose head is of the same: {_some(order)}',)


def without_head_of_other_labels(config: Config, initial: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the weights of config.init_from, a note): without a head that it learnt for other labels than these, which as many of them would pass for by its shape,
    where config.init_fresh lets that begin anew."""
    ours, place = tuple(config.data.labels), config.init_from
    anew = [
        name for name in _OF_LABELS
        if name in initial and all(any(re.fullmatch(pattern, path) for pattern in config.init_fresh) for path in paths.leaves({name: initial[name]}))
    ]  # fmt: skip
    if not anew or not ours:
        return initial, ()
    theirs = _labels_of(place)
    if not theirs or _in_order_of(ours, theirs) == ours:
        return initial, ()
    other = f'these labels in another order ({_some(theirs)})' if _in_order_of(ours, theirs) else f'other labels ({_some(theirs)})'
    return {name: part for name, part in initial.items() if name not in anew}, (f'the head of {place} is of {other}: one for these begins anew',)


def _some(labels: tuple[str, ...]) -> str:
    return ', '.join(labels[:5]) + (', ...' if len(labels) > 5 else '')
