"""The robotic transformer: Q-values of every bin of every action dimension.

Legend: B batch, F frames of history, A action tokens of a decision, P tokens of a prefix, K bins, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Literal, overload

import torch
from torch import Tensor

from qseq.networks.action_network import ActionNetwork, NetworkConfig
from qseq.networks.attention import DecodingCache
from qseq.networks.camera import VisionConfig
from qseq.networks.head import HeadConfig, order_table
from qseq.networks.observation import FieldLayout
from qseq.networks.state_values import FoldedStateValue
from qseq.robot.decoding import DecodingConfig, checked_order, choose_tokens
from qseq.values import BoundedValue, LeastOf, ValueTransform

State = Tensor | Mapping[str, Tensor]


class QRoboticTransformer(ActionNetwork):
    """Autoregressive Q-function over action tokens (Q-Transformer, Chebotar et al. 2023).

    Observations are tensors `[B, *shape]` (one frame) or `[B, F, *shape]`, or mappings of them by field; instructions
    are texts or their embeddings from `embed_texts`; actions are tokens, int64 `[B, P]`.

    Args:
        state_dim: size of the state vector, for the simple case of one field named "state"; or
        fields: layout of every observation field: a vector (shape, mean, std), or a camera's frame of shape
            (channels, height, width).
        vision: sizes of what reads cameras.
        num_actions: A, tokens of a decision. action_bins: K.
        dim, depth, heads, dim_head, ff_mult, dropout: of the transformer over observation tokens.
        q_head_attn_kwargs: `attn_depth`, `attn_heads`, `attn_dim_head` of the decoder over action tokens.
        weight_tie_action_bin_embed: score bins with their own embeddings.
        dueling, dual_critics, dimension_order, num_orders, pooled: of the head, see `HeadConfig`.
        history: F.
        values: what logits mean; by default Q = sigmoid(logit), for returns in [0, 1].
        initial_value: where Q starts, as a share of the range of a bounded value.
        value_folds: networks that learn the value of a state, see `QObjectiveConfig.value_folds`.
        token_mask_AK: bool, False where a bin does not exist.
    """

    def __init__(
        self,
        *,
        state_dim: int | None = None,
        fields: Mapping[str, FieldLayout] | None = None,
        num_actions: int = 8,
        action_bins: int = 256,
        dim: int = 128,
        depth: int = 1,
        heads: int = 4,
        dim_head: int = 32,
        ff_mult: int = 4,
        dropout: float = 0.0,
        q_head_attn_kwargs: Mapping[str, int] | None = None,
        weight_tie_action_bin_embed: bool = False,
        dueling: bool = False,
        dual_critics: bool = False,
        dimension_order: Literal["fixed", "random", "learned"] = "fixed",
        num_orders: int = 4,
        pooled: bool = False,
        history: int = 1,
        vision: VisionConfig | None = None,
        instruction_vocabulary: int = 1024,
        values: ValueTransform | None = None,
        initial_value: float = 0.05,
        value_folds: int = 1,
        token_mask_AK: Tensor | None = None,
    ) -> None:
        if fields is None:
            if state_dim is None:
                raise ValueError("give state_dim or fields")
            fields = {"state": FieldLayout(shape=(state_dim,))}
        head = {"attn_depth": 2, "attn_heads": heads, "attn_dim_head": dim_head} | dict(q_head_attn_kwargs or {})
        if len(head) > 3:
            raise ValueError(
                f"q_head_attn_kwargs: found {sorted(head)}, expected attn_depth, attn_heads, attn_dim_head"
            )
        values = values or BoundedValue()
        config = NetworkConfig(
            dim=dim,
            encoder_depth=depth,
            decoder_depth=head["attn_depth"],
            heads=heads,
            dim_head=dim_head,
            decoder_heads=head["attn_heads"],
            decoder_dim_head=head["attn_dim_head"],
            ff_mult=ff_mult,
            dropout=dropout,
            tied=weight_tie_action_bin_embed,
            head=HeadConfig(
                dueling=dueling,
                dual_critics=dual_critics,
                dimension_order=dimension_order,
                num_orders=num_orders,
                pooled=pooled,
            ),
            vision=vision or VisionConfig(),
            instruction_vocabulary=instruction_vocabulary,
        )
        initial_logit = math.log(initial_value / (1 - initial_value)) if isinstance(values, BoundedValue) else 0.0
        super().__init__(
            config,
            fields,
            num_tokens=num_actions,
            num_bins=action_bins,
            history=history,
            outputs_per_bin=math.prod(values.atom_shape),
            initial_logit=initial_logit,
            token_mask_AK=token_mask_AK,
        )
        self.config = config
        self.num_actions = num_actions
        self.state_value: ValueTransform = values
        self.values: ValueTransform = LeastOf(values) if dual_critics else values
        self.folded_value = FoldedStateValue(
            fields,
            folds=value_folds,
            history=history,
            dim=dim,
            vision=config.vision,
            outputs=math.prod(values.atom_shape),
            initial_logit=initial_logit,
            dropout=dropout,
        )
        self.token_mask_AK = token_mask_AK
        self.orders_MA = order_table(config.head, num_tokens=num_actions, num_bins=action_bins)

    @classmethod
    def from_config(
        cls,
        config: NetworkConfig,
        fields: Mapping[str, FieldLayout],
        *,
        num_actions: int,
        action_bins: int,
        history: int,
        values: ValueTransform,
        initial_value: float,
        value_folds: int,
        token_mask_AK: Tensor | None,
    ) -> QRoboticTransformer:
        """The same network from a `NetworkConfig`."""
        return cls(
            fields=fields,
            num_actions=num_actions,
            action_bins=action_bins,
            dim=config.dim,
            depth=config.encoder_depth,
            heads=config.heads,
            dim_head=config.dim_head,
            ff_mult=config.ff_mult,
            dropout=config.dropout,
            q_head_attn_kwargs={
                "attn_depth": config.decoder_depth,
                "attn_heads": config.decoder_heads,
                "attn_dim_head": config.decoder_dim_head,
            },
            weight_tie_action_bin_embed=config.tied,
            **asdict(config.head),
            vision=config.vision,
            history=history,
            instruction_vocabulary=config.instruction_vocabulary,
            values=values,
            initial_value=initial_value,
            value_folds=value_folds,
            token_mask_AK=token_mask_AK,
        )

    def state_values(
        self, observation: Mapping[str, Tensor], instruction_BD: Tensor, seen: Mapping[str, Tensor]
    ) -> Tensor:
        """Logits `[B, folds, *atom_shape]` of the value of a state, before any token; what training bootstraps from."""
        logits: Tensor = self.folded_value(observation, instruction_BD, seen)
        return logits.view(*logits.shape[:2], *self.state_value.atom_shape)

    def decode(self, context_BSD: Tensor, prefix_BP: Tensor, cache: DecodingCache | None = None) -> Tensor:
        """Logits `[B, P + 1, K, *atom_shape]` of the dimensions in their own order."""
        if self.orders_MA is None:
            return super().decode(context_BSD, prefix_BP, cache)
        own_order_B1 = prefix_BP.new_zeros(len(prefix_BP), 1)
        order_token_is_new = cache is None or cache.length == 0
        logits: Tensor = self.decoder(context_BSD, torch.cat((own_order_B1, prefix_BP), dim=1), cache)
        return logits[:, 1:] if order_token_is_new else logits

    def decode_in_order(self, context_BSD: Tensor, prefix_BP: Tensor, order_BT: Tensor) -> Tensor:
        """Logits `[B, P + 1, K, *atom_shape]` by position; position j decides token `order[j]`.

        Where a first token chooses the order, that is token 0 of the sequence, and dimension i is token i + 1.
        """
        logits: Tensor = self.decoder(context_BSD, prefix_BP, None, order_BT)
        return logits

    def forward(
        self,
        state: State,
        texts: Sequence[str] | None = None,
        actions: Tensor | None = None,
        *,
        text_embeds: Tensor | None = None,
        order: Sequence[int] | Tensor = (),
    ) -> Tensor:
        """Q `[B, P + 1, K]` for a prefix of P tokens, `[B, A, K]` for a whole decision: every bin of each token.

        With an `order` of the dimensions (see `choose_tokens`), actions and Q are laid out in that order.
        """
        context = self._context(state, texts, text_embeds)
        if actions is None:
            actions = torch.empty((len(context), 0), dtype=torch.long, device=context.device)
        order_BA = checked_order(self, order, len(context))
        prefix = actions[:, : self.num_actions - 1]
        logits = self.decode(context, prefix) if order_BA is None else self.decode_in_order(context, prefix, order_BA)
        return self.values.values(logits)

    @overload
    def get_optimal_actions(
        self,
        state: State,
        texts: Sequence[str] | None = ...,
        actions: Tensor | None = ...,
        *,
        text_embeds: Tensor | None = ...,
        return_q_values: Literal[False] = ...,
        prob_random_action: float = ...,
        temperature: float = ...,
        beam_width: int = ...,
        order: Sequence[int] | Tensor = ...,
        use_cache: bool = ...,
        generator: torch.Generator | None = ...,
    ) -> Tensor: ...
    @overload
    def get_optimal_actions(
        self,
        state: State,
        texts: Sequence[str] | None = ...,
        actions: Tensor | None = ...,
        *,
        text_embeds: Tensor | None = ...,
        return_q_values: Literal[True],
        prob_random_action: float = ...,
        temperature: float = ...,
        beam_width: int = ...,
        order: Sequence[int] | Tensor = ...,
        use_cache: bool = ...,
        generator: torch.Generator | None = ...,
    ) -> tuple[Tensor, Tensor]: ...
    @torch.no_grad()
    def get_optimal_actions(
        self,
        state: State,
        texts: Sequence[str] | None = None,
        actions: Tensor | None = None,
        *,
        text_embeds: Tensor | None = None,
        return_q_values: bool = False,
        prob_random_action: float = 0.0,
        temperature: float = 0.0,
        beam_width: int = 1,
        order: Sequence[int] | Tensor = (),
        use_cache: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Greedy tokens `[B, A]`, each the best given the tokens before it; with them Q `[B, A, K]` if asked.

        A prefix given as `actions` is kept. Every single dimension is random with probability `prob_random_action`, or
        chosen with Gumbel noise of scale `temperature`, or by beam search. See `choose_tokens` for `order`.
        """
        decoding = DecodingConfig(epsilon=prob_random_action, temperature=temperature, beam_width=beam_width)
        tokens_BA, values_BAK = choose_tokens(
            self,
            self._context(state, texts, text_embeds),
            decoding.select(generator=generator),
            prefix_BP=actions,
            order=order,
            beam_width=beam_width,
            use_cache=use_cache,
        )
        return (tokens_BA, values_BAK) if return_q_values else tokens_BA

    def get_random_actions(self, batch_size: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Tokens `[B, A]`, every existing bin equally likely."""
        shape = (self.num_actions, self.decoder.num_bins)
        mask_AK = torch.ones(shape) if self.token_mask_AK is None else self.token_mask_AK.float().cpu()
        return torch.multinomial(mask_AK, batch_size, replacement=True, generator=generator).T.to(self.device)

    @torch.no_grad()
    def get_actions(
        self,
        state: State,
        texts: Sequence[str] | None = None,
        *,
        text_embeds: Tensor | None = None,
        prob_random_action: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Epsilon-greedy over whole decisions, `[B, A]`: with the given probability a row is wholly random."""
        best_BA = self.get_optimal_actions(state, texts, text_embeds=text_embeds)
        random_BA = self.get_random_actions(len(best_BA), generator)
        explore_B1 = torch.rand(len(best_BA), 1, generator=generator).to(best_BA.device) < prob_random_action
        return torch.where(explore_B1, random_BA, best_BA)

    def _context(self, state: State, texts: Sequence[str] | None, text_embeds: Tensor | None) -> Tensor:
        given = state if isinstance(state, Mapping) else {self.encoder.fields[0]: state}
        observation: dict[str, Tensor] = {}
        for name in self.encoder.fields:
            frame_dims = len(self.field_shapes[name])
            value = given[name].to(self.device)
            observation[name] = value if value.dim() == frame_dims + 2 else value[:, None]
        batch = len(next(iter(observation.values())))
        if text_embeds is None:
            text_embeds = self.embed_texts(list(texts) if texts else [""] * batch)
        return self.encode(observation, text_embeds.expand(batch, -1))
