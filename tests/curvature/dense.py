"""Dense operators to compare with."""

import torch

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A dense matrix with these eigenvalues, in a random basis."""
    n = len(values)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator(seed), dtype=DOUBLE))
    return basis @ torch.diag(values.to(DOUBLE)) @ basis.T


def identity(v: torch.Tensor) -> torch.Tensor:
    return v
