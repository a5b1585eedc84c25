"""The decoder's properties: cache, packing, padding, rematerialization, and a reference written out in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tradewind.errors import UserError
from tradewind.model.decoder import BLOCK, Decoder, DecoderConfig, init_cache
from tradewind.model.weights import Flat

CLOSE = 2e-5
"""float32 sums in another order; logits here are of size 1 to 10."""


def tokens_of(length: int, seed: int = 0, rows: int = 1) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, 304)


def positions_of(length: int, rows: int = 1) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(length), (rows, length))


@nnx.jit
def full(model: Decoder, tokens: jax.Array, positions: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    return model.logits(model.hidden(tokens, positions, segments))


decode = nnx.jit(Decoder.decode, static_argnames="context")


def reference(config: DecoderConfig, flat: Flat, tokens: np.ndarray) -> np.ndarray:
    """Logits [T, V] of the published equations, token by token and head by head, in float64."""

    def norm(x, scale):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * scale

    def turned(x, position):
        half = config.head_dim // 2
        angle = position * config.rope_base ** (-np.arange(half) / half)
        pairs = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
        return np.concatenate([pairs.real, pairs.imag])

    def heads(x, name, count):
        return (x @ w[name].T).reshape(len(x), count, config.head_dim)

    w = {name: array.astype(np.float64) for name, array in flat.items()}
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config.num_layers):
        at = f"model.layers.{i}."
        y = norm(x, w[at + "input_layernorm.weight"])
        q = heads(y, at + "self_attn.q_proj.weight", config.num_heads)
        k = heads(y, at + "self_attn.k_proj.weight", config.num_kv_heads)
        v = heads(y, at + "self_attn.v_proj.weight", config.num_kv_heads)
        mixed = np.zeros_like(q)
        for t in range(len(x)):
            for h in range(config.num_heads):
                g = h // (config.num_heads // config.num_kv_heads)
                keys = np.stack([turned(k[s, g], s) for s in range(t + 1)])
                score = np.exp(keys @ turned(q[t, h], t) / np.sqrt(config.head_dim))
                mixed[t, h] = score / score.sum() @ v[: t + 1, g]
        x = x + mixed.reshape(len(x), -1) @ w[at + "self_attn.o_proj.weight"].T
        y = norm(x, w[at + "post_attention_layernorm.weight"])
        gate = y @ w[at + "mlp.gate_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w[at + "mlp.up_proj.weight"].T)) @ w[at + "mlp.down_proj.weight"].T
    return norm(x, w["model.norm.weight"]) @ w["model.embed_tokens.weight"].T


def test_logits_are_those_of_the_equations(model: Decoder, flat: Flat) -> None:
    tokens = np.asarray(tokens_of(13))[0]
    made = full(model, tokens[None], positions_of(13))[0]
    np.testing.assert_allclose(made, reference(model.config, flat, tokens), atol=CLOSE)


@pytest.mark.parametrize("chunks", [[1] * 9, [3, 6], [6, 1, 2]])
def test_decoding_with_a_cache_equals_the_whole(model: Decoder, chunks: list[int]) -> None:
    tokens, positions = tokens_of(9, rows=2), positions_of(9, rows=2)
    cache, made, done = init_cache(model.config, 2, 16), [], 0
    for size in chunks:
        part = slice(done, done + size)
        logits, cache = decode(model, tokens[:, part], positions[:, part], cache)
        made.append(logits)
        done += size
    np.testing.assert_allclose(jnp.concatenate(made, 1), full(model, tokens, positions), atol=CLOSE)


def test_rows_of_a_cache_may_differ_and_be_chosen(model: Decoder) -> None:
    """Two of four cache rows run, at different positions; the context is limited; the other rows stay as they were."""
    first, second = tokens_of(5, seed=1), tokens_of(3, seed=2)
    cache = init_cache(model.config, 4, 16)
    _, cache = decode(model, first[:, :4], positions_of(4), cache, rows=jnp.array([3]))
    _, cache = decode(model, second[:, :2], positions_of(2), cache, rows=jnp.array([1]))
    tokens = jnp.stack([first[0, 4:], second[0, 2:]])
    logits, cache = decode(model, tokens, jnp.array([[4], [2]]), cache, context=8, rows=jnp.array([3, 1]))
    np.testing.assert_allclose(logits[0], full(model, first, positions_of(5))[0, -1:], atol=CLOSE)
    np.testing.assert_allclose(logits[1], full(model, second, positions_of(3))[0, -1:], atol=CLOSE)
    assert all(not part[row].any() for layer in cache for part in layer for row in (0, 2))


def test_padding_writes_nothing_into_a_cache(model: Decoder) -> None:
    tokens = tokens_of(6)
    positions = jnp.array([[0, 1, 2, 3, 16, 16]])
    _, cache = decode(model, tokens, positions, init_cache(model.config, 1, 16))
    assert all(not part[:, 4:].any() for layer in cache for part in layer)
    assert all(part[:, :4].any() for layer in cache for part in layer)


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 40])
def test_long_rows_go_in_blocks(model: Decoder, length: int) -> None:
    """The blocks of queries give what a cache, which knows no blocks, gives."""
    tokens, positions = tokens_of(length), positions_of(length)
    want, _ = decode(model, tokens, positions, init_cache(model.config, 1, length))
    np.testing.assert_allclose(full(model, tokens, positions), want, atol=CLOSE)


def test_packed_samples_do_not_see_each_other(model: Decoder) -> None:
    parts = [tokens_of(n, seed=n) for n in (70, 90, 40)]
    packed = jnp.concatenate([*parts, jnp.zeros((1, 9), jnp.int32)], axis=1)
    positions = jnp.concatenate([*(positions_of(part.shape[1]) for part in parts), positions_of(9)], axis=1)
    segments = jnp.repeat(jnp.array([1, 2, 3, 0]), jnp.array([70, 90, 40, 9]))[None]
    made = full(model, packed, positions, segments)
    done = 0
    for part in parts:
        size = part.shape[1]
        np.testing.assert_allclose(made[:, done : done + size], full(model, part, positions_of(size)), atol=CLOSE)
        done += size


def test_padding_never_leaks(model: Decoder) -> None:
    """What stands in the padding, before or after the sample, changes no logit and no gradient of the sample."""
    sample, segments = tokens_of(20), jnp.array([[0] * 3 + [1] * 20 + [0] * 9])
    positions = jnp.concatenate([jnp.zeros((1, 3), jnp.int32), positions_of(20), jnp.zeros((1, 9), jnp.int32)], 1)

    @nnx.jit
    @partial(nnx.grad, has_aux=True)
    def loss(model: Decoder, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.logits(model.hidden(tokens, positions, segments))[:, 3:23]
        return jnp.square(logits).mean(), logits

    def run(seed: int) -> tuple[jax.Array, nnx.State]:
        tokens = jnp.concatenate([tokens_of(3, seed), sample, tokens_of(9, seed + 1)], 1)

        gradients, logits = loss(model, tokens)
        return logits, gradients

    (logits, gradients), (other_logits, other_gradients) = run(1), run(7)
    np.testing.assert_allclose(logits, other_logits, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradients, other_gradients)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_rematerialization_changes_no_gradient(model: Decoder) -> None:
    tokens, positions = tokens_of(24, rows=2), positions_of(24, rows=2)

    def gradients(remat: bool) -> nnx.State:
        return nnx.jit(nnx.grad(lambda m: jnp.square(m.logits(m.hidden(tokens, positions, remat=remat))).mean()))(model)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradients(False), gradients(True))


def test_residual_streams(model: Decoder) -> None:
    tokens, positions = tokens_of(5), positions_of(5)
    hidden, states = model.hidden(tokens, positions, return_layers=True)
    assert [state.shape for state in states] == [(1, 5, 64)] * 4
    np.testing.assert_allclose(states[0], model.embed(tokens))
    np.testing.assert_allclose(model.norm(states[-1]), hidden)


def test_bfloat16_is_near(config: DecoderConfig, flat: Flat, model: Decoder) -> None:
    from tradewind.model.weights import to_model

    tokens, positions = tokens_of(30), positions_of(30)
    low = to_model(config, flat, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    logits = full(low, tokens, positions)
    assert logits.dtype == jnp.float32
    want = full(model, tokens, positions)
    assert jnp.abs(logits - want).mean() < 0.05 * jnp.abs(want).mean()  # 8 bits of mantissa, 14 products deep


def test_number_of_parameters(config: DecoderConfig, model: Decoder) -> None:
    assert config.num_parameters == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_config_round_trip(config: DecoderConfig) -> None:
    assert DecoderConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "llama3"),
        ({"num_key_value_heads": 4}, "num_kv_heads"),
        ({"head_dim": 15}, "head_dim"),
    ],
)
def test_configs_that_are_refused(config: DecoderConfig, change: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DecoderConfig.from_hf(config.to_hf() | change)


def test_config_of_newer_checkpoints(config: DecoderConfig) -> None:
    """transformers 5 keeps the rotary base in `rope_parameters`, and a head size may be left to be derived."""
    given = config.to_hf() | {"rope_parameters": {"rope_theta": 777.0, "rope_type": "default"}, "head_dim": None}
    del given["rope_theta"]
    given |= {"hidden_size": 96, "eos_token_id": [2, 0]}
    made = DecoderConfig.from_hf(given)
    assert (made.rope_base, made.head_dim, made.eos_token_id) == (777.0, 16, 2)
