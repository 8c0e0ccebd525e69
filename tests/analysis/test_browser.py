"""The report in a browser: with and without JavaScript, wide and narrow, light and dark."""

import numpy as np
import pytest
from support.browser import Browser, executable
from support.fake_runs import write_run

from segpipe import report
from segpipe.data.examples import save_examples

pytestmark = pytest.mark.skipif(executable() is None, reason="no chromium here; on Debian: apt-get install chromium")


PALETTE = [(200, 60, 60), (60, 60, 200)]


HEADS = "document.querySelector('#networks table').tHead.rows[0].cells"


UNFOLD = "document.querySelectorAll('details').forEach(one => one.open = true)"


TARGET = "document.querySelector('.image:target')?.id"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a small sweep: with images, long names, a network without cost."""
    folder = tmp_path_factory.mktemp("runs") / "looked at"
    mask = np.tile(np.arange(2, dtype=np.uint8).repeat(8), (16, 1))
    for number, decoder in enumerate(("deconv", "bilinear", "nearest", "a decoder with a long name")):
        for stride in (8, 4):
            for seed in range(3):
                run = write_run(
                    folder / f"{number}-{stride}-{seed}", decoder=decoder, stride=stride, seed=seed,
                    miou=0.6 - 0.1 * number + 0.01 * seed * number + 0.4 / stride, cost=number != 2,
                )  # fmt: skip
                save_examples(
                    run / "pictures" / "examples", names=["one", "two"], images=[np.zeros((16, 16, 3), np.uint8)] * 2,
                    truths=[mask, mask.T], predictions=[mask] * 2, palette=PALETTE,
                )  # fmt: skip
    report.report(folder, resamples=200)
    return (folder / "report.html").as_uri()


def test_the_browser_would_notice(browser, tmp_path):
    (tmp_path / "bad.html").write_text(
        "<script>console.error('x'); undefinedName()</script><img src='http://127.0.0.1:9/x.png'>"
        "<p style='width:3000px'>x"
    )
    browser.open((tmp_path / "bad.html").as_uri())
    assert len(browser.complaints) >= 2
    assert "http://127.0.0.1:9/x.png" in browser.requests
    assert browser.ask("document.documentElement.scrollWidth") >= 3000


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_it_opens_without_a_complaint_or_a_request(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    browser.ask(UNFOLD)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page]
    assert browser.ask("document.documentElement.scrollWidth") <= width
    paper, ink = (browser.ask(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    assert (sum(map(int, paper[4:-1].split(","))) < 380) == dark
    assert (sum(map(int, ink[4:-1].split(","))) < 380) != dark


def test_figures_take_their_ink_from_the_theme(browser, page):
    inks = []
    for dark in (False, True):
        browser.open(page, dark=dark)
        inks.append(browser.ask("getComputedStyle(document.querySelector('.panels svg text')).fill"))
    assert inks[0] != inks[1]
    broken = (
        "[...document.querySelectorAll('.panels svg')].filter(svg => svg.getBoundingClientRect().height < 30).length"
    )
    assert browser.ask(broken) == 0


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_cut_off_in_figures(browser, page, width):
    browser.open(page, width=width)
    browser.ask(UNFOLD)
    cut = """[...document.querySelectorAll('.panels svg')].flatMap(svg => {
      const box = svg.getBoundingClientRect();
      return [...svg.querySelectorAll('text')].filter(text => {
        const own = text.getBoundingClientRect();
        const across = own.left < box.left - 1 || own.right > box.right + 1;
        return across || own.top < box.top - 1 || own.bottom > box.bottom + 1;
      }).map(text => text.textContent);
    })"""
    assert browser.ask(cut) == []
    smallest = """Math.min(...[...document.querySelectorAll('.panels svg')].map(
      svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))"""
    assert browser.ask(smallest) > 0.9  # of the size that its text was set for


def column(browser, index):
    """The texts of a column, from the top."""
    return browser.ask(
        f"[...document.querySelector('#networks table').tBodies[0].rows].map(row => row.cells[{index}].textContent)"
    )


def test_tables_sort_by_a_click_and_a_key(browser, page):
    browser.open(page)
    names = column(browser, 0)
    heads = browser.ask(f"[...{HEADS}].map(head => head.textContent)")
    test = heads.index("test mIoU")
    browser.click(f"{HEADS}[{test}].querySelector('button')")
    falling = [float(text) for text in column(browser, test)]
    assert falling == sorted(falling, reverse=True)
    assert browser.ask(f"{HEADS}[{test}].getAttribute('aria-sort')") == "descending"
    browser.press("Enter", 13)
    rising = [float(text) for text in column(browser, test)]
    assert rising == sorted(rising)
    assert rising != falling
    assert browser.ask(f"{HEADS}[{test}].getAttribute('aria-sort')") == "ascending"
    browser.click(f"{HEADS}[0].querySelector('button')")
    assert column(browser, 0) == sorted(names)
    assert browser.ask(f"{HEADS}[{test}].getAttribute('aria-sort')") is None


def test_what_is_not_there_is_sorted_last(browser, page):
    browser.open(page)
    heads = browser.ask(f"[...{HEADS}].map(head => head.textContent)")
    for _ in range(2):
        browser.click(f"{HEADS}[{heads.index('latency, ms')}].querySelector('button')")
        assert column(browser, heads.index("latency, ms"))[-2:] == ["\N{EN DASH}"] * 2


@pytest.mark.parametrize("width", [1400, 400])
def test_images_open_and_are_clicked_through(browser, page, width):
    browser.open(page, width=width)
    broken = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"
    assert (browser.ask("document.images.length"), browser.ask(broken)) == (20, 0)
    browser.click("document.querySelectorAll('.image .open')[2]")
    assert browser.ask(TARGET) == "image-1-3"
    box = browser.ask("(r => [r.width, r.height])(document.querySelector('.image:target').getBoundingClientRect())")
    assert box == [width, 900]
    inside = browser.ask("document.querySelector('.image:target img').getBoundingClientRect().width")
    assert inside > 300
    browser.press("ArrowRight", 39)
    assert browser.ask(TARGET) == "image-1-4"
    browser.press("ArrowLeft", 37)
    browser.press("ArrowLeft", 37)
    assert browser.ask(TARGET) == "image-1-2"
    browser.press("Escape", 27)
    assert browser.ask(TARGET) is None
    assert browser.complaints == []


def test_images_open_without_scripts(browser, page):
    browser.open(page, scripts=False)
    browser.open(f"{page}#image-2-1", scripts=False)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert browser.ask("getComputedStyle(document.querySelector('#image-2-1')).position") == "fixed"
    browser.click("document.querySelector('#image-2-1 .next')")
    assert browser.ask(TARGET) == "image-2-2"
