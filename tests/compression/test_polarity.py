"""A model's sentence that turns its source around is dropped, whatever form the negation has."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.grounding import drop_unsupported
from clara_proxy.compression.polarity import find_contradicted

# Pairs of an affirmed and a denied form, by the kind of negation; {v} is a verb, {o} an object, {s} a subject.
KINDS: dict[str, tuple[list[str], list[str]]] = {
    "order": (["{V} the {o}.", "You must {v} the {o}."], ["Do not {v} the {o}.", "Don't {v} the {o}."]),
    "never": (["Always {v} the {o}."], ["Never {v} the {o}.", "The {o} must never be {p}."]),
    "auxiliary": (["The {s} {p} the {o}."], ["The {s} did not {v} the {o}.", "The {s} didn\u2019t {v} the {o}."]),
    "cannot": (["The {s} can {v} the {o}."], ["The {s} cannot {v} the {o}.", "The {s} is unable to {v} the {o}."]),
    "attempt": (["The {s} {p} the {o}."], ["The {s} failed to {v} the {o}.", "The {s} refused to {v} the {o}."]),
    "permission": (
        ["The {s} may {v} the {o}."],
        ["The {s} is forbidden to {v} the {o}.", "The {s} must not {v} the {o}."],
    ),
    "nobody": (["The {s} {p} the {o}."], ["No {s} {p} the {o}.", "Neither {s} {p} the {o}."]),
    "without": (["The {s} runs with the {o}."], ["The {s} runs without the {o}."]),
    "no longer": (["The {s} still uses the {o}."], ["The {s} no longer uses the {o}."]),
    "prefix": (["The {o} is stable."], ["The {o} is unstable.", "The {o} is not stable."]),
    "opposite": (["The {o} is enabled."], ["The {o} is disabled.", "The {o} is not enabled."]),
}
VERBS = [("delete", "deleted"), ("restart", "restarted"), ("replace", "replaced"), ("compress", "compressed")]
OBJECTS = ["production database", "backup folder", "message queue", "primary index"]
SUBJECTS = ["scheduler", "operator", "worker", "gateway"]
NEIGHBOURS = ["The sky was grey.", "Nobody saw the heron.", "A meeting was not held on Monday.", "See the manual."]


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, str, str, str]:
    """Return two forms of the same polarity, one of the other, and a text around them with a place for one."""
    affirmed, denied = KINDS[draw(st.sampled_from(sorted(KINDS)))]
    first, second = (affirmed, denied) if draw(st.booleans()) else (denied, affirmed)
    verb, past = draw(st.sampled_from(VERBS))
    words = {"v": verb, "V": verb.capitalize(), "p": past}
    words |= {"o": draw(st.sampled_from(OBJECTS)), "s": draw(st.sampled_from(SUBJECTS))}
    same, other = draw(st.sampled_from(first)), draw(st.sampled_from(second))
    before, after = (" ".join(draw(st.lists(st.sampled_from(NEIGHBOURS), max_size=2))) for _ in range(2))
    again = draw(st.sampled_from(first))
    same, again, other = (form.format(**words) for form in (same, again, other))
    return same, again, other, f"{before} {{}} {after}"


@settings(max_examples=60)
@given(cases())
def test_sentence_of_the_other_polarity_is_dropped(case: tuple[str, str, str, str]) -> None:
    same, again, other, frame = case
    assert drop_unsupported(other, frame.format(same)) == ""
    assert drop_unsupported(again, frame.format(same)) == again
    assert drop_unsupported(other, frame.format(f"{same} {other}")) == other  # the source says both
    assert drop_unsupported(f"The sky was grey. {other}", frame.format(f"{same} The sky was grey.")).endswith("grey.")


SOURCE = """Do not delete the production database. You may delete the staging database.
The disk, not the network, caused the outage. The deploy did not fail because of the network; it failed because of the
disk. No tests failed. Is the bridge safe? No. Deleting logs is forbidden. It was not until 1987 that the museum opened.
Do not:
- share the key
- restart the worker
Always:
- rotate the key
Not only the mill but also the tower was rebuilt. TLS is not supported on port 80.
\u8bf7\u52ff\u5220\u9664\u65e5\u5fd7\u6587\u4ef6\u3002
Der Server startet nicht. La base ne doit pas rester ouverte."""
TURNED = [
    "Delete the production database.",
    "Answer: delete the production database now.",
    "Do not delete the staging database.",
    "The network caused the outage.",
    "It failed because of the network.",
    "The tests failed.",
    "The bridge is safe.",
    "Deleting logs is allowed.",
    "The museum did not open in 1987.",
    "Share the key.",
    "Restart the worker.",
    "Never rotate the key.",
    "The tower was not rebuilt.",
    "TLS is supported on port 80.",
    "\u5220\u9664\u65e5\u5fd7\u6587\u4ef6\u3002",
    "Der Server startet.",
    "La base doit rester ouverte.",
]
KEPT = [
    "Never delete the production database.",
    "You may delete the staging database.",
    "The disk caused the outage.",
    "It failed because of the disk.",
    "All tests passed.",
    "The bridge is not safe.",
    "Deleting logs is not allowed.",
    "The museum opened in 1987.",
    "Don't share the key.",
    "Rotate the key.",
    "The tower was rebuilt.",
    "TLS is unsupported on port 80.",
    "Der Server startet nicht.",
    "1987",
    "Nothing of this is about ferries.",
]


@pytest.mark.parametrize("text", TURNED)
def test_turned_sentence_is_contradicted(text: str) -> None:
    assert find_contradicted([text], SOURCE) == [True]


@pytest.mark.parametrize("text", KEPT)
def test_sentence_that_agrees_is_kept(text: str) -> None:
    assert find_contradicted([text], SOURCE) == [False]


def test_sentences_of_the_source_agree_with_it() -> None:
    sentences = SOURCE.splitlines()[0].split(". ")
    assert find_contradicted(sentences, SOURCE) == [False] * len(sentences)
