"""Exit codes mean what the README says, and no secret survives redaction."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import make_dsn

from lib.platform import errors
from lib.platform.errors import redact, secrets_of_environment

DOCUMENTED = {
    "UsageError": 2,
    "ConfigInvalid": 10,
    "LeaseHeld": 11,
    "NotFound": 12,
    "Unavailable": 13,
    "IntegrityMismatch": 14,
    "Refused": 15,
}


def test_every_error_class_has_the_documented_exit_code() -> None:
    assert {kind.__name__: int(kind.exit_code) for kind in errors.GoliveError.__subclasses__()} == DOCUMENTED


def test_the_table_of_exit_codes_is_the_documented_one() -> None:
    assert [int(code) for code in errors.ExitCode] == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 130]
    table = errors.exit_code_table()
    for code in errors.ExitCode:
        assert f"{int(code)} {errors.MEANINGS[code]}" in table


def test_only_a_pass_exits_with_zero() -> None:
    assert {verdict: int(code) for verdict, code in errors.VERDICT_CODES.items()} == {
        "PASS": 0,
        "FAIL": 3,
        "INCONCLUSIVE": 4,
        "ERROR": 13,
    }


def test_an_error_as_a_document_holds_no_password() -> None:
    error = errors.Refused(
        "no entry to postgresql://u:hunter22@h/d", detail="host=h password=hunter22", hint="redis://:hunter22@h"
    )
    assert error.to_dict() == {
        "error": "no entry to postgresql://u:***@h/d",
        "detail": "host=h password=***",
        "hint": "redis://:***@h",
        "exit_code": 15,
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://user:hunter22@db:5432/x", "postgresql://user:***@db:5432/x"),
        ("POSTGRES://user:hunter22@db", "POSTGRES://user:***@db"),
        ("redis://:hunter22@cache", "redis://:***@cache"),
        ("a=postgresql://u:p%40ss@h, b=https://v:w:w@i", "a=postgresql://u:***@h, b=https://v:***@i"),
        ("host=h password=hunter22 dbname=x", "host=h password=*** dbname=x"),
        ("host=h PASSWORD = hunter22", "host=h PASSWORD = ***"),
        ("password='hun ter' dbname=x", "password=*** dbname=x"),
        (r"password='hun\'ter 22' dbname=x", "password=*** dbname=x"),
        ("postgresql://h/d?password=hunter22&sslmode=require", "postgresql://h/d?password=***&sslmode=require"),
        ("postgresql://h/d?a=1&sslpassword=hunter22&b=2", "postgresql://h/d?a=1&sslpassword=***&b=2"),
        ("password=hunt&er22 dbname=x", "password=*** dbname=x"),
        ("PGPASSWORD=hunter22 psql", "PGPASSWORD=*** psql"),
        ("sslkey=k sslpassword=hunter22", "sslkey=k sslpassword=***"),
    ],
)
def test_passwords_in_addresses_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert redact(text) == shown


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_whatever_the_password_of_an_address_is_it_is_hidden(password: str) -> None:
    assert redact(f"postgresql://someone:{quote(password, safe='')}@db/x") == "postgresql://someone:***@db/x"


@given(
    st.text(
        st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), exclude_characters="&"), min_size=1, max_size=20
    ),
    st.booleans(),
)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_whatever_the_password_of_a_dsn_is_it_is_hidden(password: str, blank: bool) -> None:
    dsn = make_dsn(password=f"{password} {password}" if blank else password, dbname="x")
    assert redact(dsn) == "password=*** dbname=x"


@pytest.mark.parametrize(
    "text",
    [
        "the password is wrong; passwords expire",
        'password authentication failed for user "app"',
        "postgresql://user@db:5432/x",
        "http://localhost:8080/path and mail to me@example.org",
        "token budget 1024, tokens 12",
        "s3://bucket/secret/key",
        "2026-01-02-030405-v1-0a1b2c3d",
        "http://localhost:8080/users/me@example.org",
    ],
)
def test_innocent_words_are_left_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "PGPASSWORD",
        "DB_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ACCESS_KEY_ID",
        "SLACK_API_KEY",
        "OPENAI_APIKEY",
        "GITHUB_TOKEN",
        "CLIENT_SECRET",
        "SIGNING_PRIVATE_KEY",
        "passwd",
        "DB_PASS",
        "MYSQL_PWD",
        "KEY_PASSPHRASE",
    ],
)
def test_a_secret_of_the_environment_is_hidden_wherever_it_is_repeated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "correct-horse")
    assert redact("server said: <correct-horse> is no good, correct-horse!") == "server said: <***> is no good, ***!"


def test_the_password_of_the_database_url_is_hidden_wherever_it_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:correct-horse@h/d")
    assert redact("login correct-horse failed") == "login *** failed"


def test_the_decoded_password_of_the_database_url_is_hidden_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:correct%20horse@h/d")
    assert redact("login 'correct horse' failed") == "login '***' failed"


@pytest.mark.parametrize("form", ["host=h password='correct horse' dbname=d", "postgresql://h/d?password=correct%20horse"])
def test_however_the_database_url_is_written_its_password_is_hidden(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", form)
    assert redact("login correct horse failed") == "login *** failed"


@pytest.mark.parametrize("name", ["PWD", "OLDPWD", "PASS_RATE", "COMPASS"])
def test_an_innocent_variable_is_no_secret(name: str) -> None:
    assert secrets_of_environment({name: "/home/person/project"}) == []


def test_every_text_of_a_document_is_redacted_and_nothing_else_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "123456")
    found = errors.redact_all({"of 123456": ["a 123456", 123456, 1.5, None, True], "n": {"dsn": "password=x"}})
    assert found == {"of ***": ["a ***", 123456, 1.5, None, True], "n": {"dsn": "password=***"}}


def test_secrets_come_longest_first_and_short_or_innocent_values_are_none() -> None:
    environ = {
        "A_TOKEN": "abcdef",
        "B_TOKEN": "abcdefgh",
        "SHORT_PASSWORD": "12345",
        "TOKENIZERS_PARALLELISM": "falsefalse",
        "PATH": "/usr/local/bin",
        "MAX_TOKENS": "1000000",
        "HOME_PAGE": "https://example.org:8080/x",
        "CACHE": "redis://:pass-of-cache@h",
    }
    assert secrets_of_environment(environ) == ["pass-of-cache", "abcdefgh", "abcdef"]


def test_what_a_file_holds_is_searched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Certificates of 64 KB take 50 ms to search, and every line that is written would wait for that."""
    (tmp_path / "certificates").write_text("postgresql://u:hunter22@h/db " + "MIIF" * 10_000)
    monkeypatch.setenv("CERTIFICATES_FILE", str(tmp_path / "certificates"))
    assert redact("hunter22") == "***"
    searched = errors._secrets_in.cache_info().misses
    assert redact("hunter22") == "***"
    assert errors._secrets_in.cache_info().misses == searched


def test_a_secret_that_begins_like_another_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdef")
    monkeypatch.setenv("B_TOKEN", "abcdefgh")
    assert redact("abcdefgh") == "***"


@pytest.mark.parametrize("name", ["DB_PASSWORD", "GOLIVE_SIGNING_KEY", "GOLIVE_BACKUP_KEY", "GOLIVE_WEBHOOK_URL"])
def test_a_secret_in_a_file_is_hidden_and_the_files_name_is_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "named-file"
    path.write_text("correct-horse\n")
    monkeypatch.setenv(f"{name}_FILE", str(path))
    assert redact(f"{path} says correct-horse") == f"{path} says ***"
    path.write_text("another-horse")
    assert redact("another-horse") == "***"


def test_each_line_of_a_key_in_a_file_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF"
    (tmp_path / "key").write_text(f"-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n")
    monkeypatch.setenv("GOLIVE_SIGNING_KEY_FILE", str(tmp_path / "key"))
    assert redact(f"key: {line}") == "key: ***"


def test_passwords_of_libpq_s_and_aws_s_own_files_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pgpass").write_text("# a comment\ndb:5432:*:app:correct\\:horse\n")
    (tmp_path / "aws").write_text("[default]\naws_secret_access_key = battery-staple\n")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    assert redact("horse battery-staple") == "horse ***"


@pytest.mark.parametrize(
    "form",
    [
        "correct horse/\u00e9'\"",
        "correct%20horse%2F%C3%A9%27%22",
        "correct+horse%2F%C3%A9%27%22",
        "correct horse/\\u00e9'\\\"",
        "correct horse/\u00e9\\'\"",
        "Y29ycmVjdCBob3JzZS/DqSci",
        "Y29ycmVjdCBob3JzZS_DqSci",
    ],
)
def test_a_secret_is_hidden_however_it_is_written(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correct horse/\u00e9'\"")
    assert redact(f"<{form}>") == "<***>"


def test_a_secret_is_given_in_a_variable_or_in_a_file_never_in_both(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from file\n")
    assert errors.secret("X", {"X": " plain "}) == "plain"
    assert errors.secret("X", {"X_FILE": str(file)}) == "from file"
    assert errors.secret("X", {}) == ""
    with pytest.raises(errors.ConfigInvalid, match="X and X_FILE are both set"):
        errors.secret("X", {"X": "plain", "X_FILE": str(file)})
    with pytest.raises(errors.NotFound, match="the file in X_FILE cannot be read"):
        errors.secret("X", {"X_FILE": str(tmp_path / "none")})
    file.write_text("\n")
    with pytest.raises(errors.ConfigInvalid, match="is empty"):
        errors.secret("X", {"X_FILE": str(file)})
