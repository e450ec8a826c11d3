"""What values cost a language model: a training step against plain fine-tuning, guided `generate` against plain.

python benchmarks/language_speed.py --out benchmarks/results/language_speed.json --seconds 20
python benchmarks/language_speed.py --device cuda --precision bf16 --architecture llama --width 2048 --layers 16 ...

Both sides of a comparison have the same weights and see the same batch, alternately in one process; the peak memory of
each is that of a process of its own. Weights are random: they change no time. Plain fine-tuning is the loss of
transformers itself (labels on the completion only), its backward pass, clipping and fused AdamW.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from _machine import peak_bytes, write_report
from qseq.configuration import load_config
from qseq.language import QLanguageModel, QRLHFConfig, TextObjective
from qseq.language.batch import TextBatch, TokenisedText, collate
from qseq.language.values import ReturnRange
from qseq.training import Trainer, make_accelerator

VARIANTS: dict[str, list[str]] = {
    "defaults": [],
    "pull estimated from 512 tokens": ["objective.conservative_samples=512"],
    "the same, tied rows": ["objective.conservative_samples=512", "model.rows=tied"],
    "the same, average of the trunk": ["objective.conservative_samples=512", "model.average_trunk=true"],
}
GOALS = {"step_time": 1.6, "peak_memory": 1.5, "generate": 0.85}


def main() -> None:
    arguments = read_arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.memory_of is not None:
        print(json.dumps(peak_memory(arguments)))
        return
    result = {
        "machine": machine(arguments),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "model": {
            name: getattr(arguments, name) for name in ("architecture", "width", "layers", "heads", "vocabulary")
        },
        "batch": {"texts": arguments.batch, "tokens": arguments.length, "of the policy": policy_tokens(arguments)},
        "precision": arguments.precision,
        "goals": GOALS,
        "training": training(arguments),
        "generate": generating(arguments),
    }
    write_report(result, arguments.out)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--architecture", default="gpt2")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="of each comparison, after one that warms up")
    parser.add_argument("--seconds", type=float, default=60.0, help="no round of a comparison starts after so many")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1, help="0 leaves torch's own choice")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


# --- training --------------------------------------------------------------------------------------------------------


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of whole steps, and peak memory, as ratios to plain fine-tuning."""
    plain_memory = memory_in_a_process("plain")
    result: dict[str, Any] = {}
    for name in arguments.variants:
        plain, ours = plain_step(arguments), our_step(arguments, VARIANTS[name])
        seconds = alternately(arguments, plain, ours)
        memory = memory_in_a_process(name)
        result[name] = {
            "plain_seconds": seconds[0],
            "seconds": seconds[1],
            "time_ratio": seconds[1] / seconds[0],
            "plain_peak_mib": plain_memory,
            "peak_mib": memory,
            "memory_ratio": memory / plain_memory,
        }
        del plain, ours
    return result


def plain_step(arguments: argparse.Namespace) -> Callable[[], None]:
    model = language_model(arguments).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = batch_of(arguments).to(arguments.device)
    labels = torch.full_like(batch.input_ids, -100).flatten()
    labels[batch.states[batch.labels >= 0] + 1] = batch.labels[batch.labels >= 0]
    labels = labels.view_as(batch.input_ids)

    def step() -> None:
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=arguments.precision == "bf16"):
            loss = model(input_ids=batch.input_ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def our_step(arguments: argparse.Namespace, overrides: list[str]) -> Callable[[], None]:
    """A step of the project's own trainer, on a batch that is at hand (training prefetches)."""
    config = load_config(
        QRLHFConfig,
        overrides=[*overrides, f"training.precision={arguments.precision}", "training.trackers=[]"],
    )
    model = QLanguageModel.on(
        language_model(arguments), config.model, config.objective, returns=ReturnRange(-1.0, 1.0)
    ).train()
    batch = batch_of(arguments).to(arguments.device)

    class Feed:
        def batch_at(self, index: int) -> TextBatch:
            return batch

        def next(self) -> TextBatch:
            return batch

    feed = Feed()
    trainer = Trainer(
        TextObjective(config.objective),
        model,
        feed,
        config.training,
        run=Path(tempfile.gettempdir()) / "never-written",
        accelerator=make_accelerator(cpu=arguments.device == "cpu"),
    )
    trainer._prepare()
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        trainer._step(done, feed)  # type: ignore[arg-type]

    return step


def memory_in_a_process(side: str) -> float:
    """MiB, of a process that does two steps of one side (on a GPU: what torch allocated there)."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", side]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def peak_memory(arguments: argparse.Namespace) -> float:
    side = arguments.memory_of
    step = plain_step(arguments) if side == "plain" else our_step(arguments, VARIANTS[side])
    for _ in range(2):
        step()
    if arguments.device != "cpu":
        return float(torch.cuda.max_memory_allocated() / 2**20)
    return peak_bytes() / 2**20


# --- generate --------------------------------------------------------------------------------------------------------


def generating(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of guided `generate` and of the same language model's own."""
    model = QLanguageModel.on(language_model(arguments)).to(arguments.device).eval()
    result = {}
    for batch in (1, 16):
        prompts = torch.randint(10, arguments.vocabulary, (batch, 16), device=arguments.device)

        def generate(side: Any, prompts: torch.Tensor = prompts) -> None:
            side.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=False,
                min_new_tokens=arguments.new_tokens,
                max_new_tokens=arguments.new_tokens,
                pad_token_id=0,
            )

        seconds = alternately(arguments, lambda g=generate: g(model.language_model), lambda g=generate: g(model))
        rates = [batch * arguments.new_tokens / each for each in seconds]
        result[f"batch {batch}"] = {
            "plain_tokens_per_second": rates[0],
            "tokens_per_second": rates[1],
            "ratio": rates[1] / rates[0],
        }
    return result


# --- shared ----------------------------------------------------------------------------------------------------------


def alternately(
    arguments: argparse.Namespace, first: Callable[[], None], second: Callable[[], None]
) -> tuple[float, float]:
    """Median seconds of both, called in turns so that a busy machine is busy for both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    began = time.perf_counter()
    for turn in range(arguments.rounds + 1):
        if turn > 1 and time.perf_counter() - began > arguments.seconds:
            break
        for call, times in zip((first, second), seconds, strict=True):
            synchronise(arguments)
            started = time.perf_counter()
            call()
            synchronise(arguments)
            if turn:  # the first one warms up
                times.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def synchronise(arguments: argparse.Namespace) -> None:
    if arguments.device != "cpu":
        torch.cuda.synchronize()


def language_model(arguments: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": arguments.width, "num_hidden_layers": arguments.layers}
    sizes |= {"num_attention_heads": arguments.heads, "max_position_embeddings": 1024}
    if arguments.architecture != "gpt2":
        sizes |= {"intermediate_size": 4 * arguments.width, "num_key_value_heads": arguments.heads}
    config = AutoConfig.for_model(
        arguments.architecture,
        **sizes,
        vocab_size=arguments.vocabulary,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        **{name: 0.0 for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop") if arguments.architecture == "gpt2"},
    )
    return AutoModelForCausalLM.from_config(config).to(arguments.device)


def policy_tokens(arguments: argparse.Namespace) -> int:
    return int(arguments.length * 3 // 4)


def batch_of(arguments: argparse.Namespace) -> TextBatch:
    """Texts of which the policy said the last three quarters."""
    random = np.random.default_rng(0)
    count = policy_tokens(arguments)
    texts = [
        TokenisedText(
            input_ids=random.integers(10, arguments.vocabulary, arguments.length),
            actions=np.arange(arguments.length - count, arguments.length),
            rewards=random.normal(size=count).astype(np.float32) / count,
            turn_ends=np.arange(count) == count - 1,
            terminated=True,
        )
        for _ in range(arguments.batch)
    ]
    return collate(texts, minimum_return=-1.0)


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.device != "cpu":
        return {"gpu": torch.cuda.get_device_name(), "python": platform.python_version()}
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": name, "threads": torch.get_num_threads(), "python": platform.python_version()}


if __name__ == "__main__":
    main()
