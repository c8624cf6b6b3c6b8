"""From a schema and specifications to a model: everything that follows from the data is filled in here, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributions import constraints

from taut import likelihoods, objectives, posteriors, priors
from taut.config import ModelConfig
from taut.data import Dataset, Schema, batch
from taut.errors import DataError, UsageError
from taut.model import VAE, Likelihood, Model, Posterior, Prior
from taut.networks import Network
from taut.objectives import Objective
from taut.spec import Spec, parse, resolve, to_spec

__all__ = ["Statistics", "build", "build_objective", "check_parts", "complete", "describe_part", "summarize", "unsupported"]

# Importing the modules registers their parts: they are found as subclasses of these.
_FAMILIES = (priors, likelihoods, posteriors, objectives)
_NETWORKS: dict[str, type] = {"encoder": Network, "decoder": Network}
_FILLED = (
    "event_shape", "latent_dim", "context_dim", "low", "high", "data_loc", "data_scale", "log_frequencies",
)  # fmt: skip

# A table of frequencies larger than this (entries) is not made: levels of large images are modelled without one.
MAX_FREQUENCIES = 50_000_000


class Statistics(NamedTuple):
    r"""What a model takes from the training data before the first step.

    Args:
        loc: Mean of each element, (\*event), in the user's units.
        scale: Standard deviation of each element, (\*event); 0 for an element that never varies.
        log_frequencies: Log-probabilities of the levels, (\*event, levels), each level with a pseudo-count: one half for bits
            (Krichevsky and Trofimov), else the one under which each training datum is best predicted from the others; None
            for reals.
    """

    loc: Tensor
    scale: Tensor
    log_frequencies: Tensor | None


def summarize(dataset: Dataset, rows: int = 4096) -> Statistics:
    """Returns the statistics of the training data, read in blocks of rows."""
    schema = dataset.schema
    # Grey levels to be binarised are stored as bytes, p = x / 255, or as p itself.
    grey = 255.0 if dataset.binarize == "dynamic" and dataset.train.dtype == torch.uint8 else 1.0
    total = torch.zeros(schema.event_shape, dtype=torch.float64)
    square = torch.zeros_like(total)
    blocks = dataset.train.split(rows)
    for block in blocks:
        total += block.sum(0, dtype=torch.float64) / grey
    loc = total / len(dataset.train)
    for block in blocks:
        square += (block.double() / grey - loc).square().sum(0)
    # A binarised grey level varies by p (1 - p), more than the level itself does.
    variance = loc * (1 - loc) if dataset.binarize == "dynamic" else square / len(dataset.train)
    dtype = torch.get_default_dtype()
    frequencies = _frequencies(dataset, loc)
    return Statistics(loc.to(dtype), variance.sqrt().to(dtype), None if frequencies is None else frequencies.log().to(dtype))


def _frequencies(dataset: Dataset, loc: Tensor) -> Tensor | None:
    schema, n = dataset.schema, len(dataset.train)
    if not schema.discrete or schema.num_levels * schema.num_elements > MAX_FREQUENCIES:
        return None
    if schema.kind == "binary":
        counts = torch.stack([n * (1 - loc), n * loc], -1)
    else:
        size = schema.num_levels * schema.num_elements
        first = torch.arange(schema.num_elements) * schema.num_levels - int(schema.low)
        counts = torch.zeros(size, dtype=torch.float64)
        for block in dataset.train.split(4096):
            counts += torch.bincount((block.flatten(1).long() + first).flatten(), minlength=size)
        counts = counts.view(*schema.event_shape, schema.num_levels)
    extra = 0.5 if schema.kind == "binary" else _pseudo_count(counts)
    return (counts + extra) / (n + extra * schema.num_levels)


def _pseudo_count(counts: Tensor) -> float:
    r"""Returns the pseudo-count of each level under which every datum is best predicted from the others, of six.

    Too few make a level that was not seen impossible, too many drown what was: a weak baseline would flatter the model. The
    sum of the log-probabilities of each datum given the rest is $\sum_l c_l \log (c_l - 1 + a) / (n - 1 + a L)$.
    """
    n, levels = counts.sum(-1), counts.shape[-1]

    def left_out(extra: float) -> float:
        seen = torch.where(counts > 0, counts * (counts - 1 + extra).log(), 0.0).sum(-1)
        return float((seen - n * (n - 1 + extra * levels).log()).sum())

    return max((1 / levels, 0.01, 0.03, 0.1, 0.3, 1.0), key=left_out)


def complete(config: ModelConfig, schema: Schema) -> ModelConfig:
    """Returns the configuration with everything that was left to the data decided, each part in its shortest spelling.

    Fails:
        UsageError: a specification cannot be read.
    """
    likelihood = (
        config.likelihood
        or {
            "binary": "Bernoulli()",
            "levels": "DiscretizedLogistic()",
            "real": 'Normal(scale="per_feature")' if len(schema.event_shape) == 1 else 'Normal(scale="shared")',
        }[schema.kind]
    )
    large = schema.is_image and schema.num_elements > 1024
    return dataclasses.replace(
        config,
        latent_dim=config.latent_dim or min(32, max(2, schema.num_elements // 2)),
        prior=str(parse(config.prior)),
        likelihood=str(parse(likelihood)),
        posterior=str(parse(config.posterior)),
        encoder=str(parse(config.encoder or ("ConvEncoder" if large else "MLP"))),
        decoder=str(parse(config.decoder or ("ConvDecoder" if large else "MLP"))),
    )


def build(
    config: ModelConfig,
    schema: Schema,
    statistics: Statistics | None = None,
    *,
    context_dim: int = 0,
    parts: Mapping[str, Prior | Likelihood | Posterior] | None = None,
) -> VAE:
    """Returns the model that a completed configuration describes.

    Args:
        config: Specifications of the parts.
        schema: What a datum is.
        statistics: Of the training data; without them the buffers are blank, to be loaded.
        context_dim: C.
        parts: Parts that a person has built themselves, by name (prior, likelihood, posterior), used as they are.

    Fails:
        UsageError: an unknown part or argument, or one that its constructor refuses.
    """
    likelihood_scale, encoder_scale = _scales(statistics, schema)
    fill: dict[str, Any] = {
        "event_shape": schema.event_shape,
        "latent_dim": config.latent_dim,
        "context_dim": context_dim,
        "data_loc": torch.zeros(schema.event_shape) if statistics is None else statistics.loc,
        "data_scale": likelihood_scale,
        "log_frequencies": None if statistics is None else statistics.log_frequencies,
        "encoder": _network(cast(str, config.encoder)),
        "decoder": _network(cast(str, config.decoder)),
    }
    if schema.discrete:
        fill |= {"low": int(schema.low), "high": int(schema.high)}
    given = parts or {}

    def part(name: str, base: type, **own: Any) -> Any:
        return given[name] if name in given else resolve(getattr(config, name), base, fill | own, _NETWORKS)

    posterior = part("posterior", Posterior, data_scale=encoder_scale)
    return VAE(part("prior", Prior), part("likelihood", Likelihood), posterior)


def _scales(statistics: Statistics | None, schema: Schema) -> tuple[Tensor, Tensor]:
    """Returns the scales that the likelihood and the encoder standardize with, (*event) each.

    Columns of a table have a unit each. Pixels and bits share one, their pooled standard deviation; the encoder's is larger, so
    that the whole input has the variance of ten elements, not of hundreds: Adam moves all weights of a unit of the first layer
    by the same small step, and many large inputs turn that into a large one (docs/design.md, decision 9).
    """
    if statistics is None:
        return torch.ones(schema.event_shape), torch.ones(schema.event_shape)
    scale = statistics.scale
    own = torch.where(scale > 0, scale, 1.0)  # an element that never varies stays in the user's units
    if not schema.is_image and schema.kind != "binary":
        return own, own
    pooled = torch.full_like(scale, scale.square().mean().sqrt().item() or 1.0)
    return pooled, pooled * max(1.0, (schema.num_elements / 10) ** 0.5)


def _network(spec: str) -> Any:
    return lambda in_shape, out_shape, context_dim: resolve(
        spec, Network, {"in_shape": in_shape, "out_shape": out_shape, "context_dim": context_dim}
    )


def build_objective(objective: Objective | str) -> Objective:
    """Returns the objective that a specification stands for."""
    return cast(Objective, resolve(objective, Objective)) if isinstance(objective, str) else objective


def describe_part(part: Any) -> Spec:
    """Returns the specification of a part, without the arguments that follow from the data."""
    return to_spec(part, _FILLED)


def unsupported(model: Model, x: Tensor, latent: Tensor) -> str | None:
    """Returns what is wrong with data that the likelihood gives no probability, in one line, or None.

    Args:
        model: The model.
        x: Data, (N, *event).
        latent: Any one z, (1, D), to decode.
    """
    with torch.no_grad():
        support = model.decode(latent[None]).support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is None:
        return None
    bad, first, where = 0, 0.0, (0, 0)
    for start, block in zip(range(0, len(x), 4096), x.split(4096), strict=True):
        outside = ~support.check(block.to(torch.get_default_dtype())).reshape(len(block), -1)
        if outside.any() and not bad:
            row, element = outside.nonzero()[0].tolist()
            first, where = float(block.reshape(len(block), -1)[row, element]), (start + row, element)
        bad += int(outside.sum())
    if not bad:
        return None
    share = bad / x.numel()
    return (
        f"{bad} values ({share:.1%}) lie outside the support of the likelihood, {_words(support)}; "
        f"the first is {first:g} (row {where[0]}, element {where[1]})"
    )


def _words(support: constraints.Constraint) -> str:
    if support is constraints.boolean:
        return "0 or 1"
    if support is constraints.unit_interval:
        return "0 to 1"
    if hasattr(support, "lower_bound") and hasattr(support, "upper_bound"):
        return f"whole numbers from {support.lower_bound:g} to {support.upper_bound:g}"
    return str(support)


def check_parts(model: VAE, objective: Objective, dataset: Dataset, name: str) -> None:
    """Refuses data that the likelihood gives no probability, and parts whose bound would mean nothing.

    Fails:
        DataError: values outside the support of the likelihood; the line says what to choose instead.
        UsageError: a density for discrete data, or a prior and a posterior over different spaces.
    """
    kind, x = dataset.schema.kind, batch(dataset.train, torch.arange(2), dataset.binarize == "dynamic")
    z = model.draw(x[:1], reparameterize=False).z[0]
    for rows in (dataset.train, dataset.validation, dataset.test):
        if not len(rows) or (rows is dataset.train and dataset.binarize == "dynamic"):  # stored grey, seen as bits
            continue
        problem = unsupported(model, rows, z)
        if problem is not None:
            mend = {
                "binary": "leave --likelihood away to get Bernoulli()",
                "levels": "leave --likelihood away to get DiscretizedLogistic(), or make them 0 and 1 with --binarize dynamic",
                "real": "leave --likelihood away to get Normal(); grey levels 0..255 divided by 255 suit ContinuousBernoulli(), "
                "undivided DiscretizedLogistic()",
            }[kind]
            raise DataError(f"{name}: {problem}; {mend}")
    support = model.decode(z[None]).support
    if dataset.schema.discrete and support is not None and not support.is_discrete:
        raise UsageError(
            f"{type(model.likelihood).__name__} is a density, and the data are {kind}: its bound could grow without limit; "
            "leave --likelihood away, or read the data as real numbers with --kind real"
        )
    prior, posterior = model.prior(), model.encode(x[:1])
    there, back = prior.support, posterior.support
    if not (there is None or back is None or (_all(there, z) and _all(back, prior.sample(torch.Size((1,)))))):
        raise UsageError(
            f"the prior {type(model.prior).__name__} and the posterior {type(model.posterior).__name__} are over different "
            "spaces, so their KL means nothing: take both discrete or both continuous"
        )
    objective(model, x)  # a wrong pair of parts fails here, not in the loop


def _all(support: constraints.Constraint, z: Tensor) -> bool:
    return bool(support.check(z).all())
