"""Hugging Face folders to workdirs of ours and back: what `python -m t5x_lite.convert` does."""

import os
import shutil
from typing import Any

from absl import logging

from t5x_lite import outgoing, remote
from t5x_lite.config import Config
from t5x_lite.config_values import from_json
from t5x_lite.dotted_names import resolve
from t5x_lite.errors import UserError
from t5x_lite.interop import bases, folder
from t5x_lite.models import heads
from t5x_lite.training import adapters, checkpoint, paths

# The loss and the source of examples of a head, so that files of one's own are all that evaluation needs.
_OF_HEADS = {
    heads.SequenceHead: ('t5x_lite.tasks.classification:LabelledLoss', 't5x_lite.data.tables:LabelledExamples'),
    heads.TokenHead: ('t5x_lite.tasks.tagging:TaggingLoss', 't5x_lite.data.tagged:TaggedExamples'),
    heads.ChoiceHead: ('t5x_lite.tasks.classification:ChoiceLoss', 't5x_lite.data.choices:ChoiceExamples'),
    heads.SpanHead: ('t5x_lite.evaluation.span_loss:SpanLoss', 't5x_lite.data.question_examples:QuestionExamples'),
}


def to_native(source: str, output: str, *, unmerge: str = '') -> Config:
    """Writes a Hugging Face folder as a workdir (config.json, checkpoints/, tokenizer/) that `init_from`, `evaluate` and `predict` take.

    Args:
      unmerge: a run whose adapters are taken out of the weights, which they were merged into.

    Raises:
      UserError: `source` is no such folder or a broken one; `output` exists and is not empty, or cannot be written to.
    """
    if not folder.is_hf_folder(source):
        raise UserError(f'--input={source}: not a Hugging Face folder (config.json with a model_type, beside model.safetensors)')
    _check_empty(output)
    with outgoing.to(output, 'config.json', new=True) as here:
        return _to_native(source, here, unmerge)


def _to_native(source: str, output: str, unmerge: str) -> Config:
    model, params = folder.load(source)
    params = _without(params, unmerge)
    config, fields = Config(model=model), folder.read_fields(source)
    family = folder.family_of(fields, source)
    if family.loss and not issubclass(resolve(model.module), heads.Head):
        # A language model: as it was trained, so that a corpus is all that training and evaluation need.
        config.loss, config.data.source = family.loss, family.source
        config.data.seq_len, config.data.concatenate = model.max_positions, True
    config.data.seq_len = min(config.data.seq_len, model.max_positions)
    if model.num_labels:
        config.data.labels = folder.label_names(fields)
        config.data.regression = model.num_labels == 1 and not issubclass(resolve(model.module), heads.TokenHead)
    for head, found in _OF_HEADS.items():
        if issubclass(resolve(model.module), head):
            config.loss, config.data.source = found
    partial = f'{os.path.abspath(output)}.partial-{os.getpid()}'  # renamed when whole
    try:
        checkpoint.save_params(partial, config, params, source)
        os.replace(partial, output)
    except OSError as error:
        raise UserError(f'--output={output}: cannot be written ({error.strerror or error}); nothing was left there') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return config


def to_hf(source: str, output: str, *, which: str = '', ema: bool = False, max_shard_bytes: int = 5_000_000_000, unmerge: str = '') -> Config:
    """Writes a checkpoint of a workdir as a Hugging Face folder.

    Args:
      which: of the checkpoints, as `checkpoint.choose` takes it.
      ema: the exponential moving average of the weights instead of the weights.
      unmerge: as of `to_native`.

    Raises:
      UserError: there is no checkpoint, or transformers has no such model; `output` exists and is not empty.
    """
    if folder.is_hf_folder(source):
        raise UserError(f'--input={source}: already a Hugging Face folder; --format=hf takes a workdir or checkpoint of ours')
    _check_empty(output)
    with outgoing.to(output, 'config.json', new=True) as here:
        return _to_hf(source, here, which, ema, max_shard_bytes, unmerge)


def _to_hf(source: str, output: str, which: str, ema: bool, max_shard_bytes: int, unmerge: str) -> Config:
    choice = checkpoint.choose(source, which)
    workdir = choice.workdir
    if choice.said:
        print(choice.said)
    tokenizer = remote.local(os.path.join(workdir, 'tokenizer'))
    if not os.path.isdir(tokenizer):
        raise UserError(f'{tokenizer}: does not exist; transformers needs the tokenizer of the run, copy it there')
    if not os.listdir(tokenizer):
        logging.warning('%s: empty; the folder is written without a tokenizer', tokenizer)
        tokenizer = ''
    if ema and not from_json(os.path.join(workdir, 'config.json')).ema_decay:
        raise UserError(f'--ema: the run in {workdir} kept no moving average of its weights (config.ema_decay is 0)')
    config, params = bases.Weights().run(os.path.join(workdir, checkpoint.FOLDER, str(choice.step)), ema=ema)
    params = _without(adapters.merged(params), unmerge)
    folder.save(output, config.model, params, tokenizer, max_shard_bytes=max_shard_bytes, labels=config.data.labels)
    return config


def _without(params: Any, run: str) -> Any:
    """Weights without the adapters of a run, '' for none."""
    if not run:
        return params
    added = checkpoint.load_params(run, whole=False)[1]
    if not any(map(adapters.is_added, paths.leaves(added))):
        raise UserError(f'--unmerge={run}: it has no adapters; name the run that was merged into these weights')
    try:
        return adapters.unmerged(params, added)
    except UserError as error:
        raise UserError(f'--unmerge={run}: {error}') from error


def _check_empty(output: str) -> None:
    """Before anything is read, which may take minutes. (Of a bucket: outgoing.py.)"""
    if os.path.exists(output) and (not os.path.isdir(output) or os.listdir(output)):
        raise UserError(f'--output={output}: exists and is not empty; choose another folder')
