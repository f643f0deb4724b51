"""Who is asking: clients are told apart by the hash of their key, and the key itself is kept nowhere."""

from collections.abc import Mapping
from hashlib import sha256

ANONYMOUS = "anonymous"


def owner(headers: Mapping[str, str]) -> str:
    """Return a stable name for the client behind these request headers."""
    key = headers.get("authorization") or headers.get("x-api-key") or headers.get("api-key")
    if not key:
        return ANONYMOUS
    bare = key[7:].strip() if key[:7].lower() == "bearer " else key
    return sha256(bare.encode("utf-8", "replace")).hexdigest()[:32]
