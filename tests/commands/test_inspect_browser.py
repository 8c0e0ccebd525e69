"""The page of segpipe.inspect in a browser: wide and narrow, light and dark, without a request."""

import numpy as np
import PIL.Image
import pytest
from support.browser import Browser, executable

from segpipe import inspect

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
