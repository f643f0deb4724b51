"""The LlamaIndex postprocessor with llama-index-core."""

from llama_index.core.schema import ImageNode, NodeWithScore, TextNode

from clara_proxy.compression.tokens import get_token_counter
from clara_proxy.proxy.integrations.llamaindex import ClaraPostprocessor
from clara_proxy.tests.running import LOG_TEXT

TEXT = f"{LOG_TEXT}\n2024-01-01 ERROR disk full on /dev/sda1"
count = get_token_counter("gpt-4o").count


def build_nodes() -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(text=TEXT, id_="a", metadata={"source": "log"}), score=0.9),
        NodeWithScore(node=TextNode(text="It rained.", id_="b"), score=0.5),
        NodeWithScore(node=ImageNode(image_url="http://127.0.0.1/cat.png", id_="c"), score=0.1),
    ]


def test_nodes_are_compressed_for_the_query() -> None:
    before = build_nodes()
    after = ClaraPostprocessor().postprocess_nodes(before, query_str="why is the disk full?")
    assert [(result.node.node_id, result.score) for result in after] == [("a", 0.9), ("b", 0.5), ("c", 0.1)]
    assert "ERROR disk full on /dev/sda1" in after[0].node.get_content()
    assert count(after[0].node.get_content()) * 2 < count(TEXT)
    assert after[0].node.metadata == {"source": "log"}
    assert after[1] is before[1]
    assert before[0].node.get_content() == TEXT


async def test_postprocessor_works_asynchronously_without_a_query() -> None:
    (long, *_) = await ClaraPostprocessor(ratio=10).apostprocess_nodes(build_nodes())
    assert count(long.node.get_content()) * 5 < count(TEXT)


def test_postprocessor_can_be_serialized() -> None:
    saved = ClaraPostprocessor(ratio=7).to_dict()
    assert saved["class_name"] == "ClaraPostprocessor"
    assert ClaraPostprocessor.from_dict(saved).ratio == 7
