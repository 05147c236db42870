"""The encoder stack: BERT layers whose width shrinks block by block.

Block i maps tokens of one width to tokens of the next through a narrower hidden
width; the last block ends in the three coordinates.

Source: METRO section 3.1; released code, metro/modeling/bert/modeling_metro.py and
  modeling_bert.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from metro_jax.models.layers import EXACT, Dropout

LAYER_NORM_EPSILON = 1e-12


class Encoder(nn.Module):
  """Encoder blocks in sequence.

  Attributes:
    hidden_widths: Width inside each block.
    output_widths: What each block projects down to.
    feedforward_widths: Inner width of each block's feed-forward layers.
    num_layers: Attention layers a block.
    num_heads: Attention heads a layer.
    max_positions: Rows of the learned position embedding.
    dropout: Rate of all four dropouts.
    init_std: Deviation of the first weights.
    position_std: Deviation of the first position embeddings.
    output_std: Deviation of the first weights that give the last block's output.
    remat: Whether a layer's inner activations are computed again for its gradient
      instead of kept.
    dtype: Type of the arithmetic; None follows the parameters. The last block's
      output is coordinates and never narrower than the parameters.
  """

  hidden_widths: tuple[int, ...]
  output_widths: tuple[int, ...]
  feedforward_widths: tuple[int, ...]
  num_layers: int = 4
  num_heads: int = 4
  max_positions: int = 512
  dropout: float = 0.1
  init_std: float = 0.02
  position_std: float = 0.02
  output_std: float = 0.02
  remat: bool = False
  dtype: DTypeLike | None = None

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "b t d"], train: bool = False
  ) -> Float[Array, "b t _"]:
    widths = zip(
      self.hidden_widths, self.output_widths, self.feedforward_widths, strict=True
    )
    last = len(self.hidden_widths) - 1
    for n, (hidden, output, feedforward) in enumerate(widths):
      tokens = EncoderBlock(
        hidden_width=hidden,
        output_width=output,
        feedforward_width=feedforward,
        num_layers=self.num_layers,
        num_heads=self.num_heads,
        max_positions=self.max_positions,
        dropout=self.dropout,
        init_std=self.init_std,
        position_std=self.position_std,
        output_std=self.output_std if n == last else self.init_std,
        remat=self.remat,
        dtype=self.dtype,
        output_dtype=None if n == last else self.dtype,
        output_precision=EXACT if n == last else None,
        name=f"block{n}",
      )(tokens, train)
    return tokens


class EncoderBlock(nn.Module):
  """Embedding with positions, attention layers, projection, and a linear shortcut.

  y = head(layers(embed(x) + position)) + residual(x). There is no LayerNorm on the
  embedding.
  """

  hidden_width: int
  output_width: int
  feedforward_width: int
  num_layers: int
  num_heads: int
  max_positions: int
  dropout: float
  init_std: float
  position_std: float
  output_std: float
  remat: bool
  dtype: DTypeLike | None
  output_dtype: DTypeLike | None
  output_precision: jax.lax.Precision | None

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "b t d"], train: bool
  ) -> Float[Array, "b t _"]:
    if tokens.shape[1] > self.max_positions:
      raise ValueError(
        f"encoder: expected at most max_positions = {self.max_positions} tokens, "
        f"got {tokens.shape[1]}"
      )
    shape = (self.max_positions, self.hidden_width)
    normal = nn.initializers.normal(self.position_std)
    positions = self.param("position_embedding", normal, shape)
    x = _dense(self.hidden_width, self.dtype, self.init_std, "embedding")(tokens)
    x += positions[: x.shape[1]].astype(x.dtype)
    x = Dropout(self.dropout)(x, train)
    self.sow("intermediates", "embed", x)
    # `train`, the third argument of the call, decides what is computed.
    layer = nn.remat(EncoderLayer, static_argnums=(2,)) if self.remat else EncoderLayer
    for n in range(self.num_layers):
      x = layer(
        self.num_heads,
        self.feedforward_width,
        self.dropout,
        self.init_std,
        self.dtype,
        name=f"layer{n}",
      )(x, train)
    head, residual = (
      _dense(
        self.output_width,
        self.output_dtype,
        self.output_std,
        name,
        self.output_precision,
      )
      for name in ("head", "residual")
    )
    output = head(x) + residual(tokens)
    self.sow("intermediates", "output", output)
    return output


class EncoderLayer(nn.Module):
  """BERT's layer: attention and feed-forward, each LayerNorm(x + dropout(f(x)))."""

  num_heads: int
  feedforward_width: int
  dropout: float
  init_std: float
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, "b t d"], train: bool) -> Float[Array, "b t d"]:
    width = x.shape[-1]
    drop = Dropout(self.dropout)
    attention = SelfAttention(
      self.num_heads, self.dropout, self.init_std, self.dtype, name="attention"
    )
    context = attention(x, train)
    self.sow("intermediates", "ctx", context)
    attended = drop(self._dense(width, "attention_output")(context), train)
    x = self._layer_norm("attention_norm")(x + attended)
    self.sow("intermediates", "attn", x)
    inner = self._dense(self.feedforward_width, "feedforward_inner")(x)
    inner = gelu(inner)
    self.sow("intermediates", "inter", inner)
    outer = drop(self._dense(width, "feedforward_output")(inner), train)
    x = self._layer_norm("output_norm")(x + outer)
    self.sow("intermediates", "output", x)
    return x

  def _dense(self, features: int, name: str) -> nn.Dense:
    return _dense(features, self.dtype, self.init_std, name)

  def _layer_norm(self, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
      LAYER_NORM_EPSILON, dtype=self.dtype, use_fast_variance=False, name=name
    )


class SelfAttention(nn.Module):
  """softmax(Q Kᵀ / √(d / heads)) V, every token to every token."""

  num_heads: int
  dropout: float
  init_std: float
  dtype: DTypeLike | None

  @nn.compact
  def __call__(self, x: Float[Array, "b t d"], train: bool) -> Float[Array, "b t d"]:
    batch, count, width = x.shape
    head_width = width // self.num_heads
    # Heads before tokens: the products' gradients are faster so on CPUs.
    query, key, value = (
      _dense(width, self.dtype, self.init_std, name)(x)
      .reshape(batch, count, self.num_heads, head_width)
      .transpose(0, 2, 1, 3)
      for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bhqd,bhkd->bhqk", query * head_width**-0.5, key)
    # Softmax in at least float32, whatever the products are computed in.
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = softmax(scores).astype(x.dtype)
    weights = Dropout(self.dropout)(weights, train)
    context = jnp.einsum("bhqk,bhkd->bhqd", weights, value)
    return context.transpose(0, 2, 1, 3).reshape(batch, count, width)


@jax.jit  # known by its name where networks are exported
def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
  """x Φ(x), without approximation."""
  return nn.gelu(x, approximate=False)


@jax.jit  # likewise
def softmax(scores: Float[Array, "..."]) -> Float[Array, "..."]:
  """exp(x) / Σ exp(x) over the last axis."""
  return nn.softmax(scores)


def _dense(
  features: int,
  dtype: DTypeLike | None,
  init_std: float,
  name: str,
  precision: jax.lax.Precision | None = None,
) -> nn.Dense:
  normal = nn.initializers.normal(init_std)
  return nn.Dense(
    features, dtype=dtype, precision=precision, kernel_init=normal, name=name
  )
