"""Meta-World: reproducible starts, sparse reward, experts that succeed and experts that do not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("metaworld")

from qseq.environments import DictObservation, make_environment
from qseq.environments.disturbances import CorrelatedNoise
from qseq.environments.metaworld_tasks import EXPERT_STEPS, INSTRUCTIONS
from qseq.environments.recipes import ENV_ID, RECIPES, recipe
from qseq.environments.rendering import choose_backend
from qseq.environments.scripted import corrupted_expert, load_scripted
from qseq.errors import RequestError

pytestmark = [pytest.mark.simulator, pytest.mark.filterwarnings("ignore:Constant")]
CLEAN: dict[str, Any] = {"noise_scale": 0.0, "random_probability": 0.0}


def play(env: DictObservation, seed: int, **kwargs: Any) -> tuple[bool, int, list[np.ndarray]]:
    """One episode of the corrupted expert: success, length, states."""
    observation, info = env.reset(seed=seed)
    policy = corrupted_expert(env, np.random.default_rng([3, seed]), **kwargs)
    policy.reset(observation, info)
    states = [observation["state"]]
    while True:
        observation, reward, terminated, truncated, info = env.step(policy.act(observation))
        states.append(observation["state"])
        assert reward == float(terminated) == float(info["success"])
        if terminated or truncated or policy.done():
            return terminated, len(states) - 1, states


def test_every_task_has_a_text_and_a_length() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert set(INSTRUCTIONS) == set(EXPERT_STEPS) == set(ALL_V3_ENVIRONMENTS)
    assert len(set(INSTRUCTIONS.values())) == 50


@pytest.mark.parametrize("task", ["push-v3", "drawer-open-v3", "door-open-v3"])
def test_start_depends_on_the_seed_only(task: str) -> None:
    fresh, used = make_environment(ENV_ID, {"task": task}), make_environment(ENV_ID, {"task": task})
    for seed in (1, 2):
        used.reset(seed=seed)
        for _ in range(20):
            used.step(used.action_space.sample())
    _, _, expected = play(fresh, 5, **CLEAN)
    _, _, found = play(used, 5, **CLEAN)
    np.testing.assert_array_equal(np.stack(found), np.stack(expected))
    assert not np.array_equal(fresh.reset(seed=6)[0]["state"], expected[0])


def test_start_is_the_same_in_another_process() -> None:
    program = (
        "from qseq.environments import make_environment\n"
        f"env = make_environment('{ENV_ID}', {{'task': 'push-v3'}})\n"
        "print(env.reset(seed=11)[0]['state'].tobytes().hex())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    env = make_environment(ENV_ID, {"task": "push-v3"})
    assert result.stdout.strip() == env.reset(seed=11)[0]["state"].tobytes().hex()
    assert result.stderr == ""


def test_goal_is_visible_and_starts_are_continuous() -> None:
    env = make_environment(ENV_ID, {"task": "push-v3"})
    states = np.stack([env.reset(seed=seed)[0]["state"] for seed in range(60)])
    assert states.shape == (60, 39)
    assert len(np.unique(states[:, 36:39], axis=0)) == 60
    assert len(np.unique(states[:, 4:7], axis=0)) == 60
    observation, info = env.reset(seed=0)
    goal = observation["state"][36:39]
    np.testing.assert_array_equal(env.step(np.zeros(4))[0]["state"][36:39], goal)
    assert info == {"success": False, "task": "push-v3", "instruction": "push the puck to the goal"}


@pytest.mark.parametrize("task", ["push-v3", "drawer-open-v3"])
def test_expert_succeeds(task: str) -> None:
    env = make_environment(ENV_ID, {"task": task})
    assert sum(play(env, seed, **CLEAN)[0] for seed in range(20)) >= 18


def test_several_tasks() -> None:
    env = make_environment(ENV_ID, {"task": ["reach-v3", "push-v3"]})
    tasks = [env.reset(seed=seed)[1]["task"] for seed in range(12)]
    assert set(tasks) == {"reach-v3", "push-v3"}
    assert tasks == [env.reset(seed=seed)[1]["task"] for seed in range(12)]


def test_time_limit_truncates() -> None:
    env = make_environment(ENV_ID, {"max_episode_steps": 4})
    env.reset(seed=0)
    ends = [env.step(np.zeros(4))[2:4] for _ in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"task": "push-v2"}, "did you mean push-v3"),
        ({"task": []}, "empty list"),
        ({"start": "end"}, "beginning, part-way"),
        ({"start_range": [0.7, 0.3]}, "low <= high"),
        ({"image_size": "big"}, "image_size"),
    ],
)
def test_wrong_arguments(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make_environment(ENV_ID, kwargs)


def test_part_way_starts_are_past_the_beginning() -> None:
    part = recipe("half-finished", "push-v3")[1]
    env = make_environment(ENV_ID, part.env_kwargs)
    hand = make_environment(ENV_ID).reset(seed=0)[0]["state"][:3]
    lengths = []
    for seed in range(8):
        success, length, states = play(env, seed, **part.policy_kwargs)
        assert np.linalg.norm(states[0][:3] - hand) > 0.03
        lengths += [length] * success
    assert len(lengths) >= 5
    assert min(lengths) < EXPERT_STEPS["push-v3"] * 0.8


def test_first_halves_never_succeed() -> None:
    for task in ("push-v3", "drawer-open-v3"):
        part = recipe("half-finished", task)[0]
        env = make_environment(ENV_ID, part.env_kwargs)
        for seed in range(10):
            success, length, _ = play(env, seed, **part.policy_kwargs)
            assert not success
            assert 0.4 * EXPERT_STEPS[task] - 1 <= length <= 0.7 * EXPERT_STEPS[task] + 1


def test_corrupted_experts_are_poor_and_repeatable() -> None:
    for task, most in (("push-v3", 0.4), ("drawer-open-v3", 0.7)):
        (part,) = recipe("corrupted", task)
        env = make_environment(ENV_ID, part.env_kwargs)
        outcomes = [play(env, seed, **part.policy_kwargs) for seed in range(15)]
        # Loose bounds: fifteen episodes of a rate of 15 or 40 %.
        assert np.mean([success for success, _, _ in outcomes]) <= most
        again = play(env, 4, **part.policy_kwargs)
        np.testing.assert_array_equal(np.stack(again[2]), np.stack(outcomes[4][2]))


def test_recipes_add_up() -> None:
    for name in RECIPES:
        for task in ("push-v3", "drawer-open-v3", "door-open-v3"):
            assert sum(part.fraction for part in recipe(name, task)) == pytest.approx(1.0)
    with pytest.raises(RequestError, match="no recipe 'perfect'"):
        recipe("perfect")


def test_actions_stay_in_bounds_and_noise_has_its_scale() -> None:
    env = make_environment(ENV_ID)
    observation, info = env.reset(seed=0)
    policy = corrupted_expert(env, np.random.default_rng(0), noise_scale=2.0)
    policy.reset(observation, info)
    actions = np.stack([policy.act(observation) for _ in range(50)])
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1.0
    noise = CorrelatedNoise(np.random.default_rng(0), 0.3, 0.8, 4)
    samples = np.stack([noise() for _ in range(4000)])
    assert samples.std() == pytest.approx(0.3, rel=0.1)
    assert np.corrcoef(samples[:-1, 0], samples[1:, 0])[0, 1] == pytest.approx(0.8, abs=0.05)


def test_scripted_wrong_requests() -> None:
    env = make_environment(ENV_ID)
    with pytest.raises(RequestError, match=r"wrong_goal=1\.5"):
        corrupted_expert(env, np.random.default_rng(0), wrong_goal=1.5)
    with pytest.raises(RequestError, match="Meta-World only"):
        corrupted_expert(env, np.random.default_rng(0)).reset({}, {})
    with pytest.raises(RequestError, match="no class or function 'nobody'"):
        load_scripted("scripted:qseq.environments.scripted:nobody")
    with pytest.raises(RequestError, match="cannot be imported"):
        load_scripted("scripted:no.such:thing")


def test_pictures_when_there_is_a_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        choose_backend()
    except RequestError as error:
        pytest.skip(str(error))
    env = make_environment(ENV_ID, {"image_size": 32, "render_size": 48}, render=True)
    observation, _ = env.reset(seed=0)
    assert observation["image"].shape == (3, 32, 32)
    np.testing.assert_array_equal(observation["proprioception"], observation["state"][:4])
    assert observation["image"].std() > 10
    # The very first picture shows the same view as later ones.
    np.testing.assert_array_equal(env.reset(seed=0)[0]["image"], observation["image"])
    assert env.render().shape == (48, 48, 3)
    env.close()


def test_no_renderer_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MUJOCO_GL", "disabled")
    env = make_environment(ENV_ID, render=True)
    env.reset(seed=0)
    env.step(np.zeros(4))
    with pytest.raises(RequestError, match="MUJOCO_GL"):
        env.render()
