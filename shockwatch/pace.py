"""How fast gradient descent follows the gradient flow: step size, momentum, and what they lose on a growing mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pace:
    """The constants of ``torch.optim.SGD``.

    Attributes:
        rate: ``lr * (1 - dampening)``.
        momentum: in [0, 1).
        nesterov: whether the momentum looks ahead.
    """

    rate: float
    momentum: float = 0.0
    nesterov: bool = False

    @property
    def time_per_step(self) -> float:
        """Training time of one step, ``rate / (1 - momentum)``: exact for slow motion (theory.md 4)."""
        return self.rate / (1.0 - self.momentum)

    def lag(self, growth: Array) -> Array:
        """Growth per unit of training time over that of the gradient flow, in (0, 1], same shape.

        Along a mode that the flow makes grow by ``growth > 0`` per unit of training time (curvature ``-growth``), the
        iteration grows per step by the larger root ``z`` of

        - ``z^2 - (1 + b + a) z + b = 0`` (Polyak's heavy ball; ``z = 1 + a`` without momentum),
        - ``z^2 - (1 + b) (1 + a) z + b (1 + a) = 0`` (Nesterov as torch has it),

        ``a = rate * growth``, ``b = momentum``. The quotient is ``log(z) / (growth * time_per_step)``.
        """
        lag: Array = np.log1p(self._root(growth)) / (growth * self.time_per_step)
        return lag

    def delay(self, growth: Array) -> Array:
        """Steps by which the growth of the iteration trails one that changes slowly, same shape.

        Half a step, as a step is taken with the growth at its beginning, and what momentum remembers: the ratio
        ``z_n`` of successive steps answers to ``z_(n-1)`` with ``w = b / z^2`` (Nesterov: ``b (1 + a) / z^2``), which
        is a delay of ``w / (1 - w)`` steps.
        """
        ahead = 1.0 + self.rate * growth if self.nesterov else np.ones_like(growth)
        memory = self.momentum * ahead / (1.0 + self._root(growth)) ** 2
        delay: Array = 0.5 + memory / (1.0 - memory)
        return delay

    def _root(self, growth: Array) -> Array:
        """``z - 1`` of `lag`, from ``x^2 + (1 - b - p) x - a = 0``: no digits are lost where the growth is slow."""
        a, b = self.rate * growth, self.momentum
        half = 0.5 * (1.0 - b - ((1.0 + b) * a if self.nesterov else a))
        root = np.sqrt(half**2 + a)
        x: Array = np.where(half > 0.0, a / (root + np.abs(half)), root - half)
        return x
