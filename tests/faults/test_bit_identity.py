"""Parameters, optimiser, generators and the logged loss: with every callback of ours as without, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.processes import run_ranks
from tests.faults.recipes import RECIPES, Recipe, ours
from tests.runs.modules import same

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_run_is_the_same_with_and_without(recipe: Recipe, tmp_path: Path) -> None:
    plain, plain_log, _ = recipe.run(default_root_dir=tmp_path)
    watch, *others = ours()
    watched, log, _ = recipe.run(watch, *others, default_root_dir=tmp_path)
    assert same(plain, watched)
    assert plain_log.losses == log.losses
    assert len(log.losses) > 0
    # the analysis was there, and it worked
    assert watch.values["shockwatch/errors"] == 0.0
    assert watch.values["quotient/path_length"] > 0.0


RANKS = """
from tests.faults.recipes import Recipe, Adam, ours
from tests.runs.modules import same
from torch.utils.data import DataLoader
from torch import nn

recipe = Recipe("ddp", lambda: Adam(nn.BatchNorm1d(8)))
options = dict(devices=2, strategy="ddp", default_root_dir=ROOT)
plain, plain_log, _ = recipe.run(**options)
watch, *others = ours()
watched, log, _ = recipe.run(watch, *others, **options)
assert same(plain, watched)
assert plain_log.losses == log.losses and (RANK or log.losses)
assert ("raw/norm" in watch.values) == (RANK == 0)
assert watch.values.get("shockwatch/errors", 0.0) == 0.0
"""


def test_two_processes_of_gloo(tmp_path: Path) -> None:
    run_ranks(RANKS, tmp_path)
