"""What stands at the door of a function that takes a model and its data: a sentence for each thing
that users pass instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from taut.build.checks import unsupported
from taut.data.rows import Rows
from taut.features import Split
from taut.model import VAE, Model, evaluating
from taut.system.errors import UsageError, shown
from taut.system.seeds import untouched
from taut.use.blocks import device_of

__all__ = ["takes_model_and_data"]

SOME = 100  # values outside of the support that are looked at
P = ParamSpec("P")
T = TypeVar("T")


def takes_model_and_data(name: str, method: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Returns a decorator for a function of a model and its data that refuses other things, and
    data of another shape.

    Args:
        name: What the user calls the function.
        method: What does the same for a run and its data.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            named: dict[str, Any] = dict(zip(("model", "x"), args, strict=False)) | kwargs
            if "model" in named:  # else Python says what is missing
                check(name, method, named["model"], named.get("x"))
                if named.get("context") is None:  # under one no row says what the others are
                    _check_values(name, named["model"], named["x"])
            return function(*args, **kwargs)

        return checked

    return decorate


def check(function: str, method: str, model: Any, x: Any) -> None:
    """Refuses what is not a model, not its data, or of another shape.

    Raises:
        UsageError: one line that says what to pass.
    """
    if not isinstance(model, Model):
        raise UsageError(f"{function} {_not_a_model(model, method)}")
    if x is None:
        raise UsageError(f"{function} needs data: a tensor of rows after the model")
    if isinstance(x, np.ndarray) or not isinstance(x, Rows):
        raise UsageError(
            f"{function} takes rows as a tensor, not {_called(x)}: {_as_tensor(x, model, method)}"
        )
    wanted = _event_shape(model)
    if wanted is not None and tuple(x.shape[1:]) != wanted:
        one = ""
        if tuple(x.shape) == wanted:
            one = "; one row is x[None]"
        raise UsageError(
            f"{function}: x has shape {tuple(x.shape)}, but the model takes {_shape(wanted)}{one}"
        )


def _check_values(function: str, model: Model, x: Rows) -> None:
    """Refuses values that are no data of the model, and that its formula makes a number of all the
    same: 0.5 is not a bit, and p(0.5) under a Bernoulli is no probability.
    """
    if isinstance(x, Tensor) and x.is_complex():
        raise UsageError(f"{function}: x holds complex numbers: give real ones")
    if not isinstance(model, VAE) or not len(x):
        return
    kind = torch.get_default_dtype()
    with torch.no_grad(), untouched(), evaluating(model):
        first = torch.as_tensor(x[:1]).to(device=device_of(model), dtype=kind)
        prior = model.latent_prior(model.split(first)[1])
        z = prior.sample(torch.Size(() if prior.batch_shape else (1,)))
        found = unsupported(model, x, z, new=True)
        if found is None:
            return
        some = torch.as_tensor(x[found[1][:SOME, 0].unique()])
        draw = model.draw(some.to(device_of(model), kind), 1, reparameterize=False)
    if bool((draw.log_likelihood > -torch.inf).any()):
        raise UsageError(f"{function}: {found[0]}")


def _not_a_model(model: Any, method: str) -> str:
    inner = getattr(model, "model", None)
    if isinstance(inner, Model):
        return f"takes a model, not a run: call run.{method}, or give run.model"
    if isinstance(getattr(model, "model_", None), Model):
        return "takes a model, not an estimator: give estimator.model_"
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        return f"takes a model, not {shown(repr(str(model)))}: run = taut.load(...) reads a run"
    return f"takes a model (taut.VAE, or the .model of a run) first, not {_called(model)}"


def _as_tensor(x: Any, model: Model, method: str) -> str:
    if isinstance(x, np.ndarray | list | tuple):
        wanted = _event_shape(model)
        if wanted:
            return f"give torch.as_tensor(x), {_shape(wanted)}"
        return "give torch.as_tensor(x)"
    return f"run.{method} of a run takes it as it is"


def _shape(event: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, ('N', *event)))})"


def _called(thing: Any) -> str:
    name = "numpy array" if isinstance(thing, np.ndarray) else type(thing).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _event_shape(model: Model) -> tuple[int, ...] | None:
    """Returns the shape of a row of a model, as it makes them; None where that takes a context."""
    condition = getattr(model, "condition", None)
    if isinstance(condition, Split):
        return (len(condition.given) + len(condition.rest),)
    if condition is not None:
        return None
    try:
        with torch.no_grad(), untouched(), evaluating(model):
            made: Tensor = model.sample(1)
    except Exception:  # a model of the user's own need not be able to
        return None
    return tuple(made.shape[1:])
