"""What does diffusers' pipeline reach, and at what cost? The same trained networks and starts for it and for ours.

    python benchmarks/planner_peer.py [--task medium] [--episodes 10] [--steps 10000]

One joint planner (states and actions, a U-Net, a guide for goals) is trained on the `waypoints` data of
benchmarks/planner.py. Diffusers' experimental `ValueGuidedRLPipeline` drives it with Diffuser's default settings (64
samples, 20 steps, 2 gradients, a plan each step); it cannot be told a goal, so the guide is given to it with the goal
filled in, and states and actions are normalised for it, each dimension by itself, which it would not do. Ours drives
the same networks with the same settings, and the planner that benchmarks/planner.py trained with its own. One line each
in benchmarks/results/planner_peer.jsonl; the peer takes minutes an episode.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.experimental import ValueGuidedRLPipeline
from torch import Tensor, nn

from _cells import ResultLines, train_to_end
from _planner_cell import drive
from planner import COMMON, EVALUATION_SEED, WORK, Cell, collect
from qseq import load_policy
from qseq.environments import DictObservation
from qseq.environments.pointmaze import DEFAULT_STEPS
from qseq.evaluation import PolicyActor, wilson_interval
from qseq.evaluation.actors import Actor

RESULTS = ResultLines("planner_peer")
HORIZON, SAMPLES, STEPS, GRADIENTS, SCALE = 32, 64, 20, 2, 0.1
OVERRIDES = (
    "trajectory.contents=states-actions",
    "trajectory.stride=1",
    f"trajectory.horizon={HORIZON}",
    f"diffusion.noise_steps={STEPS}",
    "denoiser.kind=unet",
    "value.guide=true",
)
SAME = {"steps": STEPS, "sampler": "ddpm", "candidates": SAMPLES, "guidance_steps": GRADIENTS, "replan_every": 1}


class GuideToGoal(nn.Module):
    """Our guide as diffusers' pipeline calls a value function, with a goal filled in."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.guide, self.network = network.guide, (network,)
        self.goal_1G = torch.zeros(1, 2)

    def forward(self, plans_BXH: Tensor, levels_B: Tensor) -> Any:
        goals_BG = self.network[0].normalise_goals(self.goal_1G).expand(len(plans_BXH), -1)
        return SimpleNamespace(sample=self.guide(plans_BXH.transpose(1, 2), levels_B, goals_BG))


class World:
    """What the pipeline asks of an environment; means of 0 and deviations of 1, as it is shown normalised values."""

    def __init__(self, state_size: int, action_size: int) -> None:
        self.observation_space = SimpleNamespace(shape=(state_size,))
        self.action_space = SimpleNamespace(shape=(action_size,))

    def get_dataset(self) -> dict[str, np.ndarray]:
        return dict.fromkeys(("observations", "actions"), np.array([-1.0, 1.0], np.float32))


class PeerActor(Actor):
    """Diffusers' pipeline, with networks of ours."""

    name = "diffusers pipeline"

    def __init__(self, policy: Any) -> None:
        self.policy, self.network = policy, policy.network
        world = World(policy.spec.state_size, policy.spec.action_size)
        scheduler = DDPMScheduler.from_config(policy.planner.scheduler.config)
        scheduler.set_timesteps(STEPS)
        self.value = GuideToGoal(self.network)
        self.pipeline: Any = ValueGuidedRLPipeline(self.value, self.network.denoiser.unet, scheduler, world)

    def start(self, slot: int, env: DictObservation, seed: int, index: int) -> None:
        torch.manual_seed(seed + index)  # it takes no generator

    def act(self, slots: Sequence[int], observations: Sequence[Any], instructions: Sequence[str]) -> list[Any]:
        return [self._decide(seen) for seen in observations]

    def _decide(self, seen: Any) -> Any:
        fields = self.policy.spec.data
        state_1S = torch.from_numpy(seen[fields.state_field]).float().unsqueeze(0)
        self.value.goal_1G = torch.from_numpy(seen[fields.goal_field]).float().unsqueeze(0)
        shown = self.network.states.normalise(state_1S)[0].numpy()
        with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():  # it draws a progress bar
            normalised = self.pipeline(shown, SAMPLES, HORIZON, GRADIENTS, SCALE)
        action_A = self.network.actions.denormalise(torch.from_numpy(normalised))
        return action_A.clamp(-1.0, 1.0).numpy()


class Clock(Actor):
    """Another actor, and the processor time that its decisions take."""

    def __init__(self, actor: Actor) -> None:
        self.actor, self.seconds, self.decisions = actor, 0.0, 0
        self.name = actor.name

    def prepare(self, env: DictObservation) -> None:
        self.actor.prepare(env)

    def start(self, slot: int, env: DictObservation, seed: int, index: int) -> None:
        self.actor.start(slot, env, seed, index)

    def observe_start(self, slot: int, observation: Any, info: dict[str, Any]) -> None:
        self.actor.observe_start(slot, observation, info)

    def act(self, slots: Sequence[int], observations: Sequence[Any], instructions: Sequence[str]) -> list[Any]:
        started = time.process_time()
        actions = self.actor.act(slots, observations, instructions)
        self.seconds += time.process_time() - started
        self.decisions += len(slots)
        return actions


def actors(joint: Cell, planner: Cell) -> dict[str, Actor]:
    """By name, the quickest first; the planner of benchmarks/planner.py only where it has been trained."""
    found: dict[str, Actor] = {}
    if (planner.run / "checkpoints").exists():
        found["ours, default"] = PolicyActor(load_policy(planner.run))
    found["diffusers pipeline"] = PeerActor(load_policy(joint.run))
    found["ours, same networks and settings"] = PolicyActor(
        load_policy(joint.run, selection="endpoint", guidance_scale=SCALE, **SAME)
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="medium", choices=["medium", "large"])
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--max-episode-steps", type=int, help="instead of the maze's own")
    parser.add_argument("--steps", type=int, default=10_000, help="of training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    joint = Cell("waypoints", arguments.task, "joint-unet", 0)
    collect(joint)
    how = ["--algo", "diffuser", "--data", str(joint.store), "--seed", "0"]
    train_to_end(joint.run, *how, *COMMON, *OVERRIDES, f"training.steps={arguments.steps}")
    for name, actor in actors(joint, Cell("waypoints", arguments.task, "select", 0)).items():
        clock = Clock(actor)
        limit = arguments.max_episode_steps
        records = drive(clock, arguments.task, arguments.episodes, EVALUATION_SEED, max_episode_steps=limit)
        reached = sum(bool(record.success) for record in records)
        line = {
            "actor": name,
            "task": arguments.task,
            "episodes": arguments.episodes,
            "max_episode_steps": limit or DEFAULT_STEPS[arguments.task],
            "evaluation_seed": EVALUATION_SEED,
            "training_steps": arguments.steps,
            "reach_rate": reached / len(records),
            "reach_ci95": list(wilson_interval(reached, len(records))),
            "environment_steps": clock.decisions,
            "processor_milliseconds_per_step": 1000 * clock.seconds / clock.decisions,
        }
        RESULTS.add(line)
        print(line, flush=True)


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    main()
