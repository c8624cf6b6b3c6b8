"""Encoder and decoder as ONNX graphs: the numbers of closed forms and of torch; refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from instances import make_hierarchies
from test_cells import line
from test_tighten import call
from torch import Tensor, nn

import taut
from taut.runs.export import FILE, write
from taut.runs.folder import new_data
from taut.system.errors import StorageError, UsageError
from taut.use import onnx as room
from taut.use.onnx import export_onnx

KNOWN = [0.0, 1.0, 1.0, 2.0]


def linear() -> taut.VAE:
    torch.manual_seed(0)
    posterior = taut.DiagonalNormal((5,), 3, taut.Linear)
    likelihood = taut.Normal((5,), 3, decoder=taut.Linear)
    for parameter in [*posterior.parameters(), *likelihood.parameters()]:
        parameter.data += 0.3 * torch.randn_like(parameter)
    return taut.VAE(taut.StandardNormal(3), likelihood, posterior)


class Places(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        known = torch.tensor([KNOWN]).expand(len(x), -1).contiguous()
        places = (torch.searchsorted(known, x, right=right) for right in (False, True))
        return dict(zip(("px_left", "px_right"), places, strict=True))


def make(folder: Path) -> None:
    """Makes all graphs of these tests, in a process without the tests' check of every shape, which
    torch's exporter cannot read.
    """
    for name, graph in export_onnx(linear(), torch.randn(1, 5)).items():
        (folder / f"{name}.onnx").write_bytes(graph.content)
    places = room._graph("places", Places(), {"x": torch.randn(4, 3)}, onnxruntime)
    (folder / "places.onnx").write_bytes(places.content)
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "weight": rng.normal(70, 10, 300).round(1),
            "kind": rng.choice(list("xyz"), 300),
            "ward": rng.choice(list("ab"), 300),
        }
    )
    table.loc[::5, "weight"] = np.nan
    table.loc[::7, "kind"] = None
    table.to_csv(folder / "t.csv", index=False)
    small = {"encoder": "MLP(hidden=(8,))", "decoder": "MLP(hidden=(8,))", "latent_dim": 2}
    taut.fit(folder / "t.csv", folder / "table", condition=["ward"], max_epochs=2, **small)
    made = call("export", folder / "table", "--onnx", "--out", folder / "graphs")
    assert made.exit_code == 0, made.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("export")
    code = "import gc; gc.disable()\n"  # an eighth of the time was a search for garbage
    code += "import sys, pathlib, test_onnx; test_onnx.make(pathlib.Path(sys.argv[1]))"
    here = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=here)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield path
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def _single() -> None:
    torch.set_default_dtype(torch.float32)


def answers(file: Path, **given: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(file))
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, {name: value.numpy() for name, value in given.items()})
    return dict(zip(names, found, strict=True))


@torch.no_grad()
def test_the_graphs_of_a_linear_model_are_its_matrices(folder: Path) -> None:
    """mean of q(z|x) = x A + b and mean of p(x|z) = z W + c, of any number of rows."""
    model = linear()
    weight, bias = model.posterior.parameters()
    for rows in (1, 7):
        x, z = torch.randn(rows, 5), torch.randn(rows, 3)
        q = answers(folder / "encoder.onnx", x=x)
        p = answers(folder / "decoder.onnx", z=z)
        by_hand = x.double() @ weight[:3].double().T + bias[:3]
        np.testing.assert_allclose(q["qz_loc"], by_hand.numpy(), rtol=0, atol=1e-5)
        for name, value in model.posterior.parameters_at(x).items():
            np.testing.assert_allclose(q[f"qz_{name}"], value.numpy(), rtol=0, atol=1e-5)
        mean = model.decode(z).mean.numpy()
        np.testing.assert_allclose(p["px_mean"], mean, rtol=0, atol=1e-5)


def test_an_operator_that_onnx_lacks_is_that_of_torch(folder: Path) -> None:
    """Values that stand in the sorted row too, on either side of them; more rows than before."""
    x = torch.tensor([[-1.0, 0.0, 0.5], [1.0, 1.5, 2.0], [3.0, 1.0, 0.0], [2, 2, 2], [9, 9, -9]])
    found = answers(folder / "places.onnx", x=x)
    assert found["px_right"].tolist() == [[0, 1, 1], [3, 3, 4], [4, 3, 1], [4] * 3, [4, 4, 0]]
    assert found["px_left"].tolist() == [[0, 0, 1], [1, 3, 3], [4, 1, 0], [3] * 3, [4, 4, 0]]


@torch.no_grad()
def test_a_table_with_gaps_and_a_given_column(folder: Path) -> None:
    loaded, graphs = taut.load(folder / "table"), folder / "graphs"
    x = new_data(loaded, folder / "t.csv").rows[:].float()
    assert x.isnan().any()
    model = loaded.model.eval()
    assert isinstance(model, taut.VAE)
    rest, context = model.split(x)
    z = model.point(x)
    assert context is not None
    q = answers(graphs / "encoder.onnx", x=x)
    for name, value in model.posterior.parameters_at(rest, context).items():
        np.testing.assert_allclose(q[f"qz_{name}"], value.numpy(), rtol=1e-5, atol=1e-5)
    p = answers(graphs / "decoder.onnx", z=z, x=x)
    mean = model.decode(z, context).mean.numpy()
    np.testing.assert_allclose(p["px_mean"], mean, rtol=1e-5, atol=1e-5)
    told = json.loads((graphs / FILE).read_text())
    assert told["graphs"]["decoder"]["inputs"] == {"z": [-1, 2], "x": [-1, 3]}
    names = [column["name"] for column in told["schema"]["columns"]]
    assert names == list(pd.read_csv(folder / "t.csv").columns)
    assert told["rows_checked"] == len(loaded.data().test)
    assert 0 <= told["graphs"]["encoder"]["apart"] < room.TOLERANCE


def test_a_place_that_is_not_free_is_refused(folder: Path, tmp_path: Path) -> None:
    at = ("export", folder / "table", "--out")
    assert "exists" in line(*at, folder / "graphs")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "letter.txt").write_text("mine")
    assert "holds other things (letter.txt)" in line(*at, tmp_path / "kept", "--overwrite")
    assert "is not a folder" in line(*at, tmp_path / "kept" / "letter.txt", "--overwrite")
    assert "there is no folder" in line(*at, tmp_path / "none" / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_what_is_no_vae_is_refused() -> None:
    tree = taut.Mixture((1,), ["category"], 2, [3])
    with pytest.raises(UsageError, match="Mixture has no encoder and decoder"):
        export_onnx(tree, torch.zeros(3, 1))
    deep = next(iter(make_hierarchies()))
    with pytest.raises(UsageError, match="cannot be exported"):
        export_onnx(deep, deep.sample(3))


def test_the_difference_of_two_answers() -> None:
    mine = np.array([1.0, np.nan, np.inf, 3.0])
    assert room._apart(mine, mine.copy()) == 0
    assert room._apart(mine, mine + np.array([0, 0, 0, 0.5])) == pytest.approx(0.5 / 4)
    assert not room._apart(mine, np.array([1.0, 2.0, np.inf, 3.0])) <= room.TOLERANCE
    assert not room._apart(mine, np.array([1.0, np.nan, 9.0, 3.0])) <= room.TOLERANCE


def test_a_graph_of_other_numbers_is_not_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (folder / "encoder.onnx").read_bytes()
    program = SimpleNamespace(model_proto=SimpleNamespace(SerializeToString=lambda: content))
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: None)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)
    model, x = linear(), torch.randn(5, 5)
    own = room._Encoder(model.eval())
    assert room._graph("encoder", own, {"x": x}, onnxruntime).apart < room.TOLERANCE
    next(model.posterior.parameters()).data[0, 0] += 1e-3
    with pytest.raises(UsageError, match="differs from torch by"):
        room._graph("encoder", own, {"x": x}, onnxruntime)
    loaded, out = taut.load(folder / "table"), tmp_path / "graphs"
    rows = loaded.data().test
    with pytest.raises(UsageError, match="no rows to check"):
        write(loaded, rows[:0], out)
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(UsageError, match=r"pip install 'taut\[onnx\]'"):
                write(loaded, rows, out)
    assert list(tmp_path.iterdir()) == []
    graph = SimpleNamespace(content=b"", inputs=(), outputs=(), apart=0.0)
    monkeypatch.setattr("taut.runs.export.export_onnx", lambda *_, **__: {"encoder": graph})

    def full(*_: object) -> None:
        raise StorageError("cannot write: no space")

    monkeypatch.setattr("taut.system.storage.write_json", full)
    with pytest.raises(StorageError, match="no space"):
        write(loaded, rows, out)
    assert list(tmp_path.iterdir()) == []
