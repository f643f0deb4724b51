"""Turns the content of a file into text: decodes text, and has other formats converted by markitdown.

Foreign formats are parsed in a child process with limits on time, memory and output, so that a hostile document can
only fail. markitdown is the extra `[memory]`.
"""

import asyncio
import codecs
import sys
from importlib.util import find_spec
from pathlib import PurePosixPath

CONVERT_SECONDS = 120
MAX_TEXT_BYTES = 50 * 2**20
MAX_FILE_BYTES = 100 * 2**20  # of a file to convert; parsers of foreign formats take several times its size
_SAMPLE_BYTES = 8192
_BINARY_SUFFIXES = frozenset({".pdf", ".docx", ".pptx", ".xlsx", ".xls", ".epub", ".msg", ".zip"})
_MARKUP_SUFFIXES = frozenset({".html", ".htm", ".xhtml", ".eml"})
_BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

NEEDS_EXTRA = "need the extra [memory]"


class ConversionError(ValueError):
    """A file has no text that can be indexed; the message says why."""


class NotTextError(ConversionError):
    """A file is binary, of no format that can be converted."""


async def extract_text(name: str, content: bytes) -> str:
    """Return the text of a file.

    Raises:
        ConversionError: the format is unknown, the content is damaged or too large, or the extra is missing.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _BINARY_SUFFIXES | _MARKUP_SUFFIXES:
        return _remove_nul(_decode(name, content))
    if find_spec("markitdown") is None:
        raise ConversionError(f"{suffix} files {NEEDS_EXTRA}")
    if len(content) > MAX_FILE_BYTES:
        raise ConversionError(f"{name} has more than {MAX_FILE_BYTES // 2**20} MiB")
    return _remove_nul(await _convert(suffix, content))


def _remove_nul(text: str) -> str:
    return text.replace("\0", "\ufffd")  # PostgreSQL stores no NUL


def _decode(name: str, content: bytes) -> str:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding != "utf-16" and b"\0" in content[:_SAMPLE_BYTES]:
        raise NotTextError(f"{name} is not text")
    if len(content) > MAX_TEXT_BYTES:
        raise ConversionError(f"{name} has more than {MAX_TEXT_BYTES // 2**20} MiB of text")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        return content.decode("latin-1")


async def _convert(suffix: str, content: bytes) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clara_proxy.proxy.memory.convert_process", suffix),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        text, problem = await asyncio.wait_for(process.communicate(content), CONVERT_SECONDS)
    except TimeoutError:
        raise ConversionError(f"the {suffix} file could not be converted within {CONVERT_SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = problem.decode(errors="replace").strip().splitlines() or ["it needs too much memory or time"]
        raise ConversionError(f"the {suffix} file cannot be converted: {lines[-1][:300]}")
    return text.decode(errors="replace")
