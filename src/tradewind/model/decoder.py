"""A Llama-type decoder in Flax NNX: grouped-query attention, rotary positions, RMSNorm, SwiGLU, tied embedding.

The numerics follow "LLaMA" (arXiv:2302.13971) and Hugging Face's `LlamaForCausalLM` (rotary halves, not pairs).
Layers are unrolled and the KV cache is a list of per-layer arrays: on XLA:CPU that is several times faster than a
scan over stacked layers. This file does not know containers, tokenizers, sampling, slots or losses.

Letters in shapes: B rows, T tokens, S cache length, D hidden size, H heads, K KV heads, F head dimension, V vocabulary.
"""

from typing import Literal, TypeAlias, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from tradewind.model.config import DecoderConfig
from tradewind.model.linear import Linear, product_rows

BLOCK = 128
"""Queries that attend at once in whole sequences: their scores then stay in a CPU's cache."""

MASKED = -1e30
"""Score of what may not be seen; its weight is exactly 0."""

Cache: TypeAlias = list[tuple[jax.Array, jax.Array]]
"""Per layer (keys, values), each [B, S, K, F]; index S is the position of the token in its row."""


class Norm(nnx.RMSNorm):
    """RMSNorm of rows [N,D]: XLA:CPU is several times slower at the sums of its gradients over [B,T,D]."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """[..., D] -> [..., D]."""
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(x.shape)


class Attention(nnx.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike) -> None:
        heads, kv_heads, dim = config.num_heads, config.num_kv_heads, config.head_dim
        self.q = _linear(config.hidden_size, heads * dim, rngs, dtype, param_dtype)
        self.k = _linear(config.hidden_size, kv_heads * dim, rngs, dtype, param_dtype)
        self.v = _linear(config.hidden_size, kv_heads * dim, rngs, dtype, param_dtype)
        self.o = _linear(heads * dim, config.hidden_size, rngs, dtype, param_dtype)
        self.heads, self.kv_heads, self.dim = heads, kv_heads, dim

    def project(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rotated queries [B,T,H,F], rotated keys [B,T,K,F] and values [B,T,K,F] of x [B,T,D]."""
        b, t, _ = x.shape
        q, k, v = (part.reshape(b, t, -1, self.dim) for part in self.projections(x))
        return rotate(q, rotation), rotate(k, rotation), v

    def projections(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B,T,H*F], [B,T,K*F] and [B,T,K*F] of x [B,T,D]."""
        return self.q(x), self.k(x), self.v(x)

    def output(self, mixed: jax.Array) -> jax.Array:
        """[B,T,H,F] -> [B,T,D]."""
        return self.o(mixed.reshape(*mixed.shape[:2], self.heads * self.dim))


class MLP(nnx.Module):
    """SwiGLU (arXiv:2002.05202): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike) -> None:
        self.gate = _linear(config.hidden_size, config.mlp_size, rngs, dtype, param_dtype)
        self.up = _linear(config.hidden_size, config.mlp_size, rngs, dtype, param_dtype)
        self.down = _linear(config.mlp_size, config.hidden_size, rngs, dtype, param_dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike) -> None:
        self.attention_norm = _norm(config, rngs, dtype, param_dtype)
        self.attention = Attention(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.mlp_norm = _norm(config, rngs, dtype, param_dtype)
        self.mlp = MLP(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array], mask: jax.Array) -> jax.Array:
        """x [B,T,D] -> [B,T,D]; mask [B,T,T] is true where a token may look."""
        q, k, v = self.attention.project(self.attention_norm(x), rotation)
        x = x + self.attention.output(attend_causal(q, k, v, mask))
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nnx.Module):
    """The whole model. Linear kernels are stored [in, out], the tied embedding [V, D].

    Args:
        dtype: what is computed in (norms, softmax and logits stay float32).
        param_dtype: what weights are stored in.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        init = nnx.initializers.normal(0.02)
        self.config = config
        self.embed = nnx.Embed(
            config.vocab_size, config.hidden_size, embedding_init=init, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        layers = [Layer(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype) for _ in range(config.num_layers)]
        self.layers = nnx.List(layers)
        self.norm = _norm(config, rngs, dtype, param_dtype)

    @overload
    def hidden(
        self, tokens: jax.Array, positions: jax.Array, segments: jax.Array | None = None, remat: bool = False
    ) -> jax.Array: ...

    @overload
    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array | None = None,
        remat: bool = False,
        *,
        return_layers: Literal[True],
    ) -> tuple[jax.Array, list[jax.Array]]: ...

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array | None = None,
        remat: bool = False,
        *,
        return_layers: bool = False,
    ) -> jax.Array | tuple[jax.Array, list[jax.Array]]:
        """Final-norm hidden states [B,T,D] of whole sequences.

        A token sees earlier tokens of its row with the same segment. Segment 0 is padding, which sees only padding.

        Args:
            tokens: [B,T] int32. positions: [B,T] int32. segments: [B,T] int32, or None: each row is one sample.
            remat: recompute each layer in the backward pass instead of storing what is inside it.
            return_layers: also return the `num_layers + 1` residual streams [B,T,D]: entry i enters layer i, the
                last one enters the final norm.
        """
        mask = causal_mask(tokens.shape, segments)
        rotation = rotary(positions, self.config.head_dim, self.config.rope_base)
        apply = recomputed if remat else Layer.__call__
        states = [self.embed(tokens)]
        for layer in self.layers:
            states.append(apply(layer, states[-1], rotation, mask))
        hidden = self.norm(states[-1])
        return (hidden, states) if return_layers else hidden

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> [..., V] float32, through the tied embedding."""
        table = self.embed.embedding[...].astype(hidden.dtype)
        if hidden.dtype == jnp.float32:
            return product_rows(hidden.reshape(-1, hidden.shape[-1]), table).reshape(*hidden.shape[:-1], -1)
        return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)

    def advance(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: Cache,
        context: int | None = None,
        rows: jax.Array | None = None,
        kv_scales: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """Run new tokens against a cache; returns final-norm hidden states [B,T,D] and the cache with them written.

        A token at position p sees cached positions <= p. A token whose position is outside the cache is padding:
        nothing of it is written and its output means nothing.

        Args:
            tokens: [B,T] int32. positions: [B,T] int32. cache: see `Cache`; donate it to update in place.
            context: look only at the first `context` positions (all positions of this call must be below it).
            rows: [B] int32, the cache row of each token row, or None: the first B rows of the cache.
            kv_scales: [2 x layers, K, F] of an int8 cache (see `compression.kv_cache`), or None: it holds floats.
        """
        rotation = rotary(positions, self.config.head_dim, self.config.rope_base)
        context = context or cache[0][0].shape[1]
        mask = positions[:, :, None] >= jnp.arange(context)[None, None, :]
        places = (jnp.arange(tokens.shape[0]) if rows is None else rows)[:, None]
        scales = [None] * 2 * len(cache) if kv_scales is None else list(kv_scales)
        x, updated = self.embed(tokens), []
        for index, (layer, (keys, values)) in enumerate(zip(self.layers, cache, strict=True)):
            pair = scales[2 * index : 2 * index + 2]
            q, k, v = layer.attention.project(layer.attention_norm(x), rotation)
            keys = keys.at[places, positions].set(stored(k, pair[0], keys.dtype), mode="drop")
            values = values.at[places, positions].set(stored(v, pair[1], values.dtype), mode="drop")
            updated.append((keys, values))
            both = zip((keys, values), pair, strict=True)
            seen_keys, seen_values = (read(_seen(part, len(x), rows, context), s, q.dtype) for part, s in both)
            x = x + layer.attention.output(attend(q, seen_keys, seen_values, mask))
            x = x + layer.mlp(layer.mlp_norm(x))
        return self.norm(x), updated

    def decode(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        cache: Cache,
        context: int | None = None,
        rows: jax.Array | None = None,
        kv_scales: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache]:
        """`advance`, then logits [B,T,V] float32 of every token."""
        hidden, cache = self.advance(tokens, positions, cache, context, rows, kv_scales)
        return self.logits(hidden), cache


def recomputed(layer: Layer, x: jax.Array, rotation: tuple[jax.Array, jax.Array], mask: jax.Array) -> jax.Array:
    """`layer(x, rotation, mask)`, computed again in the backward pass; pure, so it works under every transformation."""
    graph, state = nnx.split(layer)
    run = jax.checkpoint(lambda state, *inputs: nnx.merge(graph, state)(*inputs))
    return run(state, x, rotation, mask)


def init_cache(config: DecoderConfig, rows: int, length: int, dtype: DTypeLike = jnp.float32) -> Cache:
    """An empty KV cache of `rows` rows and `length` positions."""
    shape = (rows, length, config.num_kv_heads, config.head_dim)
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers)]


def causal_mask(shape: tuple[int, ...], segments: jax.Array | None) -> jax.Array:
    """[B,T,T] (or [1,T,T] without segments): true where the query token (rows) may see the key token (columns)."""
    t = shape[1]
    mask = jnp.tril(jnp.ones((t, t), bool))[None]
    return mask if segments is None else mask & (segments[:, :, None] == segments[:, None, :])


def rotary(positions: jax.Array, dim: int, base: float) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine [B,T,1,F/2] float32 of rotary embedding (arXiv:2104.09864)."""
    frequency = base ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate [B,T,heads,F]; element i pairs with element i + F/2 (Hugging Face's layout)."""
    cos, sin = (part.astype(x.dtype) for part in rotation)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention of q [B,T,H,F] over k, v [B,S,K,F], mask [B,T,S]; returns [B,T,H,F]. Softmax is float32."""
    b, t, heads, dim = q.shape
    kv_heads, group = k.shape[2], heads // k.shape[2]
    # Batched plain matrix products: XLA:CPU runs these at several times the speed of the same einsum over five axes.
    q = (q * dim**-0.5).reshape(b, t, kv_heads, group, dim).transpose(0, 2, 3, 1, 4)
    q = q.reshape(b, kv_heads, group * t, dim)
    scores = jnp.einsum("bkmf,bskf->bkms", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores.reshape(b, kv_heads, group, t, -1), MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1).reshape(b, kv_heads, group * t, 1)
    weights = weights.astype(v.dtype).reshape(b, kv_heads, group * t, -1)
    out = jnp.einsum("bkms,bskf->bkmf", weights, v) / total.astype(v.dtype)
    return out.reshape(b, kv_heads, group, t, dim).transpose(0, 3, 1, 2, 4).reshape(b, t, heads, dim)


def attend_causal(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """`attend` for T = S and a causal mask: blocks of queries, which skip the keys that no query of theirs may see."""
    starts = range(0, q.shape[1], BLOCK)
    ends = [min(start + BLOCK, q.shape[1]) for start in starts]
    parts = [
        attend(q[:, start:end], k[:, :end], v[:, :end], mask[:, start:end, :end])
        for start, end in zip(starts, ends, strict=True)
    ]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=1)


def _seen(part: jax.Array, count: int, rows: jax.Array | None, context: int) -> jax.Array:
    """[count, context, K, F] of a cache's keys or values."""
    return (part[:count] if rows is None else part[rows])[:, :context]


def stored(x: jax.Array, scale: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    """[..., K, F] as the cache holds it: codes of `scale` [K, F], rounded to nearest and clipped to +-127, or floats."""
    if scale is None:
        return x.astype(dtype)
    return jnp.clip(jnp.round(x.astype(jnp.float32) / scale), -127, 127).astype(dtype)


def read(part: jax.Array, scale: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    """The inverse of `stored`, but for its rounding."""
    return part.astype(dtype) if scale is None else part.astype(dtype) * scale.astype(dtype)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike) -> nnx.Linear:
    init = nnx.initializers.normal(0.02)
    return Linear(inputs, outputs, use_bias=False, kernel_init=init, rngs=rngs, dtype=dtype, param_dtype=param_dtype)


def _norm(config: DecoderConfig, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike) -> Norm:
    return Norm(config.hidden_size, epsilon=config.norm_eps, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
