"""Read saved parameters, whoever saved them, without ever unpickling an object."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shockwatch.capture import COMPILED_PREFIX, named_state
from shockwatch.snapshot import State

_SAFETENSORS = ".safetensors"
# Hugging Face's names, whole or in parts, safest first.
_FOLDER_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
# Where training scripts keep the parameters inside a larger dictionary; Lightning's first.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_STEP_KEYS = ("global_step", "step", "iteration")
_SHOWN = 3


class CheckpointError(Exception):
    """Why a file cannot be used, in one line."""


@dataclass(frozen=True)
class Checkpoint:
    """Parameters and buffers by name, and the optimiser step they were saved at (None: not known)."""

    path: Path
    state: State
    step: int | None


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a Lightning checkpoint, a state dictionary, a safetensors file or a Hugging Face folder.

    Nothing is unpickled but tensors and plain types (``torch.load(weights_only=True)``).

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """
    path = Path(path)
    with _refusals(path):
        state, step = _read_folder(path) if path.is_dir() else _read_file(path)
    return Checkpoint(path, state, _step_in_name(path) if step is None else step)


def read_step(path: str | Path) -> int | None:
    """The optimiser step that a checkpoint was saved at, None if it tells none; tensors stay on the disk.

    Raises:
        CheckpointError: as :func:`read_checkpoint`, for what can be seen without reading tensors.
    """
    path = Path(path)
    with _refusals(path):
        if path.is_dir() or path.suffix == _SAFETENSORS:
            return _step_in_name(path)
        # other than zip archives, torch cannot map; those of former versions are small
        step = _unpack(path, _load(path, mmap=zipfile.is_zipfile(path)))[1]
    return _step_in_name(path) if step is None else step


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Whatever goes wrong while ``path`` is read, as a ``CheckpointError`` of one line."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    try:
        yield
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors and plain types, or is damaged ({_first_line(error)}); "
            "shockwatch never unpickles objects: save the state dictionary alone"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path}: cannot be read ({type(error).__name__}: {_first_line(error)})"
        ) from error


def fit_to(model: nn.Module, checkpoint: Checkpoint) -> State:
    """The tensors of ``checkpoint`` under the names, and in the types, of ``model``.

    A prefix all names share (``model.``, ``module.``), the wrapper of ``torch.compile`` and tied names are seen
    through; tensors the model does not have are left out. Non-persistent buffers come from ``model``.

    Raises:
        CheckpointError: if a tensor is missing, or has another shape.
    """
    wanted = named_state(model)
    aliases = _aliases(model)
    saved = {name.replace(COMPILED_PREFIX, ""): tensor for name, tensor in checkpoint.state.items()}
    prefix, cut = _prefix(list(aliases.values()), saved)
    persistent = {name.replace(COMPILED_PREFIX, "") for name in model.state_dict()}
    found: State = {}
    missing = []
    for name, live in wanted.items():
        source = next((s for a in aliases[name] if (s := _renamed(a, prefix, cut)) in saved), None)
        if source is None:
            if name in persistent:
                missing.append(name)
            found[name] = live.detach().clone()
            continue
        tensor = saved[source]
        if tensor.shape != live.shape:
            raise CheckpointError(
                f"{checkpoint.path}: {source} has shape {tuple(tensor.shape)}, the model's {tuple(live.shape)}"
            )
        found[name] = tensor.to(live.dtype)
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise CheckpointError(f"{checkpoint.path}: lacks {', '.join(missing[:_SHOWN])}{more}")
    return found


def _read_folder(folder: Path) -> tuple[State, int | None]:
    for name in _FOLDER_FILES:
        file = folder / name
        if not file.exists():
            continue
        if not name.endswith(".index.json"):
            return _read_file(file)[0], None
        parts = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        state: State = {}
        for part in parts:
            # an index must not lead out of its folder
            if Path(part).name != part:
                raise CheckpointError(f"{file}: names {part!r}, which is not a file of this folder")
            state.update(_read_file(folder / part)[0])
        return state, None
    raise CheckpointError(f"{folder}: holds none of {', '.join(_FOLDER_FILES)}")


def _read_file(path: Path) -> tuple[State, int | None]:
    if path.suffix == _SAFETENSORS:
        try:
            from safetensors.torch import load_file
        except ImportError as error:
            raise CheckpointError(f"{path}: reading it needs `pip install safetensors`") from error
        return dict(load_file(path)), None
    return _unpack(path, _load(path))


def _load(path: Path, mmap: bool = False) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _unpack(path: Path, content: Any) -> tuple[State, int | None]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, must be a dictionary of tensors")
    step = next((content[k] for k in _STEP_KEYS if isinstance(content.get(k), int)), None)
    for key in _STATE_KEYS:
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not state:
        raise CheckpointError(f"{path}: holds no tensors by name")
    return state, step


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Name in :func:`named_state` -> every name of the same tensor, that one first."""
    names: dict[int, list[str]] = {}
    every = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    for name, tensor in every:
        names.setdefault(id(tensor), []).append(name.replace(COMPILED_PREFIX, ""))
    return {same[0]: same for same in names.values()}


def _prefix(names: list[list[str]], saved: State) -> tuple[str, str]:
    """``(added, cut)``: a saved name is ``added`` + the model's name without ``cut``; the pair that fits most names."""
    candidates = {("", "")}
    for same in names:
        for name in same:
            candidates |= {(key[: -len(name)], "") for key in saved if key.endswith("." + name)}
            head = name
            while "." in head:
                head = head.rpartition(".")[0]
                if name[len(head) + 1 :] in saved:
                    candidates.add(("", head + "."))
        if len(candidates) > 1:
            break

    def fits(candidate: tuple[str, str]) -> int:
        return sum(any(_renamed(n, *candidate) in saved for n in same) for same in names)

    return max(sorted(candidates), key=fits)


def _renamed(name: str, added: str, cut: str) -> str:
    return added + name.removeprefix(cut)


def _step_in_name(path: Path) -> int | None:
    """``epoch=3-step=1200.ckpt``, ``checkpoint-1200`` and ``iter_1200.pt`` tell their step."""
    if marked := re.search(r"step[=_-]?(\d+)", path.stem):
        return int(marked.group(1))
    numbers = re.findall(r"\d+", path.name if path.is_dir() else path.stem)
    return int(numbers[-1]) if numbers else None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else "no reason given"
