"""The page in a real Chromium: every slider, click and key, in light and dark and on a phone, with
nothing for axe-core to find, and fluid with 50,000 rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import torch
from explored import KINDS, Umap, ask, make, served

import taut
from taut.evidence import text
from taut.runs import meaning
from taut.use import tasks

sync_api = pytest.importorskip("playwright.sync_api", reason="left out: there is no playwright")

VIEWS = ("overview", "map", "decode", "samples", "compare", "training")
AXE = "async () => (await axe.run(document, {resultTypes: ['violations']}))"
PHONE = {"width": 320, "height": 640}
FRAMES = """async () => {
  const plane = taut.plane, gaps = [];
  plane.frames.length = 0;
  let last = performance.now();
  for (let i = 0; i < 60; i++) {
    plane.pan(i % 2 ? 3 : -3, 2);
    await new Promise(requestAnimationFrame);
    gaps.push(performance.now() - last);
    last = performance.now();
  }
  const middle = values => values.sort((a, b) => a - b)[values.length >> 1];
  return {rows: plane.x.length, draw: middle([...plane.frames]), frame: middle(gaps)};
}"""


class Watched:
    """Creates a page of the explorer that notes what goes wrong and what it loads.

    Args:
        page: The page.
        port: Of the server.
    """

    def __init__(self, page: Any, port: int) -> None:
        self.page, self.port = page, port
        self.wrong: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda said: self.wrong.append(said.text))
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, view: str = "overview", kind: str = "image") -> None:
        self.page.goto(f"http://127.0.0.1:{self.port}/")
        self.page.locator("#overview:not([hidden])").wait_for()
        self.choose(kind)
        self.turn(view)

    def choose(self, kind: str) -> None:
        with self.page.expect_response("**/about"):
            self.page.select_option("#run", label=kind)
        self.until(f"taut.state.about && taut.state.run === {KINDS.index(kind)}")

    def turn(self, view: str) -> None:
        self.page.click(f'#views a[href="#{view}"]')
        self.page.locator(f"#{view}:not([hidden])").wait_for()

    def until(self, condition: str) -> Any:
        """Waits for something to be true in the page, whose policy lets no one else do so."""
        for _ in range(1200):
            if found := self.page.evaluate(f"() => ({condition})"):
                return found
            self.page.wait_for_timeout(25)
        raise AssertionError(f"{condition} did not become true: {self.wrong}")

    def quiet(self) -> None:
        """Waits for all that is asked."""
        self.until("!document.querySelector('[aria-busy]')")

    def text(self, place: str) -> str:
        return str(self.page.inner_text(place))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    browser.chromium()
    return make(tmp_path_factory.mktemp("browsed"))


@pytest.fixture(scope="module")
def port(folders: dict[str, Path]) -> Iterator[int]:
    torch.set_default_dtype(torch.float32)
    with served(list(folders.values())) as number:
        yield number


@pytest.fixture(autouse=True)
def _single() -> None:
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = browser.chromium()
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(browser.FLAGS))
        yield started
        started.close()


@pytest.fixture
def page(chromium: Any, port: int) -> Iterator[Watched]:
    """A page that at its end has loaded nothing from elsewhere and complained of nothing."""
    context = chromium.new_context(viewport={"width": 1200, "height": 800})
    watched = Watched(context.new_page(), port)
    yield watched
    context.close()
    assert watched.wrong == []
    own = (f"http://127.0.0.1:{port}/", "data:")
    assert [url for url in watched.asked if not url.startswith(own)] == []


# --- Who does not see it, or not well -------------------------------------------------------------


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_axe_finds_nothing_in_any_view(chromium: Any, port: int, look: str) -> None:
    size = PHONE if look == "phone" else {"width": 1200, "height": 800}
    colours = "dark" if look == "dark" else "light"
    context = chromium.new_context(viewport=size, color_scheme=colours)
    watched = Watched(context.new_page(), port)
    axe = browser.axe()
    for kind in ("gaps", "hierarchy") if look == "light" else ("gaps",):
        watched.open("map", kind)
        watched.page.evaluate(axe)
        watched.page.focus("#plane")
        watched.page.keyboard.press("ArrowRight")
        watched.page.locator("#point h3").wait_for()
        watched.page.click("#listed summary")
        for view in VIEWS if kind == "gaps" else ("decode", "samples"):
            watched.turn(view)
            watched.page.wait_for_timeout(100)
            watched.quiet()
            found = watched.page.evaluate(AXE)["violations"]
            told = [(v["id"], [n["html"][:100] for n in v["nodes"]][:3]) for v in found]
            assert told == [], (look, view)
            wide = watched.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= size["width"], f"{view} scrolls sideways"
    ground = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(21, 24, 28)") == (look == "dark")
    context.close()
    assert watched.wrong == []


def test_all_can_be_reached_by_tab_alone(page: Watched) -> None:
    page.open("map", "table")
    page.quiet()
    page.page.reload()
    page.until("window.taut && taut.plane.x.length > 5")
    page.quiet()
    seen = []
    for _ in range(60):
        page.page.keyboard.press("Tab")
        seen.append(
            page.page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
        if "go-to" in seen or seen[-1] == "":
            break
    wanted = ["Skip to the view", "run", "Overview", "Training", "by", "axis-a", "axis-b"]
    wanted += ["colour", "plane", "zoom-in", "zoom-out", "zoom-all"]
    order = [seen.index(name) for name in wanted]
    assert order == sorted(order)
    page.page.keyboard.press("Home")


# --- The map --------------------------------------------------------------------------------------


def test_a_click_shows_the_data_point(page: Watched) -> None:
    page.open("map", "gaps")
    page.until("taut.plane.x.length > 5 && taut.plane.width > 0")
    box = page.page.locator("#plane").bounding_box()
    at = page.page.evaluate(
        "() => [taut.plane.across(taut.plane.x[4]), taut.plane.down(taut.plane.y[4])]"
    )
    page.page.mouse.click(box["x"] + at[0], box["y"] + at[1])
    page.until("taut.plane.selected === 4")
    page.page.locator("#point h3").wait_for()
    assert page.text("#point h3") == "Row 4"
    row = ask(page.port, f"/api/runs/{KINDS.index('gaps')}/rows/4")[1]
    shown = page.text("#point")
    assert row["log_evidence"] in shown.replace("\n", " ")
    for entry in row["entries"]:
        assert entry["log_p"] in shown
    assert "What each dimension says of it" in shown
    page.page.mouse.click(box["x"] + 3, box["y"] + 3)  # no row is near
    assert page.page.evaluate("taut.plane.selected") == 4


def test_keys_go_from_row_to_row_and_zoom(page: Watched) -> None:
    page.open("map", "image")
    page.until("taut.plane.x.length > 5 && taut.plane.width > 0")
    page.page.focus("#plane")
    page.page.keyboard.press("ArrowRight")
    first = page.until("taut.plane.selected + 1") - 1
    where = "() => [taut.plane.x[taut.plane.selected], taut.plane.y[taut.plane.selected]]"
    for key, axis, sign in (
        ("ArrowRight", 0, 1), ("ArrowLeft", 0, -1), ("ArrowUp", 1, 1), ("ArrowDown", 1, -1),
    ):  # fmt: skip
        before = page.page.evaluate(where)
        chosen = page.page.evaluate("taut.plane.selected")
        page.page.keyboard.press(key)
        after = page.page.evaluate(where)
        moved = page.page.evaluate("taut.plane.selected") != chosen
        assert moved == ((after[axis] - before[axis]) * sign > 0)
    page.page.locator("#point h3").wait_for()
    page.until("document.querySelector('#told').textContent.startsWith('row ')")
    assert "reconstruction" in page.text("#point")
    zoom = "Number(document.querySelector('#plane').dataset.zoom)"
    page.page.keyboard.press("+")
    assert page.page.evaluate(zoom) == 1.5
    page.page.keyboard.press("-")
    assert page.page.evaluate(zoom) == 1
    for button in ("zoom-in", "zoom-in", "zoom-out"):
        page.page.click(f"#{button}")
    assert page.page.evaluate(zoom) == 1.5
    page.page.focus("#plane")
    page.page.keyboard.press("0")
    assert page.page.evaluate(zoom) == 1
    page.page.mouse.wheel(0, -200)  # not over the map
    box = page.page.locator("#plane").bounding_box()
    page.page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.page.mouse.wheel(0, -200)
    page.until(f"{zoom} > 1")
    centre = page.page.evaluate("taut.plane.view.x")
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 260, box["y"] + 200, steps=3)
    page.page.mouse.up()
    assert page.page.evaluate("taut.plane.view.x") < centre
    page.page.click("#zoom-all")
    page.page.focus("#plane")
    page.page.keyboard.press("Escape")
    page.until("taut.plane.selected === -1")
    page.until("document.querySelector('#point').textContent.includes('No row')")
    assert first >= 0


def test_the_map_is_coloured_by_each_column_and_by_log_p(page: Watched) -> None:
    page.open("map", "table")
    page.until("document.querySelector('#colour').options.length > 4")
    page.page.select_option("#colour", label="kind")
    page.until("taut.state.colour && taut.state.colour.name === 'kind'")
    page.page.locator("#legend .key").first.wait_for()
    assert "small <b>" in page.text("#legend")  # as text, not as markup
    page.page.select_option("#by", "pca")
    page.until("document.querySelector('#axis-x').textContent.startsWith('component 1')")
    assert page.page.evaluate("taut.plane.colour.levels.length") == 2  # it stays
    page.page.select_option("#by", "rates")
    page.until("document.querySelector('#axis-x').textContent.startsWith('z')")
    page.page.select_option("#colour", label="weight")
    page.page.locator("#legend .ramp").wait_for()
    page.page.select_option("#colour", label="log p(x)")
    page.until("taut.state.colour && taut.state.colour.name.startsWith('log p(x)')")
    values = page.page.evaluate("taut.state.colour.values")
    scores = ask(page.port, f"/api/runs/{KINDS.index('table')}/scores")[1]
    assert [values[row] for row in scores["rows"]] == pytest.approx(scores["values"])
    page.page.select_option("#colour", label="nothing")
    page.until("taut.state.colour === null")
    page.page.select_option("#by", "pca")
    page.until("document.querySelector('#axis-x').textContent.startsWith('component 1')")
    assert page.page.locator(".axis:visible").count() == 0
    page.page.select_option("#by", "rates")
    second = page.page.locator("#axis-a option").nth(1).get_attribute("value")
    page.page.select_option("#axis-a", second)
    page.until(f"document.querySelector('#axis-x').textContent.startsWith('z{second}')")


def test_umap_places_some_rows_and_the_others_are_not_drawn(
    page: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", Umap)
    monkeypatch.setattr(meaning, "UMAP_ROWS", 6)
    page.open("map", "levels")
    page.until("taut.plane.x.length > 5")
    page.page.select_option("#by", "umap")
    page.until("document.querySelector('#axis-x').textContent.startsWith('UMAP 1, 6 of 13 rows')")
    assert page.page.locator("#map-why:visible").count() == 0
    missing = page.page.evaluate("[...taut.plane.x].flatMap((x, i) => Number.isNaN(x) ? [i] : [])")
    assert len(missing) == 7
    page.page.click("#listed summary")
    page.page.fill("#go-to", str(missing[0]))
    page.page.keyboard.press("Enter")
    page.until(f"document.querySelector('#point h3')?.textContent === 'Row {missing[0]}'")
    page.page.focus("#plane")
    page.page.keyboard.press("ArrowRight")
    page.until(f"![{missing[0]}, -1].includes(taut.plane.selected)")
    assert page.page.evaluate("taut.plane.selected") not in missing
    page.page.select_option("#by", "rates")
    page.until("document.querySelector('#axis-x').textContent.startsWith('z')")


def test_the_list_stands_in_for_the_map(page: Watched) -> None:
    page.open("map", "levels")
    page.until("taut.plane.x.length > 5")
    page.page.click("#listed summary")
    page.page.get_by_role("button", name="row 3", exact=True).click()
    page.until("taut.plane.selected === 3")
    page.page.fill("#go-to", "7")
    page.page.keyboard.press("Enter")
    page.until("taut.plane.selected === 7")
    page.page.click("#find-odd")
    page.page.get_by_text("The least probable of 13 rows").wait_for()
    odd = ask(page.port, f"/api/runs/{KINDS.index('levels')}/scores")[1]["odd"]
    assert page.text("#list tbody tr:first-child th") == f"row {odd[0]}"
    page.page.click("#list tbody tr:first-child button")
    page.until(f"taut.plane.selected === {odd[0]}")
    page.page.get_by_text("among others").wait_for()


def test_a_closer_look_and_sliders_at_a_row(page: Watched) -> None:
    page.open("map", "table")
    page.until("taut.plane.x.length > 5")
    unsure = {"log_evidence": "−1", "method": "m", "reliable": False, "entries": [], "rates": []}
    row = {"place": 2, "number": 2, "name": "", "z": [0.5, -0.25], **unsure}
    page.page.route("**/rows/2", lambda route: route.fulfill(json=row))
    page.page.evaluate("taut.plane.choose(2)")
    page.page.locator("#closer").wait_for()
    with page.page.expect_response("**/rows/2?closer=true"):
        page.page.click("#closer")
    page.until("!document.querySelector('#closer')")
    page.page.evaluate("taut.plane.choose(3)")
    page.page.get_by_role("heading", name="Row 3").wait_for()
    z = ask(page.port, f"/api/runs/{KINDS.index('table')}/rows/3")[1]["z"]
    page.page.get_by_role("button", name="Put the sliders here").click()
    page.until("!document.querySelector('#decode').hidden")
    page.until("document.querySelector('#z0')")
    found = page.page.evaluate("[...'01'].map(d => Number(document.querySelector('#z' + d).value))")
    assert found == pytest.approx(z, abs=1e-4)


# --- The decoder ----------------------------------------------------------------------------------


def test_every_slider_decodes_what_python_decodes(page: Watched, folders: dict[str, Path]) -> None:
    page.open("decode", "table")
    page.page.locator("#decoded td").first.wait_for()
    model = taut.load(folders["table"]).model
    for number in range(page.page.locator("#sliders input[type=range]").count()):
        slider = page.page.locator("#sliders input[type=range]").nth(number)
        if not slider.is_visible():
            page.page.click("#others summary")
        slider.focus()
        before = slider.input_value()
        with page.page.expect_response("**/decode"):
            page.page.keyboard.press("ArrowRight")
        with page.page.expect_response("**/decode"):
            page.page.keyboard.press("PageUp")
        assert float(slider.input_value()) > float(before)
        page.quiet()
        z = page.page.evaluate("taut.state.z")
        mean = tasks.decode(model, torch.tensor([z]))[0]
        shown = page.text("#decoded tbody tr:first-child td")
        assert shown == text.number(round(float(mean[0]), 1))
    box = page.page.locator("#sliders input[type=number]").first
    with page.page.expect_response("**/decode"):
        box.fill("1.25")
        box.press("Enter")
    dim = box.get_attribute("data-dim")
    assert page.page.evaluate(f"taut.state.z[{dim}]") == 1.25
    assert page.page.get_attribute(f"#z{dim}", "aria-valuetext") == "1.25"
    with page.page.expect_response("**/decode"):
        page.page.click("#to-mean")
    start = ask(page.port, f"/api/runs/{KINDS.index('table')}/about")[1]["latent"]["start"]
    assert page.page.evaluate("taut.state.z") == start
    with page.page.expect_response("**/decode") as answer:
        page.page.check("#draw")
    assert json.loads(answer.value.request.post_data)["draw"] is True
    with page.page.expect_response("**/decode"):
        page.page.click("#to-random")
    page.until("document.querySelector('#support').textContent.includes('lies nearest')")
    page.page.click("#nearest")
    page.until("!document.querySelector('#map').hidden && taut.plane.selected >= 0")


def test_a_drag_decodes_live_and_traversals_follow_the_choice(page: Watched) -> None:
    page.open("decode", "image")
    page.page.locator("#decoded img").wait_for()
    before = page.page.get_attribute("#decoded img", "src")
    box = page.page.locator("#dims input[type=range]").first.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2, steps=8)
    changed = f"document.querySelector('#decoded img').src !== {json.dumps(before)}"
    page.until(changed)  # before the mouse lets go
    page.page.mouse.up()
    page.quiet()
    assert page.page.evaluate("taut.state.decodeTime") < 2000
    page.page.locator("#strips img").first.wait_for()
    with page.page.expect_response("**/traversals?dim=*"):
        page.page.select_option("#traverse-dim", index=2)
    page.until("document.querySelectorAll('#strips img').length === 1")


def test_what_is_given_changes_what_is_decoded_and_sampled(page: Watched) -> None:
    page.open("decode", "conditioned")
    page.page.locator("#decoded td").first.wait_for()
    levels = ["large", "small <b>"]
    levels.remove(page.page.input_value("#decode-given select"))
    page.quiet()
    with page.page.expect_response("**/decode") as answer:
        page.page.select_option("#decode-given select", label=levels[0])
    assert json.loads(answer.value.request.post_data)["given"] == {"kind": levels[0]}
    page.turn("samples")
    with page.page.expect_response("**/samples") as answer:
        page.page.select_option("#sample-given select", label="small <b>")
        page.page.click("#sampling button[type=submit]")
    assert answer.value.status == 200


# --- Samples, levels, runs side by side, training ------------------------------------------------


def test_samples_follow_every_field(page: Watched) -> None:
    page.open("samples", "table")
    page.page.locator("#sampled tbody tr").first.wait_for()
    page.page.fill("#count", "3")
    with page.page.expect_response("**/samples"):
        page.page.click("#sampling button[type=submit]")
    page.until("document.querySelectorAll('#sampled tbody tr').length === 3")
    first = page.text("#sampled")
    with page.page.expect_response("**/samples"):
        page.page.click("#others-please")
    assert page.page.input_value("#seed") == "1"
    page.quiet()
    assert page.text("#sampled") != first
    with page.page.expect_response("**/samples") as answer:
        page.page.check("#mean")
        page.page.press("#count", "Enter")
    assert json.loads(answer.value.request.post_data)["mean"] is True
    page.page.fill("#count", "65")  # refused where it is typed
    page.page.press("#count", "Enter")
    assert not page.page.evaluate("document.querySelector('#count').validity.valid")


def test_levels_are_drawn_again_below_those_that_are_kept(page: Watched) -> None:
    page.open("samples", "hierarchy")
    page.page.locator("#leveled img").wait_for()
    with page.page.expect_response("**/levels") as answer:
        page.page.select_option("#kept", "2")
    assert json.loads(answer.value.request.post_data)["kept"] == 2
    with page.page.expect_response("**/levels"):
        page.page.select_option("#of", "row")
    page.page.fill("#level-row", "5")
    with page.page.expect_response("**/levels") as answer:
        page.page.press("#level-row", "Enter")
    assert json.loads(answer.value.request.post_data)["row"] == 5
    page.choose("image")
    assert not page.page.is_visible("#by-level")


def test_runs_stand_side_by_side(page: Watched) -> None:
    found = {"header": ["12 rows", "a", "b"], "lines": [["log p(x)", "−1.0 ± 0.1", "–"]]}
    found |= {"warnings": ["few rows"], "picture": None}
    page.page.route("**/api/compare", lambda route: route.fulfill(json=found))
    page.open("compare", "table")
    page.page.click("#start-compare")
    page.page.get_by_text("few rows").wait_for()
    assert "−1.0 ± 0.1" in page.text("#compared table")


def test_the_curve_grows_while_a_run_trains(page: Watched) -> None:
    lines: dict[str, Any] = {"finished": False, "best": None, "epoch": [1], "learning_rate": [0.1]}
    lines |= {"step": [100], "bound": [-9.0], "validation": [None]}
    page.page.route("**/history", lambda route: route.fulfill(json=lines))
    page.open("training", "table")
    page.page.get_by_text("step 100").first.wait_for()
    lines |= {"step": [100, 200], "bound": [-9.0, -7.5], "validation": [None, -8.25], "best": 200}
    page.page.get_by_text("Training: step 200, held-out bound -8.25 nats.").wait_for()
    assert page.page.locator("#curve polyline").count() == 2
    lines["finished"] = True
    page.page.get_by_text("Done: step 200").wait_for()
    page.page.click("#training summary")
    assert "-8.25" in page.text("#curve-table")


# --- When something is wrong ----------------------------------------------------------------------


def test_a_server_that_ended_is_said_and_a_busy_one_waited_for(page: Watched) -> None:
    page.open("samples", "table")
    page.page.locator("#sampled tbody tr").first.wait_for()
    left = [2]

    def busy(route: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            route.fulfill(status=429, json={"error": "too many requests at once"})
        else:
            route.fallback()

    page.page.route("**/samples", busy)
    page.page.fill("#count", "2")
    page.page.click("#sampling button[type=submit]")
    page.until("document.querySelectorAll('#sampled tbody tr').length === 2")
    assert left[0] < 0
    page.page.unroute("**/samples")
    page.page.route("**/samples", lambda route: route.abort())
    page.page.click("#sampling button[type=submit]")
    page.page.get_by_text("The server does not answer").wait_for()
    assert page.page.get_by_role("button", name="Try again").is_visible()
    page.page.unroute("**/samples")
    page.page.click("#sampling button[type=submit]")
    page.until("!document.querySelector('#banner').textContent")
    page.wrong.clear()  # Chromium itself tells of each answer that failed


# --- Many rows ------------------------------------------------------------------------------------


def test_fifty_thousand_rows_stay_fluid(
    chromium: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "many.npy", rng.integers(0, 5, (50_000, 3)))
    context = chromium.new_context(viewport={"width": 1200, "height": 800})
    with served([folders["levels"]], str(tmp_path / "many.npy")) as port:
        watched = Watched(context.new_page(), port)
        watched.page.goto(f"http://127.0.0.1:{port}/#map")
        watched.until("window.taut && taut.plane.x.length === 50000 && taut.plane.width > 0")
        watched.page.select_option("#colour", label="x0")
        watched.until("taut.state.colour && taut.state.colour.name === 'x0'")
        found = watched.page.evaluate(FRAMES)
        watched.page.focus("#plane")
        watched.page.keyboard.press("ArrowRight")
        watched.page.locator("#point h3").wait_for()
    context.close()
    assert found["rows"] == 50_000
    # 1 ms and 17 ms on an idle machine; this bound leaves room for a busy one
    assert found["draw"] < 40
    assert found["frame"] < 100
    assert watched.wrong == []
