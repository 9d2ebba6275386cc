"""Wasserstein-2 between empirical measures of neurons: closed forms, and what it must not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from shockwatch.observables import MeasureMotion, Point
from shockwatch.symmetry import infer_symmetries
from shockwatch.symmetry.measure import LIMIT, TRANSPORT_LIMIT, Measure, neurons, wasserstein
from tests.symmetry.cases import BY_NAME, state_of


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def on_a_line(x: np.ndarray, p: np.ndarray, y: np.ndarray, q: np.ndarray) -> float:
    """The closed form in one dimension: the integral of the squared difference of both quantile functions."""
    i, j = np.argsort(x), np.argsort(y)
    x, p, y, q = x[i], np.cumsum(p[i]), y[j], np.cumsum(q[j])
    levels = np.unique(np.concatenate([[0.0], p, q]).round(14))
    middle = (levels[1:] + levels[:-1]) / 2
    first = x[np.searchsorted(p, middle).clip(max=len(x) - 1)]
    second = y[np.searchsorted(q, middle).clip(max=len(y) - 1)]
    return math.sqrt(float(((first - second) ** 2 * np.diff(levels)).sum()))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 9), seed=st.integers(0, 999), weighted=st.booleans())
def test_one_dimension_against_the_closed_form(n: int, m: int, seed: int, weighted: bool) -> None:
    x, y = draw(n, 1, seed=seed), draw(m, 1, seed=seed + 1)
    p, q = (torch.softmax(draw(k, seed=seed + 2 + k), 0) if weighted else None for k in (n, m))
    p_, q_ = (w.numpy() if w is not None else np.full(k, 1 / k) for w, k in ((p, n), (q, m)))
    expected = on_a_line(x[:, 0].numpy(), p_, y[:, 0].numpy(), q_)
    distance = wasserstein(Measure(x, p), Measure(y, q))
    assert distance == pytest.approx(expected, rel=1e-6, abs=1e-7)
    # the first moment never exceeds the second: a peer library's number bounds ours from below
    assert distance >= wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy(), p_, q_) - 1e-7


def test_a_shift_is_its_length() -> None:
    points, shift = draw(7, 3), torch.tensor([3.0, -4.0, 12.0], dtype=torch.float64)
    assert wasserstein(Measure(points), Measure(points + shift)) == pytest.approx(13.0, rel=1e-12)


def test_repeated_units_are_weights() -> None:
    points, other = draw(4, 3), draw(5, 3, seed=1)
    weights = torch.tensor([0.25, 0.5, 0.125, 0.125], dtype=torch.float64)
    counts = torch.tensor([2, 4, 1, 1])
    repeated = Measure(points.repeat_interleave(counts, 0))
    assert wasserstein(Measure(points, weights), repeated) == pytest.approx(0.0, abs=1e-7)
    assert wasserstein(Measure(points, weights), Measure(other)) == pytest.approx(
        wasserstein(repeated, Measure(other)), rel=1e-9
    )


def test_the_assignment_is_the_transport() -> None:
    a, b = draw(6, 3), draw(6, 3, seed=1)
    uniform = torch.full((6,), 1 / 6, dtype=torch.float64)
    assert wasserstein(Measure(a), Measure(b)) == pytest.approx(
        wasserstein(Measure(a, uniform), Measure(b, uniform)), rel=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), size=st.floats(0.1, 3.0))
def test_neither_order_nor_scale_of_relu_units_shows(seed: int, size: float) -> None:
    w, a = draw(8, 4, seed=seed), draw(8, 2, seed=seed + 1)
    other = neurons(draw(8, 4, seed=seed + 2), draw(8, 2, seed=seed + 3), homogeneous=True)
    scale = torch.exp(size * draw(8, 1, seed=seed + 4))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
    plain = neurons(w, a, homogeneous=True)
    moved = neurons((scale * w)[order], (a / scale)[order], homogeneous=True)
    assert wasserstein(plain, moved) == pytest.approx(0.0, abs=1e-12)
    assert wasserstein(moved, other) == pytest.approx(wasserstein(plain, other), rel=1e-12)


def test_mass_is_the_product_of_norms_and_dead_units_are_zero() -> None:
    w, a = draw(5, 4), draw(5, 2, seed=1)
    a[3] = 0
    points = neurons(w, a, homogeneous=True).points
    assert torch.allclose(points.square().sum(1) / 2, w.norm(dim=1) * a.norm(dim=1), rtol=1e-12)
    assert torch.equal(points[3], torch.zeros(6, dtype=torch.float64))


def test_speed_of_the_measure_is_gauge_invariant() -> None:
    case = BY_NAME["mlp"]
    model, later = case.model(), case.model()
    with torch.no_grad():
        for parameter in later.parameters():
            parameter += 0.01 * draw(*parameter.shape, seed=parameter.numel())
    quotient = infer_symmetries(model, case.loss, case.data())

    def speed(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
        first, second = (quotient.canonicalize(s) for s in (a, b))
        points = [Point(step, float(step), s, c, quotient) for step, s, c in ((0, a, first), (5, b, second))]
        return MeasureMotion().compute(points[1], points[0])["quotient/measure_speed"]

    a, b = state_of(model), state_of(later)
    plain = speed(a, b)
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        moved = quotient.random_transform(a, g, 1.0), quotient.random_transform(b, g, 1.0)
        assert speed(*moved) == pytest.approx(plain, rel=1e-9)
    # identity couples every unit with itself: an upper bound, reached where none trade places
    first, second = quotient.canonicalize(a), quotient.canonicalize(b)
    sides = {"0.weight": 9, "0.bias": 9, "2.weight": 9, "2.bias": 7, "4.weight": 7}
    squares = sum(float((first[n] - second[n]).square().sum()) / k for n, k in sides.items())
    squares += float((first["2.weight"] - second["2.weight"]).square().sum()) / 7
    assert 0 < 5 * plain <= math.sqrt(squares) * (1 + 1e-9)


def test_no_hidden_axis_no_number() -> None:
    model = nn.Linear(6, 4).double()
    case = BY_NAME["mlp"]
    quotient = infer_symmetries(model, case.loss, case.data())
    state = state_of(model)
    points = [Point(step, 0.0, state, state, quotient) for step in (0, 1)]
    assert math.isnan(MeasureMotion().compute(points[1], points[0])["quotient/measure_speed"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Measure(torch.ones(3)), r"points=\(3,\)"),
        (lambda: Measure(torch.full((2, 2), torch.nan)), r"points=\(2, 2\): must be a finite matrix"),
        (lambda: Measure(torch.ones(2, 2), torch.ones(3)), r"weights=\(3,\): must be 2 positive numbers"),
        (lambda: Measure(torch.ones(2, 2), torch.ones(2)), "weights=2.0 in sum"),
        (lambda: wasserstein(Measure(torch.ones(2, 2)), Measure(torch.ones(2, 3))), "points=2 and 3 wide"),
        (
            lambda: wasserstein(Measure(torch.ones(LIMIT + 1, 1)), Measure(torch.ones(LIMIT + 1, 1))),
            f"points={LIMIT + 1}: must be at most {LIMIT}",
        ),
        (
            lambda: wasserstein(Measure(torch.ones(TRANSPORT_LIMIT + 1, 1)), Measure(torch.ones(2, 1))),
            f"must be at most {TRANSPORT_LIMIT}",
        ),
    ],
)
def test_bad_measures_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
