"""Runs an evaluation: compresses each case with each method, asks the reader, and records the scores."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...compression.clara.train.squad_scores import exact_match, f1_score
from ...compression.tokens import TokenCounter
from .baselines import BASELINES
from .cases import Case
from .methods import EXTRACT, FULL_TEXT, LATENT, NO_RATIO, PROBE, Compressors, Method, SmallerText
from .readers import Reader, ReaderAnswer, ReaderError, read_memories
from .records import Record, RecordFile, RecordKey


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The parts of an evaluation; `concurrency` cases are measured at the same time."""

    compressors: Compressors
    methods: Sequence[Method]
    reader: Reader | None
    counter: TokenCounter
    record_file: RecordFile
    version: str
    concurrency: int = 1

    def make_key(self, case: Case, method: Method) -> RecordKey:
        """Return the key of a record. CLaRa's own answers do not depend on the reader."""
        reader = "" if self.reader is None or method.name == LATENT else self.reader.name
        return RecordKey(case.name, method.name, method.model, method.ratio, reader, self.version)

    async def run(self, cases: Sequence[Case], on_progress: Callable[[], None]) -> None:
        """Measure everything that is not in the record file yet; `on_progress` is called after each case.

        Raises `ReaderError` if the reader does not work; finished records stay in the file.
        """
        pending = [case for case in cases if any(self._is_missing(case, method) for method in self.methods)]
        for _ in range(len(cases) - len(pending)):
            on_progress()
        if not pending:
            return
        await self._warm_up()
        slots = asyncio.Semaphore(self.concurrency)

        async def measure(case: Case) -> None:
            async with slots:
                await self._measure_case(case)
                on_progress()

        try:
            async with asyncio.TaskGroup() as group:
                for case in pending:
                    group.create_task(measure(case))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    def select_records(self, cases: Sequence[Case]) -> list[Record]:
        """Return the records of these cases, with this reader and version; those of other models, too."""
        names = {case.name for case in cases}
        reader = "" if self.reader is None else self.reader.name
        order = {name: index for index, name in enumerate(self.compressors.names)}
        records = [
            record
            for record in self.record_file.records.values()
            if record.case in names
            and record.version == self.version
            and record.reader == ("" if record.method == LATENT else reader)
        ]
        data_order = {case.data: index for index, case in reversed(list(enumerate(cases)))}
        return sorted(
            records,
            key=lambda record: (
                data_order[record.data],
                order.get(record.method, len(order)),
                record.model,
                record.ratio,
            ),
        )

    def _is_missing(self, case: Case, method: Method) -> bool:
        return self.make_key(case, method) not in self.record_file.records

    async def _warm_up(self) -> None:
        """Load the models, so that no measured time includes it, and check that the reader answers."""
        await self.compressors.load_models(self.methods, self.counter)
        if self.reader is not None:
            answer = await self.reader.answer(*PROBE)
            if answer.error:
                raise ReaderError(f"the reader {self.reader.name} refused a short request: {answer.error}")

    async def _measure_case(self, case: Case) -> None:
        tokens_before = self.counter.count(case.text)
        for method in self.methods:
            if not self._is_missing(case, method):
                continue
            answer: ReaderAnswer | None = None
            if method.name == LATENT:
                smaller, answer = await self._answer_from_memories(case, method)
            else:
                target = self._choose_target(case, method, tokens_before)
                smaller = await self.compressors.compress(method, case, target, self.counter)
                if self.reader is not None:
                    answer = await self.reader.answer(smaller.text, case.question)
            self.record_file.add(self._build_record(case, method, tokens_before, smaller, answer))

    def _choose_target(self, case: Case, method: Method, tokens_before: int) -> int:
        """Return the target of a method; a baseline gets the size that extraction needed at this ratio."""
        if method.name in BASELINES:
            extracted = self.record_file.records.get(self.make_key(case, Method(EXTRACT, method.ratio)))
            if extracted is not None:
                return extracted.tokens
        return tokens_before if method.ratio == NO_RATIO else max(1, int(tokens_before / method.ratio))

    async def _answer_from_memories(self, case: Case, method: Method) -> tuple[SmallerText, ReaderAnswer]:
        clara = self.compressors.clara
        assert clara is not None
        rated, timeout = clara.select_rate(int(method.ratio)), self.compressors.settings.clara_timeout
        answer, memory_tokens = await read_memories(rated, case.document_texts, case.question, timeout)
        return SmallerText("", memory_tokens, 0.0, rated.name), answer

    def _build_record(
        self, case: Case, method: Method, tokens_before: int, smaller: SmallerText, answer: ReaderAnswer | None
    ) -> Record:
        can_keep = method.name != LATENT and case.is_answered_by(case.text)
        prediction = None if answer is None else _first_line(answer.text)
        return Record(
            **self.make_key(case, method)._asdict(),
            data=case.data,
            tokens_before=tokens_before,
            tokens=smaller.tokens,
            kept=case.is_answered_by(smaller.text) if can_keep else None,
            prediction=prediction,
            em=None if prediction is None else max(exact_match(prediction, target) for target in case.answers),
            f1=None if prediction is None else max(f1_score(prediction, target) for target in case.answers),
            compress_seconds=smaller.seconds,
            reader_seconds=0.0 if answer is None else answer.seconds,
            compressor=FULL_TEXT if method.name == FULL_TEXT else smaller.compressor,
            reason=smaller.reason,
            error="" if answer is None else answer.error,
        )


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
