"""Draw docs/images/learning.png from benchmarks/results/learning.jsonl.

python benchmarks/_figures.py
"""

from __future__ import annotations

import matplotlib
import numpy as np

from _cells import ROOT, ResultLines

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from qseq.evaluation import wilson_interval

SHOWN = {
    ("q-transformer", "greedy"): ("Q-Transformer", "#2563eb"),
    ("filtered-bc", "greedy"): ("imitation of successes", "#f59e0b"),
    ("filtered-bc", "sample"): ("... sampled", "#fcd34d"),
    ("bc", "greedy"): ("imitation of everything", "#6b7280"),
    ("bc", "sample"): ("... sampled", "#d1d5db"),
}


def main() -> None:
    lines = ResultLines("learning").read()
    lines = [line for line in lines if "+" not in line["task"] and (line["method"], line["decoding"]) in SHOWN]
    methods: dict[tuple[str, str], set[str]] = {}
    for line in lines:
        methods.setdefault((line["evaluated_on"], line["recipe"]), set()).add(line["method"])
    # A bar says something beside another one only; docs/results.md has the cells measured without a baseline.
    groups = sorted((group for group, names in methods.items() if len(names) > 1), reverse=True)
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    width = 0.8 / len(SHOWN)
    for place, (key, (name, colour)) in enumerate(SHOWN.items()):
        label: str | None = name
        for x, (task, recipe) in enumerate(groups):
            rates = [
                line["success_rate"]
                for line in lines
                if (line["evaluated_on"], line["recipe"], line["method"], line["decoding"]) == (task, recipe, *key)
            ]
            if not rates:
                continue
            mean = float(np.mean(rates))
            low, high = wilson_interval(round(mean * 100 * len(rates)), 100 * len(rates))
            where = x + (place - (len(SHOWN) - 1) / 2) * width
            axes.bar(where, 100 * mean, width, color=colour, label=label)
            label = None
            axes.vlines(where, 100 * low, 100 * high, color="black", linewidth=1)
    axes.set_xticks(range(len(groups)), [f"{task.removesuffix('-v3')}\n{recipe}" for task, recipe in groups])
    axes.set_ylabel("success on 100 unseen starts, %")
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles, labels, frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.12))
    out = ROOT / "docs/images/learning.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    print(f"wrote {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
