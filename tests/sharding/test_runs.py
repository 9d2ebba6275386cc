"""Two processes of gloo, each with a part of the parameters: what is seen is what one process would see.

Starting processes takes longer than what they do: each script tries several things, one after the other.
"""

from __future__ import annotations

from pathlib import Path

from tests.faults.processes import run_ranks

SAME = """
import shockwatch.engine.sharded as sharded
from tests.sharding.sharded_runs import *

held = []

class Measured(sharded.Exchange):
    def __call__(self, local):
        whole = super().__call__(local)
        held.append((sum(t.numel() for t in local.values()), sum(t.numel() for t in whole.values())))
        return whole

sharded.Exchange = Measured

for kind in ("fsdp2", "fsdp1"):
    for name in ("mlp", "cnn", "transformer"):
        plain = fit(kind, name, ROOT, None).states
        watch, updates = ShockWatch(every_n_steps=2, budget=1.0), []
        watch.subscribe(updates.append)
        held.clear()
        seen = fit(kind, name, ROOT, watch).states
        assert all(torch.equal(seen[step][n], plain[step][n]) for step in plain for n in plain[step])
        total = sum(t.numel() for t in Learner(name, False).parameters())
        assert len(held) == 7 and all(blocks < 0.6 * total for _, blocks in held), (kind, name, total, held)
        assert bool(updates) == (RANK == 0)
        if RANK == 0:
            assert [update.step for update in updates] == [1, *range(2, 13, 2)]
            assert all(update.values["shockwatch/errors"] == 0.0 for update in updates)
            wanted = expected(name, updates, seen)
            for update in updates:
                far = {t: d for t, d in differences(update.values, wanted[update.step]).items() if d > 1e-6}
                assert not far, (kind, name, update.step, far)
            assert updates[-1].values["quotient/speed"] > 0.0
            assert any("shared out over 2 ranks" in note for note in updates[0].notes)
"""


def test_the_run_is_the_same_and_the_observables_are_those_of_one_process(tmp_path: Path) -> None:
    run_ranks(SAME, tmp_path)


FAILS = """
import time, warnings
from shockwatch.callbacks import shock_watch
from shockwatch.errors import ShockwatchWarning
from shockwatch.sharding import ShardedQuotient
from tests.sharding.sharded_runs import *

plain = fit("fsdp2", "mlp", ROOT, None).states
norm, _axis = ShardedQuotient.norm, shock_watch._axis

def raises():
    raise RuntimeError("on this rank only")

def hangs():
    time.sleep(15.0)

def nothing():
    pass

def run(broken, fault, warned, catch_up=True, axis=None):
    shock_watch._axis = axis if RANK == broken and axis is not None else _axis
    calls = []

    def fails(self, state):
        calls.append(1)
        if RANK == broken and len(calls) == 5:
            fault()
        return norm(self, state)

    ShardedQuotient.norm = fails
    watch, updates = ShockWatch(every_n_steps=2, budget=1.0, shutdown_timeout=2.0), []
    watch.subscribe(updates.append)
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen = fit("fsdp2", "mlp", ROOT, watch, catch_up=catch_up).states
    assert time.perf_counter() - start < 10.0
    assert all(torch.equal(seen[step][n], plain[step][n]) for step in plain for n in plain[step])
    own = [str(w.message) for w in caught if issubclass(w.category, ShockwatchWarning)]
    assert len(own) == warned[RANK], own
    if RANK == 0:
        good = [update for update in updates if "quotient/norm" in update.values]
        assert good and len(good) < 7, "what came before is shown, and nothing after"

def breaks(trainer):
    if trainer.global_step > 5:
        raise RuntimeError("on the main thread of this rank only")
    return _axis(trainer)

run(0, raises, (1, 0))
run(1, raises, (1, 0))
# the callback itself says what became of it
run(1, nothing, (1, 1), axis=breaks)
# each says how many snapshots it gave up
run(1, hangs, (1, 1), catch_up=False)
"""


def test_where_one_rank_fails_or_hangs_all_give_up_with_one_warning_and_training_goes_on(
    tmp_path: Path,
) -> None:
    run_ranks(FAILS, tmp_path)


OTHERS = """
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from shockwatch import ShockMonitor
from tests.sharding.sharded_runs import *

class Save(pl.Callback):
    def on_train_epoch_end(self, trainer, *_):
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(ROOT + "/second.ckpt")

def resumable(path=None):
    watch, updates = ShockWatch(every_n_steps=2, budget=1.0), []
    watch.subscribe(updates.append)
    fit("fsdp2", "mlp", ROOT, watch, Save(), path=path)
    return {update.step: update.values for update in updates}

once, again = resumable(), resumable(ROOT + "/second.ckpt")
if RANK == 0:
    assert list(again) == [10, 12]
    assert all(values["shockwatch/errors"] == 0.0 for values in again.values())
    for tag in ("quotient/norm", "raw/norm"):
        assert all(abs(again[step][tag] - once[step][tag]) < 1e-9 for step in again), tag
    # the way from the checkpoint to the first snapshot after it was seen by nobody
    gap = once[10]["quotient/path_length"] - once[8]["quotient/path_length"]
    assert abs(again[12]["quotient/path_length"] + gap - once[12]["quotient/path_length"]) < 1e-9
    assert all(math.isnan(values["quotient/distance_from_start"]) for values in again.values())

def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])

def train(kind, watched):
    model = Learner("mlp", False).network
    if kind == "fsdp2":
        for part in model.children():
            fully_shard(part)
        fully_shard(model)
    else:
        model = FullyShardedDataParallel(
            model, device_id=torch.device("cpu"), use_orig_params=kind == "fsdp1"
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = ShockMonitor(model, loss_fn, optimizer, every_n_steps=2, budget=1.0) if watched else None
    for batch in data("mlp"):
        loss = loss_fn(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(batch, loss)
            monitor._session.settle(10.0)
    if monitor is not None:
        monitor.close()
    local = [p.to_local() if kind == "fsdp2" else p for p in model.parameters()]
    return [p.detach().clone() for p in local], {} if monitor is None else monitor.values

found = {}
for kind in ("fsdp2", "fsdp1", "hidden"):
    (plain, _), (seen, found[kind]) = (train(kind, watched) for watched in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
for tag in ("quotient/norm", "quotient/speed", "quotient/path_length", "quotient/viscosity", "raw/norm"):
    first, second = (found[kind][tag] for kind in ("fsdp2", "fsdp1"))
    assert first > 0.0 and abs(first - second) <= 1e-9 * first, tag

# what ZeRO-3 of DeepSpeed makes of a parameter: nothing in its place, and one of equal parts beside it, padded
from shockwatch.shards import Shards, is_sharded
from shockwatch.sharding import Channel, Exchange

model = Learner("mlp", False).network
whole = {n: p.detach().clone() for n, p in model.named_parameters()}
for p in model.parameters():
    part = -(-p.numel() // 2)
    padded = torch.cat([p.detach().reshape(-1), torch.full((part,), math.nan).double()])
    p.ds_shape, p.ds_tensor, p.ds_process_group = p.shape, padded[RANK * part : (RANK + 1) * part], None
    p.data = torch.empty(0, dtype=p.dtype)
assert is_sharded(model)
channel, shards = Channel(60.0), Shards(model)
owner = {name: k % 2 for k, name in enumerate(whole)}
own = Exchange(channel.gather(shards.layout), owner, channel)(shards.tensors())
assert set(own) == {name for name, rank in owner.items() if rank == RANK}
assert all(torch.equal(own[name], whole[name]) for name in own)

assert found["hidden"]["shockwatch/errors"] == 1.0 and "raw/norm" not in found["hidden"]
dist.barrier()
"""


def test_a_resumed_run_says_what_it_lost_and_plain_loops_are_watched_like_lightning(tmp_path: Path) -> None:
    run_ranks(OTHERS, tmp_path)
