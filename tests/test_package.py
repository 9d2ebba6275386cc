"""What is handed out: the source archive builds the wheel, the wheel installs alone and works, and holds no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import shockwatch

ROOT = Path(__file__).parents[1]
DATA = {"shockwatch/py.typed", "shockwatch/CITATION.cff"}
MOST_BYTES = 1_000_000


def call(*command, cwd):
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PIP_REQUIRE_VIRTUALENV"}}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Source archive, and the wheel that pip builds from it."""
    home = tmp_path_factory.mktemp("package")
    source = home / "source"
    for name in ("shockwatch", "tests", "examples", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    backend = "from setuptools.build_meta import build_sdist; build_sdist('../out')"
    (home / "out").mkdir()
    call(sys.executable, "-c", backend, cwd=source)
    (archive,) = (home / "out").glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    call(*pip, "-w", str(home), str(archive), cwd=home)
    (wheel,) = home.glob("*.whl")
    return archive, wheel


def test_source_archive_holds_the_package(archives):
    archive, _ = archives
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", *modules(), *DATA} <= names
    assert not [name for name in names if name.endswith(".png")]


def test_the_wheel_holds_the_package_and_nothing_else(archives):
    _, wheel = archives
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        about = f"shockwatch-{shockwatch.__version__}.dist-info"
        metadata = opened.read(f"{about}/METADATA").decode()
    assert {name for name in names if not name.startswith(f"{about}/")} == modules() | DATA
    assert f"{about}/licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0" in metadata
    assert wheel.stat().st_size < MOST_BYTES


def test_the_wheel_works_where_it_is_installed(archives, tmp_path):
    """In a fresh environment that borrows only the dependencies of this one."""
    _, wheel = archives
    home = tmp_path / "fresh"
    venv.create(home)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = str(scripts / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    call(*pip, str(wheel), cwd=tmp_path)
    # After the installation, or pip would take the shockwatch of this environment for an older version.
    place = sysconfig.get_path("purelib", vars={"base": str(home)})
    Path(place, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    said = f"shockwatch {shockwatch.__version__}\n"
    assert call(str(scripts / "shockwatch"), "--version", cwd=tmp_path) == said
    assert call(python, "-m", "shockwatch", "--version", cwd=tmp_path) == said
    assert "inspect" in call(str(scripts / "shockwatch"), "--help", cwd=tmp_path)
    short = (
        "import shockwatch; from shockwatch.demo import run; print(shockwatch.__file__); "
        "assert run('logs', steps=3).dropped == 0"
    )
    assert call(python, "-c", short, cwd=tmp_path).splitlines()[0].startswith(str(home))
    assert list((tmp_path / "logs").rglob("events.*"))


def test_citation():
    """It can be read, has what the format requires, and tells this version."""
    text = (ROOT / "shockwatch" / "CITATION.cff").read_text(encoding="utf-8")
    citation = yaml.safe_load(text)
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == shockwatch.__version__
    assert citation["license"] == "Apache-2.0"
    assert "2606.18303" in citation["references"][0]["url"]


def modules():
    return {str(file.relative_to(ROOT)).replace(os.sep, "/") for file in (ROOT / "shockwatch").rglob("*.py")}
