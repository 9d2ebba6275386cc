"""Copies of the parameters at one optimiser step, in buffers that are allocated once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shockwatch.moments import adam_moments
from shockwatch.snapshot import Moments, State

COMPILED_PREFIX = "_orig_mod."


class CaptureError(RuntimeError):
    """The model no longer has the tensors that the buffers were made for."""


def named_state(module: nn.Module) -> State:
    """The parameters and floating-point buffers of ``module`` by name: the live tensors, not copies.

    ``torch.compile`` wraps inner modules; the names are those of the module without the wrapper.
    """
    named: State = {}
    for name, parameter in module.named_parameters():
        named[name.replace(COMPILED_PREFIX, "")] = parameter
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point():
            named[name.replace(COMPILED_PREFIX, "")] = buffer
    return named


class Slot:
    """One set of private buffers on the CPU, and the event after which they hold the copy.

    Attributes:
        state: the buffers by name. They are overwritten once the slot was handed back.
        loss: scalar buffer, float64; means something only where ``loss_known``.
        loss_known: whether the last copy came with a loss.
        moments: of Adam, in buffers that are allocated when first needed and kept as long as they fit; else None.
    """

    def __init__(self, state: State, loss: Tensor, event: torch.cuda.Event | None) -> None:
        self.state = state
        self.loss = loss
        self.loss_known = False
        self.event = event
        self.moments: dict[str, Moments] | None = None
        self.beside: list[Tensor] = []

    def wait(self) -> None:
        """Block the calling (worker) thread until the copy is complete."""
        if self.event is not None:
            self.event.synchronize()


class Capture:
    """Copies named tensors into preallocated slots without waiting for the device.

    On the CPU a copy is one ``torch._foreach_copy_``. On one CUDA device the tensors are first copied on
    the device into a staging set (the training stream may overwrite the parameters right after), then
    moved to pinned memory on a side stream; the host never waits. The staging set costs the size of the
    model once in device memory, with Adam's state three times. Tensors on several devices are copied one by one,
    blocking.

    Args:
        tensors: returns the live tensors by name; called at each copy.
        slots: sets of buffers, each the size of the model.
        keep: allocate buffers once; otherwise for each copy, and free them with the slot.

    Attributes:
        on_cpu: whether all tensors live on the CPU.

    Raises:
        CaptureError: if there is nothing to copy.
    """

    def __init__(self, tensors: Callable[[], State], slots: int = 3, *, keep: bool = True) -> None:
        if slots < 2:
            raise ValueError(
                f"slots={slots!r}: must be an integer >= 2, one being read and one being written"
            )
        self._tensors = tensors
        self._keep = keep
        sources = tensors()
        if not sources:
            raise CaptureError("the model has no parameters to watch")
        self._layout = _layout(sources)
        devices = {tensor.device for tensor in sources.values()}
        only = next(iter(devices)) if len(devices) == 1 else None
        self.on_cpu = all(device.type == "cpu" for device in devices)
        self._device = only if only is not None and only.type == "cuda" else None
        self._staged: _Staging | None = None
        if self._device is not None:
            self._staged = _Staging(list(sources.values()), self._device)
        # append and pop of a deque are atomic: the worker hands back without a lock
        self._free: deque[Slot] = deque(self._make_slot(sources if keep else {}) for _ in range(slots))

    def acquire(self) -> Slot | None:
        """A free slot, or None if all are queued or in work."""
        try:
            # the one used last: warm, and spare ones take no memory until they are needed
            return self._free.pop()
        except IndexError:
            return None

    def release(self, slot: Slot) -> None:
        """Hand a slot back; safe from any thread."""
        if not self._keep:
            slot.state.clear()
            slot.beside = []
        slot.moments = None
        self._free.append(slot)

    def fill(
        self, slot: Slot, loss: Tensor | float | None = None, optimizers: Iterable[Optimizer] = ()
    ) -> None:
        """Copy the live tensors, as they are now, into ``slot``; with them what Adam holds, if it is among
        ``optimizers``.

        Raises:
            CaptureError: if tensors were added, removed, resized or moved since the buffers were made.
        """
        sources = self._tensors()
        if (layout := _layout(sources)) != self._layout:
            raise CaptureError(_difference(self._layout, layout))
        if not self._keep:
            slot.state.update(self._buffers(sources))
        moments = adam_moments(sources, optimizers)
        beside = [tensor for held in (moments or {}).values() for tensor in held.tensors()]
        # parameters may get a state late, groups may be added: the buffers follow
        if moments is not None and _alike(beside) != _alike(slot.beside):
            slot.beside = self._buffers_like(beside)
        targets = [*slot.state.values(), *(slot.beside if beside else ())]
        values = [*sources.values(), *beside]
        with torch.no_grad():
            if self._staged is not None and slot.event is not None:
                self._staged.copy(targets, values, slot, loss)
            else:
                torch._foreach_copy_(targets, values)
                _copy_loss(slot, loss)
        buffers = iter(slot.beside)
        slot.moments = moments and {name: held.holding(buffers) for name, held in moments.items()}

    def _buffers(self, sources: State) -> State:
        return dict(zip(sources, self._buffers_like(list(sources.values())), strict=True))

    def _buffers_like(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        pin = self._device is not None
        return [torch.empty(t.shape, dtype=t.dtype, device="cpu", pin_memory=pin) for t in tensors]

    def _make_slot(self, sources: State) -> Slot:
        state, pin = self._buffers(sources), self._device is not None
        loss = torch.full((), torch.nan, dtype=torch.float64, device="cpu", pin_memory=pin)
        return Slot(state, loss, torch.cuda.Event() if pin else None)  # type: ignore[no-untyped-call]


class _Staging:
    """The copy on the device, and the stream that carries it to the host."""

    def __init__(self, sources: list[Tensor], device: torch.device) -> None:
        self._buffers = _empty_like(sources, device)
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._carried: torch.cuda.Event | None = None

    def copy(
        self, targets: list[Tensor], sources: list[Tensor], slot: Slot, loss: Tensor | float | None
    ) -> None:
        training = torch.cuda.current_stream(self._device)
        if self._carried is not None:
            # the last copy must have left the staging set; the device waits for it, the host does not
            training.wait_event(self._carried)
        if _alike(self._buffers[: len(sources)]) != _alike(sources):
            self._buffers = _empty_like(sources, self._device)
        staged = self._buffers[: len(sources)]
        torch._foreach_copy_(staged, sources)
        if isinstance(loss, Tensor):
            loss = loss.detach().to(torch.float64, copy=True)
        self._stream.wait_stream(training)
        with torch.cuda.stream(self._stream):
            torch._foreach_copy_(targets, staged, non_blocking=True)
            _copy_loss(slot, loss)
            if isinstance(loss, Tensor) and loss.is_cuda:
                loss.record_stream(self._stream)
            assert slot.event is not None
            slot.event.record(self._stream)
        self._carried = slot.event


def _empty_like(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    return [torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for tensor in tensors]


def _alike(tensors: Sequence[Tensor]) -> list[tuple[torch.Size, torch.dtype]]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


def _copy_loss(slot: Slot, loss: Tensor | float | None) -> None:
    if isinstance(loss, Tensor):
        slot.loss_known = loss.numel() == 1
        if slot.loss_known:
            slot.loss.copy_(loss.detach().reshape(()), non_blocking=True)
    else:
        slot.loss_known = loss is not None
        if loss is not None:
            slot.loss.fill_(loss)


_Layout = dict[str, tuple[torch.Size, torch.dtype, torch.device]]


def _layout(tensors: State) -> _Layout:
    return {name: (tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors.items()}


def _difference(before: _Layout, after: _Layout) -> str:
    added = [name for name in after if name not in before]
    removed = [name for name in before if name not in after]
    changed = [
        f"{name}: {_describe(before[name])} -> {_describe(after[name])}"
        for name in after
        if name in before and before[name] != after[name]
    ]
    parts = [
        f"{what} {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for what, names in (("added", added), ("removed", removed), ("changed", changed))
        if names
    ]
    return "the model's tensors changed during training: " + ("; ".join(parts) or "their order")


def _describe(entry: tuple[torch.Size, torch.dtype, torch.device]) -> str:
    shape, dtype, device = entry
    return f"{tuple(shape)} {dtype} on {device}"
