"""The type checker of the tests.

Beartype, with an int where a float is asked for (PEP 484's numeric tower). A function is prepared
for its checks where it is first called under them: preparing takes milliseconds, there are
thousands, and a function within a function is made again at each call of the outer one. Where no
hint names a shape, beartype alone checks the same types at a tenth of the cost.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeException
from jaxtyping import config

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_checked: dict[Any, Callable[..., Any]] = {}
_inner: dict[Any, Callable[..., Any] | None] = {}
_meant = threading.local()


def check(function: Any) -> Any:
    """Returns beartype's checks of an empty function that jaxtyping made of a signature.

    Of equal signatures the checks are the same, so those of a function within a function are made
    once.
    """
    code = function.__code__
    key = (
        function.__module__,
        function.__qualname__,
        code.co_varnames,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        len(function.__defaults__ or ()),
        tuple(function.__kwdefaults__ or ()),
        tuple(function.__annotations__.items()),
    )
    try:
        known = key in _checked
    except TypeError:  # a default or a hint that has no hash
        return _check(function)
    if not known:
        _checked[key] = _check(function)
    return _checked[key]


def late(function: Any = None, *, typechecker: Any) -> Any:
    """Returns what ``jaxtyping.jaxtyped`` makes of a function, made at its first call."""
    if function is None:
        return functools.partial(late, typechecker=typechecker)
    if not isinstance(function, types.FunctionType):
        return _jaxtyped(function, typechecker=typechecker)
    made: Callable[..., Any] | None = None

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        if config.jaxtyping_disable:
            return function(*args, **kwargs)
        if made is None:
            made = _made(function, typechecker)
        return made(*args, **kwargs)

    return called


def _made(function: types.FunctionType, typechecker: Any) -> Callable[..., Any]:
    """Returns a function with its checks.

    A function within a function is another one at each call of the outer one: those of one text
    share their checks, which pass the call on to the one that is meant.
    """
    if inspect.isgeneratorfunction(function):
        return _jaxtyped(function, typechecker=typechecker)
    if "<locals>" not in function.__qualname__:
        return _with_checks(function) or _jaxtyped(function, typechecker=typechecker)
    key = (function.__module__, function.__qualname__, function.__code__)
    if key not in _inner:

        @functools.wraps(function)
        def passed(*args: Any, **kwargs: Any) -> Any:
            return _meant.function(*args, **kwargs)

        _inner[key] = _with_checks(passed)
    checks = _inner[key]
    if checks is None:
        return _jaxtyped(function, typechecker=typechecker)

    def inner(*args: Any, **kwargs: Any) -> Any:
        _meant.function = function
        return checks(*args, **kwargs)

    return inner


def _with_checks(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """Returns beartype's checks, within which a name in a shape stands for one size; None where
    beartype cannot read a hint.

    ``jaxtyped`` checks the arguments twice, and binds them for its messages.
    """
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        checked = _check(function)
    # a name of the function around it, or a hint that beartype does not know
    except (NameError, TypeError, BeartypeException):
        return None
    if not any(map(_shaped, hints.values())):
        return checked
    context = _jaxtyped("context")

    def in_one_context(*args: Any, **kwargs: Any) -> Any:
        with context:
            return checked(*args, **kwargs)

    return in_one_context


def _shaped(hint: Any) -> bool:
    """Returns whether a hint names a shape somewhere."""
    array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return array or any(map(_shaped, typing.get_args(hint)))


_jaxtyped = jaxtyping.jaxtyped
