"""The user's training step on a private copy of the model, as a function of its tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module

from shockwatch.replica import preserved_randomness, private_copy
from shockwatch.snapshot import State

LossFunction = Callable[[Any, Any], Tensor]
"""``loss_fn(model, batch) -> scalar tensor``."""

_WRAPPER = "_orig_mod."


class PrivateStep:
    """``loss_fn`` on a private copy of ``model``: dropout off, batch norm on batch statistics.

    Attributes:
        names: the tensors of the copy by the names they have in ``model``, whose own may carry the prefix that
            ``torch.compile`` puts before them.
        parameters: the parameters of the copy, under the names of ``model``.
        tensors: the parameters and buffers of the copy, likewise.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        self._module = private_copy(model)
        _evaluation_mode(self._module)
        self._loss_fn = loss_fn
        given = [*dict(model.named_parameters()), *dict(model.named_buffers())]
        outside = {name.replace(_WRAPPER, ""): name for name in given}
        parameters = dict(self._module.named_parameters())
        buffers = dict(self._module.named_buffers())
        self.names = {outside.get(name, name): name for name in (*parameters, *buffers)}
        self.parameters = {outside.get(name, name): p for name, p in parameters.items()}
        self.tensors: State = {name: {**parameters, **buffers}[inner] for name, inner in self.names.items()}

    def __call__(self, state: Mapping[str, Tensor], batch: Any) -> Tensor:
        """The loss at ``state``, which may lack tensors and is changed where the step writes into buffers.

        Raises:
            TypeError: if the loss is not a scalar tensor.
        """
        swap = {self.names[name]: tensor for name, tensor in state.items()}
        with _reparametrize_module(self._module, swap, tie_weights=True):
            loss = self._loss_fn(self._module, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TypeError(f"the loss must be a scalar tensor, not {type(loss).__name__}")
        return loss.reshape(())

    def value(self, state: Mapping[str, Tensor], batch: Any) -> float:
        """The loss the module itself computes at ``state``; nothing is changed, no generator is moved."""
        own = {name: tensor.detach().clone() for name, tensor in state.items()}
        data = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), batch)
        with undisturbed():
            return float(self(own, data).detach())


@contextmanager
def undisturbed() -> Iterator[None]:
    """Draws are undone, autocast is off, gradients are on, and compiled functions run as they were written.

    Compiling here would count against the limits of the live module's own compiled functions.
    """
    with ExitStack() as stack:
        stack.enter_context(preserved_randomness())
        if dynamo := sys.modules.get("torch._dynamo"):
            stack.enter_context(dynamo.config.patch(error_on_nested_fx_trace=False))
            if hasattr(dynamo, "set_stance"):
                stack.enter_context(dynamo.set_stance("force_eager"))
        # after a few runs a scripted module would differentiate itself, out of sight of the trace
        stack.enter_context(torch.jit.optimized_execution(False))  # type: ignore[attr-defined]
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", enabled=False))
        yield


def _evaluation_mode(model: nn.Module) -> None:
    """Dropout off, batch norm on batch statistics: the training loss without its noise."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()
