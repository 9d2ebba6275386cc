"""Nothing that is read can run code, and nothing that is written can leave its place."""

from __future__ import annotations

import ast
import html.parser
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.plugin_util import markdown_to_safe_html

import shockwatch
from shockwatch import Alert, ShockEarlyStopping, ShockWatch
from shockwatch.tensorboard import alert_markdown, escape
from tests.faults.recipes import Recipe
from tests.faults.survival import listening

PACKAGE = Path(shockwatch.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Modules that can turn bytes into behaviour.
FORBIDDEN_IMPORTS = {"cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "yaml.load_all", "torch.jit.load", "torch.package.PackageImporter", "torch.hub.load",
}  # fmt: skip


def violations(source: str) -> list[str]:
    """What a file does that it must not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_IMPORTS:
            found.append(str(node.module))
        elif isinstance(node, ast.ImportFrom) and node.module == "pickle":
            found += [alias.name for alias in node.names if alias.name != "UnpicklingError"]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            # the error may be caught, nothing may be called
            found += [node.attr] if node.attr != "UnpicklingError" else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given_ = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if (
                name in FORBIDDEN_CALLS
                or (name == "torch.load" and "weights_only" not in given_)
                or (
                    name.endswith(("np.load", "numpy.load"))
                    and given_.get("allow_pickle", "False") != "False"
                )
                or (name.startswith("subprocess.") and given_.get("shell", "False") != "False")
                or ("load" in name and given_.get("weights_only", "True") != "True")
            ):
                found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_source_reads_code_from_data(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.loads(data)",
        "from pickle import load",
        "from dill import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "trainer.save(x); LightningModule.load_from_checkpoint(path, weights_only=False)",
    ],
)
def test_the_check_sees_what_is_forbidden(source: str) -> None:
    assert violations(source)


class Text(html.parser.HTMLParser):
    """The text of a page, and the elements around it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.elements = "", set[str]()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def words(text: str) -> str:
    return " ".join(text.split())


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]) | st.just("\n"), max_size=60))
def test_tensorboard_shows_any_text_as_it_is(text: str) -> None:
    page = Text(markdown_to_safe_html(escape(text)))
    assert page.elements <= {"p"}
    assert words(page.text) == words(text)


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[click](javascript:alert(1))",
        "![x](http://elsewhere/x.png)",
        "<img src=x onerror=alert(1)>",
        "# heading\n* list\n\n    code",
        "a `code` <b>bold</b> _it_ **b**",
        "1. one\n2. two",
        "> quote",
        "http://elsewhere <http://elsewhere>",
    ],
)
def test_an_alert_is_text_whoever_wrote_it(text: str) -> None:
    alert = Alert(text, "warning", 3, f"block/{text}/stable_rank", 1.0, 2.0, None, text)
    page = Text(markdown_to_safe_html(alert_markdown(alert)))
    assert page.elements <= {"p", "strong", "br", "code"}
    assert words(text) in words(page.text)


class Exploit:
    """Would run code when unpickled by a careless loader."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploited"),))


def test_a_hostile_checkpoint_is_refused_by_the_loader_we_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "callbacks": {"ShockWatch": Exploit()}}, tmp_path / "hostile.ckpt")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        torch.load(tmp_path / "hostile.ckpt", weights_only=True)
    assert not Path("exploited").exists()


def test_a_hostile_state_is_no_more_than_unreadable() -> None:
    watch = ShockWatch()
    with listening() as heard:
        watch.load_state_dict({"clock": Exploit(), "rules": {}, "published": {}, "analysis": None})
    assert len(heard) == 1
    assert "starts afresh" in heard[0]


def test_checkpoints_of_early_stopping_stay_in_the_run_folder(tmp_path: Path) -> None:
    stopping = ShockEarlyStopping("raw/norm", threshold=0.0, patience=1, action="checkpoint")

    class Slow(pl.Callback):
        """Lets the analysis keep up."""

        def on_train_batch_end(self, *_: Any) -> None:
            time.sleep(0.1)

    Recipe("stopping").run(
        Slow(), ShockWatch(every_n_steps=2, probe="off"), stopping, default_root_dir=tmp_path
    )
    assert len(stopping.checkpoints) == 1
    assert all(Path(path).resolve().is_relative_to(tmp_path.resolve()) for path in stopping.checkpoints)
