"""`/openapi.json` describes every endpoint with its body, and `/docs` shows it without other hosts."""

from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from clara_proxy.proxy.app import ADAPTERS
from clara_proxy.proxy.http import request_options
from clara_proxy.tests.running import Proxy


@pytest.fixture
def document(proxy: Proxy) -> Any:
    return httpx.get(f"{proxy.url}/openapi.json").json()


def test_document_is_valid_and_its_operation_ids_are_unique(document: Any) -> None:
    validate(document)
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) > 10


def test_every_endpoint_with_a_body_describes_it(document: Any) -> None:
    posts = {path: entry["post"] for path, entry in document["paths"].items() if "post" in entry}
    without_body = {path for path, operation in posts.items() if "requestBody" not in operation}
    assert without_body == {"/unload", "/v1/retrieve/{name}"}
    assert posts.keys() >= ADAPTERS.keys()


def test_chat_endpoints_list_every_header(document: Any) -> None:
    for path in ADAPTERS:
        names = [parameter["name"] for parameter in document["paths"][path]["post"]["parameters"]]
        assert names == list(request_options.describe_headers())


def test_page_loads_only_files_of_the_proxy(proxy: Proxy) -> None:
    page = httpx.get(f"{proxy.url}/docs")
    assert "://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "SwaggerUIBundle" in httpx.get(f"{proxy.url}/docs/assets/swagger-ui-bundle.js").text
    assert httpx.get(f"{proxy.url}/docs/assets/swagger-ui.css").headers["content-type"].startswith("text/css")
    for name in ("..%2fpage.html", "redoc.standalone.js"):
        assert httpx.get(f"{proxy.url}/docs/assets/{name}").status_code == 404
