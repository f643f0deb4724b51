"""What stands at the root of the proxy's own address."""

import httpx

from clara_proxy.tests.running import Proxy

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def test_people_are_led_to_the_dashboard_and_programs_to_the_api(proxy: Proxy) -> None:
    led = httpx.get(f"{proxy.url}/", headers=BROWSER, follow_redirects=True)
    assert (led.status_code, led.url.path) == (200, "/dashboard")
    assert "text/html" in led.headers["content-type"]
    told = httpx.get(f"{proxy.url}/")
    assert told.status_code == 404
    assert f"point OPENAI_BASE_URL at {proxy.url}/v1" in told.json()["error"]["message"]
