"""What a configuration leaves to the data: which model, parts and settings are taken then.

And which model it names: a VAE, one whose log p(x) is exact, one of many steps, a hierarchy, a GAN.
"""

from __future__ import annotations

import dataclasses
from typing import cast

from taut import likelihoods, objectives, posteriors, priors
from taut.build.config import LEARNING_RATE, Config, ModelConfig
from taut.build.spec import Spec, find, known, parse
from taut.contrast import ImplicitModel
from taut.data import Dataset, Schema
from taut.data.tables.kinds import KINDS
from taut.model import VAE, Likelihood, Posterior, Prior
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.networks import Network
from taut.system.errors import UsageError, choose_from
from taut.types import image_layout

__all__ = [
    "NESTED",
    "VAE_MODEL",
    "complete",
    "exact_of",
    "gan_of",
    "has_few_levels",
    "hierarchy_of",
    "numbers_of_levels",
    "objective_of",
    "of_few_images",
    "own_parts",
    "parts_named",
    "sizes_of",
    "starts_linear",
    "stepwise_of",
    "usual_objective",
    "usual_rate",
]


# Importing the modules registers their parts: they are found as subclasses of these.
_FAMILIES = (priors, likelihoods, posteriors, objectives)

NESTED: dict[str, type] = {
    "encoder": Network,
    "decoder": Network,
    "network": Network,
    "posterior": Posterior,
    "top": Prior,
    **{kind.family: Likelihood for kind in KINDS.values() if kind.modelled},
}

USUAL = {
    "binary": "Bernoulli()",
    "levels": "DiscretizedLogistic()",
    "count": "NegativeBinomial()",
    "real": 'StudentT(scale="per_feature")',
    "table": "Columns(warp=True)",
}

COUNT_MATRIX = {  # `benchmarks/cells_embedding.py`
    "likelihood": "NegativeBinomial(library=True)",
    "encoder": "MLP(hidden=(128,), dropout=0.1)",
    "decoder": "MLP(hidden=(200, 200), dropout=0.4)",
    "objective": "ELBO(warmup=0.6)",
}
FEW_IMAGES = {"decoder": "MLP(dropout=0.2)", "objective": "ELBO(warmup=0.2)"}  # `defaults.py`
MOST_COLUMNS = 128  # beyond it a pass of factor analysis takes longer than a step
MOST_PIXELS = 1024  # times channels; beyond it the networks are convolutions
GREY = range(65, 257)  # levels of 7 or 8 bits
VAE_MODEL = "VAE()"
OTHERS = (StepwiseModel, VAE, ImplicitModel)  # than the models that are exact
GAN_PARTS = ("likelihood", "latent_dim", "encoder", "decoder")  # likewise of a game
STEPWISE_PARTS = ("likelihood", "decoder")  # what a model of many steps has of a VAE's
STEPWISE_DECODER = {"Diffusion": "Linear", "MaskedDiffusion": "MLP(hidden=(512, 512))"}
MAP_CHANNELS = 8  # of each level of maps, which has many places
FEW_LEVELS = 64  # which a diffusion tells apart
MANY = 10_000  # data, which a larger rate serves better: they are seen too seldom for a small one


def complete(config: ModelConfig, schema: Schema, few: bool = False) -> ModelConfig:
    """Returns the configuration with everything that was left to the data decided, each part in its
    shortest spelling.

    Of a model that is exact that is its own specification: it has no parts. One of many steps has a
    likelihood and a decoder, a hierarchy a likelihood and two networks.

    Args:
        config: What the user asked for.
        schema: What the data are.
        few: Whether they are few images: see ``of_few_images``.

    Raises:
        UsageError: a specification cannot be read, or is of a part that the model does not have.
    """
    if (exact := exact_of(config)) is not None:
        _check_whole(exact, config, schema)
        return ModelConfig(model=str(exact))
    if (stepwise := stepwise_of(config)) is not None:
        _check_whole(stepwise, config, schema, STEPWISE_PARTS)
        _check_stepwise(stepwise, schema)
        return _complete_stepwise(stepwise, config, schema)
    if (hierarchy := hierarchy_of(config)) is not None:
        return _complete_hierarchy(hierarchy, config, schema)
    if (gan := gan_of(config)) is not None:
        _check_whole(gan, config, schema, GAN_PARTS)
        return _complete_gan(gan, config, schema)
    linear = starts_linear(config, schema)
    usual = _usual_likelihood(schema)
    if linear and schema.kind == "real":
        usual = 'StudentT(scale="per_entry", min_scale=0.03)'
    large = schema.is_image and schema.num_elements > MOST_PIXELS
    encoder, decoder, posterior = "MLP", "MLP", "DiagonalNormal"
    if linear:
        encoder, decoder, posterior = "Residual", "Residual", "FullCovarianceNormal"
    if large:
        encoder, decoder = "ConvEncoder", "ConvDecoder"
    if few:
        decoder = FEW_IMAGES["decoder"]
    if schema.is_count_matrix:
        usual, encoder, decoder = (COUNT_MATRIX[n] for n in ("likelihood", "encoder", "decoder"))
    likelihood = config.likelihood or usual
    posterior = str(parse(config.posterior or posterior))
    family = find(parse(posterior), Posterior, NESTED)
    return dataclasses.replace(
        config,
        model=VAE_MODEL,
        latent_dim=_latent_dim(config, posterior) or schema.usual_latent_dim,
        prior=str(parse(config.prior or cast(type[Posterior], family.func).usual_prior)),
        likelihood=str(parse(likelihood)),
        posterior=posterior,
        encoder=str(parse(config.encoder or encoder)),
        decoder=str(parse(config.decoder or decoder)),
    )


def _complete_stepwise(spec: Spec, config: ModelConfig, schema: Schema) -> ModelConfig:
    """Returns the configuration of a model of many steps with its likelihood and its decoder: a
    diffusion of few levels tells them apart by their distances, unless the user names a part.
    """
    likelihood, decoder = config.likelihood, config.decoder
    own = spec.name == "Diffusion" and has_few_levels(schema)
    if own and decoder is None and likelihood in (None, "Categorical()"):
        return ModelConfig(model=str(spec), likelihood="Categorical()")
    return ModelConfig(
        model=str(spec),
        likelihood=str(parse(likelihood or _usual_likelihood(schema))),
        decoder=str(parse(decoder or STEPWISE_DECODER[spec.name])),
    )


def has_few_levels(schema: Schema) -> bool:
    return schema.kind in ("binary", "levels") and schema.num_levels <= FEW_LEVELS


def _complete_hierarchy(spec: Spec, config: ModelConfig, schema: Schema) -> ModelConfig:
    """Returns the configuration of a hierarchy, whose prior and posterior are its own."""
    own = [name for name in ("prior", "posterior") if getattr(config, name) is not None]
    if own:
        raise UsageError(
            f"{own[0]}: {spec} draws its levels from a prior and a posterior of its own: omit it, "
            "or take --model VAE"
        )
    likelihood = str(parse(config.likelihood or _usual_likelihood(schema)))
    if _has_maps(spec):
        named = [name for name in ("encoder", "decoder") if getattr(config, name) is not None]
        if named:
            raise UsageError(f"{named[0]}: the networks of {spec} are convolutions: omit it")
        dim = config.latent_dim or MAP_CHANNELS
        return ModelConfig(model=str(spec), latent_dim=dim, likelihood=likelihood)
    large = schema.is_image and schema.num_elements > MOST_PIXELS
    return dataclasses.replace(
        config,
        model=str(spec),
        latent_dim=config.latent_dim or schema.usual_latent_dim,
        likelihood=likelihood,
        encoder=str(parse(config.encoder or ("ConvEncoder" if large else "MLP"))),
        decoder=str(parse(config.decoder or ("ConvDecoder" if large else "MLP"))),
    )


def _has_maps(spec: Spec) -> bool:
    return dict(spec.arguments).get("channels") is not None


def numbers_of_levels(config: ModelConfig) -> str:
    """Returns what ``latent_dim`` counts in each level of a hierarchy."""
    return "channels" if _has_maps(parse(cast(str, config.model))) else "latent dimensions"


def _complete_gan(spec: Spec, config: ModelConfig, schema: Schema) -> ModelConfig:
    """Returns the configuration of a generator and its critic: the decoder and the encoder of the
    VAE of the same data.
    """
    if schema.kind not in ("real", "levels") or schema.missing:
        what = "rows with gaps" if schema.missing else schema.describe()
        raise UsageError(
            f"{spec} makes whole images or rows of real numbers or levels, and these are {what}: "
            "take --model VAE, or another --kind"
        )
    large = schema.is_image and schema.num_elements > MOST_PIXELS
    return ModelConfig(
        model=str(spec),
        latent_dim=config.latent_dim or schema.usual_latent_dim,
        likelihood=str(parse(config.likelihood or 'Normal(scale="shared")')),
        encoder=str(parse(config.encoder or ("ConvEncoder" if large else "MLP"))),
        decoder=str(parse(config.decoder or ("ConvDecoder" if large else "MLP"))),
    )


def _usual_likelihood(schema: Schema) -> str:
    """Returns the likelihood that follows from what the data are."""
    if schema.kind == "real" and not schema.is_rows:
        return 'Normal(scale="shared")'
    if _is_grey(schema):
        return "WarpedPixels()"
    return USUAL[schema.kind]


def sizes_of(posterior: str) -> dict[str, int]:
    """Returns the sizes that the specification of a posterior decides."""
    found = find(parse(posterior), Posterior, NESTED)
    return cast(type[Posterior], found.func).sizes(**found.keywords)


def _latent_dim(config: ModelConfig, posterior: str) -> int | None:
    own = sizes_of(posterior).get("latent_dim")
    if own is None or config.latent_dim in (None, own):
        return own or config.latent_dim
    raise UsageError(
        f"{posterior} has {own} latent dimensions, and latent_dim is {config.latent_dim}: omit "
        "latent_dim (--latent-dim)"
    )


def _is_grey(schema: Schema) -> bool:
    """Returns whether data are images of one channel of 7 or 8 bits, which the histogram of all
    pixels tells well: colours have three, 16 bits few pixels a level, and over few levels a
    logistic distribution is nearly as good (`benchmarks/README.md`).
    """
    if schema.kind != "levels" or not schema.is_image or schema.num_levels not in GREY:
        return False
    return image_layout(schema.event_shape)[0] == 1


def starts_linear(config: ModelConfig, schema: Schema) -> bool:
    """Returns whether training starts at factor analysis: for rows of real numbers and tables of
    numbers (`benchmarks/uci.py`), unless the user names a network that has no linear path.
    """
    networks = [parse(network or "Residual") for network in (config.encoder, config.decoder)]
    have_path = all(network.name == "Residual" for network in networks)
    return _is_of_numbers(schema) and schema.num_elements <= MOST_COLUMNS and have_path


def _is_of_numbers(schema: Schema) -> bool:
    if schema.kind == "table":
        return not any(column.rules.nominal for column in schema.modelled)
    return schema.kind == "real" and schema.is_rows


def exact_of(config: ModelConfig) -> Spec | None:
    """Returns the specification of the model that is exact; None of any other.

    Raises:
        UsageError: there is no such model.
    """
    spec = _whole(config)
    if spec is None or spec.name in {name for base in OTHERS for name in known(base)}:
        return None
    return spec


def gan_of(config: ModelConfig) -> Spec | None:
    """Returns the specification of the generator that has no density; None of any other model.

    Raises:
        UsageError: there is no such model.
    """
    return _among(config, ImplicitModel)


def stepwise_of(config: ModelConfig) -> Spec | None:
    """Returns the specification of the model of many steps; None of any other.

    Raises:
        UsageError: there is no such model.
    """
    return _among(config, StepwiseModel)


def hierarchy_of(config: ModelConfig) -> Spec | None:
    """Returns the specification of the VAE of several levels; None of any other model.

    Raises:
        UsageError: there is no such model.
    """
    return _among(config, VAE)


def _among(config: ModelConfig, base: type) -> Spec | None:
    spec = _whole(config)
    if spec is None or spec.name not in known(base):
        return None
    return spec


def _whole(config: ModelConfig) -> Spec | None:
    """Returns the specification of a model that is not a plain VAE; None of one that is."""
    spec = parse(config.model or VAE_MODEL)
    if spec.module is not None:
        return spec
    whole = (ExactModel, *OTHERS)
    names = ["VAE", *sorted(name for base in whole for name in known(base))]
    if spec.name not in names:
        raise UsageError(
            f"no model is called {spec.name!r}{choose_from(spec.name, names)}, or your own as "
            "module:Class(...)"
        )
    if spec.name != "VAE":
        return spec
    if spec.arguments:
        name = spec.arguments[0][0].replace("_", "-")
        raise UsageError(f"{spec}: the parts of a VAE have options of their own, such as --{name}")
    return None


def parts_named(config: ModelConfig) -> list[str]:
    """Returns the names of the settings that are of a VAE alone and were given."""
    values = dataclasses.asdict(config)
    return [name for name, value in values.items() if name != "model" and value is not None]


def own_parts(config: ModelConfig) -> tuple[str, ...] | None:
    """Returns the settings of a VAE that the model of a configuration has too; None where it is
    one.

    Raises:
        UsageError: there is no such model.
    """
    if exact_of(config) is not None:
        return ()
    if stepwise_of(config) is not None:
        return STEPWISE_PARTS
    if gan_of(config) is not None:
        return GAN_PARTS
    return None


def _check_whole(
    spec: Spec, config: ModelConfig, schema: Schema, own: tuple[str, ...] = ()
) -> None:
    """Refuses parts that a model has not, but its own, and data that are given in part."""
    if named := [name for name in parts_named(config) if name not in own]:
        raise UsageError(
            f"{named[0]} is of a VAE, and {spec} has no such part: omit it, or take --model VAE"
        )
    if schema.condition:
        raise UsageError(
            f"{spec} models all columns together, and --condition gives some of them: take "
            "--model VAE"
        )


def _check_stepwise(spec: Spec, schema: Schema) -> None:
    if spec.name == "Diffusion" and schema.missing:
        raise UsageError(
            f"{spec} drowns whole rows in noise, and these have gaps: take --model "
            "'MaskedDiffusion()', for which a gap is what it is made of"
        )


def objective_of(config: Config, data: Dataset) -> str:
    """Returns what is maximised: the usual objective, unless the user names one."""
    few = of_few_images(config.model, data)
    return config.training.objective or usual_objective(data.schema, few)


def usual_objective(schema: Schema, few: bool = False) -> str:
    """Returns what is maximised unless the user says otherwise.

    Args:
        schema: What the data are.
        few: Whether they are few images: see ``of_few_images``.
    """
    if schema.missing:
        return "DReG(num_samples=8)"
    if schema.is_count_matrix:
        return COUNT_MATRIX["objective"]
    return FEW_IMAGES["objective"] if few else "ELBO()"


def of_few_images(config: ModelConfig, data: Dataset) -> bool:
    """Returns whether a model is a VAE of few images of bits or levels, small enough for a
    perceptron, which would learn them by heart: dropout and a warm-up prevent that.
    """
    schema = data.schema
    small = schema.is_image and schema.num_elements <= MOST_PIXELS and not schema.missing
    few = small and schema.kind in ("binary", "levels") and len(data.train) < MANY
    return few and _whole(config) is None


def usual_rate(data: Dataset) -> float:
    """Returns the peak of the learning rate unless the user says otherwise."""
    large = data.schema.kind in ("binary", "levels") and len(data.train) >= MANY
    large = large or data.schema.is_count_matrix
    return LEARNING_RATE * (2 if large else 1)
