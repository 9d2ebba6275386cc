"""One run with a fault in it against the same run without us."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl

from shockwatch.errors import ShockwatchWarning
from tests.faults.recipes import Plain, Recipe
from tests.runs.modules import same


def said(caught: list[warnings.WarningMessage]) -> list[str]:
    """What shockwatch warned of."""
    return [str(w.message) for w in caught if issubclass(w.category, ShockwatchWarning)]


@contextmanager
def listening() -> Any:
    """A list that holds, after the block, what shockwatch warned of."""
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield heard
    heard += said(caught)


def survives(
    *callbacks: pl.Callback, module: Callable[[], pl.LightningModule] = Plain, **options: Any
) -> tuple[list[str], pl.Trainer]:
    """Train without and with ``callbacks``; both must end the same.

    Returns:
        What shockwatch warned of, and the second trainer.
    """
    recipe = Recipe("fault", module)
    loud = {key: options.pop(key) for key in ("logger",) if key in options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, _, first = recipe.run(**options)
    with listening() as heard:
        watched, _, trainer = recipe.run(*callbacks, **options, **loud)
    assert same(plain, watched)
    assert first.global_step == trainer.global_step
    metrics = dict(first.callback_metrics)
    assert same(metrics, {tag: trainer.callback_metrics[tag] for tag in metrics})
    return heard, trainer
