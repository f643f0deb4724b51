"""Small sample texts of every content type, and functions that run a compressor."""

import json

from clara_proxy.compression.compressor import CompressedPassage, Compressor, Gap, Task
from clara_proxy.compression.extract.code import CodeCompressor
from clara_proxy.compression.extract.diffs import DiffCompressor
from clara_proxy.compression.extract.json.compressor import JsonCompressor
from clara_proxy.compression.extract.listing import ListingCompressor
from clara_proxy.compression.extract.logs import LogCompressor
from clara_proxy.compression.extract.numbered_documents import DocumentCompressor
from clara_proxy.compression.extract.plain_text import PlainTextCompressor
from clara_proxy.compression.extract.prose import ProseCompressor
from clara_proxy.compression.extract.reports import ReportCompressor
from clara_proxy.compression.extract.search import SearchResultCompressor
from clara_proxy.compression.markers import render

COMPRESSORS: tuple[Compressor, ...] = (
    JsonCompressor(),
    DocumentCompressor(),
    LogCompressor(),
    DiffCompressor(),
    ReportCompressor(),
    ListingCompressor(),
    SearchResultCompressor(),
    CodeCompressor(),
    ProseCompressor(),
    PlainTextCompressor(),
)
BY_NAME = {compressor.name: compressor for compressor in COMPRESSORS}

LOG = "\n".join(
    f"2026-03-0{1 + index // 200} 10:{index % 60:02}:{index % 59:02},{index % 1000:03} INFO  worker-{index % 4}: "
    f"processed job {index * 7} in {index % 9} ms"
    if index != 123
    else "2026-03-01 10:03:05,001 ERROR worker-2: job 861 failed\njava.io.IOException: disk full\n"
    "\tat store.Disk.write(Disk.java:41)\n\tat store.Disk.flush(Disk.java:77)\nCaused by: quota of 5 GB reached"
    for index in range(300)
)
PROSE = "\n\n".join(
    f"# Chapter {chapter}\n\n"
    + " ".join(
        f"The {animal} of valley {chapter} eats {food} in the morning. "
        f"It sleeps until the {hour} bell rings over the hills."
        for animal, food, hour in (
            ("heron", "frogs", "noon"),
            ("badger", "roots", "evening"),
            ("otter", "trout", "dawn"),
        )
    )
    for chapter in range(1, 9)
).replace("badger of valley 5 eats roots", "badger of valley 5 eats honeycomb")
DOCUMENTS = "\n".join(
    f"Document [{number}](Title: {title}) {title} is a city. It lies on the river {river}. It was founded in {year}. "
    f"Its market is held on Mondays. Travellers praise its bread."
    for number, (title, river, year) in enumerate(
        (
            ("Arlen", "Tave", 1201),
            ("Brock", "Usk", 1342),
            ("Corvo", "Minho", 1077),
            ("Delph", "Lys", 1519),
            ("Esk", "Wye", 1650),
        ),
        start=1,
    )
)
ROWS = json.dumps(
    [
        {
            "id": 1000 + index,
            "name": f"user{index}",
            "state": "failed" if index == 17 else "done",
            "owner": {"login": "ann", "n": index / 4},
        }
        for index in range(40)
    ]
)
TREE = json.dumps(
    {
        "name": "demo",
        "versions": {
            f"1.{minor}.0": {"sha": f"{minor * 7919:08x}", "files": list(range(minor)), "readme": "text " * 120}
            for minor in range(30)
        },
        "time": {"created": "2026-01-02T03:04:05Z"},
    },
    indent=2,
)
SEARCH = "\n".join(
    f"src/{folder}/{name}.py:{line}:    value = {call}({line})"
    for folder in ("core", "web", "cli")
    for name, call in (("load", "read_all"), ("save", "write_all"), ("merge", "join_all"))
    for line in range(10, 60, 5)
)
LISTING = "\n".join(f"./pkg/part{index % 6}/module_{index}.py" for index in range(90))
CODE = "\n\n".join(
    f'''class Store{index}(Base):
    """Keeps things of kind {index}."""

    def read_{index}(self, key: str) -> bytes:
        path = self.root / key
        if not path.exists():
            raise KeyError(key)
        return path.read_bytes()

    def write_{index}(self, key: str, data: bytes) -> None:
        staged_{index} = self.root / (key + ".new")
        staged_{index}.write_bytes(data)
        staged_{index}.rename(self.root / key)'''
    for index in range(12)
)
FOLDER = "\n".join(
    [
        "total 5120",
        "drwxr-xr-x  9 ann staff      4096 Mar  3 10:01 .",
        *(
            f"-rw-r--r--  1 ann staff {index * 977:9} Mar {index % 28 + 1:2} 10:{index % 60:02} module_{index}.py"
            for index in range(60)
        ),
        "drwxr-xr-x 12 ann staff      4096 Jan 17  2024 vendored",
        "lrwxrwxrwx  1 ann staff        11 Mar  3 10:01 latest -> module_59.py",
    ]
)
DIFF = "\n".join(
    f"diff --git a/src/{name} b/src/{name}\nindex 83db48f..bf269f4 100644\n--- a/src/{name}\n+++ b/src/{name}\n"
    + "\n".join(
        f"@@ -{index},9 +{index},9 @@ class Store{index}:\n"
        + "\n".join(f"     def unchanged_{index}_{line}(self): return {line}" for line in range(6))
        + f"\n-    limit_{index} = {index}\n+    limit_{index} = {index + 1}\n"
        + "\n".join(f"     name_{index}_{line} = read({line})" for line in range(6))
        for index in range(10, 60, 10)
    )
    for name in ("store.py", "package-lock.json")
)
CRASH = "\n".join(
    [
        "Traceback (most recent call last):",
        '  File "/app/run.py", line 3, in <module>',
        "    main()",
        *(
            line
            for index in range(20)
            for line in (
                f'  File "/usr/lib/python3.11/site-packages/web/layer_{index}.py", line {index * 9}, in call_{index}',
                f"    return self.inner_{index}(request)",
                "           ^^^^^^^^^^^^^^^^^^^^^^^",
            )
        ),
        '  File "/app/orders.py", line 88, in total',
        "    return sum(row.price for row in rows)",
        "shop.errors.PriceMissing: row 17 has no price",
    ]
)
TESTS = "\n".join(
    [
        "============================= test session starts ==============================",
        "collected 240 items",
        *(
            f"tests/test_{index % 7}.py::test_case_{index} PASSED                    [{index // 3:3}%]"
            for index in range(238)
        ),
        "tests/test_3.py::test_total FAILED",
        "=================================== FAILURES ===================================",
        "__________________________________ test_total __________________________________",
        "    def test_total():",
        ">       assert total([1, 2]) == 4",
        "E       assert 3 == 4",
        "tests/test_3.py:9: AssertionError",
        "=========================== short test summary info ============================",
        "FAILED tests/test_3.py::test_total - assert 3 == 4",
        "======================== 1 failed, 238 passed in 0.42s =========================",
    ]
)
NOTES = "\n".join(["depth = 4", *(f"seed = {index * 7 % 31}" for index in range(120)), "rounds = 12"])
SAMPLES = {
    "log": LOG,
    "prose": PROSE,
    "documents": DOCUMENTS,
    "json": ROWS,
    "json-tree": TREE,
    "search": SEARCH,
    "listing": LISTING,
    "code": CODE,
    "folder": FOLDER,
    "diff": DIFF,
    "crash": CRASH,
    "tests": TESTS,
    "lines": NOTES,
}


def count(text: str) -> int:
    """Return an estimate of four characters per token, so that the tests need no vocabulary."""
    return (len(text) + 3) // 4


def run_compressor(
    compressor: Compressor, text: str, question: str = "", ratio: float = 4.0, *, fills_target: bool = True
) -> CompressedPassage | None:
    """Run a compressor with a target of the text's tokens divided by the ratio."""
    return compressor.compress(Task(text, question, max(1, int(count(text) / ratio)), count, fills_target))


def compress_text(name: str, text: str, question: str = "", ratio: float = 4.0) -> str:
    """Return the rendered output of a compressor, which must not be None."""
    passage = run_compressor(BY_NAME[name], text, question, ratio)
    assert passage is not None
    return render(passage, None)


def list_pieces(passage: CompressedPassage) -> list[str]:
    """Return the verbatim parts."""
    return [part for part in passage.parts if isinstance(part, str)]


def count_left_out(passage: CompressedPassage) -> int:
    """Return the number of items in all gaps."""
    return sum(part.left_out for part in passage.parts if isinstance(part, Gap))
