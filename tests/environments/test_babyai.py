"""BabyAI: pictures, missions, sparse reward; a bot that solves them and one that goes to the wrong object."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("minigrid")

from qseq.environments import DictObservation, make_environment
from qseq.environments.babyai import odometry_between
from qseq.environments.babyai_bot import CorruptedBot, bot_errors, corrupted_bot
from qseq.environments.babyai_recipes import ENV_ID, POLICY, RECIPES, babyai_recipe
from qseq.environments.scripted import ScriptedPolicy, load_scripted
from qseq.errors import RequestError

pytestmark = pytest.mark.simulator
LEFT, FORWARD, PICKUP, NOTHING = 0, 2, 3, 6
TASKS = ("GoToLocal", "PickupLoc", "PutNextLocal")


def make(task: Any = "GoToLocal", **kwargs: Any) -> DictObservation:
    return make_environment(ENV_ID, {"task": task, **kwargs})


def level_of(env: DictObservation) -> Any:
    return env.unwrapped.level  # type: ignore[attr-defined]


def play(env: DictObservation, seed: int, **kwargs: Any) -> tuple[bool, CorruptedBot, np.ndarray, list[int]]:
    """One episode of the bot: success, the policy, frames [T + 1, 3, 56, 56], actions."""
    observation, info = env.reset(seed=seed)
    policy = corrupted_bot(env, np.random.default_rng([3, seed]), **kwargs)
    policy.reset(observation, info)
    frames, actions = [observation["image"]], []
    while True:
        actions.append(policy.act(observation))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        frames.append(observation["image"])
        assert reward == float(terminated) == float(info["success"])
        if terminated or truncated or policy.done():
            return terminated, policy, np.stack(frames), actions


def test_spaces_and_info() -> None:
    for task in TASKS:
        env = make(task)
        space = env.observation_space["image"]
        assert (space.shape, space.dtype) == ((3, 56, 56), np.uint8)
        assert env.action_space.n == 7
        observation, info = env.reset(seed=1)
        assert list(observation) == ["image"]
        assert env.observation_space.contains(observation)
        assert info == {"success": False, "task": task, "instruction": level_of(env).mission}
        observation, _, _, _, info = env.step(LEFT)
        assert env.observation_space.contains(observation)
        assert set(info) == {"success", "task", "instruction"}


def test_odometry_tells_turns_and_steps_from_where_the_agent_started() -> None:
    env = make(odometry=True)
    observation, _ = env.reset(seed=1)
    assert observation["odometry"].tolist() == [0, 0, 1, 0, 0, 0]
    looks = []
    for _ in range(4):
        observation, *_ = env.step(LEFT)
        assert env.observation_space.contains(observation)
        looks.append(int(observation["odometry"][2:].argmax()))
    assert looks == [3, 2, 1, 0]


@pytest.mark.parametrize("start_looks", range(4))
def test_odometry_is_as_seen_from_the_start_whatever_the_agent_looked_at(start_looks: int) -> None:
    east, south, west, north = (1, 0), (0, 1), (-1, 0), (0, -1)
    ahead = (east, south, west, north)[start_looks]
    right = (south, west, north, east)[start_looks]
    column, row = 4 + 2 * ahead[0] - right[0], 4 + 2 * ahead[1] - right[1]
    found = odometry_between((4, 4, start_looks), (column, row, (start_looks + 1) % 4))
    # Two cells ahead, one to the left, and a turn to the right.
    assert found.tolist() == [2, -1, 0, 1, 0, 0]


def test_odometry_begins_anew_with_every_episode() -> None:
    env = make(odometry=True)
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        assert observation["odometry"].tolist() == [0, 0, 1, 0, 0, 0]
        for action in (LEFT, FORWARD, FORWARD):
            observation, *_ = env.step(action)
        assert observation["odometry"][2:].tolist() == [0, 0, 0, 1]


def test_instruction_is_the_mission() -> None:
    for task, verb in zip(TASKS, ("go to", "pick up", "put"), strict=True):
        env = make(task)
        texts = {env.reset(seed=seed)[1]["instruction"] for seed in range(25)}
        assert len(texts) > 15
        assert all(text.startswith(verb) for text in texts)


def test_picture_is_what_minigrid_shows() -> None:
    from minigrid.wrappers import RGBImgPartialObsWrapper

    env = make("PickupLoc")
    observation, _ = env.reset(seed=4)
    shown: Any = RGBImgPartialObsWrapper(level_of(env))
    for action in (NOTHING, LEFT, FORWARD, FORWARD, PICKUP):
        observation, *_ = env.step(action)
        expected = shown.observation({"mission": ""})["image"]
        np.testing.assert_array_equal(observation["image"], expected.transpose(2, 0, 1))


@pytest.mark.parametrize("task", ["GoToLocal", "PickupLoc"])
def test_episode_depends_on_the_seeds_only(task: str) -> None:
    kwargs = {"wrong_object": 0.5, "misheard": 0.5, "linger": [0, 4], "abandon": [5, 30]}
    kwargs |= {"random_probability": 0.4, "random_steps": 2}
    fresh, used = make(task), make(task)
    for seed in range(4):
        used.reset(seed=seed + 100)
        used.step(FORWARD)
        _, _, frames, actions = play(fresh, seed, **kwargs)
        _, _, again, again_actions = play(used, seed, **kwargs)
        np.testing.assert_array_equal(again, frames)
        assert again_actions == actions
    assert not np.array_equal(play(fresh, 0)[2][0], play(fresh, 1)[2][0])


def test_several_tasks() -> None:
    env = make(list(TASKS))
    tasks = [env.reset(seed=seed)[1]["task"] for seed in range(15)]
    assert set(tasks) == set(TASKS)
    assert tasks == [env.reset(seed=seed)[1]["task"] for seed in range(15)]


def test_nothing_is_printed_but_real_messages(capsys: pytest.CaptureFixture[str]) -> None:
    from minigrid.envs.babyai.core import roomgrid_level

    env = make("PutNextLocalS5N3")
    for seed in range(40):
        env.reset(seed=seed)
    assert capsys.readouterr().out == ""
    for message in ("Sampling rejected:", "Timeout"):
        vars(roomgrid_level)["print"](message)
    assert capsys.readouterr().out == "Timeout\n"


@pytest.mark.parametrize("task", TASKS)
def test_bot_solves(task: str) -> None:
    env = make(task)
    assert sum(play(env, seed)[0] for seed in range(30)) >= 29


@pytest.mark.parametrize("task", ["GoToLocal", "PickupLoc"])
def test_success_is_the_right_object_only(task: str) -> None:
    env = make(task)
    for seed in range(15):
        success, _, _, actions = play(env, seed, wrong_object=0.5, random_probability=0.2)
        level = level_of(env)
        meant = level.instrs.desc.obj_set
        thing = level.grid.get(*level.front_pos) if task == "GoToLocal" else level.carrying
        assert success == any(thing is other for other in meant), (seed, actions)


@pytest.mark.parametrize("task", TASKS)
def test_wrong_object_is_reached_and_is_no_success(task: str) -> None:
    env = make(task)
    outcomes = []
    for seed in range(30):
        success, policy, _, _ = play(env, seed, wrong_object=1.0)
        assert policy.wrong
        level = level_of(env)
        if task != "PutNextLocal" and policy.reached:
            thing = level.grid.get(*level.front_pos) if task == "GoToLocal" else level.carrying
            assert thing is not None
            assert all(thing is not other for other in level.instrs.desc.obj_set)
        outcomes.append((policy.reached, success))
    # The others come by the right object on their way.
    assert outcomes.count((True, False)) >= 26
    assert outcomes.count((False, False)) == 0


def words_that_do_not_fit(env: DictObservation, seed: int, **kwargs: Any) -> list[str]:
    """Those of the mission that the thing the bot is sent to is not."""
    observation, info = env.reset(seed=seed)
    level = level_of(env)
    where = {word: list(placed(level, word)) for word in ("left", "right", "front", "behind")}
    policy = corrupted_bot(env, np.random.default_rng([3, seed]), wrong_object=1.0, **kwargs)
    policy.reset(observation, info)
    meant, (thing,) = level.instrs.desc, policy._believed.desc.obj_set
    wrong = [word for word in ("type", "color") if getattr(meant, word) not in (None, getattr(thing, word))]
    return wrong + ["loc"] * (meant.loc is not None and not any(thing is one for one in where[meant.loc]))


def placed(level: Any, loc: str) -> Any:
    from minigrid.envs.babyai.core.verifier import ObjDesc

    return ObjDesc(None, None, loc).find_matching_objs(level)[0]  # type: ignore[arg-type]


def test_misheard_missions_differ_in_one_word() -> None:
    env = make("PickupLoc")
    misheard = [words_that_do_not_fit(env, seed, misheard=1.0) for seed in range(60)]
    plain = [words_that_do_not_fit(env, seed) for seed in range(60)]
    assert all(misheard)
    assert all(plain)
    # Where the room holds no such thing, any other is taken.
    assert np.mean([len(words) == 1 for words in misheard]) > 0.9 > np.mean([len(words) == 1 for words in plain])
    for word in ("type", "color", "loc"):
        assert sum([word] == words for words in misheard) >= 5
    assert sum(words == ["loc"] for words in plain) <= 3


def test_loitering_and_abandoning() -> None:
    env = make("PickupLoc")
    for seed in range(8):
        short, long = (play(env, seed, wrong_object=1.0, linger=[n, n]) for n in (0, 7))
        assert long[3][: len(short[3])] == short[3]
        assert long[0] or len(long[3]) == len(short[3]) + 7
        assert len(play(env, seed, abandon=[2, 3])[3]) <= 3


def test_step_limit_truncates() -> None:
    env = make(max_episode_steps=4)
    env.reset(seed=2)
    ends = [env.step(LEFT if step % 2 else NOTHING)[2:4] for step in range(4)]
    assert ends == [(False, False)] * 3 + [(False, True)]
    # BabyAI's own limit, 64 steps in one room, does not interfere, nor its reward that falls below 0 there.
    env = make("PickupLoc", max_episode_steps=200)
    observation, info = env.reset(seed=0)
    assert [env.step(LEFT)[2:4] for _ in range(80)] == [(False, False)] * 80
    policy = corrupted_bot(env, np.random.default_rng(0))
    policy.reset(observation, info)
    while not info["success"]:
        assert not policy.done()
        observation, _, _, _, info = env.step(policy.act(observation))


def test_failed_mission_terminates_without_success() -> None:
    env = make("PickupDistDebug")
    failures = 0
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        policy = corrupted_bot(env, np.random.default_rng(seed), wrong_object=1.0)
        policy.reset(observation, {})
        terminated = False
        while not terminated and not policy.done():
            observation, reward, terminated, _, info = env.step(policy.act(observation))
        failures += terminated and not info["success"] and reward == 0.0
    assert failures >= 8


def test_bot_error_leaves_random_actions() -> None:
    env = make("PickupLoc")
    observation, info = env.reset(seed=0)
    policy = corrupted_bot(env, np.random.default_rng(0))
    policy.reset(observation, info)
    before = bot_errors["ValueError"]
    policy._bot.replan = lambda action_taken: int("no number")
    actions = [policy.act(observation) for _ in range(40)]
    assert set(actions) == set(range(7))
    assert not policy.done()
    assert (policy.error, bot_errors["ValueError"]) == ("ValueError", before + 1)


def test_no_other_object_leaves_the_true_mission() -> None:
    success, policy, *_ = play(make("GoToObj"), 0, wrong_object=1.0)
    assert (success, policy.wrong) == (True, False)


def test_missions_of_several_parts_can_be_wrong() -> None:
    env = make("GoToSeqS5R2", max_episode_steps=150)
    policies = [play(env, seed, wrong_object=1.0)[1] for seed in range(6)]
    assert any(policy.wrong and policy.reached for policy in policies)


@pytest.mark.parametrize("task", ["GoToLocal", "PickupLoc"])
def test_recipes_are_poor_and_reach_wrong_objects(task: str) -> None:
    for name in RECIPES:
        (part,) = babyai_recipe(name, task)
        assert part.fraction == 1.0
        env = make_environment(ENV_ID, part.env_kwargs)
        outcomes = [play(env, seed, **part.policy_kwargs)[:2] for seed in range(60)]
        # Loose bounds: sixty episodes of a rate of 28 %.
        assert 0.1 <= np.mean([success for success, _ in outcomes]) <= 0.45
        failed = [policy for success, policy in outcomes if not success]
        assert np.mean([policy.reached for policy in failed]) > 0.85
    with pytest.raises(RequestError, match="no BabyAI recipe 'perfect'"):
        babyai_recipe("perfect")


def test_share_of_random_actions() -> None:
    env = make("PutNextLocal", max_episode_steps=3000)
    observation, info = env.reset(seed=0)
    policy = corrupted_bot(env, np.random.default_rng(0), random_probability=0.4, random_steps=3)
    policy.reset(observation, info)
    # A bot that would do nothing else shows which actions are random: all but a seventh of them.
    policy._plan = lambda: NOTHING  # type: ignore[method-assign]
    share = np.mean([policy.act(observation) != NOTHING for _ in range(6000)])
    assert share == pytest.approx(0.4 * 6 / 7, abs=0.04)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"task": "GoToLokal"}, "did you mean GoToLocal"),
        ({"task": []}, "empty list"),
        ({"task": 3}, "name of a BabyAI task"),
        ({"render_size": 0}, "render_size"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"view": 7}, "view"),
    ],
)
def test_wrong_environment_arguments(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make_environment(ENV_ID, kwargs)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"wrong_object": 1.5}, r"wrong_object=1\.5"),
        ({"misheard": -1}, "misheard=-1"),
        ({"wrong_object": "often"}, "wrong_object='often'"),
        ({"random_probability": -0.1}, "random_probability"),
        ({"random_steps": 0}, "random_steps"),
        ({"linger": [3, 1]}, "linger"),
        ({"linger": 3}, "linger"),
        ({"abandon": [0, 4]}, "abandon"),
        ({"abandon": [0.5, 0.7]}, "abandon"),
    ],
)
def test_wrong_bot_arguments(kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        corrupted_bot(make(), np.random.default_rng(0), **kwargs)


def test_bot_is_for_babyai_and_is_a_scripted_policy() -> None:
    assert load_scripted(POLICY) is corrupted_bot
    assert isinstance(corrupted_bot(make(), np.random.default_rng(0)), ScriptedPolicy)
    with pytest.raises(RequestError, match="acts in BabyAI only"):
        corrupted_bot(make_environment("CartPole-v1"), np.random.default_rng(0))


def test_frames_from_above() -> None:
    env = make_environment(ENV_ID, {"render_size": 16}, render=True)
    env.reset(seed=0)
    assert env.render().shape == (8 * 16, 8 * 16, 3)


def test_minigrid_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minigrid", None)
    with pytest.raises(RequestError, match=r"qseq\[babyai\]"):
        make()


def test_minigrid_is_imported_by_the_environment_only() -> None:
    program = (
        "import sys, qseq.environments.babyai_bot, qseq.environments.babyai_recipes\n"
        "assert 'minigrid' not in sys.modules and 'pygame' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
