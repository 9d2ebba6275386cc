"""Modules that nobody here wrote: Lightning's own demos, watched unchanged."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos import LightningTransformer, Transformer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.demos.lstm import LightningLSTM, SimpleLSTM
from torch.utils.data import DataLoader, TensorDataset

from shockwatch import ShockWatch
from tests.runs.modules import same, traces


class SeededBoring(BoringModel):
    """Its data come from the global generator: once, before the run."""

    def train_dataloader(self):
        return DataLoader(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)))


def tokens(words, length):
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, words, (32, length + 1), generator=generator)
    return DataLoader(TensorDataset(text[:, :-1], text[:, 1:]), batch_size=8, shuffle=True)


class TransformerOffline(LightningTransformer):
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.model = Transformer(vocab_size, ninp=16, nhid=24)

    def prepare_data(self):
        """No download."""


class LSTMOffline(LightningLSTM):
    def __init__(self, vocab_size):
        super().__init__(vocab_size)
        self.model = SimpleLSTM(vocab_size, ninp=16, nhid=16, nlayers=2)

    def prepare_data(self):
        """No download."""

    def train_dataloader(self):
        return tokens(30, 6)


CASES = {
    "boring": (SeededBoring, None),
    "transformer": (lambda: TransformerOffline(vocab_size=40), lambda: tokens(40, 9)),
    "lstm": (lambda: LSTMOffline(vocab_size=30), lambda: tokens(30, 6)),
}


def fit(name, folder, *callbacks):
    pl.seed_everything(7)
    make, data = CASES[name]
    module = make()
    trainer = pl.Trainer(
        max_steps=12, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), default_root_dir=folder, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, None if data is None else data())
    return traces(module, trainer)


@pytest.mark.parametrize("name", CASES)
def test_a_demo_is_watched_and_not_changed(name, tmp_path):
    plain = fit(name, tmp_path)
    watch = ShockWatch(every_n_steps=6, probe=2)
    assert same(plain, fit(name, tmp_path, watch))
    assert watch.values["shockwatch/errors"] == 0
    assert math.isfinite(watch.values["quotient/norm"])
    assert math.isfinite(watch.values["shock/lambda_max"])
    if name == "transformer":
        # heads of encoder, decoder and cross attention are seen as blocks
        assert sum(tag.startswith("block/") for tag in watch.values) >= 12
