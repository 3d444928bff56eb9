"""The page at `/` in a real browser."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai_endpoint import KEY, MODEL, Endpoint
from page_browser import Browser, find_browser

PLOTS = ("throughput", "ttft", "tpot", "batch", "kv")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on this machine")
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser: Browser, endpoint: Endpoint) -> Iterator[Browser]:
    """Open, the key given."""
    browser.errors.clear()
    browser.requested.clear()
    browser.open(endpoint.url)
    browser.value(f"sessionStorage.setItem('inflight-api-key', {json.dumps(KEY)})")
    browser.open(endpoint.url)
    browser.wait(f"document.getElementById('model').textContent.startsWith('{MODEL}')")
    browser.errors.clear()  # of the first visit, without a key
    yield browser
    browser.value("sessionStorage.clear()")


def say(page: Browser, text: str) -> None:
    page.value("document.getElementById('text').focus()")
    page.type(text)
    page.press("Enter", 13)


def last_answer(page: Browser) -> str:
    return page.value("[...document.querySelectorAll('article.model .text')].at(-1).textContent")


def wait_for_end(page: Browser) -> None:
    page.wait("document.getElementById('stop').hidden && !document.querySelector('.going')")


def option(page: Browser, name: str, value: object) -> None:
    page.value(f"document.getElementById('{name}').value = {json.dumps(str(value))}")


def test_a_chat_with_the_keyboard_alone(page: Browser, endpoint: Endpoint) -> None:
    option(page, "temperature", 0)
    option(page, "max_tokens", 16)
    page.type("What light?")  # the field has the focus from the start
    page.press("Enter", 13)
    wait_for_end(page)
    prompt = "ROMEO:\nWhat light?\n\nJULIET:\n"
    first = endpoint.ensemble(text_input=prompt, max_tokens=16)
    assert last_answer(page) == first
    figures = page.value("document.querySelector('article.model .figures').textContent")
    assert figures.startswith("16 tokens, the first after ")
    assert figures.endswith("; cut at max tokens")
    page.type("And")
    page.press("Enter", 13, modifiers=8)
    page.type("then?")
    page.press("Enter", 13)
    wait_for_end(page)
    history = f"{prompt}{first.strip()}\n\nROMEO:\nAnd\nthen?\n\nJULIET:\n"
    assert last_answer(page) == endpoint.ensemble(text_input=history, max_tokens=16)
    assert page.errors == []


# In the page itself, at the first text: over the debugging protocol a quick engine is done first.
PRESS_ESCAPE = """(() => {
  window.stop_was_shown = false;
  const look = new MutationObserver(() => {
    stop_was_shown ||= !document.getElementById('stop').hidden;
    const text = document.querySelector('article.model .text')?.textContent ?? '';
    if (text.length <= 20) return;
    look.disconnect();
    document.activeElement.dispatchEvent(
      new KeyboardEvent('keydown', {key: 'Escape', bubbles: true}));
  });
  look.observe(document.body, {subtree: true, childList: true, attributes: true});
})()"""


def test_an_answer_streams_and_escape_ends_it(page: Browser, endpoint: Endpoint) -> None:
    option(page, "max_tokens", 480)
    page.value(PRESS_ESCAPE)
    say(page, "Speak long")
    wait_for_end(page)
    assert page.value("stop_was_shown")
    endpoint.wait_until_idle(seconds=2)
    figures = page.value("document.querySelector('article.model .figures').textContent")
    assert figures == "stopped" or figures.startswith("480 tokens")
    page.press("Escape", 27)  # nothing is under way
    assert page.value("document.querySelector('article.model .figures').textContent") == figures
    assert page.errors == []


def test_errors_are_shown(page: Browser) -> None:
    option(page, "max_tokens", 100000)
    say(page, "hello")
    wait_for_end(page)
    shown = page.value("document.querySelector('article.model .figures.error').textContent")
    assert "maximum context length is 512 tokens" in shown
    assert page.value("document.getElementById('text').value") == "hello"  # to be sent again
    option(page, "max_tokens", 4)
    page.press("Enter", 13)  # the refused message is not in the conversation
    wait_for_end(page)
    assert last_answer(page)


def test_completion_mode_and_a_new_chat(page: Browser, endpoint: Endpoint) -> None:
    option(page, "mode", "completion")
    option(page, "temperature", 0)
    option(page, "max_tokens", 8)
    say(page, "ROMEO:")
    wait_for_end(page)
    assert last_answer(page) == endpoint.ensemble(text_input="ROMEO:", max_tokens=8)
    page.value("document.getElementById('clear').click()")
    assert page.value("document.querySelectorAll('article').length") == 0
    assert page.value("document.getElementById('empty').offsetHeight") > 0


CLEAR_AT_THE_FIRST_TEXT = """(() => {
  const look = new MutationObserver(() => {
    if ((document.querySelector('article.model .text')?.textContent ?? '').length <= 20) return;
    look.disconnect();
    document.getElementById('clear').click();
  });
  look.observe(document.body, {subtree: true, childList: true});
})()"""

KEEP_WHAT_IS_SENT = """(() => {
  window.sent = [];
  const fetch = window.fetch;
  window.fetch = (path, options) => {
    if (options?.body) sent.push(JSON.parse(options.body));
    return fetch(path, options);
  };
})()"""


def test_a_new_chat_knows_nothing_of_an_answer_that_was_under_way(
    page: Browser, endpoint: Endpoint
) -> None:
    page.value(KEEP_WHAT_IS_SENT)
    page.value(CLEAR_AT_THE_FIRST_TEXT)
    option(page, "max_tokens", 480)
    say(page, "Speak long")
    page.wait("sent.length === 1 && document.querySelectorAll('article').length === 0")
    wait_for_end(page)
    assert page.value("document.getElementById('text').value") == ""
    option(page, "max_tokens", 4)
    say(page, "And you?")
    wait_for_end(page)
    assert page.value("sent.at(-1).messages") == [{"role": "user", "content": "And you?"}]
    assert page.errors == []


def test_options_are_sent_as_they_were_typed(page: Browser) -> None:
    """What the server does not take it refuses; nothing else is taken in its place."""
    page.value(KEEP_WHAT_IS_SENT)
    option(page, "max_tokens", 4)
    option(page, "temperature", 0.75)
    page.type("Who?")
    page.value("document.getElementById('send').click()")
    page.wait("document.querySelectorAll('article.model').length === 1")
    wait_for_end(page)
    assert last_answer(page) and page.value("sent[0].temperature") == 0.75
    for name, value in (("temperature", 5), ("top_p", 1.5), ("max_tokens", 2.5), ("seed", 0.5)):
        kept = page.value(f"document.getElementById('{name}').value")
        option(page, name, value)
        page.value("document.getElementById('text').value = ''")
        say(page, "Who?")
        wait_for_end(page)
        assert page.value(f"sent.at(-1).{name}") == value
        shown = page.value("[...document.querySelectorAll('.figures.error')].at(-1).textContent")
        assert shown.startswith(f"{name}: ")
        option(page, name, kept)


def test_plots_live(page: Browser, endpoint: Endpoint) -> None:
    said = lambda plot: page.value(  # noqa: E731
        f"document.querySelector('#plot-{plot} canvas').getAttribute('aria-label')"
    )
    page.wait("document.querySelectorAll('figure').length === 5")
    # A quarter of the context, so that there is room for more than one answer.
    assert page.value("document.getElementById('max_tokens').value") == "128"
    page.wait("document.querySelector('#plot-batch .now').textContent.includes('0')")
    option(page, "max_tokens", 480)
    say(page, "Speak long")
    wait_for_end(page)
    page.wait("/[1-9]/.test(document.querySelector('#plot-ttft .now .a').textContent.slice(3))", 20)
    for plot in PLOTS:
        assert said(plot), plot
    assert said("tpot").endswith(" ms") and said("kv").endswith(" %")
    drawn = page.value(
        "[...document.querySelectorAll('canvas')].map((one) => new Set("
        "one.getContext('2d').getImageData(0, 0, one.width, one.height).data).size)"
    )
    assert all(colours > 3 for colours in drawn)
    assert page.errors == []


def test_nothing_comes_from_elsewhere(page: Browser, endpoint: Endpoint) -> None:
    page.wait("document.querySelector('#plot-batch .now').textContent.includes('0')")
    hosts = {url.split("/")[2] for url in page.requested if url.startswith("http")}
    assert hosts == {f"localhost:{endpoint.port}"}
    with urllib.request.urlopen(endpoint.url, timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "http" not in policy
    for name in ("nothing.js", "..%2Fapp.py", "%2e%2e/app.py"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{endpoint.url}/page/{name}", timeout=10)
        assert refused.value.code == 404


def test_the_key_is_asked_for(browser: Browser, endpoint: Endpoint) -> None:
    browser.open(endpoint.url)
    browser.wait("!document.getElementById('key-form').hidden")
    assert browser.value("document.activeElement.id") == "key"
    browser.type(KEY)
    browser.press("Enter", 13)
    browser.wait(f"document.getElementById('model').textContent.startsWith('{MODEL}')")
    browser.value("sessionStorage.clear()")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(
    "size", [(1400, 900), (390, 844), (820, 700)], ids=["wide", "phone", "middle"]
)
def test_every_window(
    page: Browser, endpoint: Endpoint, tmp_path: Path, size: tuple[int, int], dark: bool
) -> None:
    """Nothing lies outside or on top of each other, and text can be read on its ground."""
    page.open(endpoint.url, *size, dark=dark)
    page.wait(f"document.getElementById('model').textContent.startsWith('{MODEL}')")
    option(page, "max_tokens", 60)
    say(page, "What light through yonder window breaks?")
    wait_for_end(page)
    page.value("document.getElementById('options').open = true")
    page.wait(  # the end of the answer stays in sight above them
        "(() => { const log = document.getElementById('log');"
        "return log.scrollHeight - log.scrollTop - log.clientHeight < 2; })()"
    )
    page.wait("document.querySelector('#plot-batch .now').textContent.includes('0')")
    page.picture(tmp_path / "page.png", whole=True)
    assert page.value("document.documentElement.scrollWidth") <= size[0]
    outside = page.value(
        "[...document.querySelectorAll('button, input, textarea, select, figure, article')]"
        ".filter((one) => one.offsetParent).map((one) => one.getBoundingClientRect())"
        ".filter((box) => box.left < 0 || box.right > innerWidth + 0.5).length"
    )
    assert outside == 0
    contrasts = page.value(CONTRASTS)
    assert min(contrasts.values()) >= 4.5, contrasts


CONTRASTS = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (text) => {
    const [r, g, b] = rgb(text).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const result = {};
  for (const name of ["h1", "#model", ".user .text", ".model .text", ".figures", "#send", "#stop", "#clear",
                      "summary", ".fields label", "figcaption", "#text"]) {
    const one = document.querySelector(name);
    const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
    result[name] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return result;
})()"""
