"""The real llama-index-core: its postprocessor interface."""

from llama_index.core.schema import ImageNode, NodeWithScore, TextNode

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.integrations.llamaindex import ClaraPostprocessor
from clara_proxy.tests.running import LOG_TEXT

TEXT = f"{LOG_TEXT}\n2024-01-01 ERROR disk full on /dev/sda1"
count = get_token_counter("gpt-4o").count


def nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=TEXT, id_="a", metadata={"source": "log"}), score=0.9),
        NodeWithScore(node=TextNode(text="It rained.", id_="b"), score=0.5),
        NodeWithScore(node=ImageNode(image_url="http://127.0.0.1/cat.png", id_="c"), score=0.1),
    ]


def test_nodes_come_back_shorter_with_what_the_query_is_about() -> None:
    before = nodes()
    after = ClaraPostprocessor().postprocess_nodes(before, query_str="why is the disk full?")
    assert [(one.node.node_id, one.score) for one in after] == [("a", 0.9), ("b", 0.5), ("c", 0.1)]
    assert "ERROR disk full on /dev/sda1" in after[0].node.get_content()
    assert count(after[0].node.get_content()) * 2 < count(TEXT)
    assert after[0].node.metadata == {"source": "log"}
    assert after[1] is before[1]
    assert before[0].node.get_content() == TEXT


async def test_asynchronously_and_without_a_query() -> None:
    (long, *_) = await ClaraPostprocessor(ratio=10).apostprocess_nodes(nodes())
    assert count(long.node.get_content()) * 5 < count(TEXT)


def test_it_is_saved_and_made_again_under_its_name() -> None:
    saved = ClaraPostprocessor(ratio=7).to_dict()
    assert saved["class_name"] == "ClaraPostprocessor"
    assert ClaraPostprocessor.from_dict(saved).ratio == 7
