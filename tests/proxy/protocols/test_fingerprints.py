"""Fingerprints identify a conversation however its client stores it."""

import pytest

from clara_proxy.proxy.protocols import chat, messages, responses
from clara_proxy.proxy.protocols.protocol import ProtocolAdapter


@pytest.mark.parametrize("text", ["I read the file.\n", "\nI read the file.", "I read the file. "])
@pytest.mark.parametrize("adapter", [chat.ADAPTER, messages.ADAPTER, responses.ADAPTER])
def test_white_space_around_a_text_does_not_change_its_fingerprint(adapter: ProtocolAdapter, text: str) -> None:
    """gptme ends each reply with a line end."""
    sent = {"type": "message", "role": "assistant", "content": "I read the file."}
    assert adapter.fingerprint_element({**sent, "content": text}) == adapter.fingerprint_element(sent)
    assert adapter.fingerprint_element({**sent, "content": "I read the files."}) != adapter.fingerprint_element(sent)
