"""What several commands parse the same way."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from qseq.errors import RequestError

IMAGES = "raw (default), png (exact), jpeg or jpeg:QUALITY (1 to 100)"
OVERRIDE = re.compile(r"^(?:--)?([A-Za-z_]\w*(?:\.\w+)*=.*)$", re.DOTALL)


class Command(Protocol):
    """One subcommand: its module has these."""

    HELP: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> None: ...


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def positive(text: str) -> int:
    """An integer of at least one, for ``argparse`` types."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a whole number of at least 1")
    return value


def natural(text: str) -> int:
    """An integer of at least zero, for ``argparse`` types."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a whole number of at least 0")
    return value


def json_object(text: str) -> dict[str, Any]:
    """A JSON object, for ``argparse`` types."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON ({error.msg} at character {error.pos}): {text}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'found {text}, expected a JSON object such as {{"task": "push-v3"}}')
    return value


def override(text: str) -> str:
    """``key=value`` with a dotted key, with or without leading dashes."""
    match = OVERRIDE.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"found '{text}', expected key=value such as training.steps=100")
    return match.group(1)


def add_policy_options(parser: argparse.ArgumentParser, text: str) -> None:
    """`--policy-options`, read by `parse_options`; `text` is its help."""
    parser.add_argument(
        "--policy-options", type=override, action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=text
    )


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``["decoding=sampled", "temperature=0.5"]`` -> a dict; values are read as YAML scalars."""
    import yaml

    options: dict[str, Any] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RequestError(f"option {key}: '{value}' is not a YAML value; quote it") from error
    return options


def add_environment(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--env`` and ``--env-kwargs``."""
    parser.add_argument(
        "--env",
        required=required,
        help="any Gymnasium id; module:id imports the module first; text:NAME is a text game",
    )
    parser.add_argument(
        "--env-kwargs", type=json_object, default={}, metavar="JSON", help='arguments of the environment, {"task": ...}'
    )


def refuse_existing(path: Path, flag: str, *, advice: str) -> None:
    """Nothing is written over: an existing file or a folder with something in it is a wrong request."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise RequestError(f"{flag}: {path} exists already; {advice}")


def require_file_name(path: Path, flag: str) -> None:
    """What is written at the end must be writable in principle before long work begins."""
    if path.is_dir():
        raise RequestError(f"{flag}: {path} is a folder; expected the name of a file")
    if any(parent.is_file() for parent in path.parents):
        raise RequestError(f"{flag}: a file stands where a folder of {path} should be; choose another path")


def percent(rate: float | None) -> str:
    return "unknown" if rate is None else f"{100 * rate:.1f}%"
