"""Collect, train, evaluate, report: the whole job from Python (python examples/quickstart.py)."""

import sys
from pathlib import Path

import qseq
from qseq.configuration import load_config
from qseq.evaluation import make_actor
from qseq.reporting import write_report


def main(folder: Path, episodes: int = 200, *settings: str) -> None:
    # Random driving reaches the goal now and then: +100 on its last step, and a small price for every push.
    env = "CartPole-v1"
    qseq.collect(make_actor("random"), env, {}, episodes=episodes, seed=0, out=folder / "data")
    for name in ("q-transformer", "bc"):
        algorithm = qseq.get_algorithm(name)
        config = load_config(algorithm.config_class, overrides=settings)
        algorithm.train(config, data=[str(folder / "data")], run=folder / name)
        result = qseq.evaluate(qseq.load_policy(folder / name), env, {}, episodes=20, seed=1000, num_envs=4)
        print(name, result.mean_return)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/quickstart"))
