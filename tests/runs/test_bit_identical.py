"""The run is the same, bit for bit, with and without the callbacks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from shockwatch import ShockEarlyStopping, ShockWatch
from shockwatch.tags import known_tag
from tests.runs.modules import build, data, fit, same, traces


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer"])
def test_parameters_optimiser_and_generators(
    name: str, optimizer: str, accumulate: int, tmp_path: Path
) -> None:
    options = {"max_epochs": 8, "accumulate_grad_batches": accumulate, "default_root_dir": tmp_path}
    module, loader = build(name, optimizer), data(name)
    plain = traces(module, fit(module, loader, **options))

    watch = ShockWatch(every_n_steps=3, probe=2)
    stopping = ShockEarlyStopping(threshold=1e9)
    module, loader = build(name, optimizer), data(name)
    trainer = fit(module, loader, watch, stopping, **options)
    watched = traces(module, trainer)

    assert same(plain, watched)
    assert trainer.global_step == 32 // accumulate
    # the analysis was the real one, and it worked
    assert watch.values["shockwatch/errors"] == 0.0
    assert {"quotient/norm", "raw/drift", "shock/lambda_min", "phase/state"} <= watch.values.keys()
    assert all(known_tag(tag) for tag in watch.values)
    assert math.isfinite(float(trainer.callback_metrics["shock/proximity"]))


def test_the_comparison_sees_one_bit() -> None:
    module, loader = build("mlp"), data("mlp")
    one = traces(module, fit(module, loader, max_epochs=1))
    module, loader = build("mlp"), data("mlp")
    other = traces(module, fit(module, loader, max_epochs=1))
    assert same(one, other)
    bias = other.model["network.0.bias"]
    bias[0] = bias[0].nextafter(bias[0] + 1)
    assert not same(one, other)
