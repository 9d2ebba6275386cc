"""Bad input: a clear error at construction, or one clear warning and the run as it would have been."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch import ShockEarlyStopping, ShockLRController, ShockMonitor, ShockWatch
from shockwatch.errors import ShockwatchWarning
from shockwatch.phase import PhaseState
from shockwatch.symmetry import Declared, Side
from tests.runs.modules import Classifier, data, fit, mlp, same, traces


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShockWatch(every_n_steps=0), r"every_n_steps=0: must be an integer >= 1"),
        (lambda: ShockWatch(every_n_steps=2.5), r"every_n_steps=2\.5: must be an integer >= 1"),  # type: ignore[arg-type]
        (lambda: ShockWatch(budget=2), r"budget=2: must be a number in \(0, 1\]"),
        (lambda: ShockWatch(budget=float("nan")), r"budget=nan: must be a number in \(0, 1\]"),
        (lambda: ShockWatch(memory="half"), r"memory='half': must be one of 'auto', 'full', 'sketch'"),  # type: ignore[arg-type]
        (lambda: ShockWatch(horizon=-1), r"horizon=-1: must be an integer >= 1"),
        (lambda: ShockWatch(probe="often"), r"probe='often': must be .*'auto'.*'off'"),  # type: ignore[arg-type]
        (lambda: ShockWatch(alerts="loud"), r"alerts='loud': must be .*'default'"),  # type: ignore[arg-type]
        (lambda: ShockEarlyStopping("shock/prox"), r"monitor='shock/prox': not a tag .*'shock/proximity'"),
        (
            lambda: ShockEarlyStopping(action="halt"),
            r"action='halt': must be one of 'stop', 'checkpoint', 'both'",
        ),  # type: ignore[arg-type]
        (lambda: ShockLRController(target=0), r"target=0: must be a number in \(0, 1\]"),
        (
            lambda: ShockMonitor(nn.Linear(1, 1), print, torch.optim.SGD([torch.ones(1)]), budget=2),  # type: ignore[arg-type]
            r"budget=2: must be a number in \(0, 1\]",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_its_value_and_what_it_may_be(
    make: Callable[[], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Branching(Classifier):
    """Reads a number off the data: its step is traced along the path of one batch."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * 2 if loss.item() > 1.0 else loss


class Unnameable(Classifier):
    """Gives a loss in training mode only, where its private copy never is."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor | None:  # type: ignore[override]
        return super().training_step(batch, batch_idx) if self.training else None


class Noisy(Classifier):
    """Draws random numbers that evaluation mode does not silence."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.network(x + 0.1 * torch.randn_like(x)), y)


class Manual(Classifier):
    """Optimises by hand."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.network(batch[0]), batch[1]))
        optimizer.step()


class Undefined(Classifier):
    """The loss is not a number from the first step on, and neither are the parameters then."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) * float("nan")


class Curve(nn.Module):
    """No symmetry at all: every weight acts on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.7, 1.1, 0.2]))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :4] * self.weight + (self.weight * torch.arange(1.0, 5.0)).sin()).square()


class Regression(Classifier):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return (self.network(batch[0]).sum(1) - batch[1]).square().mean()


def heard(caught: list[warnings.WarningMessage], log: pytest.LogCaptureFixture) -> list[str]:
    """All that shockwatch warned of, by either way."""
    said = [str(w.message) for w in caught if issubclass(w.category, ShockwatchWarning)]
    records = [r for r in log.records if r.name.startswith("shockwatch") and r.levelno >= logging.WARNING]
    return said + [r.getMessage() for r in records]


def twice(
    make: Callable[[], pl.LightningModule],
    caplog: pytest.LogCaptureFixture,
) -> tuple[ShockWatch, list[str]]:
    """Train without and with the callbacks; both runs must leave the same behind."""

    def run(*callbacks: pl.Callback) -> Any:
        pl.seed_everything(0, verbose=False)
        module = make()
        return traces(module, fit(module, data("mlp"), *callbacks, max_epochs=4))

    plain = run()
    watch = ShockWatch(every_n_steps=2, probe=1)
    caplog.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched = run(watch, ShockEarlyStopping(threshold=1e9))
    assert same(plain, watched)
    return watch, heard(caught, caplog)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Unnameable, r"cannot be traced: .*no loss but NoneType.*"),
        (Noisy, r"draws random numbers .*"),
    ],
)
def test_a_step_that_cannot_be_probed_costs_one_warning(
    kind: type[Classifier], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch, said = twice(lambda: kind(mlp()), caplog)
    assert len(said) == 1, said
    assert re.search(reason, said[0], re.S)
    assert re.search("(?i)raw parameters only", said[0])
    assert watch.values["shockwatch/errors"] == 0.0
    assert {"raw/norm", "raw/speed", "quotient/norm", "phase/state"} <= watch.values.keys()
    assert watch.values["quotient/norm"] == pytest.approx(watch.values["raw/norm"], rel=1e-6)
    assert "shock/lambda_min" not in watch.values
    assert watch.values["phase/state"] != PhaseState.DIVERGING  # an unknown loss is no divergence
    assert watch.alerts == []


def test_a_step_that_reads_its_loss_keeps_symmetries_and_curvature(caplog: pytest.LogCaptureFixture) -> None:
    watch, said = twice(lambda: Branching(mlp()), caplog)
    alerts = {f"step {alert.step}: {alert.message}" for alert in watch.alerts}
    said = [text for text in said if text not in alerts]
    assert len(said) == 1, said
    assert "along the path that one batch takes" in said[0]
    assert watch.values["shockwatch/errors"] == 0.0
    assert watch.values["quotient/norm"] < watch.values["raw/norm"]


def test_manual_optimisation_keeps_symmetries_without_curvature(caplog: pytest.LogCaptureFixture) -> None:
    watch, said = twice(lambda: Manual(mlp()), caplog)
    assert len(said) == 1, said
    assert re.search("manual optimisation .*no curvature.*loss_fn=", said[0])
    assert watch.values["shockwatch/errors"] == 0.0
    assert watch.values["quotient/norm"] < watch.values["raw/norm"]
    assert "shock/lambda_min" not in watch.values


class Adversaries(Manual):
    """Two networks against each other, each with its optimiser."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.judge = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        writer, critic = self.optimizers()
        real, fake = F.one_hot(batch[1], 4).to(batch[0]), self.network(batch[0]).softmax(-1)
        self.toggle_optimizer(critic)
        loss = F.softplus(self.judge(fake.detach())).mean() + F.softplus(-self.judge(real)).mean()
        self.log("critic", loss)
        critic.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(critic, gradient_clip_val=1.0)
        critic.step()
        self.untoggle_optimizer(critic)
        loss = F.softplus(-self.judge(fake)).mean()
        self.log_dict({"writer": loss, "fooled": (self.judge(fake) > 0).float().mean()})
        writer.zero_grad()
        self.manual_backward(loss)
        writer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=1e-3) for part in (self.network, self.judge)]


def test_two_optimisers(caplog: pytest.LogCaptureFixture) -> None:
    watch, said = twice(lambda: Adversaries(mlp()), caplog)
    assert len(said) == 1, said
    assert watch.values["shockwatch/errors"] == 0.0
    # the hidden units of both networks: balancing them is what the quotient does
    assert {"raw/imbalance/network.0-3", "raw/imbalance/judge.0-2"} <= watch.values.keys()


def test_declared_symmetries_reach_the_analysis(caplog: pytest.LogCaptureFixture) -> None:
    pl.seed_everything(0, verbose=False)
    good = Declared(
        "positive scaling",
        [Side("network.0.weight"), Side("network.0.bias"), Side("network.3.weight", 1, -1)],
    )
    ghost = Declared("permutation", [Side("network.9.weight")])
    watch = ShockWatch(every_n_steps=2, probe="off", symmetries=[good, ghost])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Classifier(mlp()), data("mlp"), watch, max_epochs=1)
    said = heard(caught, caplog)
    assert len(said) == 2, said
    assert "network.9.weight is ignored: parameter='network.9.weight'" in said[0]
    assert "is not added: it lies inside network.0-3" in said[1]
    assert watch.values["shockwatch/errors"] == 0.0


def test_a_model_without_symmetries_is_watched_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    watch, said = twice(lambda: Regression(Curve(), lr=0.001), caplog)
    # What the curvature says of these sixteen steps is another matter.
    alerts = {f"step {alert.step}: {alert.message}" for alert in watch.alerts}
    assert set(said) <= alerts
    assert watch.values["shockwatch/errors"] == 0.0
    assert watch.values["quotient/norm"] == pytest.approx(watch.values["raw/norm"], rel=1e-6)
    assert watch.values["raw/drift"] == pytest.approx(0.0, abs=1e-6)
    assert watch.values["shock/lambda_max"] > 0


def test_a_loss_that_is_nan_at_step_0_is_called_divergence(caplog: pytest.LogCaptureFixture) -> None:
    watch, said = twice(lambda: Undefined(mlp()), caplog)
    assert len(said) == 1, said
    assert "Training diverges" in said[0]
    assert [(alert.name, alert.severity) for alert in watch.alerts] == [("divergence", "critical")]
    assert watch.alerts[0].step == 1
    assert watch.values["phase/state"] == PhaseState.DIVERGING
    assert watch.values["shockwatch/errors"] == 0.0


def test_a_nan_loss_over_sound_parameters_is_divergence_too(caplog: pytest.LogCaptureFixture) -> None:
    """Gradients of zero keep the parameters finite, so only the loss can tell."""

    class Detached(Classifier):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + torch.full((), torch.nan)

    watch, said = twice(lambda: Detached(mlp()), caplog)
    assert len(said) == 1, said
    assert watch.values["phase/state"] == PhaseState.DIVERGING
    assert [alert.name for alert in watch.alerts] == ["divergence"]
