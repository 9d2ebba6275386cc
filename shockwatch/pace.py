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
        a, b = self.rate * growth, self.momentum
        # both as x^2 + (1 - b - p) x - q = 0 in x = z - 1 >= 0, which loses no digits where the growth is slow
        p, q = ((1.0 + b) * a, a) if self.nesterov else (a, a)
        half = 0.5 * (1.0 - b - p)
        root = np.sqrt(half**2 + q)
        x = np.where(half > 0.0, q / (root + np.abs(half)), root - half)
        lag: Array = np.log1p(x) / (growth * self.time_per_step)
        return lag
