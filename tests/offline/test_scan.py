"""``shockwatch scan``: the numbers are those of the quotient, the damaged file costs its row only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shockwatch import cli
from shockwatch.symmetry import infer_symmetries

FILES = ["step=40.ckpt", "step=0.ckpt", "step=20.ckpt"]


@pytest.fixture
def truth(built):
    model, loss_fn, batch = built
    states = {s: torch.load(f"step={s}.ckpt", weights_only=True)["state_dict"] for s in (0, 20, 40)}
    return model, loss_fn, batch, states


def scalars(root):
    events = EventAccumulator(str(root)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_scan_measures_what_the_quotient_says(truth, capsys):
    model, loss_fn, batch, states = truth
    assert cli.main(["scan", *FILES, "--module", "saved_run:build", "--workers", "1", "--root", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["0", "20", "40"]
    seen = scalars("out")
    q = infer_symmetries(model, loss_fn, batch)
    for step, state in states.items():
        with torch.no_grad():
            loss = torch.func.functional_call(model, state, (batch[0].double(),))
        loss = torch.nn.functional.cross_entropy(loss, batch[1])
        assert seen["loss"][step] == pytest.approx(float(loss), rel=1e-6)
        assert seen["quotient/norm"][step] == pytest.approx(q.observables(state)["quotient/norm"], rel=1e-6)
        dense = q.hessian(model, loss_fn, batch, state)
        spectrum = np.linalg.eigvalsh(dense @ np.eye(dense.shape[0]))
        assert seen["shock/lambda_max"][step] == pytest.approx(spectrum[-1], rel=1e-2)
        assert seen["shock/lambda_min"][step] == pytest.approx(spectrum[0], rel=2e-2)
    first, middle, last = states.values()
    assert seen["scan/distance"][40] == pytest.approx(q.distance(last, middle), rel=1e-6)
    assert seen["quotient/distance_from_start"][40] == pytest.approx(q.distance(last, first), rel=1e-6)
    assert seen["quotient/path_length"][40] == pytest.approx(
        q.distance(first, middle) + q.distance(last, middle), rel=1e-6
    )


def test_processes_measure_the_same(run_folder, capsys):
    tables = []
    for workers in ("1", "2"):
        command = ["scan", *FILES, "--module", "saved_run:build", "--workers", workers, "--root", "out"]
        assert cli.main(command) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]


def test_every_checkpoint_is_read_once(run_folder, monkeypatch):
    from shockwatch.offline import reader

    read = []
    real = reader.read_checkpoint
    monkeypatch.setattr(reader, "read_checkpoint", lambda path: (read.append(path.name), real(path))[1])
    assert cli.main(["scan", *FILES, "--module", "saved_run:build", "--workers", "1", "--no-curvature"]) == 0
    assert sorted(read) == sorted(FILES)


def test_a_folder_that_cannot_be_written_fails_first(run_folder, capsys):
    Path("out").write_text("a file")
    assert cli.main(["scan", *FILES, "--module", "saved_run:build", "--workers", "1", "--root", "out"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("shockwatch scan: [Errno")
    assert said.err.count("\n") == 1


def test_a_damaged_checkpoint_costs_its_row_only(run_folder, capsys):
    Path("step=10.ckpt").write_bytes(b"damaged")
    files = ["step=10.ckpt", *FILES]
    assert cli.main(["scan", *files, "--module", "saved_run:build", "--workers", "1", "--no-curvature"]) == 1
    out = capsys.readouterr().out
    assert "not measured: step=10.ckpt" in out
    assert (
        len([line for line in out.splitlines() if line.endswith(".ckpt") and not line.startswith("not")]) == 4
    )
    assert "lambda_min" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.ckpt"], "nothing.ckpt: no such file"),
        (["step=0.ckpt", "--module", "saved_run:nothing"], "has no 'nothing'"),
        (["step=0.ckpt", "--workers", "0"], "must be an integer >= 1"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_two(run_folder, capsys, arguments, message):
    if "--module" not in arguments:
        arguments = [*arguments, "--module", "saved_run:build"]
    try:
        code = cli.main(["scan", *arguments])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
