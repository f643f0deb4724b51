"""An agent on OpenAI's Agents SDK, streamed."""

import asyncio
import subprocess
import sys
from pathlib import Path

from agents import Agent, Runner, function_tool


@function_tool
def run(command: str) -> str:
    """Run a shell command."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return f"exit status {done.returncode}\n{done.stdout}{done.stderr}"


@function_tool
def read_file(path: str) -> str:
    """Read a file."""
    return Path(path).read_text(encoding="utf-8")


@function_tool
def write_file(path: str, content: str) -> str:
    """Write a file."""
    Path(path).write_text(content, encoding="utf-8")
    return "written"


async def main() -> None:
    """Run the agent on the task and print its answer."""
    agent = Agent(name="editor", model="gpt-5", tools=[run, read_file, write_file])
    streamed = Runner.run_streamed(agent, sys.argv[1], max_turns=30)
    async for _ in streamed.stream_events():
        pass
    print(streamed.final_output)


asyncio.run(main())
