"""The report in a real browser runs without an error, its tables sort and filter, and it fits a telephone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.outside.publish import documents
from bench.report import model
from bench.report.page import page
from dataplanes import catalog
from dataplanes.selection import split

pytestmark = pytest.mark.program
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
_TRY = """
<script>
const out = {};
const shown = (row) => !row.hidden;
const table = document.querySelector("table.sortable");
const column = (n) => [...table.tBodies[0].rows].map((row) => row.cells[n].dataset.value ?? row.cells[n].textContent);
out.planes = column(0).map((text) => text.trim());
table.tHead.rows[0].cells[2].querySelector("button").click();
out.ascending = column(2);
table.tHead.rows[0].cells[2].querySelector("button").click();
out.descending = column(2);
const filter = document.getElementById("filter"), rows = [...document.getElementById("matrix").tBodies[0].rows];
const use = (name, value) => { filter.elements[name].value = value; filter.dispatchEvent(new Event("input")); };
out.all = rows.filter(shown).length;
use("theme", "identity");
out.identity = rows.filter(shown).map((row) => row.dataset.check);
use("theme", ""); use("text", "drain");
out.drain = rows.filter(shown).map((row) => row.dataset.check);
use("text", ""); use("plane", "nft-lb");
out.columns = [...document.querySelectorAll("#matrix thead th")].filter((head) => !head.hidden).length;
document.querySelector("#matrix .cell.fail").click();
out.seen = document.getElementById("seen").textContent;
out.plots = [...document.querySelectorAll("figure svg")].map((plot) => plot.textContent);
out.width = document.documentElement.scrollWidth;
document.title = JSON.stringify(out);
</script></body>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    assert found, f"no browser; install one of {', '.join(BROWSERS)}"
    return found


@pytest.fixture(scope="module")
def report() -> str:
    return page(model.load(documents(model.PUBLISHED)))


def visit(browser: str, directory: Path, text: str, width: int) -> tuple[dict[str, Any], str]:
    """Return what the script in the page found, and what the console said."""
    path = directory / "page.html"
    path.write_text(text.replace("</body>", _TRY), "utf-8")
    argv = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={directory / 'profile'}"]
    argv += ["--enable-logging=stderr", f"--window-size={width},900", "--dump-dom", path.as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120, stdin=subprocess.DEVNULL)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title, done.stderr
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title[1])), "\n".join(console)


def test_the_page_works_in_a_browser(browser: str, report: str, tmp_path: Path) -> None:
    found, console = visit(browser, tmp_path, report, 1280)
    assert console == ""
    assert list(dict.fromkeys(split(name)[0] for name in found["planes"])) == catalog.names()
    costs = [float(each) for each in found["ascending"]]
    assert costs == sorted(costs)
    assert [float(each) for each in found["descending"]] == sorted(costs, reverse=True)
    assert found["identity"]
    assert all(each.startswith("identity.") for each in found["identity"])
    assert len(found["identity"]) < found["all"]
    assert {"change.drain", "change.drain-udp"} <= set(found["drain"])
    assert found["columns"] == 3  # the check, the plane and the reference
    assert ": fail: " in found["seen"]
    assert all(any(plane in plot for plot in found["plots"]) for plane in catalog.names())
    assert found["width"] <= 1280


def test_the_page_fits_a_telephone(browser: str, report: str, tmp_path: Path) -> None:
    found, console = visit(browser, tmp_path, report, 390)
    assert (console, found["width"] <= 390) == ("", True), found["width"]
