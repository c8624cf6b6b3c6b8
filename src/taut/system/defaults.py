"""Functions that stand in signatures where nothing was asked for, under names that help() shows."""

from __future__ import annotations

from typing import Any

__all__ = ["never", "silent"]


class _Named:
    """Creates a function that ignores what it is given and returns one value."""

    def __init__(self, name: str, value: Any) -> None:
        self._name, self._value = name, value

    def __call__(self, *arguments: Any) -> Any:
        return self._value

    def __repr__(self) -> str:
        return self._name


never = _Named("never", False)  # asked whether to stop
silent = _Named("silent", None)  # told of the progress
