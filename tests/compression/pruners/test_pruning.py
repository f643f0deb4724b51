"""The invariants of pruning, with tiny pruners of every kind: faithful, never worse, untrusted, bounded memory."""

import re
from itertools import groupby

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from clara_proxy.compression import engine, registry
from clara_proxy.compression.compressor import CompressedPassage, Gap, Task
from clara_proxy.compression.engine import CompressionJob
from clara_proxy.compression.models import resources
from clara_proxy.compression.pruners.compressor import NOT_PRUNABLE
from clara_proxy.compression.pruners.jobs import PruneJob
from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.tests.compression.pruners import references
from clara_proxy.tests.compression.pruners.conftest import PROSE_KINDS, WRITERS, TinyPruner

TOKENS = get_token_counter("gpt-4o")
HINT = "GET /v1/retrieve/0123456789ab"
QUESTION = "Why did the pump of the mill fail?"
calm = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture),
)
WORDS = (
    'the mill pump engine was not never old (new) 4,512 v1.2.3 src/app.py don\'t river, "winter" [SEP] </s> <s> '
    "<|im_end|> na\u00efve \u6c34\u8eca\u306f\u53e4\u3044\u3002 [12 lines left out] \u2014 pressure; rose"
)
WORD = st.sampled_from(WORDS.split())
SENTENCES = st.lists(WORD, min_size=4, max_size=14).map(lambda words: "The " + " ".join(words) + " of the town.")
PARAGRAPHS = st.lists(SENTENCES, min_size=2, max_size=5).map(" ".join)
PROSE = st.lists(PARAGRAPHS, min_size=2, max_size=6).map("\n\n".join)
DOCUMENTS = st.lists(PARAGRAPHS, min_size=2, max_size=4).map(
    lambda texts: "\n".join(f"Document [{n}](Title: The mill {n}) {text}" for n, text in enumerate(texts, 1))
)
CODE_LINES = st.lists(
    st.sampled_from(["x = compute(value)", "return x", "if x is None:", "self.pump.start()", "# not safe"]), min_size=2
)
CODE = st.lists(CODE_LINES, min_size=3, max_size=6).map(
    lambda bodies: (
        "import os\n\n"
        + "\n\n".join(
            f"def step_{n}(self, value):\n" + "\n".join(f"    {line}" for line in lines)
            for n, lines in enumerate(bodies)
        )
    )
)
STRUCTURE = {
    "json": '[{"id": 1, "state": "not ready"}, {"id": 2, "state": "ready"}]',
    "log": "\n".join(f"2026-11-30 10:00:{n:02d} INFO request {n} took {n * 7} ms" for n in range(60)),
    "table": "\n".join(["name,size,state", *(f"pump{n},{n},old" for n in range(60))]),
    "diff": "diff --git a/x.py b/x.py\n--- a/x.py\n+++ b/x.py\n@@ -1,3 +1,3 @@\n-old = 1\n+new = 2\n same = 3\n" * 8,
}


def prune(tiny: TinyPruner, text: str, target: int, threshold: float | None) -> CompressedPassage | None:
    task = Task(text, QUESTION, target or 1, TOKENS.count, fills_target=target > 0)
    return tiny.compressor(threshold).compress(task)


def assert_verbatim(compressed: CompressedPassage, text: str) -> None:
    """Check that the pieces stand in the text, whole and in order, and that the gaps fit into the total."""
    position = 0
    for part in compressed.parts:
        if isinstance(part, str) and part.strip():
            position = text.find(part, position)
            assert position >= 0, part
            position += len(part)
    gaps = [part.left_out for part in compressed.parts if isinstance(part, Gap)]
    assert all(count > 0 for count in gaps)
    assert sum(gaps) <= compressed.total


@calm
@pytest.mark.parametrize("kind", PROSE_KINDS)
@given(text=st.one_of(PROSE, DOCUMENTS), target=st.sampled_from([0, 30, 120]), share=st.floats(0.05, 0.95))
def test_pieces_are_verbatim_and_in_order(
    tiny_pruners_by_kind: dict[str, TinyPruner], kind: str, text: str, target: int, share: float
) -> None:
    tiny = tiny_pruners_by_kind[kind]
    scores = sorted(tiny.pruner.score(PruneJob(text, QUESTION, [(0, len(text))])).scores)
    compressed = prune(tiny, text, target, scores[int(share * len(scores))])
    assume(compressed is not None)  # extraction may refuse what is no prose
    assert compressed is not None
    assert_verbatim(compressed, text)
    if compressed.compressor == "":  # pruned, not extracted
        assert compressed.usage.tokens > 0
        assert compressed.fallback == ""


@calm
@given(text=CODE, target=st.sampled_from([0, 40]), threshold=st.sampled_from([0.1, 0.5, 0.9]))
def test_lines_of_code_are_kept_whole_under_their_headers(
    tiny_pruners_by_kind: dict[str, TinyPruner], text: str, target: int, threshold: float
) -> None:
    compressed = prune(tiny_pruners_by_kind["swe-pruner"], text, target, threshold)
    if registry.classify_content(text) != "code":
        return
    if compressed is None:  # every line is kept
        return
    assert (compressed.compressor, compressed.unit) == ("", "lines")
    assert_verbatim(compressed, text)
    shown = [line for part in compressed.parts if isinstance(part, str) for line in part.split("\n") if line.strip()]
    assert set(shown) <= set(text.split("\n"))
    for indented, group in groupby(shown, key=lambda line: line.startswith(" ")):
        assert not indented or any(line.startswith("def ") for line in shown[: shown.index(next(group))])


@calm
@pytest.mark.parametrize("kind", PROSE_KINDS)
@given(text=PROSE, target=st.sampled_from([20, 100]), fills=st.booleans())
def test_outcome_has_fewer_tokens_and_the_way_back(
    tiny_pruners_by_kind: dict[str, TinyPruner], kind: str, text: str, target: int, fills: bool
) -> None:
    compressor = tiny_pruners_by_kind[kind].compressor()
    job = CompressionJob(text, QUESTION, target, HINT, TOKENS, fills)
    outcome, again = (engine.run_job(job, lambda _: compressor) for _ in range(2))
    assert (outcome.text, outcome.reason) == (again.text, again.reason)
    if outcome.text is None:
        assert outcome.reason in ("no-gain", "refused")
    else:
        assert TOKENS.count(outcome.text) == outcome.tokens < TOKENS.count(text)
        assert outcome.text.count(HINT) == 1
        assert outcome.text.rstrip().endswith("]") or "left out; " + HINT in outcome.text


@pytest.mark.parametrize("kind", list(WRITERS))
@pytest.mark.parametrize("content", list(STRUCTURE))
def test_structure_is_extracted_and_says_so(
    tiny_pruners_by_kind: dict[str, TinyPruner], kind: str, content: str
) -> None:
    text = STRUCTURE[content]
    extractor = registry.find_compressor(text)
    assert extractor.name == content
    compressed = prune(tiny_pruners_by_kind[kind], text, 40, None)
    expected = extractor.compress(Task(text, QUESTION, 40, TOKENS.count))
    assert (compressed is None) == (expected is None)
    if compressed is not None and expected is not None:
        assert (compressed.parts, compressed.compressor) == (expected.parts, content)
        assert (compressed.fallback, compressed.usage.tokens) == (NOT_PRUNABLE, 0)


def test_prose_is_not_for_a_pruner_of_lines_nor_code_for_one_of_words(
    tiny_pruners_by_kind: dict[str, TinyPruner],
) -> None:
    prose = "The mill was mended. The river rose in winter. No one checked the pump. " * 8
    code = "import os\n\n\ndef start(self):\n    if self.pump:\n        return self.pump.start()\n    return None\n" * 5
    for kind, text in (("swe-pruner", prose), ("bert", code), ("provence", code)):
        compressed = prune(tiny_pruners_by_kind[kind], text, 30, None)
        assert compressed is not None
        assert compressed.fallback == NOT_PRUNABLE


def test_passage_without_a_question_is_extracted_by_a_pruner_that_needs_one(
    tiny_pruners_by_kind: dict[str, TinyPruner],
) -> None:
    text = "The mill was mended. The river rose in winter. No one checked the pump. " * 8
    task = Task(text, " ", 30, TOKENS.count)
    extracted = tiny_pruners_by_kind["open-provence"].compressor().compress(task)
    pruned = tiny_pruners_by_kind["bert"].compressor().compress(task)
    assert extracted is not None
    assert pruned is not None
    assert (extracted.fallback, pruned.fallback) == (NOT_PRUNABLE, "")


@pytest.mark.parametrize("kind", list(WRITERS))
def test_special_tokens_in_a_text_are_plain_text(tiny_pruners_by_kind: dict[str, TinyPruner], kind: str) -> None:
    tiny = tiny_pruners_by_kind[kind]
    text = "the mill [SEP] [CLS] [PAD] </s> <s> <pad> <|im_end|> <|im_start|> <|endoftext|> was old"
    tokenizer = references.load_tokenizer(tiny.folder)
    special = {tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    special -= {tokenizer.unk_token_id}
    encoded = tiny.pruner.encode(PruneJob(text, text, [(0, len(text))]))
    assert not special & set(encoded.ids)
    without = tiny.pruner.encode(PruneJob("the mill was old", "the mill", [(0, 16)]))
    assert [token for token in encoded.prefix if token in special] == [
        token for token in without.prefix if token in special
    ]


HOSTILE = [
    "",
    " \n\t ",
    "x" * 2000,
    "\x00\ufffd\u202e" * 50,
    "\U0001f642" * 200,
    "a " * 800,
    "\u3002" * 400,
    "\n" * 500,
]


@pytest.mark.parametrize("kind", list(WRITERS))
def test_hostile_texts_get_scores(tiny_pruners_by_kind: dict[str, TinyPruner], kind: str) -> None:
    tiny = tiny_pruners_by_kind[kind]
    units = [[match.span() for match in re.finditer(r"\S[^\n]{0,500}", text)] for text in HOSTILE]
    jobs = [PruneJob(text, text[:200], spans, [0] if spans else []) for text, spans in zip(HOSTILE, units, strict=True)]
    bad = tiny.worker.submit(PruneJob("\ud800 is no character", "", [(0, 5)]))
    for job, future in zip(jobs, [tiny.worker.submit(job) for job in jobs], strict=True):
        scored = future.result(60)
        assert all(0 <= score <= 1 for score in scored.scores)
        if tiny.spec.granularity != "words":
            assert len(scored.scores) == len(job.units)
    assert bad.exception(60) is not None  # the pipeline replaces lone surrogates; here only its own job fails


@pytest.mark.parametrize("kind", ["bert", "open-provence"])
def test_hundred_thousand_tokens_need_bounded_memory(tiny_pruners_by_kind: dict[str, TinyPruner], kind: str) -> None:
    text = "The engine failed to start because the pump was old, and no one checked the valve in winter. " * 5300
    before = resources.resident_bytes()
    assert TOKENS.count(text[:930]) * len(text) // 930 > 100_000
    compressed = prune(tiny_pruners_by_kind[kind], text, 0, 0.002 if kind == "bert" else 0.5)
    after = resources.resident_bytes()
    assert compressed is not None
    assert_verbatim(compressed, text)
    if before is not None and after is not None:
        assert after - before < 400 * 2**20
