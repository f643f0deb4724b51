"""Numbered and tagged documents."""

import pytest

from clara_proxy.compression import registry

from .samples import DOCUMENTS, compress_text

FORMS = {
    "bracket": "[{number}] {title}\n{body}\n",
    "lost in the middle": "Document [{number}](Title: {title}) {body}",
    "named": "Passage {number}: {title}. {body}\n",
    "heading": "### Source {number}\n{body}\n",
    "tag": '<document index="{number}">\n<title>{title}</title>\n{body}\n</document>',
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_and_titles_of_documents_are_kept(form: str) -> None:
    bodies = [line.split(") ", 1)[1] for line in DOCUMENTS.split("\n")]
    titles = [body.split(" ")[0] for body in bodies]
    text = "\n".join(
        FORMS[form].format(number=index, title=title, body=body)
        for index, (title, body) in enumerate(zip(titles, bodies, strict=True), start=1)
    )
    assert registry.find_compressor(text).name == "documents"
    out = compress_text("documents", text, "When was Delph founded?", ratio=4)
    heading = FORMS[form].partition("{body}")[0].format(number=4, title="Delph").strip()
    assert heading in out
    assert out.index(heading) < out.index("It was founded in 1519.")
    assert "1201" not in out
    assert form != "tag" or "</document>" in out[out.index("1519") :]


def test_a_gap_counts_the_documents_left_out() -> None:
    assert "sentences of 3 documents left out" in compress_text(
        "documents", DOCUMENTS, "When was Delph founded?", ratio=4
    )


def test_a_document_named_in_the_best_one_is_kept() -> None:
    filler = "It has a harbour. Its people speak two languages. The old bridge fell in a storm. Nobody rebuilt it."
    text = "\n".join(
        f"Document [{number}](Title: {title}) {body}"
        for number, (title, body) in enumerate(
            (
                ("Aron Pell", f"Aron Pell is a painter. He was born in Quimby. {filler}"),
                ("Belmont", f"Belmont is a town of 300 people. {filler}"),
                ("Carrow", f"Carrow is a town of 400 people. {filler}"),
                ("Quimby", f"Quimby is a town of 500 people. {filler}"),
            ),
            start=1,
        )
    )
    assert "Quimby is a town of 500 people." in compress_text(
        "documents", text, "How many people live in the birthplace of Aron Pell?", 2.5
    )
