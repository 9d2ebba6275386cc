"""Weight decay on the quotient against closed forms."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from shockwatch.curvature import CanonicalLoss, DecayedLoss, has_minimum_norm
from shockwatch.engine import Engine
from shockwatch.snapshot import Snapshot
from shockwatch.symmetry import infer_symmetries
from shockwatch.symmetry.groups import BiasTransport, ContinuousGroup, ScaleInvariance
from shockwatch.tracing import StepLoss, trace_step
from tests.curvature.test_curved_quotient import constrained, null_space, riemannian_hessian
from tests.symmetry.cases import BY_NAME, CASES, state_of

DOUBLE = torch.float64


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return 0.5 * (model(batch[0]) - batch[1]).square().sum()


def linear(*widths: int) -> nn.Module:
    maps = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    return nn.Sequential(*maps).double()


@pytest.mark.parametrize("ratio", [1.0, 5.0])
def test_two_scalars(ratio: float) -> None:
    """``(a b - s)^2 / 2 + w (a^2 + b^2) / 2`` is ``(x - s)^2 / 2 + w |x|`` with ``x = a b``, whatever ``a / b``.

    At ``x = t^2 / 2``, ``t`` the length on the quotient: slope ``t (x - s + w)``, curvature ``3 x - s + w``.
    """
    target, decay, product = 2.0, 0.3, 0.7
    model, batch = linear(1, 1, 1), (torch.ones(1, 1, dtype=DOUBLE), torch.full((1, 1), target, dtype=DOUBLE))
    first = (product * ratio) ** 0.5
    state = {
        "0.weight": torch.full((1, 1), first, dtype=DOUBLE),
        "1.weight": torch.full((1, 1), product / first, dtype=DOUBLE),
    }
    quotient = infer_symmetries(model, squared, batch)
    point = quotient.canonicalize(state)
    plain = CanonicalLoss(quotient, StepLoss(trace_step(model, squared, batch), batch), point, {})
    reduced = DecayedLoss(plain, quotient, point, decay)
    assert reduced.loss() == pytest.approx(0.5 * (product - target) ** 2 + decay * product, rel=1e-12)
    length = (2 * product) ** 0.5
    slope = abs(length * (product - target + decay))
    assert float(reduced.gradient().norm()) == pytest.approx(slope, rel=1e-9)
    along = reduced.gradient() / reduced.gradient().norm()
    assert float(along @ reduced.hvp(along)) == pytest.approx(3 * product - target + decay, rel=1e-9)
    # the loss itself agrees with both to second order
    step = 1e-4
    ahead, behind = reduced.loss(step * along), reduced.loss(-step * along)
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-6)
    assert (ahead + behind - 2 * reduced.loss()) / step**2 == pytest.approx(
        3 * product - target + decay, rel=1e-5
    )


def test_the_nuclear_norm_has_curvature_one_along_geodesics() -> None:
    """For two maps the reduced term is ``w |W2 W1|_*``; its Riemannian Hessian is ``w`` on every direction."""
    torch.manual_seed(0)
    model, batch = linear(4, 2, 3), (torch.eye(4, dtype=DOUBLE), torch.zeros(4, 3, dtype=DOUBLE))
    quotient = infer_symmetries(model, squared, batch)
    start = quotient.flatten(quotient.canonicalize(state_of(model)))

    def maps(theta: Tensor) -> tuple[Tensor, Tensor]:
        return theta[:8].reshape(2, 4), theta[8:].reshape(3, 2)

    def balance(theta: Tensor) -> Tensor:
        first, second = maps(theta)
        return (first @ first.T - second.T @ second)[tuple(torch.triu_indices(2, 2))]

    def nuclear(theta: Tensor) -> float:
        first, second = maps(theta)
        return float(torch.linalg.matrix_norm(second @ first, "nuc"))

    assert nuclear(start) == pytest.approx(0.5 * float(start.square().sum()), rel=1e-10)
    first, second = maps(start)
    turns = torch.eye(4, dtype=DOUBLE).reshape(4, 2, 2)
    generators = torch.stack([torch.cat([(t @ first).reshape(-1), (-second @ t).reshape(-1)]) for t in turns])
    basis = null_space(generators)
    curvature = riemannian_hessian(nuclear, constrained(balance, start), basis)
    assert torch.allclose(curvature, torch.eye(basis.shape[1], dtype=DOUBLE), atol=1e-6)


def test_the_watch_reads_the_next_singular_value_less_the_decay() -> None:
    """At the saddle of a two-layer linear network where nothing is learned ``lambda_min = w - s_1``."""
    values = torch.tensor([4.0, 2.0, 1.0], dtype=DOUBLE)
    model, batch = linear(3, 3, 3), (torch.eye(3, dtype=DOUBLE), torch.diag(values))
    state = {n: 1e-5 * torch.eye(3, dtype=DOUBLE) for n in ("0.weight", "1.weight")}
    for decay in (0.0, 0.5):
        engine = Engine.build(model, squared, batch, horizon=200, seed=0, probe=True)
        snapshot = Snapshot(0, state, 0.0, 0.1, 0.1, 1.0, stability_rate=0.1, weight_decay=decay)
        tags = engine.process(snapshot, True).values
        assert tags["shock/lambda_min"] == pytest.approx(decay - 4.0, rel=1e-6)


def test_where_it_has_no_meaning_it_is_left_out_and_said_once() -> None:
    case = BY_NAME["cnn"]
    model, batch = case.model(), case.data()
    engine = Engine.build(model, case.loss, batch, horizon=200, seed=0, probe=True)
    quotient = engine.quotient
    point = quotient.canonicalize(state_of(model))
    plain = CanonicalLoss(quotient, StepLoss(trace_step(model, case.loss, batch), batch), point, {})
    with pytest.raises(ValueError, match=r"scale invariance .* least norm"):
        DecayedLoss(plain, quotient, point, 0.1)
    with pytest.raises(ValueError, match="rate"):
        DecayedLoss(plain, quotient, point, -0.1)
    floats = {n: t for n, t in state_of(model).items() if t.is_floating_point()}
    notes = [
        engine.process(Snapshot(i, floats, 0.1 * i, 0.1, 0.1, 1.0, weight_decay=0.1), True).notes
        for i in range(2)
    ]
    assert sum("weight decay" in note for note in notes[0]) == 1
    assert not any("weight decay" in note for note in notes[1])


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_each_group_knows_whether_its_slice_has_the_least_norm(name: str) -> None:
    """At a point of least norm the point itself is orthogonal to the orbit: to every generator."""
    case = BY_NAME[name]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    point = quotient.canonicalize(state_of(model))
    for group in quotient.groups:
        if not isinstance(group, ContinuousGroup):
            continue
        slope = float(group.adjoint(point, dict(point)).abs().max())
        if group.least_norm:
            assert slope < 1e-9, group.name
        elif isinstance(group, (BiasTransport, ScaleInvariance)):
            assert slope > 1e-4, group.name
    vertical = quotient.projector(point).vertical_norm({n: point[n] for n in quotient.names})
    assert (vertical < 1e-8) == has_minimum_norm(quotient)


@pytest.mark.parametrize(
    ("name", "minimal"), [("mlp", True), ("cnn", True), ("attention", False), ("residual", False)]
)
def test_translations_against_descent_along_the_orbit(name: str, minimal: bool) -> None:
    """The least squared norm over all shifts, by descent with exact shifts from a random one.

    Fixing the source of a transport at zero is not it: part of the shift would stay there.
    """
    case = BY_NAME[name]
    model = case.model()
    quotient = infer_symmetries(model, case.loss, case.data())
    point = quotient.canonicalize(state_of(model))
    shifts = [g for g in quotient.groups if isinstance(g, ContinuousGroup) and g.kind == "translation"]
    state = {n: t.clone() for n, t in point.items()}
    generator = torch.Generator().manual_seed(0)
    for group in shifts:
        group.transform_(state, generator, 1.0)
    for _ in range(100):
        for group in shifts:
            group.generate_(-group.solve_gram(group.adjoint(state, state), state), dict(state), state)
    assert quotient.euclidean(quotient.canonicalize(state, point), point) < 1e-9
    ratio = quotient.norm(state) / quotient.norm(point)
    if minimal:
        assert ratio == pytest.approx(1.0, rel=1e-12)
    else:
        assert ratio < 1 - 1e-3
    assert all(group.least_norm for group in shifts) is minimal
