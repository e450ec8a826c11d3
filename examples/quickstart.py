"""Learn to balance a pole from episodes of random pushes: python examples/quickstart.py [FOLDER]"""

import sys
from pathlib import Path

import qseq
from qseq.configuration import load_config

SETTINGS = ["training.steps=600", "training.threads=1", "network.dim=64"]
SETTINGS_OF = {"q-transformer": ["objective.value_high=100.0", "objective.bootstrap_steps=[1]"], "bc": []}


def main(folder: Path, episodes: int = 300, evaluation_episodes: int = 20, settings: list[str] = SETTINGS) -> None:
    data = folder / "data"
    qseq.collect("random", "CartPole-v1", episodes=episodes, seed=0, out=data)
    for name, more in SETTINGS_OF.items():
        algorithm = qseq.get_algorithm(name)
        config = load_config(algorithm.config_class, overrides=[*settings, *more])
        algorithm.train(config, data=[str(data)], run=folder / name, seed=0)
        policy = qseq.load_policy(folder / name)
        result = qseq.evaluate(policy, "CartPole-v1", episodes=evaluation_episodes, seed=1000)
        print(f"{name}: mean return {result.mean_return:.1f}, 95% interval {result.return_ci95}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart"))
