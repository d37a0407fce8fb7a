"""The report: safe whatever a file says, and opened in a real browser where there is one."""

import html.parser
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rankjax.bounds import BoundResult, Table
from rankjax.report import Checkpoint, analyze, html_report
from rankjax.report._svg import Plot, Scale, linear_ticks, short, thinned

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")
EVIL = '<script>document.title="owned"</script><img src=x onerror=alert(1)>"\'&\x1b\u202e.weight'


class Page(html.parser.HTMLParser):
    """Tags and attributes of a page, its text, and whether every tag is closed."""

    VOID = frozenset({"meta", "wbr", "img", "br", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self.open = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def evil_page():
    rng = np.random.default_rng(0)
    tree = {f"layer.{i}.weight": rng.standard_normal((40, 30)) for i in range(12)}
    tree |= {EVIL: rng.standard_normal((30, 20)), "zero.weight": np.zeros((4, 4)),
             "one.weight": np.ones((1, 1)), f"{EVIL}.bias": np.ones(3),
             "nan.weight": np.full((2, 2), np.nan), f"nan{EVIL}": np.full((2, 2), np.inf),
             f"{EVIL}2": np.ones((2, 2))}  # fmt: skip
    results = [
        BoundResult(np.float64(value), np.ones(1), {}, name, kind, f"{EVIL} 2020", (EVIL,))  # pyright: ignore[reportArgumentType]
        for name, kind, value in [("rank_sparse", "dominant", 3.5), ("vc", "dominant", 1e9),
                                  (EVIL, "explicit", 1e-3), ("none", "explicit", np.inf)]
    ]  # fmt: skip
    table = Table(tuple(results), 0.5, 1000, left_out=((EVIL, EVIL),))
    analysis = analyze(Checkpoint(EVIL, "safetensors", tree), p=[0.3, 1.0])
    return html_report(analysis, table)


def test_nothing_of_a_file_becomes_markup_and_nothing_is_loaded(evil_page):
    page = Page(evil_page)
    assert not {"script", "img", "link", "iframe", "object", "a", "base", "form"} & set(page.tags)
    assert not [x for x in page.attributes if x[1].startswith("on") or x[1] in {"src", "href"}]
    assert "url(" not in evil_page
    assert "@import" not in evil_page
    assert not re.search(r"https?://", evil_page)
    assert 'document.title="owned"' in "".join(page.words)
    assert "\x1b" not in evil_page
    assert "\u202e" not in evil_page
    contents = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in contents


def test_every_part_is_there(evil_page):
    page = Page(evil_page)
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert ids == {"summary", "bounds", "matrices", "ranks", "spectra", "left-out"}
    # 15 spectra, all together, 5 ranks, and the bars of the bounds.
    assert page.tags.count("svg") == 15 + 1 + 5 + 1
    text = " ".join(page.words)
    for words in ("Not finite", "not recognized by its name", "rank_sparse", "layer.11"):
        assert words in text.replace("layer. 11", "layer.11")
    numbers = [value for _, name, value in page.attributes
               if name in {"points", "cx", "cy", "x1", "y1", "width", "viewbox"}]  # fmt: skip
    assert numbers
    assert not [n for n in numbers if "nan" in n or "inf" in n]


def test_a_report_of_nothing_and_one_without_bounds():
    page = Page(html_report(analyze({"bias": np.ones(3)})))
    assert page.tags.count("svg") == 0
    page = Page(html_report(analyze({"kernel": np.ones((3, 2))})))
    assert page.tags.count("svg") == 1 + 1 + 4


def browser():
    given = os.environ.get("RANKJAX_BROWSER")
    found = given or next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"none of {BROWSERS} is installed; RANKJAX_BROWSER may name one")
    return found


def headless(page: Path, *options):
    folder = page.parent / "profile"
    command = [browser(), "--headless", "--disable-gpu", "--no-sandbox", "--hide-scrollbars",
               f"--user-data-dir={folder}", *options, page.resolve().as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def test_a_browser_shows_it_and_runs_nothing(evil_page, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(evil_page, encoding="utf-8")
    dumped = headless(page, "--dump-dom").stdout
    assert "<title>owned</title>" not in dumped
    assert "<script" not in dumped
    assert dumped.count("<svg") == evil_page.count("<svg")
    picture = tmp_path / "report.png"
    headless(page, f"--screenshot={picture}", "--window-size=1200,900")
    raw = picture.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", raw[16:24]) == (1200, 900)
    image = pytest.importorskip("PIL.Image").open(picture).convert("RGB")
    assert len(image.getcolors(10**6)) > 50  # something is drawn


def test_a_narrow_window_does_not_scroll_sideways_apart_from_tables(evil_page, tmp_path):
    """The page says itself how wide it is: a probe beside the report, in the same browser."""
    page = tmp_path / "probe.html"
    probe = ("<script>addEventListener('load', () => document.title = 'wide ' + "
             "document.documentElement.scrollWidth)</script>")  # fmt: skip
    allowed = re.sub(r"<meta http-equiv[^>]*>", "", evil_page)
    page.write_text(allowed.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    dumped = headless(page, "--dump-dom", "--window-size=600,800").stdout
    assert int(re.search(r"<title>wide (\d+)</title>", dumped)[1]) <= 600


def test_scales():
    log = Scale(1e-4, 1, 100, 0)
    assert [log(v) for v in (1, 1e-4, 0, 5)] == [0, 100, 100, 0]
    assert log(1e-2) == pytest.approx(50)
    assert log.ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    for low, high in [(1, 2), (250, 570), (1, 384), (1, 4096), (0.3, 1e9), (3, 3.3)]:
        assert 3 <= len(Scale(low, high, 0, 1).ticks()) <= 14
    assert linear_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert linear_ticks(1, 1) == [1]
    assert [short(v) for v in (0, 1, 0.01, 1e-4, 2e6, -1e7)] == [
        "0", "1", "0.01", "10⁻⁴", "2·10⁶", "-10⁷",
    ]  # fmt: skip


def test_marks_of_a_plot_are_where_the_values_are():
    plot = Plot("<t>", Scale(0, 10, 0, 100, log=False), Scale(0, 1, 50, 0, log=False), 100, 60)
    plot.line([(0, 0), (10, 1), (5, float("nan"))], "red", title="<x>")
    plot.vertical(5, "grey", "&")
    text = plot.text()
    assert 'points="0.0,50.0 100.0,0.0"' in text
    assert "&lt;x&gt;" in text
    assert 'x1="50.0"' in text
    assert 'aria-label="&lt;t&gt;"' in text


def test_curves_are_thinned_but_keep_their_ends():
    points = thinned(list(range(10_000, 0, -1)))
    assert len(points) <= 80
    assert (points[0], points[-1]) == ((1, 10_000), (10_000, 1))
    assert thinned([3.0, 2.0]) == [(1, 3.0), (2, 2.0)]
