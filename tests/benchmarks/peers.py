"""Models of ours and transformers' counterparts: configs, batches, and the same loss of both. For `tests.benchmarks.train`."""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from configs import bert, gpt, t5
from t5x_lite.config import Activation, Config, ModelConfig
from tests.benchmarks import steps

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Family:
    """What differs between architectures.

    Attributes:
      says: what is trained.
      size: the variant that is measured where none is asked for.
      sizes: variants of the config.
      config: of a variant, with activations that both have.
      vocabulary: pieces.
      batch: of (rows, length, vocabulary).
      model: of (transformers, our ModelConfig), in torch, with SDPA.
      inputs: of a batch, as int64 arrays by transformers' names.
      loss: of (torch, its model, tensors of the inputs).
    """

    says: str
    size: str
    sizes: tuple[str, ...]
    config: Callable[[str], Config]
    vocabulary: int
    batch: Callable[[int, int, int], Batch]
    model: Callable[[Any, ModelConfig], Any]
    inputs: Callable[[Batch], Batch]
    loss: Callable[[Any, Any, dict[str, Any]], Any]


def _bert_config(size: str) -> Config:
    config = bert.get_config(size)
    config.data.mlm.max_predictions, config.model.activation = 20, Activation.gelu
    return config


def _bert(transformers: Any, model: ModelConfig) -> Any:
    return transformers.BertForPreTraining(
        transformers.BertConfig(
            attn_implementation='sdpa', num_hidden_layers=model.num_layers, hidden_size=model.d_model, num_attention_heads=model.num_heads,
            intermediate_size=model.d_ff, hidden_dropout_prob=model.dropout, attention_probs_dropout_prob=model.attention_dropout,
        )
    )  # fmt: skip


def _bert_inputs(batch: Batch) -> Batch:
    labels = np.full(batch['tokens'].shape, -100, np.int64)
    rows, slots = np.nonzero(batch['masked_weights'])
    labels[rows, batch['masked_positions'][rows, slots]] = batch['masked_targets'][rows, slots]
    names = {'input_ids': 'tokens', 'token_type_ids': 'token_types', 'attention_mask': 'sequence_ids', 'next_sentence_label': 'next_sentence_labels'}
    return {theirs: batch[ours] for theirs, ours in names.items()} | {'labels': labels}


def _own_loss(torch: Any, model: Any, inputs: dict[str, Any]) -> Any:
    del torch
    return model(**inputs).loss


def _gpt2(transformers: Any, model: ModelConfig) -> Any:
    rates = dict.fromkeys(('embd_pdrop', 'resid_pdrop', 'attn_pdrop'), model.dropout)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            attn_implementation='sdpa', use_cache=False, n_embd=model.d_model, n_layer=model.num_layers, n_head=model.num_heads, n_positions=model.max_positions, **rates,
        )
    )  # fmt: skip


def _next_token_loss(torch: Any, model: Any, inputs: dict[str, Any]) -> Any:
    return torch.nn.functional.cross_entropy(model(input_ids=inputs['input_ids']).logits.flatten(0, 1).float(), inputs['targets'].flatten())


def _t5_config(size: str) -> Config:
    config = t5.get_config(size)
    config.z_loss = 0.0
    return config


def _t5(transformers: Any, model: ModelConfig) -> Any:
    return transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=32128, d_model=model.d_model, d_kv=model.head_size, d_ff=model.d_ff, num_layers=model.num_layers, num_heads=model.num_heads, use_cache=False,
            dropout_rate=model.dropout,
        )
    )  # fmt: skip


def _t5_inputs(batch: Batch) -> Batch:
    labels = np.where(batch['target_weights'] > 0, batch['targets'], -100)
    return {'input_ids': batch['tokens'], 'attention_mask': batch['sequence_ids'], 'decoder_input_ids': batch['decoder_tokens'], 'labels': labels}


FAMILIES = {
    'bert': Family('MLM + NSP', 'base', tuple(bert.SIZES), _bert_config, 30522, steps.make_batch, _bert, _bert_inputs, _own_loss),
    'gpt': Family(
        'causal LM', 'gpt2', tuple(gpt.GPT2), gpt.get_config, 50257, steps.causal_batch, _gpt2,
        lambda batch: {'input_ids': batch['tokens'], 'targets': batch['targets']}, _next_token_loss,
    ),
    't5': Family('span corruption', 'base', tuple(size for size in t5.SIZES if not size.startswith('v1_1')), _t5_config, 32128, steps.pair_batch, _t5, _t5_inputs, _own_loss),
}  # fmt: skip
