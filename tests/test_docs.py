"""The documentation: every public name says what it is, every link leads somewhere, every block of code runs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import pydoc
import re
from pathlib import Path

import pytest

import shockwatch
from shockwatch.observables import OBSERVABLES, Observable

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *ROOT.glob("examples/*.md"), ROOT / "CHANGELOG.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
ROLE = re.compile(r":(?:class|func|meth|mod|attr):`~?\.?([\w.]+)`")
BLOCK = re.compile(r"```python\n(.*?)```", re.S)

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(shockwatch.__path__, "shockwatch.")
    if not module.name.endswith("__main__")
)


def public(module):
    """Classes and functions that ``module`` itself defines, with the public methods of the classes."""
    for name, thing in vars(module).items():
        if name.startswith("_") or (module.__name__, name) == ("shockwatch.demo", "DeepLinear"):
            continue  # a LightningModule: its hooks say what Lightning says
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield name, thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    yield f"{name}.{member}", getattr(thing, member)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_says_what_it_is(name):
    module = importlib.import_module(name)
    # An override may leave the words to what it overrides.
    silent = [path for path, thing in public(module) if not (inspect.getdoc(thing) or "").strip()]
    assert not silent


@pytest.mark.parametrize("name", MODULES)
def test_references_in_docstrings_resolve(name):
    module = importlib.import_module(name)
    for path, thing in [("", module), *public(module)]:
        owner = getattr(module, path.split(".")[0], module) if path else module
        for target in ROLE.findall(inspect.getdoc(thing) or ""):
            assert resolves(target, owner, module), f"{name} {path}: {target}"


def resolves(target, owner, module):
    for start in (owner, module):
        place = start
        for part in target.split("."):
            fields = getattr(place, "__annotations__", {})
            place = getattr(place, part, fields.get(part))
            if place is None:
                break
        else:
            return True
    try:
        pydoc.resolve(target)
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, link


def test_pdoc_builds_the_reference(tmp_path):
    import pdoc

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    modules = re.search(r"pdoc (shockwatch[\w. ]*)`", text).group(1).split()
    pdoc.pdoc(*modules, output_directory=tmp_path)
    pages = "".join(file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.html"))
    assert "Tells, gauge-free and ahead of time, when training is about to change phase" in pages
    for name in (*shockwatch.__all__, "Quotient", "infer_symmetries", "Rule", "Observable"):
        assert f'id="{name}"' in pages, name


def test_add_an_observable_in_ten_lines():
    """The block in README's section for contributors is what it says, and works."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Develop")[2]
    code = next(block for block in BLOCK.findall(text) if "OBSERVABLES" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    before = list(OBSERVABLES)
    try:
        exec(compile(code, "README.md", "exec"), {})
        (added,) = [make for make in OBSERVABLES if make not in before]
        assert issubclass(added, Observable)
        import torch

        from shockwatch.observables import Point
        from shockwatch.symmetry import Quotient

        state = {"w": torch.tensor([[3.0, -4.0], [0.0, 0.0]])}
        values = added().compute(Point(0, 0.0, state, state, Quotient((), ["w"])), None)
        assert values == {"custom/sparsity": 0.5}
    finally:
        OBSERVABLES[:] = before
