"""The pruners' networks: an encoder of transformers with the published heads.

Each takes ids and an attention mask of shape [batch, tokens], and returns the probability of keeping every token,
[batch, tokens] in float32, and the relevance of every row, [batch] between 0 and 1, or None.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from ..models.errors import CheckpointError
from .families import PrunerSpec

Scores = tuple[Tensor, Tensor | None]
_QWEN3_ROPE_THETA, _QWEN3_EPSILON = 1_000_000.0, 1e-6  # of all published Qwen3 models


class TokenClassifier(nn.Module):
    """Any token classifier with two labels, LLMLingua-2 among them."""

    def __init__(self, model: nn.Module, keep_label: int) -> None:
        super().__init__()
        self.model, self._keep_label = model, keep_label

    def forward(self, ids: Tensor, mask: Tensor) -> Scores:
        """Return the probability of the label `keep`."""
        logits = self.model(input_ids=ids, attention_mask=mask).logits
        return torch.softmax(logits.float(), dim=-1)[..., self._keep_label], None


class Provence(nn.Module):
    """DeBERTa with a pooled ranking head (`classifier`) and a head per token (`token_classifier`)."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        transformers: Any = import_module("transformers")
        pooling: Any = import_module("transformers.models.deberta_v2.modeling_deberta_v2")
        fields = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
        shape = transformers.DebertaV2Config(**fields)
        self.deberta = transformers.DebertaV2Model(shape)
        self.pooler = pooling.ContextPooler(shape)
        self.classifier = nn.Linear(self.pooler.output_dim, shape.num_labels)
        self.token_classifier = nn.Linear(shape.hidden_size, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Scores:
        """Return the probability of keeping each token, and the relevance of the row."""
        hidden = self.deberta(input_ids=ids, attention_mask=mask).last_hidden_state
        relevance = self.classifier(self.pooler(hidden))[:, 0]
        keep = torch.softmax(self.token_classifier(hidden).float(), dim=-1)[..., 1]
        return keep, torch.sigmoid(relevance.float())


class OpenProvence(nn.Module):
    """A sequence classifier that ranks (`ranking_model`), and a head per token (`pruning_head.classifier`).

    The head is trained on the output of the last layer. ModernBERT normalizes that output once more; the head reads it
    before, whichever of the two a version of transformers calls the last hidden state.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        transformers: Any = import_module("transformers")
        fields = dict(config.get("base_model_config") or {})
        model_type = fields.pop("model_type", None)
        if model_type is None:
            raise CheckpointError("config.json has no base_model_config with a model_type")
        shape = transformers.AutoConfig.for_model(model_type, **fields)
        shape.num_labels = int(config.get("num_labels") or 1)
        self.ranking_model = transformers.AutoModelForSequenceClassification.from_config(
            shape, attn_implementation="sdpa"
        )
        head = dict(config.get("pruning_config") or {})
        classifier = nn.Linear(
            int(head.get("hidden_size") or shape.hidden_size), int(config.get("num_pruning_labels") or 2)
        )
        self.pruning_head = nn.ModuleDict({"classifier": classifier})
        encoder = self.ranking_model.base_model
        self._encoder_output: Tensor | None = None
        final_norm = getattr(encoder, "final_norm", None)
        if isinstance(final_norm, nn.Module):
            final_norm.register_forward_pre_hook(self._record_input)
        else:
            encoder.register_forward_hook(self._record_output)

    def _record_input(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._encoder_output = inputs[0]

    def _record_output(self, _module: nn.Module, _inputs: object, output: Any) -> None:
        self._encoder_output = output[0]

    def forward(self, ids: Tensor, mask: Tensor) -> Scores:
        """Return the probability of keeping each token, and the relevance of the row."""
        logits = self.ranking_model(input_ids=ids, attention_mask=mask).logits
        hidden, self._encoder_output = self._encoder_output, None
        assert hidden is not None
        keep = torch.softmax(self.pruning_head["classifier"](hidden).float(), dim=-1)[..., 1]
        return keep, torch.sigmoid(logits[:, 0].float())


class SwePruner(nn.Module):
    """Qwen3 with attention over three of its layers, and an emission per token of a linear-chain CRF.

    The published code prunes by the emissions alone; the transitions of the CRF serve training.
    """

    def __init__(self, config: Mapping[str, Any], shapes: Mapping[str, torch.Size], yes_no: tuple[int, int]) -> None:
        super().__init__()
        transformers: Any = import_module("transformers")
        if config.get("compression_head_type") != "crf" or not config.get("use_multi_layer_fusion"):
            raise CheckpointError("config.json: only the head `crf` with use_multi_layer_fusion is supported")
        shape = _read_qwen3_shape(transformers, config, shapes)
        self.backbone = transformers.Qwen3Model(shape)
        layers = int(shape.num_hidden_layers)
        self._indices = [max(1, int(layers * float(config[f"{name}_layer_ratio"]))) for name in ("early", "middle")]
        width, bottleneck = 3 * int(shape.hidden_size), int(config["bottleneck"])
        fusions = range(int(config["num_fusion_layers"]))
        heads = int(config["num_heads"])
        self.fusion_layers = nn.ModuleList([nn.MultiheadAttention(width, heads, batch_first=True) for _ in fusions])
        self.fusion_norms = nn.ModuleList([nn.LayerNorm(width) for _ in fusions])
        steps = (nn.LayerNorm(width), nn.Linear(width, bottleneck), nn.GELU(), nn.Identity(), nn.Linear(bottleneck, 2))
        self.compression_head = nn.ModuleDict({"feature_extractor": nn.Sequential(*steps)})
        self._yes_no = yes_no
        self._recorded: dict[int, Tensor] = {}
        for index in set(self._indices):
            self.backbone.layers[index - 1].register_forward_hook(self._make_recorder(index))

    def _make_recorder(self, index: int) -> Any:
        def record(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            self._recorded[index] = output if isinstance(output, Tensor) else output[0]

        return record

    def forward(self, ids: Tensor, mask: Tensor) -> Scores:
        """Return the probability of keeping each token, and that of answering `yes` to the prompt."""
        final = self.backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        hidden = torch.cat([*(self._recorded[index] for index in self._indices), final], dim=-1).float()
        self._recorded.clear()
        padding = mask == 0
        for attention, norm in zip(self.fusion_layers, self.fusion_norms, strict=True):
            mixed, _ = attention(hidden, hidden, hidden, key_padding_mask=padding, need_weights=False)
            hidden = norm(mixed + hidden)
        emissions = self.compression_head["feature_extractor"](hidden)
        last = final[torch.arange(len(ids), device=ids.device), mask.sum(dim=1) - 1].float()
        weights = self.backbone.embed_tokens.weight[list(self._yes_no)].float()
        yes = torch.softmax(last @ weights.T, dim=-1)[:, 0]
        return torch.sigmoid(emissions[..., 1] - emissions[..., 0]), yes


def _read_qwen3_shape(transformers: Any, config: Mapping[str, Any], shapes: Mapping[str, torch.Size]) -> Any:
    """Return the backbone's configuration, from `backbone_config` or, failing that, from the shapes of the weights."""
    if isinstance(config.get("backbone_config"), dict):
        return transformers.Qwen3Config(**config["backbone_config"])
    try:
        head_size = shapes["backbone.layers.0.self_attn.q_norm.weight"][0]
        vocabulary, hidden = shapes["backbone.embed_tokens.weight"]
        return transformers.Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=hidden,
            head_dim=head_size,
            intermediate_size=shapes["backbone.layers.0.mlp.gate_proj.weight"][0],
            num_hidden_layers=len([name for name in shapes if name.endswith(".self_attn.q_norm.weight")]),
            num_attention_heads=shapes["backbone.layers.0.self_attn.q_proj.weight"][0] // head_size,
            num_key_value_heads=shapes["backbone.layers.0.self_attn.k_proj.weight"][0] // head_size,
            rms_norm_eps=_QWEN3_EPSILON,
            rope_parameters={"rope_type": "default", "rope_theta": _QWEN3_ROPE_THETA},
            rope_theta=_QWEN3_ROPE_THETA,
        )
    except KeyError as error:
        raise CheckpointError(f"the weights have no {error}; the backbone of a SWE-Pruner is Qwen3") from None


def load_network(folder: Path, spec: PrunerSpec, yes_no: tuple[int, int]) -> nn.Module:
    """Load the network of a checkpoint in float32; `yes_no` are the ids of these words in a SWE-Pruner's vocabulary.

    Raises:
        CheckpointError: weights are missing or do not fit the configuration.
    """
    if spec.family in ("llmlingua2", "token-classifier"):
        return TokenClassifier(_load_classifier(folder), spec.keep_label).eval()
    weights = load_weights(folder)
    network: nn.Module
    if spec.family == "provence":
        network = Provence(spec.config)
    elif spec.family == "open-provence":
        network = OpenProvence(spec.config)
        if not any(name.startswith("ranking_model.") for name in weights):
            heads = ("pruning_head.", "ranking_model.")
            weights = {
                name if name.startswith(heads) else f"ranking_model.{name}": tensor for name, tensor in weights.items()
            }
    else:
        weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        network = SwePruner(spec.config, {name: tensor.shape for name, tensor in weights.items()}, yes_no)
    try:
        result: Any = network.float().load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: the weights do not fit config.json ({str(error)[:300]})") from error
    missing = [name for name in cast("list[str]", result.missing_keys) if not name.endswith("position_ids")]
    if missing:
        raise CheckpointError(f"{folder}: the weights lack {missing[0]}, and {len(missing) - 1} more")
    return network.eval()


def _load_classifier(folder: Path) -> nn.Module:
    transformers: Any = import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = transformers.AutoModelForTokenClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the library raises many kinds
        raise CheckpointError(f"{folder}: the token classifier cannot be loaded ({error})") from error
    missing = sorted(cast("list[str]", info["missing_keys"]))
    if missing or info["mismatched_keys"]:
        raise CheckpointError(f"{folder}: the weights lack {missing or info['mismatched_keys']}")
    return cast("nn.Module", model)


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, from safetensors files or from `pytorch_model.bin`; runs no pickled code.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    files = sorted(folder.glob("model*.safetensors"))
    legacy = folder / "pytorch_model.bin"
    try:
        if files:
            return {name: tensor for file in files for name, tensor in load_file(file).items()}
        return cast("dict[str, Tensor]", torch.load(legacy, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: has neither model.safetensors nor pytorch_model.bin") from None
    except Exception as error:  # the libraries raise many kinds
        raise CheckpointError(f"{folder}: the weights cannot be read ({type(error).__name__}: {error})") from error
