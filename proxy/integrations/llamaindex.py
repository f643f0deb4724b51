"""LlamaIndex: a node postprocessor that keeps verbatim pieces of what was retrieved.

It needs no running proxy, ranks nothing and drops nothing: as many nodes come back as went in, in their order, each
with its score and metadata, and none with more tokens than it had.
"""

from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from pydantic import Field

from ..runtime.in_process import compress_text


class ClaraPostprocessor(BaseNodePostprocessor):
    """Shortens the text of each node to the parts that the query is about; gaps are marked.

    `ratio` is how many times smaller; nodes of less than `min_tokens` tokens, counted as `model` does, stay whole.
    """

    ratio: float = Field(default=3, ge=1, le=1000)
    min_tokens: int = Field(default=150, ge=1)
    model: str = "gpt-4o"

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex saves this under."""
        return "ClaraPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        question = query_bundle.query_str if query_bundle is not None else ""
        return [self._shorten_node(node, question) for node in nodes]

    def _shorten_node(self, scored: NodeWithScore, question: str) -> NodeWithScore:
        node = scored.node
        if not isinstance(node, TextNode):
            return scored
        text = node.get_content(metadata_mode=MetadataMode.NONE)
        found = compress_text(text, question, self.ratio, self.model, self.min_tokens)
        if found is None:
            return scored
        return NodeWithScore(node=node.model_copy(update={"text": found.text}), score=scored.score)
