"""What the environment tells the clients of OpenAI and Anthropic: whom they would ask without us, and with which key.

Not settings of ours: `wrap`, which takes these variables away from a command, asks in the command's place whom they
name, and `doctor` tries the key. The invariant: nothing here is sent anywhere but where the variables themselves say.
"""

import os
from urllib.parse import urlsplit

OPENAI_URL_VARIABLES = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
ANTHROPIC_URL_VARIABLE = "ANTHROPIC_BASE_URL"
OPENAI_DEFAULT_URL = "https://api.openai.com/v1"


def read_client_upstreams() -> dict[str, str]:
    """Return the upstreams that clients here would ask, by the name of our setting; empty where nothing is said."""
    openai = next((os.environ[name] for name in OPENAI_URL_VARIABLES if os.environ.get(name)), "")
    anthropic = os.environ.get(ANTHROPIC_URL_VARIABLE, "").rstrip("/")
    named = {"upstream_base_url": openai, "anthropic_base_url": f"{anthropic}/v1" if anthropic else ""}
    return {name: url for name, url in named.items() if url}


def read_openai_key(base_url: str) -> str | None:
    """Return the key that OpenAI's clients here would show at this address; None where it is meant for another."""
    meant_for = read_client_upstreams().get("upstream_base_url", OPENAI_DEFAULT_URL)
    return os.environ.get("OPENAI_API_KEY") or None if base_url.rstrip("/") == meant_for.rstrip("/") else None


def redact_url(url: str) -> str:
    """Return an address as it may be shown: without the credentials that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
