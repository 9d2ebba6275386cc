"""Canonical form, horizontal space and distance: laws that hold in every gauge."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.groups import ContinuousGroup, GeneralLinear, Rotation
from shockwatch.tracing import StepLoss, trace_step
from tests.symmetry.cases import BY_NAME, CASES, Case, state_of
from tests.symmetry.spans import generators

NAMES = [case.name for case in CASES]
# Unit norm in front of a norm with eps 1e-5 changes the function by about the residual of that group.
APPROXIMATE = {
    *("cnn", "grouped cnn", "post-norm encoder", "tied"),
    *("instance norm", "normalised queries", "normed stream"),
    *("llama", "vision", "stack"),
}


@functools.cache
def prepared(name: str) -> tuple[Case, nn.Module, Quotient, dict[str, Tensor]]:
    case = BY_NAME[name]
    model = case.model()
    return case, model, infer_symmetries(model, case.loss, case.data()), state_of(model)


def in_another_gauge(name: str, seed: int) -> dict[str, Tensor]:
    _, _, quotient, state = prepared(name)
    return quotient.random_transform(state, torch.Generator().manual_seed(seed))


def loss_of(name: str, state: dict[str, Tensor]) -> float:
    case, model, _, _ = prepared(name)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    buffers = {k: v.clone() for k, v in model.named_buffers()}
    values = {**{k: v.clone() for k, v in state.items()}}
    output = torch.func.functional_call(model, values, (case.data()[0],))
    for key, value in model.named_buffers():
        value.copy_(buffers[key])
    measure = nn.functional.mse_loss if case.data()[1].is_floating_point() else nn.functional.cross_entropy
    return float(measure(output, case.data()[1]))


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**31))
def test_same_function_in_every_gauge(name: str, seed: int) -> None:
    base = loss_of(name, prepared(name)[3])
    assert abs(loss_of(name, in_another_gauge(name, seed)) - base) < 1e-9 * abs(base)


@pytest.mark.parametrize("name", ["mlp", "cnn", "post-norm encoder"])
def test_raw_norm_does_see_the_gauge(name: str) -> None:
    _, _, quotient, state = prepared(name)
    assert abs(quotient.norm(in_another_gauge(name, 0)) / quotient.norm(state) - 1) > 0.1


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**31))
def test_observables_do_not_see_the_gauge(name: str, seed: int) -> None:
    _, _, quotient, state = prepared(name)
    here, there = quotient.observables(state), quotient.observables(in_another_gauge(name, seed))
    for tag, value in here.items():
        assert there[tag] == pytest.approx(value, rel=1e-6), tag


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**31))
def test_distance_is_zero_along_orbits(name: str, seed: int) -> None:
    _, _, quotient, state = prepared(name)
    assert quotient.distance(state, in_another_gauge(name, seed)) < 1e-6 * quotient.norm(state)


@settings(max_examples=15, deadline=None)
@given(name=st.sampled_from(["mlp", "cnn", "attention", "linear"]), seed=st.integers(0, 2**31))
def test_distance_to_another_network_does_not_see_the_gauge(name: str, seed: int) -> None:
    _, _, quotient, state = prepared(name)
    generator = torch.Generator().manual_seed(seed)
    other = {
        k: v + 0.02 * torch.randn(v.shape, generator=generator, dtype=v.dtype) if v.is_floating_point() else v
        for k, v in state.items()
        if not k.endswith("running_var")
    }
    other = {**state, **other}
    plain = quotient.distance(state, other)
    assert quotient.distance(in_another_gauge(name, seed), other) == pytest.approx(plain, rel=1e-6)
    assert quotient.distance(other, state) == pytest.approx(plain, rel=1e-6)
    assert plain > 0


@pytest.mark.parametrize("name", NAMES)
def test_canonical_form(name: str) -> None:
    """Idempotent, the same in every gauge, and no farther from zero than any other point of the orbit.

    Where a stream turns, the gains before it are equal, which is a slice but not the least norm.
    """
    _, _, quotient, state = prepared(name)
    canonical = quotient.canonicalize(state)
    assert quotient.euclidean(quotient.canonicalize(canonical), canonical) < 1e-10
    moved = quotient.random_transform(state, torch.Generator().manual_seed(7))
    assert quotient.euclidean(quotient.canonicalize(moved), canonical) < 1e-7 * quotient.norm(canonical)
    folded = any(isinstance(g, Rotation) for g in quotient.groups)
    kinds = {"scale invariance", "rotation", *(["real scaling"] if folded else [])}
    scaled = [g for g in quotient.groups if g.kind not in kinds]
    for seed in range(3):
        other = Quotient(scaled, quotient.names).random_transform(
            canonical, torch.Generator().manual_seed(seed), 0.3
        )
        assert quotient.norm(canonical) <= quotient.norm(other) * (1 + 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_canonical_point_is_the_same_function(name: str) -> None:
    _, _, quotient, state = prepared(name)
    tolerance = 1e-4 if name in APPROXIMATE else 1e-10
    assert loss_of(name, quotient.canonicalize(state)) == pytest.approx(loss_of(name, state), rel=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_horizontal_projection(name: str) -> None:
    """``P P = P``, ``P`` is symmetric, and what it removes is exactly the span of the generators."""
    _, _, quotient, state = prepared(name)
    point = quotient.canonicalize(state)
    generator = torch.Generator().manual_seed(0)

    def draw() -> dict[str, Tensor]:
        return {
            n: torch.randn(point[n].shape, generator=generator, dtype=torch.float64) for n in quotient.names
        }

    a, b = draw(), draw()
    pa, pb = quotient.horizontal(point, a), quotient.horizontal(point, b)
    assert quotient.euclidean(quotient.horizontal(point, pa), pa) < 1e-9 * quotient.norm(pa)
    inner = [float(quotient.flatten(x) @ quotient.flatten(y)) for x, y in ((pa, b), (a, pb))]
    assert inner[0] == pytest.approx(inner[1], abs=1e-8)
    groups = [g for g in quotient.groups if isinstance(g, ContinuousGroup)]
    for group in groups:
        assert float(group.adjoint(point, pa).abs().max()) < 1e-8


@pytest.mark.parametrize("name", ["mlp", "attention", "linear", "residual"])
def test_removed_dimensions_are_the_generators(name: str) -> None:
    """The rank of ``1 - P`` against the rank of all generators, written out as vectors."""
    _, _, quotient, state = prepared(name)
    point = quotient.canonicalize(state)
    count = sum(point[n].numel() for n in quotient.names)
    columns = []
    for k in range(count):
        unit = torch.zeros(count, dtype=torch.float64)
        unit[k] = 1
        columns.append(unit - quotient.flatten(quotient.horizontal(point, quotient.unflatten(unit, point))))
    removed = torch.stack(columns)
    basis = torch.linalg.svd(generators(quotient, point), full_matrices=False)
    rank = int((1e-10 * basis.S[0] < basis.S).sum())
    dense = basis.Vh[:rank].T @ basis.Vh[:rank]
    assert torch.allclose(removed, dense, atol=1e-8)
    assert rank == quotient.dim


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_horizontal(name: str) -> None:
    case, model, quotient, state = prepared(name)
    operator_state = quotient.canonicalize(state)
    loss = StepLoss(trace_step(model, case.loss, case.data()), case.data())
    _, gradient = loss.gradient(operator_state, {})
    tangent = dict(zip(quotient.names, gradient, strict=True))
    inside = quotient.horizontal(operator_state, tangent)
    tolerance = 1e-3 if name in APPROXIMATE else 1e-9
    assert quotient.euclidean(tangent, inside) < tolerance * quotient.norm(tangent)


@pytest.mark.parametrize("name", ["mlp", "cnn", "attention", "multi-head", "swiglu"])
def test_spectrum_is_the_same_in_every_gauge(name: str) -> None:
    case, model, quotient, _ = prepared(name)
    spectra = []
    for seed in range(3):
        operator = quotient.hessian(model, case.loss, case.data(), in_another_gauge(name, seed))
        dense = operator.matmat(np.eye(operator.shape[0]))
        assert np.abs(dense - dense.T).max() < 1e-8
        spectra.append(np.linalg.eigvalsh((dense + dense.T) / 2))
    scale = np.abs(spectra[0]).max()
    for other in spectra[1:]:
        assert np.abs(other - spectra[0]).max() < 1e-7 * scale


def test_deep_linear_plateau_reads_the_next_singular_value() -> None:
    """At the saddle where the first k modes are learned ``lambda_min = -s_{k+1}`` (theory.md 5)."""
    values = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q for _ in range(2)
    )
    target = left @ torch.diag(values) @ right
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).double()

    def loss_fn(module: nn.Module, batch: Tensor) -> Tensor:
        return 0.5 * (module(batch) - batch @ target.T).square().sum()

    batch = torch.eye(4, dtype=torch.float64)
    for learned in range(4):
        sizes = values.clone()
        sizes[learned:] = 1e-4
        root = torch.diag(sizes.sqrt())
        state = {"0.weight": root @ right, "1.weight": left @ root}
        quotient = infer_symmetries(model, loss_fn, batch)
        assert [g.kind for g in quotient.groups] == ["general linear"]
        operator = quotient.hessian(model, loss_fn, batch, quotient.random_transform(state, scale=0.3))
        lowest = np.linalg.eigvalsh(operator.matmat(np.eye(32)))[0]
        assert lowest == pytest.approx(-float(values[learned]), rel=1e-2)


def test_dead_units_and_zero_blocks_stay_finite() -> None:
    _, _, quotient, state = prepared("mlp")
    dead = {k: v.clone() for k, v in state.items()}
    dead["0.weight"][2] = 0
    dead["0.bias"][2] = 0
    dead["2.weight"][:, 4] = 0
    canonical = quotient.canonicalize(dead)
    assert all(bool(torch.isfinite(t).all()) for t in canonical.values())
    assert loss_of("mlp", canonical) == pytest.approx(loss_of("mlp", dead), rel=1e-12)
    _, _, heads, weights = prepared("attention")
    empty = {k: v.clone() for k, v in weights.items()}
    empty["o.weight"][:, :3] = 0
    for value in heads.observables(empty).values():
        assert np.isfinite(value)
    point = heads.canonicalize(empty)
    tangent = {n: torch.ones_like(point[n]) for n in heads.names}
    assert all(bool(torch.isfinite(t).all()) for t in heads.horizontal(point, tangent).values())


def test_geometric_mean_against_direct_minimisation() -> None:
    """The closed form of the balance against plain gradient descent on ``|A P|^2 + |A^-T N|^2``."""
    _, _, quotient, state = prepared("linear")
    group = next(g for g in quotient.groups if isinstance(g, GeneralLinear))
    p, n = state["0.weight"], state["1.weight"].T
    logarithm = torch.zeros(6, 6, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [logarithm], max_iter=400, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        symmetric = (logarithm + logarithm.T) / 2
        value = (torch.matrix_exp(symmetric) @ p).square().sum() + (
            torch.matrix_exp(-symmetric) @ n
        ).square().sum()
        value.backward()
        return value

    optimiser.step(closure)
    balanced = quotient.balance(state)
    assert quotient.norm(balanced) ** 2 == pytest.approx(float(closure().detach()), rel=1e-9)
    assert group.imbalance(balanced) < 1e-10


def test_invariant_product_against_dense_singular_values() -> None:
    _, _, quotient, state = prepared("attention")
    values = quotient.observables(state)
    q = torch.cat([state["q.weight"], state["q.bias"][:, None]], 1).view(2, 3, 9)
    k = torch.cat([state["k.weight"], state["k.bias"][:, None]], 1).view(2, 3, 9)
    k = k.clone()
    k[:, :, 8] = 0  # the key bias is redundant: its canonical value is zero
    products = torch.linalg.svdvals(q.transpose(1, 2) @ k)[:, :3]
    assert values["block/q-k/spectral_norm"] == pytest.approx(float(products[:, 0].max()), rel=1e-9)
    stable = (products.square().sum(1) / products[:, 0] ** 2).min()
    assert values["block/q-k/stable_rank"] == pytest.approx(float(stable), rel=1e-9)
    shares = products / products.sum(1, keepdim=True)
    effective = torch.exp(-(shares * shares.log()).sum(1)).min()
    assert values["block/q-k/effective_rank"] == pytest.approx(float(effective), rel=1e-9)


def test_missing_parameter_is_named() -> None:
    _, _, quotient, state = prepared("mlp")
    with pytest.raises(ValueError, match=r"4\.bias"):
        quotient.canonicalize({k: v for k, v in state.items() if k != "4.bias"})


@pytest.mark.parametrize("name", NAMES)
def test_each_group_inverts_its_own_gram_matrix(name: str) -> None:
    """``G (G^T G)^-1 G^T`` leaves a vertical vector of the group alone."""
    _, _, quotient, state = prepared(name)
    point = quotient.canonicalize(state)
    generator = torch.Generator().manual_seed(1)

    def zero() -> dict[str, Tensor]:
        return {n: torch.zeros_like(point[n]) for n in quotient.names}

    for group in quotient.groups:
        if not isinstance(group, ContinuousGroup):
            continue
        like = group.adjoint(point, zero())
        there, back = zero(), zero()
        draw = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        group.generate_(draw, point, there)
        group.generate_(group.solve_gram(group.adjoint(point, there), point), point, back)
        assert quotient.euclidean(there, back) < 1e-8 * quotient.norm(there), (group.kind, group.name)
