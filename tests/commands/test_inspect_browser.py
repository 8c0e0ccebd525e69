"""The page of segpipe.inspect in a browser: wide and narrow, light and dark, without a request."""

import numpy as np
import PIL.Image
import pytest
from support.browser import Browser, executable
from support.configs import TINY, configure

from segpipe import inspect
from segpipe.train import train

pytestmark = pytest.mark.skipif(executable() is None, reason="no chromium here; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory, finished_run):
    """The page of a run beside itself, with an image and a split."""
    out = tmp_path_factory.mktemp("inspect")
    photo = out / "a photo <with> a name of some length & others.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)).save(photo)
    return inspect.inspect([finished_run, finished_run], out=out, images=[photo], split="test", limit=3).as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_it_opens_without_a_complaint_or_a_request(browser, page, width, dark):
    browser.open(page, width=width, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [page]
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.ask("document.querySelectorAll('.pictures img').length") > 10
    small = browser.ask("Math.min(...[...document.querySelectorAll('.pictures img')].map(one => one.clientWidth))")
    assert small >= 60  # a map of 6 x 6 is enlarged
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 380) == dark


@pytest.mark.slow
def test_a_click_shows_the_kernel_of_another_point(browser, tmp_path):
    train(configure(*TINY, "decoder=carafe", "optimizer.lr=0.05", f"run_dir={tmp_path}/run"))
    photo = tmp_path / "photo.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(photo)
    browser.open(inspect.inspect([tmp_path / "run"], out=tmp_path / "out", images=[photo]).as_uri())
    kernel = "document.querySelector('.clickable svg').innerHTML"
    before = browser.ask(kernel)
    assert before.count("<rect") == 25
    area = "document.querySelector('.clickable .choose')"
    place = f"{{clientX: {area}.getBoundingClientRect().left + 3, clientY: {area}.getBoundingClientRect().top + 3}}"
    browser.ask(f"{area}.dispatchEvent(new MouseEvent('click', {place}))")
    clicked = browser.ask(kernel)
    assert clicked != before
    for _ in range(30):
        browser.ask(f"{area}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'ArrowDown'}}))")
    assert browser.ask(kernel) != clicked
    assert browser.complaints == []
