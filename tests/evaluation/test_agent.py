"""An Agent writes what happened: nothing lost, nothing made up, exploring less and less over all its steps."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from qseq import Agent, BaseEnvironment, EpisodeStore, MockEnvironment, QRoboticTransformer
from qseq.environments import make_environment
from qseq.errors import QseqError, RequestError
from qseq.evaluation import ExploringActor, LinearSchedule
from qseq.networks.observation import FieldLayout

SIZES: dict[str, Any] = {"dim": 16, "heads": 2, "dim_head": 8, "q_head_attn_kwargs": {"attn_depth": 1}}


def state_model(**changes: Any) -> QRoboticTransformer:
    torch.manual_seed(0)
    return QRoboticTransformer(**(SIZES | {"state_dim": 3, "num_actions": 2, "action_bins": 4} | changes))


def video_model(frames: int = 3) -> QRoboticTransformer:
    torch.manual_seed(0)
    return QRoboticTransformer(
        **SIZES, fields={"camera": FieldLayout(shape=(3, 8, 8))}, num_actions=2, action_bins=4, history=frames
    )


def mock(**changes: Any) -> MockEnvironment:
    return MockEnvironment(
        **({"state_shape": (3,), "text_embed_shape": 16, "num_actions": 2, "action_bins": 4} | changes)
    )


class Counter(BaseEnvironment):
    """State: [episode, step, step]. Ends by itself after `length` steps, with reward 1."""

    def __init__(self, length: int = 4, pause: float = 0.0) -> None:
        super().__init__(state_shape=(3,), text_embed_shape=(16,))
        self.length, self.pause, self.episode, self.time = length, pause, -1, 0
        self.actions: list[list[int]] = []

    def init(self) -> tuple[str, Tensor]:
        self.episode, self.time = self.episode + 1, 0
        return f"count {self.episode % 2}", self._state()

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time.sleep(self.pause)
        assert actions.shape == (1, 2)
        self.actions.append(actions[0].tolist())
        self.time += 1
        done = torch.tensor(self.time == self.length)
        return done.float(), self._state(), done

    def _state(self) -> Tensor:
        return torch.tensor([float(self.episode), float(self.time), float(self.time)])


class Film(BaseEnvironment):
    """A video of 3 frames whose newest one is filled with the step; `kind` says how the stack is made."""

    def __init__(self, kind: str = "shifting", scale: float = 1 / 255) -> None:
        super().__init__(state_shape=(3, 3, 8, 8), text_embed_shape=16)
        self.kind, self.scale, self.time = kind, scale, 0

    def init(self) -> tuple[str, Tensor]:
        self.time = 0
        return "watch", self._stack()

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.time += 1
        return torch.tensor(0.0), self._stack(), torch.tensor(False)

    def _stack(self) -> Tensor:
        stride = 2 if self.kind == "strided" else 1
        times = [self.time - 2 * stride, self.time - stride, self.time]
        shown = torch.tensor([t if self.kind == "early" else max(t, 0) for t in times]) + 2
        return (shown.float() * self.scale)[None, :, None, None].expand(3, 3, 8, 8)


def test_what_happened_is_what_is_stored(tmp_path: Path) -> None:
    env = Counter()
    summary = Agent(state_model(), environment=env, memories_dataset_folder=tmp_path / "r", num_episodes=3)()
    assert (summary.episodes, summary.collected, summary.steps) == (3, 3, 12)
    store = EpisodeStore.open(tmp_path / "r")
    store.verify()
    assert store.schema.env == {"id": "Counter", "kwargs": {}}
    for index in range(3):
        episode = store.episode(index)
        assert episode.observations["state"][:, 0].tolist() == [float(index)] * 5
        assert episode.observations["state"][:, 1].tolist() == [0, 1, 2, 3, 4]  # the last one is the true final state
        assert episode.actions.tolist() == env.actions[4 * index : 4 * index + 4]
        assert episode.rewards.tolist() == [0, 0, 0, 1]
        assert (episode.terminated, episode.truncated) == (True, False)
        assert episode.instruction == f"count {index % 2}"


def test_a_time_limit_truncates(tmp_path: Path) -> None:
    for limit, expected in ((3, (False, True)), (4, (True, False))):
        folder = tmp_path / str(limit)
        Agent(
            state_model(),
            environment=Counter(),
            memories_dataset_folder=folder,
            num_episodes=2,
            max_num_steps_per_episode=limit,
        )()
        store = EpisodeStore.open(folder)
        assert [(bool(a), bool(b)) for a, b in zip(store.terminated, store.truncated, strict=True)] == [expected] * 2
        assert store.lengths.tolist() == [limit] * 2


def test_epsilon_falls_over_all_steps_of_all_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    act = ExploringActor.act

    def noted(self: ExploringActor, *args: Any) -> list[Any]:
        rates.append(self.rate)
        return act(self, *args)

    monkeypatch.setattr(ExploringActor, "act", noted)
    folder = tmp_path / "r"
    agent = Agent(
        state_model(),
        environment=Counter(),
        memories_dataset_folder=folder,
        num_episodes=2,
        epsilon_start=0.5,
        epsilon_end=0.1,
        num_steps_to_target_epsilon=10,
    )
    agent()
    # Goes on in another call, and in another agent on the same folder.
    Agent(
        state_model(),
        environment=Counter(),
        memories_dataset_folder=folder,
        num_episodes=1,
        epsilon_start=0.5,
        epsilon_end=0.1,
        num_steps_to_target_epsilon=10,
    )()
    np.testing.assert_allclose(rates, [0.5 - 0.04 * min(step, 10) for step in range(12)])
    assert EpisodeStore.open(folder).num_episodes == 3


def test_the_share_of_random_actions_is_epsilon(tmp_path: Path) -> None:
    model = state_model()
    greedy = model.get_optimal_actions(torch.zeros(1, 3), ["still"])[0].tolist()

    class Still(Counter):
        def init(self) -> tuple[str, Tensor]:
            super().init()
            return "still", self._state()

        def _state(self) -> Tensor:
            return torch.zeros(3)

    shares = {}
    for epsilon in (0.0, 0.5, 1.0):
        folder = tmp_path / str(epsilon)
        Agent(
            model,
            environment=Still(length=1500),
            memories_dataset_folder=folder,
            num_episodes=1,
            epsilon_start=epsilon,
            epsilon_end=epsilon,
        )()
        actions = np.asarray(EpisodeStore.open(folder).columns["action"])
        assert actions.min() >= 0
        assert actions.max() <= 3  # bin 4 of 4 does not exist
        shares[epsilon] = (actions != greedy).any(1).mean()
        if epsilon == 1.0:
            counts = np.bincount(actions[:, 0] * 4 + actions[:, 1], minlength=16)
            assert (np.abs(counts - 1500 / 16) < 50).all()
    assert shares[0.0] == 0
    # A random action is the greedy one in 1 of 16 cases.
    assert shares[0.5] == pytest.approx(0.5 * 15 / 16, abs=0.06)
    assert shares[1.0] == pytest.approx(15 / 16, abs=0.04)


def test_an_instruction_is_embedded_once(tmp_path: Path) -> None:
    model = state_model()
    calls = []
    model.encoder.instruction.register_forward_hook(lambda *_: calls.append(1))
    Agent(model, environment=Counter(), memories_dataset_folder=tmp_path / "r", num_episodes=5)()
    assert EpisodeStore.open(tmp_path / "r").num_steps == 20
    assert len(calls) == len(EpisodeStore.open(tmp_path / "r").instructions) == 2


def test_single_frames_are_stored(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Agent(
            video_model(),
            environment=Film(),
            memories_dataset_folder=tmp_path / "r",
            num_episodes=1,
            max_num_steps_per_episode=5,
        )()
    store = EpisodeStore.open(tmp_path / "r")
    frames = store.columns["camera"]
    assert (frames.dtype, frames.shape) == (np.uint8, (6, 3, 8, 8))
    assert frames[:, 0, 0, 0].tolist() == [2, 3, 4, 5, 6, 7]


def test_the_model_sees_the_same_stack_when_acting_and_in_training(tmp_path: Path) -> None:
    from qseq import EpisodeView
    from qseq.episodes import Windows, WindowSpec

    model, seen = video_model(), []
    encode = model.encode

    def noted(observation: Any, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(observation["camera"].clone())
        return encode(observation, *args, **kwargs)

    model.encode = noted  # type: ignore[method-assign]
    Agent(
        model,
        environment=Film(),
        memories_dataset_folder=tmp_path / "r",
        num_episodes=1,
        max_num_steps_per_episode=5,
        epsilon_start=0.0,
        epsilon_end=0.0,
    )()
    view = EpisodeView(EpisodeStore.open(tmp_path / "r"))
    windows = Windows(view, WindowSpec(history=3), batch_size=5, seed=0, discount=0.9)
    read = windows.windows_at(np.zeros(5, int), np.arange(5)).frames["camera"][:, :3]
    torch.testing.assert_close(torch.cat(seen), read)
    # and both are the environment's own: first frames repeated, then shifted by one
    assert read[:, :, 0, 0, 0].tolist() == [[2, 2, 2], [2, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]]


@pytest.mark.parametrize(("kind", "message"), [("strided", "does not shift"), ("early", "frames that differ")])
def test_other_stacks_are_said_to_be_stored_by_their_newest_frame(tmp_path: Path, kind: str, message: str) -> None:
    agent = Agent(
        video_model(),
        environment=Film(kind),
        memories_dataset_folder=tmp_path / "r",
        num_episodes=2,
        max_num_steps_per_episode=4,
    )
    with pytest.warns(UserWarning, match=f"{message}.*newest frame of each stack is what is stored") as caught:
        agent()
    assert len(caught) == 1
    assert EpisodeStore.open(tmp_path / "r").columns["camera"][:5, 0, 0, 0].tolist() == [2, 3, 4, 5, 6]


def test_pixels_that_are_none_are_refused(tmp_path: Path) -> None:
    agent = Agent(
        video_model(),
        environment=Film(scale=0.3),
        memories_dataset_folder=tmp_path / "s",
        num_episodes=1,
        max_num_steps_per_episode=3,
    )
    with pytest.raises(QseqError, match=r"Film: found torch.float32 pixels from 1.2 to 1.2, expected uint8, or floats"):
        agent()


def test_states_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    for model, env in ((state_model(state_dim=5), mock()), (video_model(2), Film()), (video_model(), mock())):
        with pytest.raises(RequestError, match="does not fit the model"):
            Agent(model, environment=env, memories_dataset_folder=tmp_path / "r", num_episodes=1)()
    with pytest.raises(RequestError, match="num_actions = 1"):
        Agent(state_model(state_dim=4), environment="CartPole-v1", memories_dataset_folder=tmp_path / "r")()
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_episodes": 0},
        {"max_num_steps_per_episode": 0},
        {"num_steps_to_target_epsilon": 0},
        {"epsilon_end": -0.1},
        {"num_envs": 2},
    ],
)
def test_wrong_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        Agent(state_model(), environment=mock(), **wrong)


def test_epsilon_above_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="up to 1"):
        Agent(state_model(), environment=mock(), memories_dataset_folder=tmp_path / "r", epsilon_start=1.5)()


def test_gumbel_noise_prefers_better_bins(tmp_path: Path) -> None:
    model = state_model()
    for scale, folder in ((0.0, tmp_path / "none"), (0.01, tmp_path / "some"), (100.0, tmp_path / "much")):
        Agent(
            model,
            environment=Counter(length=300),
            memories_dataset_folder=folder,
            num_episodes=1,
            epsilon_start=scale,
            epsilon_end=scale,
            exploration="gumbel",
        )()
    first = {
        name: np.bincount(np.asarray(EpisodeStore.open(tmp_path / name).columns["action"])[:, 0], minlength=4)
        for name in ("none", "some", "much")
    }
    assert (first["much"] > 40).all()
    best = int(first["none"].argmax())
    assert first["none"][best] > first["some"][best] > first["much"][best]


@pytest.mark.parametrize(("num_envs", "as_instance"), [(1, False), (3, False), (1, True)])
def test_gymnasium_environments(tmp_path: Path, num_envs: int, as_instance: bool) -> None:
    model = state_model(state_dim=4, num_actions=1, action_bins=2)
    environment: Any = gym.make("CartPole-v1") if as_instance else "CartPole-v1"
    agent = Agent(
        model,
        environment=environment,
        memories_dataset_folder=tmp_path / "r",
        num_episodes=4,
        max_num_steps_per_episode=9,
        num_envs=num_envs,
    )
    assert agent().collected == 4
    assert agent().collected == 4  # an environment that was given is still open
    store = EpisodeStore.open(tmp_path / "r")
    assert store.lengths.max() == 9
    assert store.truncated[store.lengths == 9].all()
    states = np.asarray(store.columns["state"])[store.first_frames]
    assert len(np.unique(states, axis=0)) == 8  # no two episodes begin alike
    assert store.schema.env == {"id": "CartPole-v1", "kwargs": {}}


def test_continuous_actions_are_the_centres_of_bins(tmp_path: Path) -> None:
    model = state_model(num_actions=1, action_bins=5)
    Agent(
        model,
        environment=make_environment("Pendulum-v1"),
        memories_dataset_folder=tmp_path / "r",
        num_episodes=2,
        max_num_steps_per_episode=20,
        epsilon_start=1.0,
    )()
    actions = np.asarray(EpisodeStore.open(tmp_path / "r").columns["action"])
    np.testing.assert_allclose(np.unique(actions), [-1.6, -0.8, 0, 0.8, 1.6], atol=1e-6)


def test_mock_states_and_rewards_are_valid() -> None:
    env = mock(state_shape=(3, 4, 8, 8), end_probability=0.2)
    for _ in range(20):
        instruction, state = env.init()
        assert instruction in env.instructions
        total = 0.0
        while True:
            assert state.shape == (3, 4, 8, 8)
            assert state.min() >= 0
            assert state.max() <= 1
            before = state
            reward, state, done = env(torch.randint(4, (1, 2)))
            torch.testing.assert_close(state[:, :-1], before[:, 1:])
            assert not torch.equal(state[:, -1], before[:, -1])
            total += float(reward)
            if done:
                break
        assert total in (0.0, 1.0)
    for wrong in (torch.tensor([[0, 4]]), torch.tensor([[-1, 0]]), torch.tensor([0, 1]), torch.rand(1, 2)):
        with pytest.raises(ValueError, match="expected"):
            env(wrong)


def test_a_killed_agent_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    code = (
        "import torch\n"
        "from qseq import Agent\n"
        "from tests.evaluation.test_agent import Counter, state_model\n"
        "torch.set_num_threads(1)\n"
        f"folder = '{folder}'\n"
        "Agent(state_model(), environment=Counter(pause=0.01), memories_dataset_folder=folder, num_episodes=60)()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "schema.json").is_file() and EpisodeStore.open(folder).num_episodes >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = EpisodeStore.open(folder).num_episodes
    assert 3 <= kept < 60
    agent = Agent(state_model(), environment=Counter(), memories_dataset_folder=folder, num_episodes=kept + 2)
    assert agent(resume=True).collected == 2
    assert agent(resume=True).collected == 0
    assert agent().collected == kept + 2
    store = EpisodeStore.open(folder)
    store.verify()
    assert [meta["index"] for meta in store.metadata] == [*range(kept + 2)] * 2


def test_the_schedule() -> None:
    schedule = LinearSchedule(0.25, 0.001, 1000)
    assert (schedule(0), schedule(1000), schedule(10**6)) == (0.25, 0.001, 0.001)
    assert schedule(500) == pytest.approx(0.1255)
