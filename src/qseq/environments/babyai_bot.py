"""BabyAI's own bot, sent to the wrong object and with an unsteady hand: a scripted policy to collect poor data with.

`collect --policy scripted:qseq.environments.babyai_bot:corrupted_bot`; the protocol is that of
`qseq.environments.scripted`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from qseq.environments.babyai import BabyAI
from qseq.environments.disturbances import Fumbles, check_probability
from qseq.environments.scripted import Observation
from qseq.errors import RequestError

# Where BabyAI's missions keep their parts and the descriptions of their objects.
PARTS = ("instr_a", "instr_b")
DESCRIPTIONS = ("desc", "desc_move", "desc_fixed")

Other = tuple[Any, tuple[int, int]]
"""An object and its cell."""

bot_errors: Counter[str] = Counter()
"""How many episodes of this process lost their bot to which error (the exception's name)."""


class CorruptedBot:
    """BabyAI's bot with a wrong idea of its mission and an unsteady hand.

    With probability `wrong_object` an episode is of the wrong kind: the bot has a mission of the same form about other
    objects of the same room (another one to go to or to pick up; of "put A next to B" either another A or another B;
    of a mission in several parts one part is wrong). It follows the true mission where the room holds no other object.
    On the way it may still accomplish the true mission by accident, which ends the episode as a success. With
    probability `misheard` the wrong object is one that the description would mean but for one word (the colour, the
    kind or the place), where the room holds such an object; otherwise any other.

    Once the bot believes its mission accomplished and the episode goes on, it loiters for `linger` random actions and
    then abandons the episode (truncated). Loitering shows what comes after the wrong object; without it nothing
    would be known of the frames reached there.

    The bot plans with what it has seen in the true grid, and replans after each random action. Where it raises an
    error (it gives up on a world where a box was opened, say), random actions follow until the episode ends; `error`
    names it and `bot_errors` counts it. Everything is drawn from `rng`, so an episode is a function of it and the
    environment.

    Args:
        env: the environment, a `BabyAI` below any wrappers.
        rng: source of all randomness.
        wrong_object: probability of an episode of the wrong kind.
        misheard: probability, in such an episode, of an object that differs in one word.
        random_probability: share of the steps whose action is drawn uniformly from the action space instead.
        random_steps: a random action is held for so many steps (a fumble), then the bot goes on from there.
        linger: (low, high): number of random actions after the bot's own end, uniformly drawn; none by default.
        abandon: (low, high): give up after so many steps, uniformly drawn.

    Attributes:
        wrong: whether the bot was sent to another object.
        reached: whether that other mission has been accomplished.
        error: what the bot failed with.

    Raises:
        RequestError: an argument is out of its range, or the environment is not BabyAI.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        rng: np.random.Generator,
        *,
        wrong_object: float = 0.0,
        misheard: float = 0.0,
        random_probability: float = 0.0,
        random_steps: int = 1,
        linger: Sequence[int] = (0, 0),
        abandon: Sequence[int] | None = None,
    ) -> None:
        check_probability("corrupted_bot", "wrong_object", wrong_object)
        check_probability("corrupted_bot", "misheard", misheard)
        world = env.unwrapped
        if not isinstance(world, BabyAI):
            raise RequestError(
                f"corrupted_bot acts in BabyAI only, found {type(world).__name__}; "
                "use --env qseq.environments.babyai:qseq/babyai-v0 or another policy"
            )
        self._world, self._rng = world, rng
        actions: Any = world.action_space
        self._fumbles = Fumbles(
            rng,
            lambda: int(rng.integers(actions.n)),
            probability=random_probability,
            steps=random_steps,
            who="corrupted_bot",
        )
        self._means_wrong = bool(rng.uniform() < wrong_object)
        self._misheard = misheard
        self._linger_left = _drawn("linger", linger, rng, least=0)
        self._last_step = None if abandon is None else _drawn("abandon", abandon, rng, least=1)
        self._steps = 0
        self._taken: int | None = None
        self._looked = True
        self._bot: Any = None
        self._believed: Any = None
        self._finished = False
        self.wrong, self.reached = False, False
        self.error: str | None = None

    def reset(self, observation: Observation, info: dict[str, Any]) -> None:
        """Read the mission, and get it wrong if this episode is to."""
        level = self._world.level
        if self._means_wrong:
            self._believed = _wrong_mission(level, level.instrs, self._rng, self._misheard)
        if self._believed is not None:
            self.wrong = True
            # It may begin right before the wrong object.
            self.reached = self._believed.verify(level.actions.done) == "success"
        self._bot = _make_bot(level, level.instrs if self._believed is None else self._believed)

    def act(self, observation: Observation) -> int:
        """The action, 0 to 6."""
        if self._bot is None:
            raise RequestError("corrupted_bot: reset must be called before act")
        self._look_back()
        planned = self._plan()
        fumble, random_action = self._fumbles()
        if planned is None:
            self._linger_left -= int(self._finished)
            action = random_action
        elif self._finished or fumble is None:
            action = planned
        else:
            action = fumble
        self._steps += 1
        self._taken, self._looked = action, False
        return action

    def done(self) -> bool:
        """Whether the episode is abandoned now."""
        self._look_back()
        given_up = self._last_step is not None and self._steps >= self._last_step
        return given_up or (self._finished and self._linger_left <= 0)

    def _look_back(self) -> None:
        """See, once a step, what the last action did to the wrong mission (the level does so for the true one)."""
        if self._looked:
            return
        self._looked = True
        if self._believed is None:
            return
        level = self._world.level
        if self._taken == level.actions.drop:
            level.update_objs_poss(self._believed)
        if self._believed.verify(self._taken) == "success":
            self.reached = self._finished = True

    def _plan(self) -> int | None:
        """What the bot would do now; None once it has nothing more to say."""
        if self._finished or self.error is not None:
            return None
        try:
            planned = int(self._bot.replan(self._taken))
        except Exception as error:  # it asserts, and indexes what is not there, in more ways than can be listed
            self.error = type(error).__name__
            bot_errors[self.error] += 1
            return None
        # Its last word is the action `done`: it is taken, as an episode may begin where its mission ends.
        self._finished = planned == self._world.level.actions.done
        return planned


corrupted_bot = CorruptedBot


def _make_bot(level: Any, mission: Any) -> Any:
    from minigrid.utils.baby_ai_bot import BabyAIBot

    bot: Any = BabyAIBot
    # The bot reads the level's mission when it is made and never again.
    true, level.instrs = level.instrs, mission
    try:
        return bot(level)
    finally:
        level.instrs = true


def _wrong_mission(level: Any, mission: Any, rng: np.random.Generator, misheard: float) -> Any:
    """The mission with one of its objects exchanged for another of the agent's room; None where there is no other.

    The level must just have been reset: verifiers keep notes, which are copied, and places are as seen from the start.
    """
    wrong = _copied(mission)
    for name in rng.permutation(_present(mission, PARTS)).tolist():
        part = _wrong_mission(level, getattr(mission, name), rng, misheard)
        if part is not None:
            setattr(wrong, name, part)
            return wrong
    for name in rng.permutation(_present(mission, DESCRIPTIONS)).tolist():
        description = getattr(mission, name)
        others = _other_objects(level, mission, description)
        if misheard and rng.uniform() < misheard:
            others = _but_for_a_word(level, description, others, rng) or others
        if others:
            setattr(wrong, name, _description_of(*others[int(rng.integers(len(others)))]))
            return wrong
    return None


def _copied(mission: Any) -> Any:
    """A mission whose parts keep notes of their own."""
    duplicate = copy.copy(mission)
    for name in _present(mission, PARTS):
        setattr(duplicate, name, _copied(getattr(mission, name)))
    return duplicate


def _other_objects(level: Any, mission: Any, description: Any) -> list[Other]:
    """(object, cell) of what is in the agent's room, could take the described object's place and is not meant."""
    meant = [thing for name in _present(mission, DESCRIPTIONS) for thing in getattr(mission, name).obj_set]
    is_door = description.obj_set[0].type == "door"
    room = level.room_from_pos(*level.agent_pos)
    (left, top), (width, height) = room.top, room.size
    others = []
    for cell in ((x, y) for x in range(left, left + width) for y in range(top, top + height)):
        thing = level.grid.get(*cell)
        fits = thing is not None and (thing.type == "door" if is_door else thing.can_pickup())
        if fits and not any(thing is one for one in meant):
            others.append((thing, cell))
    return others


def _but_for_a_word(level: Any, description: Any, others: list[Other], rng: np.random.Generator) -> list[Other]:
    """Those of `others` that the description would mean without one of its words, a random one for which there are."""
    for word in rng.permutation(["type", "color", "loc"]).tolist():
        without = copy.copy(description)
        setattr(without, word, None)
        things, _ = without.find_matching_objs(level)
        near = [(thing, cell) for thing, cell in others if any(thing is one for one in things)]
        if near:
            return near
    return []


def _description_of(thing: Any, cell: tuple[int, int]) -> Any:
    """A description that means this object and no other of its kind."""
    from minigrid.envs.babyai.core.verifier import ObjDesc

    make: Any = ObjDesc
    description = make(thing.type, thing.color)
    description.obj_set, description.obj_poss = [thing], [cell]
    return description


def _present(mission: Any, names: Sequence[str]) -> list[str]:
    return [name for name in names if hasattr(mission, name)]


def _drawn(name: str, values: Sequence[int], rng: np.random.Generator, least: int) -> int:
    """A whole number, uniformly drawn from `values` = (low, high), both included."""
    whole = isinstance(values, list | tuple) and all(type(value) is int for value in values)
    if not whole or len(values) != 2 or not least <= values[0] <= values[1]:
        raise RequestError(
            f"corrupted_bot: {name}={values!r}: expected two whole numbers, low <= high, low at least {least}"
        )
    return int(rng.integers(values[0], values[1] + 1))
