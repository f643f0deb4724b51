"""The published pruners in plain transformers: one row at a time, without padding, windows or batches."""

import string
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

transformers: Any = import_module("transformers")
JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
QUERY = "<Instruct>: Given a query, judge if the document(code) is related to query.\n<Query>: {}\n<Document>: "
ANSWER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


class ProvenceReference(nn.Module):
    """A ranker of transformers with a linear layer on its tokens."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        fields = {name: value for name, value in config.items() if name != "model_type"}
        ranker = transformers.DebertaV2ForSequenceClassification(transformers.DebertaV2Config(**fields))
        self.deberta, self.pooler, self.classifier = ranker.deberta, ranker.pooler, ranker.classifier
        self.token_classifier = nn.Linear(config["hidden_size"], 2)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.deberta(ids)[0]
        return self.token_classifier(hidden).softmax(-1)[0, :, 1], self.classifier(self.pooler(hidden))[0, 0].sigmoid()


class OpenProvenceReference(nn.Module):
    """A ranker of transformers with a linear layer on the output of its last layer."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        fields = {name: value for name, value in config.items() if name != "model_type"}
        self.ranking_model = transformers.ModernBertForSequenceClassification(
            transformers.ModernBertConfig(**fields, num_labels=1)
        )
        self.pruning_head = nn.ModuleDict({"classifier": nn.Linear(config["hidden_size"], 2)})

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        outputs: list[Any] = []

        def record(_module: object, _inputs: object, output: Any) -> None:
            outputs.append(output)

        hook = self.ranking_model.model.layers[-1].register_forward_hook(record)
        logits = self.ranking_model(ids).logits
        hook.remove()
        hidden = outputs[0] if isinstance(outputs[0], Tensor) else outputs[0][0]
        return self.pruning_head["classifier"](hidden).softmax(-1)[0, :, 1], logits[0, 0].sigmoid()


class SwePrunerReference(nn.Module):
    """Qwen3, attention over the concatenation of three layers, and the head of a CRF; names as published."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        backbone = transformers.Qwen3Model(transformers.Qwen3Config(**config))
        width = 3 * config["hidden_size"]
        head, crf = nn.Module(), nn.Module()
        for name, shape in (("transitions", (2, 2)), ("start_transitions", (2,)), ("end_transitions", (2,))):
            crf.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        layers = (nn.LayerNorm(width), nn.Linear(width, 16), nn.GELU(), nn.Dropout(0.4), nn.Linear(16, 2))
        head.add_module("feature_extractor", nn.Sequential(*layers))
        head.add_module("crf", crf)
        model = nn.Module()
        model.add_module("backbone", backbone)
        attention = nn.MultiheadAttention(width, 8, batch_first=True)
        model.add_module("fusion_layers", nn.ModuleList([attention]))
        model.add_module("fusion_norms", nn.ModuleList([nn.LayerNorm(width)]))
        model.add_module("compression_head", head)
        self.model: Any = model

    def forward(self, ids: Tensor, yes: int, no: int) -> tuple[Tensor, Tensor]:
        model = self.model
        outputs = model.backbone(ids, output_hidden_states=True)
        states = outputs.hidden_states
        hidden = torch.cat([states[1], states[2], states[4]], dim=-1)  # a quarter, a half and all of four layers
        hidden = model.fusion_norms[0](model.fusion_layers[0](hidden, hidden, hidden)[0] + hidden)
        emissions = model.compression_head.feature_extractor(hidden)[0]
        logits = model.backbone.embed_tokens.weight @ outputs.last_hidden_state[0, -1]
        answer = torch.log_softmax(torch.stack([logits[no], logits[yes]]), dim=0)[1].exp()
        return torch.sigmoid(emissions[:, 1] - emissions[:, 0]), answer


def load_reference(network: nn.Module, folder: Path) -> nn.Module:
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return network.eval()


def load_tokenizer(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def normalize(question: str) -> str:
    words = "".join(character for character in question.lower() if character not in string.punctuation)
    return " ".join(words.split())
