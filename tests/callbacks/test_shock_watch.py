from __future__ import annotations

import copy
import logging
import math
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.func import functional_call

from shockwatch import session
from shockwatch.callbacks import ShockWatch
from shockwatch.session import ShockwatchWarning
from shockwatch.snapshot import Observation, Snapshot
from tests.callbacks.lightning_cases import Fit, Net, data
from tests.engine.shockwatch_fakes import FakeAnalysis


class GradientAnalysis(FakeAnalysis):
    """Draws and differentiates on the worker, as a real probe does."""

    def __init__(self, model: nn.Module, loss_fn: Any, batch: Any) -> None:
        super().__init__()
        self.model, self.loss_fn, self.batch = model, loss_fn, batch
        self.generator = torch.Generator().manual_seed(1)

    def process(self, snapshot: Snapshot, probe: bool) -> Observation:
        torch.randn(5, generator=self.generator)
        leaves = {n: t.clone().requires_grad_() for n, t in snapshot.state.items() if "running" not in n}
        twin, self_loss = self.model, self.loss_fn

        class Step(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = twin

            def forward(self, batch: Any) -> Tensor:
                loss: Tensor = self_loss(self.inner, batch)
                return loss

        self.model.eval()
        loss = functional_call(Step(), {f"inner.{n}": t for n, t in leaves.items()}, (self.batch,))
        grads = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        torch.autograd.grad(sum(g.square().sum() for g in grads), list(leaves.values()))
        return super().process(snapshot, probe)


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[GradientAnalysis]:
    made: list[GradientAnalysis] = []

    def build(model: nn.Module, loss_fn: Any, batch: Any, settings: Any, probe: bool) -> GradientAnalysis:
        loss_fn(model, batch).backward()
        torch.rand(3), np.random.rand(3), random.random()
        made.append(GradientAnalysis(model, loss_fn, batch))
        return made[-1]

    monkeypatch.setattr(session, "build_engine", build)
    return made


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_parameters_are_bit_identical(
    fit: Fit, gradients: list[GradientAnalysis], optimizer: str, accumulate: int
) -> None:
    options = {"accumulate_grad_batches": accumulate, "max_epochs": 2, "val": True}
    torch.manual_seed(1)
    module = Net(optimizer)
    twin = copy.deepcopy(module)
    _, plain = fit([], module, **options)
    rng = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    watch = ShockWatch(every_n_steps=2, probe=1)
    trainer, watched = fit([watch], twin, **options)
    assert torch.equal(torch.get_rng_state(), rng[0])
    assert np.random.get_state()[1].tolist() == rng[1]
    assert random.getstate() == rng[2]
    assert len(gradients[0].steps) > 3
    assert watch.values["shockwatch/errors"] == 0.0
    before, after = plain.state_dict(), watched.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert watched.seen == plain.seen, "training_step ran on the live module"
    assert "train/loss" in trainer.callback_metrics


def test_snapshots_at_the_steps_promised(fit: Fit, fake: FakeAnalysis) -> None:
    watch = ShockWatch(every_n_steps=4, probe=1)
    trainer, module = fit([watch], max_epochs=1, accumulate_grad_batches=3)
    assert trainer.global_step == 7
    assert set(fake.steps) <= {1, 4, 7}
    assert fake.steps[0] == 1
    assert fake.steps[-1] == 7
    last = fake.snapshots[-1]
    assert last.training_time == pytest.approx(7 * 0.5)
    assert last.time_per_step == pytest.approx(0.5)
    assert last.learning_rate == 0.05
    assert math.isfinite(last.loss)
    norm = math.sqrt(
        sum(float(t.double().square().sum()) for n, t in module.state_dict().items() if "num" not in n)
    )
    assert fake.norms[7] == pytest.approx(norm)


def test_loss_of_the_snapshot_is_the_loss_of_the_batch(fit: Fit, fake: FakeAnalysis) -> None:
    losses: dict[int, float] = {}

    class Spy(L.Callback):
        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            losses.setdefault(trainer.global_step, float(trainer.callback_metrics["train/loss"]))

    fit([ShockWatch(every_n_steps=1, probe=1), Spy()], accumulate_grad_batches=2)
    assert fake.snapshots
    for snapshot in fake.snapshots:
        assert snapshot.loss == pytest.approx(losses[snapshot.step], rel=1e-6)


def test_logged_where_lightning_logs(fit: Fit, fake: FakeAnalysis, tmp_path: Path) -> None:
    fake.proximity = 2.0
    loggers = [TensorBoardLogger(tmp_path, name="tb"), CSVLogger(tmp_path, name="csv")]
    watch = ShockWatch(every_n_steps=3, probe=1)
    fit([watch, LearningRateMonitor()], logger=loggers, log_every_n_steps=1, accumulate_grad_batches=2)
    events = EventAccumulator(loggers[0].log_dir).Reload()
    losses = [(e.step, e.value) for e in events.Scalars("train/loss")]
    norms = [e.step for e in events.Scalars("raw/norm")]
    # step n is the n-th point of Lightning's own curves, counted from 0
    assert norms == [step - 1 for step in fake.steps]
    assert set(norms) <= {x for x, _ in losses}
    assert all(math.isnan(e.value) for e in events.Scalars("quotient/speed"))
    texts = [t.tensor_proto.string_val[0].decode() for t in events.Tensors("shockwatch/notes/text_summary")]
    assert texts[0] == "probed &lt;1&gt;"
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    assert (Path(loggers[1].log_dir) / "metrics.csv").read_text().startswith("block") is False


def test_a_logger_of_tensorboard_keeps_its_prefix_and_its_own_ways(
    fit: Fit, fake: FakeAnalysis, tmp_path: Path
) -> None:
    class Doubled(TensorBoardLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            super().log_metrics({f"{tag}!": value for tag, value in metrics.items()}, step)

    loggers = [TensorBoardLogger(tmp_path, name="a", prefix="p"), Doubled(tmp_path, name="b")]
    fit([ShockWatch(every_n_steps=5)], logger=loggers)
    for logger, tag in zip(loggers, ("p-raw/norm", "raw/norm!"), strict=True):
        assert tag in EventAccumulator(logger.log_dir).Reload().Tags()["scalars"]


def test_callback_metrics_hold_the_finite_tags(fit: Fit, fake: FakeAnalysis) -> None:
    trainer, _ = fit([ShockWatch(every_n_steps=5)])
    metrics = trainer.callback_metrics
    assert metrics["shock/proximity"] == 0.25
    assert {"raw/norm", "shockwatch/overhead", "shockwatch/lag_steps", "shockwatch/dropped"} <= metrics.keys()
    assert "quotient/speed" not in metrics


@pytest.mark.parametrize("probe", ["off", 1])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("on_train_epoch_end", [True, False])
def test_early_stopping_of_lightning_can_monitor(
    fit: Fit, fake: FakeAnalysis, probe: Any, first: bool, on_train_epoch_end: bool
) -> None:
    stopping = EarlyStopping(
        "shock/proximity",
        strict=True,
        check_finite=True,
        patience=1,
        check_on_train_epoch_end=on_train_epoch_end,
    )
    callbacks = [stopping, ShockWatch(probe=probe)] if first else [ShockWatch(probe=probe), stopping]
    trainer, _ = fit(callbacks, max_epochs=6, val=True)
    assert trainer.current_epoch < 5, "a constant proximity does not improve"


def test_model_checkpoint_can_monitor(fit: Fit, fake: FakeAnalysis, tmp_path: Path) -> None:
    checkpoint = ModelCheckpoint(tmp_path / "c", monitor="shock/proximity", every_n_train_steps=1)
    fit([checkpoint, ShockWatch()], enable_checkpointing=True)
    assert checkpoint.best_model_path


def test_alerts_are_listed_logged_and_written(
    fit: Fit, fake: FakeAnalysis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Manager:
        def __init__(self, rules: Any) -> None:
            self.rules = rules

        def update(self, step: int, values: Any) -> list[Any]:
            from shockwatch.alerts import Alert

            if step != 1:
                return []
            return [Alert("near", "critical", step, "shock/proximity", 2.0, 1.0, None, "a <shock> is near")]

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: Any) -> None: ...

    import shockwatch.callbacks.shock_watch as module

    logger = TensorBoardLogger(tmp_path)
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, "shockwatch"):
        patch.setattr(module, "AlertManager", Manager)
        watch = ShockWatch()
        fit([watch], logger=logger)
    assert [alert.name for alert in watch.alerts] == ["near"]
    assert [r.levelno for r in caplog.records if "is near" in r.getMessage()] == [logging.CRITICAL]
    events = EventAccumulator(logger.log_dir).Reload()
    (text,) = events.Tensors("shockwatch/alerts/text_summary")
    assert "a &lt;shock&gt; is near" in text.tensor_proto.string_val[0].decode()
    assert text.step == 0


def test_resume_restores_clock_values_and_analysis(fit: Fit, fake: FakeAnalysis, tmp_path: Path) -> None:
    first = ShockWatch(every_n_steps=5, probe=1)
    trainer, _ = fit([first])
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    torch.load(path, weights_only=True)
    fake.loaded = None
    second = ShockWatch(every_n_steps=5, probe=1)
    fit([second], max_epochs=2, ckpt_path=path, **{})
    assert fake.loaded is not None
    assert fake.loaded["count"] > 0
    assert fake.snapshots[-1].step == 40
    assert fake.snapshots[-1].training_time == pytest.approx(40 * 0.5)
    assert 21 not in fake.steps, "a resumed run takes no extra first snapshot"


def test_unreadable_state_starts_afresh() -> None:
    watch = ShockWatch()
    with pytest.warns(ShockwatchWarning, match="starts afresh"):
        watch.load_state_dict({"nonsense": 1})
    assert watch.values == {"shock/proximity": 0.0}


def test_fit_twice(fit: Fit, fake: FakeAnalysis) -> None:
    watch = ShockWatch(every_n_steps=5)
    trainer, module = fit([watch])
    assert fake.steps[-1] == 20
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, trainer.train_dataloader)
    assert fake.steps[-1] == 40
    assert fake.snapshots[-1].training_time == pytest.approx(40 * 0.5)
    fit([watch])
    assert fake.snapshots[-1].training_time == pytest.approx(20 * 0.5), "a new run starts a new clock"


def test_no_error_of_ours_kills_the_run(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: Any) -> None:
        raise MemoryError("no")

    monkeypatch.setattr(session, "build_engine", build)
    with pytest.warns(ShockwatchWarning, match="MemoryError"):
        trainer, _ = fit([ShockWatch()])
    assert trainer.global_step == 20
    assert trainer.callback_metrics["shock/proximity"] == 0.0
    assert trainer.callback_metrics["shockwatch/errors"] == 1.0


def test_no_error_in_a_hook_kills_the_run(
    fit: Fit, fake: FakeAnalysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = ShockWatch(every_n_steps=2)

    def broken(update: Any) -> None:
        raise LookupError("listener")

    watch.subscribe(broken)
    with pytest.warns(ShockwatchWarning, match="listener"):
        trainer, _ = fit([watch])
    assert trainer.global_step == 20


def test_exception_in_training_ends_the_worker_and_keeps_the_results(
    fit: Fit, fake: FakeAnalysis, tmp_path: Path
) -> None:
    class Dies(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 11:
                raise FloatingPointError("user's")
            return super().training_step(batch, batch_idx)

    logger = CSVLogger(tmp_path)
    watch = ShockWatch(every_n_steps=5, probe=1)
    with pytest.raises(FloatingPointError):
        fit([watch], Dies(), logger=logger)
    assert fake.steps[0] == 1
    assert fake.steps[-1] == 10
    assert watch.values["raw/norm"] == fake.norms[10]


def test_changed_model_stops_watching_not_training(fit: Fit, fake: FakeAnalysis) -> None:
    class Grows(Net):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 4:
                self.extra = nn.Linear(2, 2)

    with pytest.warns(ShockwatchWarning, match=r"added extra\.weight"):
        trainer, _ = fit([ShockWatch(every_n_steps=2)], Grows())
    assert trainer.global_step == 20
    assert max(fake.steps) <= 4


@pytest.mark.parametrize("options", [{"fast_dev_run": 2}, {"barebones": True}])
def test_special_trainers(fit: Fit, fake: FakeAnalysis, options: dict[str, Any]) -> None:
    class Silent(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    trainer, _ = fit([ShockWatch()], Silent(), **options)
    if "barebones" in options:
        assert trainer.callback_metrics["shock/proximity"] == 0.25
    else:
        assert fake.steps == []


def test_sanity_check_and_validation_do_nothing(fit: Fit, fake: FakeAnalysis) -> None:
    trainer, module = fit([ShockWatch()], val=True, num_sanity_val_steps=2)
    count = len(fake.steps)
    trainer.validate(module, trainer.val_dataloaders, verbose=False)
    assert len(fake.steps) == count


def test_private_module_has_no_side_effects(fit: Fit, fake: FakeAnalysis) -> None:
    class Chatty(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log_dict({"a": loss, "epoch/x": float(self.current_epoch + self.global_step)})
            self.logger.experiment.add_scalar("x", 1.0)
            assert self.trainer.is_global_zero
            return {"loss": loss}

    class NoLogger(Chatty):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self._trainer is not None and not isinstance(self._trainer, L.Trainer):
                return super().training_step(batch, batch_idx)
            return Net.training_step(self, batch, batch_idx)

    trainer, module = fit([ShockWatch()], NoLogger())
    model, loss_fn, batch, settings, probe = fake.built[0]  # type: ignore[attr-defined]
    assert model is not module
    assert model._trainer is not trainer
    assert probe
    assert settings.horizon == 200
    logged = set(trainer.callback_metrics)
    seen = list(module.seen)
    assert batch[0].abs().max() < 10, "the batch is a clone from before the step"
    rng = torch.get_rng_state()
    loss_fn(model, batch).backward()
    torch.set_rng_state(rng)
    assert set(trainer.callback_metrics) == logged
    assert module.seen == seen
    assert model.optimizers().param_groups[0]["lr"] == 0.05
    assert model.lr_schedulers() is None
    for act in (model.optimizers().step, model.manual_backward):
        with pytest.raises(RuntimeError, match="loss_fn="):
            act()


def test_batch_is_cloned_before_the_step_takes_it_apart(fit: Fit, fake: FakeAnalysis) -> None:
    class Pops(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            y = batch.pop()
            return nn.functional.cross_entropy(self.net(batch[0]), y)

    fit([ShockWatch()], Pops())
    _, _, batch, *_ = fake.built[0]  # type: ignore[attr-defined]
    assert len(batch) == 2


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def test_manual_optimisation(fit: Fit, fake: FakeAnalysis) -> None:
    with pytest.warns(ShockwatchWarning, match=r"loss_fn=") as caught:
        fit([ShockWatch(every_n_steps=5)], Manual())
    assert len([w for w in caught if issubclass(w.category, ShockwatchWarning)]) == 1
    assert fake.built[0][-1] is False  # type: ignore[attr-defined]
    assert fake.steps[-1] == 20
    assert fake.snapshots[-1].training_time == pytest.approx(20 * 0.5)


def test_loss_fn_is_used_as_given(fit: Fit, fake: FakeAnalysis) -> None:
    def loss_fn(module: nn.Module, batch: Any) -> Tensor:
        return torch.zeros(())

    fit([ShockWatch(loss_fn=loss_fn)], Manual())
    assert fake.built[0][1] is loss_fn
    assert fake.built[0][-1] is True


def test_probe_off_builds_without_probe(fit: Fit, fake: FakeAnalysis) -> None:
    fit([ShockWatch(probe="off")])
    assert fake.built[0][-1] is False
    assert fake.probes == []


def test_integer_probe_is_deterministic(fit: Fit, fake: FakeAnalysis) -> None:
    class Slow(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            import time

            time.sleep(0.005)

    fit([ShockWatch(every_n_steps=2, probe=3), Slow()])
    assert fake.steps == [1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    assert fake.probes == [1, 6, 12, 18]


@pytest.mark.parametrize(
    "options",
    [{"every_n_steps": 0}, {"budget": 0}, {"horizon": 0.5}, {"probe": "x"}, {"seed": -1}, {"loss_fn": 3}],
)
def test_arguments_are_validated(options: dict[str, Any]) -> None:
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}: must be"):
        ShockWatch(**options)


def test_data_workers_may_fork_while_the_worker_runs(fake: FakeAnalysis, tmp_path: Path) -> None:
    loader = data()
    forked = torch.utils.data.DataLoader(loader.dataset, batch_size=8, num_workers=2)
    trainer = L.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[ShockWatch(every_n_steps=1, probe=1)],
        default_root_dir=tmp_path,
    )
    trainer.fit(Net(), forked)
    assert fake.steps[-1] == 60


def test_built_from_a_configuration() -> None:
    jsonargparse = pytest.importorskip("jsonargparse")
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--callback", type=L.Callback)
    parsed = parser.parse_args(
        [
            "--callback=shockwatch.callbacks.ShockWatch",
            "--callback.every_n_steps=7",
            "--callback.probe=3",
            "--callback.alerts=default",
        ]
    )
    watch = parser.instantiate_classes(parsed).callback
    assert watch.settings == session.Settings(every_n_steps=7, probe=3)


def test_two_optimizers_count_every_step(fit: Fit, fake: FakeAnalysis) -> None:
    class Two(Manual):
        def configure_optimizers(self) -> Any:
            first, last = self.net[0], self.net[4]
            return [torch.optim.SGD(first.parameters(), lr=0.1), torch.optim.SGD(last.parameters(), lr=0.2)]

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizers = self.optimizers()
            self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

    def loss_fn(module: Any, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(module.net(batch[0]), batch[1])

    # 3 divides only some of the even steps seen; a multiple that was passed counts
    fit([ShockWatch(every_n_steps=9, loss_fn=loss_fn)], Two())
    assert set(fake.steps) <= {2, 10, 18, 28, 36, 40}
    assert fake.steps[-1] == 40
    assert fake.snapshots[-1].training_time == pytest.approx(20 * 0.3)


def test_compiled_module(fit: Fit, fake: FakeAnalysis) -> None:
    class Silent(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    trainer, _ = fit([ShockWatch()], torch.compile(Silent(), backend="eager"))
    model, loss_fn, batch, *_ = fake.built[0]  # type: ignore[attr-defined]
    assert model is not trainer.lightning_module
    assert model.training_step.__self__ is model, "the copy calls the live module's compiled step"
    assert not any("_orig_mod" in name for name in fake.snapshots[0].state)
    assert loss_fn(model, batch).requires_grad
