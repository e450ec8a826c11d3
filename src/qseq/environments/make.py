"""Make any Gymnasium environment by its id, with messages that say what to do when it cannot be made."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from qseq.environments.observation import DictObservation
from qseq.errors import QseqError, RequestError

INSTALL = {
    "metaworld": 'pip install "qseq[metaworld]"',
    "mujoco": 'pip install "qseq[metaworld]"',
    "minigrid": 'pip install "qseq[babyai]"',
    "gymnasium_robotics": 'pip install "qseq[planner]"',
    "ogbench": "pip install ogbench",
}


def make_environment(env_id: str, env_kwargs: Mapping[str, Any] | None = None, render: bool = False) -> DictObservation:
    """One environment with dictionary observations (see `DictObservation`).

    Args:
        env_id: a Gymnasium id such as "CartPole-v1"; "module:id" imports the module first (which registers the id).
        env_kwargs: given to the environment as they are; `max_episode_steps` sets the time limit.
        render: whether `env.render()` must return RGB frames, uint8 [height, width, 3].

    Raises:
        RequestError: the id is unknown, a package is missing, the environment refuses its arguments, or its
            observations or actions are of an unsupported type.
    """
    kwargs = dict(env_kwargs or {})
    module, _, name = env_id.rpartition(":")
    if module:
        _import(module, env_id)
    _check_known(name, env_id)
    kwargs.setdefault("disable_env_checker", True)
    if render:
        kwargs["render_mode"] = "rgb_array"
    try:
        with warnings.catch_warnings():
            # Advice on newer versions of an environment is not about this request.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module="gymnasium")
            env = gym.make(name, **kwargs)
    except QseqError:
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise RequestError(f"environment '{env_id}' needs a package that is missing: {_one_line(error)}") from error
    except Exception as error:  # what an environment raises on arguments it does not know is its own choice
        raise RequestError(
            f"environment '{env_id}' could not be made with {dict(env_kwargs or {})}: "
            f"{type(error).__name__}: {_one_line(error)}; check --env-kwargs"
        ) from error
    try:
        return DictObservation(env)
    except RequestError:
        env.close()
        raise


def _import(module: str, env_id: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        advice = INSTALL.get(missing.split(".")[0])
        if advice is None:
            advice = f"check the part of '{env_id}' before the colon, or install the package that holds it"
        raise RequestError(f"environment '{env_id}': module '{missing}' was not found; {advice}") from error
    except ImportError as error:
        raise RequestError(
            f"environment '{env_id}': module '{module}' cannot be imported: {_one_line(error)}"
        ) from error


def _check_known(name: str, env_id: str) -> None:
    try:
        gym.spec(name)
    except gym.error.Error as error:
        # Installed simulators register their ids on import only.
        hint = ""
        for package in ("minigrid", "gymnasium_robotics", "ogbench"):
            if importlib.util.find_spec(package) is not None:
                importlib.import_module(package)
                if name in gym.registry:
                    return
        if name.split("/")[0].lower() in ("meta-world", "metaworld", "qseq"):
            hint = (
                "; Meta-World is 'qseq.environments.metaworld:qseq/metaworld-v3', "
                "BabyAI 'qseq.environments.babyai:qseq/babyai-v0', "
                "PointMaze 'qseq.environments.pointmaze:qseq/pointmaze-v0'"
            )
        elif name.startswith("MiniGrid") or name.startswith("BabyAI"):
            hint = f"; {INSTALL['minigrid']}"
        else:
            close = difflib.get_close_matches(name, list(gym.registry), n=3)
            if close:
                hint = f"; close names: {', '.join(close)}"
        raise RequestError(
            f"environment '{env_id}' is not known: {_one_line(error)}{hint}; "
            "an environment of your own is given as 'package.module:id'"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
