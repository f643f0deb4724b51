"""Clients that edit what they see in their messages: what looks like a file is forwarded byte for byte."""

from collections.abc import Generator
from pathlib import Path

import orjson
import pytest

from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.inprocess import InProcessProxy

CODE = "\n\n".join(f"def handle_{n}(self, request):\n    return self.workers[{n}].run(request)" for n in range(60))
GUIDE = "# Guide\n\n" + "\n\n".join(f"Step {n}. Open the panel and wait. The harbour opens again." for n in range(90))
LOG = "\n".join(
    f"2024-05-01T10:{n // 60:02d}:{n % 60:02d}Z INFO worker-{n % 7} handled request {n}" for n in range(200)
)
FILES = {"src/app.py": CODE, "docs/guide.md": GUIDE, "data/rows.csv": "id,name\n" + "1,one\n" * 600}
ADDED = "I have *added these files to the chat* so you can go ahead and edit them.\n\n"
REPOSITORY_MAP = "Here are summaries of some files present in my git repository.\n\n" + "\n\n".join(
    f"src/part_{n}.py:\n⋮\n│class Part{n}:\n│    def run(self):\n⋮" for n in range(60)
)
FORMATS = {"whole": "You NEVER skip, omit or elide content.", "diff": "Only use a *SEARCH/REPLACE* block."}


@pytest.fixture
def proxy(tmp_path: Path) -> Generator[InProcessProxy]:
    with InProcessProxy(tmp_path, offer_tool=True) as proxy:
        yield proxy


def message(role: str, text: str) -> Json:
    return {"role": role, "content": text}


def aider_request(edit_format: str, fence: str = "```", model: str = "gpt-4o") -> bytes:
    shown = "\n".join(f"{path}\n{fence}\n{text}\n{fence}\n" for path, text in FILES.items())
    messages = [
        message("system", f"Act as an expert software developer.\n{FORMATS[edit_format]}"),
        message("user", REPOSITORY_MAP),
        message("assistant", "Ok, I won't try and edit those files without asking first."),
        message("user", "Add a docstring to handle_7."),
        message("assistant", f"src/app.py\n{fence}\n{CODE}\n{fence}\n"),
        message("user", "I committed the changes with git hash 1234567."),
        message("assistant", "Ok."),
        message("user", f"{ADDED}{shown}"),
        message("assistant", "Ok, any changes I propose will be to those files."),
        message("user", "Rename handle_9 to run_9."),
    ]
    return orjson.dumps({"model": model, "messages": messages, "stream": True, "temperature": 0})


@pytest.mark.parametrize("headers", [{}, {"x-clara-ratio": "4"}, {"x-clara-budget": "2000"}])
@pytest.mark.parametrize("fence", ["```", "````"])
@pytest.mark.parametrize("edit_format", FORMATS)
def test_aider_sees_its_files_unchanged(
    proxy: InProcessProxy, edit_format: str, fence: str, headers: dict[str, str]
) -> None:
    request = aider_request(edit_format, fence)
    assert proxy.send(request, headers).forwarded == request


@pytest.mark.parametrize("edit_format", FORMATS)
def test_aider_sees_its_files_unchanged_in_a_small_window(proxy: InProcessProxy, edit_format: str) -> None:
    proxy.settings = proxy.settings.model_copy(update={"epoch_share": 0.05})
    proxy.restart()
    request = aider_request(edit_format, model="gpt-4")
    sent = proxy.send(request)
    assert sent.forwarded == request
    assert sent.row.saved_tokens == 0


def test_a_log_in_a_fence_is_compressed_and_its_fence_stays(proxy: InProcessProxy) -> None:
    text = f"Why was the worker slow?\n```\n{LOG}\n```\nThanks"
    request = orjson.dumps({"model": "gpt-4o", "messages": [message("user", text)]})
    sent = proxy.send(request)
    forwarded = sent.messages[0]["content"]
    assert sent.row.saved_tokens > 0
    assert forwarded.startswith("Why was the worker slow?\n```\n")
    assert forwarded.endswith("\n```\nThanks")


@pytest.mark.parametrize("path", ["src/app.py", "data/rows.csv"])
def test_tags_ask_for_compression_of_a_file(proxy: InProcessProxy, path: str) -> None:
    text = f"<clara:compress>{path}\n```\n{CODE}\n```\n</clara:compress>\nWhat does handle_7 do?"
    assert proxy.send(orjson.dumps({"model": "gpt-4o", "messages": [message("user", text)]})).row.saved_tokens > 0


@pytest.mark.parametrize("retrieve", ["auto", "url"])
def test_a_data_file_is_compressed_if_it_can_be_fetched_back(proxy: InProcessProxy, retrieve: str) -> None:
    text = f"Why was the worker slow?\n\nvar/app.log\n```\n{LOG}\n```\n"
    request = orjson.dumps({"model": "gpt-4o", "messages": [message("user", text)]})
    sent = proxy.send(request, {"x-clara-retrieve": retrieve})
    assert (sent.row.saved_tokens > 0) == (retrieve == "url")
    tool: Json = {"type": "function", "function": {"name": "edit", "parameters": {}}}
    with_tools = orjson.dumps({**orjson.loads(request), "tools": [tool]})
    assert proxy.send(with_tools).row.saved_tokens > 0


def test_a_file_in_a_part_of_its_own_is_unchanged(proxy: InProcessProxy) -> None:
    page = "<html>\n<output>\n" + "\n".join(f"<p>The harbour opens at {n}.</p>" for n in range(200)) + "\n</output>"
    texts = ["Mend @index.html", "\nContent from @index.html:\n", page, "\n--- End of content ---"]
    parts = [{"type": "text", "text": text} for text in texts]
    request = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": parts}]})
    assert proxy.send(request, {"x-clara-ratio": "4"}).forwarded == request
