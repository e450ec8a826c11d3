"""Train d3rlpy's IQL, TD3+BC and CQL on exported transitions. Runs in d3rlpy's own environment, not in qseq's.

    python d3rlpy_baselines.py DATA.npz OUT_DIR --algo iql --seed 0 --steps 10000 --discount 0.98

DATA.npz holds `observations`, `actions`, `rewards`, `terminals`, `timeouts`, one row a step. The policy is written as
TorchScript, `OUT_DIR/policy.pt`: observation [B, D] -> action [B, A], so that it can be evaluated by the same code as
every other method.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import d3rlpy
import numpy as np
import torch

ALGORITHMS = {
    "iql": d3rlpy.algos.IQLConfig,
    "td3+bc": d3rlpy.algos.TD3PlusBCConfig,
    "cql": d3rlpy.algos.CQLConfig,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--algo", choices=sorted(ALGORITHMS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--discount", type=float, default=0.98)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    d3rlpy.seed(arguments.seed)
    data = np.load(arguments.data)
    dataset = d3rlpy.dataset.MDPDataset(
        data["observations"], data["actions"], data["rewards"], data["terminals"], data["timeouts"]
    )
    # Defaults but for gamma, and observations standardised, as ours are: without it none of them learns at all.
    options: dict[str, Any] = {
        "gamma": arguments.discount,
        "observation_scaler": d3rlpy.preprocessing.StandardObservationScaler(),
    }
    algorithm = ALGORITHMS[arguments.algo](**options).create(device="cpu:0")
    started = time.perf_counter()
    algorithm.fit(
        dataset,
        n_steps=arguments.steps,
        n_steps_per_epoch=arguments.steps,
        show_progress=False,
        save_interval=10**9,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
    )
    seconds = time.perf_counter() - started
    arguments.out.mkdir(parents=True, exist_ok=True)
    algorithm.save_policy(str(arguments.out / "policy.pt"))
    versions = {"d3rlpy": d3rlpy.__version__, "torch": torch.__version__}
    record = {"algo": arguments.algo, "steps": arguments.steps, "train_seconds": seconds, "versions": versions}
    (arguments.out / "record.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
