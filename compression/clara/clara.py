"""CLaRa for Python programs: compresses documents into memories and answers questions about them, without a proxy.

    clara = Clara.from_pretrained("apple/CLaRa-7B-Instruct", subfolder="compression-16")
    latents = clara.compress(["a document", "another"])
    clara.generate(["What is it about?"], [latents])

A `Clara` holds weights and settings only, so threads may share it. Text is never cut silently: a long document becomes
several memories, a reply lists the memories that did not fit into the prompt, and the question is always whole.

Shapes: M memory tokens, H hidden size, T positions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..models.errors import CheckpointError, ModelError
from . import memory_ranking, prompts
from .abstention_head import MemoryCheck
from .checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from .checkpoint_config import Quantization
from .chunking import chunk_in_blocks
from .cooperative import Steps, run_steps
from .decoding import DecodingBatch, GeneratedRow, TextStream
from .exceptions import reject_single_text
from .inference import Array, pick_first_group
from .latent_store import LatentStore
from .latents import Latents
from .locate import MLX_DEVICE
from .memory_ranking import RetrievalResult
from .model_source import LoadedModel, ModelSource, Placement
from .prompt_layout import Compat, PromptPlan, plan_prompt
from .replies import PreparedPrompt, Reply
from .tokenizer import Span

if TYPE_CHECKING:
    from .quantized_weights import QuantizedWeightStore

__all__ = ["Clara", "DocumentInput", "PreparedPrompt", "Reply"]

WINDOWS_PER_STEP = 32  # windows that are tokenized before other jobs have their turn
DocumentInput = str | Sequence[str] | Latents  # the documents of one question


class Clara:
    """One loaded CLaRa checkpoint."""

    def __init__(self, loaded: LoadedModel, *, compat: Compat | None = None, store: LatentStore | None = None) -> None:
        self.model, self.tokenizer, self.config = loaded.model, loaded.tokenizer, loaded.config
        self.fingerprint = loaded.fingerprint
        positions = self.model.base.config.max_positions
        row = self.config.max_document_tokens + 3 + self.config.memory_tokens
        if row > positions:
            raise CheckpointError(f"a document takes {row} positions, but the base model has only {positions}")
        compat = compat or Compat(max_prompt_tokens=self.config.max_prompt_tokens)
        self.compat = replace(compat, max_prompt_tokens=min(compat.max_prompt_tokens, positions))
        self.store = store
        self.memory_check = MemoryCheck.create(self.model, loaded.abstention_head, DECODER_ADAPTER)

    @classmethod
    def from_pretrained(  # noqa: PLR0913 - the names that users of such loaders know
        cls,
        path_or_repo: str | Path,
        *,
        subfolder: str | None = None,
        base: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quantization: Quantization | None = None,
        cache: Path | None = None,
        compat: Compat | None = None,
        store: LatentStore | None = None,
        quantized_weights: "QuantizedWeightStore | None" = None,
        abstention_threshold: float | None = None,
    ) -> Self:
        """Load a checkpoint folder, or a hub repository such as `apple/CLaRa-7B-Instruct`.

        `subfolder` is the compression rate's folder; `base` overrides `decoder_model_name` as the base model; `dtype`
        is "float32", "bfloat16", "float16" or "auto" (bfloat16, float32 on a CPU); `quantization` of the base's weights
        is "int8", "int4" (with bitsandbytes) or "no", kept in `quantized_weights`; `cache` is a folder of downloaded
        repositories, beside the hub client's own; `abstention_threshold` (0 to 1) replaces that of the checkpoint's
        abstention head. Raises `CheckpointError` naming a missing or broken file.
        """
        skips_decoder = bool(compat and compat.skip_decoder_adapter)
        source = ModelSource(
            path_or_repo, subfolder, base, skips_decoder, cache, quantized_weights, abstention_threshold
        )
        return cls(_load_model(source, Placement(device, dtype, quantization)), compat=compat, store=store)

    def compress(self, documents: Sequence[str]) -> Latents:
        """Return the documents' memories, in order; a document longer than the encoder's window becomes several.

        Equal texts are computed once, and texts in the store not at all.
        """
        return run_steps(self.compress_steps(documents))

    def compress_steps(self, documents: Sequence[str]) -> Steps[Latents]:
        """Like `compress`, in steps of one forward pass; the store keeps each pass."""
        reject_single_text(documents, "documents")
        owners, spans, document_token_counts = yield from self._split_into_chunks(documents)
        texts = [documents[owner][span.start : span.end] for owner, span in zip(owners, spans, strict=True)]
        ids: list[list[int]] = []
        for text in texts:
            ids.append(self._tokenize(text))
            if len(ids) % WINDOWS_PER_STEP == 0:
                yield
        keys = [self._store_key(text) for text in texts]
        memories = self.store.get_many(keys) if self.store is not None else {}
        missing = {key: row for key, row in zip(keys, ids, strict=True) if key not in memories}
        while missing:
            group = pick_first_group(missing, 3 + self.config.memory_tokens, self.model.max_batch_positions)
            encoded = self.encode([missing[key] for key in group], ENCODER_ADAPTER)  # [group, M, H]
            encoded_by_key = dict(zip(group, encoded, strict=True))
            memories |= encoded_by_key if self.store is None else self.store.put_many(encoded_by_key)
            yield
            if self.store is not None:  # another job of this worker may have encoded some in the meantime
                memories |= self.store.get_recent(missing.keys() - memories.keys())
            missing = {key: row for key, row in missing.items() if key not in memories}
        return Latents(
            self.model.stack([memories[key] for key in keys]) if keys else self.encode([], ENCODER_ADAPTER),
            tuple(owners),
            tuple(spans),
            tuple(texts),
            tuple(map(len, ids)),
            document_token_counts,
        )

    def generate(
        self, questions: Sequence[str], documents: Sequence[DocumentInput] | Latents, max_new_tokens: int = 128
    ) -> list[str]:
        """Return an answer to each question from its documents; `replies` returns more about each answer."""
        return [reply.text for reply in self.replies(questions, documents, max_new_tokens)]

    def replies(
        self, questions: Sequence[str], documents: Sequence[DocumentInput] | Latents, max_new_tokens: int = 128
    ) -> list[Reply]:
        """Return a reply to each question from its own documents: texts, a `Latents`, or one `Latents` split evenly.

        Questions may have different numbers of documents.
        """
        reject_single_text(questions, "questions")
        latents = self.collect_latents(documents, len(questions))
        prepared = [self.prepare_answer(*pair) for pair in zip(questions, latents, strict=True)]
        return self.decode_all(self.check_memories(prepared), max_new_tokens)

    def stream(self, question: str, documents: DocumentInput, max_new_tokens: int = 128) -> Iterator[str]:
        """Yield the answer to one question in pieces that add up to the result of `generate`."""
        (prepared,) = self.check_memories([self.prepare_answer(question, self.collect_latents([documents], 1)[0])])
        decoding, text = self.create_batch(), self.text_stream()
        (row,) = self.add_to_batch(decoding, [prepared], [max_new_tokens])
        while row.finish is None:
            yield text.feed(row.tokens, last=False)
            decoding.step()
        yield text.feed(row.tokens, last=True)

    def paraphrase(
        self,
        documents: Sequence[DocumentInput] | Latents,
        template: int | str | Sequence[int | str] = 0,
        max_new_tokens: int = 128,
    ) -> list[str]:
        """Return a paraphrase of each item's documents.

        `template` is one of the 13 learned ones by number, or a text with `{docs}` in it; one for all, or one each.
        """
        count = documents.document_count if isinstance(documents, Latents) else len(documents)
        templates = [template] * count if isinstance(template, int | str) else template
        latents = self.collect_latents(documents, count)
        prepared = [self.prepare_paraphrase(*pair) for pair in zip(templates, latents, strict=True)]
        return [reply.text for reply in self.decode_all(prepared, max_new_tokens)]

    def retrieve(self, question: str, latents: Latents, k: int | None = None) -> RetrievalResult:
        """Return the k memories nearest to a question, by the query adapter of an E2E checkpoint.

        The default for `k` is the checkpoint's own number, or all memories if there are fewer. Raises `ModelError` if
        `k` is larger than the number of memories.
        """
        return self.find_nearest(self.encode_questions([question])[0], latents, k)

    def answer(self, question: str, documents: DocumentInput, k: int | None = None, max_new_tokens: int = 128) -> Reply:
        """Choose the k memories nearest to the question and answer from these, best first."""
        return self.answers([question], [documents], k, max_new_tokens)[0]

    def answers(
        self,
        questions: Sequence[str],
        documents: Sequence[DocumentInput] | Latents,
        k: int | None = None,
        max_new_tokens: int = 128,
    ) -> list[Reply]:
        """Like `answer`, for several questions at once."""
        reject_single_text(questions, "questions")
        latents = self.collect_latents(documents, len(questions))
        queries = self.encode_questions(questions)
        results = [self.find_nearest(query, own, k) for query, own in zip(queries, latents, strict=True)]
        prepared = [self.prepare_answer(*item) for item in zip(questions, latents, results, strict=True)]
        return self.decode_all(self.check_memories(prepared), max_new_tokens)

    # The same in single steps, for a caller that batches requests.

    def collect_latents(self, documents: Sequence[DocumentInput] | Latents, count: int) -> list[Latents]:
        """Return the memories of each of `count` questions; all texts are compressed together."""
        return run_steps(self.collect_latents_steps(documents, count))

    def collect_latents_steps(self, documents: Sequence[DocumentInput] | Latents, count: int) -> Steps[list[Latents]]:
        """Like `collect_latents`, in steps of one forward pass."""
        if isinstance(documents, Latents):
            if count < 1 or documents.document_count % count:
                raise ModelError(f"{documents.document_count} documents cannot be split evenly among {count} questions")
            return documents.split([documents.document_count // count] * count)
        reject_single_text(documents, "documents")
        if len(documents) != count:
            raise ModelError(f"{count} questions, but documents for {len(documents)}: give one list of documents each")
        groups = [() if isinstance(item, Latents) else (item,) if isinstance(item, str) else item for item in documents]
        compressed = yield from self.compress_steps([text for group in groups for text in group])
        latents = compressed.split([len(group) for group in groups])
        return [item if isinstance(item, Latents) else own for item, own in zip(documents, latents, strict=True)]

    def encode(self, text_ids: Sequence[Sequence[int]], adapter: str) -> Array:
        """Return the memories [texts, M, H] of texts, given as ids, under an adapter."""
        limit = self.config.max_document_tokens + 3
        rows = [self.tokenizer.build_encoder_row(ids, limit) for ids in text_ids]
        return self.model.encode(rows, self.config.memory_tokens, adapter)

    def encode_questions(self, questions: Sequence[str]) -> list[Array]:
        """Return each question's vectors [windows, M * H]; several windows if it is longer than a document."""
        if not self.can_retrieve:
            raise ModelError("this checkpoint has no query adapter: only E2E checkpoints can retrieve")
        owners, spans, _ = run_steps(self._split_into_chunks(questions))
        texts = [questions[owner][span.start : span.end] for owner, span in zip(owners, spans, strict=True)]
        vectors = self.encode([self._tokenize(text) for text in texts], QUERY_ADAPTER).reshape(len(texts), -1)
        return [vectors[[row for row, owner in enumerate(owners) if owner == index]] for index in range(len(questions))]

    def find_nearest(self, query: Array, latents: Latents, k: int | None = None) -> RetrievalResult:
        """Return the k memories nearest to a query [windows, M * H]; of several windows, the nearest counts."""
        count = min(self.config.top_k, len(latents)) if k is None else k
        if not 0 < count <= len(latents):
            raise ModelError(f"k = {count}, but there are {len(latents)} memories to choose from")
        scores = self.model.score_cosine(query, latents.vectors)
        order = memory_ranking.top_indices(scores, count)
        return RetrievalResult(tuple(order), tuple(scores[index] for index in order))

    def prepare_answer(
        self, question: str, latents: Latents, retrieval: RetrievalResult | None = None
    ) -> PreparedPrompt:
        """Lay out a question with its memories: the retrieved ones, best first, or all in their order."""

        def choose(room: int) -> list[int]:
            if retrieval is not None:
                return list(retrieval.indices[:room])
            scores = (
                self.model.score_cosine(self.encode_questions([question])[0], latents.vectors)
                if self.can_retrieve
                else memory_ranking.score_keywords(question, latents.texts)
            )
            return sorted(memory_ranking.top_indices(scores, room))

        order = range(len(latents)) if retrieval is None else retrieval.indices
        plan = plan_prompt(prompts.answer_prompt(question), order, choose, self.tokenizer, self.compat)
        prepared = self._build_prompt(plan, latents, () if retrieval is None else retrieval.scores[: len(plan.used)])
        return self._apply_abstention(prepared, question, latents, retrieval)

    def check_memories(self, prepared: Sequence[PreparedPrompt]) -> list[PreparedPrompt]:
        """Mark the questions whose answers are not in their memories, if the checkpoint has an abstention head."""
        return list(prepared) if self.memory_check is None else self.memory_check.mark_missing(prepared)

    def prepare_paraphrase(self, template: int | str, latents: Latents) -> PreparedPrompt:
        """Lay out a paraphrase of all memories or the first ones that fit. Raises `ModelError` for a PISCO model."""
        if not self.config.can_paraphrase:
            raise ModelError("this checkpoint is PISCO's, which answers questions and has not learned to paraphrase")
        plan = plan_prompt(prompts.paraphrase_prompt(template), range(len(latents)), range, self.tokenizer, self.compat)
        return self._build_prompt(plan, latents)

    @property
    def can_retrieve(self) -> bool:
        """Return True if the checkpoint has a query adapter to retrieve memories with."""
        return QUERY_ADAPTER in self.model.adapters

    @property
    def uses_accelerator(self) -> bool:
        """Return True if the model runs on a device other than the CPU."""
        return self.model.uses_accelerator

    def create_batch(self) -> DecodingBatch:
        """Return an empty batch for prepared requests; it belongs to one thread."""
        return DecodingBatch(self.model, DECODER_ADAPTER)

    def add_to_batch(
        self, decoding: DecodingBatch, prepared: Sequence[PreparedPrompt], limits: Sequence[int]
    ) -> list[GeneratedRow]:
        """Add prepared requests to a batch; abstentions are returned finished and never enter it."""
        pairs = list(zip(prepared, limits, strict=True))
        decoded = [(request, limit) for request, limit in pairs if request.is_decoded]
        rows = iter(
            decoding.add_rows(
                [request.input_embeddings for request, _ in decoded],
                [limit for _, limit in decoded],
                [request.abstention_ids for request, _ in decoded],
            )
        )
        return [
            next(rows) if request.is_decoded else GeneratedRow.finished(request.known_answer, limit)
            for request, limit in pairs
        ]

    def text_stream(self) -> TextStream:
        """Return a converter of one row's ids to pieces of text."""
        return TextStream(self.tokenizer)

    def build_reply(self, prepared: PreparedPrompt, row: GeneratedRow) -> Reply:
        """Return the reply of a finished row."""
        plan, finish = prepared.plan, row.finish or "length"
        text, tokens = self.tokenizer.decode(row.tokens), tuple(row.tokens)
        sizes = (plan.used, plan.left_out, prepared.scores, len(plan.ids))
        return Reply(text, tokens, finish, *sizes, not_in_memory=prepared.is_missing)

    def _apply_abstention(
        self, prepared: PreparedPrompt, question: str, latents: Latents, retrieval: RetrievalResult | None
    ) -> PreparedPrompt:
        """Abstain if the nearest memory scores below the checkpoint's minimum, if it has one."""
        abstention = self.config.abstention
        if abstention is None or not self.can_retrieve or not len(latents):
            return prepared
        nearest = retrieval or self.retrieve(question, latents, 1)
        ids = tuple(self.tokenizer.encode(f" {abstention.answer}"))
        return replace(prepared, abstention_ids=ids, should_abstain=nearest.scores[0] < abstention.min_score)

    def _build_prompt(self, plan: PromptPlan, latents: Latents, scores: tuple[float, ...] = ()) -> PreparedPrompt:
        vectors = latents.vectors[list(plan.used)]
        return PreparedPrompt(self.model.embed_prompt(plan.ids, plan.slot_positions, vectors), plan, scores)

    def decode_all(self, prepared: Sequence[PreparedPrompt], max_new_tokens: int) -> list[Reply]:
        """Return the replies to prepared requests, decoded together."""
        decoding = self.create_batch()
        rows = self.add_to_batch(decoding, prepared, [max_new_tokens] * len(prepared))
        while decoding.rows:
            decoding.step()
        return [self.build_reply(request, row) for request, row in zip(prepared, rows, strict=True)]

    def _split_into_chunks(self, texts: Sequence[str]) -> Steps[tuple[list[int], list[Span], tuple[int, ...]]]:
        """Return the text of each window, its span, and the number of tokens of each text."""
        owners: list[int] = []
        spans: list[Span] = []
        token_counts: list[int] = []
        tokenize = self.tokenizer.token_spans
        for owner, text in enumerate(texts):
            groups: Iterable[list[Span]] = [[Span(0, len(text))]]
            if self.compat.long_text != "cut":
                groups = chunk_in_blocks(text, tokenize, self.config.max_document_tokens)
            token_counts.append(0)
            end = 0  # of the windows so far; windows overlap
            for index, windows in enumerate(groups):
                if index or (owner + 1) % WINDOWS_PER_STEP == 0:
                    yield
                owners.extend([owner] * len(windows))
                spans.extend(windows)
                token_counts[owner] += len(tokenize(text[end : windows[-1].end]))
                end = windows[-1].end
        return owners, spans, tuple(token_counts)

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, parse_special=self.compat.special_text == "parse")

    def _store_key(self, text: str) -> str:
        precision = "exact" if self.store is None else self.store.precision
        fingerprint = (self.fingerprint, self.compat.long_text, self.compat.special_text, precision)
        return LatentStore.make_key(text, ":".join(fingerprint))


def _load_model(source: ModelSource, placement: Placement) -> LoadedModel:
    if placement.device == MLX_DEVICE:
        from . import mlx_loading  # noqa: PLC0415 - each library is loaded where it is used

        return mlx_loading.load_model(source, placement)
    from . import loading  # noqa: PLC0415

    return loading.load_model(source, placement)
