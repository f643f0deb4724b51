"""The dashboard in a real browser: display, keyboard, accessibility, and hostile texts that must not become code.

The tests need an installed Chromium and are skipped without one.
"""

import re
import shutil
import time
from collections.abc import Iterator
from importlib import resources
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.running import LOG_TEXT, Proxy, short_chat, tool_chat

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE_LABEL = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>\"'><svg onload=window.hacked=1>"
HOSTILE_TEXT = (
    f"{LOG_TEXT}\n</pre></td></table>{HOSTILE_LABEL}"
    "{{constructor.constructor('window.hacked=1')()}}\njavascript:window.hacked=1"
)
Theme = Literal["light", "dark"]
TIMEOUT_MS = 15_000  # milliseconds

FIND_OVERFLOW = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
    [...document.body.querySelectorAll("*")].filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
        .map((element) => `${element.tagName}.${element.className} ${element.id}`)"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(
    active_proxy: Proxy, empty_proxy: Proxy, unpriced_proxy: Proxy, locked_proxy: tuple[Proxy, str]
) -> Iterator[Browser]:
    """A headless Chromium, without its sandbox because root cannot use it; it opens only pages of these tests.

    Playwright takes over the event loop of this thread, so the proxies start before it and are queried over HTTP.
    """
    expect.set_options(timeout=TIMEOUT_MS)  # the default of 5 s is too short for a busy machine
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def active_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that stores texts and has answered some requests, a hostile one among them."""
    _upstream.reset()
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("busy"), keep_content="passages") as proxy:
        labels = {
            "x_clara_session": HOSTILE_LABEL,
            "x_clara_project": HOSTILE_LABEL,
            "x_clara_user": HOSTILE_LABEL,
            "x_clara_tag_evil": HOSTILE_LABEL,
        }
        hostile = tool_chat(HOSTILE_TEXT, model=HOSTILE_LABEL)
        hostile["messages"][1]["tool_calls"][0]["function"]["name"] = HOSTILE_LABEL
        proxy.wait_for_row(proxy.post(hostile, **labels))
        proxy.wait_for_row(proxy.post(tool_chat(), x_clara_project="billing"))
        proxy.wait_for_row(proxy.post(tool_chat(), x_clara_mode="observe", x_clara_session="watched"))
        proxy.wait_for_row(proxy.post(short_chat(model="gpt-4o-mini"), x_clara_project="support"))
        proxy.post(short_chat(), x_clara_ratio="nonsense")
        yield proxy


@pytest.fixture(scope="module")
def empty_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that has answered no requests and stores no texts."""
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("empty")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def unpriced_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with requests of unknown cost, and some that cost nothing."""
    _upstream.reset()
    with running.run_proxy(_upstream.url, tmp_path_factory.mktemp("unpriced")) as proxy:
        for number in range(3):
            proxy.wait_for_row(proxy.post(tool_chat(model="unknown-model"), x_clara_session=f"unpriced-{number}"))
        proxy.post(short_chat(model="unknown-model"), x_clara_ratio="nonsense")
        gateway = {"x-clara-session": "gateway"}
        shorter = httpx.post(f"{proxy.url}/v1/compress", json=tool_chat(model="another"), headers=gateway)
        httpx.get(f"{proxy.url}/v1/retrieve/{shorter.json()['ccr_hashes'][0]}", headers={"x-clara-session": "fetches"})
        proxy.wait_for_row("gateway")
        proxy.wait_for_row("fetches")
        yield proxy


@pytest.fixture(scope="module")
def locked_proxy(_upstream: FaultyUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, str]]:
    """A proxy with API keys, and an admin key of it."""
    folder = tmp_path_factory.mktemp("locked")
    key = issue.create_key(folder, "root", admin=True)
    with issue.run_proxy(_upstream.url, folder) as proxy:
        yield proxy, key


@pytest.fixture
def open_dashboard(browser: Browser) -> Iterator["DashboardOpener"]:
    """A function that opens dashboards; at the end, none of the pages may have logged an error."""
    opener = DashboardOpener(browser)
    yield opener
    opener.close()


class DashboardOpener:
    """Opens dashboards and collects the errors of their pages."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._pages: list[Page] = []
        self.errors: list[str] = []

    def __call__(
        self, proxy: Proxy, address: str = "", *, width: int = 1440, theme: Theme = "light", password: str | None = None
    ) -> Page:
        """Open a dashboard and wait until it is drawn."""
        size: Any = {"width": width, "height": 900}
        who: Any = {"http_credentials": {"username": "me", "password": password}} if password else {}
        context = self._browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce", **who)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("console", lambda entry: self.errors.append(entry.text) if entry.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"a dialog: {dialog.message}"))
        page.goto(f"{proxy.url}/dashboard{address}")
        page.wait_for_selector("body.ready")
        page.wait_for_selector("#list > :not(.empty:only-child), #list .empty .soft")
        self._pages.append(page)
        return page

    def close(self) -> None:
        """Close all pages; fails if one of them logged an error."""
        for page in self._pages:
            page.context.close()
        assert not self.errors


def test_api_page_shows_the_chat_endpoints(browser: Browser, empty_proxy: Proxy) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("console", lambda entry: errors.append(entry.text) if entry.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{empty_proxy.url}/docs")
    page.get_by_text("OpenAI Chat Completions").click()
    expect(page.get_by_text("x-clara-ratio")).to_be_visible()
    assert not errors
    page.close()


def find_violations(page: Page) -> list[str]:
    """Return the serious and critical accessibility violations that axe finds."""
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    violations: list[Any] = page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations)"
    )
    return [
        f"{violation['id']}: {violation['nodes'][0]['target']} {violation['nodes'][0]['failureSummary']}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]


def find_overflow(page: Page) -> list[str]:
    """Return the elements wider than the window, if the page scrolls sideways."""
    return list(page.evaluate(FIND_OVERFLOW))


def find_first_row(page: Page, project: str) -> Locator:
    return page.locator("#list tbody tr", has=page.get_by_text(project)).first


# display


def test_page_shows_the_totals_of_the_ledger(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
    (total,) = httpx.get(f"{active_proxy.url}/v1/savings", params={"since": "24h"}).json()["groups"]
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
def test_unknown_prices_are_not_shown_as_zero(
    open_dashboard: DashboardOpener, unpriced_proxy: Proxy, width: int, theme: Theme
) -> None:
    page = open_dashboard(unpriced_proxy, "#metric=money", width=width, theme=theme)
    money = page.locator(".figure", has=page.get_by_text("Money saved"))
    expect(money.locator(".value")).to_have_text("–")
    expect(money).to_contain_text("4 requests without a known price")
    expect(page.locator("#time")).to_contain_text("No price is known for any request in this span.")
    expect(page.locator("#groups tbody tr", has_text="unknown-model")).to_contain_text("no price known")
    for part in ("#figures", "#time", "#groups"):
        assert "$" not in page.locator(part).inner_text()
    assert not find_overflow(page)
    assert not find_violations(page)
    (total,) = httpx.get(f"{unpriced_proxy.url}/v1/savings").json()["groups"]
    assert [total[name] for name in ("cost", "cost_without", "saved_cost")] == [None, None, None]
    assert (total["unpriced"], total["unpriced_savings"]) == (3, 4)


def test_new_requests_appear_without_a_reload(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
    before = page.locator("#list tbody tr").count()
    active_proxy.post(short_chat(), x_clara_project="live-one")
    expect(find_first_row(page, "live-one")).to_be_visible(timeout=TIMEOUT_MS)
    expect(page.locator("#list tbody tr")).to_have_count(before + 1)


def test_empty_ledger_shows_hints(open_dashboard: DashboardOpener, empty_proxy: Proxy) -> None:
    page = open_dashboard(empty_proxy)
    expect(page.locator("#list")).to_contain_text("No requests in this span yet.")
    expect(page.locator("#list")).to_contain_text(f"{empty_proxy.url}/v1")
    expect(page.locator("#time")).to_contain_text("No requests in this span yet.")
    expect(page.locator("#steps")).to_contain_text("No tokens in this span yet.")
    assert not find_violations(page)
    empty_proxy.post(tool_chat())
    find_first_row(page, "gpt-4o").click()
    expect(page.locator("#view")).to_contain_text("CLARA_KEEP_CONTENT=passages")
    expect(page.get_by_role("button", name="Before and after")).to_have_count(0)


def test_page_reports_and_recovers_from_a_lost_connection(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
    live_button = page.locator("#live")
    page.context.set_offline(True)
    live_button.click(click_count=2)  # pausing and resuming polls at once
    expect(page.get_by_role("alert")).to_contain_text("does not respond", timeout=TIMEOUT_MS)
    assert page.locator("#list tbody tr").count() >= 5  # known requests stay visible
    page.context.set_offline(False)
    live_button.click(click_count=2)
    expect(page.get_by_role("alert")).to_be_hidden(timeout=TIMEOUT_MS)
    open_dashboard.errors[:] = [error for error in open_dashboard.errors if "ERR_INTERNET_DISCONNECTED" not in error]


# controls


def test_filters_narrow_the_list_and_stay_in_the_address(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
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
    expect(page.locator("#list")).to_contain_text("No request in this span matches the filters.")


def test_theme_can_be_selected_and_persists(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy, theme="dark")
    color = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(color)
    page.get_by_role("button", name="Theme: auto").click()
    light = page.evaluate(color)
    assert light != dark
    page.reload()
    assert page.evaluate(color) == light
    page.get_by_role("button", name="Theme: light").click()
    assert page.evaluate(color) == dark


def test_request_view_opens_and_closes_by_keyboard(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
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
    for _ in range(12):  # the page behind the dialog cannot take the focus
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(link).to_be_focused()
    assert "request=" not in page.url


def test_request_view_has_an_address_and_back_closes_it(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
    find_first_row(page, "billing").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    address = page.url
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.goto(address)
    expect(page.get_by_role("dialog")).to_contain_text("billing")
    page.goto(re.sub("request=[^&]+", "request=req_gone", address))
    expect(page.get_by_role("dialog")).to_contain_text("does not contain this request")
    open_dashboard.errors[:] = [error for error in open_dashboard.errors if "404" not in error]


def test_texts_are_shown_side_by_side_and_separately(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
    find_first_row(page, "billing").click()
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


def test_only_an_admin_key_opens_a_protected_dashboard(
    open_dashboard: DashboardOpener, browser: Browser, locked_proxy: tuple[Proxy, str]
) -> None:
    proxy, key = locked_proxy
    stranger = browser.new_page()
    for path in ("", "/assets/main.js", "/data/overview", "/data/requests"):
        answer = stranger.request.get(f"{proxy.url}/dashboard{path}")
        assert answer.status == 401, path
        assert answer.headers["www-authenticate"].startswith("Basic")
    stranger.close()
    page = open_dashboard(proxy, password=key)
    expect(page.locator("#list")).to_be_visible()
    assert key not in page.content()


# accessibility


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_page_is_accessible_and_fits_the_window(
    open_dashboard: DashboardOpener, active_proxy: Proxy, width: int, theme: Theme
) -> None:
    page = open_dashboard(active_proxy, width=width, theme=theme)
    assert not find_overflow(page)
    page.evaluate("document.querySelectorAll('details').forEach((details) => details.open = true)")
    assert not find_violations(page)
    for metric in ("Money", "Requests"):
        page.locator("#metric").get_by_label(metric).check()
    find_first_row(page, "billing").locator("a").click()
    page.get_by_role("button", name="Before and after").click()
    page.wait_for_selector(".sides")
    assert not find_overflow(page)
    assert page.evaluate(
        "(() => { const s = document.querySelector('dialog'); return s.scrollWidth <= s.clientWidth })()"
    )
    assert not find_violations(page)


# security


def test_hostile_texts_are_never_executed(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
    page.evaluate(
        "addEventListener('securitypolicyviolation', (event) => { window.violated = event.violatedDirective })"
    )
    for by in ("Project", "Tool", "Model"):
        page.locator("#by").get_by_label(by).check()
        expect(page.locator("#groups").get_by_text(HOSTILE_LABEL)).to_be_visible()
    page.locator("#groups").get_by_role("button", name=HOSTILE_LABEL).click()
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page.reload()
    expect(page.locator("#list tbody tr")).to_have_count(1)
    page.locator("#list tbody a").click()
    expect(page.get_by_role("dialog").get_by_role("heading", name=HOSTILE_LABEL)).to_be_visible()
    page.get_by_role("button", name="Before and after").click()
    page.wait_for_selector(".sides")
    page.locator(".tools").get_by_label("Original").check()
    assert page.locator(".cell.whole").text_content() == f"{HOSTILE_TEXT}\n2024-01-01 ERROR disk full on /dev/sda1"
    time.sleep(0.3)  # the image needs a moment to fail
    assert page.evaluate("window.hacked === undefined && window.violated === undefined")
    assert page.locator("script").count() == 2
    assert page.locator("img:not([src='dashboard/assets/icon.svg']), iframe, object, embed").count() == 0
    assert page.locator("svg [onload], [onerror], [onclick], [style*='url']").count() == 0


def test_hostile_addresses_are_ignored(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(
        active_proxy,
        f"#span={HOSTILE_LABEL}&metric={HOSTILE_LABEL}&by=__proto__&model={HOSTILE_LABEL}x&request=../../stats?{HOSTILE_LABEL}",
    )
    expect(page.get_by_role("dialog")).to_contain_text("does not contain this request")
    page.keyboard.press("Escape")
    expect(page.locator("#list")).to_contain_text("No request in this span matches the filters.")
    assert page.evaluate("window.hacked === undefined")
    open_dashboard.errors[:] = [error for error in open_dashboard.errors if "404" not in error]


def test_policy_forbids_html_and_foreign_requests(open_dashboard: DashboardOpener, active_proxy: Proxy) -> None:
    page = open_dashboard(active_proxy)
    result = page.evaluate(
        "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'inserted' } catch (e) { return e.name } })()"
    )
    assert result == "TypeError"
    assert page.evaluate("fetch('https://example.org').then(() => 'sent', (e) => e.name)") == "TypeError"
    open_dashboard.errors.clear()  # the browser logs each refusal
