"""An index of the chunks of one vector store in memory: BM25 over their terms, and the similarity of their vectors.

The statistics are those of the store. New chunks become a segment of their own, and segments of similar size are
merged, so a store that grows is not read again. 100,000 chunks of 50 terms take 50 MB.
"""

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TERM_SATURATION, LENGTH_SHARE = 1.2, 0.75  # k1 and b of BM25
_BLOCK_ROWS = 2048  # vectors converted to float at once
_MAX_COUNT = 255
_CACHED_TERMS = 100_000
FileFilter = Callable[[str], bool]


class IndexRow(NamedTuple):
    """A chunk as its store keeps it: `vector` is int8, `postings` as `encode_postings` returns them."""

    id: int
    file_id: str
    vector: bytes
    postings: bytes


@lru_cache(_CACHED_TERMS)
def _hash_term(term: str) -> int:
    return zlib.crc32(term.encode("utf-8", "surrogatepass"))


def encode_postings(terms: Iterable[str]) -> bytes:
    """Return the terms of a chunk as records of five bytes: a hash (little-endian), and how often the term occurs."""
    counts = Counter(map(_hash_term, terms))
    return b"".join(term.to_bytes(4, "little") + bytes((min(count, _MAX_COUNT),)) for term, count in counts.items())


@dataclass(frozen=True, slots=True)
class _Segment:
    """Chunks in the order of their ids. A posting is `row << 8 | count`; those of `terms[i]` begin at `offsets[i]`."""

    ids: "NDArray[np.int64]"  # (rows)
    files: "NDArray[np.int32]"  # (rows), indexes of `file_ids`
    file_ids: tuple[str, ...]
    vectors: "NDArray[np.int8]"  # (rows, dimensions)
    lengths: "NDArray[np.float32]"  # (rows), in terms
    terms: "NDArray[np.uint32]"  # (terms), ascending
    offsets: "NDArray[np.int64]"  # (terms + 1)
    postings: "NDArray[np.uint32]"

    @property
    def size_bytes(self) -> int:
        arrays = (self.ids, self.files, self.vectors, self.lengths, self.terms, self.offsets, self.postings)
        return sum(array.nbytes for array in arrays) + 100 * len(self.file_ids)

    def find_postings(self, term: int) -> "NDArray[np.uint32]":
        position = int(self.terms.searchsorted(term))
        if position == len(self.terms) or self.terms[position] != term:
            return self.postings[:0]
        return self.postings[self.offsets[position] : self.offsets[position + 1]]

    def score_vectors(self, query: "NDArray[np.float32]") -> "NDArray[np.float32]":
        import numpy as np  # noqa: PLC0415 - slow to import, and not needed without memory

        # Unlike a matrix product, `einsum` starts no threads: those of OpenBLAS wait busily, for 20 times the work.
        blocks = (self.vectors[start : start + _BLOCK_ROWS] for start in range(0, len(self.ids), _BLOCK_ROWS))
        return np.concatenate([np.einsum("ij,j->i", block.astype(np.float32), query) for block in blocks])

    def select_rows(self, accepts: FileFilter) -> "NDArray[np.bool_]":
        import numpy as np  # noqa: PLC0415

        return np.fromiter(map(accepts, self.file_ids), np.bool_, len(self.file_ids))[self.files]


@dataclass(frozen=True, slots=True)
class PassageIndex:
    """The chunks of a store at one revision. It never changes; `extend` returns another one."""

    segments: tuple[_Segment, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Return the size of the arrays."""
        return sum(segment.size_bytes for segment in self.segments)

    @property
    def last_id(self) -> int:
        """Return the largest id of a chunk, or -1 without chunks."""
        return int(self.segments[-1].ids[-1]) if self.segments else -1

    def extend(self, rows: Sequence[IndexRow]) -> "PassageIndex":
        """Return the index with more chunks, ascending by id, all of them above `last_id`."""
        if not rows:
            return self
        segments, last = list(self.segments), _build_segment(rows)
        while segments and len(segments[-1].ids) <= 2 * len(last.ids):
            last = _merge_segments(segments.pop(), last)
        return PassageIndex((*segments, last))

    def rank_by_words(
        self,
        weights: Mapping[str, float],
        limit: int,
        accepts: FileFilter | None = None,
        min_share: float = 0.0,
    ) -> list[int]:
        """Return the ids of the chunks with the best BM25 scores, best first.

        Args:
            weights: the terms of the question with their weights
            limit: the largest number of chunks
            accepts: a condition on the files of the chunks
            min_share: the least score, as a share of the rarity of all terms; a word of nearly every chunk has hardly
                any
        """
        import numpy as np  # noqa: PLC0415

        if not self.segments:
            return []
        count = sum(len(segment.ids) for segment in self.segments)
        average = max(1.0, sum(float(segment.lengths.sum()) for segment in self.segments) / count)
        scores = [np.zeros(len(segment.ids), np.float32) for segment in self.segments]
        norms = [
            TERM_SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE / average * segment.lengths) for segment in self.segments
        ]
        total_rarity = 0.0
        for term, weight in weights.items():
            found = [segment.find_postings(_hash_term(term)) for segment in self.segments]
            frequency = sum(map(len, found))
            rarity = weight * np.log1p((count - frequency + 0.5) / (frequency + 0.5))
            total_rarity += rarity
            for postings, norm, score in zip(found, norms, scores, strict=True):
                rows, counts = postings >> 8, (postings & _MAX_COUNT).astype(np.float32)
                score[rows] += np.float32(rarity * (TERM_SATURATION + 1)) * counts / (counts + norm[rows])
        return self._select_best(scores, limit, accepts, min_share * total_rarity)

    def rank_by_vector(self, query: "NDArray[np.int8]", limit: int, accepts: FileFilter | None = None) -> list[int]:
        """Return the ids of the chunks nearest to a vector (dimensions), nearest first, as `rank_by_words` does."""
        import numpy as np  # noqa: PLC0415

        if not query.any():
            return []
        vector = query.astype(np.float32)
        return self._select_best([segment.score_vectors(vector) for segment in self.segments], limit, accepts)

    def _select_best(
        self,
        scores: "Sequence[NDArray[np.float32]]",
        limit: int,
        accepts: FileFilter | None,
        least: float = 0.0,
    ) -> list[int]:
        """Return the ids of the best scores above `least`, best first; the older chunk comes first among equals."""
        import numpy as np  # noqa: PLC0415

        if not scores:
            return []
        ids, values = np.concatenate([segment.ids for segment in self.segments]), np.concatenate(scores)
        if accepts is not None:
            values = np.where(np.concatenate([segment.select_rows(accepts) for segment in self.segments]), values, 0)
        count = min(limit, len(values))
        best = np.argpartition(-values, count - 1)[:count]
        best = best[values[best] > least]
        return [int(chunk_id) for chunk_id in ids[best[np.lexsort((ids[best], -values[best]))]]]


def _build_segment(rows: Sequence[IndexRow]) -> _Segment:
    import numpy as np  # noqa: PLC0415

    file_codes: dict[str, int] = {}
    files = np.fromiter((file_codes.setdefault(row.file_id, len(file_codes)) for row in rows), np.int32, len(rows))
    record = np.dtype([("term", "<u4"), ("count", "u1")])
    records = np.frombuffer(b"".join([row.postings for row in rows]), record)
    sizes = np.fromiter((len(row.postings) // record.itemsize for row in rows), np.int64, len(rows))
    owners = np.repeat(np.arange(len(rows), dtype=np.uint64), sizes)
    keys = (records["term"].astype(np.uint64) << np.uint64(32)) | (owners << np.uint64(8)) | records["count"]
    vectors = np.frombuffer(b"".join([row.vector for row in rows]), np.int8).reshape(len(rows), -1)
    return _Segment(
        np.fromiter((row.id for row in rows), np.int64, len(rows)),
        files,
        tuple(file_codes),
        vectors,
        np.bincount(owners.astype(np.int64), records["count"], len(rows)).astype(np.float32),
        *_group_postings(keys),
    )


def _merge_segments(first: _Segment, second: _Segment) -> _Segment:
    """Return one segment with the chunks of both, those of `first` before."""
    import numpy as np  # noqa: PLC0415

    file_codes = {file_id: code for code, file_id in enumerate(first.file_ids)}
    codes = [file_codes.setdefault(file_id, len(file_codes)) for file_id in second.file_ids]
    keys = [_join_postings(first, 0), _join_postings(second, len(first.ids))]
    return _Segment(
        np.concatenate([first.ids, second.ids]),
        np.concatenate([first.files, np.asarray(codes, np.int32)[second.files]]),
        tuple(file_codes),
        np.concatenate([first.vectors, second.vectors]),
        np.concatenate([first.lengths, second.lengths]),
        *_group_postings(np.concatenate(keys)),
    )


def _join_postings(segment: _Segment, first_row: int) -> "NDArray[np.uint64]":
    """Return `term << 32 | posting` of all postings, with rows that begin at `first_row`."""
    import numpy as np  # noqa: PLC0415

    terms = np.repeat(segment.terms.astype(np.uint64), np.diff(segment.offsets))
    return (terms << np.uint64(32)) | (segment.postings.astype(np.uint64) + np.uint64(first_row << 8))


def _group_postings(
    keys: "NDArray[np.uint64]",
) -> "tuple[NDArray[np.uint32], NDArray[np.int64], NDArray[np.uint32]]":
    """Return terms, offsets and postings of keys `term << 32 | posting`."""
    import numpy as np  # noqa: PLC0415

    keys.sort()
    hashes = (keys >> np.uint64(32)).astype(np.uint32)
    starts = np.flatnonzero(np.diff(hashes, prepend=np.uint32(0)))
    if len(keys) and hashes[0] == 0:
        starts = np.concatenate([[0], starts])
    return hashes[starts], np.append(starts, len(keys)), keys.astype(np.uint32)
