"""Errors of ours end here: the run is sacred."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from shockwatch.errors import warn

Hook = TypeVar("Hook", bound=Callable[..., None])


def never_raises(hook: Hook) -> Hook:
    """A callback hook that turns its own exception into one warning and then does nothing any more."""

    @functools.wraps(hook)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(self, "_broken", False):
            return
        try:
            hook(self, *args, **kwargs)
        except Exception as error:
            self._broken = True
            warn(
                f"shockwatch: {type(self).__name__}.{hook.__name__} failed and does nothing from now on "
                f"({type(error).__name__}: {error}). Training goes on."
            )
            _release(self)

    return guarded  # type: ignore[return-value]


def _release(callback: Any) -> None:
    release = getattr(callback, "_release", None)
    if release is not None:
        try:
            release()
        except Exception as error:
            warn(f"shockwatch: could not be shut down cleanly ({type(error).__name__}: {error})")
