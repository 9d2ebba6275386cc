"""A small causal Transformer learns the source text of ``torch.nn.functional``, character by character.

python -m examples.character_transformer      (about two minutes)
"""

from __future__ import annotations

import inspect

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from shockwatch import ShockWatch

CONTEXT, WIDTH = 32, 64


class CharacterTransformer(L.LightningModule):
    """Two pre-norm encoder layers behind a causal mask."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, vocabulary)
        self.register_buffer("mask", torch.triu(torch.full((CONTEXT, CONTEXT), -torch.inf), 1))

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        (text,) = batch
        hidden = self.layers(self.token(text[:, :-1]) + self.position, mask=self.mask)
        loss = F.cross_entropy(self.head(hidden).flatten(0, 1), text[:, 1:].flatten())
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def passages() -> tuple[TensorDataset, int]:
    """Overlapping passages of ``CONTEXT + 1`` characters as numbers, and the size of the alphabet."""
    text = inspect.getsource(F)[:200_000]
    alphabet = {character: index for index, character in enumerate(sorted(set(text)))}
    numbers = torch.tensor([alphabet[character] for character in text])
    return TensorDataset(numbers.unfold(0, CONTEXT + 1, CONTEXT // 2)), len(alphabet)


def run(steps: int = 1000, folder: str = "shockwatch_runs") -> ShockWatch:
    """Train for ``steps`` steps; TensorBoard files under ``folder``."""
    L.seed_everything(0)
    data, vocabulary = passages()
    watch = ShockWatch(every_n_steps=50, probe=5)  # the run is short: look whatever it costs
    trainer = L.Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[watch], logger=TensorBoardLogger(folder, "characters"),
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(CharacterTransformer(vocabulary), DataLoader(data, batch_size=32, shuffle=True))
    return watch


if __name__ == "__main__":
    run()
