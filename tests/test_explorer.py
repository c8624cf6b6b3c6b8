"""The page's server: its numbers are those of the library, and nothing that it is sent harms it."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from explored import KINDS, Umap, ask, make, served
from PIL import Image
from test_cells import line
from test_cells import run as command

import taut
from taut.evidence import text
from taut.explorer import server
from taut.explorer.shelf import Shelf
from taut.explorer.views import look_at
from taut.runs import meaning
from taut.runs.fitted import new_data
from taut.runs.folder import load
from taut.runs.making import fill_rows
from taut.system import storage
from taut.system.errors import UsageError
from taut.use import tasks

SECRET = "not for the page"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("explored"))


@pytest.fixture(scope="module")
def port(folders: dict[str, Path]) -> Iterator[int]:
    torch.set_default_dtype(torch.float32)
    with served(list(folders.values())) as number:
        yield number


@pytest.fixture(autouse=True)
def _single() -> None:
    torch.set_default_dtype(torch.float32)


def given_of(about: Any) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in about["given"]}


def pixels(source: str) -> np.ndarray:
    png = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)))


# --- Numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_is_explored_whole(port: int, kind: str) -> None:
    at = f"/api/runs/{KINDS.index(kind)}/"
    status, about = ask(port, f"{at}about")
    assert status == 200
    assert about["rows"] in (12, 13)
    latent, given = about["latent"], given_of(about)
    assert len(latent["dims"]) == len(latent["start"]) == (4 if kind == "hierarchy" else 2)
    for view in ("overview", "history", "map", "map?by=pca", "scores", "rows/3", "traversals"):
        status, found = ask(port, at + view)
        assert status == 200, (view, found)
    for name in about["colours"]:
        status, found = ask(port, f"{at}colour?name={quote(name)}")
        assert status == 200
        assert len(found["values"]) == about["rows"]
    for path, body in (("decode", {"z": latent["start"]}), ("samples", {"count": 5})):
        status, found = ask(port, at + path, body | {"given": given})
        assert status == 200, found
        assert about["image"] == ("picture" in found)
    status, found = ask(port, f"{at}levels", {"count": 3, "given": given})
    assert status == (200 if kind == "hierarchy" else 422)


def test_the_overview_has_every_estimate_with_its_errors(
    port: int, folders: dict[str, Path]
) -> None:
    measured = load(folders["table"]).evaluation()
    _, found = ask(port, f"/api/runs/{KINDS.index('table')}/overview")
    shown = {name: cells for t in found["tables"] for name, _, cells in t["lines"]}
    for key, name in (("elbo", "ELBO"), ("rate", "rate"), ("log_evidence", "log p(x)")):
        estimate = measured[key]
        value, mc, test = estimate["value"], estimate["mc_error"], estimate["test_error"]
        assert shown[name] == [
            text.number(value, test), text.number(mc, mc), text.number(test, test),
        ]  # fmt: skip
    assert set(shown) >= {"distortion", "inference gap", "baseline, independent marginals", "gain"}
    assert not found["audited"]


def test_the_map_and_its_colours_are_the_encoder_and_the_data(
    port: int, folders: dict[str, Path]
) -> None:
    at, run = f"/api/runs/{KINDS.index('table')}/", taut.load(folders["table"])
    means = tasks.encode(run.model, run._held_out().rows)
    _, found = ask(port, f"{at}map?a=1&b=0")
    np.testing.assert_allclose(found["x"], means[:, 1], rtol=1e-4)
    np.testing.assert_allclose(found["y"], means[:, 0], rtol=1e-4)
    rows = run._held_out().rows
    _, weight = ask(port, f"{at}colour?name=weight")
    np.testing.assert_allclose(weight["values"], rows[:, 0], rtol=1e-4)
    assert ask(port, f"{at}map?a=1")[0] == ask(port, f"{at}map?b=1")[0] == 422
    _, kind = ask(port, f"{at}colour?name=kind")
    levels = run.schema.modelled[1].levels
    assert [kind["levels"][int(v)] for v in kind["values"]] == [levels[int(v)] for v in rows[:, 1]]
    counts = [kind["values"].count(i) for i in range(len(kind["levels"]))]
    assert counts == sorted(counts, reverse=True)  # the commonest first
    _, rate = ask(port, f"{at}colour?name=rate,%20in%20nats")
    group = run.model.draw(rows[:].float()).groups[0]
    np.testing.assert_allclose(rate["values"], group.analytic_rate.detach(), rtol=1e-3)


def test_a_gap_has_no_colour_and_is_filled_in(port: int, folders: dict[str, Path]) -> None:
    at, run = f"/api/runs/{KINDS.index('gaps')}/", taut.load(folders["gaps"])
    rows = run._held_out().rows
    gaps = rows[:, 0].isnan()
    assert gaps.any()
    _, found = ask(port, f"{at}colour?name=weight")
    assert [v is None for v in found["values"]] == gaps.tolist()
    place = int(gaps.nonzero()[0, 0])
    _, row = ask(port, f"{at}rows/{place}")
    entry = next(e for e in row["entries"] if e["name"] == "weight")
    filled = fill_rows(run, rows[place : place + 1].float(), 1000).values[0, 0]
    assert entry["value"] == "missing"
    assert entry["filled"] == text.number(round(float(filled), 1))


def test_log_p_of_a_row_and_of_its_entries_are_those_of_the_library(
    port: int, folders: dict[str, Path]
) -> None:
    at, run = f"/api/runs/{KINDS.index('table')}/", taut.load(folders["table"])
    x = run._held_out().rows[4:5].float()
    _, row = ask(port, f"{at}rows/4")
    found = taut.importance(run.model, x, 500)
    told = {"value": float(found.log_evidence), "mc_error": float(found.log_evidence_error)}
    assert row["log_evidence"] == text.plus_minus(told)
    cells = taut.cell_scores(run.model, x, 500, improve=False)
    names = list(run.schema.element_names)
    assert len(row["entries"]) == 3
    for entry in row["entries"]:
        i = names.index(entry["name"])
        assert entry["nats"] == pytest.approx(float(cells.value[0, i]), rel=1e-4)
    nats = [entry["nats"] for entry in row["entries"]]
    assert nats == sorted(nats)  # the oddest first
    by_dimension = [rate["nats"] for rate in row["rates"]]
    assert by_dimension == sorted(by_dimension, reverse=True)


def test_scores_come_in_parts_and_name_the_least_probable_rows(folders: dict[str, Path]) -> None:
    view = look_at(load(folders["levels"]))
    found = view.scores()
    while len(found["rows"]) < found["total"]:
        found = view.scores()
    x = torch.as_tensor(view.rows[found["rows"]]).float()
    theirs = taut.importance(view.model, x, 100).log_evidence
    np.testing.assert_allclose(found["values"], theirs, rtol=0, atol=1e-5)
    order = [found["rows"][i] for i in theirs.argsort().tolist()]
    assert found["odd"] == order[:20]
    rank = view.row(found["odd"][0])["rank"]
    assert rank == f"0 of {found['total']} rows are less probable"


def test_what_is_decoded_is_what_the_decoder_says(port: int, folders: dict[str, Path]) -> None:
    at, run = f"/api/runs/{KINDS.index('image')}/", taut.load(folders["image"])
    view = look_at(load(folders["image"]))
    z = (0.9 * view.encoded.means[3] + 0.1 * view.encoded.means[4]).tolist()
    _, found = ask(port, f"{at}decode", {"z": z})
    mean = tasks.decode(run.model, torch.tensor([z]))[0]
    picture = pixels(found["picture"])
    zoom = len(picture) // 4
    np.testing.assert_array_equal(picture[::zoom, ::zoom, 0], (255 * mean).round())
    means, used = view.encoded.means, view.encoded.rates.mean(0) >= 0.01
    places = (means / means.std(0))[:, used]
    to_rows = ((torch.tensor(z) / means.std(0))[used] - places).norm(dim=1)
    apart = torch.cdist(places, places).fill_diagonal_(torch.inf).min(1).values
    closer = float((apart < to_rows.min()).double().mean())
    assert found["support"] == {
        "nearest": int(to_rows.argmin()), "closer": text.share(closer), "far": closer >= 0.99,
    }  # fmt: skip
    assert closer < 0.99
    assert ask(port, f"{at}decode", {"z": [50, 50]})[1]["support"]["far"]
    z = [0.7, -1.2]
    at, run = f"/api/runs/{KINDS.index('conditioned')}/", taut.load(folders["conditioned"])
    told = {}
    for level in run.schema.modelled[1].levels:
        _, found = ask(port, f"{at}decode", {"z": z, "given": {"kind": level}})
        told[level] = found["entries"][0]["value"]
    x = torch.zeros(2, 3)
    x[1, 1] = 1
    context = run.model.split(x)[1]
    means = tasks.decode(run.model, torch.tensor([z, z]), context=context)
    assert list(told.values()) == [text.number(round(float(m), 1)) for m in means[:, 0]]


def test_samples_keep_their_seed_and_what_is_given(port: int, folders: dict[str, Path]) -> None:
    at, run = f"/api/runs/{KINDS.index('table')}/", taut.load(folders["table"])
    _, found = ask(port, f"{at}samples", {"count": 4, "seed": 3})
    drawn = run.sample(4, seed=3)
    assert found["header"] == list(drawn)
    assert [row[1] for row in found["table"]] == list(drawn["kind"])
    assert [row[0] for row in found["table"]] == [text.number(float(v)) for v in drawn["weight"]]


def test_levels_that_are_kept_stay(folders: dict[str, Path]) -> None:
    view = look_at(load(folders["hierarchy"]))
    whole = view.levels(2, 3, 0, 1, {})
    z = view.encoded.means[1:2].float()
    picture = pixels(whole["picture"])
    alone = pixels(view._many(tasks.decode(view.model, z.expand(3, -1)))["picture"])
    np.testing.assert_array_equal(picture, alone)
    below = tasks.drawn_below(view.model, z.expand(50, -1), 1, seed=1)
    assert torch.equal(below[:, :2], z[:, :2].expand(50, -1))
    assert len(below[:, 2].unique()) == 50
    with pytest.raises(UsageError, match="2 levels"):
        view.levels(3, 3, 0, 1, {})


def test_a_file_of_other_rows_is_looked_at_whole(folders: dict[str, Path]) -> None:
    run = load(folders["table"])
    path = folders["table"].parent / "table.csv"
    view = look_at(run, str(path))
    assert view.about()["rows"] == 120
    assert view.about()["part"] == str(path)
    assert torch.equal(view.rows, new_data(run, path).rows)


def test_a_value_of_the_data_is_shown_as_it_is(folders: dict[str, Path], tmp_path: Path) -> None:
    """To the last digit, off the grid and outside of the range of the training."""
    path = tmp_path / "odd.csv"
    name = "a rather long_name of a column"
    path.write_text(f"weight,kind,{name}\n-7012.345,large,99.5\n3000.25,large,\n")
    view = look_at(load(folders["table"]), str(path))
    told = {entry["name"]: entry["value"] for entry in view.row(0)["entries"]}
    assert told == {"weight": "-7012.345", "kind": "large", name: "99.5"}
    assert view.colour("weight")["ends"] == ["-7012.345", "3000.25"]
    path.write_text(f"weight,kind,{name}\n,large,1\n,large,2\n")
    view = look_at(load(folders["gaps"]), str(path))
    assert view.colour("weight") == {"values": [None, None], "levels": [], "ends": ["", ""]}
    rows = load(folders["levels"])._held_out().rows
    told = {
        entry["name"]: entry["value"]
        for entry in look_at(load(folders["levels"])).row(0)["entries"]
    }
    assert [float(told[f"x{i}"]) for i in range(3)] == rows[0].tolist()


def test_what_is_given_is_handed_back_as_it_came(tmp_path: Path) -> None:
    """A condition on numbers, negative ones and thousands; the first held-out row lacks one."""
    rng = np.random.default_rng(0)
    price, when = (
        rng.normal(-12_000, 900, 120).round(2),
        np.arange(120) + np.datetime64("2020-01-01"),
    )
    code = np.where(rng.random(120) < 0.5, "true", "false")
    rows = zip(price, when, code, rng.normal(size=120).round(3), strict=True)
    path, out = tmp_path / "given.csv", tmp_path / "run"
    path.write_text("\n".join(["price,when,code,y", *(",".join(map(str, row)) for row in rows)]))
    some = "--condition price --condition when --condition code --latent-dim 2 --max-epochs 2"
    wide = ["--encoder", "MLP(hidden=(8,))", "--decoder", "MLP(hidden=(8,))", "--num-samples", "5"]
    vae = ["--model", "VAE()", "--objective", "ELBO()", "--threads", "1"]
    done = command("fit", path, *some.split(), *vae, *wide, "--out", out)
    assert done.exit_code == 0, done.stderr
    path.write_text("price,when,code,y\n,2020-02-03,true,0.5\n-12345.67,2020-02-03,false,1e9\n")
    with served([out], source=str(path)) as port:
        at = "/api/runs/0/"
        about = ask(port, f"{at}about")[1]
        given = given_of(about)
        assert given == {"price": "-12345.67", "when": "2020-02-03", "code": "false"}
        _, row = ask(port, f"{at}rows/1")
        assert {entry["name"]: entry["value"] for entry in row["row_given"]} == given
        assert ask(port, f"{at}rows/0")[1]["row_given"][0] == {"name": "price", "value": None}
        for path_, body in (("decode", {"z": about["latent"]["start"]}), ("samples", {"count": 2})):
            status, found = ask(port, at + path_, body | {"given": given})
            assert status == 200, found


@pytest.mark.parametrize("kind", KINDS)
def test_any_point_that_may_be_asked_for_is_decoded(port: int, kind: str) -> None:
    """Where the decoder's numbers overflow, too."""
    at = f"/api/runs/{KINDS.index(kind)}/"
    _, about = ask(port, f"{at}about")
    size, given = len(about["latent"]["start"]), given_of(about)
    for place in (1e6, -1e6):
        status, found = ask(port, f"{at}decode", {"z": [place] * size, "given": given})
        assert status == 200, found


def test_of_very_many_rows_some_are_drawn(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.explorer.views.MOST", 5)
    view = look_at(load(folders["levels"]))
    found = view.map()
    assert (len(found["x"]), view.about()["of"]) == (5, 13)
    whole = taut.load(folders["levels"])._held_out().rows
    assert torch.equal(torch.as_tensor(view.rows), whole[found["numbers"]])
    assert view.row(2)["number"] == found["numbers"][2]


def test_sliders_go_on_while_umap_places_the_rows(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, done = threading.Event(), threading.Event()

    class Slow(Umap):
        @staticmethod
        def fit_transform(x: np.ndarray) -> np.ndarray:
            asked.set()
            assert done.wait(20)
            return Umap.fit_transform(x)

    monkeypatch.setitem(sys.modules, "umap", Slow)
    monkeypatch.setattr(meaning, "UMAP_ROWS", 6)
    with served([folders["levels"]]) as own, ThreadPoolExecutor() as pool:
        waits = pool.submit(ask, own, "/api/runs/0/map?by=umap")
        assert asked.wait(60)
        assert ask(own, "/api/runs/0/decode", {"z": [0.5, -0.5]})[0] == 200
        assert not waits.done()
        done.set()
        status, found = waits.result()
        plane = ask(own, "/api/runs/0/map?by=rates&a=0&b=1")[1]
        monkeypatch.setitem(sys.modules, "umap", None)
        assert ask(own, "/api/runs/0/map?by=umap") == (200, found)  # it is placed once
    assert status == 200
    assert found["axes"] == ["UMAP 1, 6 of 13 rows", "UMAP 2"]
    for name in ("x", "y"):
        known = [(a, -b) for a, b in zip(found[name], plane[name], strict=True) if a is not None]
        assert len(known) == 6
        assert all(a == b for a, b in known)
    with served([folders["levels"]]) as own:
        status, found = ask(own, "/api/runs/0/map?by=umap")
    assert (status, found["error"]) == (422, "UMAP needs umap-learn: pip install 'taut[umap]'")


def test_models_without_a_latent_vector_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.integers(0, 3, (60, 4)))
    few = ["--threads", "1", "--max-epochs", "2", "--num-samples", "20"]
    made = command("fit", tmp_path / "x.npy", "--model", "Mixture()", *few, "--out", tmp_path / "m")
    assert made.exit_code == 0, made.stderr
    view = look_at(load(tmp_path / "m"))
    about = view.about()
    assert "no latent vector" in about["latent"]["why"]
    with pytest.raises(UsageError, match="no latent vector"):
        view.map()
    row = view.row(0)
    assert row["log_evidence"]
    assert row["method"] == "closed form"
    assert len(view.samples(3, 0, False, {})["table"]) == 3


# --- Runs in training, and those that are compared ------------------------------------------------


def test_a_run_in_training_shows_its_curve_and_then_all(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    source = folders["levels"]
    lines = (source / "history.jsonl").read_text().splitlines(keepends=True)
    info = json.loads((source / "run.json").read_text())
    (live / "run.json").write_text(json.dumps(storage.fingerprinted(info)))
    with served([live]) as port:
        _, found = ask(port, "/api/runs/0/history")
        assert (found["finished"], found["step"]) == (False, [])
        assert ask(port, "/api/runs/0/about") == (200, {"finished": False})
        status, found = ask(port, "/api/runs/0/map")
        assert (status, "in training" in found["error"]) == (422, True)
        (live / "history.jsonl").write_text(lines[0] + lines[0][:20])  # a line is being written
        assert ask(port, "/api/runs/0/history")[0] == 200
        (live / "history.jsonl").write_text(lines[0])
        _, found = ask(port, "/api/runs/0/history")
        first = json.loads(lines[0])
        assert (found["step"][0], found["bound"][0]) == (first["step"], first["bound"])
        for file in source.iterdir():  # the manifest comes last
            if file.is_file() and file.name != storage.MANIFEST:
                (live / file.name).write_bytes(file.read_bytes())
        (live / storage.MANIFEST).write_bytes((source / storage.MANIFEST).read_bytes())
        assert ask(port, "/api/runs/0/history")[1]["finished"]
        assert ask(port, "/api/runs/0/about")[1]["finished"]


def test_a_run_that_is_replaced_or_removed_is_not_mixed_with_what_was_there(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The overview is read from the files: map, rows and samples are of the same model."""
    here = tmp_path / "run"
    shutil.copytree(folders["table"], here)
    with served([here]) as port:
        assert ask(port, "/api/runs/0/about")[1]["kind"] == "table"
        shutil.rmtree(here)
        for view in ("about", "map", "rows/0", "overview"):
            status, found = ask(port, f"/api/runs/0/{view}")
            assert (status, "is gone" in found["error"]) == (422, True), view
        shutil.copytree(folders["levels"], here)
        assert ask(port, "/api/runs/0/about")[1]["kind"] == "levels"
        _, found = ask(port, "/api/runs/0/rows/0")
        assert {entry["name"] for entry in found["entries"]} == {"x0", "x1", "x2"}


def test_runs_are_compared_or_it_is_said_why_not(folders: dict[str, Path]) -> None:
    view = look_at(load(folders["levels"]))
    shelf = Shelf([folders["levels"], folders["levels"]])
    asked: list[int] = []

    def count(runs: Any) -> dict[str, Any]:
        asked.append(len(runs))
        return {"lines": []}

    assert shelf.comparison(count) is shelf.comparison(count)
    assert asked == [2]
    assert view.run.path == folders["levels"]
    with served([folders["levels"], folders["counts"]]) as port:
        status, found = ask(port, "/api/compare", {})
        assert (status, "other data" in found["error"]) == (422, True)


# --- The nine attacks -----------------------------------------------------------------------------


def deep(size: int) -> bytes:
    return b'{"z":' + b"[" * size + b"]" * size + b"}"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"z":[NaN,0]}',
        b'{"z":[Infinity,0]}',
        b'{"z":[1e400,0]}',
        b'{"z":["1",0]}',
        b'{"z":[true,0]}',
        b'{"z":[' + b"9" * 5000 + b",0]}",
        b'{"z":[0,0],"more":1}',
        b'{"z":[0,0],"seed":1e30}',
        b'{"z":{"z":0}}',
        b"\xff\xfe",
        b"",
        deep(30_000),
    ],
    ids=lambda raw: repr(raw[:24]),
)
def test_nonsense_in_a_body_is_refused(port: int, raw: bytes) -> None:
    status, found = ask(port, "/api/runs/0/decode", raw=raw)
    assert status in (400, 422)
    assert set(found) == {"error"}
    assert "nan" not in found["error"].lower()


@pytest.mark.parametrize("size", [1, 3, 8192])
def test_another_number_of_dimensions_is_refused(port: int, size: int) -> None:
    status, found = ask(port, "/api/runs/0/decode", {"z": [0] * size})
    assert (status, found) == (422, {"error": "z has 2 dimensions"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("decode", {"z": [0] * 10_000}),
        ("samples", {"count": 10**9}),
        ("samples", {"count": 0}),
        ("samples", {"count": 2, "seed": -1}),
        ("levels", {"count": 10**9}),
        ("levels", {"kept": 10**9}),
    ],
)
def test_numbers_beyond_reason_are_refused(port: int, path: str, body: Any) -> None:
    status, found = ask(port, f"/api/runs/6/{path}", body)
    assert (status, found) == (422, {"error": server.NONSENSE})


def test_a_large_body_is_not_read(port: int) -> None:
    status, found = ask(port, "/api/runs/0/decode", raw=b"[" + b"0," * 2_000_000)
    assert (status, found) == (413, {"error": "the body is too large"})
    with socket.create_connection(("127.0.0.1", port)) as sent:  # in chunks, of no stated length
        head = "POST /api/compare HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        sent.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        for _ in range(8):
            sent.sendall(chunk)
        sent.sendall(b"0\r\n\r\n")
        assert sent.recv(1000).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "path",
    [
        "/../run.json",
        "/..%2f..%2frun.json",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/../server.py",
        "/server.py",
        "/link.txt",
        "/app.js%00.html",
        "/api/runs/0/rows/../../../run.json",
        "/api/runs/99/map",
        "/api/runs/-1/map",
        "/docs",
        "/openapi.json",
    ],
)
def test_a_path_reaches_no_file(port: int, path: str) -> None:
    status, found = ask(port, path)
    assert (status, set(found)) == (404, {"error"})


@pytest.mark.parametrize("run", ["0x1", "1e3", "9" * 5000, "%00", "a"])
def test_a_run_is_a_number(port: int, run: str) -> None:
    assert ask(port, f"/api/runs/{run}/about")[0] in (404, 422)


def test_another_name_for_the_host_is_refused(port: int) -> None:
    for host in ("evil.example", f"evil.example:{port}", "", "127.0.0.1.evil.example"):
        status, found = ask(port, "/api/runs", Host=host)
        assert (status, found) == (400, {"error": "this server is called by another name"})
    assert ask(port, "/api/runs", Host="localhost")[0] == 200


def test_another_page_gets_nothing(port: int) -> None:
    body = {"z": [0.0, 0.0]}
    for origin in ("https://evil.example", "null", "http://127.0.0.1", f"http://localhost:{port}"):
        assert ask(port, "/api/runs/0/decode", body, Origin=origin)[0] == 403
    own = f"http://127.0.0.1:{port}"
    assert ask(port, "/api/runs/0/decode", body, Origin=own)[0] == 200
    for site in ("cross-site", "same-site"):
        assert ask(port, "/api/runs/0/map", Sec_Fetch_Site=site)[0] == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, found = ask(port, "/api/compare", raw=b"{}", **{"content-type": kind})
        assert (status, found) == (415, {"error": "a body is JSON"})


def test_every_answer_keeps_the_page_to_itself(port: int) -> None:
    for path in ("/", "/app.js", "/api/runs", "/nothing"):
        with socket.create_connection(("127.0.0.1", port)) as sent:
            ask_for = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            sent.sendall(ask_for.encode())
            head = sent.makefile("rb").read().partition(b"\r\n\r\n")[0].decode().lower()
        assert "default-src 'none'; script-src 'self'" in head
        assert "x-content-type-options: nosniff" in head
        assert "\r\nserver:" not in head
    with socket.create_connection(("127.0.0.1", port)) as sent:
        sent.sendall(b"DELETE /api/runs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sent.recv(100).startswith(b"HTTP/1.1 405")


def test_slow_clients_are_let_go(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    monkeypatch.setattr(server, "CONNECTIONS", 30)
    head = b"POST /api/compare HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with served([folders["levels"]]) as port:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(10)]
        for each in idle[:5]:
            each.sendall(head)  # and no more
        bodies = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(5)]
        for each in bodies:
            each.sendall(head + b"Content-Length: 10\r\n\r\n{")
        assert ask(port, "/api/runs")[0] == 200
        for each in bodies:
            assert each.recv(100).startswith(b"HTTP/1.1 408")
        for each in idle:
            with suppress(ConnectionResetError):
                assert each.recv(100) == b""
        many = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(100)]
        for each in many:  # those above the number and those that send nothing
            with suppress(ConnectionResetError):
                assert each.recv(100) == b""
        assert ask(port, "/api/runs")[0] == 200
        for each in idle + bodies + many:
            each.close()


def test_who_does_not_read_the_answers_is_let_go(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server knows when: what its kernel then tells the other side depends on what is full."""
    gone = threading.Event()

    def lost(self: server.Patient, error: Exception | None) -> None:
        ended(self, error)
        gone.set()

    ended = server.Patient.connection_lost
    monkeypatch.setattr(server.Patient, "connection_lost", lost)
    monkeypatch.setattr(server, "IDLE", 0.2)
    with served([folders["levels"]]) as port:
        sent = socket.create_connection(("127.0.0.1", port), timeout=60)
        sent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent.setblocking(False)
        many = b"GET /app.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000
        with suppress(BlockingIOError, ConnectionResetError, BrokenPipeError):
            while True:
                sent.send(many)  # until buffers are full
        assert gone.wait(60)
        sent.close()


def test_two_hundred_decodes_at_once_are_answered_or_sent_away(port: int) -> None:
    before = _memory()

    def one(number: int) -> int:
        return ask(port, "/api/runs/0/decode", {"z": [0.01 * number, 0.0]})[0]

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(one, range(200)))
    assert set(found) <= {200, 429}
    assert 200 in found
    assert ask(port, "/api/runs/0/decode", {"z": [0.0, 0.0]})[0] == 200
    assert _memory() - before < 200 * 2**20


def _memory() -> int:
    """Returns what the process holds, bytes; 0 where the system does not say."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * 4096 if file.exists() else 0


def test_who_waits_too_long_in_the_queue_is_sent_away(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WAITING", 1)
    full = threading.Event()

    def until_full(self: Any, *given: Any) -> dict[str, Any]:
        full.wait(60)
        return {}

    monkeypatch.setattr("taut.explorer.views.View.decode", until_full)
    with served([folders["levels"]]) as port, ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask, port, "/api/runs/0/decode", {"z": [0, 0]}) for _ in range(6)]
        refused = itertools.islice(as_completed(asked), 4)
        assert [each.result()[0] for each in refused] == [429] * 4
        full.set()
        found = [each.result() for each in asked]
    assert sorted(status for status, _ in found) == [200, 200, 429, 429, 429, 429]
    assert (429, {"error": "too many requests at once"}) in found


def test_a_bug_of_ours_says_nothing_of_the_machine(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *given: Any) -> Any:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr("taut.explorer.views.View.decode", broken)
    with served([folders["levels"]]) as port:
        status, found = ask(port, "/api/runs/0/decode", {"z": [0, 0]})
    assert (status, found) == (500, {"error": server.BUG})


# --- The command ----------------------------------------------------------------------------------


def test_the_command_refuses_in_one_line(tmp_path: Path, folders: dict[str, Path]) -> None:
    assert "is not a run folder" in line("explore", tmp_path)
    assert "from 1 to 65535" in command("explore", folders["table"], "--port", "0").stderr
    assert "taut: " in line("explore", folders["table"], "--data", tmp_path / "no.csv")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        assert f"port {number} is taken" in line("explore", folders["table"], "--port", number)
    with server.open_socket(None) as first, server.open_socket(None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]


def test_what_there_is_to_say_of_other_rows_is_said(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    names = "weight,kind,a rather long_name of a column"
    file = tmp_path / "new.csv"
    file.write_text("\n".join([names, *["900.0,large,1.5"] * 30]))
    said = list(new_data(load(folders["table"]), str(file)).notes)
    assert said
    assert Shelf([folders["table"], folders["gaps"]], source=str(file)).notes()[: len(said)] == said


def test_what_is_not_installed_is_said_in_a_line(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "taut.explorer.server")
    monkeypatch.delattr("taut.explorer.server")
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert "pip install 'taut[explore]'" in line("explore", folders["table"])


def test_nothing_else_imports_fastapi() -> None:
    names = re.compile(r"^\s*(?:from|import) (?:fastapi|uvicorn|starlette)", re.MULTILINE)
    folder = Path(taut.__file__).parent
    found = [path.name for path in folder.rglob("*.py") if names.search(path.read_text())]
    assert found == ["server.py"]
    users = re.compile(r"explorer(?: import|\.)server|explorer import server")
    found = [path.name for path in folder.rglob("*.py") if users.search(path.read_text())]
    assert found == ["explore.py"]


def test_a_number_that_is_not_finite_is_no_number(folders: dict[str, Path]) -> None:
    view = look_at(load(folders["levels"]))
    view.encoded.means[3, 0] = math.nan
    assert None in view.map(dims=(0, 1))["x"]
