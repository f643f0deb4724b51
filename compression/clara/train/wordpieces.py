"""clara-nano's tokenizer: a byte-level BPE whose pieces make copying easy; made from the generator's own text.

Digits stand alone, words keep the space before them, any character that is not a piece becomes its bytes, and the
fixed phrases of CLaRa's prompts are one id each, so that a request costs few positions.
"""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .. import prompts
from . import words
from .fact import Mix, fact, noise
from .facts import episode

SPECIALS = ("<unk>", "<s>", "</s>")
_SPACE = "\u2581"
_WORD = r" ?\d| ?\p{L}+|'s|[^\S\r\n]|\s| ?[^\s\p{L}\d]"


def phrases() -> list[str]:
    """Return the fixed texts around memories and questions, longest first."""
    found = [
        prompts.answer_prompt("").head,
        prompts.answer_prompt("").tail,
        prompts.questions_prompt().head,
        prompts.questions_prompt().tail,
    ]
    for index in range(len(prompts.PARAPHRASE_TEMPLATES)):
        prompt = prompts.paraphrase_prompt(index)
        found.extend((prompt.head, prompt.tail))
    found.append("\n\nQuestion:")
    found.remove(prompts.answer_prompt("").tail)
    return sorted(dict.fromkeys([*found, " [/INST]", "\nAnswer:"]), key=len, reverse=True)


def corpus(seed: int, lines: int) -> Iterator[str]:
    """Yield the text that the pieces are learned from."""
    rng = random.Random(seed)  # noqa: S311 - made-up facts, no secrets
    for _ in range(lines):
        made = episode(rng, Mix(documents=2, questions=2, abstain=0.1))
        yield from made.documents
        for question in made.questions:
            yield question.text
            yield f" {question.answer}"
        yield f" {noise(rng)}"
        yield f" {fact(rng, Mix()).v}"
    for word in words.GENERAL:
        yield f" {word} {word.capitalize()}"


def train(seed: int = 11, lines: int = 12000, size: int = 2600) -> str:
    """Return a `tokenizer.json` of about `size` pieces beside the 256 bytes and the phrases."""
    fixed = phrases()
    pattern = Regex("|".join([re.escape(phrase).replace(r"\ ", " ") for phrase in fixed] + [_WORD]))
    before: Any = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never", split=False),
        ]
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = before
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIALS), initial_alphabet=_alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(seed, lines), trainer)
    learned: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return _finish(learned, fixed, before)


def _finish(learned: dict[str, Any], fixed: list[str], before: Any) -> str:
    pieces = sorted(learned["vocab"], key=learned["vocab"].__getitem__)[len(SPECIALS) :]
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    tokens.extend(phrase.replace(" ", _SPACE) for phrase in fixed)
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(pair) for pair in learned["merges"]]
    model: Any = models.BPE(
        vocabulary, merges, unk_token=SPECIALS[0], fuse_unk=True, byte_fallback=True, ignore_merges=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(  # pyright: ignore[reportUnknownMemberType]
        [AddedToken(name, special=True, normalized=False) for name in SPECIALS]
    )
    return tokenizer.to_str(pretty=True)


def _alphabet() -> list[str]:
    return [_SPACE, *(chr(code) for code in range(33, 127)), *"\n$€£°éèêëáàâäãåæçíîïñóôöõøúûüßščžćłńśżğış"]
