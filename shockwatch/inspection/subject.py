"""The model, the loss and the batch behind ``my_module:build``."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import nn

_PARTS = ("model", "loss_fn", "batch")


class InspectionError(Exception):
    """What is wrong with the command or with what it was pointed at, in one line."""


@dataclass(frozen=True)
class Subject:
    """What is inspected: ``loss_fn(model, batch)`` is one training step."""

    model: nn.Module
    loss_fn: Callable[[Any, Any], Any]
    batch: Any


@contextmanager
def current_directory_importable() -> Iterator[None]:
    """Modules of the current directory can be imported inside, as with ``python -m``; torch says nothing about its own.

    What it would say, once a copied graph, is a deprecation inside ``torch.fx``.
    """
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def load(target: str) -> Subject:
    """Call ``build()`` of ``my_module:build``.

    Raises:
        InspectionError: if there is no such function, or it returns something else than a subject.
    """
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise InspectionError(f"{target!r}: must be my_module:build, a module and a function in it")
    build = _attribute(_module(module_name), module_name, attribute)
    if not callable(build):
        raise InspectionError(f"{target!r} is a {type(build).__name__}: must be a function without arguments")
    try:
        built = build()
    except (Exception, SystemExit) as error:
        raise InspectionError(f"{target}() raised {one_line(error)}") from error
    return _subject(built, target)


def one_line(error: BaseException) -> str:
    """Type and first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[:1]])


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise InspectionError(
                f"no module {error.name!r} in {os.getcwd()} or among the installed packages"
            ) from error
        raise InspectionError(f"importing {name} raised {one_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise InspectionError(f"importing {name} raised {one_line(error)}") from error


def _attribute(module: Any, name: str, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        raise InspectionError(f"module {name!r} has no {attribute!r}") from error


def _subject(built: Any, target: str) -> Subject:
    if isinstance(built, tuple) and not hasattr(built, "loss_fn"):
        if len(built) != len(_PARTS):
            raise InspectionError(f"{target}() returned {len(built)} values: must be (model, loss_fn, batch)")
        found = dict(zip(_PARTS, built, strict=True))
    elif isinstance(built, Mapping):
        found = {part: built[part] for part in _PARTS if part in built}
    else:
        found = {part: getattr(built, part) for part in _PARTS if hasattr(built, part)}
    if missing := [part for part in _PARTS if part not in found]:
        raise InspectionError(
            f"{target}() returned a {type(built).__name__} without {', '.join(missing)}: "
            "must be (model, loss_fn, batch)"
        )
    model, loss_fn = found["model"], found["loss_fn"]
    if not isinstance(model, nn.Module):
        raise InspectionError(f"{target}(): model is a {type(model).__name__}, must be a torch.nn.Module")
    if not callable(loss_fn):
        raise InspectionError(f"{target}(): loss_fn is a {type(loss_fn).__name__}, must be callable")
    if not any(p.requires_grad and p.is_floating_point() for p in model.parameters()):
        raise InspectionError(f"{target}(): model has no trainable parameters")
    return Subject(model, loss_fn, found["batch"])
