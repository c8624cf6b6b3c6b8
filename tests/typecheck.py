"""The type checker of the tests.

Beartype, with an int where a float is asked for (PEP 484's numeric tower). A function is prepared
for its checks where it is first called under them: preparing takes milliseconds, there are
thousands, and a function within a function is made again at each call of the outer one. Where no
hint names a shape, beartype alone checks the same types at a tenth of the cost.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeException

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_checked: dict[Any, Callable[..., Any]] = {}


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
    made: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not made:
            made.append(_made(function, typechecker))
        return made[0](*args, **kwargs)

    return called


def _made(function: types.FunctionType, typechecker: Any) -> Callable[..., Any]:
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        if not any(map(_shaped, hints.values())):
            return _check(function)
    # a name of the function around it, or a hint that beartype does not know
    except (NameError, TypeError, BeartypeException):
        pass
    return _jaxtyped(function, typechecker=typechecker)


def _shaped(hint: Any) -> bool:
    """Returns whether a hint names a shape somewhere."""
    array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return array or any(map(_shaped, typing.get_args(hint)))


_jaxtyped = jaxtyping.jaxtyped
