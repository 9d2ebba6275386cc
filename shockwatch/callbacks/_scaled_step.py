"""A factor on every learning rate of an optimiser, in force only while it steps."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer


class ScaledStep:
    """Scales the learning rates of ``optimizer`` for the duration of its ``step``, whether that ends or raises.

    It wraps the ``step`` of this one optimiser, as torch's own schedulers do, inside whatever wraps it later. torch's
    step hooks would not serve: after a step that raises none is called, and they are called twice where a subclass
    calls ``super().step()``.

    Args:
        optimizer: any optimiser of torch.
        factor: gives the factor; asked once a step.
    """

    def __init__(self, optimizer: Optimizer, factor: Callable[[], float]) -> None:
        self._optimizer, self._factor = optimizer, factor
        self._inside = optimizer.__dict__.get("step")
        self._active, self._stepping = True, False
        inner = optimizer.step

        @functools.wraps(getattr(inner, "__func__", inner))
        def step(own: Optimizer, *args: Any, **kwargs: Any) -> Any:
            with self._scaled():
                return inner(*args, **kwargs)

        # a bound method: a scheduler made later looks for its __func__
        self._outside = types.MethodType(step, optimizer)
        optimizer.step = self._outside  # type: ignore[method-assign]

    def release(self) -> None:
        """Leave the optimiser as it was found; under what has wrapped it since, do nothing any more."""
        self._active = False
        if self._optimizer.__dict__.get("step") is not self._outside:
            return
        if self._inside is None:
            del self._optimizer.__dict__["step"]
        else:
            self._optimizer.step = self._inside  # type: ignore[method-assign]

    @contextmanager
    def _scaled(self) -> Iterator[None]:
        factor = self._factor() if self._active and not self._stepping else 1.0
        if factor == 1.0:
            yield
            return
        changed = []
        for group in self._optimizer.param_groups:
            own = group["lr"]
            group["lr"] = own * factor
            changed.append((group, own, group["lr"]))
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
            for group, own, scaled in changed:
                if group["lr"] is scaled:  # who wrote another one during the step meant it
                    group["lr"] = own
