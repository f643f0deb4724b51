"""The three protocols as `expand_api.Api` describes them."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import anthropic
import openai
import orjson

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests import faulty
from clara_proxy.tests.proxy.protocols import chat_upstream, messages_upstream, responses_upstream
from clara_proxy.tests.proxy.protocols.expand_api import Api, Call, Client, Json, Model, Reply
from clara_proxy.tests.proxy.protocols.expand_data import ORIGINAL
from clara_proxy.tests.running import CLIENT_KEY, TIMEOUT

FINISH_REASONS = {
    "stop": "stop", "completed": "stop", "end_turn": "stop",
    "tool_calls": "tool_calls", "tool_use": "tool_calls",
    "length": "length", "incomplete": "length", "max_tokens": "length",
}  # fmt: skip
_MESSAGES_FRAMING = ("message_start", "message_delta", "message_stop")


class ChatApi(Api):
    """Chat completions with OpenAI's client."""

    name = "chat"
    path = "/v1/chat/completions"
    error_type = openai.APIError
    round_input_tokens = faulty.USAGE["prompt_tokens"]
    tools: ClassVar[list[Json]] = [chat_upstream.WEATHER_TOOL]
    own_expand_tool: ClassVar[Json] = {
        "type": "function",
        "function": {"name": TOOL_NAME, "parameters": {"type": "object"}},
    }

    @classmethod
    def create_client(cls, url: str) -> Client:
        return openai.OpenAI(base_url=f"{url}/v1", api_key=CLIENT_KEY, max_retries=0)

    def build_request(self, original: str = ORIGINAL, **fields: Any) -> Json:
        messages = [
            {"role": "user", "content": "why did it fail?"},
            {"role": "assistant", "content": None, "tool_calls": [chat_upstream.call("logs", {}, "c1")]},
            {"role": "tool", "tool_call_id": "c1", "content": original},
        ]
        return {"model": "gpt-4o", "messages": messages, "tools": self.tools, **fields}

    def build_short_request(self, **fields: Any) -> Json:
        return {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "tools": self.tools, **fields}

    def run_model(self, model: Model, *, finish: str = "") -> None:
        def build_message(request: Json) -> Json:
            output = model(request)
            calls = [chat_upstream.call(*part) for part in output if isinstance(part, Call)]
            text = "".join(part for part in output if isinstance(part, str))
            return {"content": text or None, **({"tool_calls": calls} if calls else {})}

        chat_upstream.run_model(self.upstream, build_message, finish=finish)

    def ask(self, request: Json, *, stream: bool, label: str = "", retries: int = 0) -> Reply:
        create = self.client.with_options(max_retries=retries).chat.completions.create
        options = {**request, "extra_headers": {"x-clara-session": label} if label else {}}
        if stream:
            choice = self._join_chunks(
                [chunk.model_dump(exclude_unset=True) for chunk in create(**options, stream=True)]
            )
        else:
            choice = create(**options).choices[0].model_dump(exclude_unset=True)
        message: Json = choice["message"]
        calls = [
            Call(call["function"]["name"], orjson.loads(call["function"]["arguments"]), call["id"])
            for call in message.get("tool_calls") or ()
        ]
        return Reply(message["content"] or "", calls, FINISH_REASONS[choice["finish_reason"]], [message])

    @staticmethod
    def _join_chunks(chunks: list[Json]) -> Json:
        assert TOOL_NAME not in str(chunks)
        assert len({chunk["id"] for chunk in chunks}) == 1
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        (finish,) = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
        calls: list[Json] = []
        for piece in (piece for choice in choices for piece in choice["delta"].get("tool_calls") or ()):
            if piece["index"] == len(calls):
                calls.append(
                    {"id": piece["id"], "type": "function", "function": {**piece["function"], "arguments": ""}}
                )
            calls[piece["index"]]["function"]["arguments"] += piece["function"].get("arguments") or ""
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        message = {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}
        return {"message": message, "finish_reason": finish}

    def items(self, request: Json) -> list[Json]:
        messages: list[Json] = request["messages"]
        return messages

    def find_marker_ids(self, request: Json) -> list[str]:
        return chat_upstream.find_marker_ids(request)

    def first_event(self) -> bytes:
        return faulty.sse_event(faulty.completion_chunk("The"))

    def build_results(self, results: Mapping[str, str]) -> list[Json]:
        return [{"role": "tool", "tool_call_id": call_id, "content": text} for call_id, text in results.items()]

    def find_calls(self, request: Json) -> list[Call]:
        calls = [call for message in request["messages"] for call in message.get("tool_calls") or ()]
        return [Call(call["function"]["name"], call["function"]["arguments"], call["id"]) for call in calls]

    def find_results(self, request: Json) -> dict[str, str]:
        results = [message for message in request["messages"] if message["role"] == "tool"]
        return {message["tool_call_id"]: message["content"] for message in results}

    def read_text(self, item: Json) -> str:
        assert item["role"] == "assistant"
        return str(item["content"])


class ResponsesApi(Api):
    """The Responses API with OpenAI's client."""

    name = "responses"
    path = "/v1/responses"
    error_type = openai.APIError
    round_input_tokens = responses_upstream.USAGE["input_tokens"]
    tools: ClassVar[list[Json]] = [responses_upstream.WEATHER_TOOL]
    own_expand_tool: ClassVar[Json] = {**responses_upstream.WEATHER_TOOL, "name": TOOL_NAME}

    @classmethod
    def create_client(cls, url: str) -> Client:
        return openai.OpenAI(base_url=f"{url}/v1", api_key=CLIENT_KEY, max_retries=0)

    def build_request(self, original: str = ORIGINAL, **fields: Any) -> Json:
        items = [
            {"role": "user", "content": "why did it fail?"},
            responses_upstream.call("logs", {}, "c1"),
            responses_upstream.result("c1", original),
        ]
        return {"model": "gpt-4o", "input": items, "tools": self.tools, **fields}

    def build_short_request(self, **fields: Any) -> Json:
        return {"model": "gpt-4o", "input": "hi", "tools": [{"type": "web_search"}, *self.tools], **fields}

    def run_model(self, model: Model, *, finish: str = "") -> None:
        def build_output(request: Json) -> list[Json]:
            status = {"status": "incomplete"} if finish else {}
            return [
                responses_upstream.message(part) if isinstance(part, str) else responses_upstream.call(*part, **status)
                for part in model(request)
            ]

        state = responses_upstream.ResponsesUpstream(self.upstream, build_output)
        if finish:
            state.reply_fields = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}

    def ask(self, request: Json, *, stream: bool, label: str = "", retries: int = 0) -> Reply:
        create = self.client.with_options(max_retries=retries).responses.create
        options = {**request, "extra_headers": {"x-clara-session": label} if label else {}}
        if stream:
            reply = join_response_events(
                [event.model_dump(exclude_unset=True) for event in create(**options, stream=True)]
            )
        else:
            reply = create(**options).model_dump(exclude_unset=True)
        calls = [
            Call(item["name"], orjson.loads(item["arguments"]), item["call_id"])
            for item in reply["output"]
            if item["type"] == "function_call"
        ]
        finish = "tool_calls" if calls else FINISH_REASONS[reply["status"]]
        return Reply(response_text(reply), calls, finish, reply["output"])

    def items(self, request: Json) -> list[Json]:
        items: list[Json] = request["input"]
        return items

    def find_marker_ids(self, request: Json) -> list[str]:
        return responses_upstream.find_marker_ids(request)

    def build_results(self, results: Mapping[str, str]) -> list[Json]:
        return [responses_upstream.result(call_id, text) for call_id, text in results.items()]

    def find_calls(self, request: Json) -> list[Call]:
        calls = [item for item in request["input"] if item.get("type") == "function_call"]
        return [Call(item["name"], item["arguments"], item["call_id"]) for item in calls]

    def find_results(self, request: Json) -> dict[str, str]:
        outputs = [item for item in request["input"] if item.get("type") == "function_call_output"]
        return {item["call_id"]: item["output"] for item in outputs}

    def read_text(self, item: Json) -> str:
        return response_text({"output": [item]})

    def first_event(self) -> bytes:
        return b'data: {"type":"response.created","sequence_number":0,"response":{}}\n\n'


class MessagesApi(Api):
    """The Messages API with Anthropic's client."""

    name = "messages"
    path = "/v1/messages"
    error_type = anthropic.APIError
    round_input_tokens = messages_upstream.ROUND_INPUT_TOKENS
    tools: ClassVar[list[Json]] = [messages_upstream.LOGS_TOOL, messages_upstream.WEATHER_TOOL]
    own_expand_tool: ClassVar[Json] = {"name": TOOL_NAME, "input_schema": {"type": "object"}}

    @classmethod
    def create_client(cls, url: str) -> Client:
        return anthropic.Anthropic(base_url=url, api_key=CLIENT_KEY, max_retries=0, timeout=TIMEOUT)

    def build_request(self, original: str = ORIGINAL, **fields: Any) -> Json:
        messages = [
            {"role": "user", "content": "why did it fail?"},
            {"role": "assistant", "content": [messages_upstream.call("logs", {}, "c1")]},
            {"role": "user", "content": [messages_upstream.result("c1", original)]},
        ]
        return {"model": "claude-x", "max_tokens": 999, "messages": messages, "tools": self.tools, **fields}

    def build_short_request(self, **fields: Any) -> Json:
        return {**self.build_request(), "messages": [{"role": "user", "content": "hi"}], **fields}

    def run_model(self, model: Model, *, finish: str = "") -> None:
        def build_content(request: Json) -> list[Json]:
            return [
                messages_upstream.text(part)
                if isinstance(part, str)
                else messages_upstream.call(part.name, parse_arguments(part.arguments), part.id)
                for part in model(request)
            ]

        reason = "max_tokens" if finish == "length" else ""
        messages_upstream.run_model(self.upstream, build_content, stop_reason=reason)

    def ask(self, request: Json, *, stream: bool, label: str = "", retries: int = 0) -> Reply:
        client = self.client.with_options(max_retries=retries)
        options = {**request, "extra_headers": {"x-clara-session": label} if label else {}}
        if stream:
            with client.messages.stream(**options) as streaming:
                events = _dump_all(streaming)
                reply = streaming.get_final_message().model_dump(exclude_unset=True)
            assert TOOL_NAME not in str(events)
            types = [event["type"] for event in events]
            assert [kind for kind in types if kind in _MESSAGES_FRAMING] == list(_MESSAGES_FRAMING)
            assert types[-2:] == ["message_delta", "message_stop"]
        else:
            reply = client.messages.create(**options).model_dump(exclude_unset=True)
        content: list[Json] = reply["content"]
        calls = [Call(block["name"], block["input"], block["id"]) for block in content if block["type"] == "tool_use"]
        turn = {"role": "assistant", "content": content}
        return Reply(self.read_text(turn), calls, FINISH_REASONS[reply["stop_reason"]], [turn])

    def items(self, request: Json) -> list[Json]:
        messages: list[Json] = request["messages"]
        return messages

    def find_marker_ids(self, request: Json) -> list[str]:
        return messages_upstream.find_marker_ids(request)

    def build_results(self, results: Mapping[str, str]) -> list[Json]:
        blocks = [messages_upstream.result(call_id, text) for call_id, text in results.items()]
        return [{"role": "user", "content": blocks}] if blocks else []

    def find_calls(self, request: Json) -> list[Call]:
        blocks = messages_upstream.list_blocks(request, "tool_use")
        return [Call(block["name"], block["input"], block["id"]) for block in blocks]

    def find_results(self, request: Json) -> dict[str, str]:
        blocks = messages_upstream.list_blocks(request, "tool_result")
        return {block["tool_use_id"]: block["content"] for block in blocks}

    def read_text(self, item: Json) -> str:
        assert item["role"] == "assistant"
        content = item["content"]
        return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)

    def first_event(self) -> bytes:
        reply = messages_upstream.build_reply([messages_upstream.text("The")])
        return messages_upstream.encode_event(next(messages_upstream.iter_events(reply)))


def _dump_all(objects: Iterable[Any]) -> list[Json]:
    return [item.model_dump(exclude_unset=True) for item in objects]


def parse_arguments(arguments: Json | str) -> Json:
    """Return the arguments of a call as an object; text that is not JSON becomes an empty one."""
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed: Json = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {}
    return parsed


def join_response_events(events: list[Json]) -> Json:
    """Return the reply at the end of a stream of the Responses API, and check that its events agree with it."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    done = [event for event in events if event["type"] == "response.output_item.done"]
    assert [event["output_index"] for event in done] == list(range(len(done)))
    reply: Json = events[-1]["response"]
    assert [event["item"] for event in done] == reply["output"]
    assert TOOL_NAME not in str(events)
    return reply


def response_text(reply: Json) -> str:
    """Return the text of a reply of the Responses API."""
    parts = [part for item in reply["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts)


APIS: tuple[type[Api], ...] = (ChatApi, ResponsesApi, MessagesApi)
