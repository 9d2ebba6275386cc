"""Pretraining of ``litgpt`` models on random tokens, as its documentation wraps them, watched unchanged.

``pip install --no-deps litgpt`` (``.ci/run`` does); where it is missing, pytest says that this file was left out.
"""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from shockwatch import ShockWatch
from shockwatch.symmetry import infer_symmetries
from shockwatch.symmetry.oracle import true_redundancy
from tests.runs.modules import fit, same, traces

litgpt = pytest.importorskip("litgpt")
from litgpt.utils import chunked_cross_entropy  # noqa: E402

WORDS, LENGTH = 23, 6

# Two families: a GPT-NeoX (layer norms, biases, a quarter of each head rotary), and a Llama (RMS norms, gated units,
# two queries to a key).
FAMILIES = {
    "pythia-14m": {"n_head": 2, "head_size": 8, "n_embd": 8, "intermediate_size": 12},
    "tiny-llama-1.1b": {
        "n_head": 4,
        "n_query_groups": 2,
        "head_size": 4,
        "n_embd": 8,
        "intermediate_size": 12,
    },
}


def config(name, **sizes):
    shape = {"n_layer": 1, "vocab_size": WORDS, "padded_vocab_size": WORDS, "block_size": LENGTH}
    return litgpt.Config.from_name(name, **(shape | FAMILIES[name] | sizes))


class Pretraining(pl.LightningModule):
    """As in litgpt's own tutorial on the Trainer."""

    def __init__(self, name):
        super().__init__()
        self.model = litgpt.GPT(config(name))
        self.model.apply(self.model._init_weights)

    def training_step(self, batch, batch_idx):
        tokens, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
        loss = chunked_cross_entropy(self.model(tokens), targets)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=4e-4, weight_decay=0.1, betas=(0.9, 0.95))


def train(name, *callbacks):
    pl.seed_everything(5)
    module = Pretraining(name)
    tokens = torch.randint(0, WORDS, (64, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    trainer = fit(
        module, DataLoader(tokens, batch_size=8, shuffle=True), *callbacks, max_steps=8,
        gradient_clip_val=1.0, accumulate_grad_batches=2,
    )  # fmt: skip
    return traces(module, trainer)


@pytest.mark.parametrize("name", FAMILIES)
def test_pretraining_is_watched_and_not_changed(name):
    plain = train(name)
    watch = ShockWatch(every_n_steps=4, probe=2)
    assert same(plain, train(name, watch))
    assert watch.values["shockwatch/errors"] == 0
    assert watch.values["shockwatch/dropped"] == 0
    assert math.isfinite(watch.values["quotient/speed"])
    assert math.isfinite(watch.values["shock/lambda_max"])
    norms = [tag for tag in watch.values if tag.startswith("block/") and tag.endswith("/spectral_norm")]
    assert norms  # values against the output


def loss(model, batch):
    return chunked_cross_entropy(model(batch[0]), batch[1])


def test_every_direction_of_a_llama_is_found():
    """One layer with all of a head rotary, whose rest has no features: an empty slice."""
    torch.manual_seed(0)
    model = litgpt.GPT(
        config("tiny-llama-1.1b", n_embd=6, n_head=2, n_query_groups=1, intermediate_size=5)
    ).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    words = torch.arange(6 * LENGTH).reshape(6, LENGTH) % WORDS
    batch = (words, words.flip(0))
    quotient = infer_symmetries(model, loss, batch)
    assert quotient.dim_exact == true_redundancy(model, loss, batch)
    assert quotient.dim_exact > 20
