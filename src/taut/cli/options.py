"""The options that commands share: their types, completions and ranges, and how help is written.

Settings of a training describe themselves (``taut.build.config``); what is here gives each of them
an option. Nothing here imports torch: help, a typo and TAB answer at once.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from taut.build.config import settings
from taut.system.errors import clause

__all__ = ["Command", "Group", "complete_runs", "with_settings"]

# What TAB offers for the parts of a model; a test compares it with the registry.
NETWORKS = (
    *("ConvDecoder", "ConvEncoder", "GatedMLP", "Linear", "MLP", "Residual"),
    *("ResidualConvDecoder", "ResidualConvEncoder", "UNet"),
)
PARTS = {
    "model": (
        *("VAE", "Diffusion", "FactorAnalysis", "GAN", "HiddenForest", "HiddenTree"),
        "HierarchicalVAE",
        *("MaskedDiffusion", "Mixture", "MixtureOfFactorAnalysers"),
    ),
    "objective": (
        *("Adversarial", "Capacity", "Critic", "DIP", "DReG", "ELBO", "IWAE", "ScoreFunction"),
        *("StickingTheLanding", "StraightThrough", "TotalCorrelation", "VIMCO"),
    ),
    "prior": (
        *("AutoregressiveCategorical", "Codebook", "Flow", "GaussianMixture"),
        *("IndependentBernoulli", "IndependentCategorical", "StandardNormal", "UniformSphere"),
        "VampPrior",
    ),
    "posterior": (
        *("Categorical", "CouplingFlow", "DiagonalNormal", "FullCovarianceNormal"),
        *("IndependentBernoulli", "InverseAutoregressive", "PowerSpherical", "VectorQuantized"),
    ),
    "likelihood": (
        *("Bernoulli", "Binomial", "Categorical", "Columns", "ContinuousBernoulli"),
        *("DiscretizedLogistic", "LogNormal", "Multinomial", "NegativeBinomial", "Normal"),
        *("Ordinal", "Poisson", "StudentT", "WarpedCounts", "WarpedGrid", "WarpedLevels"),
        *("WarpedLogistic", "WarpedPixels", "ZeroInflatedNegativeBinomial"),
    ),
    "encoder": NETWORKS,
    "decoder": NETWORKS,
}
VALUES = {**PARTS, "device": ("auto", "cpu", "cuda", "mps")}

# The settings that have an option of their own, by the heading they stand under in the help.
READING = {
    "The data": "key kind levels shape binarize layer split test",
    "Tables": "schema missing_values condition delimiter decimal encoding header stream",
    "Images": "resize crop alpha skip_bad",
}
TRAINING = READING | {
    "The model": "model latent_dim likelihood prior posterior encoder decoder",
    "The training": "objective batch_size max_epochs minutes learning_rate averaging seed device "
    "threads",
    "The measurement": "num_samples",
}
TYPES: dict[str, Any] = {  # the others are read as text, so that all errors come at once
    "missing_values": list[str] | None,
    "condition": list[str] | None,
    "header": bool | None,
    "stream": bool | None,
    "crop": bool,
}
SPELLED = {"crop": ("--crop",)}  # without --no-crop
GENERAL = "Options"


def complete_runs(incomplete: str) -> list[str]:
    """Returns the run folders whose names begin so: here, below runs/, and in the folder typed."""
    typed = Path(incomplete.rpartition("/")[0])
    places = dict.fromkeys((typed, Path("runs")))
    found = [p for place in places for p in sorted(place.glob("*")) if (p / "run.json").is_file()]
    return [str(path) for path in found if str(path).startswith(incomplete)]


def option(
    help_: str,
    *names: str,
    type_: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    words: str = "",
    values: Iterable[str] = (),
    panel: str = GENERAL,
) -> Any:
    """Returns an option of typer's.

    Args:
        help_: What it means, in a sentence.
        names: How it is written, where that is not its argument's name.
        type_: What its value is, as the help writes it; nothing for a switch.
        low: Smallest value.
        high: Largest value.
        words: The range in words, such as "at least 1".
        values: What TAB offers.
        panel: The heading that it stands under in the help.
    """

    def check(value: Any) -> Any:
        known = isinstance(value, int | float)
        if known and not (low <= value <= high and abs(value) < math.inf):
            raise typer.BadParameter(f"expected {words}, not {value}")
        return value

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return typer.Option(
        *names,
        help=help_ + clause(" [{}]", words),
        metavar=f"<{type_}>" if type_ else None,
        callback=check if words else None,
        autocompletion=complete if values else None,
        rich_help_panel=panel,
    )


def _run_argument() -> Any:
    return typer.Argument(
        metavar="RUN", help="The folder that taut fit made.", autocompletion=complete_runs
    )


DataArg = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A table (.csv, .tsv, .parquet), a folder of images, counts (.h5ad), an array (.npy, "
        ".npz, idx), digits.",
    ),
]
RunArg = Annotated[Path, _run_argument()]
HeldOut = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATA]", help="A file; by default the rows that the run itself held out."
    ),
]
Key = Annotated[str | None, option("Which array of an .npz file.", type_="text")]
Json = Annotated[bool, option("Print the numbers as JSON.", "--json")]
Verbose = Annotated[
    bool, option("Also how log p(x) was estimated, and how reliably.", "--verbose", "-v")
]
NewRun = Annotated[
    Path | None,
    option("The run folder to make; by default the next free one below runs/.", type_="folder"),
]
NewFolder = Annotated[
    Path | None,
    option("The folder to make; by default the next free one below runs/.", type_="folder"),
]
Out = Annotated[
    Path | None,
    option(
        "The file to write: .csv or .parquet for rows, .npy for any numbers, .png for images, "
        ".h5ad for cells.",
        type_="file",
    ),
]
Numbers = Annotated[
    Path | None,
    option("The file to write: .csv, .parquet or .npy; .h5ad for cells.", type_="file"),
]
Overwrite = Annotated[bool, option("Replace what is there.", "--overwrite")]
Seed = Annotated[int, option("The same seed gives the same numbers.", type_="int")]
Threads = Annotated[
    int | None,
    option("Threads of the CPU.", type_="int", low=1, high=1024, words="from 1 to 1024"),
]
Trust = Annotated[
    list[str] | None,
    option("An outside module that the run may import; repeatable.", type_="module"),
]
LogTo = Annotated[
    str | None,
    option(
        "What gets each row of the history, where its package is installed.",
        type_="tensorboard|mlflow|wandb",
        values=("tensorboard", "mlflow", "wandb"),
    ),
]
Config = Annotated[
    Path | None,
    option("A TOML file with sections data, model, training, evaluation.", type_="file"),
]


def count(help_: str, least: int = 1, most: int | None = None, **given: Any) -> Any:
    """Returns an option that takes a whole number of at least so many, and at most."""
    if most is None:
        return option(help_, type_="int", low=least, words=f"at least {least}", **given)
    words = f"from {least} to {most}"
    return option(help_, type_="int", low=least, high=most, words=words, **given)


def with_settings(panels: Mapping[str, str]) -> Callable[[Callable[..., None]], Any]:
    """Gives a command an option for each of these settings; it gets those typed as ``flags``.

    Args:
        panels: Names of settings, by the heading they stand under.
    """

    def decorate(function: Callable[..., None]) -> Any:
        own = inspect.signature(function, eval_str=True).parameters.values()
        added = list(_parameters(panels))

        def command(**given: Any) -> None:
            flags = {p.name: _as_text(given.pop(p.name)) for p in added}
            function(**given, flags=flags)

        parameters = [*(p for p in own if p.name != "flags"), *added]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__module__ = function.__module__
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _parameters(panels: Mapping[str, str]) -> Iterator[inspect.Parameter]:
    known = settings()
    for panel, names in panels.items():
        for name in names.split():
            setting, type_ = known[name], TYPES.get(name, str | None)
            switch = type_ in (bool, bool | None)
            bracket = [setting.range]
            if setting.default not in (None, ()) and not switch:
                bracket.append(f"default: {setting.default}")
            several = "; repeatable" if type_ == list[str] | None else ""
            annotation = option(
                f"{setting.help.removesuffix('.')}{several}."
                + clause(" [{}]", "; ".join(filter(None, bracket))),
                *SPELLED.get(name, ()),
                type_="" if switch else setting.type,
                values=VALUES.get(name, setting.type.split("|") if "|" in setting.type else ()),
                panel=panel,
            )
            yield inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if type_ is bool else None,
                annotation=Annotated[type_, annotation],
            )


def _as_text(value: Any) -> Any:
    """Returns what was typed as a text or texts, None where nothing was."""
    if value is False:
        return "false"
    if value is True:
        return "true"
    return value


# --------------------------------------------------------------------------------- how help looks


def _leave_unread(params: Iterable[Any]) -> None:
    """Has values stay as they were typed: typer reads them by pydantic, whose import takes longer
    than all else.
    """
    for param in params:
        param.process_value = lambda ctx, value: value


def _help_if_asked(ctx: Any, args: Sequence[str]) -> None:
    """Prints the help and ends, before any other value is read."""
    if not ctx.resilient_parsing and {"-h", "--help"} & set(args):
        typer.echo(ctx.get_help())
        ctx.exit()


class Command(TyperCommand):
    """A command whose help has headings, types, defaults and examples, wrapped between words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _help_if_asked(ctx, args)
        if ctx.resilient_parsing:
            _leave_unread(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", *(str(p.metavar) for p in self.arguments(ctx))]

    def arguments(self, ctx: Any) -> list[Any]:
        return [p for p in self.get_params(ctx) if p.param_type_name == "argument"]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        arguments = self.arguments(ctx)
        _write_top(self, ctx, formatter)
        panels = {"Arguments": [(str(p.metavar), getattr(p, "help", "")) for p in arguments]}
        for param in self.get_params(ctx):
            if param.param_type_name != "argument" and not getattr(param, "hidden", False):
                panel = getattr(param, "rich_help_panel", None) or GENERAL
                panels.setdefault(panel, []).append(_record(param))
        _write_panels(formatter, panels)


class Group(TyperGroup):
    """The list of all commands, whole sentences under headings; ``help NAME`` is NAME --help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:
            args = [*args[1:2], "--help"]
        _help_if_asked(ctx, args[:1])
        if args and not args[0].startswith("-"):
            _leave_unread(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _write_top(self, ctx, formatter)
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            first = " ".join((command.help or "").partition("\n\n")[0].split())
            panels.setdefault(command.rich_help_panel or "Commands", []).append((name, first))
        panels[GENERAL] = [_record(param) for param in self.get_params(ctx)]
        _write_panels(formatter, panels)


def _record(param: Any) -> tuple[str, str]:
    """Returns how an option is written and what it means, with its default."""
    names = " / ".join([", ".join(sorted(param.opts, key=len)), *param.secondary_opts])
    if param.metavar and not param.is_flag:
        names += f" {param.metavar}"
    help_, default = param.help or "", param.default
    if isinstance(default, int | float | str) and not isinstance(default, bool):
        known = f"default: {default}"
        within = re.fullmatch(r"(.*)\[([^][]*)\]", help_)
        help_ = f"{help_} [{known}]"
        if within:
            help_ = f"{within[1]}[{within[2]}; {known}]"
    return names, help_


def _write_top(command: Any, ctx: Any, formatter: Any) -> None:
    """Writes the usage, what a command does, and examples, which stand as they can be pasted."""
    words, _, examples = (command.help or "").partition("Examples:\n")
    command.format_usage(ctx, formatter)
    for paragraph in words.strip().split("\n\n"):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(" ".join(paragraph.split()))
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in lines))


def _write_panels(formatter: Any, panels: Mapping[str, list[tuple[str, str]]]) -> None:
    widest = min(38, max(18, formatter.width // 2 - 10))
    for title, rows in panels.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows, col_max=widest)
