"""The child process of `convert`: reads a file from standard input, writes its text to standard output."""

import io
import resource
import sys
import zipfile

MAX_MEMORY_BYTES = 4 * 2**30
MAX_CPU_SECONDS = 110
MAX_TEXT_CHARACTERS = 50 * 2**20
MAX_UNPACKED_BYTES = 256 * 2**20  # of the parts of a ZIP, DOCX, PPTX, XLSX or EPUB


def main(suffix: str) -> None:
    """Convert standard input, a file with this suffix."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS, MAX_CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file, wherever an archive names one
    content = io.BytesIO(sys.stdin.buffer.read())
    if zipfile.is_zipfile(content):
        with zipfile.ZipFile(content) as archive:  # Python reads no more of a part than its declared size
            if sum(part.file_size for part in archive.infolist()) > MAX_UNPACKED_BYTES:
                sys.exit(f"it unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB")
    content.seek(0)
    sys.stdout.write(_convert(suffix, content)[:MAX_TEXT_CHARACTERS])


def _convert(suffix: str, content: io.BytesIO) -> str:
    from markitdown import MarkItDown, StreamInfo, converters  # noqa: PLC0415 - within the limits

    converter_types = {
        ".pdf": converters.PdfConverter,
        ".docx": converters.DocxConverter,
        ".pptx": converters.PptxConverter,
        ".xlsx": converters.XlsxConverter,
        ".xls": converters.XlsConverter,
        ".epub": converters.EpubConverter,
        ".msg": converters.OutlookMsgConverter,
    }
    info = StreamInfo(extension=suffix)
    if suffix in converter_types:  # MarkItDown itself would return a broken file as if it were plain text
        return str(converter_types[suffix]().convert(content, info).markdown)
    return str(MarkItDown(enable_plugins=False).convert_stream(content, stream_info=info).markdown)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except MemoryError:
        sys.exit("it needs too much memory")
    except Exception as error:  # noqa: BLE001 - the parsers share no base class
        sys.exit(f"{type(error).__name__}: {error}")
