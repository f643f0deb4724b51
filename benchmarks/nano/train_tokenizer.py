"""Trains clara-nano's tokenizer: a byte-level BPE on synthetic text, designed for easy copying.

Every digit is a token, a word keeps the space before it, and any other character becomes its bytes. Each fixed phrase
of CLaRa's prompts is one token, so a request takes few positions.
"""

import json
import random
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ...compression.clara import prompts
from .synthetic import word_lists
from .synthetic.episodes import make_episode
from .synthetic.facts import EpisodeSpec, make_fact, make_noise

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
_SPACE = "\u2581"
_WORD = r" ?\d| ?\p{L}+|'s|[^\S\r\n]|\s| ?[^\s\p{L}\d]"


def prompt_phrases() -> list[str]:
    """Return the fixed texts of the prompts, longest first."""
    answer, questions = prompts.answer_prompt(""), prompts.questions_prompt()
    phrases = [answer.head, questions.head, questions.tail]
    for index in range(len(prompts.PARAPHRASE_TEMPLATES)):
        prompt = prompts.paraphrase_prompt(index)
        phrases.extend((prompt.head, prompt.tail))
    phrases.append("\n\nQuestion:")
    return sorted(dict.fromkeys([*phrases, " [/INST]", "\nAnswer:"]), key=len, reverse=True)


def make_corpus(seed: int, lines: int) -> Iterator[str]:
    """Yield the training text."""
    rng = random.Random(seed)
    for _ in range(lines):
        episode = make_episode(rng, EpisodeSpec(documents=2, questions=2, unanswerable=0.1))
        yield from episode.documents
        for question in episode.questions:
            yield question.text
            yield f" {question.answer}"
        yield f" {make_noise(rng)}"
        yield f" {make_fact(rng, EpisodeSpec()).value}"
    for word in word_lists.GENERAL:
        yield f" {word} {word.capitalize()}"


def train_tokenizer(seed: int = 11, lines: int = 12000, size: int = 2600) -> str:
    """Return a `tokenizer.json` of about `size` tokens besides the 256 bytes and the phrases."""
    phrases = prompt_phrases()
    pattern = Regex("|".join([re.escape(phrase).replace(r"\ ", " ") for phrase in phrases] + [_WORD]))
    pre_tokenizer: Any = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, behavior="isolated"),
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="never", split=False),
        ]
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=_alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(make_corpus(seed, lines), trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return _add_bytes_and_phrases(model, phrases, pre_tokenizer)


def _add_bytes_and_phrases(trained: dict[str, Any], phrases: list[str], pre_tokenizer: Any) -> str:
    pieces = sorted(trained["vocab"], key=trained["vocab"].__getitem__)[len(SPECIAL_TOKENS) :]
    tokens = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    tokens.extend(phrase.replace(" ", _SPACE) for phrase in phrases)
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(pair) for pair in trained["merges"]]
    model: Any = models.BPE(
        vocabulary, merges, unk_token=SPECIAL_TOKENS[0], fuse_unk=True, byte_fallback=True, ignore_merges=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(  # pyright: ignore[reportUnknownMemberType]
        [AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS]
    )
    return tokenizer.to_str(pretty=True)


def _alphabet() -> list[str]:
    return [_SPACE, *(chr(code) for code in range(33, 127)), *"\n$€£°éèêëáàâäãåæçíîïñóôöõøúûüßščžćłńśżğış"]
