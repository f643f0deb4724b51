"""Whether text of any script is searched as well as English: Chinese, Japanese, Khmer, Hindi, Arabic, Russian, ...

    python -m clara_proxy.benchmarks.scripts FOLDER [--questions 40] [--seed 2026]

FOLDER holds one folder a language with plain text files, paragraphs apart by a blank line; none are kept here.
Questions are made mechanically: a piece of a random paragraph is the answer, and two words (or scraps, where words are
not set apart) of what stands near it are the question, in small letters, the second in another form that the text has
of it. Nothing here knows how the compressors cut text. Asks no model. Ends with one line of JSON.
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

MAX_TEXT_CHARS = 20_000  # characters of a text
MIN_PARAGRAPH_CHARS = 120  # characters of a paragraph that is asked about
ANSWER_CHARS = 14  # characters
CONTEXT_CHARS = 100  # characters on each side of the answer that a question is made of
PIECES_PER_QUESTION = 2
MAX_SPACED_RUN = 30  # letters without a blank between: then words are not set apart by blanks
STEM_LETTERS = 5  # letters that two forms of a word have in common

QuestionCase = tuple[str, str, str]  # text, question, answer


def make_questions(texts: list[str], many: int, chance: Random) -> Iterator[QuestionCase]:
    """Make questions on paragraphs at random; what cannot be asked clearly is passed over."""
    paragraphs = [(text, one) for text in texts for one in text.split("\n\n") if len(one) >= MIN_PARAGRAPH_CHARS]
    chance.shuffle(paragraphs)
    made = 0
    for text, paragraph in paragraphs:
        if made == many:
            return
        start = chance.randrange(len(paragraph) - ANSWER_CHARS)
        answer = paragraph[start : start + ANSWER_CHARS].strip()
        pieces = [piece for piece in _sample_pieces(paragraph, start, chance) if piece not in answer]
        if len(answer) > ANSWER_CHARS // 2 and text.count(answer) == 1 and len(pieces) == PIECES_PER_QUESTION:
            made += 1
            yield text, " ".join(_inflect_pieces(pieces, text, chance)).lower(), answer


def _sample_pieces(paragraph: str, start: int, chance: Random) -> list[str]:
    """Draw pieces near the answer, and none of it: words, or a few letters where words are not set apart."""
    near = paragraph[max(0, start - CONTEXT_CHARS) : start] + "\n" + paragraph[start + ANSWER_CHARS :][:CONTEXT_CHARS]
    if max(map(len, near.split()), default=0) > MAX_SPACED_RUN:
        whole = [run[at : at + 4] for run in re.findall(r"[^\W\d_]{4,}", near) for at in range(0, len(run) - 3, 4)]
    else:
        whole = [word for word in near.split()[1:-1] if len(word) >= STEM_LETTERS and all(map(_is_letter, word))]
    return chance.sample(whole, PIECES_PER_QUESTION) if len(whole) >= PIECES_PER_QUESTION else []


def _is_letter(character: str) -> bool:
    return category(character)[0] in "LM"  # vowels of many scripts are marks on a letter


def _inflect_pieces(pieces: list[str], text: str, chance: Random) -> Iterator[str]:
    for at, piece in enumerate(pieces):
        forms = set(re.findall(rf"\b{re.escape(piece[:STEM_LETTERS])}[^\W\d_]{{0,4}}\b", text)) - {piece}
        yield chance.choice(sorted(forms)) if at % 2 and len(piece) > STEM_LETTERS and forms else piece


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--seed", type=int, default=2026)
    asked = parser.parse_args()
    count = get_token_counter(MODEL).count
    results: list[dict[str, object]] = []
    folders: Path = asked.folder
    for folder in sorted(one for one in folders.iterdir() if one.is_dir()):
        texts = [path.read_text(encoding="utf-8")[:MAX_TEXT_CHARS] for path in sorted(folder.glob("*.txt"))]
        made = list(make_questions(texts, asked.questions, Random(f"{asked.seed} {folder.name}")))
        alive: defaultdict[tuple[str, int], int] = defaultdict(int)
        for text, question, answer in made:
            for method in ("extract", "bm25"):
                for ratio in RATIOS:
                    output, _ = METHODS[method](Task(text, question, count(text) // ratio, count), [answer])
                    alive[method, ratio] += answer in output
        kinds = {registry.find_compressor(text).name for text, _, _ in made}
        share = {
            method: [round(alive[method, ratio] / max(1, len(made)), 3) for ratio in RATIOS]
            for method in ("extract", "bm25")
        }
        print(f"{folder.name:<6}{len(made):>4}  extract {share['extract']}  bm25 {share['bm25']}  {sorted(kinds)}")
        results.append({"language": folder.name, "questions": len(made), **share})
    print(json.dumps({"benchmark": "scripts", "ratios": RATIOS, "results": results}))


if __name__ == "__main__":
    main()
