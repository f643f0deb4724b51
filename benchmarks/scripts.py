"""Measures extraction on text of any script: Chinese, Japanese, Khmer, Hindi, Arabic, Russian, ...

    python -m clara_proxy.benchmarks.scripts FOLDER [--questions 40] [--seed 2026]

FOLDER contains one folder per language with plain text files, with blank lines between paragraphs. Questions are
generated: a piece of a random paragraph is the answer, and two nearby words (or a few letters, in scripts without
blanks) in lower case are the question, the second one in another form from the text. The generator does not depend on
how compressors split text. No model is asked. The last line of the output is JSON.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from unicodedata import category

from ..compression import registry
from ..compression.compressor import Task
from ..compression.tokens import get_token_counter
from .retention import METHODS, MODEL, RATIOS

MAX_TEXT_CHARS = 20_000
MIN_PARAGRAPH_CHARS = 120
ANSWER_CHARS = 14
CONTEXT_CHARS = 100  # on each side of the answer, the source of the question
PIECES_PER_QUESTION = 2
MAX_SPACED_RUN = 30  # a longer run of letters belongs to a script without blanks
STEM_LETTERS = 5  # shared by two forms of a word

QuestionCase = tuple[str, str, str]  # text, question, answer


def make_questions(texts: list[str], count: int, rng: Random) -> Iterator[QuestionCase]:
    """Yield questions about random paragraphs; skip ambiguous ones."""
    paragraphs = [(text, part) for text in texts for part in text.split("\n\n") if len(part) >= MIN_PARAGRAPH_CHARS]
    rng.shuffle(paragraphs)
    question_count = 0
    for text, paragraph in paragraphs:
        if question_count == count:
            return
        start = rng.randrange(len(paragraph) - ANSWER_CHARS)
        answer = paragraph[start : start + ANSWER_CHARS].strip()
        pieces = [piece for piece in _sample_pieces(paragraph, start, rng) if piece not in answer]
        if len(answer) > ANSWER_CHARS // 2 and text.count(answer) == 1 and len(pieces) == PIECES_PER_QUESTION:
            question_count += 1
            yield text, " ".join(_inflect_pieces(pieces, text, rng)).lower(), answer


def _sample_pieces(paragraph: str, start: int, rng: Random) -> list[str]:
    """Return random pieces near the answer: words, or a few letters in a script without blanks."""
    context = (
        paragraph[max(0, start - CONTEXT_CHARS) : start] + "\n" + paragraph[start + ANSWER_CHARS :][:CONTEXT_CHARS]
    )
    if max(map(len, context.split()), default=0) > MAX_SPACED_RUN:
        candidates = [
            run[index : index + 4]
            for run in re.findall(r"[^\W\d_]{4,}", context)
            for index in range(0, len(run) - 3, 4)
        ]
    else:
        candidates = [
            word for word in context.split()[1:-1] if len(word) >= STEM_LETTERS and all(map(_is_letter, word))
        ]
    return rng.sample(candidates, PIECES_PER_QUESTION) if len(candidates) >= PIECES_PER_QUESTION else []


def _is_letter(character: str) -> bool:
    return category(character)[0] in "LM"  # in many scripts, vowels are marks on a letter


def _inflect_pieces(pieces: list[str], text: str, rng: Random) -> Iterator[str]:
    for index, piece in enumerate(pieces):
        forms = set(re.findall(rf"\b{re.escape(piece[:STEM_LETTERS])}[^\W\d_]{{0,4}}\b", text)) - {piece}
        yield rng.choice(sorted(forms)) if index % 2 and len(piece) > STEM_LETTERS and forms else piece


def main() -> None:
    """Measure, and print the table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    count = get_token_counter(MODEL).count
    results: list[dict[str, object]] = []
    folders: Path = arguments.folder
    for folder in sorted(path for path in folders.iterdir() if path.is_dir()):
        texts = [path.read_text(encoding="utf-8")[:MAX_TEXT_CHARS] for path in sorted(folder.glob("*.txt"))]
        questions = list(make_questions(texts, arguments.questions, Random(f"{arguments.seed} {folder.name}")))
        survivors: defaultdict[tuple[str, int], int] = defaultdict(int)
        for text, question, answer in questions:
            for method in ("extract", "bm25"):
                for ratio in RATIOS:
                    output, _ = METHODS[method](Task(text, question, count(text) // ratio, count), [answer])
                    survivors[method, ratio] += answer in output
        kinds = {registry.find_compressor(text).name for text, _, _ in questions}
        share = {
            method: [round(survivors[method, ratio] / max(1, len(questions)), 3) for ratio in RATIOS]
            for method in ("extract", "bm25")
        }
        print(f"{folder.name:<6}{len(questions):>4}  extract {share['extract']}  bm25 {share['bm25']}  {sorted(kinds)}")
        results.append({"language": folder.name, "questions": len(questions), **share})
    print(json.dumps({"benchmark": "scripts", "ratios": RATIOS, "results": results}))


if __name__ == "__main__":
    main()
