"""The dashboard in a real browser: what is seen, pressed and read aloud, and that no text of anybody's becomes code.

Chromium is driven as it is installed here; where there is none, these tests are skipped and say so.
"""

import re
import shutil
import time
from collections.abc import Iterator
from importlib import resources
from typing import Any, Literal

import httpx
import orjson
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.running import LOG_TEXT, Proxy, short_chat, tool_chat

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>\"'><svg onload=window.hacked=1>"
HOSTILE = f"{LOG_TEXT}\n</pre></td></table>{EVIL}{{{{constructor.constructor('window.hacked=1')()}}}}\njavascript:window.hacked=1"
Theme = Literal["light", "dark"]
PATIENCE = 15_000  # milliseconds

TOO_WIDE = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
    [...document.body.querySelectorAll("*")].filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
        .map((one) => `${one.tagName}.${one.className} ${one.id}`)"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(busy: Proxy, empty: Proxy, unpriced: Proxy, locked: tuple[Proxy, str]) -> Iterator[Browser]:
    """A headless Chromium. As root it runs without its sandbox, which nothing but our own pages needs.

    Playwright takes this thread's event loop, so that proxies are started before it and read over HTTP.
    """
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def busy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that keeps texts and has answered some requests, hostile ones among them."""
    _upstream.reset()
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("busy"), keep_content="passages") as proxy:
        labels = {"x_clara_session": EVIL, "x_clara_project": EVIL, "x_clara_user": EVIL, "x_clara_tag_evil": EVIL}
        hostile = tool_chat(HOSTILE, model=EVIL)
        hostile["messages"][1]["tool_calls"][0]["function"]["name"] = EVIL
        proxy.wait_for_row(proxy.post(hostile, **labels))
        proxy.wait_for_row(proxy.post(tool_chat(), x_clara_project="billing"))
        proxy.wait_for_row(proxy.post(tool_chat(), x_clara_mode="observe", x_clara_session="watched"))
        proxy.wait_for_row(proxy.post(short_chat(model="gpt-4o-mini"), x_clara_project="support"))
        proxy.post(short_chat(), x_clara_ratio="nonsense")
        yield proxy


@pytest.fixture(scope="module")
def empty(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that has answered nothing yet, and keeps no texts."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("empty")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def unpriced(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy of which nobody knows what its requests cost, but for those that cost nothing anyway."""
    _upstream.reset()
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("unpriced")) as proxy:
        for at in range(3):
            proxy.wait_for_row(proxy.post(tool_chat(model="a-model-of-nobody-s"), x_clara_session=f"unpriced-{at}"))
        proxy.post(short_chat(model="a-model-of-nobody-s"), x_clara_ratio="nonsense")
        gateway = {"x-clara-session": "gateway"}
        shorter = httpx.post(f"{proxy.url}/v1/compress", json=tool_chat(model="another"), headers=gateway)
        httpx.get(f"{proxy.url}/v1/retrieve/{shorter.json()['ccr_hashes'][0]}", headers={"x-clara-session": "fetches"})
        proxy.wait_for_row("gateway")
        proxy.wait_for_row("fetches")
        yield proxy


@pytest.fixture(scope="module")
def locked(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, str]]:
    """A proxy with an admin's key, and that key."""
    folder = tmp_path_factory.mktemp("locked")
    key = issue.create_key(folder, "root", admin=True)
    with issue.run_proxy(_upstream.url, folder) as proxy:
        yield proxy, key


@pytest.fixture
def opened(browser: Browser) -> Iterator["Opens"]:
    """Open pages; at the end, nothing may have gone wrong in them."""
    opens = Opens(browser)
    yield opens
    opens.close()


class Opens:
    """Opens pages of a dashboard, and holds them to having no errors."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._pages: list[Page] = []
        self.complaints: list[str] = []

    def __call__(
        self, proxy: Proxy, at: str = "", *, width: int = 1440, theme: Theme = "light", password: str | None = None
    ) -> Page:
        """Open a dashboard and wait until it shows its figures."""
        size: Any = {"width": width, "height": 900}
        who: Any = {"http_credentials": {"username": "me", "password": password}} if password else {}
        context = self._browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce", **who)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        page.goto(f"{proxy.url}/dashboard{at}")
        page.wait_for_selector("body.ready")
        page.wait_for_selector("#list > :not(.empty:only-child), #list .empty .soft")
        self._pages.append(page)
        return page

    def close(self) -> None:
        """Close all pages."""
        for page in self._pages:
            page.context.close()
        assert not self.complaints


def faults(page: Page) -> list[str]:
    """Return what axe finds that is serious or worse."""
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    found: list[Any] = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then((told) => told.violations)")
    return [
        f"{one['id']}: {orjson.dumps(one['nodes'][0]['target']).decode()} {one['nodes'][0]['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def too_wide(page: Page) -> list[str]:
    """Name what reaches beyond the window, where the page can be scrolled sideways."""
    return list(page.evaluate(TOO_WIDE))


def first_of(page: Page, project: str) -> Locator:
    return page.locator("#list tbody tr", has=page.get_by_text(project)).first


# what is seen


def test_figures_are_those_of_the_ledger(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    (total,) = httpx.get(f"{busy.url}/v1/savings", params={"since": "24h"}).json()["groups"]
    saved = f"{total['saved']:,}"
    value = page.locator(".figure", has=page.get_by_text("Tokens saved")).locator(".value")
    expect(value).to_have_attribute("title", saved)
    expect(page.locator("#steps tr", has_text="Received").locator(".number")).to_have_attribute(
        "title", f"{total['received']:,}"
    )
    page.locator("#time summary").click()
    expect(page.locator("#time table")).to_contain_text(saved)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_what_has_no_price_is_not_nought(opened: Opens, unpriced: Proxy, width: int, theme: Theme) -> None:
    page = opened(unpriced, "#metric=money", width=width, theme=theme)
    money = page.locator(".figure", has=page.get_by_text("Money saved"))
    expect(money.locator(".value")).to_have_text("–")
    expect(money).to_contain_text("4 requests without a known price")
    expect(page.locator("#time")).to_contain_text("No price is known for any request in this span.")
    expect(page.locator("#groups tbody tr", has_text="a-model-of-nobody-s")).to_contain_text("no price known")
    for part in ("#figures", "#time", "#groups"):
        assert "$" not in page.locator(part).inner_text()
    assert not too_wide(page)
    assert not faults(page)
    (total,) = httpx.get(f"{unpriced.url}/v1/savings").json()["groups"]
    assert [total[name] for name in ("cost", "cost_without", "saved_cost")] == [None, None, None]
    assert (total["unpriced"], total["unpriced_savings"]) == (3, 4)


def test_a_request_appears_by_itself(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    before = page.locator("#list tbody tr").count()
    busy.post(short_chat(), x_clara_project="live-one")
    expect(first_of(page, "live-one")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#list tbody tr")).to_have_count(before + 1)


def test_nothing_yet_is_said_kindly(opened: Opens, empty: Proxy) -> None:
    page = opened(empty)
    expect(page.locator("#list")).to_contain_text("No request in this span yet.")
    expect(page.locator("#list")).to_contain_text(f"{empty.url}/v1")
    expect(page.locator("#time")).to_contain_text("No request in this span yet.")
    expect(page.locator("#steps")).to_contain_text("No tokens in this span yet.")
    assert not faults(page)
    empty.post(tool_chat())
    first_of(page, "gpt-4o").click()
    expect(page.locator("#view")).to_contain_text("CLARA_KEEP_CONTENT=passages")
    expect(page.get_by_role("button", name="Before and after")).to_have_count(0)


def test_a_proxy_that_is_gone_is_said_to_be_and_found_again(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    again = page.locator("#live")
    page.context.set_offline(True)
    again.click(click_count=2)  # pause and go on: it asks at once
    expect(page.get_by_role("alert")).to_contain_text("does not answer", timeout=PATIENCE)
    assert page.locator("#list tbody tr").count() >= 5  # what was known is still there
    page.context.set_offline(False)
    again.click(click_count=2)
    expect(page.get_by_role("alert")).to_be_hidden(timeout=PATIENCE)
    opened.complaints[:] = [one for one in opened.complaints if "ERR_INTERNET_DISCONNECTED" not in one]


# what is pressed


def test_filters_narrow_the_list_and_stay_in_the_address(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    page.locator("#filter").get_by_label("Project").select_option("billing")
    expect(page.locator("#list tbody tr")).to_have_count(1)
    assert "project=billing" in page.url
    page.reload()
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#list tbody tr").nth(4)).to_be_visible()
    page.locator("#by").get_by_label("Project").check()
    page.locator("#groups").get_by_role("button", name="support").click()
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page.get_by_label("User, session, key or id").fill("nobody's")
    page.keyboard.press("Enter")
    expect(page.locator("#list")).to_contain_text("No request of this span fits.")


def test_the_theme_can_be_chosen_and_stays(opened: Opens, busy: Proxy) -> None:
    page = opened(busy, theme="dark")
    color = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(color)
    page.get_by_role("button", name="Theme: auto").click()
    light = page.evaluate(color)
    assert light != dark
    page.reload()
    assert page.evaluate(color) == light
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(color) == dark


def test_a_request_is_opened_and_left_by_keyboard(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the requests")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#requests")).to_be_focused()
    link = page.locator("#list tbody a").nth(1)
    for _ in range(30):
        if link.evaluate("(link) => link === document.activeElement"):
            break
        page.keyboard.press("Tab")
    expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("button", name="Close")).to_be_focused()
    for _ in range(12):  # what is behind the sheet is out of reach
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(link).to_be_focused()
    assert "request=" not in page.url


def test_a_request_has_an_address_and_the_way_back_closes_it(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    first_of(page, "billing").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    address = page.url
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.goto(address)
    expect(page.get_by_role("dialog")).to_contain_text("billing")
    page.goto(re.sub("request=[^&]+", "request=req_gone", address))
    expect(page.get_by_role("dialog")).to_contain_text("not in the ledger")
    opened.complaints[:] = [one for one in opened.complaints if "404" not in one]


def test_texts_stand_side_by_side_and_each_by_itself(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    first_of(page, "billing").click()
    page.get_by_role("button", name="Before and after").click()
    expect(page.locator(".sides del").first).to_be_visible()
    expect(page.locator(".sides .marker").first).to_contain_text("left out")
    original = tool_chat()["messages"][2]["content"]
    while (unfold := page.locator(".sides .left .unfold")).count():
        unfold.first.click()
    left = page.locator(".sides .cell.left").all_inner_texts()
    assert original.split("\n")[200] in "".join(left)
    page.locator(".tools").get_by_label("Original").check()
    assert page.locator(".cell.whole").text_content() == original
    page.locator(".tools").get_by_label("As sent").check()
    expect(page.locator(".cell.whole")).to_contain_text("left out")


def test_with_keys_only_an_admins_opens_it(opened: Opens, browser: Browser, locked: tuple[Proxy, str]) -> None:
    proxy, key = locked
    stranger = browser.new_page()
    for path in ("", "/assets/main.js", "/data/overview", "/data/requests"):
        answer = stranger.request.get(f"{proxy.url}/dashboard{path}")
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic")
    stranger.close()
    page = opened(proxy, password=key)
    expect(page.locator("#list")).to_be_visible()
    assert key not in page.content()


# what is read aloud


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_serious_and_everything_fits(opened: Opens, busy: Proxy, width: int, theme: Theme) -> None:
    page = opened(busy, width=width, theme=theme)
    assert not too_wide(page)
    page.evaluate("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert not faults(page)
    for metric in ("Money", "Requests"):
        page.locator("#metric").get_by_label(metric).check()
    first_of(page, "billing").locator("a").click()
    page.get_by_role("button", name="Before and after").click()
    page.wait_for_selector(".sides")
    assert not too_wide(page)
    assert page.evaluate(
        "(() => { const s = document.querySelector('dialog'); return s.scrollWidth <= s.clientWidth })()"
    )
    assert not faults(page)


# what is hostile


def test_nothing_that_anybody_says_becomes_code(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    page.evaluate(
        "addEventListener('securitypolicyviolation', (event) => { window.violated = event.violatedDirective })"
    )
    for by in ("Project", "Tool", "Model"):
        page.locator("#by").get_by_label(by).check()
        expect(page.locator("#groups").get_by_text(EVIL)).to_be_visible()
    page.locator("#groups").get_by_role("button", name=EVIL).click()
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page.reload()
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page.locator("#list tbody a").click()
    expect(page.get_by_role("dialog").get_by_role("heading", name=EVIL)).to_be_visible()
    page.get_by_role("button", name="Before and after").click()
    page.wait_for_selector(".sides")
    page.locator(".tools").get_by_label("Original").check()
    assert page.locator(".cell.whole").text_content() == f"{HOSTILE}\n2024-01-01 ERROR disk full on /dev/sda1"
    time.sleep(0.3)  # an image that fails to load takes a moment
    assert page.evaluate("window.hacked === undefined && window.violated === undefined")
    assert page.locator("script").count() == 2
    assert page.locator("img:not([src='dashboard/assets/icon.svg']), iframe, object, embed").count() == 0
    assert page.locator("svg [onload], [onerror], [onclick], [style*='url']").count() == 0


def test_an_address_cannot_say_more_than_what_is_chosen(opened: Opens, busy: Proxy) -> None:
    page = opened(busy, f"#span={EVIL}&metric={EVIL}&by=__proto__&model={EVIL}x&request=../../stats?{EVIL}")
    expect(page.get_by_role("dialog")).to_contain_text("not in the ledger")
    page.keyboard.press("Escape")
    expect(page.locator("#list")).to_contain_text("No request of this span fits.")
    assert page.evaluate("window.hacked === undefined")
    opened.complaints[:] = [one for one in opened.complaints if "404" not in one]


def test_even_a_script_of_ours_could_not_put_html_in(opened: Opens, busy: Proxy) -> None:
    page = opened(busy)
    said = page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'put in' } catch (e) { return e.name } })()"
    )
    assert said == "TypeError"
    assert page.evaluate("fetch('https://example.org').then(() => 'sent', (e) => e.name)") == "TypeError"
    opened.complaints.clear()  # the browser says aloud what it refused
