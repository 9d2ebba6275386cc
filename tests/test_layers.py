"""The shape of the package: who may import whom, and what stays where."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import shockwatch

PACKAGE = Path(shockwatch.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Left to right: a layer imports itself and layers to its left only. Names in one row are siblings that
# may import each other.
LAYERS = [
    {"errors", "norms", "pace", "snapshot", "tags"},
    {"openmp", "priority", "clock", "moments", "capture", "memory", "replica", "shards"},
    {"tracing"},
    {"symmetry", "geometry"},
    {"sharding"},
    {"observables", "sketches"},
    {"curvature"},
    {"shock"},
    {"figures", "phase"},
    {"alerts"},
    {"engine"},
    {"budget", "ranks", "worker", "session"},
    {"guard", "tensorboard"},
    {"monitor"},
    {"callbacks", "huggingface"},
    {"demo", "inspection"},
    {"offline"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Modules that may import something with a cost or a thread in it; everything else stays pure.
HOMES = {
    "lightning": {"callbacks", "cli", "demo"},
    "pytorch_lightning": set(),
    "transformers": {"huggingface"},
    "matplotlib": {"figures"},
    "threading": {"worker", "capture"},
    "concurrent": {"offline"},
    "multiprocessing": {"offline"},
    "tensorboard": {"tensorboard"},
    "torch.utils.tensorboard": {"tensorboard"},
}

SEEDING = {"torch.manual_seed", "torch.cuda.manual_seed_all", "np.random.seed", "random.seed"}
PUBLIC = {"Alert", "ShockEarlyStopping", "ShockLRController", "ShockMonitor", "ShockWatch"}


def layer(path: Path) -> str:
    """Name of the module or subpackage directly under ``shockwatch``; empty for its ``__init__``."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(path: Path) -> Iterator[str]:
    """Dotted names imported anywhere in a file: ``from a import b`` is ``a.b``, relative ones absolute."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = ["shockwatch", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def identifier(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_module_has_a_layer():
    assert {layer(path) for path in FILES} - {""} <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=identifier)
def test_imports_point_to_the_left(path):
    own = layer(path)
    if not own:
        return
    for name in imports(path):
        parts = name.split(".")
        # `from shockwatch import X` goes through the public names: only the rim may do so.
        if parts[0] != "shockwatch":
            continue
        target = parts[1] if parts[1:] and parts[1] in RANK else "cli"
        assert RANK[target] <= RANK[own] or parts[1] == "__version__", f"{identifier(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=identifier)
def test_lightning_threads_and_tensorboard_stay_at_home(path):
    for name in imports(path):
        for module, homes in HOMES.items():
            inside = name == module or name.startswith(f"{module}.")
            assert not inside or layer(path) in homes, f"{identifier(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=identifier)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=identifier)
def test_nobody_seeds_a_global_generator(path):
    if layer(path) in {"demo", "cli"}:  # there the run is ours
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in SEEDING, identifier(path)


def test_every_folder_with_code_is_a_package():
    for path in FILES:
        assert (path.parent / "__init__.py").exists(), identifier(path)


@pytest.mark.parametrize("path", FILES, ids=identifier)
def test_every_module_imports_and_says_what_it_is(path):
    dotted = ".".join(["shockwatch", *path.relative_to(PACKAGE).with_suffix("").parts])
    module = importlib.import_module(dotted.removesuffix(".__init__"))
    documented = (module.__doc__ or "").strip()
    assert documented
    assert "TODO" not in documented
    for public in getattr(module, "__all__", []):
        assert hasattr(module, public)


def test_public_names_are_exactly_the_promised_ones():
    assert set(shockwatch.__all__) == PUBLIC
    for name in PUBLIC:
        assert inspect.isclass(getattr(shockwatch, name))
