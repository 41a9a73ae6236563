"""The model ``attention`` against ``torch.nn.TransformerEncoder`` and fused attention, and causality."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from kpframe import linearize
from kpframe.errors import ShapeError


def masked(model) -> torch.Tensor | None:
    return torch.ones(3, 3, dtype=torch.bool).triu(1) if model.causal else None


@pytest.mark.rows(2)
def test_blocks_are_torchs_encoder(make_attention, encoder, draw, close, differ, block) -> None:
    model = make_attention(**block)
    twin = encoder(model, block.get("activation", "gelu"))
    tokens = draw(2, 3, 2, seed=1)
    flow = linearize(model, model.inputs(tokens))
    stream = tokens @ model.embedding.weight.T + model.embedding.bias + model.position
    states = flow.trajectory.states.unflatten(-1, (3, 4))
    close(states[:, 0], stream, 1e-12)
    err = draw(*states.shape, seed=2)
    err[:, 1::2] = 0  # the encoder's layers end at the other steps
    loss = (stream * err[:, 0]).sum()
    for k, layer in enumerate(twin.layers):
        stream = layer(stream, src_mask=masked(model))
        close(states[:, 2 * k + 2], stream, 1e-12)
        loss = loss + (stream * err[:, 2 * k + 2]).sum()
    for k, layer in enumerate(twin.layers):  # the sublayer in between, with its fused attention
        between = states[:, 2 * k].detach()
        q, k_, v = functional.linear(
            layer.norm1(between), layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
        ).chunk(3, dim=-1)
        heads = [z.unflatten(-1, (layer.self_attn.num_heads, -1)).transpose(1, 2) for z in (q, k_, v)]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=model.causal)
        out = layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(-2))
        close(states[:, 2 * k + 1], between + out, 1e-12)
        differ(states[:, 2 * k + 1], between)

    loss.backward()
    expected = {name: p.grad for name, p in twin.named_parameters()}
    expected |= {name: p.grad for name, p in model.named_parameters() if not name.startswith("layers.")}
    update = (flow.J.T @ flow.P.T)(err.flatten(-2))
    scale = float(torch.cat([g.reshape(-1) for g in expected.values()]).norm())
    for name, gradient in expected.items():
        part = update[flow.J.domain["parameter"].part(name).slice].reshape(gradient.shape)
        assert float((part - gradient).norm()) <= 1e-12 * scale, name
    assert {part.name for part in flow.J.domain["parameter"].parts} == set(expected)
    differ((flow.J.T @ flow.P.T)(err.flatten(-2).flip(0)), update)


def test_torchs_encoder_without_the_mask_differs(make_attention, encoder, draw, close, differ) -> None:
    model, tokens = make_attention(blocks=2), draw(2, 3, 2, seed=1)
    states = model.rollout(model.inputs(tokens)).states.unflatten(-1, (3, 4))
    twin = encoder(model)
    close(states[:, -1], twin(states[:, 0], mask=masked(model)), 1e-12)
    differ(states[:, -1], twin(states[:, 0]))
    free = make_attention(blocks=2, causal=False)
    close(free.rollout(model.inputs(tokens)).states.unflatten(-1, (3, 4))[:, -1], twin(states[:, 0]), 1e-12)


def test_a_token_moves_no_earlier_token(make_attention, draw) -> None:
    x = draw(2, 3, 2, seed=1)
    for causal in (True, False):
        model = make_attention(blocks=2, heads=2, causal=causal)
        states = model.rollout(model.inputs(x)).states.unflatten(-1, (3, 4))
        for j in range(3):
            kicked = x.clone()
            kicked[:, j] += 1.0
            moved = model.rollout(model.inputs(kicked)).states.unflatten(-1, (3, 4)) - states
            size = moved.abs().amax(dim=(0, 1, 3))  # [token]
            assert bool((size[j:] > 1e-3).all())
            assert bool((size[:j] == 0).all()) if causal else bool((size > 1e-3).all())


def test_operators_are_causal_over_tokens(make_attention, draw) -> None:
    earlier = torch.ones(3, 3, dtype=torch.bool).triu(1)  # [to, from]
    for causal in (True, False):
        model = make_attention(blocks=1, heads=2, causal=causal)
        flow = linearize(model, model.inputs(draw(2, 6, seed=1)))
        A = flow.A.blocks().reshape(2, 3, 3, 4, 3, 4)  # [B, T, token, d, token, d]
        coupling = A.abs().amax(dim=(0, 3, 5))  # [T, token, token]
        assert not coupling[0].any()  # tokens are read in, whatever the state was
        assert bool((coupling[1][earlier] == 0).all()) is causal
        assert bool((coupling[1][~earlier] > 1e-3).all())
        assert not coupling[2][~torch.eye(3, dtype=torch.bool)].any()  # an MLP couples no tokens
        P = flow.P.to_dense().reshape(2, 3, 3, 4, 2, 3, 3, 4)
        reach = P.abs().amax(dim=(0, 1, 3, 4, 5, 7))
        assert bool((reach[earlier] == 0).all()) is causal
        assert bool((reach[~earlier] > 1e-3).all())


def test_rows_of_different_steps_in_one_call(make_attention, draw, close, differ) -> None:
    model = make_attention(blocks=2)
    t = torch.tensor([3, 0, 4, 3, 1, 2, 0])
    x, h = draw(7, 6, seed=1), draw(7, 12, seed=2)
    alone = torch.cat([model.step(x[i : i + 1], h[i : i + 1], t[i : i + 1]) for i in range(7)])
    close(model.step(x, h, t), alone, 1e-14)
    differ(model.step(x, h, t.flip(0)), alone)


def test_samples_by_token(make_attention, draw) -> None:
    model = make_attention()
    tokens = draw(2, 3, 2, seed=1)
    assert torch.equal(model.inputs(tokens), model.inputs(tokens.flatten(1)))
    assert list(model.inputs(tokens).shape) == [2, 3, 6]
    later = torch.cat([model.inputs(tokens)[:, :1], draw(2, 2, 6, seed=3)], dim=1)
    states = model.rollout(model.inputs(tokens)).states
    assert torch.equal(model.rollout(later).states, states)
    assert torch.equal(model.rollout(later, draw(2, 12, seed=4)).states, states)
    with pytest.raises(
        ShapeError, match=r"samples: expected shape \[batch, tokens=3, features=2\], got \[2, 2, 3\]"
    ):
        model.inputs(tokens.reshape(2, 2, 3))
    with pytest.raises(ShapeError, match=r"samples: expected shape \[batch, input=6\], got \[2, 5\]"):
        model.inputs(draw(2, 5))
    with pytest.raises(ShapeError, match=r"x: expected 3 steps.*got shape \[2, 2, 6\]"):
        model.rollout(draw(2, 2, 6))


def test_fused_attention_would_not_do() -> None:
    """Why attention is written from plain operations: the fused kernel differentiates once only."""
    q = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = functional.scaled_dot_product_attention(q, q, q)
        (first,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
        with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
            torch.autograd.grad(first.sum(), q)
