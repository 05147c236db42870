"""The encoder stack: BERT layers whose width shrinks block by block.

Block i maps tokens of one width to tokens of the next through a narrower hidden
width; the last block ends in the three coordinates.

Source: METRO section 3.1; original code, metro/modeling/bert/modeling_metro.py and
  modeling_bert.py.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from metro_jax.models.layers import EXACT, Dropout

LAYER_NORM_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class EncoderSettings:
  """What an encoder is like; the first three have one width for each block.

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


class Encoder(nn.Module):
  """Encoder blocks in sequence."""

  settings: EncoderSettings

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "b t d"], train: bool = False
  ) -> Float[Array, "b t _"]:
    for n in range(len(self.settings.hidden_widths)):
      tokens = EncoderBlock(self.settings, n, name=f"block{n}")(tokens, train)
    return tokens


class EncoderBlock(nn.Module):
  """Embedding with positions, attention layers, projection, and a linear shortcut.

  y = head(layers(embed(x) + position)) + residual(x). There is no LayerNorm on the
  embedding.
  """

  settings: EncoderSettings
  number: int

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "b t d"], train: bool
  ) -> Float[Array, "b t _"]:
    s, n = self.settings, self.number
    if tokens.shape[1] > s.max_positions:
      raise ValueError(
        f"encoder: expected at most max_positions = {s.max_positions} tokens, "
        f"got {tokens.shape[1]}"
      )
    shape = (s.max_positions, s.hidden_widths[n])
    normal = nn.initializers.normal(s.position_std)
    positions = self.param("position_embedding", normal, shape)
    x = _dense(s.hidden_widths[n], s.dtype, s.init_std, "embedding")(tokens)
    x += positions[: x.shape[1]].astype(x.dtype)
    x = Dropout(s.dropout)(x, train)
    # `train`, the third argument of the call, decides what is computed.
    layer = nn.remat(EncoderLayer, static_argnums=(2,)) if s.remat else EncoderLayer
    for k in range(s.num_layers):
      x = layer(s, s.feedforward_widths[n], name=f"layer{k}")(x, train)
    return self._output("head")(x) + self._output("residual")(tokens)

  def _output(self, name: str) -> nn.Dense:
    """Gives the block's output; the last block's is coordinates."""
    s, width = self.settings, self.settings.output_widths[self.number]
    if self.number == len(s.output_widths) - 1:
      return _dense(width, None, s.output_std, name, EXACT)
    return _dense(width, s.dtype, s.init_std, name)


class EncoderLayer(nn.Module):
  """BERT's layer: attention and feed-forward, each LayerNorm(x + dropout(f(x)))."""

  settings: EncoderSettings
  feedforward_width: int

  @nn.compact
  def __call__(self, x: Float[Array, "b t d"], train: bool) -> Float[Array, "b t d"]:
    width, drop = x.shape[-1], Dropout(self.settings.dropout)
    context = SelfAttention(self.settings, name="attention")(x, train)
    attended = drop(self._dense(width, "attention_output")(context), train)
    x = self._layer_norm("attention_norm")(x + attended)
    inner = self._dense(self.feedforward_width, "feedforward_inner")(x)
    inner = gelu(inner)
    outer = drop(self._dense(width, "feedforward_output")(inner), train)
    return self._layer_norm("output_norm")(x + outer)

  def _dense(self, features: int, name: str) -> nn.Dense:
    return _dense(features, self.settings.dtype, self.settings.init_std, name)

  def _layer_norm(self, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(
      LAYER_NORM_EPSILON, dtype=self.settings.dtype, use_fast_variance=False, name=name
    )


class SelfAttention(nn.Module):
  """softmax(Q Kᵀ / √(d / heads)) V, every token to every token."""

  settings: EncoderSettings

  @nn.compact
  def __call__(self, x: Float[Array, "b t d"], train: bool) -> Float[Array, "b t d"]:
    s, (batch, count, width) = self.settings, x.shape
    head_width = width // s.num_heads
    # Heads before tokens: the products' gradients are faster so on CPUs.
    query, key, value = (
      _dense(width, s.dtype, s.init_std, name)(x)
      .reshape(batch, count, s.num_heads, head_width)
      .transpose(0, 2, 1, 3)
      for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bhqd,bhkd->bhqk", query * head_width**-0.5, key)
    # Softmax in at least float32, whatever the products are computed in.
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = softmax(scores).astype(x.dtype)
    weights = Dropout(s.dropout)(weights, train)
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
