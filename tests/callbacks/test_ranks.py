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

class Always(FakeAnalysis):
    # where parameters are shared out nobody asks for a probe
    def process(self, snapshot, probe):
        return super().process(snapshot, True)

fake = Always(proximity=2.0) if {sharded} else FakeAnalysis(proximity=2.0)
session.build_engine = lambda *_: fake
strategy = "ddp"

class Sharded(Net):
    def configure_model(self):
        from torch.distributed.fsdp import FSDPModule, fully_shard
        if not isinstance(self.net, FSDPModule):
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

if {sharded}:
    from lightning.pytorch.strategies import ModelParallelStrategy
    from shockwatch.ranks import Ranks
    Ranks.analysis = lambda *_: fake
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)

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
        max_epochs=2, accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir={root!r},
        # strict: every rank must find the metric
        callbacks=[watch, stop, control, Slow(),
                   EarlyStopping("shock/proximity", patience=50)],
    )
    trainer.fit(Sharded() if {sharded} else Net(), data(n=320))
    parameters = [p.full_tensor() if {sharded} else p for p in trainer.lightning_module.parameters()]
    total = sum(float(p.detach().sum()) for p in parameters)
    report = (trainer.global_step, stop.stopped_step, control.factor, total, stop.checkpoints,
              [(alert.name, alert.step) for alert in watch.alerts])
    open({root!r} + f"/rank{{trainer.global_rank}}", "w").write(repr((bool(fake.steps), report)))
"""


@pytest.mark.parametrize(
    ("sharded", "broken"),
    [(False, False), (False, True), (True, False)],
    ids=["saves", "rank zero cannot save", "sharded"],
)
def test_ranks_stop_save_and_slow_down_together(tmp_path: Path, sharded: bool, broken: bool) -> None:
    here = Path(__file__).parent
    script = tmp_path / "run.py"
    paths = [str(here), str(here.parent / "engine"), str(here.parents[1])]
    script.write_text(SCRIPT.format(paths=paths, root=str(tmp_path), broken=broken, sharded=sharded))
    # other tests of this process may have left a rank behind
    environment = {
        k: v for k, v in os.environ.items() if k not in {"LOCAL_RANK", "MASTER_PORT", "WORLD_SIZE"}
    }
    subprocess.run(
        [sys.executable, str(script)], check=True, timeout=240, env=environment, capture_output=True
    )
    (worked, first), (idle, second) = (eval((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1))
    assert worked
    assert idle == sharded, "only rank zero analyses what it has as a whole"
    assert broken or first == second
    assert first[:4] == second[:4], "where one rank cannot save, neither waits for the other for ever"
    steps, stopped, factor, _, checkpoints, alerts = first
    assert [name for name, _ in alerts] == ["transition ahead"]
    assert steps == stopped < 40
    assert factor < 0.5
    assert [Path(checkpoint).exists() for checkpoint in checkpoints] == ([] if broken else [True])
