"""The robot model on one GPU: is it right, how fast does it train and decide, and what share of the chip is that.

    python benchmarks/gpu.py [--out benchmarks/results/gpu.json] [--batch 32] [--device cuda] [--tiny]

Runs alone from a copy of the repository on a bare machine: torch, numpy, pydantic and PyYAML, nothing from the network,
no data. Numbers are compared with float64 on the same device; times are medians. Shares are of the rate of bf16 matrix
products that the same machine was measured at just before. Sizes: the README of q-transformer 0.5.0 (56 million
parameters; six frames of 224 pixels, 8 dimensions of 256 bins). `--device cpu --tiny` tries everything but the GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

try:
    import torch
    from torch import Tensor
    from torch.utils.flop_counter import FlopCounterMode

    from qseq.actions import UniformBins
    from qseq.episodes import WindowBatch, WindowSpec
    from qseq.robot.decoding import choose_tokens
    from qseq.robot.model import QRoboticTransformer
    from qseq.robot.objective import QObjective
    from qseq.robot.objective_config import QObjectiveConfig
    from qseq.values import token_backup
except ImportError as missing:
    raise SystemExit(f"benchmarks/gpu.py: {missing}; carry the package along (pip install it beside torch)") from None

TEXT = "pick the red block up"
VIT = {"num_classes": 0, "dim_conv_stem": 64, "dim": 64, "dim_head": 64, "depth": (2, 2, 5, 2), "window_size": 7}
PAPER: dict[str, Any] = {"vit": VIT, "image_size": 224, "dim": 512, "heads": 8, "dim_head": 64, "history": 6}
PAPER |= {"num_actions": 8, "action_bins": 256, "matrix": 8192, "repeats": 10}
TINY: dict[str, Any] = {"vit": VIT | {"dim_conv_stem": 8, "dim": 8, "dim_head": 4, "depth": (1,), "window_size": 2}}
TINY |= {"image_size": 16, "dim": 16, "heads": 2, "dim_head": 8, "history": 2, "num_actions": 3, "action_bins": 8}
TINY |= {"matrix": 256, "repeats": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=32, help="windows of a training step (default: 32)")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand parameters")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: found no GPU; nothing was measured")
        return
    size = TINY if arguments.tiny else PAPER
    rate = matrix_rate(device, size)
    result = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in make_model(size, device).parameters()),
        "bf16_matrix_flops_per_second": rate,
        "numerics": numerics(device, size),
        "training": training(device, size, arguments.batch, rate),
        "decoding": decoding(device, size),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(table(result))


def make_model(size: dict[str, Any], device: torch.device) -> QRoboticTransformer:
    torch.manual_seed(0)
    names = ("vit", "image_size", "dim", "heads", "dim_head", "history", "num_actions", "action_bins")
    return QRoboticTransformer(
        **{name: size[name] for name in names}, weight_tie_action_bin_embed=True, dueling=True, value_folds=0
    ).to(device)


def make_batch(size: dict[str, Any], rows: int, device: torch.device) -> tuple[WindowSpec, WindowBatch]:
    """Random windows of one step."""
    torch.manual_seed(0)
    spec = WindowSpec(history=size["history"], bootstrap_steps=(1,))
    pixels, seen = size["image_size"], len(spec.frame_offsets)
    zeros = torch.zeros(rows, dtype=torch.int64)
    batch = WindowBatch(
        frames={"image": torch.randint(256, (rows, seen, 3, pixels, pixels), dtype=torch.uint8)},
        actions=torch.rand(rows, 1, size["num_actions"]) * 2 - 1,
        rewards=torch.rand(rows, 1),
        step_mask=torch.ones(rows, 1, dtype=torch.bool),
        bootstrap_steps=torch.ones(rows, 1, dtype=torch.int64),
        bootstrap_terminated=torch.rand(rows, 1) < 0.5,
        returns_to_go=torch.rand(rows),
        instruction_ids=zeros,
        episodes=zeros,
        steps=zeros,
        recordings=zeros,
    )
    return spec, batch.to(device)


def matrix_rate(device: torch.device, size: dict[str, Any]) -> float:
    """Operations a second of a square product in bfloat16."""
    side = size["matrix"]
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device, size["repeats"])


def numerics(device: torch.device, size: dict[str, Any]) -> dict[str, float]:
    """Largest difference from float64 on the same device, where nothing but rounding may make one."""
    torch.manual_seed(0)
    columns = [torch.rand(4096, size["num_actions"], device=device, dtype=torch.float64) for _ in range(4)]
    exact = token_backup(*columns, carry=True)
    found = {"backup float32": largest(token_backup(*(c.float() for c in columns), carry=True), exact)}
    model = make_model(size, device).eval()
    with torch.no_grad():
        model.decoder.bin_embedding_AKD.mul_(15)  # of a new network all bins are worth the same
    torch.backends.cudnn.allow_tf32 = False
    images = torch.rand(2, size["history"], 3, size["image_size"], size["image_size"], device=device)
    tokens = torch.randint(size["action_bins"], (2, size["num_actions"]), device=device)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()({"image": images.double()}, [TEXT] * 2, tokens)
        found["Q float32"] = largest(model({"image": images}, [TEXT] * 2, tokens), exact)
        with torch.autocast(device.type, torch.bfloat16):
            found["Q bfloat16"] = largest(model({"image": images}, [TEXT] * 2, tokens), exact)
    torch.backends.cudnn.allow_tf32 = True
    spread = float(exact.std())
    if spread < 1e-2:
        raise SystemExit(f"benchmarks/gpu.py: Q differs by {spread:.1e} only, which checks nothing")
    for name, limit in {"backup float32": 1e-6, "Q float32": 1e-3, "Q bfloat16": 5e-2}.items():
        if not found[name] <= limit:
            raise SystemExit(f"benchmarks/gpu.py: {name} is off by {found[name]:.2e}, expected at most {limit}")
    return found


def largest(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).abs().max())


def training(device: torch.device, size: dict[str, Any], rows: int, rate: float) -> dict[str, Any]:
    """Whole steps in bfloat16: targets, forward, backward, clipping, optimiser, moving average; batches at hand."""
    rows = 2 if size is TINY else rows
    spec, batch = make_batch(size, rows, device)
    config = QObjectiveConfig(bootstrap="max", bootstrap_steps=(1,))
    tokenizer = UniformBins(-1.0, 1.0, size["action_bins"], shape=(size["num_actions"],))

    def steps(compiled: bool) -> Callable[[], None]:
        model = make_model(size, device)
        target = copy.deepcopy(model).requires_grad_(False).eval()
        objective = QObjective(tokenizer, spec, config, model.text_inputs([TEXT]).to(device))
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=device.type == "cuda")
        loss = torch.compile(objective.loss) if compiled else objective.loss

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                total = loss(batch, model, target).total
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                torch._foreach_lerp_(list(target.parameters()), list(model.parameters()), 0.01)

        return step

    with FlopCounterMode(display=False) as counter:
        steps(compiled=False)()
    operations = counter.get_total_flops()
    found: dict[str, Any] = {"rows": rows, "operations_per_step": operations}
    for name, compiled in (("eager", False), ("torch.compile", True)):
        if compiled and device.type != "cuda":
            continue
        found[name] = tried(lambda compiled=compiled: seconds(steps(compiled), device, size["repeats"]))
        if "seconds" in found[name]:
            taken = found[name]["seconds"]
            found[name] |= {"windows_per_second": rows / taken, "share_of_bf16": operations / taken / rate}
    if device.type == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def decoding(device: torch.device, size: dict[str, Any]) -> dict[str, Any]:
    """All tokens of a decision from encoded observations."""
    model = make_model(size, device).eval()
    found: dict[str, Any] = {}
    for rows in (1, 8, 64):
        tokens = 1 + size["history"] * 8
        context = torch.randn(rows, tokens, model.config.dim, device=device)
        ways: dict[str, Callable[[], Callable[[], Any]]] = {"eager": lambda c=context: decide(model, c)}
        if device.type == "cuda":
            ways["CUDA graph"] = lambda c=context: captured(model, c)
            ways["torch.compile"] = lambda c=context: decide(model, c, compiled=True)
        found[str(rows)] = {
            name: tried(lambda way=way: seconds(way(), device, size["repeats"])) for name, way in ways.items()
        }
    return found


def decide(model: QRoboticTransformer, context: Tensor, *, compiled: bool = False) -> Callable[[], Any]:
    choose = torch.compile(choose_tokens) if compiled else choose_tokens

    def call() -> Any:
        with torch.no_grad(), torch.autocast(context.device.type, torch.bfloat16):
            return choose(model, context)

    return call


def captured(model: QRoboticTransformer, context: Tensor) -> Callable[[], Any]:
    """The kernels of a decision recorded once: what is left is one launch. Raises if it decides otherwise."""
    call = decide(model, context)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected = call()[0].clone()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = call()[0]
    graph.replay()
    torch.cuda.synchronize()
    if not torch.equal(tokens, expected):
        raise RuntimeError("the graph decided otherwise than the model")
    return graph.replay


def seconds(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median of calls, after three that warm up."""
    taken = []
    for number in range(repeats + 3):
        synchronise(device)
        started = time.perf_counter()
        call()
        synchronise(device)
        if number >= 3:
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tried(measure: Callable[[], float]) -> dict[str, Any]:
    """Seconds, or why there are none: one way that does not work must not cost the others."""
    try:
        return {"seconds": measure()}
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def table(result: dict[str, Any]) -> str:
    rate = result["bf16_matrix_flops_per_second"]
    lines = [
        f"{result['device']}, torch {result['torch']}, {result['parameters']:,} parameters, "
        f"bf16 products {rate / 1e12:.1f} TFLOP/s"
    ]
    lines += [f"  {name}: off by {error:.1e} from float64" for name, error in result["numerics"].items()]
    rows = result["training"]["rows"]
    for name, one in result["training"].items():
        if not isinstance(one, dict):
            continue
        what = one.get("failed") or (
            f"{one['seconds'] * 1e3:9.2f} ms a step, {one['windows_per_second']:8.1f} windows/s, "
            f"{one['share_of_bf16']:6.1%} of the bf16 rate"
        )
        lines.append(f"  training {rows} windows, {name:13}: {what}")
    for rows, ways in result["decoding"].items():
        for name, one in ways.items():
            what = (
                one.get("failed") or f"{one['seconds'] * 1e3:9.3f} ms, {int(rows) / one['seconds']:10.0f} decisions/s"
            )
            lines.append(f"  decoding {rows:>2} rows, {name:13}: {what}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
