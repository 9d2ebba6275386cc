"""The command line: what ``shockwatch inspect`` prints, and how it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shockwatch import cli

MODULE = """
import types
import torch, torch.nn.functional as F
from torch import nn

def loss_fn(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])

def mlp(*middle):
    g = torch.Generator().manual_seed(0)
    batch = torch.randn(24, 6, generator=g), torch.randint(0, 4, (24,), generator=g)
    return nn.Sequential(nn.Linear(6, 5), *(middle or [nn.ReLU()]), nn.Linear(5, 4)), loss_fn, batch

def build():
    return mlp()

def as_dict():
    return dict(zip(("model", "loss_fn", "batch"), mlp()))

def as_object():
    return types.SimpleNamespace(**as_dict())

class Nested:
    build = staticmethod(build)

def normed():
    return mlp(nn.BatchNorm1d(5), nn.ReLU())

class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

def opaque():
    return mlp(Bessel())

def dead():
    model, loss, batch = mlp()
    model[2].weight.data[:, :2] = 0
    return model, loss, batch

def noisy():
    model, _, batch = mlp()
    return model, lambda m, b: loss_fn(m, (b[0] + 0.1 * torch.randn(24, 6), b[1])), batch

def large():
    return nn.Linear(200, 60), loss_fn, (torch.randn(3, 200), torch.randint(0, 60, (3,)))

number = 3

def raising():
    raise OSError("no such file\\nsecond line")

def leaving():
    raise SystemExit(0)

def with_arguments(width):
    return mlp()

def two():
    return mlp()[:2]

def nothing():
    return None

def part():
    return {"model": nn.Linear(1, 1)}

def no_module():
    return 1, loss_fn, None

def no_loss():
    return nn.Linear(1, 1), 0.5, None

def frozen():
    model, loss, batch = mlp()
    return model.requires_grad_(False), loss, batch

def untraceable():
    def loss(model, batch):
        raise RuntimeError("no such kernel on this machine")
    model, _, batch = mlp()
    return model, loss, batch

def wrong_batch():
    model, loss, batch = mlp()
    return model, loss, (batch[0][:, :5], batch[1])

def out_of_range():
    model, loss, batch = mlp()
    return model, loss, (batch[0], batch[1] + 40)
"""

Inspect = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Runs the command in a folder with a module of builders: exit code, stdout, stderr."""
    (tmp_path / "inspected.py").write_text(MODULE)
    (tmp_path / "broken.py").write_text("import no_such_dependency\n")
    (tmp_path / "misspelt.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    for name in ("inspected", "broken", "misspelt"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    path = list(sys.path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["inspect", *arguments])
        assert sys.path == path
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("name", ["build", "as_dict", "as_object", "Nested.build"])
def test_table(inspect: Inspect, name: str) -> None:
    code, out, err = inspect(f"inspected:{name}")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split() == ["kind", "dim", "residual", "group", "parameters", "why"]
    scaling = next(row for row in rows if row.startswith("positive scaling"))
    assert scaling.split()[2] == "5"
    assert "0.weight, 0.bias, 2.weight" in scaling
    assert scaling.endswith("5 units through relu")
    # 5 scalings; 1 + 5 shifts of the logits; 59 parameters
    assert "redundant directions: 11 exact, 11 with those" in out
    assert "59 trainable parameters: 18.64% exact, 18.64% in all" in out
    assert "true number" not in out
    assert "refused" not in out
    assert "without a rule" not in out


def test_oracle(inspect: Inspect) -> None:
    code, out, err = inspect("inspected:build", "--oracle")
    assert (code, err) == (0, "")
    assert out.splitlines()[-3:] == [
        "true number (rank of loss gradients): 11",
        "coverage (exact / true): 1.0000",
        "directions no group explains: 0",
    ]


def test_approximate_directions_are_told_from_exact_ones(inspect: Inspect) -> None:
    code, out, _ = inspect("inspected:normed", "--oracle")
    numbers = [word for word in out.split("redundant directions: ")[1].split() if word.isdigit()]
    exact, every = int(numbers[0]), int(numbers[1])
    assert code == 0
    assert every == exact + 5
    assert f"true number (rank of loss gradients): {exact}" in out


def test_operators_without_a_rule(inspect: Inspect) -> None:
    code, out, _ = inspect("inspected:opaque", "--oracle")
    assert code == 0
    assert "operators without a rule" in out
    assert "special_bessel_j0     1 x" in out


def test_dead_units_are_counted(inspect: Inspect) -> None:
    code, out, _ = inspect("inspected:dead")
    assert code == 0
    assert "dead units or blocks of low rank" in out
    assert "0-2     2" in out
    assert "dead units" not in inspect("inspected:build")[1]


def test_random_steps_are_named(inspect: Inspect) -> None:
    code, out, _ = inspect("inspected:noisy")
    assert code == 0
    assert "draws random numbers" in out


def test_size_limits_only_the_oracle(inspect: Inspect) -> None:
    assert inspect("inspected:large")[0] == 0
    code, out, err = inspect("inspected:large", "--oracle")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "12,060 trainable parameters: the oracle takes at most 10,000" in err


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("inspected", "'inspected': must be my_module:build"),
        (":build", "':build': must be my_module:build"),
        ("inspected:", "must be my_module:build"),
        ("no_such_module_here:build", "no module 'no_such_module_here' in"),
        ("inspected.sub:build", "no module 'inspected.sub' in"),
        ("broken:build", "importing broken raised ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("misspelt:build", "importing misspelt raised SyntaxError"),
        ("inspected:missing", "module 'inspected' has no 'missing'"),
        ("inspected:number", "'inspected:number' is a int: must be a function"),
        ("inspected:raising", "inspected:raising() raised OSError: no such file"),
        ("inspected:leaving", "inspected:leaving() raised SystemExit"),
        ("inspected:with_arguments", "raised TypeError: with_arguments() missing 1 required"),
        ("inspected:two", "returned 2 values: must be (model, loss_fn, batch)"),
        ("inspected:nothing", "returned a NoneType without model, loss_fn, batch"),
        ("inspected:part", "returned a dict without loss_fn, batch"),
        ("inspected:no_module", "model is a int, must be a torch.nn.Module"),
        ("inspected:no_loss", "loss_fn is a float, must be callable"),
        ("inspected:frozen", "model has no trainable parameters"),
        ("inspected:untraceable", "the training step cannot be traced"),
        ("inspected:wrong_batch", "the training step cannot be traced"),
        ("inspected:out_of_range", "IndexError"),
    ],
)
def test_refusals_take_one_line(inspect: Inspect, target: str, message: str) -> None:
    code, out, err = inspect(target)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("shockwatch inspect: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["inspect", "a:b", "--oracel"], ["nonsense"]])
def test_wrong_use(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2


def test_module_can_be_run(tmp_path: Path) -> None:
    """In a process of its own: the exit code arrives, and nothing else is written to stderr."""
    (tmp_path / "inspected.py").write_text(MODULE)
    command = [sys.executable, "-m", "shockwatch", "inspect"]
    good, bad = (
        subprocess.run(
            [*command, f"inspected:{name}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        for name in ("build", "raising")
    )
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("kind")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "shockwatch inspect: inspected:raising() raised OSError: no such file\n"


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    """``| head``: nobody reads on, nothing is said, and the code is the one of a program that SIGPIPE ended."""
    (tmp_path / "inspected.py").write_text(MODULE)
    process = subprocess.Popen(
        [sys.executable, "-m", "shockwatch", "inspect", "inspected:build"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(120)) == (b"", 141)
    process.stderr.close()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "/out"), 2, "[Errno 13] Permission denied: '/out'"),
        (ZeroDivisionError("ours to mend"), 2, "Traceback"),
    ],
)
def test_trouble_is_never_an_answer(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    said: str,
) -> None:
    """1 is kept for "no": two networks, a checkpoint that could not be measured."""
    from shockwatch import demo

    def fails(root: str) -> None:
        raise error

    monkeypatch.setattr(demo, "main", fails)
    assert cli.main(["demo"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert bool(said) == bool(err)


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "exit codes: 0 done" in out
    assert "\x1b" not in out


def test_gpt_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small: one block."""
    small = "from examples.inspect_gpt import build as gpt\n\ndef build():\n    return gpt(17, 6, 8, 2, 1)\n"
    (tmp_path / "small_gpt.py").write_text(small)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["inspect", "small_gpt:build", "--oracle"]) == 0
    out = capsys.readouterr().out
    assert "coverage (exact / true): 1.0000" in out
    assert "directions no group explains: 0" in out
