"""The root path of the proxy."""

import httpx

from clara_proxy.tests.running import Proxy

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_browsers_get_the_dashboard_and_programs_a_404_with_the_api_url(proxy: Proxy) -> None:
    page = httpx.get(f"{proxy.url}/", headers=BROWSER, follow_redirects=True)
    assert (page.status_code, page.url.path) == (200, "/dashboard")
    assert "text/html" in page.headers["content-type"]
    answer = httpx.get(f"{proxy.url}/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert f"set OPENAI_BASE_URL to {proxy.url}/v1" in answer.json()["error"]["message"]
