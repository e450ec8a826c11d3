"""Q over the bins of each action dimension along one logged episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qseq.errors import QseqError
from qseq.reporting import figures
from qseq.reporting.looks import look_blocks
from qseq.reporting.page import Section, figure, heading

if TYPE_CHECKING:
    from qseq.episodes import Episode
    from qseq.episodes.store import EpisodeStore
    from qseq.reporting.data_section import DataSource
    from qseq.reporting.runs import Run

TITLE = "What it believes about every action"
MOST_DIMENSIONS = 16
METAWORLD_NAMES = ("move x", "move y", "move z", "gripper")


@dataclass(frozen=True)
class EpisodeValues:
    """Q of every bin, and what was done: values [T, A, K], tokens [T, A]; and the policy that says so."""

    values: np.ndarray
    tokens: np.ndarray
    policy: Any


def action_value_section(runs: Sequence[Run], sources: Sequence[DataSource]) -> Section:
    """One block a method whose policy has action values."""
    store = next((source.store for source in sources if source.store is not None and source.store.num_episodes), None)
    if store is None:
        return Section(TITLE, "Needs a logged episode: none of the data the runs learnt from can be opened.")
    index = typical_success(store)
    episode = store.episode(index)
    blocks, problems = [], []
    first_runs: dict[str, Run] = {}
    for run in runs:
        first_runs.setdefault(run.method, run)
    for run in first_runs.values():
        try:
            found = episode_values(run, episode)
        except (QseqError, OSError) as error:
            problems.append(f"{run.method}: {error}.")
            continue
        if found is not None:
            blocks.append(draw(run.method, found, episode, dimension_names(found.values.shape[1], store)))
    if not blocks:
        return Section(TITLE, " ".join(["No run has a policy with action values."][: not problems] + problems))
    told = f"\u201c{episode.instruction}\u201d, " if episode.instruction else ""
    line = (
        f"Q of every bin of each action dimension, given the dimensions before it, along episode {index} of "
        f"{store.path} ({told}{'successful' if episode.success else 'not successful'}). "
        "Brighter is better; dots are what was done."
    )
    return Section(TITLE, " ".join([line, *problems]), "".join(blocks))


def typical_success(store: EpisodeStore) -> int:
    """The successful episode of median length; without one, the episode with the highest return."""
    successes = np.flatnonzero(store.success == 1)
    if not len(successes):
        return int(np.argmax(store.returns()))
    by_length = successes[np.argsort(store.lengths[successes], kind="stable")]
    return int(by_length[len(by_length) // 2])


def episode_values(run: Run, episode: Episode) -> EpisodeValues | None:
    """None for a policy whose scores are not values, or of more dimensions than a page can show."""
    from qseq.registry import load_policy

    policy: Any = load_policy(run.path)
    if "value" not in policy.describe().get("extra", {}):  # cloned behaviour scores bins by likelihood
        return None
    observations = {name: values[:-1] for name, values in episode.observations.items()}
    told = episode.instruction if policy.takes_instructions else None
    values = np.array(policy.action_values(observations, told, episode.actions), dtype=np.float64)
    if values.shape[1] > MOST_DIMENSIONS:
        return None
    tokenizer = policy.spec.tokenizer
    if tokenizer.token_mask is not None:
        values[:, ~np.asarray(tokenizer.token_mask)] = np.nan
    return EpisodeValues(values, executed_tokens(tokenizer, episode.actions), policy)


def executed_tokens(tokenizer: Any, actions: np.ndarray) -> np.ndarray:
    """The bins of the logged actions, int64 [T, A]; of a chunk, the actions from each step on."""
    import torch

    chunk = getattr(tokenizer, "steps", None)
    if chunk is not None:
        steps = np.arange(len(actions))[:, None] + np.arange(chunk)
        actions = actions[np.minimum(steps, len(actions) - 1)]
    return np.asarray(tokenizer.encode(torch.from_numpy(np.ascontiguousarray(actions))))


def draw(method: str, found: EpisodeValues, episode: Episode, names: Sequence[str]) -> str:
    taken = np.take_along_axis(found.values, found.tokens[..., None], axis=2)[:, -1, 0]
    first = found.values[:, 0]
    best = np.where(np.isfinite(first), first, -np.inf).max(axis=1)
    obtained = np.cumsum(episode.rewards[::-1], dtype=np.float64)[::-1]
    maps = figures.draw_action_values(found.values, found.tokens, names, f"Q over bins, {method}")
    along = figures.draw_value_along(best, taken, obtained, f"Q along the episode, {method}")
    looks = look_blocks(found.policy, method, episode, found.values, found.tokens, names)
    return heading(method) + figure(maps) + figure(along, "The return obtained is not discounted; Q is.") + looks


def dimension_names(number: int, store: EpisodeStore) -> list[str]:
    is_metaworld = number == len(METAWORLD_NAMES) and "metaworld" in str((store.schema.env or {}).get("id", ""))
    return list(METAWORLD_NAMES) if is_metaworld else [f"dimension {index + 1}" for index in range(number)]
