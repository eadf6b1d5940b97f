"""GPT-2 (Radford et al., 2019) in plain torch, as fast as torch makes it: SDPA, fused AdamW, bf16 autocast, torch.compile. For machines without more."""

from collections.abc import Callable
import math
from typing import Any

import numpy as np

from t5x_lite.config import ModelConfig


def made(torch: Any, config: ModelConfig, vocabulary: int) -> Any:
    """A module of (tokens, targets) -> mean cross-entropy, with learned positions, tied embeddings and norms in front, without dropout."""
    nn, functional = torch.nn, torch.nn.functional
    width, heads = config.d_model, config.num_heads

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.wi, self.wo = nn.Linear(width, config.d_ff), nn.Linear(config.d_ff, width)

        def forward(self, x):
            rows, length, _ = x.shape
            q, k, v = (part.view(rows, length, heads, -1).transpose(1, 2) for part in self.qkv(self.first(x)).split(width, dim=2))
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
            return x + self.wo(functional.gelu(self.wi(self.second(x)), approximate='tanh'))

    class Gpt2(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(config.max_positions, width)
            self.blocks = nn.ModuleList(Block() for _ in range(config.num_layers))
            self.norm = nn.LayerNorm(width)
            for name, value in self.named_parameters():
                if value.ndim == 2:
                    deep = name.endswith(('out.weight', 'wo.weight'))
                    nn.init.normal_(value, std=0.02 / math.sqrt(2 * config.num_layers) if deep else 0.02)

        def forward(self, tokens, targets):
            x = self.tokens(tokens) + self.places.weight[: tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.norm(x), self.tokens.weight)
            return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return Gpt2()


def step(torch: Any, config: ModelConfig, batch: dict[str, np.ndarray], device: str, compiled: bool) -> Callable[[], float]:
    """A training step under bf16 autocast, gradients clipped at 1.0; the vocabulary is padded to a multiple of 128, which tensor cores like best."""
    torch.set_float32_matmul_precision('high')
    torch.manual_seed(0)
    vocabulary = -(-config.vocab_size // 128) * 128
    model = made(torch, config, vocabulary).to(device)
    groups = [{'params': [value for value in model.parameters() if (value.ndim > 1) == decayed], 'weight_decay': 0.1 * decayed} for decayed in (True, False)]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    tokens, targets = (torch.from_numpy(batch[name].astype(np.int64)).to(device) for name in ('tokens', 'targets'))
    called = torch.compile(model) if compiled else model

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            loss = called(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return run
