"""`ValueGuidedRLPipeline`: value-guided planning in one call (Janner et al. 2022, algorithm 1).

Legend: E observations, C candidates of each, P = E * C plans, H planned states, X entries of one planned state, S of a
state, A of an action.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from qseq.errors import RequestError
from qseq.planner.diffusion import set_steps
from qseq.planner.normalisers import Normaliser
from qseq.planner.pipeline_parts import DiffusersParts, PipelineParts, load_parts
from qseq.planner.sampling import Guidance, Known, sample_plans

_UNGUIDED_STEPS = 2


class ValueGuidedRLPipeline:
    """Plans of which the best one's first action is taken.

    Differs from the pipeline of this name in diffusers: every dimension has its own statistics, candidates are ranked
    by the value of the plans as they finally are, the gradient is scaled by the posterior variance, and no environment
    is held.

    Args:
        value_function, unet: `UNet1DModel`s of diffusers over plans of [action, state].
        scheduler: a `DDPMScheduler` or `DDIMScheduler`.
        states, actions: their normalisers (`Normaliser.fit`).
    """

    def __init__(
        self, value_function: nn.Module, unet: nn.Module, scheduler: Any, *, states: Normaliser, actions: Normaliser
    ) -> None:
        self.parts: PipelineParts = DiffusersParts(unet, value_function, scheduler, states, actions)

    @classmethod
    def of(cls, parts: PipelineParts) -> Self:
        """A pipeline of parts that are there."""
        pipeline = cls.__new__(cls)
        pipeline.parts = parts
        return pipeline

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, states: Normaliser | None = None, actions: Normaliser | None = None
    ) -> Self:
        """A planner of ours, or diffusers' `unet`, `value_function` and `scheduler`; see `load_parts`."""
        return cls.of(load_parts(source, states, actions))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write all that `from_pretrained` needs; no environment is part of it."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.parts.save(Path(folder))

    def __call__(
        self,
        obs: Any,
        batch_size: int = 64,
        planning_horizon: int = 32,
        n_guide_steps: int = 2,
        scale: float = 0.1,
        *,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> np.ndarray:
        """The action for an observation [S], or the actions [E, A] for a batch [E, S], in the data's units.

        Args:
            obs: the observation, as the environment gave it.
            batch_size: candidates.
            planning_horizon: planned states.
            n_guide_steps: pushes up the value's gradient before each denoising step but the last two; 0 only selects.
            scale: of the pushes.
            num_inference_steps: denoising steps; as many as there are levels of noise by default.
            generator: of all noise.

        Raises:
            RequestError: an observation of another size or not finite, or a horizon that a network cannot take.
        """
        parts = self.parts
        if batch_size < 1 or n_guide_steps < 0:
            raise RequestError(
                f"pipeline: found batch_size={batch_size}, n_guide_steps={n_guide_steps}, expected at least 1 and 0"
            )
        states_ES, single = self._read(obs)
        parts.require_horizon(planning_horizon, valued=batch_size > 1 or n_guide_steps > 0)
        set_steps(parts.scheduler, num_inference_steps or int(parts.scheduler.config.num_train_timesteps))
        offset = parts.plan_size - parts.states.size
        known = Known.nothing((len(states_ES) * batch_size, planning_horizon, parts.plan_size), states_ES.device)
        normalised_PS = parts.states.normalise(states_ES).repeat_interleave(batch_size, dim=0)
        known = known.with_entries(0, slice(offset, None), normalised_PS)
        guidance = (
            Guidance(value=parts.value, scale=scale, pushes=n_guide_steps, unguided=_UNGUIDED_STEPS)
            if n_guide_steps
            else None
        )
        plans_PHX = sample_plans(parts.denoiser, parts.scheduler, known, generator=generator, guidance=guidance)
        with torch.no_grad():
            plans_ECHX = plans_PHX.view(len(states_ES), batch_size, *plans_PHX.shape[1:])
            best_EHX = plans_ECHX[torch.arange(len(states_ES)), self._best(plans_PHX, len(states_ES), batch_size)]
            actions: np.ndarray = parts.first_actions(best_EHX).cpu().numpy()
        return actions[0] if single else actions

    def _best(self, plans_PHX: Tensor, environments: int, candidates: int) -> Tensor:
        """Which candidate's final plan has the highest value: int64 [E]."""
        if candidates == 1:
            return torch.zeros(environments, dtype=torch.int64)
        values_P = self.parts.value(plans_PHX, torch.zeros(1, dtype=torch.int64, device=plans_PHX.device))
        best_E: Tensor = values_P.view(environments, candidates).argmax(1)
        return best_E

    def _read(self, obs: Any) -> tuple[Tensor, bool]:
        states = torch.as_tensor(np.asarray(obs, dtype=np.float32)).to(self.parts.states.offset_D.device)
        size = self.parts.states.size
        if states.ndim not in (1, 2) or states.shape[-1] != size:
            raise RequestError(f"obs: found shape {list(states.shape)}, expected [{size}] or a batch of them")
        if not states.isfinite().all():
            raise RequestError("obs: found a value that is not finite, expected finite values")
        return states.reshape(-1, size), states.ndim == 1
