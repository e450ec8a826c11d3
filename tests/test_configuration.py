"""Configuration: YAML and overrides in, precise errors, and the same config back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qseq.configuration import (
    Fraction,
    PositiveFloat,
    PositiveInt,
    checked,
    flatten,
    from_dict,
    load_config,
    to_dict,
    to_yaml,
    write_config,
)
from qseq.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    learning_rate: PositiveFloat = 3e-4
    steps: PositiveInt = 10
    schedule: Literal["constant", "cosine"] = "constant"
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    sizes: tuple[int, ...] = (1, 2)
    folder: Path | None = None
    compile: bool = False
    name: str = "x"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "forbidden":
            raise ValueError("name must not be 'forbidden'")


@dataclass(frozen=True, kw_only=True)
class Bounded:
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Categorical:
    bins: int = 51


@dataclass(frozen=True, kw_only=True)
class Outer:
    training: Inner = field(default_factory=lambda: Inner(steps=7))
    extra: Inner | None = None
    head: Bounded | Categorical = field(default_factory=Bounded)
    layers: tuple[Bounded, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Required:
    data: str
    inner: Inner = field(default_factory=Inner)


def load(*overrides: str) -> Outer:
    return load_config(Outer, overrides=overrides)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),  # YAML 1.1 calls this text
        ("training.learning_rate=1", "training.learning_rate", 1.0),
        ("training.learning_rate=.5", "training.learning_rate", 0.5),
        ("training.steps=1e4", "training.steps", 10000),
        ("training.steps=1_000", "training.steps", 1000),
        ("training.steps=010", "training.steps", 10),  # YAML 1.1: eight
        ("training.schedule=cosine", "training.schedule", "cosine"),
        ("training.betas=[0.5, 0.6]", "training.betas", [0.5, 0.6]),
        ("training.sizes=[]", "training.sizes", []),
        ("training.folder=/a/b", "training.folder", "/a/b"),
        ("training.folder=null", "training.folder", None),
        ("training.compile=true", "training.compile", True),
        ("training.name=on", "training.name", "on"),  # YAML 1.1: true
        ("training.name=12:30", "training.name", "12:30"),  # YAML 1.1: 750
        ("training.name='3'", "training.name", "3"),
        ("training.name=a=b", "training.name", "a=b"),
        ("training.name=*.mp4", "training.name", "*.mp4"),
        ("training.options.task.name=x", "training.options.task.name", "x"),
        ("extra.steps=3", "extra.steps", 3),
        ("layers=[{high: 2}]", "layers", [{"low": 0.0, "high": 2.0}]),
        ("head.bins=5", "head.bins", 5),
    ],
)
def test_override(override: str, key: str, value: Any) -> None:
    config = load(override)
    assert flatten(config)[key] == value
    assert from_dict(Outer, to_dict(config)) == config


def test_partly_given_config_keeps_the_default_of_its_field() -> None:
    assert load("training.name=y").training.steps == 7  # Outer's default, not Inner's 10
    assert load_config(Outer, base={"training": {"name": "y"}}).training.steps == 7


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.lerning_rate=1", ["training.lerning_rate", "nearest valid key is training.learning_rate"]),
        ("learning_rate=1", ["unknown configuration key learning_rate", "training.learning_rate"]),
        ("training.learning_rate=fast", ["training.learning_rate: found 'fast', expected a valid number"]),
        ("training.learning_rate=-1", ["training.learning_rate: found -1, expected greater than 0"]),
        ("training.steps=2.5", ["training.steps: found 2.5, expected a valid integer"]),
        ("training.steps='3'", ["training.steps: found '3', expected a valid integer"]),
        ("training.steps=true", ["training.steps: found true"]),
        ("training.steps=null", ["training.steps: found null"]),
        ("training.steps=", ["training.steps: found null"]),
        ("training.compile=1", ["training.compile: found 1, expected a valid boolean"]),
        ("training.schedule=cosin", ["'constant' or 'cosine'", "did you mean 'cosine'"]),
        ("training.betas=[1]", ["training.betas"]),
        ("training.betas=[0.1, 2]", ["training.betas.1: found 2"]),
        ("training.sizes=[1, a]", ["training.sizes.1: found 'a', expected a valid integer"]),
        ("training.sizes=3", ["training.sizes: found 3, expected a list"]),
        ("training=3", ["training: found 3, expected a mapping"]),
        ("training.name=forbidden", ["training: name must not be 'forbidden'"]),
        ("extra.step=3", ["extra.step", "extra.steps"]),
        ("layers=[{higher: 2}]", ["layers.0.higher", "layers.0.high"]),
        ("head.width=5", ["head.width", "nearest valid key is head."]),
        ("training.steps", ["expected KEY=VALUE"]),
        ("=3", ["expected KEY=VALUE"]),
        ("training..steps=3", ["expected KEY=VALUE"]),
        ("training.options={a: ", ["not valid YAML"]),
    ],
)
def test_error_is_one_line_that_says_what_to_do(override: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(override)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_missing_value() -> None:
    with pytest.raises(ConfigError, match="data: not given, and it has no default"):
        load_config(Required)
    assert load_config(Required, overrides=["data=d"]) == Required(data="d")


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("training:\n  steps: 20\n  name: file\n")
    config = load_config(
        Outer,
        file=file,
        overrides=["training.name=override"],
        base={"training": {"steps": 30, "sizes": (9,)}, "seed": 4},
    )
    assert (config.training.steps, config.training.name, config.training.sizes, config.seed) == (
        20,
        "override",
        (9,),
        4,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("seed: 1\nseed: 2\n", "'seed' is given twice"),
        ("trainin:\n  steps: 1\n", "nearest valid key is training"),
        ("seed: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(Outer, file=file)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(Outer, file=tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(Outer, file=tmp_path / "empty.yaml") == Outer()


def test_configs_built_by_hand_can_be_checked() -> None:
    assert checked(Outer()) == Outer()
    with pytest.raises(ConfigError, match=r"training\.steps: found 0"):
        checked(Outer(training=Inner(steps=0)))


inner_configs = st.builds(
    Inner,
    learning_rate=st.floats(min_value=1e-300, allow_infinity=False),
    steps=st.integers(min_value=1, max_value=2**60),
    schedule=st.sampled_from(["constant", "cosine"]),
    sizes=st.lists(st.integers(-5, 5), max_size=3).map(tuple),
    folder=st.none() | st.sampled_from([Path("a/b"), Path("1e-4"), Path("null")]),
    compile=st.booleans(),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])).filter(lambda text: text != "forbidden")
    | st.sampled_from(
        ["1e-4", "on", "no", "null", "~", "12:30", "010", "1_000", "true", "", " ", "=", "<<", "2020-01-01"]
    ),
)


@settings(max_examples=60, deadline=None)
@given(config=st.builds(Outer, training=inner_configs, extra=st.none() | inner_configs, head=st.just(Categorical())))
def test_yaml_round_trip(tmp_path_factory: pytest.TempPathFactory, config: Outer) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    write_config(config, path)
    assert load_config(Outer, file=path) == config
    assert yaml.safe_load(to_yaml(config))["training"]["name"] == config.training.name  # other readers agree
