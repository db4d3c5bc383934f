"""YAML without surprises: what YAML 1.1 would turn into something else is text here, or an error with its line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.config import strict_yaml
from lib.platform.errors import ConfigInvalid, NotFound

_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_LEAF = _TEXT | st.booleans() | st.none() | st.integers()
_TREE = st.recursive(_LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3))
Load = Callable[[str], strict_yaml.YamlFile]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str) -> strict_yaml.YamlFile:
        (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
        return strict_yaml.load(tmp_path / "x.yaml", "config")

    return load


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("450", 450),
        ("-7", -7),
        ("0", 0),
        ("0.10", 0.1),
        ("-1.50", -1.5),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("plain words", "plain words"),
        ('"450"', "450"),
        ("'true'", "true"),
        ('""', ""),
        ("[1, two, 3.0]", [1, "two", 3.0]),
        ("|\n  450\n", "450\n"),
    ],
)
def test_a_value_is_what_it_looks_like(text: str, value: Any, load: Load) -> None:
    found = load(f"key: {text}").values["key"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["012", "0o14", "0x1F", "1e3", "1.0e3", "1_000", "1,000", "+5", ".5", "5.", "٣", "１２"])
def test_only_a_plain_decimal_is_a_number(text: str, load: Load) -> None:
    assert load(f"key: {text}").values == {"key": text}


@pytest.mark.parametrize("text", ["no", "No", "yes", "on", "off", "y", "True", "FALSE", "Null"])
def test_only_true_false_and_null_are_not_words(text: str, load: Load) -> None:
    assert load(f"key: {text}").values == {"key": text}


@pytest.mark.parametrize("text", ["12:30:00", "2026-01-02", ".nan", ".inf", "-.inf"])
def test_what_yaml_would_guess_at_stays_text(text: str, load: Load) -> None:
    assert load(f"key: {text}").values == {"key": text}


@given(st.integers(-(10**18), 10**18))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_a_plain_integer_is_that_integer(number: int) -> None:
    assert strict_yaml.scalar(str(number)) == number


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=6))
@settings(deadline=None, derandomize=True)
def test_a_plain_decimal_is_that_number(number: Any) -> None:
    assert strict_yaml.scalar(f"{number:f}") == float(number)


@given(st.text(st.characters(exclude_characters="\n")) | st.from_regex(r"[-+]?[0-9._eE:x]{1,8}", fullmatch=True))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_only_plain_decimals_are_numbers_and_other_text_stays_as_it_is(text: str) -> None:
    value = strict_yaml.scalar(text)
    if isinstance(value, str):
        assert value == text
    elif isinstance(value, bool) or value is None:
        assert text in ("true", "false", "null", "~", "")
    else:
        assert re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", text)


@given(st.dictionaries(_TEXT, _TREE, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_what_a_yaml_writer_quoted_is_read_back(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(yaml.dump(tree, Dumper=_QuotingDumper, allow_unicode=True), encoding="utf-8")
    assert strict_yaml.load(path, "config").values == tree


def test_each_dotted_key_knows_its_line(load: Load) -> None:
    found = load("# a comment\na: 1\nb:\n  c: 2\n\n  d: {e: 3}\nlist:\n  - x: 4\n  - x: 5\n")
    assert found.values == {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "list": [{"x": 4}, {"x": 5}]}
    assert found.lines == {
        "a": 2, "b": 3, "b.c": 4, "b.d": 6, "b.d.e": 6, "list": 7, "list.0.x": 8, "list.1.x": 9
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n"])
def test_an_empty_file_holds_nothing(text: str, load: Load) -> None:
    assert load(text).values == {}


@pytest.mark.parametrize(
    ("text", "line", "complaint"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key 'a'"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4, "duplicate key 'b'"),
        ("list:\n  - {x: 1,\n     x: 2}\n", 3, "duplicate key 'x'"),
        ("a: 1\n'a': 2\n", 2, "duplicate key 'a'"),
        ("a: 1\nb: !mine 2\n", 2, "YAML tags are not allowed"),
        ("a: 1\n? [b]\n: 2\n", 2, "a key must be a plain name"),
        ("a: 1\nb: [1, 2\n", 3, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not valid YAML"),
    ],
)
def test_what_could_be_misread_is_refused_with_its_line(text: str, line: int, complaint: str, load: Load) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load(text)
    assert re.search(rf"x\.yaml:{line}: .*{complaint}", caught.value.message)


def test_a_duplicate_key_names_the_first_line_too(load: Load) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        load("a: 1\nb: 2\na: 3\n")
    assert caught.value.detail == "first on line 1"


@pytest.mark.parametrize(
    "text",
    ["a: &x 1\nb: *x\n", "a: &x {c: 1}\nb: {d: *x}\n", "a: &x [*x]\n", "base: &x {c: 1}\nb:\n  <<: *x\n"],
)
def test_an_alias_is_refused(text: str, load: Load) -> None:
    with pytest.raises(ConfigInvalid, match=r"x\.yaml.*alias") as caught:
        load(text)
    assert caught.value.hint == "write the value out"


def test_an_alias_is_refused_with_its_line(load: Load) -> None:
    with pytest.raises(ConfigInvalid, match=r"x\.yaml:2"):
        load("a: &x 1\nb: *x\n")


@pytest.mark.parametrize(
    "text",
    [
        "a: !mine 1",
        "a: !mine {b: 1}",
        "a: [!mine 1]",
        "a: !!python/object/apply:os.system [id]",
        "a: !!int '5'",
        "a: !!str 012",
        "!mine a: 1",
        "a: !!set {b, c}",
    ],
)
def test_a_tag_is_refused(text: str, load: Load) -> None:
    with pytest.raises(ConfigInvalid, match="tags are not allowed"):
        load(text)


@pytest.mark.parametrize("text", ["- a\n- b\n", "5", "just words", '"quoted"'])
def test_what_is_no_mapping_is_refused(text: str, load: Load) -> None:
    with pytest.raises(ConfigInvalid, match=r"x\.yaml: config is not a mapping"):
        load(text)


@pytest.mark.parametrize("text", ["a: " + "[" * 600 + "]" * 600, "a: " + "{b: " * 600 + "1" + "}" * 600])
def test_nesting_without_end_is_refused(text: str, load: Load) -> None:
    with pytest.raises(ConfigInvalid, match="not valid YAML"):
        load(text)


def test_control_characters_are_refused(load: Load) -> None:
    with pytest.raises(ConfigInvalid, match="not valid YAML"):
        load("a: x\x07y")


def test_bytes_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: caf\xe9")
    with pytest.raises(ConfigInvalid, match=r"config .*x\.yaml is not UTF-8 text"):
        strict_yaml.load(tmp_path / "x.yaml", "config")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=rf"no config at {tmp_path}/x\.yaml"):
        strict_yaml.load(tmp_path / "x.yaml", "config")


def test_a_number_of_absurd_length_is_refused_not_a_crash(load: Load) -> None:
    with pytest.raises(ConfigInvalid):
        load("a: " + "1" * 5000)


def test_a_decimal_of_absurd_length_is_not_infinity(load: Load) -> None:
    try:
        value = load("a: " + "9" * 600 + ".0").values["a"]
    except ConfigInvalid:
        return
    assert value != float("inf")


class _QuotingDumper(yaml.SafeDumper):
    """Quotes every text, and leaves numbers, booleans and null plain."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_QuotingDumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@pytest.mark.parametrize(
    "line",
    [
        "password: hunter22",
        "db_password: 'hunter22'",
        "api_key: hunter22",
        "api-key: hunter22",
        "clientSecret: hunter22",
        "token: [hunter22]",
        "pass: 2222222",
        "url: https://host/x?api_key=hunter22",
        "url: https://host/x?a=1&sig=hunter22",
        "url: https://host/x?access-token=hunter22#top",
        "url: https://someone:hunter22@host/x",
        "dsn: host=h password=hunter22",
        "command: [ask, --url, 'redis://:hunter22@h']",
        "id: AKIAHUNTERHUNTERHUNT",
        'key: "sk-hunter22hunter22hunter22"',
    ],
)
def test_a_secret_in_a_config_is_refused_and_not_repeated(line: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"first: 1\nsystem:\n  {line}\n")
    with pytest.raises(ConfigInvalid) as caught:
        strict_yaml.load(path, "config")
    assert f"{path}:3: system." in caught.value.message
    assert "holds a password or key" in caught.value.message
    assert "hunter" not in str(caught.value.to_dict()).lower()
    assert "2222222" not in str(caught.value.to_dict())


def test_a_secret_in_a_name_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("first: 1\n'redis://:hunter22@h': 2\n")
    with pytest.raises(ConfigInvalid, match=":2: a key holds a password or key") as caught:
        strict_yaml.load(path, "config")
    assert "hunter" not in str(caught.value.to_dict())


def test_the_name_of_a_secrets_variable_is_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "api_key_variable: OPENAI_API_KEY\nmax_tokens: 5\nkey_header: X-Token\npassword: null\n"
        "token_count: 7\ntoken: false\n"
    )
    assert strict_yaml.load(path, "config").values["api_key_variable"] == "OPENAI_API_KEY"
