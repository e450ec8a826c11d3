"""Policies: single and batched observations, memory per environment, chunks, saving, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qseq import load_policy
from qseq.actions import make_tokenizer
from qseq.errors import DataError, RequestError
from qseq.networks.action_network import NetworkConfig
from qseq.observations import FrameMemory
from qseq.policies import TokenPolicySpec
from qseq.policies.memory import InstructionMemory
from qseq.robot import QTransformerPolicy
from tests.robot.bandit import ACTION_SPACE


def make_policy(history: int = 1, chunk: int = 1, first_frame: bool = False) -> QTransformerPolicy:
    spec = TokenPolicySpec(
        network=NetworkConfig(dim=16, heads=2, dim_head=8, decoder_heads=2, decoder_dim_head=8),
        fields={"state": (3,)},
        history=history,
        first_frame=first_frame,
        tokenizer=make_tokenizer(ACTION_SPACE, num_bins=16, chunk=chunk),
        action_space=ACTION_SPACE,
        extra={"value": {"kind": "bounded"}, "initial_value": 0.05, "value_folds": 2, "prior": False},
    )
    torch.manual_seed(0)
    return QTransformerPolicy(QTransformerPolicy.build_network(spec, spec.blank_layouts()), spec)


def test_one_observation_or_a_batch(tmp_path: Path) -> None:
    policy = make_policy()
    states = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    batch = policy.act({"state": states}, ["push", "pull", "push", ""])
    assert batch.shape == (4, 2)
    single = policy.act(states[1], "pull")
    np.testing.assert_allclose(single, batch[1], atol=1e-6)


def test_saved_and_loaded_policies_act_alike(tmp_path: Path) -> None:
    policy = make_policy(history=2)
    policy.save_pretrained(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    states = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_array_equal(policy.act(states), loaded.act(states))
    assert loaded.describe() == policy.describe()


def test_history_is_kept_for_each_environment_apart() -> None:
    frames = np.arange(8, dtype=np.float32).reshape(4, 2)
    memory = FrameMemory(3)
    memory.push({"x": frames[:2]}, [10, 20])
    later = memory.push({"x": frames[2:3]}, [20])  # environment 10 sat this one out
    np.testing.assert_array_equal(later["x"][0], [frames[1], frames[1], frames[2]])
    memory.forget([20])
    both = memory.push({"x": frames[2:]}, [10, 20])
    np.testing.assert_array_equal(both["x"][0], [frames[0], frames[0], frames[2]])
    np.testing.assert_array_equal(both["x"][1], [frames[3]] * 3)  # a new episode repeats its first frame


def test_a_chunk_is_decided_once_and_played_step_by_step() -> None:
    policy = make_policy(chunk=3)
    states = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    decided = policy.decide({"state": states[:1, None]}, [""])[0]
    played = [policy.act(states[i]) for i in range(3)]
    np.testing.assert_allclose(np.stack(played), decided)
    next_chunk = policy.decide({"state": states[3:4, None]}, [""])[0]
    np.testing.assert_allclose(policy.act(states[3]), next_chunk[0])
    policy.reset()
    np.testing.assert_allclose(policy.act(states[4]), policy.decide({"state": states[4:5, None]}, [""])[0, 0])


def test_values_along_an_episode() -> None:
    policy = make_policy(history=2)
    random = np.random.default_rng(0)
    observations = {"state": random.normal(size=(6, 3)).astype(np.float32)}
    actions = random.uniform(-1, 1, (5, 2)).astype(np.float32)
    values = policy.action_values(observations, "push", actions)
    assert values.shape == (5, 2, 16)
    window = {"state": observations["state"][[[2, 3]]]}
    tokens = policy.spec.tokenizer.encode(torch.as_tensor(actions[3:4]))
    with torch.no_grad():
        one = policy.network({name: torch.as_tensor(w) for name, w in window.items()}, ["push"], tokens)
    np.testing.assert_allclose(values[3], one[0], atol=1e-5)


def test_values_along_an_episode_see_its_first_frame() -> None:
    policy = make_policy(history=2, first_frame=True)
    states = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    values = policy.action_values({"state": states}, "push", np.zeros((5, 2), np.float32))
    states[0] += 1.0
    changed = policy.action_values({"state": states}, "push", np.zeros((5, 2), np.float32))
    assert (np.abs(values - changed).max((1, 2)) > 1e-6).all()


def test_observations_that_do_not_fit_are_named() -> None:
    policy = make_policy()
    with pytest.raises(RequestError, match=r"'state' is missing; found \['joints'\]"):
        policy.act({"joints": np.zeros(3)})
    with pytest.raises(RequestError, match=r"'state' has shape \[4\], expected \[3\]"):
        policy.act(np.zeros(4, np.float32))


def test_damaged_files_and_wrong_folders_are_named(tmp_path: Path) -> None:
    policy = make_policy()
    folder = tmp_path / "policy"
    policy.save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_policy(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors: found no file"):
        load_policy(folder)
    (folder / "policy.json").write_text("{")
    with pytest.raises(DataError, match=r"policy\.json"):
        load_policy(folder)
    (folder / "policy.json").write_text(json.dumps({"kind": "os.system"}))
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(DataError, match=r"kind 'os\.system'"):
        load_policy(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"no policy\.json"):
        load_policy(tmp_path / "empty")
    with pytest.raises(RequestError, match="no such folder"):
        load_policy(tmp_path / "nowhere")


def test_unknown_decoding_options_are_refused(tmp_path: Path) -> None:
    make_policy().save_pretrained(tmp_path / "policy")
    with pytest.raises(RequestError, match="does not take them"):
        load_policy(tmp_path / "policy", beam=3)


def test_only_the_latest_instructions_are_kept() -> None:
    instruct = make_policy().network.instruct
    remember = InstructionMemory(instruct, kept=2)
    for texts in (["push", "pull", "stop"], ["pull", "stop"], ["push", "push"]):
        torch.testing.assert_close(remember(texts).summary_BD, instruct(texts).summary_BD)
        assert len(remember._known) <= 2
