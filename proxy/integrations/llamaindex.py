"""LlamaIndex: a node postprocessor that compresses retrieved nodes to verbatim pieces.

It needs no running proxy. It returns every node, in order, with its score and metadata and no more tokens than before.
"""

from pydantic import Field

from ...config.extras import describe_install
from ..runtime.in_process import compress_text

try:
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
except ImportError as error:
    raise ImportError(f"LlamaIndex's classes need the extra: {describe_install('llamaindex')}") from error


class ClaraPostprocessor(BaseNodePostprocessor):
    """Compresses the text of each node to the verbatim pieces that matter for the query; gaps are marked.

    `ratio` is the compression ratio. Nodes with fewer than `min_tokens` tokens, counted with the vocabulary of `model`,
    are returned unchanged.
    """

    ratio: float = Field(default=3, ge=1, le=1000)
    min_tokens: int = Field(default=150, ge=1)
    model: str = "gpt-4o"

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the postprocessor in LlamaIndex's serialization."""
        return "ClaraPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        question = query_bundle.query_str if query_bundle is not None else ""
        return [self._compress_node(node, question) for node in nodes]

    def _compress_node(self, scored_node: NodeWithScore, question: str) -> NodeWithScore:
        node = scored_node.node
        if not isinstance(node, TextNode):
            return scored_node
        text = node.get_content(metadata_mode=MetadataMode.NONE)
        result = compress_text(text, question, self.ratio, self.model, self.min_tokens)
        if result is None:
            return scored_node
        return NodeWithScore(node=node.model_copy(update={"text": result.text}), score=scored_node.score)
