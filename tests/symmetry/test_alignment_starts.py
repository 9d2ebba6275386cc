"""Where a stream's writers hardly tell how it is turned, alignment still ends at the nearby point."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shockwatch.symmetry import infer_symmetries

WORDS, WIDTH, LENGTH = 5, 12, 3


class FewWords(nn.Module):
    """Eight columns write into a stream of twelve dimensions before anything is read from it."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        self.layers = nn.Sequential(
            *(
                nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True, norm_first=True)
                for _ in range(2)
            )
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens):
        return self.head(self.norm(self.layers(self.embed(tokens) + self.place)))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [0.02, 0.06])
def test_a_small_move_stays_small(seed, size):
    torch.manual_seed(seed)
    model = FewWords().double()
    words = torch.randint(WORDS, (8, LENGTH), generator=torch.Generator().manual_seed(seed))
    quotient = infer_symmetries(model, loss, (words, words.flip(0)))
    assert any(group.kind == "rotation" for group in quotient.groups)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    before = quotient.canonicalize(state)
    generator = torch.Generator().manual_seed(seed)
    signs = {
        n: torch.randn(before[n].shape, generator=generator, dtype=torch.float64).sign()
        for n in quotient.names
    }
    length = sum(float(sign.square().sum()) for sign in signs.values()) ** 0.5
    step = size * quotient.norm(before) / length
    moved = {name: before[name] + step * signs[name] for name in quotient.names}
    after = quotient.canonicalize({**state, **moved}, before)
    assert quotient.euclidean(after, before) <= 1.02 * size * quotient.norm(before)
