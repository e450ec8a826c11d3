"""The loop: what a step computes, and how it fails."""

from __future__ import annotations

import errno
import json
import platform
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qseq.configuration import load_config
from qseq.errors import ConfigError, DataError, NonFiniteLossError, QseqError, RequestError
from qseq.training import Losses, RunConfig, TrainerState, TrainingConfig, latest_checkpoint
from training.toy_problem import ToyBatches, ToyModel, ToyObjective, toy_config, toy_trainer


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class BigBatches:
    """The concatenation of `count` consecutive batches."""

    def __init__(self, count: int) -> None:
        self.count = count

    def batch_at(self, index: int) -> dict[str, Tensor]:
        parts = [ToyBatches().batch_at(index * self.count + i) for i in range(self.count)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def test_accumulated_batches_equal_one_big_batch(tmp_path: Path) -> None:
    for name, batches, accumulate in (("big", BigBatches(4), 1), ("small", ToyBatches(), 4)):
        config = toy_config(grad_accum_every=accumulate, warmup_steps=0)
        toy_trainer(tmp_path / name, config, model=ToyModel(dropout=0.0), batches=batches).train()
    for name in ("model", "target"):
        big, small = (load_file(latest_checkpoint(tmp_path / run) / f"{name}.safetensors") for run in ("big", "small"))
        for key in big:
            torch.testing.assert_close(big[key], small[key], rtol=1e-4, atol=1e-6)


def test_batches_come_in_order_and_once(tmp_path: Path) -> None:
    asked: list[int] = []

    class Noted(ToyBatches):
        def batch_at(self, index: int) -> dict[str, Tensor]:
            asked.append(index)
            return super().batch_at(index)

    toy_trainer(tmp_path / "run", toy_config(steps=5, grad_accum_every=2), batches=Noted()).train()
    assert asked == list(range(10))


def test_learns_and_leaves_a_whole_run_folder(tmp_path: Path) -> None:
    saved: list[Path] = []

    def save_policy(model: nn.Module, folder: Path) -> None:
        saved.append(folder)
        (folder / "policy.json").write_text("{}")

    config = toy_config(
        steps=300, learning_rate=1e-2, log_every=50, checkpoint_every=100, keep_checkpoints=2, trackers=("tensorboard",)
    )
    final = toy_trainer(
        tmp_path / "run", config, model=ToyModel(dropout=0.0), batches=ToyBatches(64), save_model=save_policy
    ).train()
    run = tmp_path / "run"
    assert final == latest_checkpoint(run) == run / "checkpoints" / "step_00000300"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["latest", "step_00000200", final.name]
    assert sorted(path.name for path in final.iterdir()) == [
        "model.safetensors",
        "optimizer.safetensors",
        "policy.json",
        "target.safetensors",
        "trainer.json",
    ]
    (tmp_path / "ordinary").write_text("")
    assert {path.stat().st_mode for path in final.iterdir()} == {(tmp_path / "ordinary").stat().st_mode}
    assert list((run / "tensorboard").glob("events.*"))
    assert load_config(RunConfig, file=run / "config.yaml") == RunConfig(training=config, seed=1)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 150, 200, 250, 300]
    assert {"loss", "error", "anchor", "grad_norm", "learning_rate", "steps_per_second"} < lines[0].keys()
    assert 0 <= lines[0]["waiting_for_data"] < 1
    assert lines[-1]["error"] < 0.25 * lines[0]["error"]


@pytest.mark.parametrize(("capability", "slow"), [("AVX2", True), ("AVX512", False)])
def test_bf16_on_a_processor_without_it_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, slow: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        toy_trainer(tmp_path / "run", toy_config(precision="bf16", steps=1)).train()
    assert any("training.precision=bf16" in str(warning.message) for warning in caught) == slow


def test_bf16_computes_in_bf16_and_keeps_float32_weights(tmp_path: Path) -> None:
    kinds: set[torch.dtype] = set()

    class Watching(ToyObjective):
        def loss(self, batch: Any, online: nn.Module, target: nn.Module | None) -> Losses:
            kinds.add(online(batch["x"]).dtype)
            return super().loss(batch, online, target)

    final = toy_trainer(tmp_path / "run", toy_config(precision="bf16"), objective=Watching()).train()
    assert kinds == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_file(final / "model.safetensors").values()} == {torch.float32}


def test_gradients_are_clipped(tmp_path: Path) -> None:
    class Steep(ToyObjective):
        def loss(self, batch: Any, online: nn.Module, target: nn.Module | None) -> Losses:
            return Losses(1000 * super().loss(batch, online, target).total)

    norms: list[float] = []
    trainer = toy_trainer(tmp_path / "run", toy_config(steps=3, max_grad_norm=0.5), objective=Steep())
    step_of_optimiser = torch.optim.AdamW.step

    def watch(self: torch.optim.AdamW, closure: None = None) -> Any:
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norms.append(float(torch.nn.utils.get_total_norm(gradients)))
        return step_of_optimiser(self, closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watch)
        trainer.train()
    assert norms == pytest.approx([0.5] * 3, rel=1e-3)


def test_without_target(tmp_path: Path) -> None:
    final = toy_trainer(tmp_path / "run", toy_config(), has_target=False).train()
    assert not (final / "target.safetensors").exists()
    assert toy_trainer(tmp_path / "run", toy_config(steps=14), has_target=False).train(resume=True).exists()


def test_callbacks_see_each_step(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def note(state: TrainerState) -> None:
        state.model.eval()  # the trainer puts it back
        seen.append((state.step, state.checkpoint is not None))

    toy_trainer(tmp_path / "run", toy_config(steps=5), callbacks=[note]).train()
    assert seen == [(1, False), (2, False), (3, False), (4, True), (5, True)]


# --- losses that are not numbers ---------------------------------------------------------------------------------


class Spoilt(ToyObjective):
    """From its `after`-th loss on, one term is `value`."""

    def __init__(self, after: int, value: float) -> None:
        self.left, self.value = after, value

    def loss(self, batch: Any, online: nn.Module, target: nn.Module | None) -> Losses:
        losses = super().loss(batch, online, target)
        self.left -= 1
        if self.left >= 0:
            return losses
        bad = losses.terms["anchor"] * self.value
        return Losses(losses.total + bad, {**losses.terms, "anchor": bad})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_stops_training_and_names_step_term_and_checkpoint(tmp_path: Path, value: float) -> None:
    with pytest.raises(NonFiniteLossError, match=r"step 7.*'anchor'.*step_00000004") as caught:
        toy_trainer(tmp_path / "run", toy_config(target_start=1), objective=Spoilt(6, value)).train()
    good = latest_checkpoint(tmp_path / "run")
    assert caught.value.step == 7
    assert caught.value.term == "anchor"
    assert caught.value.last_checkpoint == good == tmp_path / "run" / "checkpoints" / "step_00000004"
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(good / "model.safetensors").values())


def test_no_checkpoint_with_bad_weights_when_losses_are_looked_at_late(tmp_path: Path) -> None:
    """On a GPU the loss is read only at log lines; a checkpoint due before one must look too."""
    trainer = toy_trainer(tmp_path / "run", toy_config(log_every=100), objective=Spoilt(5, float("nan")))
    trainer.looks_at_each_step = False
    with pytest.raises(NonFiniteLossError, match="step 6"):
        trainer.train()
    assert latest_checkpoint(tmp_path / "run").name == "step_00000004"


def test_infinite_gradient_of_a_finite_loss(tmp_path: Path) -> None:
    class Root(ToyObjective):
        def loss(self, batch: Any, online: nn.Module, target: nn.Module | None) -> Losses:
            return Losses((online(batch["x"]) * 0).square().sum().sqrt())

    with pytest.raises(NonFiniteLossError, match="grad_norm"):
        toy_trainer(tmp_path / "run", toy_config(), objective=Root()).train()


# --- requests that cannot be met ---------------------------------------------------------------------------------


def test_existing_run_folder_is_left_alone(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", toy_config()).train()
    before = contents(tmp_path / "run")
    with pytest.raises(RequestError, match=r"already exists.*--resume"):
        toy_trainer(tmp_path / "run", toy_config()).train()
    assert contents(tmp_path / "run") == before


def test_empty_folder_is_no_run(tmp_path: Path) -> None:
    assert toy_trainer(tmp_path, toy_config()).train().is_dir()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing to resume"):
        toy_trainer(tmp_path / "run", toy_config()).train(resume=True)
    assert not (tmp_path / "run").exists()


def test_missing_checkpoints_are_named(tmp_path: Path) -> None:
    import shutil

    final = toy_trainer(tmp_path / "run", toy_config()).train()
    shutil.rmtree(final)
    with pytest.raises(DataError, match="names step_00000012, which is missing; checkpoints found: step_00000008"):
        toy_trainer(tmp_path / "run", toy_config(steps=20)).train(resume=True)
    shutil.rmtree(final.parent)
    with pytest.raises(RequestError, match=r"checkpoints are missing .*reaches step 12"):
        toy_trainer(tmp_path / "run", toy_config(steps=20)).train(resume=True)


@pytest.mark.parametrize("settings", [{"learning_rate": 0.5}, {"batch_size": 3}, {"grad_accum_every": 2}])
def test_resume_with_other_settings_names_the_key(tmp_path: Path, settings: dict[str, Any]) -> None:
    toy_trainer(tmp_path / "run", toy_config()).train()
    before = contents(tmp_path / "run")
    (key,) = settings
    with pytest.raises(ConfigError, match=rf"training\.{key}: found .*, expected "):
        toy_trainer(tmp_path / "run", toy_config(**settings, steps=20)).train(resume=True)
    with pytest.raises(ConfigError, match="seed: found 2, expected 1"):
        toy_trainer(tmp_path / "run", toy_config(), seed=2).train(resume=True)
    with pytest.raises(ConfigError, match=r"training\.steps: found 5.*has done 12"):
        toy_trainer(tmp_path / "run", toy_config(steps=5)).train(resume=True)
    assert contents(tmp_path / "run") == before


def test_resume_with_other_unimportant_settings(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "run", toy_config()).train()
    config = toy_config(steps=14, log_every=2, checkpoint_every=3, keep_checkpoints=5)
    toy_trainer(tmp_path / "run", config).train(resume=True)
    assert load_config(RunConfig, file=tmp_path / "run" / "config.yaml").training == config


def test_config_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"steps: found 0, expected greater than or equal to 1"):
        toy_trainer(tmp_path / "run", TrainingConfig(steps=0))
    with pytest.raises(ConfigError, match=r"training\.trackers: found 'tensorbord', expected one of"):
        toy_trainer(tmp_path / "run", toy_config(trackers=("tensorbord",)))
    assert not (tmp_path / "run").exists()


def test_full_disk_leaves_older_checkpoints_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = toy_trainer(tmp_path / "run", toy_config())
    seen: dict[str, bytes] = {}

    def fill_disk(model: nn.Module, folder: Path) -> None:
        if "00000008" in folder.name:
            seen.update(contents(tmp_path / "run" / "checkpoints" / "step_00000004"))
            (folder / "half").write_bytes(b"x" * 100)
            raise OSError(errno.ENOSPC, "No space left on device", str(folder / "half"))

    trainer.save_model = fill_disk
    with pytest.raises(RequestError, match=r"no space left on the disk while writing .*step_00000008.*free some space"):
        trainer.train()
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step_00000004"]
    assert contents(checkpoints / "step_00000004") == seen
    assert toy_trainer(tmp_path / "run", toy_config()).train(resume=True).name == "step_00000012"


def test_save_model_that_alters_weights_is_refused(tmp_path: Path) -> None:
    def save_halved(model: nn.Module, folder: Path) -> None:
        save_file({key: value.half() for key, value in model.state_dict().items()}, folder / "model.safetensors")

    with pytest.raises(QseqError, match="it must hold the model's state_dict as it is"):
        toy_trainer(tmp_path / "run", toy_config(), save_model=save_halved).train()


def test_failing_batch_is_raised_where_it_is_used(tmp_path: Path) -> None:
    class Failing(ToyBatches):
        def batch_at(self, index: int) -> dict[str, Tensor]:
            if index == 5:
                raise DataError("episode 3 is damaged")
            return super().batch_at(index)

    with pytest.raises(DataError, match="episode 3 is damaged"):
        toy_trainer(tmp_path / "run", toy_config(), batches=Failing()).train()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 5
