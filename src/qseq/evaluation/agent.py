"""`Agent`: a model you built acts, explores, and writes what happened into a replay folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym

from qseq.environments import DictObservation, make_environment, space_to_json
from qseq.episodes import EpisodeStore
from qseq.episodes.replay import REPLAY_FOLDER
from qseq.episodes.schema import SCHEMA_FILE
from qseq.errors import RequestError
from qseq.evaluation.base_adapter import BaseEnvironmentAdapter
from qseq.evaluation.base_environment import BaseEnvironment
from qseq.evaluation.collect import CollectionSummary, check_counts, collect_episodes, identity_of
from qseq.evaluation.compatibility import env_name
from qseq.evaluation.exploration import Exploration, ExploringActor, LinearSchedule, NoisyPolicy
from qseq.evaluation.seeds import call_seed
from qseq.robot import QRoboticTransformer
from qseq.robot.description import describe_model

SOURCE = "agent"


class Agent:
    """Collects with a `QRoboticTransformer`; each call adds `num_episodes` episodes to the replay folder.

    The folder is an `EpisodeStore`: an episode is there in full once it is over, whatever happens to the process. One
    that exists is added to. Epsilon falls with the steps of all episodes that agents wrote into the folder. The time
    limit truncates, it does not terminate. Single frames are stored, not stacks (see `BaseEnvironmentAdapter`), and
    the instruction as text; it is embedded once a call and distinct instruction.

    Args:
        model: acts as it is when called, without dropout.
        environment: a `BaseEnvironment`, a Gymnasium environment, or the id of one ("module:id" imports the module).
        memories_dataset_folder: the replay folder.
        num_episodes: of one call. max_num_steps_per_episode: the time limit, beside the environment's own.
        epsilon_start, epsilon_end, num_steps_to_target_epsilon: a straight line, then `epsilon_end`.
        exploration: "epsilon", or "gumbel", which reads the line as the scale of the noise on values.
        env_kwargs: for an id. num_envs: environments stepped together, for an id.
        success_return: a return above it is a success, where the environment does not say.
        instruction: told to the model, and recorded, instead of what the environment says.
        seed: of everything random here; a Gymnasium environment is seeded with it, too.
        images: how a new replay folder keeps its pictures, see `StoreWriter`.

    Raises:
        RequestError: a number is not valid, or the environment does not fit the model.
    """

    def __init__(
        self,
        model: QRoboticTransformer,
        *,
        environment: BaseEnvironment | gym.Env[Any, Any] | str,
        memories_dataset_folder: str | Path = REPLAY_FOLDER,
        num_episodes: int = 1000,
        max_num_steps_per_episode: int = 10_000,
        epsilon_start: float = 0.25,
        epsilon_end: float = 0.001,
        num_steps_to_target_epsilon: int = 1000,
        exploration: Exploration = "epsilon",
        env_kwargs: dict[str, Any] | None = None,
        num_envs: int = 1,
        success_return: float | None = None,
        instruction: str | None = None,
        seed: int = 0,
        images: str | None = None,
    ) -> None:
        check_counts(num_episodes, num_envs)
        if max_num_steps_per_episode < 1:
            raise RequestError(f"max_num_steps_per_episode: found {max_num_steps_per_episode}, expected at least 1")
        if not isinstance(environment, str) and (num_envs > 1 or env_kwargs):
            raise RequestError("num_envs, env_kwargs: found an environment that is made already; give its id instead")
        self.model = model
        self.environment = environment
        self.folder = Path(memories_dataset_folder)
        self.num_episodes = num_episodes
        self.max_num_steps_per_episode = max_num_steps_per_episode
        self.schedule = LinearSchedule(epsilon_start, epsilon_end, num_steps_to_target_epsilon)
        self.exploration: Exploration = exploration
        self.env_kwargs = dict(env_kwargs or {})
        self.num_envs = num_envs
        self.success_return = success_return
        self.instruction = instruction
        self.seed = seed
        self.images = images

    def __call__(self, resume: bool = False) -> CollectionSummary:
        """Collect; `resume` completes the last call on this folder, which may have been killed, and adds no other.

        Raises:
            RequestError: the environment does not fit the model or the folder; nothing was stepped.
            QseqError: an episode failed; those before it are kept.
        """
        environments = [self._make()]
        try:
            call, steps = self._so_far(resume)
            actor = self._actor(environments[0], steps)
            name = self.environment if isinstance(self.environment, str) else env_name(environments[0])
            seed = call_seed(self.seed, call)
            identity = identity_of(f"{SOURCE} {call}", name, self.env_kwargs, self.seed)
            return collect_episodes(
                actor,
                environments,
                self._make,
                out=self.folder,
                episodes=self.num_episodes,
                seed=seed,
                base={"source": SOURCE, "seed": seed, "collection": identity, "call": call},
                env_json={"id": name, "kwargs": self.env_kwargs},
                num_envs=self.num_envs,
                success_return=self.success_return,
                images=self.images,
            )
        finally:
            # An environment that was given is its owner's to close.
            for env in environments if isinstance(self.environment, str) else environments[1:]:
                env.close()

    def _so_far(self, resume: bool) -> tuple[int, int]:
        """Number of the call, and steps that agents have written."""
        if not (self.folder / SCHEMA_FILE).is_file():
            return 0, 0
        store = EpisodeStore.open(self.folder)
        ours = [meta.get("source") == SOURCE for meta in store.metadata]
        calls = [int(meta["call"]) for meta, own in zip(store.metadata, ours, strict=True) if own]
        last = max(calls, default=0 if resume else -1)
        return last if resume else last + 1, int(store.lengths[ours].sum())

    def _make(self) -> DictObservation:
        if isinstance(self.environment, str):
            env = make_environment(self.environment, self.env_kwargs).env
        elif isinstance(self.environment, BaseEnvironment):
            env = self._adapted(self.environment)
        else:
            env = self.environment
            if isinstance(env, DictObservation):
                env = env.env
        return DictObservation(gym.wrappers.TimeLimit(env, self.max_num_steps_per_episode))

    def _adapted(self, base: BaseEnvironment) -> BaseEnvironmentAdapter:
        fields = sorted(self.model.field_shapes)
        if len(fields) != 1:
            raise RequestError(
                f"{type(base).__name__} shows one state, but the model reads the fields {fields}: "
                "give a Gymnasium environment that shows them all"
            )
        ((field, shape),) = self.model.field_shapes.items()
        return BaseEnvironmentAdapter(
            base,
            field=field,
            frame_shape=tuple(shape),
            history=self.model.encoder.history,
            num_actions=self.model.num_actions,
            action_bins=self.model.decoder.num_bins,
        )

    def _actor(self, env: DictObservation, first_step: int) -> ExploringActor:
        # Made anew for each call: what it remembers of instructions belongs to the weights of now.
        policy = NoisyPolicy(self.model, describe_model(self.model, space_to_json(env.action_space)))
        actor = ExploringActor(
            policy,
            self.schedule,
            exploration=self.exploration,
            first_step=first_step,
            name=SOURCE,
            instruction=self.instruction,
            reseed=self.num_envs == 1,
        )
        actor.prepare(env)
        return actor
