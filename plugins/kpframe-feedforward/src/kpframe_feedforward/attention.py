"""Attention blocks as a dynamical system: a step is a sub-layer that adds to the residual stream."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from kpframe import Model
from kpframe.errors import ShapeError, check_seed, mismatch
from kpframe.models import normal_, uniform_
from kpframe.plugin import takes_settings
from kpframe_feedforward import AttentionSettings
from kpframe_feedforward.layers import PHI, at_first_step


class Attention(Model):
    """Pre-LayerNorm blocks of self-attention (Vaswani et al. 2017; Xiong et al. 2020), a sub-layer a step::

        h_1      = W_E x + b_E + position                     tokens are read in
        h_{2k}   = h_{2k-1} + attention_k(norm1_k(h_{2k-1}))  k = 1 .. blocks
        h_{2k+1} = h_{2k} + W_2 phi(W_1 norm2_k(h_{2k}) + b_1) + b_2

    The state is the residual stream of all tokens, ``[tokens * hidden_size]``, token after token: a network
    of unlike units, which attention couples and the other sub-layers do not. With ``causal`` token i moves
    tokens j >= i only. Steps 2 to 2 blocks + 1 are ``torch.nn.TransformerEncoder`` of layers with
    ``norm_first=True`` and no dropout, with torch's parameter names (``layers.0.self_attn.in_proj_weight``
    ...), shapes and initial values.

    The sample x, ``tokens`` times the features of a token, is the input of the first step. Whatever stands at
    later steps is not looked at, and neither is h_0: see ``inputs``. Roll-outs have exactly ``1 + 2 blocks``
    steps. A, J, P and K are derived by automatic differentiation, a step at a time, so that nothing of size
    ``[B, T, H, H]`` is formed for states wider than ``kpframe.models._model.DENSE_WIDTH``.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.
    """

    time_varying = True
    steps: int

    @takes_settings(AttentionSettings)
    def __init__(self, settings: AttentionSettings) -> None:
        c, tokens, width = settings, settings.tokens, settings.hidden_size
        super().__init__(c.input_size, {"h": tokens * width})
        mlp_size = 4 * width if c.mlp_size is None else c.mlp_size
        self.steps = 1 + 2 * c.blocks
        self.tokens, self.hidden_size, self.causal = tokens, width, c.causal
        with torch.random.fork_rng(devices=[]):  # torch's layers draw values, which are drawn anew below
            self.embedding = torch.nn.Linear(c.input_size // tokens, width)
            blocks = [_Block(width, c.heads, mlp_size, c.activation) for _ in range(c.blocks)]
            self.layers = torch.nn.ModuleList(blocks)
        self.position = torch.nn.Parameter(torch.empty(tokens, width))
        hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1) if c.causal else None
        self.register_buffer("hidden_tokens", hidden, persistent=False)
        self.hidden_tokens: torch.Tensor | None
        self.reset_parameters(c.seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew: as torch's TransformerEncoderLayer, positions N(0, 0.02^2) as GPT-2."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        with torch.no_grad():
            normal_(self.position, 0, 0.02, generator)
            for module in self.modules():
                if isinstance(module, _SelfAttention):
                    bound = math.sqrt(6 / sum(module.in_proj_weight.shape))  # Glorot & Bengio 2010
                    uniform_(module.in_proj_weight, -bound, bound, generator)
                    module.in_proj_bias.zero_()
                elif isinstance(module, torch.nn.Linear):
                    bound = 1 / math.sqrt(module.in_features)
                    for parameter in module.parameters():
                        uniform_(parameter, -bound, bound, generator)
                elif isinstance(module, torch.nn.LayerNorm):
                    module.reset_parameters()
            for module in self.modules():
                if isinstance(module, _SelfAttention):
                    module.out_proj.bias.zero_()

    def inputs(self, samples: torch.Tensor) -> torch.Tensor:  # -> [B, T, I]
        """Return samples as the inputs of a roll-out: at the first step, with zeros after it.

        Args:
            samples: ``[B, I]``, or by token ``[B, tokens, I / tokens]``.
        """
        by_token = (self.tokens, self.input_size // self.tokens)
        if samples.ndim == 3:
            if tuple(samples.shape[1:]) != by_token:
                expected = f"shape [batch, tokens={by_token[0]}, features={by_token[1]}]"
                raise ShapeError(mismatch("samples", expected, list(samples.shape)))
            samples = samples.flatten(1)
        return at_first_step(samples, self.steps, self.input_size)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the residual stream after the sub-layers ``t``, which may differ from row to row."""
        assert t is not None  # given to models that vary in time
        present, counts = torch.unique(t, return_counts=True)
        if len(present) == 1:
            return self._sublayer(int(present), x, h)
        order = t.argsort(stable=True)
        rows = torch.split(order, counts.tolist())
        new = [self._sublayer(step, x[at], h[at]) for step, at in zip(present.tolist(), rows, strict=True)]
        return torch.cat(new)[order.argsort()]

    def _sublayer(self, step: int, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Return what rows ``[N, I]``, ``[N, H]`` of one step become."""
        if step == 0:
            features = x.reshape(len(x), self.tokens, self.embedding.in_features)
            stream: torch.Tensor = self.embedding(features) + self.position
            return stream.flatten(-2)
        stream = h.reshape(len(h), self.tokens, self.hidden_size)
        block = self.layers[(step - 1) // 2]
        assert isinstance(block, _Block)
        added = block.attend(stream, self.hidden_tokens) if step % 2 else block.feed(stream)
        return (stream + added).flatten(-2)


class _SelfAttention(torch.nn.Module):
    """The parameters of multi-head self-attention, under torch's names."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = torch.nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = torch.nn.Parameter(torch.empty(3 * width))
        self.out_proj = torch.nn.Linear(width, width)

    def forward(self, z: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:  # [N, S, d]
        """Return attention over tokens, from operations that differentiate twice (fused ones do not)."""
        rows, tokens, width = z.shape
        packed = functional.linear(z, self.in_proj_weight, self.in_proj_bias)
        split = packed.reshape(rows, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # [N, heads, S, d / heads] each
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        mixed = scores.softmax(dim=-1) @ v
        out: torch.Tensor = self.out_proj(mixed.transpose(-3, -2).flatten(-2))
        return out


class _Block(torch.nn.Module):
    """One block: an attention and an MLP sub-layer, each behind its LayerNorm."""

    def __init__(self, width: int, heads: int, mlp_size: int, activation: str) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(width, heads)
        self.linear1 = torch.nn.Linear(width, mlp_size)
        self.linear2 = torch.nn.Linear(mlp_size, width)
        self.norm1 = torch.nn.LayerNorm(width)
        self.norm2 = torch.nn.LayerNorm(width)
        self.phi = PHI[activation]

    def attend(self, stream: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:  # [N, S, d]
        """Return what the attention sub-layer adds."""
        added: torch.Tensor = self.self_attn(self.norm1(stream), hidden)
        return added

    def feed(self, stream: torch.Tensor) -> torch.Tensor:  # [N, S, d]
        """Return what the MLP sub-layer adds, to each token on its own."""
        added: torch.Tensor = self.linear2(self.phi(self.linear1(self.norm2(stream))))
        return added
