"""A part is written the same way everywhere: as its constructor, ``DReG(num_samples=8)``.

In a config file, on the command line and in a saved run the text is read with ``ast`` and never
evaluated: names, keyword arguments, literals and nested parts, nothing else. Arguments that follow
from the data are omitted and filled in, by name, where the part is built. Types are the registry:
any public subclass of the wanted base can be named, and a class of the user's own as
``module:Class(...)``.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from taut.system.errors import UsageError, choose_from, clause, nearest

PARTS = (
    *("contrast", "likelihoods", "models", "networks"),
    *("objectives", "posteriors", "priors", "problems"),
)

__all__ = ["Spec", "find", "known", "parse", "resolve", "to_spec"]


@dataclass(frozen=True)
class Spec:
    """A part as it is written.

    Class name, module if it is not one of taut's, and keyword arguments (literals or specs).
    """

    name: str
    arguments: tuple[tuple[str, Any], ...] = ()
    module: str | None = None

    def __str__(self) -> str:
        inner = ", ".join(f"{k}={v if isinstance(v, Spec) else repr(v)}" for k, v in self.arguments)
        return f"{clause('{}:', self.module)}{self.name}({inner})"

    def modules(self) -> set[str]:
        """Returns the names of the outside modules it needs."""
        nested = (v.modules() for _, v in self.arguments if isinstance(v, Spec))
        return set().union({self.module} if self.module else set(), *nested)


# module:Class is not Python, module.Class is; text in quotes stays as it is.
_OUTSIDE = re.compile(r"""('[^']*'|"[^"]*")|\b([A-Za-z_][\w.]*):([A-Za-z_]\w*)""")


def parse(text: str) -> Spec:
    """Returns the specification that a text stands for; nothing is evaluated or imported.

    Raises:
        UsageError: the text is not a constructor with keyword arguments.

    Examples:
        >>> str(parse("Bernoulli(decoder=MLP(hidden=[200, 200]))"))
        'Bernoulli(decoder=MLP(hidden=[200, 200]))'
        >>> str(parse("IWAE")), str(parse("mine.parts:Spike(slab=-0.5)"))
        ('IWAE()', 'mine.parts:Spike(slab=-0.5)')
    """
    python = _OUTSIDE.sub(lambda m: m[1] or f"{m[2]}.{m[3]}", text)
    try:
        return _node(ast.parse(python.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.args[0] if isinstance(error, ValueError) else "it is not a valid expression"
        raise UsageError(
            f"cannot read {text[:200]!r}: {reason}; write it like DReG(num_samples=8)"
        ) from None


def _node(node: ast.expr) -> Spec:
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    path = ast.unparse(call.func)
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", path):
        raise ValueError(f"{path[:50]!r} is not the name of a class")
    if call.args or any(k.arg is None for k in call.keywords):
        raise ValueError("every argument needs its name")
    module, _, name = path.rpartition(".")
    arguments = []
    for keyword in call.keywords:
        if isinstance(keyword.value, ast.Call):
            value: Any = _node(keyword.value)
        else:
            try:
                value = ast.literal_eval(keyword.value)
            except (ValueError, TypeError):
                raise ValueError(
                    f"{ast.unparse(keyword.value)[:50]!r} is neither a literal nor a part"
                ) from None
        arguments.append((cast(str, keyword.arg), value))
    return Spec(name, tuple(arguments), module or None)


def resolve(
    spec: Spec | str,
    base: type,
    fill: Mapping[str, Any] | None = None,
    bases: Mapping[str, type] | None = None,
) -> Any:
    """Returns the part that a specification stands for.

    Args:
        spec: The specification.
        base: The class that the part must be a subclass of.
        fill: Arguments that follow from the data; those that the constructor has and the
            specification omits are used.
        bases: For arguments that are parts themselves, by name: the class each must be a subclass
            of. They are given to the constructor as factories.

    Raises:
        UsageError: no such class or argument (the nearest right one is named), or a value that the
            constructor refuses.
    """
    if isinstance(spec, str):
        spec = parse(spec)
    factory = find(spec, base, bases or {})
    given = {k for k, _ in spec.arguments}
    wanted = inspect.signature(factory).parameters
    fixed = sorted(given & (fill or {}).keys() - (bases or {}).keys())
    if fixed:
        raise UsageError(
            f"{spec}: {fixed[0]} follows from the data and the other settings: omit it"
        )
    arguments = {k: v for k, v in (fill or {}).items() if k in wanted and k not in given}
    missing = [
        k
        for k, p in wanted.items()
        if p.default is p.empty and k not in arguments and k not in given
    ]
    if missing:
        raise UsageError(
            f"{spec} needs {' and '.join(missing)}, which the data do not give: give it, or take "
            f"another part"
        )
    try:
        return factory(**arguments)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{spec}: {error}") from error


def find(spec: Spec, base: type, bases: Mapping[str, type]) -> functools.partial[Any]:
    """Returns the constructor with the specification's arguments bound.

    Args:
        spec: The specification.
        base: The class that the part must be a subclass of.
        bases: As in ``resolve``.

    Raises:
        UsageError: no such class or argument.
    """
    cls = _find(spec, base)
    signature = inspect.signature(cls)
    bound = {}
    for name, value in spec.arguments:
        if name not in signature.parameters:
            known = list(signature.parameters)
            raise UsageError(
                f"{spec.name} has no argument {name!r}{nearest(name, known)}; it has "
                f"{', '.join(known) or 'none'}"
            )
        if isinstance(value, Spec):
            if name not in bases:
                raise UsageError(f"{spec.name}: {name} takes a plain value, not the part {value}")
            value = find(value, bases[name], bases)
        bound[name] = value
    return functools.partial(cls, **bound)


def _find(spec: Spec, base: type) -> type:
    if spec.module is None:
        parts = known(base)
        if spec.name not in parts:
            raise UsageError(
                f"no {base.__name__.lower()} is called "
                f"{spec.name!r}{choose_from(spec.name, sorted(parts))}, or your own as "
                f"module:Class(...)"
            )
        return parts[spec.name]
    if (here := str(Path.cwd())) not in sys.path:  # a module next to the data, as for `python -m`
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(spec.module), spec.name, None)
    except (
        Exception
    ) as error:  # the module is the user's own: whatever is wrong with it is theirs to fix
        raise UsageError(
            f"cannot import {spec.module!r}, which {spec} names: {type(error).__name__}: {error}"
        ) from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UsageError(f"{spec.module}:{spec.name} is not a subclass of taut.{base.__name__}")
    return found


def known(base: type) -> dict[str, type]:
    """Returns taut's own parts of a family by their names: what a specification can name.

    They are the public subclasses of ``base`` in the modules of parts and in those imported.
    """
    for module in PARTS:  # whoever asks may have imported none of them yet
        importlib.import_module(f"taut.{module}")
    return {
        cls.__name__: cls
        for cls in _subclasses(base)
        if cls.__module__.partition(".")[0] == "taut" and _is_public(cls)
    }


def _subclasses(cls: type) -> Iterable[type]:
    children: list[type] = cls.__subclasses__()
    for sub in children:
        yield sub
        yield from _subclasses(sub)


def _is_public(cls: type) -> bool:
    exported = getattr(sys.modules[cls.__module__], "__all__", ())
    return cls.__name__ in exported and not inspect.isabstract(cls)


def to_spec(part: Any, leave_out: Iterable[str] = ()) -> Spec:
    """Returns the specification of a part: its class and those arguments that are not their
    defaults.

    The part must keep its arguments under their names, as scikit-learn's estimators do.

    Args:
        part: An instance, a class or a ``functools.partial`` of one.
        leave_out: Arguments that follow from the data.

    Examples:
        >>> import taut
        >>> str(to_spec(taut.DReG(num_samples=8))), str(to_spec(taut.ELBO()))
        ('DReG(num_samples=8)', 'ELBO()')
    """
    if isinstance(part, functools.partial):
        cls, values = cast(type, part.func), part.keywords
    elif isinstance(part, type):
        cls, values = part, {}
    else:
        cls, values = (
            type(part),
            {
                k: getattr(part, k)
                for k in inspect.signature(type(part)).parameters
                if hasattr(part, k)
            },
        )
    left_out = {*leave_out, "in_shape", "out_shape", "context_dim"}
    arguments = []
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in left_out:
            continue
        if name not in values and parameter.default is inspect.Parameter.empty:
            raise UsageError(
                f"{cls.__name__} does not keep its argument {name!r} under that name, so it cannot "
                f"be written down"
            )
        value = values.get(name, parameter.default)
        if isinstance(value, type | functools.partial) or type(value).__module__ not in (
            "builtins",
        ):
            value = to_spec(value, left_out)
        default = parameter.default
        if isinstance(default, type):
            default = to_spec(default, left_out)
        if value != default:
            arguments.append((name, value))
    ours = cls.__module__.partition(".")[0] == "taut"
    return Spec(cls.__name__, tuple(arguments), None if ours else cls.__module__)
