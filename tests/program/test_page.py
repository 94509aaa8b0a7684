"""The report in a real browser: it runs without an error, sorts, filters, fits a telephone, and axe finds nothing."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from bench.documents import Matrix, Result
from bench.outside.publish import documents
from bench.report import model
from bench.report.page import page
from bench.report.questions import REFERENCE
from dataplanes import catalog
from dataplanes.selection import DIRECT, SHORT, split, title

pytestmark = pytest.mark.program
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
_TRY = r"""
<script>
{
const out = {};
const shown = (row) => !row.hidden;
const table = document.querySelector("table.sortable");
const column = (n) => [...table.tBodies[0].rows].map((row) => row.cells[n].textContent.trim());
out.planes = column(0);
table.tHead.rows[0].cells[3].querySelector("button").click();
out.ascending = column(3);
table.tHead.rows[0].cells[3].querySelector("button").click();
out.descending = column(3);
const filter = document.getElementById("filter");
const rows = [...document.querySelectorAll("table.map tbody tr")];
const checks = () => rows.filter(shown).map((row) => row.dataset.check);
const use = (name, value) => { filter.elements[name].value = value; filter.dispatchEvent(new Event("input")); };
const planes = [...document.querySelector("table.map").tHead.rows[1].cells];
const heads = () => planes.filter(shown).map((each) => each.textContent);
out.filter = shown(filter);
out.all = checks().length;
use("theme", "identity"); out.identity = checks(); use("theme", "");
use("text", "drain"); out.drain = checks(); use("text", "");
use("level", "core"); out.core = checks(); use("level", "");
filter.elements.differing.checked = true; use("text", ""); out.differing = checks();
filter.elements.differing.checked = false; use("text", "");
use("plane", "nft-lb"); out.plane = heads(); use("plane", "");
use("placement", "host"); out.host = heads(); use("placement", "");
const cell = document.querySelector(".map .fail");
out.clicked = cell.parentElement.dataset.check;
cell.click();
const opened = document.getElementById("check-" + out.clicked);
out.opened = opened.closest("details").open;
out.chosen = opened.closest("details").querySelector(".chosen")?.textContent;
location.hash = "#check-change.drain-udp";
out.plots = [...document.querySelectorAll("figure svg")].map((plot) => plot.textContent);
out.width = document.documentElement.scrollWidth;
const lost = document.querySelectorAll("#verdicts ~ .wide tbody tr td[data-heading=lost]");
out.offscreen = [...document.querySelectorAll("#answer td, #picture svg, h1")].concat([...lost])
  .filter((each) => each.checkVisibility() && each.getBoundingClientRect().right > innerWidth).length;
const picture = [...document.querySelectorAll("#picture svg")].find((each) => each.checkVisibility());
out.picture = picture.getBoundingClientRect().top + scrollY;
const texts = [...document.querySelectorAll("svg.chart")].filter((each) => each.checkVisibility()).flatMap((chart) => {
  const frame = chart.getBoundingClientRect();
  return [...chart.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.left < frame.left - 1 || box.right > frame.right + 1 ||
      box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
  }).map((text) => text.textContent);
});
out.clipped = texts;
out.few = [];
out.covered = [];
for (const chart of [...document.querySelectorAll("svg.chart")].filter((each) => each.checkVisibility())) {
  const title = chart.getAttribute("aria-label");
  const labels = [...chart.querySelectorAll("text")];
  const axes = {};
  for (const each of labels)
    if (/^[-+\u2212]?[\d,.]+[kMG]?$/.test(each.textContent)) {
      const axis = { middle: "y", end: "x" }[each.getAttribute("text-anchor")];
      if (axis) (axes[axis + each.getAttribute(axis)] ??= []).push(each.textContent);
    }
  const counts = Object.values(axes).map((each) => each.length);
  if (!counts.length || Math.min(...counts) < 3) out.few.push([title, axes]);
  const boxes = labels.map((each) => each.getBoundingClientRect());
  boxes.forEach((a, n) => boxes.slice(0, n).forEach((b, m) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 2 && down > 4) out.covered.push([title, labels[n].textContent, labels[m].textContent]);
  }));
}
setTimeout(() => {
  out.linked = document.getElementById("check-change.drain-udp").closest("details").open;
  document.title = JSON.stringify(out);
}, 50);
}
</script></body>"""
_AXE = """
<script>{axe}</script>
<script>
for (const each of document.querySelectorAll("details")) each.open = true;
axe.run().then(({{ violations, passes }}) => {{
  document.title = JSON.stringify({{
    found: violations.map(({{ id, nodes }}) => `${{id}}: ${{nodes[0].html}}: ${{nodes[0].failureSummary}}`),
    rules: passes.map(({{ id }}) => id),
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
  }});
}});
</script></body>"""
Kind = TypeVar("Kind", Result, Matrix)
FEW = {DIRECT, SHORT, REFERENCE, "nft-lb", "ipvs-lb-dsr@map", "ebpf-redirect"}
"""Planes with every outcome and every effect: the structure of the page does not depend on their number."""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found, f"no browser; install one of {', '.join(BROWSERS)}"
    return found


@pytest.fixture(scope="module")
def report() -> str:
    return page(model.load(documents(model.PUBLISHED)))


@pytest.fixture(scope="module")
def small() -> str:
    """Return the page of a few planes, checks and workloads, which axe judges in seconds."""
    whole = model.load(documents(model.PUBLISHED))
    results = [(name, _few(result)) for name, result in whole.results if name in ("connections.json", "services.json")]
    return page(model.Report(results, [(name, _few(matrix)) for name, matrix in whole.matrices]))


def _few(document: Kind) -> Kind:
    kept = [each for each in document.plan["dataplanes"] if _title(each) in FEW]
    names = {each["name"] for each in kept}
    plan = document.plan | {"dataplanes": kept}
    if isinstance(document, Result):
        trials = [each for each in document.trials if each.dataplane in names]
        rows = [each for each in document.summary if each.dataplane in names]
        return msgspec.structs.replace(document, plan=plan, trials=trials, summary=rows)
    plan["checks"] = [each for each in plan["checks"] if re.match(r"(identity|change)\.", each["name"])]
    checks = {each["name"] for each in plan["checks"]}
    cells = [each for each in document.cells if each.dataplane in names and each.check in checks]
    return msgspec.structs.replace(document, plan=plan, cells=cells)


def _title(told: dict[str, str]) -> str:
    return title(told["name"], told["dataplane"], told.get("variant", ""))


def visit(browser: str, directory: Path, text: str, width: int, *more: str) -> tuple[dict[str, Any], str]:
    """Return what the script in the page found, and what the console said."""
    path = directory / "page.html"
    path.write_text(text, "utf-8")
    argv = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory / 'profile'}", *more]
    argv += ["--enable-logging=stderr", f"--window-size={width},900", "--virtual-time-budget=10000"]
    argv += ["--dump-dom", path.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=240, stdin=subprocess.DEVNULL)
    title = re.search(r"<title>(\{.*?)</title>", done.stdout, re.S)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert title, "\n".join(console) or done.stderr
    return json.loads(html.unescape(title[1])), "\n".join(console)


def test_the_page_is_small_enough_for_a_slow_line_and_has_or_names_every_document(report: str) -> None:
    assert len(report.encode()) < 1_500_000
    told = re.findall(r'download="([^"]+)\.xz"|id="not-([^"]+)"', report)
    assert {first or second for first, second in told} == {Path(each).name for each in documents(model.PUBLISHED)}


def _costs(cells: list[str]) -> tuple[list[int], list[str]]:
    """Return the costs of a sorted column, and the empty cells, which are at its end in either order."""
    there = [each for each in cells if each]
    return [int(each.replace(",", "")) for each in there], cells[len(there) :]


def test_the_page_works_in_a_browser(browser: str, report: str, tmp_path: Path) -> None:
    found, console = visit(browser, tmp_path, report.replace("</body>", _TRY), 1280)
    assert console == ""
    assert list(dict.fromkeys(split(name)[0] for name in found["planes"])) == catalog.names()
    costs, more = _costs(found["ascending"])
    assert costs == sorted(costs)
    assert _costs(found["descending"]) == (sorted(costs, reverse=True), more)
    assert found["filter"]
    assert found["identity"]
    assert all(each.startswith("identity.") for each in found["identity"])
    assert {"change.drain", "change.drain-udp"} <= set(found["drain"])
    for part in ("identity", "drain", "core", "differing"):
        assert 0 < len(found[part]) < found["all"], part
    assert found["plane"] == ["nft-lb"]
    assert found["host"]
    assert all(catalog.placement(split(each)[0]) == "host" for each in found["host"])
    assert found["opened"], found["clicked"]
    assert found["chosen"].startswith("does not hold"), "a cell leads to what was seen on its plane"
    assert found["linked"], "a link to a check opens it"
    assert all(any(plane in plot for plot in found["plots"]) for plane in catalog.names())


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_page_fits_its_window(browser: str, report: str, tmp_path: Path, width: int) -> None:
    found, console = visit(browser, tmp_path, report.replace("</body>", _TRY), width)
    assert (console, found["width"] <= width) == ("", True), found["width"]
    assert found["offscreen"] == 0, "what decides is in the window"
    assert found["picture"] < 450, "the picture is on the first screen"
    assert found["clipped"] == []
    assert found["few"] == [], "each axis has three labels"
    assert found["covered"] == [], "no text covers another one"


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (768, "dark"), (390, "dark")])
def test_axe_finds_nothing(browser: str, small: str, tmp_path: Path, width: int, scheme: str) -> None:
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    found, _ = visit(browser, tmp_path, small.replace("</body>", _axe()), width, *dark)
    assert found["dark"] == (scheme == "dark")
    assert found["found"] == []
    assert {"color-contrast", "svg-img-alt", "scrollable-region-focusable", "label"} <= {*found["rules"]}


def test_axe_finds_a_text_that_is_too_pale(browser: str, tmp_path: Path) -> None:
    heading = '<main><h1 style="color:#bbb">too pale</h1></main>'
    pale = f'<!doctype html><html lang="en"><title>x</title><body>{heading}</body></html>'
    found, _ = visit(browser, tmp_path, pale.replace("</body>", _axe()), 390)
    assert [each.partition(":")[0] for each in found["found"]] == ["color-contrast"]


def _axe() -> str:
    source = (files("axe_core_python") / "axe.min.js").read_text("utf-8")
    return _AXE.format(axe=source.replace("</script", "<\\/script"))


def test_the_page_can_be_read_without_a_script(report: str) -> None:
    bare = re.sub(r"<script>.*?</script>", "", report, flags=re.S)
    assert re.search(r'<form class="filter"[^>]* hidden>', bare), "a form that does nothing is not shown"
    assert "<button" not in bare
    told = bare[bare.index('id="check-change.drain-udp"') :]
    assert "does not hold" in told[: told.index("</details>")]
    links, ids = (set(re.findall(rf'{each}="#?([^"]+)"', bare)) for each in ("(?<=<a )href", " id"))
    assert {each for each in links if not each.startswith("data:")} <= ids, "every link leads somewhere"
