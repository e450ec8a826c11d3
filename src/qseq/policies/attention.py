"""Where in its cameras' frames a network finds what its scores depend on.

Legend: B batch, F frames of history, A action tokens of a decision, S tokens of a frame, h x w positions of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from qseq.networks.action_network import ActionNetwork
from qseq.networks.text import Instruction


def camera_attention(
    network: ActionNetwork,
    observation: Mapping[str, Tensor],
    instruction: Instruction,
    tokens_BA: Tensor,
    scores: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """For each camera, `[B, h, w]` over its newest frame: shares of attention that add up to one. None without cameras.

    Every token of a frame says where it looks (`CameraEncoder.places`). Those places count as much as the token does
    for the scores of the decision `tokens_BA`: by its part in them to first order, gradient times token (Shrikumar et
    al. 2017, section 2).

    Args:
        observation: each field `[B, F, *shape]`.
        scores: logits `[..., K, *outputs]` -> `[..., K]`.
    """
    with torch.no_grad():
        seen = {name: tokens.detach() for name, tokens in network.see(observation, instruction).items()}
    if not seen:
        return {}
    with torch.enable_grad():
        for tokens in seen.values():
            tokens.requires_grad_()
        context = network.encode(observation, instruction, seen)
        taken_BA1 = scores(network.decode(context, tokens_BA[:, :-1]).float()).gather(-1, tokens_BA.unsqueeze(-1))
        gradients = torch.autograd.grad(taken_BA1.sum(), list(seen.values()))
    with torch.no_grad():
        newest = {name: frames[:, -1:] for name, frames in observation.items()}
        places = network.encoder.places(newest, instruction)
    attention: dict[str, Tensor] = {}
    for (name, tokens), gradient in zip(seen.items(), gradients, strict=True):
        weight_BS = (gradient * tokens.detach()).sum(-1).abs()[:, -1]
        share_BS11 = (weight_BS / weight_BS.sum(-1, keepdim=True).clamp_min(1e-12))[..., None, None]
        attention[name] = (share_BS11 * places[name][:, 0].float()).sum(1)
    return attention
