"""Settings.

What each kind of value becomes, and every wrong one refused at once, in a line that names the mend.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from taut.build.config import Config, gather, settings
from taut.system.errors import UsageError


def test_defaults_are_filled_in():
    assert Config.from_dict({}) == Config()
    assert Config.from_dict({"training": {"seed": 3}}).training == dataclasses.replace(
        Config().training, seed=3
    )


def test_a_saved_configuration_comes_back():
    config = Config.from_dict(
        {
            "data": {"levels": "-3:16", "shape": "28x28", "test": "t.npz:x"},
            "model": {"latent_dim": 7, "likelihood": "Normal(scale=0.5)"},
            "training": {"learning_rate": 1e-5, "minutes": 2.5, "threads": 3},
            "evaluation": {"num_samples": 9},
        }
    )
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("section", "name", "given", "expected"),
    [
        ("data", "levels", "0:255", (0, 255)),
        ("data", "levels", "-5,5", (-5, 5)),
        ("data", "levels", [0, 16], (0, 16)),
        ("data", "shape", "28x28", (28, 28)),
        ("data", "shape", "28", (28,)),
        ("data", "shape", "3:4:5", (3, 4, 5)),
        ("data", "shape", "", None),
        ("data", "kind", "", None),
        ("model", "latent_dim", "8", 8),
        ("model", "latent_dim", 8.0, 8),
        ("model", "latent_dim", None, None),
        ("training", "learning_rate", "1e-3", 0.001),
        ("training", "learning_rate", 1, 1.0),
        ("training", "minutes", "0.5", 0.5),
        ("training", "averaging", 0, 0.0),
        ("training", "seed", -7, -7),
        ("training", "seed", 10**30, 10**30),
    ],
)
def test_values_are_read(section: str, name: str, given: object, expected: object):
    value = getattr(getattr(Config.from_dict({section: {name: given}}), section), name)
    assert value == expected
    assert type(value) is type(expected)


BAD = [
    ("training", "batch_size", "many", "training.batch_size: expected a whole number, not 'many'"),
    ("training", "batch_size", "1e3", "expected a whole number, not '1e3'"),
    ("training", "batch_size", "", "expected a whole number, not ''"),
    ("training", "batch_size", 0, "expected a number of at least 1, not 0"),
    ("training", "batch_size", 2.5, "expected a whole number, not 2.5"),
    ("training", "batch_size", True, "expected a whole number, not True"),
    ("training", "batch_size", None, "expected a whole number, not None"),
    ("training", "batch_size", 10**400, "expected a number of at most 2,147,483,647, not 1000"),
    ("training", "batch_size", [3], "expected a whole number, not [3]"),
    ("training", "learning_rate", "fast", "expected a number, not 'fast'"),
    ("training", "learning_rate", "nan", "expected a number of at least 0, not nan"),
    ("training", "learning_rate", float("inf"), "expected a number of at least 0, not inf"),
    ("training", "learning_rate", "1e999", "expected a number of at least 0, not inf"),
    ("training", "learning_rate", -1, "expected a number of at least 0, not -1.0"),
    ("training", "learning_rate", 10**400, "expected a number, not 1000"),
    ("training", "learning_rate", False, "expected a number, not False"),
    ("training", "averaging", 1.5, "expected a number from 0 to 1, not 1.5"),
    ("training", "minutes", 0, "expected a number above 0"),
    ("training", "clip_norm", 0, "expected a number above 0"),
    ("training", "threads", 10**8, "expected a number from 1 to 1024"),
    ("training", "objective", 5, "training.objective: expected text, not 5"),
    ("training", "device", None, "training.device: expected text, not None"),
    ("training", "seed", "1.5", "expected a whole number, not '1.5'"),
    (
        "training",
        "learnin_rate",
        1,
        "unknown training.learnin_rate; did you mean 'learning_rate'? Choose from objective, ",
    ),
    ("training", "Learning_Rate", 1, "did you mean 'learning_rate'?"),
    ("model", "latent_dim", -2, "model.latent_dim: expected a number of at least 1"),
    ("model", "latent_dims", 2, "unknown model.latent_dims; did you mean 'latent_dim'?"),
    ("evaluation", "num_samples", float("nan"), "expected a whole number, not nan"),
    ("data", "levels", 5, "data.levels: expected whole numbers, such as 28x28 or 0:255, not 5"),
    ("data", "levels", "1:2:3", "expected 2 numbers, not '1:2:3'"),
    ("data", "levels", "0:b", "expected a whole number, not 'b'"),
    ("data", "shape", {"a": 1}, "expected whole numbers"),
    (
        "data",
        "binarize",
        "dynamc",
        "unknown 'dynamc'; did you mean 'dynamic'? Choose from none, dynamic, threshold",
    ),
    ("data", "binarize", "", "unknown ''; choose from none, dynamic, threshold"),
    (
        "data",
        "kind",
        "binry",
        "unknown 'binry'; did you mean 'binary'? Choose from binary, levels, real, count",
    ),
    ("data", "test_fraction", 0.95, "expected a number from 0 to 0.9"),
]


@pytest.mark.parametrize(("section", "name", "value", "line"), BAD)
def test_a_wrong_value_is_one_line(section: str, name: str, value: object, line: str):
    with pytest.raises(UsageError) as caught:
        Config.from_dict({section: {name: value}})
    message = str(caught.value)
    assert line in message
    assert "\n" not in message
    assert len(message) < 400


def test_all_errors_come_at_once_in_the_order_given():
    values = {
        "traning": {"seed": 1},
        "data": {"kindd": "real", "levels": "a:b"},
        "model": 5,
        "evaluation": {"num_samples": 0},
        "training": {"seed": "x", "patience": -1},
    }
    with pytest.raises(UsageError) as caught:
        Config.from_dict(values)
    lines = str(caught.value).split("\n")
    assert [line.split(";")[0].split(", not")[0] for line in lines] == [
        "unknown section 'traning'",
        "unknown data.kindd",
        "data.levels: expected a whole number",
        "model is a section",
        "training.seed: expected a whole number",
        "training.patience: expected a number of at least 0",
        "evaluation.num_samples: expected a number of at least 1",
    ]
    assert "did you mean 'training'?" in lines[0]


def test_settings_have_names_of_their_own():
    names = [
        s.name
        for f in dataclasses.fields(Config)
        for s in dataclasses.fields(getattr(Config(), f.name))
    ]
    assert len(names) == len(set(names))  # flags and TAUT_ variables leave the section away


def test_an_error_speaks_of_what_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TAUT_PATIENCE", "long")
    file = tmp_path / "c.toml"
    file.write_text("[training]\nminutes = 'x'\nbatch_size = 0\n[data]\nkind = 'reel'\n")
    flags = {"latent_dim": "two", "kind": "rael", "seed": "a"}
    with pytest.raises(UsageError) as caught:
        gather(flags, file, ["training.clip_norm=0", "training.seed=b"])
    assert sorted(line.split(";")[0] for line in str(caught.value).split("\n")) == [
        "--kind: unknown 'rael'",
        "--latent-dim: expected a whole number, not 'two'",
        "TAUT_PATIENCE: expected a number, not 'long'",
        "training.batch_size: expected a number of at least 1, not 0",
        "training.clip_norm: expected a number above 0, not 0",
        "training.minutes: expected a number, not 'x'",
        "training.seed: expected a whole number, not 'b'",
    ]


def test_every_setting_says_what_it_is():
    found = settings()
    for section in dataclasses.fields(Config):
        for item in dataclasses.fields(getattr(Config(), section.name)):
            setting = found[item.name]
            assert (setting.section, setting.default) == (section.name, item.default)
            assert setting.help.endswith("."), item.name
            assert "  " not in setting.help
    assert (found["latent_dim"].type, found["latent_dim"].range) == ("int", "at least 1")
    assert (found["minutes"].type, found["minutes"].range) == ("float", "above 0")
    assert found["binarize"].type == "none|dynamic|threshold"
    assert found["threads"].range == "from 1 to 1024"
    assert found["objective"].type == "text"
