"""Invariant "faithful": `extract` emits verbatim pieces, and text of a model is labelled and supported."""

import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.tests.conversations import Json, chats
from clara_proxy.tests.proxy.inprocess import INVENTED_NUMBER, InProcessProxy, JsonStyle, whole_request_settings
from clara_proxy.tests.proxy.invariants.cases import LOW_MINIMUM, ProtocolCase, json_styles
from clara_proxy.tests.proxy.invariants.compressors import PROSE, long_chat

WORD = re.compile(r"[^\W\d_]{3,}|\d{3,}")  # the compressor numbers the rows of tables, so short numbers may be new
MARKER = re.compile(r"\[(?:\.\.\.|\d[^\]]* left out[^\]]*|reformatted[^\]]*)\]")
MODEL_LABEL = "[condensed by a model, quoted: "
DEDUPLICATED = "shown before"  # the text of a repeated passage, which needs no compressor


@whole_request_settings
@given(chats(tags=False), json_styles, st.sampled_from(["extract", "prune"]))
def test_extract_and_prune_add_no_word(case: ProtocolCase, conversation: Json, style: JsonStyle, mode: str) -> None:
    body = case.convert(conversation)
    sent = case.plain.send(style(body), {**LOW_MINIMUM, "x-clara-mode": mode})
    for before, after in case.iter_changes(body, sent.forwarded):
        words = WORD.findall(MARKER.sub("\n", after))
        assert set(words) <= set(WORD.findall(before))


@whole_request_settings
@given(chats(tags=False), json_styles, st.sampled_from(["answer", "summary"]))
def test_invented_number_of_a_model_is_not_forwarded(
    case: ProtocolCase, conversation: Json, style: JsonStyle, mode: str
) -> None:
    body = case.convert(conversation)
    sent = case.plain.send(style(body), {**LOW_MINIMUM, "x-clara-mode": mode})
    assert INVENTED_NUMBER.encode() not in sent.forwarded
    assert sent.context.engine in ("clara", "extract", "none")
    for before, after in case.iter_changes(body, sent.forwarded):
        if MODEL_LABEL not in after and DEDUPLICATED not in after:  # extracted: code, logs and data
            assert set(WORD.findall(MARKER.sub("\n", after))) <= set(WORD.findall(before))


@pytest.mark.parametrize("mode", ["answer", "summary"])
def test_text_of_a_model_is_labelled(chat_proxy: InProcessProxy, mode: str) -> None:
    sent = chat_proxy.send(orjson.dumps(long_chat(PROSE)), {"x-clara-mode": mode})
    assert MODEL_LABEL.encode() in sent.forwarded
    assert b"It is about the following." in sent.forwarded
    assert sent.context.engine == "clara"
    log = chat_proxy.send(orjson.dumps(long_chat()), {"x-clara-mode": mode})
    assert MODEL_LABEL.encode() not in log.forwarded
    assert log.context.engine == "extract"
