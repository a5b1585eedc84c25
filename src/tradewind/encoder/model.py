"""A BERT-type sentence encoder in Flax NNX: absolute positions, post-norm layers, mean over tokens, unit length.

The numerics follow "BERT" (arXiv:1810.04805), Hugging Face's `BertModel` and, for the vector, the card of
all-MiniLM-L6-v2. JAX only; this file does not know containers, tokenizers or ONNX. Not covered: the pooler and token
types beyond the first, which sentence vectors do not pass; decoders and cross attention.

Letters in shapes: B texts, T tokens, D width, H heads, F head dimension.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tradewind.errors import UserError
from tradewind.model.weights import Flat

MASKED = -1e30
"""Score of padding; its weight is exactly 0."""


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder. max_tokens: of a text, what the published encoder cuts at; at most `max_position`."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    max_position: int = 512
    token_types: int = 2
    norm_eps: float = 1e-12
    max_tokens: int = 256

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_layers", "num_heads", "mlp_size", "max_position", "token_types"):
            if getattr(self, name) < 1:
                raise UserError(f"encoder config: {name} must be at least 1, not {getattr(self, name)}")
        if self.hidden_size % self.num_heads:
            raise UserError(f"encoder config: hidden_size {self.hidden_size} is no multiple of heads {self.num_heads}")
        if not 2 < self.max_tokens <= self.max_position:
            raise UserError(f"encoder config: max_tokens must be in 3..{self.max_position}, not {self.max_tokens}")

    @classmethod
    def from_hf(cls, config: Mapping[str, object], max_tokens: int) -> "EncoderConfig":
        """From a Hugging Face `config.json`. Raises UserError for a missing key, or what is not computed here."""
        for key, value in HF_CONFIG_CONSTANTS.items():
            if config.get(key, value) != value:
                raise UserError(f"encoder config.json: {key} is {config[key]!r}, only {value!r} is supported")
        if missing := [theirs for theirs in HF_CONFIG_KEYS.values() if theirs not in config]:
            raise UserError(f"encoder config.json lacks {', '.join(missing)}")
        return cls(**{ours: config[theirs] for ours, theirs in HF_CONFIG_KEYS.items()}, max_tokens=max_tokens)  # type: ignore[arg-type]


HF_CONFIG_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_size": "intermediate_size",
    "max_position": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
}
"""Field of `EncoderConfig` -> key of Hugging Face's `BertConfig`."""
HF_CONFIG_CONSTANTS: dict[str, object] = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
"""What this encoder computes, whatever the sizes."""


class Layer(nnx.Module):
    """x = norm(x + attention(x)); x = norm(x + mlp(x)), with GELU by the error function."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        width = config.hidden_size
        self.q, self.k, self.v, self.o = (_linear(width, width, rngs) for _ in range(4))
        self.up, self.down = _linear(width, config.mlp_size, rngs), _linear(config.mlp_size, width, rngs)
        self.attention_norm, self.mlp_norm = _norm(config, rngs), _norm(config, rngs)
        self.heads = config.num_heads

    def __call__(self, x: jax.Array, seen: jax.Array) -> jax.Array:
        """x [B,T,D] -> [B,T,D]; seen [B,T] is false for padding."""
        x = self.attention_norm(x + self.attention(x, seen))
        return self.mlp_norm(x + self.down(jax.nn.gelu(self.up(x), approximate=False)))

    def attention(self, x: jax.Array, seen: jax.Array) -> jax.Array:
        b, t, d = x.shape
        q, k, v = (part(x).reshape(b, t, self.heads, -1).swapaxes(1, 2) for part in (self.q, self.k, self.v))
        scores = jnp.einsum("bhtf,bhsf->bhts", q, k) * (d // self.heads) ** -0.5
        weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, MASKED), axis=-1)
        return self.o(jnp.einsum("bhts,bhsf->bhtf", weights, v).swapaxes(1, 2).reshape(b, t, d))


class SentenceEncoder(nnx.Module):
    """The whole model, in float32. Linear kernels are stored [in, out]."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.words, self.positions, self.types = (
            nnx.Embed(count, config.hidden_size, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
            for count in (config.vocab_size, config.max_position, config.token_types)
        )
        self.norm = _norm(config, rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.num_layers)])

    def __call__(self, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
        """Unit vectors [B,D] of tokens [B,T] int32, padded on the right beyond lengths [B]; of length 0: all zeros."""
        places = jnp.arange(tokens.shape[1])
        seen = places[None] < lengths[:, None]
        x = self.norm(self.words(tokens) + self.positions(places)[None] + self.types(jnp.zeros_like(tokens)))
        for layer in self.layers:
            x = layer(x, seen)
        total = jnp.where(seen[..., None], x, 0).sum(1)  # the mean's denominator does not outlast the division below
        return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-12)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.normal(0.02), rngs=rngs)


def _norm(config: EncoderConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(config.hidden_size, epsilon=config.norm_eps, rngs=rngs, use_fast_variance=False)


@dataclass(frozen=True)
class Weight:
    """One row of the table; `{i}` stands for the layer. shape: Hugging Face's; transposed: ours is [in, out]."""

    ours: str
    hf: str
    shape: Callable[[EncoderConfig], tuple[int, ...]]
    transposed: bool = False

    def at(self, layer: int) -> "Weight":
        return replace(self, ours=self.ours.format(i=layer), hf=self.hf.format(i=layer))


def _pair(
    ours: str, hf: str, shape: Callable[[EncoderConfig], tuple[int, ...]], matrix: bool = True
) -> tuple[Weight, Weight]:
    """A linear layer's, or a norm's, weight and bias."""
    name = "kernel" if matrix else "scale"
    return (
        Weight(f"{ours}.{name}", f"{hf}.weight", shape, matrix),
        Weight(f"{ours}.bias", f"{hf}.bias", lambda c: shape(c)[:1]),
    )


def _width(config: EncoderConfig) -> tuple[int, ...]:
    return (config.hidden_size,)


def _square(config: EncoderConfig) -> tuple[int, ...]:
    return (config.hidden_size, config.hidden_size)


TABLE = (
    Weight("words.embedding", "embeddings.word_embeddings.weight", lambda c: (c.vocab_size, c.hidden_size)),
    Weight("positions.embedding", "embeddings.position_embeddings.weight", lambda c: (c.max_position, c.hidden_size)),
    Weight("types.embedding", "embeddings.token_type_embeddings.weight", lambda c: (c.token_types, c.hidden_size)),
    *_pair("norm", "embeddings.LayerNorm", _width, matrix=False),
)
LAYER = "encoder.layer.{i}"
LAYER_TABLE = (
    *_pair("layers.{i}.q", f"{LAYER}.attention.self.query", _square),
    *_pair("layers.{i}.k", f"{LAYER}.attention.self.key", _square),
    *_pair("layers.{i}.v", f"{LAYER}.attention.self.value", _square),
    *_pair("layers.{i}.o", f"{LAYER}.attention.output.dense", _square),
    *_pair("layers.{i}.attention_norm", f"{LAYER}.attention.output.LayerNorm", _width, matrix=False),
    *_pair("layers.{i}.up", f"{LAYER}.intermediate.dense", lambda c: (c.mlp_size, c.hidden_size)),
    *_pair("layers.{i}.down", f"{LAYER}.output.dense", lambda c: (c.hidden_size, c.mlp_size)),
    *_pair("layers.{i}.mlp_norm", f"{LAYER}.output.LayerNorm", _width, matrix=False),
)
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""Of a published checkpoint: 0, 1, 2 ..., and what sentence vectors do not pass."""


def weight_table(config: EncoderConfig) -> Iterator[Weight]:
    """Every weight of an encoder of this shape, once."""
    yield from TABLE
    for layer in range(config.num_layers):
        yield from (weight.at(layer) for weight in LAYER_TABLE)


def checked(config: EncoderConfig, flat: Mapping[str, np.ndarray], source: object = "checkpoint") -> Flat:
    """The weights of the table, without what is unused.

    Raises:
        UserError: a tensor is missing, has no place in the model, or another shape.
    """
    expected = {weight.hf: weight.shape(config) for weight in weight_table(config)}
    if missing := sorted(set(expected) - set(flat)):
        raise UserError(f"{source}: tensor {missing[0]!r} is missing")
    if foreign := sorted(set(flat) - set(expected) - set(UNUSED)):
        raise UserError(f"{source}: tensor {foreign[0]!r} has no place in the encoder")
    for name, shape in expected.items():
        if flat[name].shape != shape:
            raise UserError(f"{source}: tensor {name!r} has shape {flat[name].shape}, the encoder needs {shape}")
    return {name: flat[name] for name in expected}


def to_model(config: EncoderConfig, flat: Mapping[str, np.ndarray]) -> SentenceEncoder:
    """An encoder with the weights of a flat checkpoint. Raises UserError where they do not fit."""
    weights = {weight.ours: weight for weight in weight_table(config)}
    flat = checked(config, flat)
    graph, state = nnx.split(nnx.eval_shape(lambda: SentenceEncoder(config, rngs=nnx.Rngs(0))))
    filled = []
    for path, variable in nnx.to_flat_state(state):
        weight = weights.pop(".".join(map(str, path)))
        array = flat[weight.hf].T if weight.transposed else flat[weight.hf]
        filled.append((path, variable.replace(jnp.asarray(array, jnp.float32))))
    if weights:
        raise AssertionError(f"the weight table names what the encoder does not have: {sorted(weights)}")
    return nnx.merge(graph, nnx.from_flat_state(filled))


def to_flat(model: SentenceEncoder) -> Flat:
    """The weights of an encoder under Hugging Face's names. Raises ValueError for those outside the table."""
    ours = {".".join(map(str, path)): value for path, value in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    flat: Flat = {}
    for weight in weight_table(model.config):
        array = np.asarray(jax.device_get(ours.pop(weight.ours)[...]), np.float32)
        flat[weight.hf] = np.ascontiguousarray(array.T) if weight.transposed else array
    if ours:
        raise ValueError(f"parameters outside the weight table: {', '.join(sorted(ours))}")
    return flat
