"""The YAML that adds the callbacks by ``class_path`` runs under LightningCLI."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from examples.cli import DeepLinear, LinearTarget
from shockwatch import ShockEarlyStopping, ShockLRController, ShockWatch

pytest.importorskip("jsonargparse")

CONFIG = Path(__file__).parents[2] / "configs" / "deep_linear.yaml"


def test_config_runs_with_its_callbacks(tmp_path: Path) -> None:
    cli = LightningCLI(
        DeepLinear,
        LinearTarget,
        save_config_callback=None,
        args=[
            "fit",
            f"--config={CONFIG}",
            "--trainer.max_steps=6",
            "--trainer.enable_progress_bar=false",
            f"--trainer.default_root_dir={tmp_path}",
            f"--trainer.logger.init_args.save_dir={tmp_path}",
        ],
    )
    kinds = {type(callback): callback for callback in cli.trainer.callbacks}
    assert {ShockWatch, ShockEarlyStopping, ShockLRController} <= kinds.keys()
    watch = kinds[ShockWatch]
    assert watch.every_n_steps == 100
    assert watch.settings.horizon == 500
    assert watch.values["shockwatch/errors"] == 0.0
    # measured on the quotient by GL(8), near the origin: the first mode has yet to grow
    assert -4.05 < watch.values["shock/lambda_min"] < -2.0
    assert float(cli.trainer.callback_metrics["shockwatch/lr_factor"]) <= 1.0
    assert list(tmp_path.rglob("events.out.tfevents.*"))


def test_a_wrong_value_in_the_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(CONFIG.read_text().replace("monitor: shock/proximity", "monitor: shock/prox"))
    with pytest.raises((SystemExit, ValueError)) as raised:
        LightningCLI(
            DeepLinear, LinearTarget, save_config_callback=None, run=False, args=[f"--config={config}"]
        )
    assert "monitor='shock/prox'" in capsys.readouterr().err + str(raised.value)
