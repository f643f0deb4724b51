"""Decides whether a recorded reply is complete, so that it may be sent again: the model finished by itself. Pure."""

from ..protocols import api_errors, json_types, sse
from ..protocols.json_types import Json, is_array, is_object


def is_complete(protocol: str, body: bytes, *, is_streamed: bool) -> bool:
    """Return True if a reply, as the client received it, is a whole successful answer of one choice with text."""
    if not is_streamed:
        message = json_types.parse_object(body)
        return message is not None and not api_errors.has_error(message) and _IS_FINISHED[protocol](message)
    events = [sse.parse_data(event) for event in body.replace(b"\r\n", b"\n").split(b"\n\n")]
    if any(api_errors.has_error(event) for event in events):
        return False
    if protocol == "responses":
        replies = [event["response"] for event in events if event.get("type") == "response.completed"]
        return len(replies) == 1 and is_object(replies[0]) and _is_response_finished(replies[0])
    if protocol == "messages":
        return _is_message_stream_finished(events)
    return b"[DONE]" in body[-64:] and _is_chat_stream_finished(events)


def _is_chat_finished(message: Json) -> bool:
    choices = message.get("choices")
    if not is_array(choices) or len(choices) != 1 or not is_object(choices[0]):
        return False
    content = choices[0].get("message")
    has_text = is_object(content) and bool(content.get("content")) and not content.get("tool_calls")
    return choices[0].get("finish_reason") == "stop" and has_text


def _is_chat_stream_finished(events: list[Json]) -> bool:
    choices = [choice for event in events for choice in event.get("choices") or () if is_object(choice)]
    deltas = [choice["delta"] for choice in choices if is_object(choice.get("delta"))]
    reasons = {choice.get("finish_reason") for choice in choices} - {None}
    is_single = {choice.get("index", 0) for choice in choices} == {0}
    has_text = any(delta.get("content") for delta in deltas) and not any(delta.get("tool_calls") for delta in deltas)
    return is_single and reasons == {"stop"} and has_text


def _is_response_finished(message: Json) -> bool:
    output = message.get("output")
    kinds = {item.get("type") for item in output if is_object(item)} if is_array(output) else set[object]()
    return message.get("status") == "completed" and "message" in kinds and kinds <= {"message", "reasoning"}


def _is_message_finished(message: Json) -> bool:
    content = message.get("content")
    kinds = {block.get("type") for block in content if is_object(block)} if is_array(content) else set[object]()
    has_text = "text" in kinds and kinds <= {"text", "thinking", "redacted_thinking"}
    return message.get("stop_reason") == "end_turn" and has_text


def _is_message_stream_finished(events: list[Json]) -> bool:
    blocks = [event.get("content_block") for event in events if event.get("type") == "content_block_start"]
    deltas = [event.get("delta") for event in events if event.get("type") == "message_delta"]
    reasons = {delta.get("stop_reason") for delta in deltas if is_object(delta)} - {None}
    is_ended = any(event.get("type") == "message_stop" for event in events)
    return is_ended and len(reasons) == 1 and _is_message_finished({"stop_reason": reasons.pop(), "content": blocks})


_IS_FINISHED = {"chat": _is_chat_finished, "responses": _is_response_finished, "messages": _is_message_finished}
