"""Train stable-baselines3's SAC and write down all it did. Runs in stable-baselines3's own environment, not in qseq's.

    python sac_locomotion.py Hopper-v5 OUT.npz --steps 100000 --final-steps 20000 --seed 0

OUT.npz holds the episodes of its whole training (the replay), then those of the final policy without its noise: one row
a step of `actions` and `rewards`, one row more an episode of `observations`; `lengths`, `terminated` and `final` have
one row an episode. An episode that was under way when training stopped is cut off, not terminated.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import SAC


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every episode that is played through it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.episodes: list[dict[str, Any]] = []
        self.final = False

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        self.episodes.append(
            {"observations": [observation], "actions": [], "rewards": [], "terminated": False, "final": self.final}
        )
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        episode = self.episodes[-1]
        episode["observations"].append(observation)
        episode["actions"].append(np.array(action))
        episode["rewards"].append(float(reward))
        episode["terminated"] = bool(terminated)
        return observation, reward, terminated, truncated, info


def play(model: SAC, env: Recorder, steps: int) -> None:
    """Whole episodes of the policy as it is, until there are so many steps."""
    env.final, done = True, 0
    while done < steps:
        observation, _ = env.reset()
        over = False
        while not over:
            observation, _, terminated, truncated, _ = env.step(model.predict(observation, deterministic=True)[0])
            over = terminated or truncated
            done += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--final-steps", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    env = Recorder(gym.make(arguments.env))
    started = time.perf_counter()
    model = SAC("MlpPolicy", env, seed=arguments.seed, device="cpu").learn(arguments.steps)
    seconds = time.perf_counter() - started
    play(model, env, arguments.final_steps)
    episodes = [episode for episode in env.episodes if episode["actions"]]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        arguments.out,
        observations=np.concatenate([np.asarray(e["observations"], np.float32) for e in episodes]),
        actions=np.concatenate([np.asarray(e["actions"], np.float32) for e in episodes]),
        rewards=np.concatenate([np.asarray(e["rewards"], np.float32) for e in episodes]),
        lengths=np.array([len(e["actions"]) for e in episodes]),
        terminated=np.array([e["terminated"] for e in episodes]),
        final=np.array([e["final"] for e in episodes]),
    )
    versions = {"stable-baselines3": stable_baselines3.__version__, "torch": torch.__version__}
    returns = [sum(e["rewards"]) for e in episodes if e["final"]]
    record = {"train_seconds": seconds, "final_return": float(np.mean(returns)), "versions": versions}
    arguments.out.with_suffix(".json").write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
