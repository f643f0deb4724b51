"""Reads the environment variables of OpenAI's and Anthropic's clients: their upstreams and their key.

`wrap` replaces these variables for a command and forwards to the upstreams they name; `doctor` tests the key. A value
from here is sent only to the address that the variables themselves name.
"""

import os
from urllib.parse import urlsplit

OPENAI_URL_VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
ANTHROPIC_URL_VARIABLE = "ANTHROPIC_BASE_URL"
OPENAI_DEFAULT_URL = "https://api.openai.com/v1"
ANTHROPIC_DEFAULT_URL = "https://api.anthropic.com/v1"


def read_client_upstreams() -> dict[str, str]:
    """Return the clients' upstreams by the name of the proxy's setting; without those that are not set."""
    openai = next((os.environ[name] for name in OPENAI_URL_VARIABLES if os.environ.get(name)), "")
    anthropic = os.environ.get(ANTHROPIC_URL_VARIABLE, "").rstrip("/").removesuffix("/v1")  # the AI SDK wants the /v1
    urls = {"upstream_base_url": openai, "anthropic_base_url": f"{anthropic}/v1" if anthropic else ""}
    return {name: url for name, url in urls.items() if url}


def read_openai_key(base_url: str) -> str | None:
    """Return the key of OpenAI's clients if it is meant for this address, else None."""
    key_url = read_client_upstreams().get("upstream_base_url", OPENAI_DEFAULT_URL)
    return os.environ.get("OPENAI_API_KEY") or None if base_url.rstrip("/") == key_url.rstrip("/") else None


def read_search_path() -> str:
    """Return the PATH of this process."""
    return os.environ.get("PATH", os.defpath)


def redact_url(url: str) -> str:
    """Return a URL without credentials, query and fragment, so that it can be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
