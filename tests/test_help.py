"""Help, TAB and a typo: at once, without torch, and true to what the commands take."""

from __future__ import annotations

import os
import re
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

import taut
from taut.build.config import ModelConfig, settings
from taut.build.spec import resolve
from taut.build.usual import exact_of
from taut.cli import options
from taut.cli.app import COMMANDS, app

NAMES = [function.__name__ for functions in COMMANDS.values() for function in functions]
TAUT = "import sys; sys.argv[0] = 'taut'; from taut.cli.app import main; main()"
HEAVY = {"torch", "numpy", "sklearn", "pyarrow", "rich", "pydantic"}


def call(*arguments: str, columns: int = 80) -> Result:
    return CliRunner().invoke(app, arguments, terminal_width=columns)


def process(*arguments: str, code: str = TAUT, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | more.pop("env", {})
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        **more,
    )


def press_tab(line: str, folder: Path | None = None) -> list[str]:
    """Returns what a shell offers at the end of a line."""
    words = line.split(" ")
    environment = {
        "_TAUT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = process(env=environment, cwd=folder)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["-h"], 0),
        (["fit", "--help"], 0),
        (["help", "audit"], 0),
        (["--version"], 0),
        (["fti"], 2),
        (["fit", "--latnt-dim", "3"], 2),
        (["fit", "x.csv", "--latent-dim", "two"], 2),
    ],
)
def test_an_answer_that_needs_no_torch_does_not_import_it(arguments: list[str], code: int):
    script = (
        "import sys\nfrom taut.cli.app import main\n"
        "try: main()\n"
        f"except SystemExit as end: print('LOADED', end.code, {HEAVY!r} & set(sys.modules))"
    )
    found = process(*arguments, code=script).stdout.splitlines()[-1]
    allowed = {"rich", "pydantic"} if "two" in arguments else set()
    loaded = set(re.findall(r"'(\w+)'", found))
    assert found.startswith(f"LOADED {code} ")
    assert loaded <= allowed, found


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["--version"], ["fti"], []])
def test_an_answer_takes_less_than_a_third_of_a_second(arguments: list[str]):
    """Of a processor; the best of five, since others may keep it busy. Without arguments: TAB.

    On a slow processor it is as many times what Python needs to start as it is on ours.
    """
    tab = {
        "_TAUT_COMPLETE": "complete_bash",
        "COMP_WORDS": "taut fit x --prior ",
        "COMP_CWORD": "4",
    }

    def seconds(run: Callable[[], object]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def start() -> object:
        return subprocess.run([sys.executable, "-c", "pass"], check=True)

    taken = [seconds(lambda: process(*arguments, env={} if arguments else tab)) for _ in range(5)]
    nothing = [seconds(start) for _ in range(5)]
    assert min(taken) < max(0.3, 17 * min(nothing)), (taken, nothing)


@pytest.mark.parametrize("name", NAMES)
def test_three_ways_to_ask_for_help_give_the_same(name: str):
    outputs = [call(name, "-h"), call(name, "--help"), call("help", name)]
    assert {result.exit_code for result in outputs} == {0}
    assert len({result.stdout for result in outputs}) == 1


def test_help_of_what_there_is_not_names_what_there_is():
    result = call("help", "fti")
    assert result.exit_code == 2
    assert "Did you mean 'fit'?" in result.stderr
    assert call("help").stdout == call("-h").stdout


@pytest.mark.parametrize("columns", [60, 80, 110])
@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_wraps_between_words_and_cuts_nothing(name: str, columns: int):
    text = call(*([name] if name else []), "--help", columns=columns).stdout
    wide = call(*([name] if name else []), "--help", columns=110).stdout
    assert text.split() == wide.split()
    assert "..." not in text.partition("\n")[2]  # after the usage
    examples = text.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    for line in text.splitlines():
        assert len(line) <= columns or line in examples, line


@pytest.mark.parametrize("name", NAMES)
def test_each_help_has_true_types_and_an_example_whose_options_exist(name: str):
    text = call(name, "--help", columns=110).stdout
    for wrong in ("<str>", "<path>", "<list", "range>", "2.14748e+09", "x>="):
        assert wrong not in text
    command: Any = typer.main.get_command(app)
    params = {
        o: p
        for p in command.commands[name].params
        for o in (*p.opts, *p.secondary_opts)
        if "--" in o
    }
    examples = text.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert examples
    for line in examples:
        words = shlex.split(line)
        assert words[:2] == ["taut", name]
        assert {word for word in words if word.startswith("--")} <= params.keys()


def test_an_option_of_fit_says_what_its_setting_is():
    text = " ".join(call("fit", "--help", columns=110).stdout.split())
    for words in (
        "--latent-dim <int>",
        "--minutes <float>",
        "--binarize <none|dynamic|threshold>",
        "[at least 1; default: 128]",
        "[from 0 to 1; default: 0.999]",
        "by default StandardNormal()",
        "[default: 0]",
        "The model: ",
        "The training: ",
    ):
        assert words in text, words


@pytest.mark.parametrize("part", options.PARTS)
def test_tab_offers_the_parts_that_there_are(part: str):
    bases = {
        "objective": taut.Objective,
        "prior": taut.Prior,
        "posterior": taut.Posterior,
        "likelihood": taut.Likelihood,
    }

    def ask() -> None:
        if part == "model":
            exact_of(ModelConfig(model="Nothing_like_it"))
        else:
            resolve("Nothing_like_it()", bases.get(part, taut.Network))

    with pytest.raises(taut.UsageError) as caught:
        ask()
    known = re.search(r"hoose from (.*), or your own", str(caught.value))
    assert known is not None
    assert ", ".join(options.PARTS[part]) == known[1]


def test_tab(tmp_path: Path):
    for path in ("runs/wine-1", "runs/wine-2", "other/mine", "here"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "run.json").touch()
    (tmp_path / "runs/no-run").mkdir()
    assert press_tab("taut fit x.csv --objective ") == [*options.PARTS["objective"]]
    assert press_tab("taut fit x.csv --prior Gau") == ["GaussianMixture"]
    assert press_tab("taut fit x.csv --binarize ") == ["none", "dynamic", "threshold"]
    assert press_tab("taut check x.csv --split ") == ["rows", "copies"]
    assert press_tab("taut tighten runs/wine-1 --posterior F") == ["FullCovarianceNormal"]
    assert press_tab("taut audit ", tmp_path) == ["here", "runs/wine-1", "runs/wine-2"]
    assert press_tab("taut score runs/wine", tmp_path) == ["runs/wine-1", "runs/wine-2"]
    assert press_tab("taut encode other/", tmp_path) == ["other/mine"]
    assert "audit" in press_tab("taut a")


def test_a_range_is_said_in_words():
    result = call("sample", "nothing", "--num-samples", "0")
    assert result.exit_code == 2
    assert "Invalid value for '--num-samples': expected at least 1, not 0" in result.stderr
    result = call("impute", "nothing", "--num-imputations", "1000000000")
    assert result.exit_code == 2
    assert "expected from 0 to 10000, not 1000000000" in result.stderr
    for value in ("1.5", "-0.1", "nan"):
        result = call("tighten", "nothing", "--simulated", value)
        assert result.exit_code == 2
        assert "expected from 0 to 1, not" in result.stderr


def test_the_options_of_fit_are_settings_of_a_training():
    listed = {name for names in options.TRAINING.values() for name in names.split()}
    assert listed <= settings().keys()
    assert {name for names in options.READING.values() for name in names.split()} <= listed
