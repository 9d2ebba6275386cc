"""The tools beside which the watch is measured; each trains in the same plain loop and looks at the same interval."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from examples.benchmarks.snapshot_cost import Batch, classify
from shockwatch import ShockMonitor

EVERY = 50


class Tool:
    """A training loop with a look every ``EVERY`` steps; by itself: no tool at all.

    Attributes:
        name: for the table.
        needs: modules without which the tool is left out.
        curvature: whether a look computes eigenvalues or a trace of the Hessian.
        steps: of one run; more where the cost is not the same for every look, fewer where a look takes seconds.
    """

    name: ClassVar[str] = "no tool"
    needs: ClassVar[tuple[str, ...]] = ()
    curvature: ClassVar[bool] = False
    steps: ClassVar[int] = 400

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        self.model, self.optimizer, self.folder = model, optimizer, folder

    def step(self, number: int, batch: Batch) -> None:
        """One step of training, and a look if one is due."""
        self.optimizer.zero_grad()
        loss = classify(self.model, batch)
        loss.backward()
        self.optimizer.step()
        self.after(number, batch, loss)

    def after(self, number: int, batch: Batch, loss: Tensor) -> None:
        """Look, if a look is due."""
        if number % EVERY == 0:
            self.look(number, batch)

    def look(self, number: int, batch: Batch) -> None:
        """What the tool measures."""

    def close(self) -> None:
        """Belongs to the run: what is still to be computed or written."""

    def discard(self) -> None:
        """Belongs to the tool: not measured."""

    @classmethod
    def missing(cls) -> str | None:
        """Why the tool cannot be used here, or None."""
        for module in cls.needs:
            try:
                importlib.import_module(module)
            except Exception as error:
                return f"{cls.name} is left out: {type(error).__name__}: {error}"
        return None


class Shockwatch(Tool):
    """``ShockMonitor`` at its defaults."""

    name = "shockwatch"
    curvature = True
    steps = 2000

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        super().__init__(model, optimizer, folder)
        self._writer = SummaryWriter(str(folder))
        self._monitor = ShockMonitor(model, classify, optimizer, writer=self._writer)

    def after(self, number: int, batch: Batch, loss: Tensor) -> None:
        self._monitor.step(batch, loss)

    def close(self) -> None:
        self._monitor.close()
        self._writer.close()


class GradientNorms(Tool):
    """The gradient norm of every tensor as a scalar."""

    name = "gradient norms"

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        super().__init__(model, optimizer, folder)
        self._writer = SummaryWriter(str(folder))

    def look(self, number: int, batch: Batch) -> None:
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                self._writer.add_scalar(f"norm/{name}", parameter.grad.norm().item(), number)

    def close(self) -> None:
        self._writer.close()


class Histograms(GradientNorms):
    """TensorBoard histograms of weights and gradients."""

    name = "TensorBoard histograms"

    def look(self, number: int, batch: Batch) -> None:
        for name, parameter in self.model.named_parameters():
            self._writer.add_histogram(f"weight/{name}", parameter, number)
            if parameter.grad is not None:
                self._writer.add_histogram(f"gradient/{name}", parameter.grad, number)


class WandbWatch(Tool):
    """``wandb.watch(log="all")``, offline; the start and the end of its process are not counted."""

    name = "wandb.watch"
    needs = ("wandb",)

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        super().__init__(model, optimizer, folder)
        self._wandb: Any = importlib.import_module("wandb")
        settings = self._wandb.Settings(silent=True, console="off")
        self._wandb.init(mode="offline", dir=str(folder), settings=settings)
        self._wandb.watch(model, log="all", log_freq=EVERY)

    def look(self, number: int, batch: Batch) -> None:
        self._wandb.log({"step": number})

    def discard(self) -> None:
        self._wandb.unwatch(self.model)
        self._wandb.finish()


class PyHessian(Tool):
    """The largest eigenvalue by power iteration, on a copy: it switches the model to evaluation."""

    name = "PyHessian, top eigenvalue"
    needs = ("pyhessian",)
    curvature = True

    def look(self, number: int, batch: Batch) -> None:
        hessian: Any = importlib.import_module("pyhessian").hessian
        hessian(copy.deepcopy(self.model), _cross_entropy, data=batch, cuda=False).eigenvalues(top_n=1)


class Curvlinops(Tool):
    """Both ends of the spectrum by ``eigsh``."""

    name = "curvlinops + eigsh, both ends"
    needs = ("curvlinops", "scipy")
    curvature = True

    def look(self, number: int, batch: Batch) -> None:
        curvlinops: Any = importlib.import_module("curvlinops")
        eigsh: Any = importlib.import_module("scipy.sparse.linalg").eigsh
        model = copy.deepcopy(self.model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        hessian = curvlinops.HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, [batch])
        eigsh(hessian.to_scipy(), k=2, which="BE", tol=1e-2, return_eigenvectors=False)


class CockpitEconomy(Tool):
    """Cockpit's economy configuration; BackPACK extends the model."""

    name = "Cockpit economy"
    needs = ("cockpit", "backpack")
    label = "economy"

    def __init__(self, model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
        super().__init__(model, optimizer, folder)
        cockpit: Any = importlib.import_module("cockpit")
        extend: Any = importlib.import_module("backpack").extend
        configuration: Any = importlib.import_module("cockpit.utils.configuration").configuration
        schedule: Any = importlib.import_module("cockpit.utils.schedules").linear(EVERY, offset=EVERY - 1)
        extend(model)
        self._loss = extend(nn.CrossEntropyLoss())
        self._each = nn.CrossEntropyLoss(reduction="none")
        self._cockpit = cockpit.Cockpit(model.parameters(), configuration(self.label, schedule))

    def step(self, number: int, batch: Batch) -> None:
        inputs, labels = batch
        self.optimizer.zero_grad()
        logits = self.model(inputs)
        loss = self._loss(logits, labels)
        losses = self._each(logits.detach(), labels)
        known = {
            "batch_size": len(labels),
            "individual_losses": losses,
            "loss": loss,
            "optimizer": self.optimizer,
        }
        step = number - 1
        with self._cockpit(step, info=known):
            loss.backward(create_graph=self._cockpit.create_graph(step))
        self.optimizer.step()


class CockpitFull(CockpitEconomy):
    """Cockpit's full configuration."""

    name = "Cockpit full"
    label = "full"
    curvature = True
    steps = 200


TOOLS: tuple[type[Tool], ...] = (
    Shockwatch,
    GradientNorms,
    Histograms,
    WandbWatch,
    PyHessian,
    Curvlinops,
    CockpitEconomy,
    CockpitFull,
)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, labels)
