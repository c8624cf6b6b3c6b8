"""Commands of findings that fit the run: its own model again, with one part changed.

What is known of the run are the specifications of its parts, as ``audit.json`` has them under
"model"; of a model that is not a run nothing is, and the parts are an empty mapping.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from inspect import signature
from typing import Any, Literal

from taut.build.spec import Spec, parse
from taut.networks import MLP, GatedMLP

__all__ = [
    "Parts", "again", "family_of", "is_exact", "kind_of", "more_samples", "named_model",
    "rescaled", "smaller", "tightened", "widths", "with_arguments",
]  # fmt: skip

Parts = Mapping[str, Any]
VAE_PARTS = ("latent_dim", "prior", "likelihood", "posterior", "encoder", "decoder", "objective")
STEPWISE_PARTS = ("model", "likelihood", "decoder")
STEPWISE = ("Diffusion", "MaskedDiffusion")
USUAL = "StandardNormal()"  # of all posteriors over the real vectors
DISCRETE = ("Categorical", "IndependentBernoulli", "VectorQuantized")
FLOWS = ("CouplingFlow", "InverseAutoregressive")
PERCEPTRONS: dict[str, type] = {"MLP": MLP, "GatedMLP": GatedMLP}


def named_model(parts: Parts) -> str:
    """Returns the name of the model's class; VAE where nothing is known."""
    return parse(str(parts.get("model") or "VAE()")).name


def is_exact(parts: Parts) -> bool:
    """Returns whether log p(x) of the model is exact."""
    return named_model(parts) not in ("VAE", *STEPWISE)


def family_of(parts: Parts) -> str:
    """Returns the name of the posterior's class; that of a Gaussian where nothing is known."""
    return parse(str(parts.get("posterior") or "DiagonalNormal()")).name


def kind_of(parts: Parts) -> Literal["discrete", "flow", "sphere", "Gaussian"]:
    """Returns the kind of family that the posterior is."""
    family = family_of(parts)
    if family in DISCRETE:
        return "discrete"
    if family in FLOWS:
        return "flow"
    return "sphere" if family == "PowerSpherical" else "Gaussian"


def again(parts: Parts, **changes: Any) -> str:
    """Returns the command that fits the model of the run with some of its parts changed."""
    names: tuple[str, ...] = VAE_PARTS
    if named_model(parts) in STEPWISE:
        names = STEPWISE_PARTS
    elif is_exact(parts):
        names = ("model",)
    values = {name: parts.get(name) for name in names} | changes
    words = [
        f"--{name.replace('_', '-')} {_quoted(str(value))}"
        for name, value in values.items()
        if value is not None and value != USUAL
    ]
    return " ".join(["taut fit DATA", *words])


def widths(network: Spec) -> tuple[int, ...] | None:
    """Returns the widths of the hidden layers of a perceptron, which may drop units; None of
    another network.
    """
    if network.name not in PERCEPTRONS:
        return None
    usual = signature(PERCEPTRONS[network.name]).parameters["hidden"].default
    return tuple(dict(network.arguments).get("hidden", usual))


def with_arguments(part: Spec, **arguments: object) -> str:
    """Returns a part with some of its arguments changed or added."""
    return str(Spec(part.name, tuple((dict(part.arguments) | arguments).items()), part.module))


def _quoted(value: str) -> str:
    """Returns a value as it is typed, in double quotes where they serve."""
    quoted = shlex.quote(value)
    if quoted == value or any(letter in value for letter in '"$`\\!'):
        return quoted
    return f'"{value}"'


def more_samples(parts: Parts) -> str:
    """Returns an objective of more samples of a datum than that of the run."""
    own = parse(str(parts.get("objective") or "ELBO()"))
    samples = dict(own.arguments).get("num_samples", 1)
    name = "IWAE" if family_of(parts) == "InverseAutoregressive" else "DReG"
    return f"{name}(num_samples={max(8, 4 * samples)})"


def tightened(parts: Parts) -> str:
    """Returns the command that trains the posterior on; a discrete one needs an objective."""
    if kind_of(parts) != "discrete":
        return "taut tighten RUN"
    own = parse(str(parts["posterior"]))
    choice = own.name == "VectorQuantized" and dict(own.arguments).get("scale") is None
    objective = "StraightThrough()" if choice else "VIMCO(num_samples=8)"
    return f'taut tighten RUN --objective "{objective}"'


def rescaled(parts: Parts) -> str:
    """Returns the command that gives each feature a scale of its own: under the same decoder, where
    that does not decode scales.
    """
    own = parse(str(parts.get("likelihood") or "Normal()"))
    one = dict(own.arguments).get("scale", "per_feature") not in ("per_datum", "per_entry")
    if named_model(parts) == "VAE" and own.name == "Normal" and one:
        return f"taut refit RUN --likelihood {_quoted(_changed(str(own), scale='per_feature'))}"
    return again(parts, likelihood="Normal(scale='per_feature')")


def smaller(parts: Parts, dim: int) -> str:
    """Returns the command that fits the model with about so many latent dimensions: those of codes
    follow from their number.
    """
    if is_exact(parts):
        return again(parts, model=_changed(parts["model"], latent_dim=dim))
    own = parse(str(parts.get("posterior") or "DiagonalNormal()"))
    size = {"Categorical": ("levels", 10), "VectorQuantized": ("width", 4)}.get(own.name)
    if size is None:
        return again(parts, latent_dim=dim)
    name, usual = size
    codes = math.ceil(dim / dict(own.arguments).get(name, usual))
    return again(parts, latent_dim=None, posterior=_changed(str(own), codes=codes))


def _changed(spec: str, **arguments: Any) -> str:
    """Returns a specification with other arguments."""
    own = parse(spec)
    return str(Spec(own.name, tuple((dict(own.arguments) | arguments).items()), own.module))
