"""From a schema and specifications to a model.

Everything that follows from the data is filled in here, by name.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from taut.build.config import ModelConfig
from taut.build.spec import Spec, find, parse, resolve, to_spec
from taut.build.statistics import Statistics
from taut.build.usual import (
    NESTED,
    exact_of,
    gan_of,
    has_few_levels,
    hierarchy_of,
    sizes_of,
    stepwise_of,
)
from taut.contrast import GAN, ImplicitModel
from taut.data import Schema
from taut.features import ColumnFeatures, Condition, Features, Split, Standardize, Totals
from taut.likelihoods.common import takes_total
from taut.model import VAE, Likelihood, Model, Posterior, Prior
from taut.models.diffusion import Distances
from taut.models.exact import ExactModel
from taut.models.hierarchical import HierarchicalVAE
from taut.models.stepwise import StepwiseModel
from taut.networks import Network
from taut.objectives import Objective
from taut.system.errors import UsageError

__all__ = [
    "build",
    "build_objective",
    "build_vae",
    "describe_exact",
    "describe_part",
    "is_slow",
    "needs_total",
    "unshared",
]


_FILLED = (
    "event_shape",
    "latent_dim",
    "context_dim",
    "low",
    "high",
    "data_loc",
    "data_scale",
    "data_total",
    "log_frequencies",
    "log_loc",
    "log_scale",
    "features",
    "kinds",
    "num_levels",
    "knots",
    "cells",
    "grids",
    "histogram",
)

SHARED = {"codes", "levels", "width"}  # sizes of a posterior that its prior must have, too
VAMP = "VampPrior"


def build(
    config: ModelConfig,
    schema: Schema,
    statistics: Statistics | None = None,
    *,
    context_dim: int = 0,
    parts: Mapping[str, Prior | Likelihood | Posterior] | None = None,
) -> Model:
    """Returns the model that a completed configuration describes; for the arguments see
    ``build_vae``.

    Raises:
        UsageError: an unknown model, part or argument, or one that its constructor refuses.
    """
    exact, stepwise, hierarchy = exact_of(config), stepwise_of(config), hierarchy_of(config)
    if stepwise is not None:
        return _build_stepwise(stepwise, config, schema, statistics)
    if hierarchy is not None:
        return _build_hierarchy(hierarchy, config, schema, statistics, context_dim, parts)
    if (gan := gan_of(config)) is not None:
        return _build_gan(gan, config, schema, statistics)
    if exact is None:
        return build_vae(config, schema, statistics, context_dim=context_dim, parts=parts)
    fill = _fill(config, schema, statistics)
    model: ExactModel = resolve(exact, ExactModel, fill, NESTED)
    model.seen = _features(schema, statistics, *_seen_in(schema, statistics, fill))
    return model


def _build_stepwise(
    spec: Spec, config: ModelConfig, schema: Schema, statistics: Statistics | None
) -> StepwiseModel:
    """Returns a model of many steps: its likelihood is given the features of a row."""
    if needs_total(config.likelihood):
        raise UsageError(
            f"{config.likelihood} is of a row given its total, and {spec} is given none: take "
            "another likelihood, or --model VAE"
        )
    fill = _fill(config, schema, statistics)
    loc, scale = fill["data_loc"], fill["data_scale"]
    if schema.kind == "count":
        loc, scale = fill["log_loc"], _never_zero(fill["log_scale"])
    masks = spec.name == "MaskedDiffusion"
    features = _features(schema, statistics, loc, scale, masks)
    fill |= {"latent_dim": math.prod(features.out_shape), "context_dim": 0}
    own: dict[str, Any] = {}
    if spec.name == "Diffusion" and has_few_levels(schema):
        every = torch.arange(schema.low, schema.high + 1).view(-1, *[1] * len(schema.event_shape))
        shown = every.expand(-1, *schema.event_shape).to(torch.get_default_dtype())
        own["levels"] = features(shown).flatten(1)
        own["log_frequencies"] = fill["log_frequencies"]
    if config.decoder is None:
        fill |= {"decoder": partial(Distances, levels=own["levels"])}
    else:
        fill |= {"decoder": _network(config.decoder)}
    likelihood = resolve(cast(str, config.likelihood), Likelihood, fill, NESTED)
    own |= {"event_shape": schema.event_shape, "likelihood": likelihood, "features": features}
    model: StepwiseModel = resolve(spec, StepwiseModel, own, NESTED)
    return model


def _build_gan(
    spec: Spec, config: ModelConfig, schema: Schema, statistics: Statistics | None
) -> GAN:
    """Returns a generator and its critic: the one has the decoder of a likelihood, the other sees
    the data as an encoder does.
    """
    fill = _fill(config, schema, statistics) | {"context_dim": 0}
    own = {
        "likelihood": resolve(cast(str, config.likelihood), Likelihood, fill, NESTED),
        "features": _features(schema, statistics, *_seen_in(schema, statistics, fill)),
        "levels": (int(schema.low), int(schema.high)) if schema.kind == "levels" else None,
    }
    model: GAN = resolve(spec, ImplicitModel, fill | own)
    return model


def _build_hierarchy(
    spec: Spec,
    config: ModelConfig,
    schema: Schema,
    statistics: Statistics | None,
    context_dim: int,
    parts: Mapping[str, Any] | None,
) -> HierarchicalVAE:
    """Returns a VAE of several levels: its likelihood decodes the last state and the last level."""
    if parts:
        raise UsageError(f"{next(iter(parts))} is of a VAE: omit it, or take --model VAE")
    condition = _condition(schema, statistics, needs_total(config.likelihood))
    if condition is not None:
        context_dim += condition.context_dim
    fill = _fill(config, schema, statistics) | {"context_dim": context_dim}
    fill |= {"latent_dim": config.latent_dim}
    loc, scale = _seen_in(schema, statistics, fill)

    def likelihood(size: int, **own: Any) -> Likelihood:
        made: Likelihood = resolve(
            cast(str, config.likelihood), Likelihood, fill | {"latent_dim": size} | own, NESTED
        )
        return made

    own = {
        "likelihood": likelihood,
        "data_loc": loc,
        "data_scale": scale,
        "features": _features(schema, statistics, loc, scale),
        "condition": condition,
    }
    model: HierarchicalVAE = resolve(spec, VAE, fill | own, NESTED)
    return model


def build_vae(
    config: ModelConfig,
    schema: Schema,
    statistics: Statistics | None = None,
    *,
    context_dim: int = 0,
    parts: Mapping[str, Prior | Likelihood | Posterior] | None = None,
) -> VAE:
    """Returns the VAE that a completed configuration describes.

    Args:
        config: Specifications of the parts.
        schema: What a data point is.
        statistics: Of the training data; without them the buffers are blank, to be loaded.
        context_dim: C.
        parts: Parts that the user has built, by name (prior, likelihood, posterior),
            used as they are.

    Raises:
        UsageError: an unknown part or argument, or one that its constructor refuses.
    """
    given = parts or {}
    likelihood = given.get("likelihood", cast(str, config.likelihood))
    condition = _condition(schema, statistics, needs_total(likelihood))
    if condition is not None:
        context_dim += condition.context_dim
    fill = _fill(config, schema, statistics) | {"context_dim": context_dim}

    def part(name: str, base: type, **own: Any) -> Any:
        if name in given:
            return given[name]
        return resolve(getattr(config, name), base, fill | own, NESTED)

    loc, scale = _seen_in(schema, statistics, fill)
    posterior = part(
        "posterior",
        Posterior,
        data_loc=loc,
        data_scale=scale,
        features=_features(schema, statistics, loc, scale),
    )
    own = {} if "prior" in given else _shared_sizes(config)
    prior = part("prior", Prior, features=_features(schema, statistics, loc, scale), **own)
    return VAE(prior, part("likelihood", Likelihood), posterior, condition)


def _shared_sizes(config: ModelConfig) -> dict[str, int]:
    """Returns the sizes that the posterior decides and the prior does not name."""
    spec = parse(cast(str, config.prior))
    named, sizes = dict(spec.arguments), sizes_of(cast(str, config.posterior))
    wanted = SHARED & inspect.signature(find(spec, Prior, NESTED).func).parameters.keys()
    if wanted - {*named, *sizes} or ("width" in sizes and "width" not in wanted):
        raise UsageError(
            f"the prior {spec.name} and the posterior {config.posterior} are over different "
            "spaces: IndependentCategorical() goes with Categorical(codes=20, levels=10), and "
            "Codebook() with VectorQuantized(codes=8, levels=16, width=4)"
        )
    return {name: size for name, size in sizes.items() if name not in {"latent_dim", *named}}


def unshared(config: ModelConfig) -> ModelConfig:
    """Returns a completed configuration whose prior shares nothing with the posterior: a VampPrior
    has one of its own, which is the same.
    """
    prior, posterior = parse(cast(str, config.prior)), parse(cast(str, config.posterior))
    if prior.name != VAMP or "posterior" in dict(prior.arguments):
        return config
    whole = {"encoder": parse(cast(str, config.encoder)), **dict(posterior.arguments)}
    own = dataclasses.replace(posterior, arguments=tuple(whole.items()))
    made = dataclasses.replace(prior, arguments=(*prior.arguments, ("posterior", own)))
    return dataclasses.replace(config, prior=str(made))


def _seen_in(
    schema: Schema, statistics: Statistics | None, fill: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Returns the location and the scale that data are standardized with to be seen."""
    if statistics is None:
        return fill["data_loc"], fill["data_scale"]
    return _encoder_units(statistics, schema)


def _fill(config: ModelConfig, schema: Schema, statistics: Statistics | None) -> dict[str, Any]:
    """Returns the arguments of the parts that follow from the data and the other settings."""
    data = _statistics(schema, statistics)
    event_shape = schema.event_shape
    if schema.kind in ("binary", "levels"):
        data |= {"low": int(schema.low), "high": int(schema.high)}
    if schema.condition:
        data = {name: v if v is None else v[schema.rest] for name, v in data.items()}
        event_shape = (len(schema.rest),)
    data |= {"kinds": [schema.kind] * math.prod(event_shape)}
    if schema.kind == "table":
        columns = [schema.modelled[i] for i in schema.rest]
        ranges = torch.tensor([c.support for c in columns], dtype=torch.float64)
        ranges = ranges.to(torch.get_default_dtype())
        data |= {"low": ranges[:, 0], "high": ranges[:, 1], "kinds": [c.kind for c in columns]}
        data |= {"num_levels": [len(c.levels) for c in columns], "grids": [c.grid for c in columns]}
    data |= {"event_shape": event_shape}
    if config.encoder is None:
        return data
    encoder, decoder = _network(config.encoder), _network(cast(str, config.decoder))
    return data | {"latent_dim": config.latent_dim, "encoder": encoder, "decoder": decoder}


def _statistics(schema: Schema, statistics: Statistics | None) -> dict[str, Any]:
    """Returns what the parts take from the training data; blank without them."""
    if statistics is None:
        zeros, ones = torch.zeros(schema.event_shape), torch.ones(schema.event_shape)
        blank = {"data_loc": zeros, "data_scale": ones, "log_loc": zeros, "log_scale": ones}
        unknown = ("log_frequencies", "knots", "cells", "histogram")
        return blank | {"data_total": ones} | dict.fromkeys(unknown)
    return {
        "data_loc": statistics.loc,
        "data_scale": _units(statistics, schema),
        "log_loc": statistics.log_loc,
        "log_scale": _never_zero(statistics.log_scale),
        "data_total": statistics.loc * statistics.rows,
        "log_frequencies": statistics.log_frequencies,
        "knots": statistics.knots,
        "cells": statistics.cells,
        "histogram": statistics.histogram,
    }


def needs_total(likelihood: Any) -> bool:
    """Returns whether a likelihood, or the specification of one, is of a row given its total."""
    if isinstance(likelihood, str):
        likelihood = find(parse(likelihood), Likelihood, NESTED)
    return takes_total(likelihood)


def is_slow(posterior: str) -> bool:
    """Returns whether log q of a given z costs a pass for each latent dimension, for the
    specification of a posterior.
    """
    family: Any = find(parse(posterior), Posterior, NESTED).func
    return bool(family.slow_density)


def _condition(schema: Schema, statistics: Statistics | None, library: bool) -> Condition | None:
    if library and schema.kind != "count":
        raise UsageError(
            "a likelihood of rows given their totals (Multinomial, library=True) is for counts: "
            "--kind count"
        )
    totals = None
    if library:
        totals = Totals(1.0 if statistics is None else statistics.mean_total)
    if not schema.condition:
        return totals
    features = _column_features(schema, statistics, schema.given)
    return Split(schema.given, schema.num_elements, features, totals)


def _features(
    schema: Schema,
    statistics: Statistics | None,
    loc: Tensor,
    scale: Tensor,
    missing: bool | None = None,
) -> Features:
    if schema.kind == "table":
        return _column_features(schema, statistics, schema.rest, missing)
    counts = schema.kind == "count"
    gaps = schema.missing if missing is None else missing
    return Standardize(loc.shape, loc, scale, missing=gaps, counts=counts)


def _column_features(
    schema: Schema,
    statistics: Statistics | None,
    which: list[int],
    missing: bool | None = None,
) -> ColumnFeatures:
    columns = schema.context or [schema.modelled[i] for i in which]
    logarithm = [c.rules.transform for c in columns]
    loc, scale, knots = torch.zeros(len(which)), torch.ones(len(which)), None
    if statistics is not None:
        plain = torch.tensor([name in ("none", "warp") for name in logarithm])
        loc = torch.where(plain, statistics.loc[which], statistics.log_loc[which])
        scale = _never_zero(
            torch.where(plain, statistics.scale[which], statistics.log_scale[which])
        )
        if statistics.knots is not None:
            knots = statistics.knots[which]
    hot = [c.rules.hot(c) for c in columns]
    gaps = schema.missing if missing is None else missing
    return ColumnFeatures(hot, logarithm, loc, scale, missing=gaps, knots=knots)


def _never_zero(scale: Tensor) -> Tensor:
    # an element that never varies stays in the user's units
    return torch.where(scale > 0, scale, 1.0)


def _units(statistics: Statistics, schema: Schema) -> Tensor:
    """Returns the scale that the likelihood standardizes with, (*event).

    Pixels and bits share one, columns have one each.
    """
    if schema.is_image or schema.kind == "binary":
        return torch.full_like(
            statistics.scale, statistics.scale.square().mean().sqrt().item() or 1.0
        )
    if schema.kind == "count":
        return statistics.scale
    return _never_zero(statistics.scale)


def _encoder_units(statistics: Statistics, schema: Schema) -> tuple[Tensor, Tensor]:
    """Returns the location and the scale that the encoder standardizes with, (*event) each; of
    log(1 + x) for counts.

    Pixels and bits share a scale, so large that the whole input has the variance of ten elements,
    not of hundreds: Adam moves all weights of a unit of the first layer by the same small step, and
    many large inputs turn that into a large one (docs/design.md, decision 9). So do the columns of
    a count matrix.
    """
    counts = schema.kind == "count"
    loc, scale = statistics.loc, statistics.scale
    if counts:
        loc, scale = statistics.log_loc, statistics.log_scale
    if schema.context:
        loc, scale = loc[schema.rest], scale[schema.rest]
    if not counts and not schema.is_image and schema.kind != "binary":
        return loc, _never_zero(scale)
    pooled = torch.full_like(scale, scale.square().mean().sqrt().item() or 1.0)
    return loc, pooled * max(1.0, (loc.numel() / 10) ** 0.5)


def _network(spec: str) -> Any:
    return lambda in_shape, out_shape, context_dim: resolve(
        spec, Network, {"in_shape": in_shape, "out_shape": out_shape, "context_dim": context_dim}
    )


def build_objective(objective: Objective | str) -> Objective:
    """Returns the objective that a specification stands for."""
    if isinstance(objective, str):
        return cast(Objective, resolve(objective, Objective))
    return objective


def describe_part(part: Any) -> Spec:
    """Returns the specification of a part, without the arguments that follow from the data."""
    return to_spec(part, _FILLED)


def describe_exact(model: ExactModel) -> Spec:
    """Returns the specification of a model that is exact: with the sizes that are its own, and
    follow from the data for a part of a VAE.
    """
    return to_spec(model, [name for name in _FILLED if name != "latent_dim"])
