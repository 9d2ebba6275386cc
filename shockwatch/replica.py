"""Private copies of the user's model and batch, made without touching the run."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from shockwatch.shards import Shard, plain_name

_INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_ALIVE = -1  # no address
_SHARDING = ("torch.distributed.", "deepspeed.")


def private_copy(module: nn.Module, replacements: Mapping[int, object] | None = None) -> nn.Module:
    """A structural copy of ``module``: own submodules and buffers, the parameters' storage shared.

    The copy's parameters are new objects over the live storage: nothing done to them (gradients, hooks,
    swapping) reaches the live module, and no memory is spent. Inner ``torch.compile`` wrappers are taken off.
    Data sets and loaders kept as attributes are shared, random generators are copied. An attribute that
    cannot be copied is shared. Forward hooks stay (they may change what the module computes).

    Args:
        module: the live module; not changed.
        replacements: ``id`` of an object the module refers to -> what the copy refers to instead.
    """
    module = _unwrapped(module)
    try:
        replica: nn.Module = copy.deepcopy(module, _memo(module, replacements))
    except Exception:
        # one attribute that refuses (a lock, a file, a closure's cell) must not cost the whole copy
        replica = _copy_by_attribute(module, _memo(module, replacements))
    _unwrap_children(replica)
    for part in replica.modules():
        # they cannot change the loss, and belong to whoever watches the live module's gradients
        part._backward_hooks.clear()
        part._backward_pre_hooks.clear()
    return replica


def private_batch(batch: Any) -> Any:
    """A copy of ``batch`` that shares no tensor with it."""
    try:
        return copy.deepcopy(batch)
    except Exception:
        return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), batch)


def unsharded_copy(
    module: nn.Module, layout: Mapping[str, Shard], replacements: Mapping[int, object] | None = None
) -> nn.Module:
    """:func:`private_copy` of what ``module`` was before its parameters were shared out, to be traced.

    Wrappers, classes and hooks of FSDP and DeepSpeed are taken off. The parameters have their full shapes and no
    numbers (they are fake tensors, which take no memory); buffers are copies. All of it is on the CPU, where there is
    room to measure.

    Args:
        layout: of the parameters, by the names they have without wrappers.
        replacements: see :func:`private_copy`.
    """
    module = _unwrapped(module)
    memo: dict[int, Any] = dict(replacements or {})
    mode = FakeTensorMode()
    for name, parameter in module.named_parameters():
        shard = layout[plain_name(name)]
        with mode:
            whole = torch.empty(shard.shape, dtype=shard.dtype, device="cpu")
        memo[id(parameter)] = nn.Parameter(whole, requires_grad=parameter.requires_grad)
    replica = _copy_by_attribute(module, _memo(module, memo))
    for part in replica.modules():
        part.__class__ = _plain_class(type(part))
        part._backward_hooks.clear()
        part._backward_pre_hooks.clear()
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.cpu()
        if "_device" in vars(part):  # a LightningModule's idea of where it is
            vars(part)["_device"] = torch.device("cpu")
    return replica


def _plain_class(kind: type) -> type:
    """The class under the one that ``fully_shard`` puts on a module."""
    place = getattr(kind, "_orig_cls_mro_index", 2 if kind.__name__.startswith("FSDP") else None)
    sharded = any(base.__module__.startswith(_SHARDING) for base in kind.__bases__)
    return kind.__mro__[place] if place is not None and sharded else kind


def _of_sharding(hook: Any) -> bool:
    """Whether a hook is there to gather or to free parameters."""
    while hasattr(hook, "func"):
        hook = hook.func
    owner = type(getattr(hook, "__self__", None)).__module__
    return owner.startswith(_SHARDING) or str(getattr(hook, "__module__", "")).startswith(_SHARDING)


@contextmanager
def preserved_randomness() -> Iterator[None]:
    """Undo every draw from a global generator (torch, CUDA, numpy, python) made inside."""
    python, numpy = random.getstate(), np.random.get_state()
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if started else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _memo(module: nn.Module, replacements: Mapping[int, object] | None) -> dict[int, Any]:
    memo: dict[int, Any] = dict(replacements or {})
    for parameter in module.parameters():
        if id(parameter) in memo:
            continue
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
            elif isinstance(value, Generator):
                memo[id(value)] = _copy_generator(value)
            elif isinstance(value, (Dataset, DataLoader)):
                memo[id(value)] = value
    return memo


def _copy_generator(generator: Generator) -> Generator:
    twin = Generator(device=generator.device)
    twin.set_state(generator.get_state())
    return twin


def _copy_by_attribute(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    twin = object.__new__(type(module))
    memo[id(module)] = twin
    children = {name: _maybe_module(child, memo) for name, child in module._modules.items()}
    for name, value in vars(module).items():
        if name == "_compiled_call_impl" or name.startswith("__composable_api"):
            # bound to the live module
            continue
        if name == "_parameters":
            # DeepSpeed has a dictionary of its own
            value = dict(value)
        if name.endswith("_hooks") and isinstance(value, dict):
            value = type(value)((key, hook) for key, hook in value.items() if not _of_sharding(hook))
        twin.__dict__[name] = children if name == "_modules" else _copy_or_share(value, memo)
    return twin


def _maybe_module(child: nn.Module | None, memo: dict[int, Any]) -> nn.Module | None:
    return None if child is None else _copy_by_attribute(_unwrapped(child), memo)


def _copy_or_share(value: Any, memo: dict[int, Any]) -> Any:
    attempt = dict(memo)
    try:
        twin = copy.deepcopy(value, attempt)
    except Exception:
        return value
    # what deepcopy keeps alive stands under the address of the memo itself, which somebody else may have next
    memo.setdefault(_ALIVE, []).append(attempt.pop(id(attempt), None))
    memo.update(attempt)
    return twin


def _unwrapped(module: nn.Module) -> nn.Module:
    for name in _INNER:
        if isinstance(inner := getattr(module, name, None), nn.Module):
            return _unwrapped(inner)
    return module


def _unwrap_children(module: nn.Module) -> None:
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if (inner := _unwrapped(child)) is not child:
                part._modules[name] = inner
