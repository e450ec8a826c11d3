"""Configuration: a tree of frozen, keyword-only dataclasses. YAML in, YAML out, dotted overrides, precise errors.

    @dataclass(frozen=True, kw_only=True)
    class RunConfig:
        steps: PositiveInt = 3000

    config = load_config(RunConfig, overrides=["steps=100"])

Values are checked strictly (no "3" for 3, no 1 for true) by pydantic; a key that no dataclass has is an error that
names the nearest valid one. Later sources win: the classes' defaults, then `base`, `file`, `overrides`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from annotated_types import Ge, Gt, Le
from pydantic import ConfigDict, TypeAdapter, ValidationError

from qseq.errors import ConfigError
from qseq.files import write_atomic

T = TypeVar("T")

# Bounds for fields; they hold wherever a config is loaded (not where a dataclass is built by hand: see `checked`).
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]


def load_config(
    cls: type[T],
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
) -> T:
    """Build a `cls` from its defaults, then `base`, then a YAML `file`, then `overrides` such as "training.steps=100".

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value is not valid.
    """
    tree: dict[str, Any] = _plain(base) if base is not None else {}
    if file is not None:
        tree = _merge(tree, _read(Path(file)))
    for override in overrides:
        tree = _merge(tree, _parse_override(override))
    tree = _check_keys(tree, (cls,), "", cls)
    return _validate(cls, _with_defaults(cls, tree))


def from_dict(cls: type[T], mapping: Mapping[str, Any]) -> T:
    """Build a `cls` from a mapping, the inverse of `to_dict`.

    Raises:
        ConfigError: a key is unknown or a value is not valid.
    """
    return load_config(cls, base=mapping)


def checked(config: T) -> T:
    """`config` itself, after the checks that `load_config` makes: for configs built by hand.

    Raises:
        ConfigError: a value is not valid.
    """
    from_dict(type(config), to_dict(config))
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values: mappings, lists, strings, numbers, booleans, None."""
    tree = _plain(config)
    if not isinstance(tree, dict):
        raise TypeError(f"a config must be a dataclass or a mapping, found {type(config).__name__}")
    return tree


def to_yaml(config: Any) -> str:
    """A config as YAML that `load_config` reads back to an equal one."""
    return str(yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def write_config(config: Any, path: Path) -> None:
    """Write `config` to `path` as YAML, atomically.

    Raises:
        RequestError: the disk is full.
    """
    write_atomic(Path(path), to_yaml(config))


def flatten(config: Any) -> dict[str, Any]:
    """A config as one flat mapping of dotted keys to values; lists are values."""

    def walk(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in tree.items():
            if isinstance(value, Mapping) and value:
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    return dict(walk(to_dict(config), ""))


# --- reading -----------------------------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"config file {file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {file} cannot be read: {error}") from None
    try:
        tree = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {file} is not valid YAML: {' '.join(str(error).split())}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"config file {file}: found {_shown(tree)}, expected a mapping of keys to values")
    return tree


def _parse_override(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override '{override}': expected KEY=VALUE with a dotted key, such as training.steps=100")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        if text.lstrip()[:1] in ("[", "{"):
            raise ConfigError(f"override '{override}': {_shown(text)} is not valid YAML") from None
        value = text  # a glob, a percentage: plain text that YAML gives another meaning
    for part in reversed(parts):
        value = {part: value}
    return typing.cast(dict[str, Any], value)


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Path):
        return str(value)
    return value


# --- checking ----------------------------------------------------------------------------------------------------


def _validate(cls: type[T], tree: Mapping[str, Any]) -> T:
    # The dataclasses are plain ones; pydantic hands a surrounding type's config down to them, not their own.
    surrounding: Any = types.GenericAlias(tuple, (cls,))
    adapter: TypeAdapter[Any] = TypeAdapter(surrounding, config=ConfigDict(extra="forbid"))
    try:
        text = json.dumps([tree])
    except TypeError as error:
        raise ConfigError(f"the configuration holds a value that YAML cannot: {error}") from None
    try:
        # In JSON mode strict still takes a list for a tuple and a string for a path, which YAML cannot say otherwise.
        (config,) = adapter.validate_json(text, strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(error, tree)) from None
    return typing.cast(T, config)


def _explain(error: ValidationError, tree: Mapping[str, Any]) -> str:
    """One line for the first key at fault. A union yields an error per member: all say what is expected."""
    problems = [(_dotted(problem["loc"][1:], tree, problem["type"]), problem) for problem in error.errors()]
    key, first = problems[0]
    messages = [str(problem["msg"]) for other, problem in problems if other == key]
    if first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{key}: not given, and it has no default: set {key}=VALUE"
    expected = " or ".join(dict.fromkeys(_plainly(text) for text in messages))
    found = _shown(first["input"])
    if first["type"] == "value_error":
        return f"{key or 'configuration'}: {expected}; found {found}"
    choices = re.findall(r"'([^']*)'", expected) if first["type"] == "literal_error" else []
    nearest = difflib.get_close_matches(str(first["input"]), choices, n=1)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    return f"{key}: found {found}, expected {expected}{hint}"


def _plainly(message: str) -> str:
    """pydantic's message in the words of a YAML file."""
    text = re.sub(r"^(Input should be|Value error,|Tuple should have) ", "", message).replace(" after validation", "")
    return text.replace("a valid array", "a list").replace("an object", "a mapping")


def _dotted(location: tuple[int | str, ...], tree: Any, kind: str) -> str:
    parts: list[str] = []
    for part in location:
        inside = (isinstance(tree, Mapping) and part in tree) or (
            isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        )
        if inside:
            tree = tree[part]
            parts.append(str(part))
    if "missing" in kind and location:
        parts.append(str(location[-1]))
    return ".".join(parts)  # parts that are not in the tree name members of a union


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_keys(value: Any, annotations: tuple[Any, ...], path: str, root: type) -> Any:
    """Refuse unknown keys, and turn 1e4 into 10000 where only an integer fits. `annotations`: what may stand here."""
    members = [member for annotation in annotations for member in _members(annotation)]
    classes: list[type] = [member for member in members if dataclasses.is_dataclass(member)]
    if isinstance(value, Mapping) and classes:
        allowed: dict[str, tuple[Any, ...]] = {}
        for cls in classes:
            for name, hint in _hints(cls).items():
                allowed[name] = (*allowed.get(name, ()), hint)
        for key in value:
            if key not in allowed:
                raise ConfigError(_unknown(f"{path}{key}", (*(f"{path}{name}" for name in allowed), *_names(root))))
        return {key: _check_keys(item, allowed[key], f"{path}{key}.", root) for key, item in value.items()}
    if isinstance(value, Mapping):
        items = tuple(typing.get_args(m)[1] for m in members if len(typing.get_args(m)) == 2 and not _is_sequence(m))
        return {key: _check_keys(item, items, f"{path}{key}.", root) for key, item in value.items()}
    if isinstance(value, list):
        items = tuple(arg for m in members if _is_sequence(m) for arg in typing.get_args(m) if arg is not Ellipsis)
        return [_check_keys(item, items, f"{path}{i}.", root) for i, item in enumerate(value)]
    if isinstance(value, float) and int in members and float not in members and value.is_integer():
        return int(value)
    return value


def _with_defaults(cls: type, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a partly given nested config over the default of its field, which may differ from its class's defaults."""
    complete = dict(tree)
    for field in dataclasses.fields(cls):
        if not isinstance(given := complete.get(field.name), Mapping):
            continue
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        nested: Any = type(default) if dataclasses.is_dataclass(default) else None
        if nested is not None and set(given) <= set(_hints(nested)):
            complete[field.name] = _with_defaults(nested, _merge(_plain(default), given))
        else:
            nested = [m for m in _members(_hints(cls)[field.name]) if dataclasses.is_dataclass(m)]
            if len(nested) == 1:
                complete[field.name] = _with_defaults(nested[0], given)
    return complete


def _unknown(key: str, valid: Sequence[str]) -> str:
    last = key.rpartition(".")[2]

    def likeness(name: str) -> float:
        whole = difflib.SequenceMatcher(None, key, name).ratio()
        # The right name in the wrong place counts nearly as much; of equal ones the first in the tree is taken.
        return max(whole, 0.99 * difflib.SequenceMatcher(None, last, name.rpartition(".")[2]).ratio())

    nearest = max(valid, key=likeness, default=None)
    hint = f"; the nearest valid key is {nearest}" if nearest is not None else ""
    return f"unknown configuration key {key}{hint}"


@cache
def _names(cls: type, ancestors: tuple[type, ...] = ()) -> tuple[str, ...]:
    names: list[str] = []
    for name, hint in _hints(cls).items():
        names.append(name)
        for member in _members(hint):
            if dataclasses.is_dataclass(member) and member not in ancestors:
                names.extend(f"{name}.{below}" for below in _names(member, (*ancestors, cls)))
    return tuple(dict.fromkeys(names))


@cache
def _hints(cls: type) -> dict[str, Any]:
    dataclass = typing.cast(Any, cls)
    hints = typing.get_type_hints(dataclass, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(dataclass) if field.init}


def _members(annotation: Any) -> Iterator[type]:
    """The types that `annotation` allows, without Annotated and unions around them."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _members(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _is_sequence(annotation: Any) -> bool:
    origin = typing.get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Sequence)


# --- YAML --------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core values: 1e-4 is a number, `on` and `no` and 12:30 are text; a key given twice is an error."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Block style, but lists of scalars on one line. Quotes whatever YAML 1.1 or 1.2 would not read back as text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_RESOLVERS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?[0-9]+(?:_[0-9]+)*$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("merge", re.compile(r"^<<$"), ["<"]),
)
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _construct_int(loader: Any, node: Any) -> int:
    return int(loader.construct_scalar(node))  # 010 is ten, not eight


def _represent_list(dumper: Any, data: list[Any]) -> Any:
    flow = not any(isinstance(item, (dict, list)) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Dumper.add_representer(list, _represent_list)
