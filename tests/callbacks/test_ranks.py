"""Two processes: every rank decides the same at the same step."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
sys.path[:0] = {paths!r}
import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from tests.callbacks.lightning_cases import Net, data
from tests.engine.shockwatch_fakes import FakeAnalysis
from shockwatch import session
from shockwatch.callbacks import ShockEarlyStopping, ShockLRController, ShockWatch

fake = FakeAnalysis(proximity=2.0)
session.build_engine = lambda *_: fake

class Slow(L.Callback):
    def on_train_batch_end(self, *_):
        time.sleep(0.02)

def fail(self, *_, **__):
    raise RuntimeError("on this rank only")

if __name__ == "__main__":
    if {broken} and os.environ.get("LOCAL_RANK", "0") == "0":
        L.pytorch.strategies.DDPStrategy.save_checkpoint = fail
    watch = ShockWatch(every_n_steps=2, horizon=2, probe=1)
    stop, control = ShockEarlyStopping(patience=3, action="both"), ShockLRController(target=0.5)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir={root!r},
        # strict: every rank must find the metric
        callbacks=[watch, stop, control, Slow(),
                   EarlyStopping("shock/proximity", patience=50)],
    )
    trainer.fit(Net(), data(n=320))
    total = sum(float(p.detach().sum()) for p in trainer.lightning_module.parameters())
    report = (trainer.global_step, stop.stopped_step, control.factor, total, stop.checkpoints,
              [(alert.name, alert.step) for alert in watch.alerts])
    open({root!r} + f"/rank{{trainer.global_rank}}", "w").write(repr((bool(fake.steps), report)))
"""


@pytest.mark.parametrize("broken", [False, True], ids=["saves", "rank zero cannot save"])
def test_ranks_stop_save_and_slow_down_together(tmp_path: Path, broken: bool) -> None:
    here = Path(__file__).parent
    script = tmp_path / "run.py"
    paths = [str(here), str(here.parent / "engine"), str(here.parents[1])]
    script.write_text(SCRIPT.format(paths=paths, root=str(tmp_path), broken=broken))
    # other tests of this process may have left a rank behind
    environment = {
        k: v for k, v in os.environ.items() if k not in {"LOCAL_RANK", "MASTER_PORT", "WORLD_SIZE"}
    }
    subprocess.run(
        [sys.executable, str(script)], check=True, timeout=120, env=environment, capture_output=True
    )
    (worked, first), (idle, second) = (eval((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1))
    assert worked
    assert not idle, "only rank zero analyses"
    assert broken or first == second
    assert first[:4] == second[:4], "where one rank cannot save, neither waits for the other for ever"
    steps, stopped, factor, _, checkpoints, alerts = first
    assert [name for name, _ in alerts] == ["transition ahead"]
    assert steps == stopped < 40
    assert factor < 0.5
    assert [Path(checkpoint).exists() for checkpoint in checkpoints] == ([] if broken else [True])
