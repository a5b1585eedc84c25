"""The shape of a decoder, and Hugging Face's names for it.

It imports no JAX: what runs a variant without it reads shapes, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tradewind.errors import UserError


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder. `hidden_size` need not equal `num_heads * head_dim`."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    rope_base: float = 100000.0
    norm_eps: float = 1e-5
    max_position: int = 8192
    bos_token_id: int = 1
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "num_kv_heads", "mlp_size"):
            if getattr(self, name) < 1:
                raise UserError(f"model config: {name} must be at least 1, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"model config: num_heads {self.num_heads} is no multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim < 2 or self.head_dim % 2:
            raise UserError(f"model config: head_dim must be even and positive, not {self.head_dim}")

    @classmethod
    def from_hf(cls, config: Mapping[str, object]) -> "DecoderConfig":
        """From the content of a Hugging Face `config.json`.

        Raises:
            UserError: a key is missing, or asks for something that this decoder does not compute.
        """
        _refuse_unsupported(config)
        values = {ours: config[theirs] for ours, theirs in HF_CONFIG_KEYS.items() if theirs in config}
        values.setdefault("num_kv_heads", values.get("num_heads"))
        rope = config.get("rope_parameters")
        if isinstance(rope, Mapping) and "rope_theta" in rope:
            values["rope_base"] = rope["rope_theta"]
        if not values.get("head_dim") and values.get("hidden_size") and values.get("num_heads"):
            values["head_dim"] = int(values["hidden_size"]) // int(values["num_heads"])  # type: ignore[call-overload]
        for name in ("bos_token_id", "eos_token_id"):
            if isinstance(values.get(name), list):  # Hugging Face allows several; the first ends a text
                values[name] = values[name][0]  # type: ignore[index]
        missing = [HF_CONFIG_KEYS[k] for k in HF_CONFIG_KEYS if values.get(k) is None]
        if missing:
            raise UserError(f"config.json lacks {', '.join(missing)}")
        return cls(**values)  # type: ignore[arg-type]

    def to_hf(self) -> dict[str, object]:
        """The content of a Hugging Face `config.json` of the class `LlamaForCausalLM`."""
        values = {theirs: getattr(self, ours) for ours, theirs in HF_CONFIG_KEYS.items()}
        return values | HF_CONFIG_CONSTANTS

    @property
    def num_parameters(self) -> int:
        """Number of weights, the tied embedding counted once."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        layer = attention + 3 * self.hidden_size * self.mlp_size + 2 * self.hidden_size
        return self.vocab_size * self.hidden_size + self.num_layers * layer + self.hidden_size


HF_CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_size": "intermediate_size",
    "rope_base": "rope_theta",
    "norm_eps": "rms_norm_eps",
    "max_position": "max_position_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
}
"""Field of `DecoderConfig` -> key of Hugging Face's `LlamaConfig`."""

HF_CONFIG_CONSTANTS: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
"""What this decoder computes, whatever the sizes: written to, and required of, a `config.json`."""


def _refuse_unsupported(config: Mapping[str, object]) -> None:
    for key, value in HF_CONFIG_CONSTANTS.items():
        if key != "torch_dtype" and config.get(key, value) != value:
            raise UserError(f"config.json: {key} is {config[key]!r}, only {value!r} is supported")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, Mapping) else rope
    if kind != "default":
        raise UserError(f"config.json: rotary scaling {kind!r} is not supported, only 'default'")
