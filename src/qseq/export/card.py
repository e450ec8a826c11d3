"""The model card of a run: what it was trained on, what it was measured to do, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qseq
from qseq.errors import RequestError

_HUB_SOURCES = ("minari:", "lerobot:")


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """What a card says.

    Attributes:
        name: title of the card, and what users load.
        description: `describe()` of the policy.
        algorithm, seed: of the training, None where it is not known.
        data: sources as they may be told to strangers, see `public_source`.
        evaluations: results as `qseq evaluate` writes them.
        settings: the resolved configuration as YAML, empty where it is not known.
        license: an identifier of the Hub, None where nothing is stated.
    """

    name: str
    description: Mapping[str, Any]
    algorithm: str | None
    seed: int | None
    data: Sequence[str]
    evaluations: Sequence[Mapping[str, Any]]
    settings: str
    license: str | None


def public_source(source: str) -> str:
    """A data source without the folders of the machine it lies on."""
    kind, colon, name = source.rpartition(":")
    if source.startswith(_HUB_SOURCES) and not Path(name).is_absolute() and not Path(name).exists():
        return source
    return f"{kind}{colon}{Path(name).name}"


def model_card(facts: CardFacts) -> str:
    """README.md, with the front matter that the Hub reads."""
    sections = [
        f"---\n{_front_matter(facts)}\n---\n",
        f"# {facts.name}\n",
        _introduction(facts),
        "## How to use\n",
        _usage(facts),
        "## Data\n",
        _data(facts),
        "## Results\n",
        _results(facts.evaluations),
        "## Licence\n",
        f"{facts.license}\n" if facts.license else "None was stated: ask the owner before you use or pass it on.\n",
    ]
    if facts.settings:
        sections += ["## Settings\n", f"```yaml\n{facts.settings.strip()}\n```\n"]
    return "\n".join(sections)


def _front_matter(facts: CardFacts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="reinforcement-learning",
            dataset_type=str(result["env"]).rpartition(":")[2],
            dataset_name=_where(result),
            metric_type=metric,
            metric_value=round(float(result[metric]), 4),
            metric_name=f"{metric.replace('_', ' ')}, {result['episodes']} episodes, 95% interval {_interval(bounds)}",
        )
        for result in facts.evaluations
        for metric, bounds in (
            ("success_rate", result.get("success_ci95")),
            ("mean_return", result.get("return_ci95")),
        )
        if result.get(metric) is not None
    ]
    kind = str(facts.description["kind"])
    data = ModelCardData(
        library_name="qseq",
        license=facts.license,
        pipeline_tag="text-generation" if "trunk" in facts.description else "reinforcement-learning",
        tags=["qseq", "offline-reinforcement-learning", *dict.fromkeys(filter(None, [facts.algorithm, kind]))],
        model_name=facts.name,
        eval_results=results or None,
    )
    return data.to_yaml().strip()


def _introduction(facts: CardFacts) -> str:
    about = facts.description
    lines = [
        f"A policy of qseq {qseq.__version__}: algorithm {facts.algorithm or 'unknown'}, kind `{about['kind']}`, "
        f"{about['parameters']:,} parameters"
        + (f", weights {about['weights']}" if about.get("weights", "float32") != "float32" else "")
        + (f", seed {facts.seed}.\n" if facts.seed is not None else ".\n")
    ]
    if {"fields", "history"} <= about.keys():
        fields = ", ".join(f"`{name}` {list(shape)}" for name, shape in about["fields"].items())
        lines.append(f"It sees {fields} ({about['history']} frames of history).")
    if "action_space" in about:
        lines.append(f"It acts in `{json.dumps(about['action_space'])}`.")
    return "\n".join(lines) + "\n"


def _usage(facts: CardFacts) -> str:
    if "trunk" in facts.description:
        code = f'policy = load_policy("{facts.name}")\nanswers = policy.respond(["..."])'
    else:
        code = f'policy = load_policy("{facts.name}")\naction = policy.act(observation, instruction)'
    return f"```python\nfrom qseq import load_policy  # pip install qseq\n\n{code}\n```\n"


def _data(facts: CardFacts) -> str:
    if not facts.data:
        return "Not recorded.\n"
    return "".join(f"- `{source}`\n" for source in facts.data)


def _results(evaluations: Sequence[Mapping[str, Any]]) -> str:
    if not evaluations:
        return "Not measured.\n"
    lines = [
        "| environment | options | episodes | success, 95% interval | mean return, 95% interval |",
        "|---|---|---|---|---|",
    ]
    for result in evaluations:
        options = ", ".join(f"{key}={value}" for key, value in (result.get("policy_options") or {}).items())
        ablations = [f"blank {', '.join(result['blank'])}"] if result.get("blank") else []
        ablations += ["shuffled instructions"] if result.get("shuffle_instructions") else []
        success = result.get("success_rate")
        shown = "" if success is None else f"{100 * success:.1f}%, {_interval(result.get('success_ci95'))}"
        told = "; ".join(filter(None, [options, *ablations, f"seed {result.get('seed')}"]))
        lines.append(
            f"| {_where(result)} | {told} | {result['episodes']} | {shown} "
            f"| {result['mean_return']:.3f}, {_interval(result.get('return_ci95'))} |"
        )
    return "\n".join(lines) + "\n"


def _where(result: Mapping[str, Any]) -> str:
    kwargs = result.get("env_kwargs") or {}
    name = str(result["env"]).rpartition(":")[2]
    return f"{name} {json.dumps(kwargs)}" if kwargs else name


def _interval(bounds: Sequence[float] | None) -> str:
    return "unknown" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def checked_license(license: str | None) -> str | None:
    """Raises RequestError for what cannot be an identifier of a licence."""
    if license is not None and (not license or not all(c.isalnum() or c in ".-_" for c in license)):
        raise RequestError(f"license: found '{license}', expected an identifier such as mit or apache-2.0")
    return license
