"""The `Clara` API on a tiny random checkpoint: shapes, ragged batches, no silent cuts, many threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

from clara_proxy.compression.clara import memory_ranking
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER
from clara_proxy.compression.clara.clara import Clara, Reply
from clara_proxy.compression.clara.decoding import GeneratedRow
from clara_proxy.compression.clara.inference import group_by_length
from clara_proxy.compression.clara.kv_cache import KVCache
from clara_proxy.compression.clara.latent_store import LatentStore
from clara_proxy.compression.clara.loading import load_model
from clara_proxy.compression.clara.model_source import ModelSource, Placement
from clara_proxy.compression.clara.prompt_layout import Compat
from clara_proxy.compression.models.errors import ModelError

DOCUMENTS = ["the fox", "a bridge of stone over the river", "", "the lamp, 1931", "answering 🙂", "x y z"]
LONG = "The fox sat by the river. It saw a lamp on the stone bridge. Nobody came. " * 4


def assert_near(mine: object, theirs: object) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def load_with_limit(tiny: Path, limit: int) -> Clara:
    loaded = load_model(ModelSource(tiny / "clara", base=tiny / "base"), Placement("cpu"))
    return Clara(loaded, compat=Compat(max_prompt_tokens=limit))


def test_memories_have_the_documents_order(clara: Clara) -> None:
    latents = clara.compress(DOCUMENTS)
    assert tuple(latents.vectors.shape) == (6, 8, 32)
    assert latents.document_indices == tuple(range(6))
    assert latents.texts == tuple(DOCUMENTS)
    for index, text in enumerate(DOCUMENTS):
        assert_near(latents.vectors[index : index + 1], clara.compress([text]).vectors)


def test_documents_may_be_absent(clara: Clara) -> None:
    assert tuple(clara.compress([]).vectors.shape) == (0, 8, 32)
    assert len(clara.generate(["why?"], [[]], 4)) == 1
    assert clara.generate([], [], 4) == []


def test_ragged_batch_equals_single_requests(clara: Clara) -> None:
    questions = ["why?", "", "which lamp stands by the river?"]
    groups = [DOCUMENTS[:1], DOCUMENTS[1:5], []]
    together = clara.replies(questions, groups, 12)
    single = [clara.replies([question], [group], 12)[0] for question, group in zip(questions, groups, strict=True)]
    assert together == single
    assert len({reply.tokens for reply in together}) == 3


def test_latents_replace_texts(clara: Clara) -> None:
    latents = clara.compress(DOCUMENTS)
    expected = clara.generate(["a?", "b?"], [DOCUMENTS[:3], DOCUMENTS[3:]], 8)
    assert clara.generate(["a?", "b?"], latents, 8) == expected
    assert clara.generate(["a?", "b?"], [latents.slice_documents(0, 3), DOCUMENTS[3:]], 8) == expected
    assert clara.generate(["a?", "b?"], [*latents.split([3, 3])], 8) == expected
    assert latents.slice_documents(1, 3).texts == tuple(DOCUMENTS[1:3])
    assert latents.slice_documents(1, 3).document_indices == (0, 1)


def test_long_document_becomes_several_memories_without_loss(clara: Clara) -> None:
    latents = clara.compress(["short", LONG, "x"])
    assert latents.document_count == 3
    assert set(latents.document_indices) == {0, 1, 2}
    rows = [row for row, owner in enumerate(latents.document_indices) if owner == 1]
    assert len(rows) > 2
    assert all(latents.token_counts[row] <= 32 for row in rows)
    assert latents.spans[rows[0]].start == 0
    assert latents.spans[rows[-1]].end == len(LONG)
    assert all(LONG[slice(*latents.spans[row])] == latents.texts[row] for row in rows)
    assert latents.slice_documents(1, 2).document_indices == (0,) * len(rows)


def test_memories_without_a_slot_are_listed_in_the_reply(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    question = "Which bridge? " * 10
    room = load_with_limit(tiny, 20_000).replies([question], [[]], 1)[0].prompt_tokens + 2 * 9
    small = load_with_limit(tiny, room)
    (reply,) = small.replies([question], [DOCUMENTS], 4)
    assert len(reply.used) == 2
    assert sorted([*reply.used, *reply.left_out]) == list(range(6))
    assert reply.used == tuple(sorted(small.retrieve(question, small.compress(DOCUMENTS), 2).indices))
    assert reply.prompt_tokens <= room
    assert "4 of 6 memories" in caplog.text
    with pytest.raises(ModelError, match="no room for a memory"):
        load_with_limit(tiny, room - 2 * 9).replies([question], [DOCUMENTS], 4)


def test_without_a_query_adapter_keywords_choose_the_memories(tiny: Path) -> None:
    small = load_with_limit(tiny, 20_000)
    prompt_tokens = small.replies(["lamp?"], [[]], 1)[0].prompt_tokens
    loaded = load_model(ModelSource(tiny / "clara", base=tiny / "base"), Placement("cpu"))
    loaded.model.adapters.pop("query_reasoner_adapter")  # type: ignore[attr-defined]  # pyright: ignore
    plain = Clara(loaded, compat=Compat(max_prompt_tokens=prompt_tokens + 9 + 3))
    (reply,) = plain.replies(["lamp?"], [DOCUMENTS], 4)
    assert reply.used == (3,)
    assert reply.left_out == (0, 1, 2, 4, 5)


def test_paraphrase_lists_memories_that_do_not_fit(tiny: Path) -> None:
    small = load_with_limit(tiny, 160)
    prepared = small.prepare_paraphrase(0, small.compress(DOCUMENTS))
    assert prepared.plan.left_out
    assert [*prepared.plan.used, *prepared.plan.left_out] == list(range(6))
    assert len(small.paraphrase([DOCUMENTS], "Say {docs} again", 4)) == 1


def test_retrieval_returns_the_best_memories_first(clara: Clara) -> None:
    latents = clara.compress(DOCUMENTS)
    result = clara.retrieve("which lamp?", latents)
    assert len(result.indices) == 3
    assert list(result.scores) == sorted(result.scores, reverse=True)
    assert clara.retrieve("which lamp?", latents, 6).indices[:3] == result.indices
    reply = clara.answer("which lamp?", DOCUMENTS, max_new_tokens=6)
    assert (reply.used, reply.scores) == result
    assert clara.answer("which lamp?", latents, 2, 6).used == result.indices[:2]
    assert len(clara.answer("which lamp?", DOCUMENTS[:2], max_new_tokens=2).used) == 2
    for k in (0, 7):
        with pytest.raises(ModelError, match=f"k = {k}"):
            clara.retrieve("which lamp?", latents, k)


def test_retrieved_memories_without_a_slot_are_the_least_near(tiny: Path) -> None:
    prompt_tokens = load_with_limit(tiny, 20_000).replies(["the river?"], [[]], 1)[0].prompt_tokens
    small = load_with_limit(tiny, prompt_tokens + 2 * 9 + 3)
    documents = DOCUMENTS[::-1]
    result = small.retrieve("the river?", small.compress(documents), 6)
    reply = small.answer("the river?", documents, 6, 4)
    assert result.indices[:2] != tuple(sorted(result.indices[:2]))
    assert (reply.used, reply.scores) == (result.indices[:2], result.scores[:2])
    assert reply.left_out == result.indices[2:]


def test_long_question_scores_by_its_nearest_window(clara: Clara) -> None:
    latents = clara.compress(DOCUMENTS)
    (query,) = clara.encode_questions([LONG])
    assert len(query) > 2
    window_scores = [dict(zip(*clara.find_nearest(window[None], latents, 6), strict=True)) for window in query]
    expected = {index: max(scores[index] for scores in window_scores) for index in range(6)}
    result = clara.find_nearest(query, latents, 6)
    assert dict(zip(*result, strict=True)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("limit", [0, 1, 5, 40])
def test_streamed_pieces_add_up_to_the_answer(clara: Clara, limit: int) -> None:
    for question in ("why?", "🙂", "which?"):
        pieces = list(clara.stream(question, DOCUMENTS, limit))
        assert "".join(pieces) == clara.generate([question], [DOCUMENTS], limit)[0]


def test_max_new_tokens_cuts_the_answer(clara: Clara) -> None:
    long = clara.replies(["why?"], [DOCUMENTS], 30)[0]
    short = clara.replies(["why?"], [DOCUMENTS], 3)[0]
    assert short.tokens == long.tokens[:3]
    assert short.finish == "length"


def test_decoding_with_a_cache_equals_one_pass(clara: Clara) -> None:
    """Tokens fed back one by one give the same logits as the whole sequence."""
    prepared = [clara.prepare_answer("why?", clara.compress(DOCUMENTS[:count])) for count in (1, 3)]
    logits, cache = clara.model.prefill([request.input_embeddings for request in prepared], DECODER_ADAPTER)
    ids = [[int(row.argmax())] for row in logits]
    for _ in range(70):  # more than the cache grows by at once
        logits = clara.model.step([row[-1] for row in ids], cache, DECODER_ADAPTER)
        for row, choice in zip(ids, logits, strict=True):
            row.append(int(choice.argmax()))
    whole = [
        torch.cat([request.input_embeddings, clara.model.embed[row[:-1]]])
        for request, row in zip(prepared, ids, strict=True)
    ]
    assert_near(clara.model.prefill(whole, DECODER_ADAPTER)[0], logits)


def test_rows_that_join_and_leave_do_not_affect_others(clara: Clara) -> None:
    questions = [f"what is {n}?" for n in range(5)]
    prepared = [
        clara.prepare_answer(text, clara.compress(DOCUMENTS[: index + 1])) for index, text in enumerate(questions)
    ]
    single = [clara.replies([text], [DOCUMENTS[: index + 1]], 20)[0].tokens for index, text in enumerate(questions)]
    decoding = clara.create_batch()
    rows: list[GeneratedRow] = []
    for index, request in enumerate(prepared):
        rows.extend(decoding.add_rows([request.input_embeddings], [20 if index != 1 else 4]))
        decoding.step()
        if index == 3:
            decoding.remove_rows([rows[2]])
    while decoding.rows:
        decoding.step()
    assert [tuple(rows[index].tokens) for index in (0, 3, 4)] == [single[index] for index in (0, 3, 4)]
    assert tuple(rows[1].tokens) == single[1][:4]
    assert rows[2].finish is None


def test_wrong_arguments_raise_plain_errors(clara: Clara) -> None:
    mistakes: list[tuple[Callable[[], object], str]] = [
        (lambda: clara.compress("one text"), "must be a list of texts"),
        (lambda: clara.generate("one question", [["a"]]), "must be a list of texts"),
        (lambda: clara.generate(["a?"], "one text"), "must be a list of texts"),
        (lambda: clara.generate(["a?"], ["d1", "d2"]), "1 questions, but documents for 2"),
        (lambda: clara.generate(["a?", "b?"], clara.compress(["x"])), "cannot be split evenly"),
    ]
    for call, words in mistakes:
        with pytest.raises(ModelError, match=words):
            call()


def test_single_text_is_one_document(clara: Clara) -> None:
    assert clara.generate(["a?"], ["the fox"], 6) == clara.generate(["a?"], [["the fox"]], 6)


def test_stored_latents_are_not_computed_again(tiny: Path, tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    first = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", store=store)
    expected = first.compress([*DOCUMENTS, LONG, "the fox"]).vectors
    again = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", store=LatentStore(tmp_path))
    embed = again.model.embed.clone()
    again.model.embed.zero_()  # anything encoded from here on is wrong
    assert torch.equal(again.compress([*DOCUMENTS, LONG, "the fox"]).vectors, expected)
    again.model.embed.copy_(embed)
    assert_near(again.compress(["new"]).vectors, first.compress(["new"]).vectors)


def test_threads_may_share_a_clara(clara: Clara) -> None:
    """Run 32 mixed requests at once: equal tokens and top-k, latents within 1e-4."""

    def run(n: int) -> object:
        group = DOCUMENTS[n % 4 : n % 4 + 3]
        question = f"what about {n}?"
        match n % 4:
            case 0:
                return clara.replies([question, "and?"], [group, group[:1]], 10)
            case 1:
                return clara.answer(question, group, 2, 10)
            case 2:
                return clara.compress([*group, LONG]).vectors
            case _:
                return "".join(clara.stream(question, group, 10)), clara.paraphrase([group], n % 13, 10)

    single = [run(n) for n in range(32)]
    gate = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=gate.wait) as pool:
        together = list(pool.map(run, range(32)))
    for expected, result in zip(single, together, strict=True):
        assert_same(result, expected)


def assert_same(result: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)
    elif isinstance(expected, Reply) and isinstance(result, Reply):
        assert (result.tokens, result.used, result.text) == (expected.tokens, expected.used, expected.text)
        assert result.scores == pytest.approx(expected.scores, abs=1e-5)
    else:
        assert result == expected


def test_batches_have_similar_lengths_and_are_bounded() -> None:
    lengths = [5, 100, 6, 7, 90, 5, 300]
    batches = list(group_by_length(lengths, 200))
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(max(lengths[index] for index in batch) * len(batch) <= 200 or len(batch) == 1 for batch in batches)
    assert [0, 5, 2, 3] in batches
    assert list(group_by_length([], 200)) == []
    assert list(group_by_length([1, 1, 1, 30], 160)) == [[0, 1, 2], [3]]


def test_batched_encoding_equals_single_encoding(clara: Clara) -> None:
    rows = [clara.tokenizer.build_encoder_row(clara.tokenizer.encode(text), 35) for text in DOCUMENTS]
    together = clara.model.encode(rows, 8, ENCODER_ADAPTER)
    single = [clara.model.encode([row], 8, ENCODER_ADAPTER) for row in rows]
    assert_near(together, torch.cat(single))


def test_keywords_rank_texts() -> None:
    scores = memory_ranking.score_keywords("the oldest Lamp", ["old fox", "a lamp, the lamp", "the oldest river", ""])
    assert memory_ranking.top_indices(scores, 2) == [1, 2]
    assert scores[0] == scores[3] == 0.0
    assert memory_ranking.score_keywords("", ["a"]) == [0.0]
    assert memory_ranking.score_keywords("lamp", []) == []


def test_keywords_do_not_cross_from_one_text_to_the_next() -> None:
    assert memory_ranking.score_keywords("stone-bridge", ["stone", "bridge", "stone", "-bridge"])[0] > 0
    assert memory_ranking.score_keywords("lamppost", ["lamp", "post"]) == [0.0, 0.0]


def test_layers_are_added_to_a_cache_in_order() -> None:
    cache = KVCache.empty([1])
    with pytest.raises(ValueError, match="not in order"):
        cache.add_prompt_layer(1, torch.zeros(1, 2, 1, 2))
