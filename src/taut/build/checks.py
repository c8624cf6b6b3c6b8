"""What does not go together is refused before training.

Data, likelihood, prior, posterior and objective.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import constraints

from taut.data import Dataset, Rows, Schema, batch, blocks
from taut.data.tables.kind import Kind
from taut.distributions.sphere import UnitSphere
from taut.likelihoods.columns import ColumnSupport, reach_of
from taut.model import VAE, Draw, Model
from taut.models.emitted import EmittedValues
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.objectives import Objective
from taut.system.errors import DataError, UsageError, choose_from, shown

__all__ = ["check_exact", "check_gentle", "check_parts", "unsupported"]

WHOLE = "whole numbers from 0"
DRAWS = 100  # by which a prior and a posterior are compared
REMEDIES = {
    "binary": "omit --likelihood to get Bernoulli()",
    "levels": "omit --likelihood to get DiscretizedLogistic(), or make them 0 and 1 with "
    "--binarize dynamic",
    "real": "omit --likelihood to get Normal(); grey levels 0..255 divided by 255 suit "
    "ContinuousBernoulli(), undivided DiscretizedLogistic()",
    "count": "omit --likelihood to get NegativeBinomial()",
    "table": "take another family for that kind of column, or another kind in a --schema FILE",
}


def unsupported(
    model: Model, x: Rows, latent: Tensor, schema: Schema | None = None, *, new: bool = False
) -> tuple[str, Tensor] | None:
    """Returns what is wrong with data that the likelihood gives no probability, and (row, column)
    of each such value, or None.

    Args:
        model: The model.
        x: Data, (N, *event); entries may be missing.
        latent: Any one z, (1, D), to decode.
        schema: Of a table: names its columns.
        new: Whether the data were not trained on: they may lie wherever the density is not zero,
            however small it is.
    """
    support: constraints.Constraint | None = None
    first, places, rows, size = None, [], 0, 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for stored in blocks(x):
        with torch.no_grad():
            block, context = model.split(stored.to(device=device, dtype=torch.get_default_dtype()))
            if support is None:
                support = _support(model, latent.to(device), context, new)
            if support is None:
                return None
        outside = ~(support.check(block) | block.isnan())
        found = outside.reshape(len(block), -1).nonzero()
        if first is None and len(found):
            first = float(block.reshape(len(block), -1)[tuple(found[0])])
        places.append(found.cpu() + torch.tensor([[rows, 0]]))
        rows, size = rows + len(block), size + outside.numel()
    if first is None or support is None:
        return None
    found = torch.cat(places)
    row, element = found[0].tolist()
    place, share = f"element {element}", f"{len(found) / size:.1%}"
    words = _words(support, element)
    if schema is not None and schema.kind == "table":
        column = schema.modelled[schema.rest[element]]
        place, words = f"column {shown(column.name)}", _words_of(column.rules)
        share = f"in {len(found[:, 0].unique()):,} of {rows:,} rows"
    return (
        f"{len(found)} values ({share}) lie outside the support of the likelihood, {words}; the "
        f"first is {first:g} (row {row}, {place})"
    ), _of_table(found, schema)


def _support(
    model: Model, latent: Tensor, context: Tensor | None, new: bool
) -> constraints.Constraint | None:
    """Returns where each element of a row may lie, or None where the likelihood does not say."""
    decoded = model.decode(latent[None], _first(context))
    support: Any = reach_of(decoded) if new else decoded.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return cast("constraints.Constraint | None", support)


def _first(context: Tensor | None) -> Tensor | None:
    """Returns the context of the first row, (1, C), where there is one."""
    if context is None:
        return None
    return context[:1]


def _of_table(places: Tensor, schema: Schema | None) -> Tensor:
    """Returns places among the columns that are modelled as places among all of a row, those of
    the context included.
    """
    if schema is not None and schema.kind == "table":
        places[:, 1] = torch.tensor(schema.rest)[places[:, 1]]
    return places


def _words_of(kind: Kind) -> str:
    """Returns where the numbers of a column of a kind may lie."""
    if kind.nominal:
        return "numbers of its levels"
    if kind.word == "count":
        return WHOLE
    return "numbers of its range"


def _words(support: constraints.Constraint, element: int) -> str:
    if support is constraints.boolean:
        return "0 or 1"
    if support is constraints.unit_interval:
        return "0 to 1"
    if support is constraints.positive:
        return "numbers above 0"
    if support is constraints.nonnegative_integer:
        return WHOLE
    if isinstance(support, EmittedValues):
        return _words_of(support.emissions.kinds[element])
    if isinstance(support, ColumnSupport):
        return "a range for each column"
    if hasattr(support, "lower_bound") and hasattr(support, "upper_bound"):
        low, high = (
            float(torch.as_tensor(b).flatten()[0])
            for b in (support.lower_bound, support.upper_bound)
        )
        return f"whole numbers from {low:g} to {high:g}"
    return str(support)


def check_parts(model: Model, objective: Objective, dataset: Dataset, name: str) -> None:
    """Refuses data that the likelihood gives no probability, and parts whose bound would mean
    nothing.

    Raises:
        DataError: values outside the support of the likelihood; the line says what to choose
            instead.
        UsageError: a density for discrete data, or a prior and a posterior over different spaces.
    """
    kind, some = dataset.schema.kind, torch.arange(min(2, len(dataset.train)))
    x = batch(dataset.train, some, dataset.binarize == "dynamic")
    if model.no_density:  # nor any support
        objective(model, x.to(torch.get_default_dtype()))
        return
    if isinstance(model, VAE):
        _check_spaces(model, x)
    z = _some_z(model, x[:1])
    _check_gaps(model, dataset)
    _check_support(model, z, dataset, name, REMEDIES[kind])
    _, context = model.split(x)
    support = model.decode(z[None], _first(context)).support
    if dataset.schema.discrete and support is not None and not support.is_discrete:
        raise UsageError(
            f"{_name_of(model)} is a density, and the data are {kind}: its bound "
            f"could grow without limit; "
            "omit --likelihood, or read the data as real numbers with --kind real"
        )
    objective(model, x)  # a wrong pair of parts fails here, not in the loop


def check_gentle(model: Model, gentle: tuple[str, ...]) -> None:
    """Refuses the names of parts that a model does not have.

    Raises:
        UsageError: it lists those of its parts that learn.
    """
    parts = {
        ".".join(name.split(".")[:depth])
        for name, p in model.named_parameters()
        for depth in range(1, name.count(".") + 2)
        if p.requires_grad
    }
    for name in gentle:
        if name not in parts:
            raise UsageError(
                f"training.gentle: the model has no part {name!r} that learns"
                f"{choose_from(name, sorted(p for p in parts if p.count('.') < 2))}"
            )


def _some_z(model: Model, x: Tensor) -> Tensor:
    """Returns a z that the model knows what to decode to, (1, D)."""
    if isinstance(model, StepwiseModel):
        return torch.zeros(1, model.size, device=x.device)
    return model.draw(x, reparameterize=False).z[0]


def _seen(model: Model, x: Tensor) -> Draw:
    """Returns a draw that costs one pass, of a discrete posterior too."""
    if isinstance(model, StepwiseModel):
        return model.glance(x)
    return model.draw(x, reparameterize=False)


def _name_of(model: Any) -> str:
    return type(model.likelihood).__name__


def _check_spaces(model: VAE, x: Tensor) -> None:
    """Refuses a prior and a posterior each of which draws what the other gives no probability."""
    _, context = model.split(x)
    prior, posterior = model.prior(_first(context)), model.encode(x[:1])
    there, back = prior.support, posterior.support
    if there is None or back is None:
        return  # nobody can tell
    # bits may look like a code by chance, but not all of them
    some = torch.Size((DRAWS,))
    if _all(there, posterior.sample(some)) and _all(back, prior.sample(some)):
        return
    remedy = "take both discrete, with the same codes and levels, or both continuous"
    if isinstance(there, UnitSphere) or isinstance(back, UnitSphere):
        remedy = 'on the sphere take --prior "UniformSphere()" --posterior "PowerSpherical()"'
    raise UsageError(
        f"the prior {type(model.prior).__name__} and the posterior "
        f"{type(model.posterior).__name__} are over different spaces, so their KL means nothing: "
        f"{remedy}"
    )


def check_exact(model: ExactModel, dataset: Dataset, name: str) -> None:
    """Refuses data that a model gives no probability.

    Raises:
        DataError: values outside the support of the model.
    """
    with torch.no_grad():
        z = model.latent_prior().sample(torch.Size((1,)))
        _check_support(model, z, dataset, name, "take --model VAE")


def _check_support(model: Model, z: Tensor, dataset: Dataset, name: str, remedy: str) -> None:
    for rows in (dataset.train, dataset.validation, dataset.test):
        # stored grey, seen as bits
        if not len(rows) or (rows is dataset.train and dataset.binarize == "dynamic"):
            continue
        found = unsupported(model, rows, z, dataset.schema, new=rows is dataset.test)
        if found is not None:
            raise DataError(f"{name}: {found[0]}; {remedy}")


def _check_gaps(model: Model, dataset: Dataset) -> None:
    """Refuses a likelihood of the user's own whose density of a row with gaps is not a number."""
    if not dataset.schema.missing:
        return
    for block in blocks(dataset.train):
        gaps = block[block.flatten(1).isnan().any(1)][:1].to(torch.get_default_dtype())
        if len(gaps):
            if bool(_seen(model, gaps).log_likelihood.isnan().any()):
                name = _name_of(model)
                raise UsageError(
                    f"{name} gives no density to data with missing entries: let it return "
                    "taut.distributions.Observed(distribution, dims, fill) instead of "
                    "Independent(distribution, dims), or fill the gaps"
                )
            return


def _all(support: constraints.Constraint, z: Tensor) -> bool:
    return bool(support.check(z).all())
