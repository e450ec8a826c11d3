"""The robotic transformer: Q-values of every bin of every action dimension.

Legend: B batch, F frames of history, A action tokens of a decision, P tokens of a prefix, K bins, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from qseq.networks.action_network import NetworkConfig
from qseq.networks.attention import DecodingCache
from qseq.networks.decoder import Decoder
from qseq.networks.head import HeadConfig, order_table
from qseq.networks.observation import FieldLayout
from qseq.networks.state_values import FoldedStateValue
from qseq.networks.text import Instruction, TextConfig
from qseq.networks.vision import MaxViT, VisionConfig
from qseq.robot.arguments import CAMERA, VIDEO_FRAMES, read_conditioning, read_head, read_vit, with_token_learner
from qseq.robot.decoding import DecodingConfig, checked_order, choose_tokens
from qseq.robot.prior import make_prior
from qseq.robot.reader import State, StateReader
from qseq.values import BoundedValue, LeastOf, ValueTransform


class QRoboticTransformer(StateReader):
    """Autoregressive Q-function over action tokens (Q-Transformer, Chebotar et al. 2023).

    Observations are tensors `[B, *shape]` (one frame) or `[B, F, *shape]`, or mappings of them by field; a bare tensor
    is the first field, and if that is a camera a film `[B, C, F, H, W]`. Instructions are texts, or embeddings of them
    from `embed_texts` or elsewhere, `[B, E]` or `[B, words, E]`; actions are tokens, int64 `[B, P]`.

    Args:
        state_dim: size of the state vector, for the simple case of one field named "state"; or
        fields: layout of every observation field: a vector (shape, mean, std), or a camera's frame of shape
            (channels, height, width); or
        vit: a MaxViT, a dict of its arguments, or any module with the interface of `VisionTower`, for the case of one
            camera "image"; see `read_vit`. A policy of another module than a MaxViT cannot be loaded without it.
        image_size: pixels of a side, or (height, width), of its frames.
        vision: sizes of what reads cameras.
        num_actions: A, tokens of a decision. action_bins: K.
        dim, depth, heads, dim_head, ff_mult, dropout: of the transformer over observation tokens.
        token_learner_num_output_tokens, token_learner_ff_mult, token_learner_num_layers: tokens of a frame, and the
            network that makes them.
        text: how instructions are read. The following change single settings of it:
        condition_on_text: False for a model without instructions, in whose place stands a learnt vector.
        cond_drop_prob: share of the training samples whose instruction is dropped.
        use_attn_conditioner: tokens attend to the words of the instruction; otherwise FiLM (built with `vit`).
        conditioner_kwargs: further settings of `TextConfig`, such as `encoder="hf:google/t5-v1_1-base"`.
        text_embed_dim: E of embeddings given in the place of texts; they are projected.
        flash_attn: False computes attention by plain products, everywhere and always; True by the fused kernels where
            they are faster. A property of the computation: it is not saved with a policy.
        q_head_attn_kwargs: `attn_depth`, `attn_heads`, `attn_dim_head` of the decoder over action tokens.
        weight_tie_action_bin_embed: score bins with their own embeddings.
        dueling, dual_critics, dimension_order, num_orders, pooled: of the head, see `HeadConfig`.
        history: F, by default 1, with `vit` 6.
        values: what logits mean; by default Q = sigmoid(logit), for returns in [0, 1].
        initial_value: where Q starts, as a share of the range of a bounded value.
        value_folds: networks that learn the value of a state, see `QObjectiveConfig.value_folds`.
        prior: a second head imitates good decisions, see `QObjectiveConfig.prior_weight`.
        matching: a head tells whether a state is where the instruction leads, see `QObjectiveConfig.matching_weight`.
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
        history: int | None = None,
        vit: MaxViT | Mapping[str, Any] | nn.Module | None = None,
        image_size: int | tuple[int, int] | None = None,
        vision: VisionConfig | None = None,
        token_learner_num_output_tokens: int | None = None,
        token_learner_ff_mult: int | None = None,
        token_learner_num_layers: int | None = None,
        text: TextConfig | None = None,
        condition_on_text: bool = True,
        cond_drop_prob: float | None = None,
        use_attn_conditioner: bool | None = None,
        conditioner_kwargs: Mapping[str, Any] | None = None,
        text_embed_dim: int | None = None,
        flash_attn: bool = True,
        values: ValueTransform | None = None,
        initial_value: float = 0.05,
        value_folds: int = 1,
        prior: bool = False,
        matching: bool = False,
        token_mask_AK: Tensor | None = None,
    ) -> None:
        vision = with_token_learner(
            vision or VisionConfig(),
            tokens=token_learner_num_output_tokens,
            ff_mult=token_learner_ff_mult,
            layers=token_learner_num_layers,
        )
        tower = None
        if vit is not None:
            if fields is not None or state_dim is not None:
                raise ValueError("give one of vit, state_dim and fields")
            camera = read_vit(vit, vision, image_size)
            vision, tower, fields = camera.vision, camera.tower, {CAMERA: camera.layout}
        if fields is None:
            if state_dim is None:
                raise ValueError("give state_dim or fields, or vit")
            fields = {"state": FieldLayout(shape=(state_dim,))}
        history = history or (1 if vit is None else VIDEO_FRAMES)
        head = read_head(q_head_attn_kwargs, heads=heads, dim_head=dim_head)
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
            vision=vision,
            text=read_conditioning(
                text,
                condition_on_text=condition_on_text,
                cond_drop_prob=cond_drop_prob,
                use_attn_conditioner=use_attn_conditioner,
                conditioner_kwargs=conditioner_kwargs,
                text_embed_dim=text_embed_dim,
                film=vit is not None,
            ),
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
            tower=tower,
            flash_attn=flash_attn,
        )
        self.num_actions = num_actions
        self.state_value: ValueTransform = values
        self.values: ValueTransform = LeastOf(values) if dual_critics else values
        self.folded_value = FoldedStateValue(
            fields,
            folds=value_folds,
            history=history,
            dim=dim,
            camera_tokens=self.encoder.camera_tokens,
            outputs=math.prod(values.atom_shape),
            initial_logit=initial_logit,
            dropout=dropout,
        )
        self.prior = make_prior(config, num_actions, action_bins, token_mask_AK) if prior else None
        self.matching = nn.Linear(dim, 1) if matching else None
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
        prior: bool,
        matching: bool,
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
            text=config.text,
            history=history,
            values=values,
            initial_value=initial_value,
            value_folds=value_folds,
            prior=prior,
            matching=matching,
            token_mask_AK=token_mask_AK,
        )

    def state_values(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor]
    ) -> Tensor:
        """Logits `[B, folds, *atom_shape]` of the value of a state, before any token; what training bootstraps from."""
        logits: Tensor = self.folded_value(observation, instruction, seen)
        return logits.view(*logits.shape[:2], *self.state_value.atom_shape)

    def decode(
        self,
        context: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        *,
        decoder: Decoder | None = None,
    ) -> Tensor:
        """Logits `[B, P + 1, K, *atom_shape]` of the dimensions in their own order."""
        if self.orders_MA is None:
            return super().decode(context, prefix_BP, cache, decoder=decoder)
        own_order_B1 = prefix_BP.new_zeros(len(prefix_BP), 1)
        order_token_is_new = cache is None or cache.length == 0
        logits = super().decode(context, torch.cat((own_order_B1, prefix_BP), dim=1), cache, decoder=decoder)
        return logits[:, 1:] if order_token_is_new else logits

    def decode_in_order(
        self, context: Tensor, prefix_BP: Tensor, order_BT: Tensor, *, decoder: Decoder | None = None
    ) -> Tensor:
        """Logits `[B, P + 1, K, *atom_shape]` by position; position j decides token `order[j]`.

        Where a first token chooses the order, that is token 0 of the sequence, and dimension i is token i + 1.
        """
        with self._kernels():
            logits: Tensor = (decoder or self.decoder)(context, prefix_BP, None, order_BT)
        return logits

    def prior_logits(self, context: Tensor, prefix_BP: Tensor, order_BA: Tensor | None) -> Tensor:
        """Logits `[B, P + 1, K]` of the head that imitates; by position, if an order is given."""
        assert self.prior is not None, "built with prior=False"
        with self._kernels():
            logits: Tensor = self.prior(context, prefix_BP, None, order_BA)
        return logits

    def match_logits(self, context_BSD: Tensor) -> Tensor:
        """Logits `[B]` of a state being where its instruction leads, of the tokens that `encode` made of both."""
        assert self.matching is not None, "built with matching=False"
        logits: Tensor = self.matching(context_BSD.mean(1))[:, 0]
        return logits

    def forward(
        self,
        state: State,
        texts: Sequence[str] | None = None,
        actions: Tensor | None = None,
        *,
        text_embeds: Tensor | None = None,
        order: Sequence[int] | Tensor = (),
        cond_scale: float = 1.0,
    ) -> Tensor:
        """Q `[B, P + 1, K]` for a prefix of P tokens, `[B, A, K]` for a whole decision: every bin of each token.

        With an `order` of the dimensions (see `choose_tokens`), actions and Q are laid out in that order. `cond_scale`
        other than 1 guides: logits are moved away from those of the null instruction (`GuidedDecoder`).
        """
        observation = self._observation(state)
        batch = len(next(iter(observation.values())))
        if actions is None:
            actions = torch.empty((batch, 0), dtype=torch.long, device=self.device)
        decoder, context = self._reader(observation, texts, text_embeds, cond_scale)
        order_BA = checked_order(self, order, batch)
        prefix = actions[:, : self.num_actions - 1]
        if order_BA is None:
            return self.values.values(self.decode(context, prefix, decoder=decoder))
        return self.values.values(self.decode_in_order(context, prefix, order_BA, decoder=decoder))

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
        cond_scale: float = ...,
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
        cond_scale: float = ...,
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
        cond_scale: float = 1.0,
        use_cache: bool = True,
        generator: torch.Generator | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Greedy tokens `[B, A]`, each the best given the tokens before it; with them Q `[B, A, K]` if asked.

        A prefix given as `actions` is kept. Every single dimension is random with probability `prob_random_action`, or
        chosen with Gumbel noise of scale `temperature`, or by beam search. See `choose_tokens` for `order`.
        """
        decoding = DecodingConfig(epsilon=prob_random_action, temperature=temperature, beam_width=beam_width)
        with self._kernels():
            decoder, context = self._reader(self._observation(state), texts, text_embeds, cond_scale)
            tokens_BA, values_BAK = choose_tokens(
                self,
                context,
                decoding.select(generator=generator),
                decoder=decoder,
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
        cond_scale: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Epsilon-greedy over whole decisions, `[B, A]`: with the given probability a row is wholly random."""
        best_BA = self.get_optimal_actions(state, texts, text_embeds=text_embeds, cond_scale=cond_scale)
        random_BA = self.get_random_actions(len(best_BA), generator)
        explore_B1 = torch.rand(len(best_BA), 1, generator=generator).to(best_BA.device) < prob_random_action
        return torch.where(explore_B1, random_BA, best_BA)
