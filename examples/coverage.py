"""How many redundant directions shockwatch finds in Transformers that others wrote, against the true number.

One-layer models of the ``transformers`` package with random weights (ViT: two layers; with one, the class token's
query is a constant). Needs ``pip install transformers``; about two minutes: ``python examples/coverage.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.symmetry import infer_symmetries
from shockwatch.symmetry.oracle import true_redundancy

WORDS, LENGTH, WIDTH, LABELS = 29, 7, 8, 11


def language_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(input_ids=batch[0]).logits.flatten(0, 1), batch[1].flatten())


def image_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(pixel_values=batch[0]).logits, batch[1])


def models() -> dict[str, tuple[nn.Module, Callable[[Any, Any], Tensor], tuple[Tensor, Tensor]]]:
    """Name -> (model, loss, batch)."""
    import transformers as hf

    words = torch.arange(6 * LENGTH).reshape(6, LENGTH) % WORDS
    text = (words, words.flip(0))
    images = (torch.randn(12, 3, 8, 8), torch.arange(12) % LABELS)
    shape: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 12, "num_attention_heads": 2}
    special: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    gpt2 = hf.GPT2Config(
        vocab_size=WORDS, n_positions=LENGTH, n_embd=WIDTH, n_layer=1, n_head=2, resid_pdrop=0, embd_pdrop=0,
        attn_pdrop=0, **special,
    )  # fmt: skip
    llama = hf.LlamaConfig(vocab_size=WORDS, num_hidden_layers=1, num_key_value_heads=1, **shape, **special)
    qwen = hf.Qwen2Config(vocab_size=WORDS, num_hidden_layers=1, num_key_value_heads=2, **shape, **special)
    bert = hf.BertConfig(
        vocab_size=WORDS, num_hidden_layers=1, max_position_embeddings=LENGTH, hidden_dropout_prob=0,
        attention_probs_dropout_prob=0, **shape,
    )  # fmt: skip
    vit = hf.ViTConfig(num_hidden_layers=2, image_size=8, patch_size=4, num_labels=LABELS, **shape)
    return {
        "GPT-2": (hf.GPT2LMHeadModel(gpt2), language_loss, text),
        "Llama, shared keys": (hf.LlamaForCausalLM(llama), language_loss, text),
        "Qwen2": (hf.Qwen2ForCausalLM(qwen), language_loss, text),
        "BERT": (hf.BertForMaskedLM(bert), language_loss, text),
        "ViT": (hf.ViTForImageClassification(vit), image_loss, images),
    }


@dataclass(frozen=True)
class Row:
    """``true``: in the model's own arithmetic (Llama's norms round to single precision, which hides their rotations);
    ``true_clean``: without those casts."""

    model: str
    exact: int
    true: int
    found: int
    true_clean: int
    seconds: float


def run() -> list[Row]:
    """One row for each model."""
    torch.manual_seed(0)
    rows = []
    for name, (model, loss, batch) in models().items():
        model = model.double()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        batch = (batch[0].double() if batch[0].is_floating_point() else batch[0], batch[1])
        start = time.perf_counter()
        quotient = infer_symmetries(model, loss, batch)
        seconds = time.perf_counter() - start
        true = true_redundancy(model, loss, batch)
        clean = true_redundancy(model, loss, batch, keep_casts=False)
        rows.append(Row(name, quotient.dim_exact, true, quotient.dim, clean, seconds))
    return rows


if __name__ == "__main__":
    print(
        f"{'model':20} {'exact':>6} {'true':>6} {'coverage':>9} {'found':>6} {'no casts':>9} {'inference':>10}"
    )
    for row in run():
        print(
            f"{row.model:20} {row.exact:6d} {row.true:6d} {row.exact / row.true:9.3f} {row.found:6d} "
            f"{row.true_clean:9d} {row.seconds:8.1f} s"
        )
