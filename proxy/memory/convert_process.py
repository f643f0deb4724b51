"""The child process of `convert`: reads a file from standard input, writes its text to standard output."""

import io
import resource
import sys

MAX_MEMORY_BYTES = 4 * 2**30
MAX_CPU_SECONDS = 110
MAX_TEXT_CHARACTERS = 50 * 2**20


def main(suffix: str) -> None:
    """Convert standard input, a file with this suffix."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file, wherever an archive names one
    from markitdown import MarkItDown  # noqa: PLC0415 - within the limits
    from markitdown._stream_info import StreamInfo  # noqa: PLC0415

    converter = MarkItDown(enable_plugins=False)
    result = converter.convert_stream(io.BytesIO(sys.stdin.buffer.read()), stream_info=StreamInfo(extension=suffix))
    sys.stdout.write(result.markdown[:MAX_TEXT_CHARACTERS])


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except MemoryError:
        sys.exit("it needs too much memory")
    except Exception as error:  # noqa: BLE001 - the parsers share no base class
        sys.exit(f"{type(error).__name__}: {error}")
