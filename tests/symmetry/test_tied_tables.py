"""A masked language model in small: tied words behind a square map, tables with rows that nothing reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shockwatch.engine.description import describe
from shockwatch.inspection.report import report
from shockwatch.symmetry import Quotient, infer_symmetries
from shockwatch.symmetry.groups import MeanZeroReader, RealScaling, Translation, Unread
from shockwatch.symmetry.oracle import true_redundancy
from tests.symmetry.cases import cross_entropy, state_of, words


class Words(nn.Module):
    """Words, positions for longer sequences than there are, types of which one is used; a block; the tied output."""

    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        self.token = nn.Embedding(17, 8, padding_idx=padding)
        self.position, self.kind = nn.Embedding(9, 8), nn.Embedding(2, 8)
        self.register_buffer("kinds", torch.zeros(1, 9, dtype=torch.int64))
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
        self.up, self.down, self.dense = nn.Linear(8, 10), nn.Linear(10, 8), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.zeros(17))

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        h = self.token(x) + self.position(torch.arange(length)) + self.kind(self.kinds[:, :length])
        h = self.norms[0](h)
        h = self.norms[1](h + self.down(F.gelu(self.up(h))))
        h = self.norms[2](F.gelu(self.dense(h)))
        return F.linear(h, self.token.weight, self.bias).flatten(0, 1)


def words_model(padding: int | None = None) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Words(padding).double()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def inferred(model: nn.Module) -> Quotient:
    return infer_symmetries(model, cross_entropy, words(0))


def test_every_direction_is_found() -> None:
    model = words_model()
    quotient = inferred(model)
    assert quotient.dim_exact == true_redundancy(model, cross_entropy, words(0))
    # Two streams whose size an eps makes approximate; the size of what the square map reads is one of its gains.
    assert quotient.dim == quotient.dim_exact + 2


def test_the_square_map_behind_tied_words() -> None:
    """Its reading side: gains 8 and the mean-zero direction of 8 outputs; the bias of the norm before it 8."""
    groups = [g for g in inferred(words_model()).groups if "dense.weight" in g.parameters]
    assert {(type(g), g.dim) for g in groups if g.dim} == {(RealScaling, 8), (MeanZeroReader, 8)}


def test_rows_that_nothing_reads() -> None:
    """Three of nine positions and one of two types; one direction of each row the norm removes already."""
    quotient = inferred(words_model())
    unread = {g.parameters[0]: g for g in quotient.groups if isinstance(g, Unread)}
    assert {name: (g.rows, g.dim) for name, g in unread.items()} == {
        "position.weight": ((6, 7, 8), 3 * 7),
        "kind.weight": ((1,), 7),
    }
    # they are counted apart, and said to be: a longer batch reads more positions
    assert quotient.dim_of_shape == 3 * 7 + 7
    assert "no batch of this shape reads, a longer one may: 28" in report(quotient, 1000)
    assert any("28 of them" in note for note in describe(quotient, True, state_of(words_model())))
    x, y = words(0)
    longer = infer_symmetries(words_model(), cross_entropy, (torch.cat([x, x[:, :3]], 1), y.repeat(2)[:108]))
    assert longer.dim_of_shape == 7
    point = quotient.canonicalize(state_of(words_model()))
    assert float(point["position.weight"][6:].abs().max()) < 1e-12


def test_tied_words_shift_by_one_number() -> None:
    """The norm removes it from the stream, the softmax from the logits."""
    groups = [g for g in inferred(words_model()).groups if isinstance(g, Translation)]
    assert [g.dim for g in groups if g.parameters == ("token.weight",)] == [1]


def test_padding_row_without_gradient() -> None:
    """Words against types move every word: the loss is blind to it, the gradient without one row is not."""
    model = words_model(padding=3)
    quotient = inferred(model)
    (against_types,) = (g for g in quotient.groups if g.approximate and g.kind == "translation")
    assert against_types.parameters[0] == "token.weight"
    assert against_types.residual > 1e-3
    assert "padding" in against_types.evidence
    assert quotient.dim == inferred(words_model()).dim
    true = true_redundancy(model, cross_entropy, words(0))
    assert 0.98 * true <= quotient.dim_exact <= true


def test_padding_that_does_not_occur_changes_nothing() -> None:
    model = words_model(padding=3)
    x, y = words(0)
    quotient = infer_symmetries(model, cross_entropy, (torch.where(x == 3, 4, x), y))
    assert not any("padding" in g.evidence for g in quotient.groups)
