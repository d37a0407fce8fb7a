"""The report: safe whatever a file says, and opened in a real browser where there is one."""

import html.parser
import re
from importlib.resources import files

import numpy as np
import pytest

from rankjax.bounds import BoundResult, Table
from rankjax.report import Checkpoint, analyze, html_report, plan_ranks
from rankjax.report._svg import Line, Plot, Scale, linear_ticks, short, thinned
from tests.report.browser import Browser

EVIL = '<script>document.title="owned"</script><img src=x onerror=alert(1)>"\'&\x1b\u202e.weight'


SOURCE = "a source that goes on and on, " * 12 + "and ends"


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
        BoundResult(np.float64(value), np.ones(1), {}, name, kind, f"{EVIL} 2020 {SOURCE}", (EVIL,))  # pyright: ignore[reportArgumentType]
        for name, kind, value in [("rank_sparse", "dominant", 3.5), ("vc", "dominant", 1e9),
                                  (EVIL, "explicit", 1e-3), ("none", "explicit", np.inf),
                                  ("near 1", "explicit", 0.9999), ("nan", "explicit", np.nan)]
    ]  # fmt: skip
    table = Table(tuple(results), 0.5, 1000, left_out=((EVIL, EVIL),), facts=(("A fact", EVIL),))
    analysis = analyze(Checkpoint(EVIL, "safetensors", tree), p=[0.3, 1.0])
    return html_report(analysis, table)


def test_nothing_of_a_file_becomes_markup_and_nothing_is_loaded(evil_page):
    page = Page(evil_page)
    assert not {"img", "link", "iframe", "object", "a", "base", "form"} & set(page.tags)
    assert not [x for x in page.attributes if x[1].startswith("on") or x[1] in {"src", "href"}]
    script = (files("rankjax.report") / "report.js").read_text("utf-8")
    assert re.findall("<script.*?</script>", evil_page, re.S) == [f"<script>{script}</script>"]
    assert "url(" not in evil_page
    assert "@import" not in evil_page
    assert not re.search(r"https?://", evil_page)
    assert 'document.title="owned"' in "".join(page.words)
    assert "\x1b" not in evil_page
    assert "\u202e" not in evil_page


def test_every_part_is_there(evil_page):
    page = Page(evil_page)
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert ids == ["summary", "bounds", "plan", "map", "matrices", "spectra", "left-out"]
    assert page.tags.count("svg") == 15 + 1  # one by one, and all together
    text = "".join(page.words)
    for words in ("Not finite", "not recognized by its name", "rank_sparse", "layer.11", "A fact"):
        assert words in text
    names = {"points", "cx", "cy", "x1", "y1", "width", "viewbox", "style"}
    numbers = [value for _, name, value in page.attributes if name in names]
    assert numbers
    assert not [n for n in numbers if "nan" in n or "inf" in n]


def test_bounds_are_apart_and_nothing_of_them_is_cut(evil_page):
    text = "".join(Page(evil_page).words)
    explicit, dominant = text.split("Explicit bounds")[1].split("Dominant terms")
    assert "near 10.001" in explicit  # not -0.00
    assert "nannannan" in explicit
    assert "vc9.00" not in explicit
    assert "vc9.00" in dominant
    assert text.count(SOURCE) == 6


def test_a_report_of_nothing_and_one_without_bounds():
    page = Page(html_report(analyze({"bias": np.ones(3)})))
    assert page.tags.count("svg") == 0
    page = Page(html_report(analyze({"kernel": np.ones((3, 2))})))
    assert page.tags.count("svg") == 1 + 1


def layers(noise, seed=0):
    """Four layers of two kinds; the rank falls with the depth."""
    rng = np.random.default_rng(seed)
    tree = {}
    for i in range(4):
        for kind in ("attention/q", "mlp/up"):
            low = rng.standard_normal((30, 8 - 2 * i)) @ rng.standard_normal((8 - 2 * i, 20))
            more = noise * rng.standard_normal((30, 20))
            tree[f"layers_{i}/{kind}/kernel"] = (low + more).astype(np.float32)
    return tree


def test_recommended_ranks_are_those_of_the_plan():
    found = analyze(layers(0))
    page = "".join(Page(html_report(found, plan=plan_ranks(found, energy=0.5))).words)
    assert plan_ranks(found, energy=0.5).ranks != plan_ranks(found).ranks
    given, default = (page, "".join(Page(html_report(found)).words))
    for text, plan in ((given, plan_ranks(found, energy=0.5)), (default, plan_ranks(found))):
        before, after = plan.parameters
        assert f"{after:,} of {before:,} parameters remain" in text
        assert f"{after / before:.0%}of their parameters remain" in text
    assert "keeps 99% of its energy" in default
    assert "keeps 99% of its energy" not in given


def test_base_and_fine_tune_are_side_by_side():
    base, tuned = analyze(layers(0)), analyze(layers(0.3))
    page = Page(html_report(tuned, base=base))
    text = "".join(page.words)
    assert "stable rank, basestable rank, fine-tune" in text
    assert page.tags.count("table") == 3 + 2 * 4
    for one, other in zip(base.rows, tuned.rows, strict=True):
        assert f"{one.stable_rank:.4g}{other.stable_rank:.4g}" in text
    change = analyze(layers(0.3), reference=layers(0))
    text = "".join(Page(html_report(change, base=base)).words)
    assert "stable rank, basestable rank, change" in text
    text = "".join(Page(html_report(tuned, base=analyze({"other": np.ones((3, 3))}))).words)
    assert "8 matrices have no partner" in text


@pytest.fixture(scope="module")
def browser():
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(evil_page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    texts = {
        "evil": evil_page,
        "plain": html_report(analyze(layers(0))),
        "tuned": html_report(analyze(layers(0.3)), base=analyze(layers(0))),
        "change": html_report(
            analyze(layers(0.3), reference=layers(0)), base=analyze(layers(0))
        ),
    }  # fmt: skip
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("name", ["evil", "plain", "tuned", "change"])
def test_it_fits_both_widths_in_both_schemes(browser, pages, name, width, dark, tmp_path):
    browser.open(pages / f"{name}.html", width=width, dark=dark)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert browser.run("document.documentElement.scrollWidth") <= width
    # What is wider than its box scrolls in it, and on a desk nothing is wider.
    boxes = browser.run("[...document.querySelectorAll('.wide')].filter((box) => box.clientWidth)"
                        ".map((box) => [box.scrollWidth, box.clientWidth])")  # fmt: skip
    assert len(boxes) >= 3
    assert all(inside <= box or width == 390 for inside, box in boxes)
    requests = [event["params"]["request"]["url"] for event in browser.events
                if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip
    assert requests == [(pages / f"{name}.html").resolve().as_uri()]
    assert not browser.complaints()
    picture = tmp_path / "page.png"
    picture.write_bytes(browser.picture())
    image = pytest.importorskip("PIL.Image").open(picture).convert("L")
    assert len(image.getcolors()) > 50  # something is drawn
    levels = sorted(count_and_level for count_and_level in image.getcolors())
    assert (levels[-1][1] < 60) == dark


def test_a_browser_runs_the_script_of_the_page_and_no_other(browser, pages, tmp_path):
    browser.open(pages / "evil.html", width=1400)
    assert browser.run("document.title").startswith("Weights of <script>")
    injected = tmp_path / "injected.html"
    more = "<script>document.title = 'owned'</script></body>"
    injected.write_text((pages / "evil.html").read_text("utf-8").replace("</body>", more))
    browser.open(injected, width=1400)
    assert browser.run("document.title").startswith("Weights of <script>")
    assert len(browser.complaints()) == 1


ROWS = "[...document.querySelectorAll('#matrices tbody tr:not([hidden])')]"
NAMES = f"{ROWS}.map((row) => row.cells[0].textContent)"


def press(browser, heading):
    return browser.run(
        "(() => { const head = [...document.querySelectorAll('#matrices thead th')]"
        f".find((one) => one.textContent === {heading!r}); head.firstChild.click();"
        " return head.getAttribute('aria-sort'); })()"
    )


def test_a_click_on_a_heading_sorts(browser, pages):
    browser.open(pages / "plain.html", width=1400)
    rows = analyze(layers(0)).rows
    names = [row.path for row in rows]
    assert browser.run(NAMES) == names
    by_norm = [row.path for row in sorted(rows, key=lambda row: -row.spectral_norm)]
    assert by_norm not in (names, names[::-1])
    assert press(browser, "spectral") == "descending"
    assert browser.run(NAMES) == by_norm
    assert press(browser, "spectral") == "ascending"
    assert browser.run(NAMES) == by_norm[::-1]
    assert press(browser, "path") == "ascending"
    assert browser.run(NAMES) == names
    assert browser.run("document.querySelectorAll('#matrices [aria-sort]').length") == 1


def test_shapes_are_sorted_by_size_and_undefined_values_come_last(browser, pages):
    browser.open(pages / "evil.html", width=1400)
    column = browser.run("[...document.querySelectorAll('#matrices thead th')]"
                         ".findIndex((head) => head.textContent === 'tail')")  # fmt: skip
    for _ in range(2):
        press(browser, "tail")
        tails = browser.run(f"{ROWS}.map((row) => row.cells[{column}].textContent)")
        assert tails[-2:] == ["-"] * 2  # of too few singular values
        assert "-" not in tails[:-2]
    assert press(browser, "out x in") == "descending"
    names = browser.run(NAMES)
    assert names[0].startswith("layer.")  # 40 x 30
    assert names[-1] == "one.weight"  # 1 x 1


def test_words_filter_the_rows(browser, pages):
    browser.open(pages / "plain.html", width=390)
    browser.run("(() => { const box = document.querySelector('#matrices input'); box.value = "
                "'UP layers_2'; box.dispatchEvent(new Event('input')); })()")  # fmt: skip
    assert browser.run(NAMES) == ["layers_2/mlp/up/kernel"]
    assert browser.run("document.querySelector('#matrices output').textContent") == "1 of 8"


def test_one_map_is_shown_and_another_is_chosen(browser, pages):
    browser.open(pages / "plain.html", width=390)
    shown = ("[...document.querySelectorAll('.map')].filter((one) => one.clientWidth)"
             ".map((one) => [...one.rows].map((row) => row.textContent))")  # fmt: skip
    rows = analyze(layers(0)).rows  # layer by layer, of each first attention and then mlp

    def expected(ranks):
        q, up = ("".join(map(str, ranks[i::2])) for i in (0, 1))
        return [["depth0123", f"attention/q{q}", f"mlp/up{up}"]]

    by_energy, numerical = ([row.rank_at[2] for row in rows], [row.numerical_rank for row in rows])
    assert browser.run(shown) == expected(by_energy)
    browser.run("document.querySelectorAll('#map input')[3].click()")
    assert browser.run(shown) == expected(numerical)
    assert by_energy != numerical


def test_it_is_read_without_scripts(browser, pages):
    browser("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages / "plain.html", width=390)
        text = browser.run("document.body.innerText")
    finally:
        browser("Emulation.setScriptExecutionDisabled", value=False)
    for row in analyze(layers(0)).rows:
        assert row.path in text
    assert "rank at 99 % energy" in text


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
        "0", "1", "0.01", "1e-4", "2e6", "-1e7",
    ]  # fmt: skip


def test_marks_of_a_plot_are_where_the_values_are():
    plot = Plot("<t>", Scale(0, 10, 0, 100, log=False), Scale(0, 1, 50, 0, log=False), 100, 60)
    plot.lines.append(Line([(0, 0), (10, 1), (5, float("nan"))], "red", "<x>"))
    plot.lines.append(Line([(5, 0.5)], "blue"))
    plot.vertical(5, "grey", "&")
    text = plot.text()
    assert 'points="0.0,50.0 100.0,0.0"' in text
    assert "&lt;x&gt;" in text
    assert 'points="50.0,50.0 50.0,0.0"' in text
    assert 'cx="50.0" cy="25.0"' in text
    assert 'aria-label="&lt;t&gt;"' in text


def test_curves_are_thinned_but_keep_their_ends():
    points = thinned(list(range(10_000, 0, -1)))
    assert len(points) <= 80
    assert (points[0], points[-1]) == ((1, 10_000), (10_000, 1))
    assert thinned([3.0, 2.0]) == [(1, 3.0), (2, 2.0)]
