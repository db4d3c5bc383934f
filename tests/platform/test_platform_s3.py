"""S3 as a store: against a real server (OpenStack Swift), and against one that fails in every way that servers do."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lib.platform.errors import GoliveError, IntegrityMismatch, Unavailable
from lib.platform.s3 import Options, S3Store
from lib.platform.stores import AlreadyThere
from tests.platform import managed, s3_stub, swift

KEY = "20260101-000000-aaaaaa/state.json"
BIG = "20260101-000000-aaaaaa/tables.zst"
PART = 5 << 20  # the smallest that S3 takes


@pytest.fixture
def bucket(real: swift.Swift, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in real.environment().items():
        monkeypatch.setenv(name, value)
    return real.new_bucket()


def store_of(url: str, bucket: str = "bucket-1", prefix: str = "golive/", **options: Any) -> S3Store:
    made = Options(endpoint=url, part_bytes=PART, **{"attempts": 3, **options})
    return S3Store(bucket, prefix, made, sleep=lambda seconds: None)


def write(store: S3Store, key: str, content: bytes) -> None:
    store.write(key, io.BytesIO(content), len(content))


def read(store: S3Store, key: str) -> bytes:
    with store.read(key) as stream:
        return stream.read()


def refusal(act: Callable[[], Any]) -> GoliveError:
    with pytest.raises(GoliveError) as caught:
        act()
    assert "\n" not in caught.value.message
    return caught.value


# a real server


def test_what_was_written_is_read_listed_and_deleted(real: swift.Swift, bucket: str) -> None:
    store, content = store_of(real.url, bucket), os.urandom(2 * PART + 7)
    assert store.prepare() == []
    write(store, KEY, b"small")
    write(store, BIG, content)
    assert read(store, KEY) == b"small"
    assert read(store, BIG) == content
    assert [(item.key, item.bytes) for item in store.objects()] == [(KEY, 5), (BIG, len(content))]
    assert [item.key for item in store.objects("20260101-000000-aaaaaa/t")] == [BIG]
    head = store.head(BIG)
    assert head and head.bytes == len(content) and abs(head.changed_at - datetime.now(UTC)) < timedelta(hours=1)
    assert list(store_of(real.url, bucket, "other/").objects()) == []
    for key in (KEY, BIG, BIG):
        store.delete(key)
    assert list(store.objects()) == []
    assert store.head(KEY) is None
    assert refusal(lambda: read(store, KEY)).exit_code == 12


@pytest.mark.parametrize("length", [0, PART - 1, PART, PART + 1])
def test_every_length_around_a_part_comes_back(real: swift.Swift, bucket: str, length: int) -> None:
    store, content = store_of(real.url, bucket), os.urandom(length)
    write(store, KEY, content)
    assert read(store, KEY) == content


@pytest.mark.parametrize("length", [10, PART + 1], ids=["one request", "parts"])
def test_the_server_itself_refuses_to_write_a_key_twice(
    real: swift.Swift, bucket: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(real.url, bucket)
    assert store.prepare() == store.prepare() == []
    write(store, KEY, b"first")
    monkeypatch.setattr(store, "head", lambda key: None)  # as if another run had written it just now
    with pytest.raises(AlreadyThere):
        write(store, KEY, bytes(length))
    assert read(store, KEY) == b"first"
    assert not real.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_uploads_of_a_run_that_was_killed_are_aborted_and_those_of_others_are_not(real: swift.Swift, bucket: str) -> None:
    program = f"""
import io
from lib.platform.s3 import Options, S3Store
store = S3Store({bucket!r}, "golive/", Options(endpoint={real.url!r}, part_bytes={PART}))
store.write({BIG!r}, io.BytesIO(bytes({PART} * 2)), {PART} * 2)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "GOLIVE_FAILPOINT": "s3.complete_upload=kill"}
    )
    assert killed.returncode == -9
    client = real.client()
    client.create_multipart_upload(Bucket=bucket, Key="golive/20260202-000000-bbbbbb/being-copied")
    client.create_multipart_upload(Bucket=bucket, Key="of-somebody-else")
    store = store_of(real.url, bucket)
    assert store.head(BIG) is None
    assert store.clean("20260101-000000-aaaaaa/") == []
    left = {upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket)["Uploads"]}
    assert left == {"golive/20260202-000000-bbbbbb/being-copied", "of-somebody-else"}


def test_a_source_that_fails_half_way_leaves_neither_object_nor_upload(real: swift.Swift, bucket: str) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > PART:
                raise IntegrityMismatch("the source is damaged")
            return super().read(size)

    store = store_of(real.url, bucket)
    assert refusal(lambda: store.write(BIG, Breaking(bytes(4 * PART)), 4 * PART)).message == "the source is damaged"
    assert store.head(BIG) is None
    assert not real.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_a_bucket_that_is_missing_forbidden_or_lacks_the_lock_is_one_clear_line(
    real: swift.Swift, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = store_of(real.url, "no-such-bucket")
    for act in (
        missing.prepare,
        lambda: list(missing.objects()),
        lambda: write(missing, KEY, b"x"),
        lambda: read(missing, KEY),
    ):
        error = refusal(act)
        assert (error.message, int(error.exit_code)) == ("no bucket no-such-bucket", 12)
    locked = refusal(store_of(real.url, bucket, lock=("COMPLIANCE", 30)).prepare)
    assert (locked.message, int(locked.exit_code)) == (
        f"bucket {bucket} has no object lock, which this target asks for",
        15,
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", swift.READER)
    for act in (store_of(real.url, bucket).prepare, lambda: write(store_of(real.url, bucket), KEY, b"x")):
        error = refusal(act)
        assert (error.message, int(error.exit_code)) == (f"s3://{bucket}/golive refuses this access", 15)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-key")
    error = refusal(lambda: list(store_of(real.url, bucket).objects()))
    assert int(error.exit_code) == 15
    assert "wrong-secret-key" not in f"{error.to_dict()}"


def test_encryption_that_the_server_cannot_do_is_refused(real: swift.Swift, bucket: str) -> None:
    store = store_of(real.url, bucket, server_side_encryption="AES256")
    store.prepare()
    error = refusal(lambda: write(store, KEY, b"x"))
    assert int(error.exit_code) == 15
    assert store_of(real.url, bucket).head(KEY) is None


def test_without_credentials_nothing_is_asked(real: swift.Swift, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    error = refusal(store_of(real.url, bucket).prepare)
    assert error.message == f"no AWS credentials for s3://{bucket}/golive"


# a server that fails


def test_nobody_there_is_told_after_a_bounded_number_of_attempts() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in swift.Swift("", "stub-secret-key").environment().items():
            patch.setenv(name, value)
        (port,) = managed.free_ports(1)
        error = refusal(store_of(f"http://127.0.0.1:{port}").prepare)
    assert (error.message, int(error.exit_code)) == ("s3://bucket-1/golive does not answer", 13)


@pytest.mark.parametrize("fault", ["503 SlowDown", "500 InternalError", "reset"])
def test_what_passes_is_tried_again(stub: s3_stub.Stub, fault: str) -> None:
    stub.fault = lambda method, key, count: fault if count == 1 else None
    store = store_of(stub.url)
    write(store, KEY, b"content")
    assert stub.kept == {f"golive/{KEY}": b"content"}
    assert read(store, KEY) == b"content"


@pytest.mark.parametrize("fault", ["503 SlowDown", "reset"])
@pytest.mark.parametrize("length", [10, PART + 1], ids=["one request", "parts"])
def test_what_does_not_pass_ends_and_leaves_nothing(stub: s3_stub.Stub, fault: str, length: int) -> None:
    stub.fault = lambda method, key, count: fault if method in ("PUT", "POST") and count > 1 - (length == 10) else None
    error = refusal(lambda: write(store_of(stub.url, attempts=2), KEY, bytes(length)))
    assert int(error.exit_code) == 13
    assert stub.counts["PUT", f"golive/{KEY}"] <= 2 * 2  # of two parts, each at most twice
    assert (stub.kept, stub.uploads) == ({}, {})


def test_a_connection_that_breaks_is_gone_on_with_where_it_broke(stub: s3_stub.Stub) -> None:
    content = os.urandom(3 << 20)
    store = store_of(stub.url)
    write(store, KEY, content)
    stub.fault = lambda method, key, count: "reset" if method == "GET" and count <= 2 else None
    assert read(store, KEY) == content
    assert stub.counts["GET", f"golive/{KEY}"] == 3


def test_an_object_that_changes_while_it_is_read_is_not_mixed(stub: s3_stub.Stub) -> None:
    store = store_of(stub.url)
    write(store, KEY, bytes(3 << 20))
    stub.fault = lambda method, key, count: "reset" if method == "GET" and count == 1 else None
    stream = store.read(KEY)
    stub.kept[f"golive/{KEY}"] = b"1" * (3 << 20)
    with stream, pytest.raises(IntegrityMismatch, match="changed while it was read"):
        stream.read()


def test_a_connection_that_always_breaks_is_an_error_and_never_the_end_of_the_object(stub: s3_stub.Stub) -> None:
    store = store_of(stub.url)
    write(store, KEY, bytes(1 << 20))
    stub.fault = lambda method, key, count: "reset" if method == "GET" else None
    error = refusal(lambda: read(store, KEY))
    assert int(error.exit_code) == 13
    assert "breaks off" in error.message
    assert stub.counts["GET", f"golive/{KEY}"] == 3


@pytest.mark.parametrize(
    ("fault", "exit_code", "words"),
    [
        ("403 AccessDenied", 15, "refuses this access"),
        ("404 NoSuchBucket", 12, "no bucket bucket-1"),
        ("501 NotImplemented", 15, "cannot do"),
        ("400 InvalidRequest", 15, "refuses the request"),
    ],
)
def test_what_does_not_pass_by_itself_is_not_tried_again(
    stub: s3_stub.Stub, fault: str, exit_code: int, words: str
) -> None:
    stub.fault = lambda method, key, count: fault if method == "PUT" else None
    error = refusal(lambda: write(store_of(stub.url), KEY, b"x"))
    assert int(error.exit_code) == exit_code
    assert words in error.message
    assert stub.counts["PUT", f"golive/{KEY}"] == 1


def test_a_page_of_a_proxy_is_no_empty_bucket(stub: s3_stub.Stub) -> None:
    stub.fault = lambda method, key, count: "html"
    store = store_of(stub.url)
    for act in (lambda: list(store.objects()), lambda: store.clean("x/"), lambda: store.head(KEY)):
        error = refusal(act)
        assert (error.message, int(error.exit_code)) == ("what answers at s3://bucket-1/golive does not speak S3", 13)


def test_a_server_that_writes_over_what_is_there_is_found_out(stub: s3_stub.Stub) -> None:
    stub.ignores_conditions = True
    error = refusal(store_of(stub.url).prepare)
    assert (int(error.exit_code), "ignores If-None-Match" in error.message) == (15, True)
    assert store_of(stub.url, write_once=False).prepare() == [
        "write once: the store overwrites; what is there was only looked at before and after"
    ]


def test_a_lock_is_asked_for_and_looked_for_afterwards(stub: s3_stub.Stub) -> None:
    stub.locks = True
    store = store_of(stub.url, lock=("GOVERNANCE", 30))
    assert store.prepare() == []
    for key, length in ((KEY, 5), (BIG, PART + 1)):
        write(store, key, bytes(length))
        head = store.head(key)
        assert head and head.locked_until
        assert timedelta(days=29) < head.locked_until - datetime.now(UTC) < timedelta(days=31)
        assert stub.headers[f"golive/{key}"]["x-amz-object-lock-mode"] == "GOVERNANCE"


@pytest.mark.parametrize("options", [{"lock": ("COMPLIANCE", 30)}, {"server_side_encryption": "aws:kms"}])
def test_a_server_that_drops_lock_or_encryption_is_found_out(stub: s3_stub.Stub, options: dict[str, Any]) -> None:
    stub.locks, stub.drops_locks = True, True
    store = store_of(stub.url, **options)
    store.prepare()
    error = refusal(lambda: write(store, KEY, b"x"))
    assert (int(error.exit_code), f"took {KEY} without" in error.message) == (15, True)


def test_encryption_at_the_server_is_asked_for_with_its_key(stub: s3_stub.Stub) -> None:
    store = store_of(stub.url, server_side_encryption="aws:kms", kms_key_id="alias/backups")
    store.prepare()
    write(store, KEY, b"x")
    sent = stub.headers[f"golive/{KEY}"]
    assert sent["x-amz-server-side-encryption"] == "aws:kms"
    assert sent["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/backups"


def test_uploads_that_may_not_be_listed_are_told_and_not_passed_over(stub: s3_stub.Stub) -> None:
    stub.fault = lambda method, key, count: "403 AccessDenied"
    (told,) = store_of(stub.url).clean("x/")
    assert told.startswith("uploads that never ended: ")


def test_old_uploads_under_the_prefix_are_aborted(stub: s3_stub.Stub) -> None:
    for key in ("golive/20250101-000000-cccccc/state.json", "other/x"):
        stub.uploads[key] = (key, {}, {})
    assert store_of(stub.url).clean("20260101-000000-aaaaaa/") == []
    assert list(stub.uploads) == ["other/x"]


def test_settings_that_do_not_work_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(Unavailable, match="AWS settings do not work"):
        store_of("http://127.0.0.1:1")
