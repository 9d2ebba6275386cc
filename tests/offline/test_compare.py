"""``shockwatch compare``: one network in two gauges is told from two networks."""

from __future__ import annotations

import pytest
import torch

from shockwatch import cli
from shockwatch.offline.compare import compare
from shockwatch.symmetry import infer_symmetries


@pytest.fixture
def case(built):
    model, loss_fn, batch = built
    return infer_symmetries(model, loss_fn, batch), torch.load("step=40.ckpt", weights_only=True)[
        "state_dict"
    ]


def run(first, second, capsys):
    code = cli.main(["compare", first, second, "--module", "saved_run:build"])
    return code, capsys.readouterr().out


def test_another_gauge_is_the_same_network(case, capsys):
    q, state = case
    torch.save(q.random_transform(state), "gauge.pt")
    code, out = run("step=40.ckpt", "gauge.pt", capsys)
    assert code == 0
    assert "one network in two gauges" in out
    assert "moved" in out
    assert "positive scaling" in out
    assert "factors" in out
    assert "shift of length" in out
    assert max(map(len, out.splitlines())) <= 120


def test_the_same_file(case, capsys):
    code, out = run("step=40.ckpt", "step=40.ckpt", capsys)
    assert code == 0
    assert out.startswith("the same parameters")
    assert "element" not in out


def test_two_moments_are_two_networks(case, capsys):
    code, out = run("step=40.ckpt", "step=20.ckpt", capsys)
    assert code == 1
    assert out.startswith("two different networks")


@pytest.mark.parametrize("share", [1e-7, 1e-3])
def test_a_small_real_difference_is_not_a_symmetry(case, share):
    q, state = case
    other = {n: t * (1 + share) for n, t in q.random_transform(state).items()}
    result = compare(q, state, other, (0.0, 0.0))
    assert not result.same
    # All weights and biases grow by one factor: so does the canonical form, up to its translations.
    assert result.quotient == pytest.approx(share * result.norm, rel=0.6)


def test_single_precision_is_judged_as_such(case):
    q, state = case
    single = {n: t.float() for n, t in state.items()}
    assert compare(q, single, q.random_transform(single), (0.0, 0.0)).same


def test_units_that_moved_are_counted(case):
    q, state = case
    order = torch.tensor([1, 0, 2, 3, 4])
    other = {n: t.clone() for n, t in state.items()}
    other["0.weight"], other["0.bias"] = state["0.weight"][order], state["0.bias"][order]
    other["2.weight"] = state["2.weight"][:, order]
    result = compare(q, state, other, (0.0, 0.0))
    assert result.same
    assert [r.moved for r in result.relations if r.kind == "permutation"] == [(2, 5)]
