"""CLaRa for Python programs: compress documents into memories, ask questions of them; no proxy needed.

    clara = Clara.from_pretrained("apple/CLaRa-7B-Instruct", subfolder="compression-16")
    latents = clara.compress(["a document", "another"])
    clara.generate(["What is it about?"], [latents])

Holds weights and settings only, so threads may share one object. Nothing is cut in silence: long documents become
several memories, memories without a slot are named in the reply, and the question is always whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from . import prompts, ranking
from .checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from .chunking import chunk_text
from .cooperative import Steps, run_steps
from .decoding import DecodingBatch, FinishReason, GeneratedRow, TextStream
from .exceptions import CheckpointError, ClaraError
from .latent_store import LatentStore
from .latents import Latents
from .loading import LoadedModel, ModelSource, Placement, Quantization, load_model
from .prompt_layout import Compat, PromptPlan, plan_prompt
from .tokenizer import Span

DocumentInput = str | Sequence[str] | Latents  # the documents of one question


class RetrievalResult(NamedTuple):
    """Memories found for a question: `indices` best first, and their `scores` (cosine, -1 to 1)."""

    indices: tuple[int, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """One request ready to decode: its input rows [T, H], its plan, and the scores of `plan.used` when retrieved.

    Where the checkpoint says when nothing is stated, `refusal` are the ids of its words for that. With `refused` no
    memory is near enough to the question, and they are the answer; without, the answer may be anything else.
    """

    input_embeddings: Tensor
    plan: PromptPlan
    scores: tuple[float, ...] = ()
    abstention_ids: tuple[int, ...] = ()
    should_abstain: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What CLaRa said, and from what.

    `tokens` are the new ids without the end token; `finish` is "length" when `max_new_tokens` cut it off; `used` are
    the memories in slot order, `left_out` those that had no slot, `scores` those of `used` on the retrieval path.
    """

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason
    used: tuple[int, ...]
    left_out: tuple[int, ...]
    scores: tuple[float, ...]
    prompt_tokens: int


class Clara:
    """One loaded CLaRa checkpoint."""

    def __init__(self, loaded: LoadedModel, *, compat: Compat | None = None, store: LatentStore | None = None) -> None:
        self.model, self.tokenizer, self.config = loaded.model, loaded.tokenizer, loaded.config
        self.fingerprint = loaded.fingerprint
        positions, row = (
            self.model.base.config.max_positions,
            self.config.max_document_tokens + 3 + self.config.memory_tokens,
        )
        if row > positions:
            raise CheckpointError(f"a document takes {row} positions, the base model has {positions}")
        compat = compat or Compat()
        self.compat = replace(compat, max_prompt_tokens=min(compat.max_prompt_tokens, positions))
        self.store = store

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
        compat: Compat | None = None,
        store: LatentStore | None = None,
    ) -> Self:
        """Load a checkpoint folder, or a hub repository such as `apple/CLaRa-7B-Instruct`.

        `subfolder` is the compression rate's folder; `base` says where the base model is when `decoder_model_name`
        does not; `dtype` is "float32", "bfloat16", "float16" or "auto" (bfloat16, float32 on a CPU); `quantization`
        of the base's weights is "int8", "int4" (with bitsandbytes) or "no". Raises `CheckpointError` naming the file
        that is missing or broken.
        """
        source = ModelSource(path_or_repo, subfolder, base, compat is not None and compat.skip_decoder_adapter)
        return cls(load_model(source, Placement(device, dtype, quantization)), compat=compat, store=store)

    def compress(self, documents: Sequence[str]) -> Latents:
        """Return the documents' memories, in order; a document longer than the model reads at once becomes several.

        What the store knows is not computed again, and equal texts are computed once.
        """
        return run_steps(self.compress_steps(documents))

    def compress_steps(self, documents: Sequence[str]) -> Steps[Latents]:
        """Do what `compress` does, one forward pass a step."""
        _reject_single_text(documents, "documents")
        owners, spans = self._split_into_chunks(documents)
        texts = [documents[owner][span.start : span.end] for owner, span in zip(owners, spans, strict=True)]
        ids = [self._tokenize(text) for text in texts]
        known = self.store.get_many(self._store_key(text) for text in texts) if self.store is not None else {}
        missing = {text: row for text, row in zip(texts, ids, strict=True) if self._store_key(text) not in known}
        fresh = yield from self.encode_steps(list(missing.values()), ENCODER_ADAPTER)
        made = {self._store_key(text): vector for text, vector in zip(missing, fresh, strict=True)}
        if self.store is not None:
            made = self.store.put_many(made)
        vectors = [
            self._move_to_device(made[key] if key in made else known[key]) for key in map(self._store_key, texts)
        ]
        return Latents(
            torch.stack(vectors) if vectors else fresh,
            tuple(owners),
            tuple(spans),
            tuple(texts),
            tuple(map(len, ids)),
            len(documents),
        )

    def generate(
        self, questions: Sequence[str], documents: Sequence[DocumentInput] | Latents, max_new_tokens: int = 128
    ) -> list[str]:
        """Answer each question from its documents; `replies` says more about each answer."""
        return [reply.text for reply in self.replies(questions, documents, max_new_tokens)]

    def replies(
        self, questions: Sequence[str], documents: Sequence[DocumentInput] | Latents, max_new_tokens: int = 128
    ) -> list[Reply]:
        """Answer each question from its own documents: texts, a `Latents`, or one `Latents` shared out evenly.

        Questions may have different numbers of documents.
        """
        _reject_single_text(questions, "questions")
        latents = self.collect_latents(documents, len(questions))
        return self._decode_all(
            [self.prepare_answer(question, own) for question, own in zip(questions, latents, strict=True)],
            max_new_tokens,
        )

    def stream(self, question: str, documents: DocumentInput, max_new_tokens: int = 128) -> Iterator[str]:
        """Yield the answer to one question piece by piece; the pieces add up to what `generate` returns."""
        prepared = self.prepare_answer(question, self.collect_latents([documents], 1)[0])
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
        """Say each item's documents in other words; no question is involved.

        `template` is one of the 13 learned ones by number, or a text with `{docs}` in it; one for all, or one each.
        """
        count = documents.document_count if isinstance(documents, Latents) else len(documents)
        templates = [template] * count if isinstance(template, int | str) else template
        latents = self.collect_latents(documents, count)
        prepared = [self.prepare_paraphrase(*pair) for pair in zip(templates, latents, strict=True)]
        return [reply.text for reply in self._decode_all(prepared, max_new_tokens)]

    def retrieve(self, question: str, latents: Latents, k: int | None = None) -> RetrievalResult:
        """Return the k memories nearest to a question, by the checkpoint's query adapter (E2E checkpoints have one).

        `k` is the checkpoint's own number unless given, at most all; more than there are is a `ClaraError`.
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
        """Do what `answer` does for several questions at once."""
        _reject_single_text(questions, "questions")
        latents = self.collect_latents(documents, len(questions))
        found = [
            self.find_nearest(query, own, k)
            for query, own in zip(self.encode_questions(questions), latents, strict=True)
        ]
        prepared = [self.prepare_answer(*each) for each in zip(questions, latents, found, strict=True)]
        return self._decode_all(prepared, max_new_tokens)

    # What a batching caller needs: the same steps, one by one.

    def collect_latents(self, documents: Sequence[DocumentInput] | Latents, count: int) -> list[Latents]:
        """Return each question's memories, compressing all that is still text together."""
        return run_steps(self.collect_latents_steps(documents, count))

    def collect_latents_steps(self, documents: Sequence[DocumentInput] | Latents, count: int) -> Steps[list[Latents]]:
        """Do what `latents_for` does, one forward pass a step."""
        if isinstance(documents, Latents):
            if count < 1 or documents.document_count % count:
                raise ClaraError(
                    f"{documents.document_count} documents cannot be shared out evenly to {count} questions"
                )
            return documents.split([documents.document_count // count] * count)
        _reject_single_text(documents, "documents")
        if len(documents) != count:
            raise ClaraError(f"{count} questions, but documents for {len(documents)}: give one list of documents each")
        groups = [() if isinstance(item, Latents) else (item,) if isinstance(item, str) else item for item in documents]
        whole = yield from self.compress_steps([text for group in groups for text in group])
        made = whole.split([len(group) for group in groups])
        return [item if isinstance(item, Latents) else own for item, own in zip(documents, made, strict=True)]

    def encode(self, text_ids: Sequence[Sequence[int]], adapter: str) -> Tensor:
        """Return the memories [texts, M, H] that an adapter makes of texts, given as ids."""
        return run_steps(self.encode_steps(text_ids, adapter))

    def encode_steps(self, text_ids: Sequence[Sequence[int]], adapter: str) -> Steps[Tensor]:
        """Do what `encode` does, one forward pass a step."""
        limit = self.config.max_document_tokens + 3
        rows = [self.tokenizer.build_encoder_row(ids, limit) for ids in text_ids]
        encoded = yield from self.model.encode_steps(rows, self.config.memory_tokens, adapter)
        return encoded.memories

    def encode_questions(self, questions: Sequence[str]) -> list[Tensor]:
        """Return each question's vectors [windows, M * H]; one window unless the question is longer than a document."""
        if QUERY_ADAPTER not in self.model.adapters:
            raise ClaraError("this checkpoint has no query adapter: only E2E checkpoints can retrieve")
        owners, spans = self._split_into_chunks(questions)
        texts = [questions[owner][span.start : span.end] for owner, span in zip(owners, spans, strict=True)]
        vectors = self.encode([self._tokenize(text) for text in texts], QUERY_ADAPTER).flatten(1)
        return [vectors[[row for row, owner in enumerate(owners) if owner == index]] for index in range(len(questions))]

    def find_nearest(self, query: Tensor, latents: Latents, k: int | None = None) -> RetrievalResult:
        """Return the k memories nearest to a query [windows, M * H]; of several windows the nearest one counts."""
        wanted = min(self.config.top_k, len(latents)) if k is None else k
        if not 0 < wanted <= len(latents):
            raise ClaraError(f"k = {wanted}, but there are {len(latents)} memories to choose from")
        scores = _cosine_scores(query, latents)
        order = ranking.top_indices(scores, wanted)
        return RetrievalResult(tuple(order), tuple(scores[place] for place in order))

    def prepare_answer(
        self, question: str, latents: Latents, retrieval: RetrievalResult | None = None
    ) -> PreparedPrompt:
        """Lay out a question with its memories: those found, best first, else all in their order."""

        def choose(room: int) -> list[int]:
            if retrieval is not None:
                return list(retrieval.indices[:room])
            scores = (
                _cosine_scores(self.encode_questions([question])[0], latents)
                if QUERY_ADAPTER in self.model.adapters
                else ranking.score_bm25(question, latents.texts)
            )
            return sorted(ranking.top_indices(scores, room))

        order = range(len(latents)) if retrieval is None else retrieval.indices
        plan = plan_prompt(prompts.answer_prompt(question), order, choose, self.tokenizer, self.compat)
        prepared = self._build_prompt(plan, latents, () if retrieval is None else retrieval.scores[: len(plan.used)])
        return self._apply_abstention(prepared, question, latents, retrieval)

    def prepare_paraphrase(self, template: int | str, latents: Latents) -> PreparedPrompt:
        """Lay out a paraphrase; of more memories than fit, the first ones are taken."""
        plan = plan_prompt(prompts.paraphrase_prompt(template), range(len(latents)), range, self.tokenizer, self.compat)
        return self._build_prompt(plan, latents)

    @property
    def can_retrieve(self) -> bool:
        """Say whether this checkpoint has learned to find the memories that a question needs."""
        return QUERY_ADAPTER in self.model.adapters

    @property
    def uses_accelerator(self) -> bool:
        """Say whether this computes on something else than the CPU."""
        return self.model.base.device.type != "cpu"

    def create_batch(self) -> DecodingBatch:
        """Return an empty batch for prepared requests; it belongs to one thread."""
        return DecodingBatch(self.model, DECODER_ADAPTER)

    def add_to_batch(
        self, decoding: DecodingBatch, prepared: Sequence[PreparedPrompt], limits: Sequence[int]
    ) -> list[GeneratedRow]:
        """Let prepared requests join a batch; those that are refused come back finished and never enter it."""
        pairs = list(zip(prepared, limits, strict=True))
        asked = [(each, limit) for each, limit in pairs if not each.should_abstain]
        begun = iter(
            decoding.add_rows(
                [each.input_embeddings for each, _ in asked],
                [limit for _, limit in asked],
                [each.abstention_ids for each, _ in asked],
            )
        )
        return [
            _abstention_row(each.abstention_ids, limit) if each.should_abstain else next(begun) for each, limit in pairs
        ]

    def text_stream(self) -> TextStream:
        """Return what turns one row's ids into pieces of text."""
        return TextStream(self.tokenizer)

    def build_reply(self, prepared: PreparedPrompt, row: GeneratedRow) -> Reply:
        """Put a finished row into words."""
        plan = prepared.plan
        return Reply(
            self.tokenizer.decode(row.tokens),
            tuple(row.tokens),
            row.finish or "length",
            plan.used,
            plan.left_out,
            prepared.scores,
            len(plan.ids),
        )

    def _apply_abstention(
        self, prepared: PreparedPrompt, question: str, latents: Latents, found: RetrievalResult | None
    ) -> PreparedPrompt:
        """Let the nearest memory's score say whether there is an answer, where the checkpoint has a mark for that."""
        mark = self.config.abstention
        if mark is None or not self.can_retrieve or not len(latents):
            return prepared
        nearest = found or self.retrieve(question, latents, 1)
        words = tuple(self.tokenizer.encode(f" {mark.answer}"))
        return replace(prepared, abstention_ids=words, should_abstain=nearest.scores[0] < mark.min_score)

    def _build_prompt(self, plan: PromptPlan, latents: Latents, scores: tuple[float, ...] = ()) -> PreparedPrompt:
        vectors = self._move_to_device(latents.vectors[list(plan.used)])
        return PreparedPrompt(self.model.embed_prompt(plan.ids, plan.slot_positions, vectors), plan, scores)

    def _decode_all(self, prepared: Sequence[PreparedPrompt], max_new_tokens: int) -> list[Reply]:
        decoding = self.create_batch()
        rows = self.add_to_batch(decoding, prepared, [max_new_tokens] * len(prepared))
        while decoding.rows:
            decoding.step()
        return [self.build_reply(each, row) for each, row in zip(prepared, rows, strict=True)]

    def _split_into_chunks(self, texts: Sequence[str]) -> tuple[list[int], list[Span]]:
        owners: list[int] = []
        spans: list[Span] = []
        for owner, text in enumerate(texts):
            whole = [Span(0, len(text))]
            cut = self.compat.long_text == "cut"
            windows = whole if cut else chunk_text(text, self.tokenizer.token_spans, self.config.max_document_tokens)
            owners.extend([owner] * len(windows))
            spans.extend(windows)
        return owners, spans

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, parse_special=self.compat.special_text == "parse")

    def _store_key(self, text: str) -> str:
        precision = "exact" if self.store is None else self.store.precision
        made = (self.fingerprint, self.compat.long_text, self.compat.special_text, precision)
        return LatentStore.make_key(text, ":".join(made))

    def _move_to_device(self, vectors: Tensor) -> Tensor:
        return vectors.to(device=self.model.base.device, dtype=self.model.base.dtype)


def _abstention_row(said: Sequence[int], limit: int) -> GeneratedRow:
    return GeneratedRow(limit, list(said[:limit]), "length" if len(said) > limit else "stop")


def _cosine_scores(query: Tensor, latents: Latents) -> list[float]:
    # Normalised in the model's dtype and multiplied in float32, as in training.
    memories = functional.normalize(latents.vectors.flatten(1).to(query), dim=-1).float()
    scores = functional.normalize(query, dim=-1).float() @ memories.T  # [windows, memories]
    return [float(score) for score in scores.amax(dim=0).cpu()]


def _reject_single_text(value: Sequence[object], name: str) -> None:
    if isinstance(value, str):
        raise ClaraError(f"{name} is one text; a list is wanted")
