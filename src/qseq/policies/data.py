"""Which data are read, and what is said of them: several sources as one view, relabelled, filtered, mixed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import numpy as np

from qseq.configuration import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt
from qseq.episodes import EpisodeView, RecordedEpisode
from qseq.episodes.decoding_threads import set_decoding_threads
from qseq.episodes.sources import open_source
from qseq.errors import ConfigError, RequestError


@dataclass(frozen=True, kw_only=True)
class RelabelConfig:
    """Functions "package.module:NAME" that tell other labels: each is called with a `RecordedEpisode`."""

    reward: str = ""
    """Gives the rewards of an episode, float [T]."""
    success: str = ""
    """Gives True, False, or None for not known."""
    success_return: float | None = None
    """In place of a function: an episode whose rewards sum to more than this is a success, any other is none."""
    instruction: str = ""
    """Gives a text."""
    failures_end: bool = False
    """Nothing follows the last step of an episode that failed: for failures that were stopped because they had failed,
    as a person stops a robot. Without, what would have followed is estimated by the value of the last state, as it must
    be where a time limit or chance stopped them. After relabelled successes."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which part of the data is read, and how it is cut."""

    fields: tuple[str, ...] = ()
    """Observation fields the policy reads; all of them if empty."""
    history: PositiveInt = 1
    """Frames of one observation, the newest included."""
    first_frame: bool = False
    """One frame more: the first of the episode, for what is only seen at its start ("the ball on your left")."""
    past_actions: NonNegativeInt = 0
    """How many of the last actions a policy knows, beside the frames: what it did and what came of it."""
    weights: tuple[NonNegativeFloat, ...] = ()
    """How often the steps of each data source are drawn, compared with the others, in the order of the sources; 0
    leaves one out. Without any, every step comes as often as every other."""
    relabel: RelabelConfig = RelabelConfig()
    """Other labels than the data's own, without changing the data; what is below goes by them."""
    tasks: tuple[str, ...] = ()
    """Read only episodes of these tasks (their metadata "task", else the instruction); all if empty."""
    min_return: float | None = None
    """Read only episodes whose rewards sum to at least this."""
    max_return: float | None = None
    """Read only episodes whose rewards sum to at most this."""
    filter: str = ""
    """Read only episodes of which this function is true: "package.module:NAME", called with a `RecordedEpisode`."""
    successes_only: bool = False
    """Train on successful episodes only."""
    success_share: Fraction = 0.0
    """Show successful episodes more often, so that at least this share of the steps is theirs; 0 shows all alike."""
    random_shift: NonNegativeInt = 0
    """Move cameras' frames at random by up to so many pixels each way in training, all frames of a window alike."""
    random_crop: NonNegativeInt = 0
    """Cut squares with sides of so many pixels out of cameras' frames, at random in training and from the middle when
    acting; 0 cuts nothing. The network sees squares of this size only."""
    verify: bool = True
    """Check every value of the data (finite, within bounds) before training."""
    limit_episodes: NonNegativeInt = 0
    """Read only the first so many episodes; 0 reads all."""
    decoding_threads: NonNegativeInt = 0
    """Threads that decode compressed pictures; 0: one for each core, at most 8."""


def open_view(sources: Sequence[str], config: DataConfig) -> EpisodeView:
    """Several sources as one data set, relabelled and filtered as the configuration says.

    Raises:
        DataError: a source is damaged, holds values that must not be, or no episode is left.
        RequestError: a function that is none, or weights that do not fit the sources.
    """
    set_decoding_threads(config.decoding_threads)
    stores = [open_source(source) for source in sources]
    if config.verify:
        for store in stores:
            store.verify()
    view = filtered(relabelled(EpisodeView(stores), config.relabel), config)
    if config.limit_episodes:
        view = view.select(range(min(config.limit_episodes, view.num_episodes)))
    view = with_success_share(view, config.success_share)
    return view.weighted(config.weights) if config.weights else view


def relabelled(view: EpisodeView, config: RelabelConfig) -> EpisodeView:
    """The view with the labels that the configuration asks for.

    Raises:
        RequestError: a function that is none or gave something else; DataError: rewards that are none.
    """
    success = load_function(config.success, "data.relabel.success") if config.success else None
    if config.success_return is not None:
        if success is not None:
            raise ConfigError("data.relabel.success, data.relabel.success_return: found both, expected one of them")
        least = config.success_return
        success = lambda episode: episode.total_return > least  # noqa: E731
    return view.relabel(
        rewards=load_function(config.reward, "data.relabel.reward") if config.reward else None,
        success=success,
        instruction=load_function(config.instruction, "data.relabel.instruction") if config.instruction else None,
        failures_end=config.failures_end,
    )


def filtered(view: EpisodeView, config: DataConfig) -> EpisodeView:
    """The episodes that the configuration leaves. Raises DataError if there are none."""
    if config.tasks:
        tasks = set(config.tasks)
        view = view.where(lambda episode: (episode.task or episode.instruction) in tasks)
    if config.min_return is not None or config.max_return is not None:
        low = float("-inf") if config.min_return is None else config.min_return
        high = float("inf") if config.max_return is None else config.max_return
        returns = view.returns()
        view = view.select((returns >= low) & (returns <= high))
    if config.filter:
        view = view.where(load_function(config.filter, "data.filter"))
    return view.successes() if config.successes_only else view


def load_function(name: str, option: str) -> Callable[[RecordedEpisode], Any]:
    """The function that "package.module:NAME" names.

    Raises:
        RequestError: there is none.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise RequestError(f"{option}: found '{name}', expected package.module:NAME")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise RequestError(f"{option}: module '{module_name}' cannot be imported: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise RequestError(f"{option}: '{module_name}' has no function '{attribute}'")
    return cast(Callable[[RecordedEpisode], Any], function)


def with_success_share(view: EpisodeView, share: float) -> EpisodeView:
    """The view with its successful episodes repeated, as often as it takes for this share of its steps.

    The share is reached within one repetition of a successful episode. Without successes (a warning says so), or where
    they have the share already, the view stays as it is.

    Raises:
        RequestError: the share is 1, which only leaving out all others would give.
    """
    if share >= 1.0:
        raise RequestError("data.success_share: found 1, expected less; use data.successes_only=true")
    successes = np.flatnonzero(view.success == 1)
    steps, others = int(view.lengths[successes].sum()), int(view.lengths[view.success != 1].sum())
    wanted = share / (1.0 - share) * others
    if steps == 0 and share:
        warnings.warn(
            f"data.success_share={share} has no effect: none of the {view.num_episodes} episodes is a success; "
            "data.relabel.success_return says what one is where only rewards are known",
            stacklevel=2,
        )
    if steps == 0 or steps >= wanted:
        return view
    whole, rest = divmod(wanted, steps)
    more = successes[: np.searchsorted(np.cumsum(view.lengths[successes]), rest)]
    again = np.concatenate([np.tile(successes, int(whole) - 1), more]).astype(np.int64)
    return view.select(np.concatenate([np.arange(view.num_episodes), again]))
