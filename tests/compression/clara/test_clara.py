"""The public face on a tiny random checkpoint: shapes, raggedness, nothing cut in silence, many threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

import clara_proxy.compression.clara.kv_cache as cache_module
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER
from clara_proxy.compression.clara.clara import Clara, Reply
from clara_proxy.compression.clara.decoding import GeneratedRow
from clara_proxy.compression.clara.exceptions import ClaraError
from clara_proxy.compression.clara.latent_store import LatentStore
from clara_proxy.compression.clara.latents import Latents
from clara_proxy.compression.clara.loading import ModelSource, Placement, load_model
from clara_proxy.compression.clara.model import group_by_length
from clara_proxy.compression.clara.prompt_layout import Compat
from clara_proxy.compression.clara.ranking import score_bm25, top_indices

DOCUMENTS = ["the fox", "a bridge of stone over the river", "", "the lamp, 1931", "answering 🙂", "x y z"]
LONG = "The fox sat by the river. It saw a lamp on the stone bridge. Nobody came. " * 4


def near(mine: object, theirs: object) -> None:
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def with_limit(tiny: Path, limit: int) -> Clara:
    loaded = load_model(ModelSource(tiny / "clara", base=tiny / "base"), Placement("cpu"))
    return Clara(loaded, compat=Compat(max_prompt_tokens=limit))


def test_shapes_and_order(clara: Clara) -> None:
    latents = clara.compress(DOCUMENTS)
    assert tuple(latents.vectors.shape) == (6, 8, 32)
    assert latents.document_indices == tuple(range(6))
    assert latents.texts == tuple(DOCUMENTS)
    for place, text in enumerate(DOCUMENTS):
        near(latents.vectors[place : place + 1], clara.compress([text]).vectors)


def test_no_documents(clara: Clara) -> None:
    assert tuple(clara.compress([]).vectors.shape) == (0, 8, 32)
    assert len(clara.generate(["why?"], [[]], 4)) == 1
    assert clara.generate([], [], 4) == []


def test_ragged_batches_answer_as_one_by_one(clara: Clara) -> None:
    questions = ["why?", "", "which lamp stands by the river?"]
    groups = [DOCUMENTS[:1], DOCUMENTS[1:5], []]
    together = clara.replies(questions, groups, 12)
    alone = [clara.replies([question], [group], 12)[0] for question, group in zip(questions, groups, strict=True)]
    assert together == alone
    assert len({reply.tokens for reply in together}) == 3


def test_latents_serve_like_texts(clara: Clara) -> None:
    latents = clara.compress(DOCUMENTS)
    expected = clara.generate(["a?", "b?"], [DOCUMENTS[:3], DOCUMENTS[3:]], 8)
    assert clara.generate(["a?", "b?"], latents, 8) == expected
    assert clara.generate(["a?", "b?"], [latents.slice_documents(0, 3), DOCUMENTS[3:]], 8) == expected
    assert clara.generate(["a?", "b?"], [*latents.split([3, 3])], 8) == expected
    joined = Latents.concatenate([latents.select_document(3), latents.slice_documents(1, 3)])
    assert joined.texts == (DOCUMENTS[3], *DOCUMENTS[1:3])
    assert joined.document_indices == (0, 1, 2)


def test_a_long_document_is_several_memories_and_none_of_it_lost(clara: Clara) -> None:
    latents = clara.compress(["short", LONG, "x"])
    assert latents.document_count == 3
    assert set(latents.document_indices) == {0, 1, 2}
    mine = [place for place, owner in enumerate(latents.document_indices) if owner == 1]
    assert len(mine) > 2
    assert all(latents.token_counts[place] <= 32 for place in mine)
    assert latents.spans[mine[0]].start == 0
    assert latents.spans[mine[-1]].end == len(LONG)
    assert all(LONG[slice(*latents.spans[place])] == latents.texts[place] for place in mine)
    assert latents.select_document(1).document_indices == (0,) * len(mine)


def test_what_has_no_slot_is_named_and_the_question_stays_whole(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    question = "Which bridge? " * 10
    room = with_limit(tiny, 20_000).replies([question], [[]], 1)[0].prompt_tokens + 2 * 9
    small = with_limit(tiny, room)
    (reply,) = small.replies([question], [DOCUMENTS], 4)
    assert len(reply.used) == 2
    assert sorted([*reply.used, *reply.left_out]) == list(range(6))
    assert reply.used == tuple(sorted(small.retrieve(question, small.compress(DOCUMENTS), 2).indices))
    assert reply.prompt_tokens <= room
    assert "4 of 6 memories" in caplog.text
    with pytest.raises(ClaraError, match="no room for a memory"):
        with_limit(tiny, room - 2 * 9).replies([question], [DOCUMENTS], 4)


def test_without_a_query_adapter_words_decide(tiny: Path) -> None:
    small = with_limit(tiny, 20_000)
    fixed = small.replies(["lamp?"], [[]], 1)[0].prompt_tokens
    loaded = load_model(ModelSource(tiny / "clara", base=tiny / "base"), Placement("cpu"))
    loaded.model.adapters.pop("query_reasoner_adapter")  # type: ignore[attr-defined]  # pyright: ignore
    plain = Clara(loaded, compat=Compat(max_prompt_tokens=fixed + 9 + 3))
    (reply,) = plain.replies(["lamp?"], [DOCUMENTS], 4)
    assert reply.used == (3,)
    assert reply.left_out == (0, 1, 2, 4, 5)


def test_paraphrases_that_do_not_fit_say_so(tiny: Path) -> None:
    small = with_limit(tiny, 160)
    prepared = small.prepare_paraphrase(0, small.compress(DOCUMENTS))
    assert prepared.plan.left_out
    assert [*prepared.plan.used, *prepared.plan.left_out] == list(range(6))
    assert len(small.paraphrase([DOCUMENTS], "Say {docs} again", 4)) == 1


def test_retrieval(clara: Clara) -> None:
    latents = clara.compress(DOCUMENTS)
    found = clara.retrieve("which lamp?", latents)
    assert len(found.indices) == 3
    assert list(found.scores) == sorted(found.scores, reverse=True)
    assert clara.retrieve("which lamp?", latents, 6).indices[:3] == found.indices
    reply = clara.answer("which lamp?", DOCUMENTS, max_new_tokens=6)
    assert (reply.used, reply.scores) == found
    assert clara.answer("which lamp?", latents, 2, 6).used == found.indices[:2]
    assert len(clara.answer("which lamp?", DOCUMENTS[:2], max_new_tokens=2).used) == 2
    for k in (0, 7):
        with pytest.raises(ClaraError, match=f"k = {k}"):
            clara.retrieve("which lamp?", latents, k)


def test_what_was_found_but_has_no_slot_is_the_least_near(tiny: Path) -> None:
    fixed = with_limit(tiny, 20_000).replies(["the river?"], [[]], 1)[0].prompt_tokens
    small = with_limit(tiny, fixed + 2 * 9 + 3)
    documents = DOCUMENTS[::-1]
    found = small.retrieve("the river?", small.compress(documents), 6)
    reply = small.answer("the river?", documents, 6, 4)
    assert found.indices[:2] != tuple(sorted(found.indices[:2]))
    assert (reply.used, reply.scores) == (found.indices[:2], found.scores[:2])
    assert reply.left_out == found.indices[2:]


def test_a_long_question_is_asked_in_windows(clara: Clara) -> None:
    latents = clara.compress(DOCUMENTS)
    (query,) = clara.encode_questions([LONG])
    assert len(query) > 2
    each = [dict(zip(*clara.find_nearest(window[None], latents, 6), strict=True)) for window in query]
    expected = {place: max(scores[place] for scores in each) for place in range(6)}
    found = clara.find_nearest(query, latents, 6)
    assert dict(zip(*found, strict=True)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("limit", [0, 1, 5, 40])
def test_streams_add_up(clara: Clara, limit: int) -> None:
    for question in ("why?", "🙂", "which?"):
        pieces = list(clara.stream(question, DOCUMENTS, limit))
        assert "".join(pieces) == clara.generate([question], [DOCUMENTS], limit)[0]


def test_max_new_tokens(clara: Clara) -> None:
    long = clara.replies(["why?"], [DOCUMENTS], 30)[0]
    short = clara.replies(["why?"], [DOCUMENTS], 3)[0]
    assert short.tokens == long.tokens[:3]
    assert short.finish == "length"


def test_steps_with_a_cache_are_one_pass_without(clara: Clara) -> None:
    """Greedy tokens fed back one by one give the logits that reading all at once gives."""
    prepared = [clara.prepare_answer("why?", clara.compress(DOCUMENTS[:count])) for count in (1, 3)]
    logits, cache = clara.model.prefill([each.input_embeddings for each in prepared], DECODER_ADAPTER)
    ids = [[int(row.argmax())] for row in logits]
    for _ in range(70):  # more than the cache grows by at once
        logits = clara.model.step([row[-1] for row in ids], cache, DECODER_ADAPTER)
        for row, choice in zip(ids, logits, strict=True):
            row.append(int(choice.argmax()))
    whole = [
        torch.cat([each.input_embeddings, clara.model.embed[row[:-1]]]) for each, row in zip(prepared, ids, strict=True)
    ]
    near(clara.model.prefill(whole, DECODER_ADAPTER)[0], logits)


def test_rows_that_join_and_leave_change_nothing(clara: Clara) -> None:
    questions = [f"what is {place}?" for place in range(5)]
    prepared = [
        clara.prepare_answer(text, clara.compress(DOCUMENTS[: place + 1])) for place, text in enumerate(questions)
    ]
    alone = [clara.replies([text], [DOCUMENTS[: place + 1]], 20)[0].tokens for place, text in enumerate(questions)]
    decoding = clara.create_batch()
    rows: list[GeneratedRow] = []
    for place, each in enumerate(prepared):
        rows.extend(decoding.add_rows([each.input_embeddings], [20 if place != 1 else 4]))
        decoding.step()
        if place == 3:
            decoding.remove_rows([rows[2]])
    while decoding.rows:
        decoding.step()
    assert [tuple(rows[place].tokens) for place in (0, 3, 4)] == [alone[place] for place in (0, 3, 4)]
    assert tuple(rows[1].tokens) == alone[1][:4]
    assert rows[2].finish is None


def test_mistakes_are_said_in_words(clara: Clara) -> None:
    mistakes: list[tuple[Callable[[], object], str]] = [
        (lambda: clara.compress("one text"), "a list is wanted"),
        (lambda: clara.generate("one question", [["a"]]), "a list is wanted"),
        (lambda: clara.generate(["a?"], "one text"), "a list is wanted"),
        (lambda: clara.generate(["a?"], ["d1", "d2"]), "1 questions, but documents for 2"),
        (lambda: clara.generate(["a?", "b?"], clara.compress(["x"])), "cannot be shared out evenly"),
    ]
    for call, words in mistakes:
        with pytest.raises(ClaraError, match=words):
            call()


def test_one_text_is_one_document(clara: Clara) -> None:
    assert clara.generate(["a?"], ["the fox"], 6) == clara.generate(["a?"], [["the fox"]], 6)


def test_the_store_answers_the_second_time(tiny: Path, tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    first = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", store=store)
    expected = first.compress([*DOCUMENTS, LONG, "the fox"]).vectors
    again = Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", store=LatentStore(tmp_path))
    embed = again.model.embed.clone()
    again.model.embed.zero_()  # whatever were encoded now would be wrong
    assert torch.equal(again.compress([*DOCUMENTS, LONG, "the fox"]).vectors, expected)
    again.model.embed.copy_(embed)
    near(again.compress(["new"]).vectors, first.compress(["new"]).vectors)


def test_threads_share_one_object(clara: Clara) -> None:
    """32 mixed requests at once: the same tokens and top-k as one at a time, latents within 1e-4."""

    def run(place: int) -> object:
        group = DOCUMENTS[place % 4 : place % 4 + 3]
        question = f"what about {place}?"
        match place % 4:
            case 0:
                return clara.replies([question, "and?"], [group, group[:1]], 10)
            case 1:
                return clara.answer(question, group, 2, 10)
            case 2:
                return clara.compress([*group, LONG]).vectors
            case _:
                return "".join(clara.stream(question, group, 10)), clara.paraphrase([group], place % 13, 10)

    alone = [run(place) for place in range(32)]
    gate = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=gate.wait) as pool:
        together = list(pool.map(run, range(32)))
    for one, other in zip(alone, together, strict=True):
        same(one, other)


def same(one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    elif isinstance(one, Reply) and isinstance(other, Reply):
        assert (one.tokens, one.used, one.text) == (other.tokens, other.used, other.text)
        assert other.scores == pytest.approx(one.scores, abs=1e-5)
    else:
        assert one == other


def test_batches_are_of_like_length_and_bounded() -> None:
    lengths = [5, 100, 6, 7, 90, 5, 300]
    made = list(group_by_length(lengths, 200))
    assert sorted(place for batch in made for place in batch) == list(range(7))
    assert all(max(lengths[place] for place in batch) * len(batch) <= 200 or len(batch) == 1 for batch in made)
    assert [0, 5, 2, 3] in made
    assert list(group_by_length([], 200)) == []
    assert list(group_by_length([1, 1, 1, 30], 160)) == [[0, 1, 2], [3]]


def test_batched_encoding_is_single_encoding(clara: Clara) -> None:
    rows = [clara.tokenizer.build_encoder_row(clara.tokenizer.encode(text), 35) for text in DOCUMENTS]
    together = clara.model.encode(rows, 8, ENCODER_ADAPTER)
    alone = [clara.model.encode([row], 8, ENCODER_ADAPTER) for row in rows]
    near(together.memories, torch.cat([each.memories for each in alone]))
    near(together.drift, torch.cat([each.drift for each in alone]))


def test_bm25_finds_the_words() -> None:
    scores = score_bm25("the oldest Lamp", ["a fox", "the lamp, the lamp", "the river", ""])
    assert top_indices(scores, 2) == [1, 2]
    assert scores[0] == scores[3] == 0.0
    assert score_bm25("", ["a"]) == [0.0]
    assert score_bm25("a", []) == []


def test_a_cache_takes_layers_in_order() -> None:
    cache = cache_module.KVCache.empty([1])
    with pytest.raises(ValueError, match="in order"):
        cache.add_prompt_layer(1, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
