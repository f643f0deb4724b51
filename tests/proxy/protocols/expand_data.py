"""Texts that the tests of the hidden tool share."""

import re

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.running import LOG_TEXT

ORIGINAL = LOG_TEXT + "\n2024-01-01 ERROR disk full on /dev/sda1"
FINAL_TEXT = "The disk was full."
UNKNOWN_ID_TEXT = "no text of this id"
TOO_MANY_CALLS_TEXT = "was not answered"
MARKER_ID = re.compile(TOOL_NAME + r" ([0-9a-f]{12,24})")


def marker(original_id: str) -> str:
    """Return a marker as the proxy writes it, with the id of any original."""
    return f"[9 of 10 lines left out; {TOOL_NAME} {original_id}]"
