"""A fit whose parameters are shared out over two processes, and what it should have shown."""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader, TensorDataset

from shockwatch import ShockWatch
from shockwatch.engine import Engine
from shockwatch.session import Update
from shockwatch.sharding import share_out
from shockwatch.snapshot import Snapshot, State
from shockwatch.symmetry import Quotient
from tests.runs.modules import NETWORKS

UNKNOWN = {"quotient/measure_speed"}
"""What no run with shared out parameters shows; and ``raw/drift`` where factors reach over several ranks."""


class OnCpu(FSDPStrategy):
    """Lightning asks for a GPU by this name only, and torch for the device by name."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(module=model.double(), device_id=torch.device("cpu"), **self.kwargs)


class Learner(pl.LightningModule):
    """Cross-entropy in double precision; shards itself where there is a mesh."""

    def __init__(self, name: str, shard: bool) -> None:
        super().__init__()
        pl.seed_everything(0, verbose=False)
        self.network = NETWORKS[name]().double()
        for part in self.network.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        self.shard = shard

    def configure_model(self) -> None:
        mesh = getattr(self, "device_mesh", None)
        if not self.shard or mesh is None or hasattr(self.network, "reshard"):
            return
        for part in self.network.children():
            fully_shard(part, mesh=mesh["data_parallel"])
        fully_shard(self.network, mesh=mesh["data_parallel"])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        # the strategy's own precision is single
        return F.cross_entropy(self.network(x.double() if x.is_floating_point() else x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def data(name: str) -> DataLoader[Any]:
    g = torch.Generator().manual_seed(1)
    x: Tensor
    if name == "transformer":
        x = torch.randint(0, 11, (32, 5), generator=g)
    else:
        x = torch.randn((32, 6) if name == "mlp" else (32, 1, 8, 8), generator=g).double()
    y = torch.randint(0, 4, (32,), generator=g)
    return DataLoader(TensorDataset(x, y), batch_size=4)


class Witness(pl.Callback):
    """The whole parameters after every step, gathered by the strategies' own means; lets the watch keep up."""

    def __init__(self, watch: ShockWatch | None = None) -> None:
        self.states: dict[int, State] = {}
        self.watch = watch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.states[trainer.global_step] = whole_state(trainer)
        if self.watch is not None:
            self.watch.catch_up()


def whole_state(trainer: pl.Trainer) -> State:
    model = trainer.strategy.model
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, writeback=False):
            return {
                n.replace("_fsdp_wrapped_module.", ""): p.detach().clone()
                for n, p in model.named_parameters()
            }
    return {
        n: p.full_tensor().clone() if hasattr(p, "full_tensor") else p.detach().clone()
        for n, p in trainer.lightning_module.named_parameters()
    }


def fit(
    kind: str,
    name: str,
    root: str,
    watch: ShockWatch | None,
    *others: pl.Callback,
    epochs: int = 3,
    catch_up: bool = True,
    path: str | None = None,
) -> Witness:
    """Train two ranks; the strategy by ``kind``: fsdp1, fsdp2 or ddp."""
    strategy: Any = "ddp"
    if kind == "fsdp2":
        strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    elif kind == "fsdp1":
        policy = {nn.Linear, nn.Conv2d} if name != "transformer" else {nn.TransformerEncoderLayer}
        strategy = OnCpu(process_group_backend="gloo", auto_wrap_policy=policy)
    witness = Witness(watch if catch_up else None)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
        callbacks=[*([watch] if watch is not None else []), *others, witness],
    )
    trainer.fit(Learner(name, kind == "fsdp2"), data(name), ckpt_path=path)
    return witness


def expected(name: str, updates: list[Update], states: dict[int, State]) -> dict[int, dict[str, float]]:
    """What the analysis of one rank shows of the same states, by the groups that a sharded run keeps."""
    learner = Learner(name, False)
    batch = next(iter(data(name)))
    first = states[min(states)]
    learner.load_state_dict({**learner.state_dict(), **first})
    engine = Engine.build(
        copy.deepcopy(learner), lambda m, b: m.training_step(b, 0), batch, horizon=200, seed=0, probe=False
    )
    whole = engine.quotient
    sizes = {n: first[n].numel() for n in whole.names}
    plan = share_out(whole.groups, sizes, 2)
    kept = [g for g in whole.groups if g not in plan.left_out]
    engine._step._quotient = Quotient(kept, whole.names)
    buffers = {n: b for n, b in learner.named_buffers() if b.is_floating_point()}
    found = {}
    for update in updates:
        state = {**buffers, **states[update.step]}
        # SGD with momentum 0.9: training time is ten rates a step
        time = 0.5 * update.step
        found[update.step] = engine.process(Snapshot(update.step, state, time, 0.5, 0.05, None), False).values
    return found


def differences(shown: dict[str, float], wanted: dict[str, float]) -> dict[str, float]:
    """Relative differences of all tags but those of the clock and of what is not known."""
    result = {}
    for tag, value in wanted.items():
        other = shown[tag]
        if tag in UNKNOWN or (tag == "raw/drift" and math.isnan(other)):
            assert math.isnan(other)
        elif not (math.isnan(value) and math.isnan(other)):
            result[tag] = abs(value - other) / max(abs(value), 1e-9)
    return result
