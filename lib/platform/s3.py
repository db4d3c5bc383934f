"""A bucket of S3, or of anything that speaks its protocol, as a store.

boto3's own transfers know no ``IfNoneMatch``, so the multipart upload is written out here. An ETag says nothing that holds
everywhere (of a multipart upload it is no digest, and with SSE-KMS neither); nothing here looks at one but to go on reading
the same object. Credentials come from boto3's chain and from nowhere else.
"""

from __future__ import annotations

import io
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO, cast

from lib.platform import failpoints
from lib.platform.clock import now
from lib.platform.errors import GoliveError, IntegrityMismatch, NotFound, Refused, Unavailable, redact
from lib.platform.stores import AlreadyThere, Stored, check_key

PART_BYTES = 16 << 20
_MOST_PARTS = 900  # S3 allows 10,000, Swift by default 1,000
_IN_FLIGHT = 4
_ATTEMPTS = 5
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10, 60
_ABANDONED = timedelta(days=1)
_PROBE = ".golive-write-once"
_CREDENTIALS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
_FORBIDDEN = {"AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"}
_NOT_DONE = {"NotImplemented", "501", "MethodNotAllowed", "405"}


@dataclass(frozen=True)
class Options:
    """``lock``: mode and days of the lock that each object gets; ``write_once`` False: the store need not enforce it."""

    endpoint: str | None = None
    region: str | None = None
    server_side_encryption: str | None = None
    kms_key_id: str | None = None
    lock: tuple[str, int] | None = None
    write_once: bool = True
    part_bytes: int = PART_BYTES
    attempts: int = _ATTEMPTS


class S3Store:
    """The keys below ``prefix`` (empty, or ending in a slash) of a bucket."""

    def __init__(self, bucket: str, prefix: str, options: Options, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._bucket, self._prefix, self._options, self._sleep = bucket, prefix, options, sleep
        self._client = _client(options)
        self._asked: dict[str, Any] = {}
        self._bucket_is_there = False

    @property
    def shown(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def prepare(self) -> list[str]:
        self._require_bucket()
        self._asked = self._protection()
        if self._refuses_a_taken_key():
            return []
        if self._options.write_once:
            raise Refused(
                f"{self.shown} ignores If-None-Match, so it cannot keep a backup from being overwritten",
                hint="use a store that honours it, or set write_once: checked for this target",
            )
        return ["write once: the store overwrites; what is there was only looked at before and after"]

    def write(self, key: str, source: BinaryIO, size: int) -> None:
        name = self._name(key)
        part_bytes = max(self._options.part_bytes, -(-size // _MOST_PARTS))
        if self.head(key):  # asked first, so that nothing is sent in vain, and for stores that ignore If-None-Match
            raise AlreadyThere(f"{key} is in {self.shown} already")
        first = source.read(part_bytes)
        failpoints.reach("s3.put")
        with self._translated(key):
            if len(first) < part_bytes:
                self._client.put_object(Bucket=self._bucket, Key=name, Body=first, IfNoneMatch="*", **self._asked)
            else:
                self._write_parts(name, first, source, part_bytes)
        failpoints.reach("s3.put_done")
        self._require_protection(key)

    def read(self, key: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_Body(self, self._name(key), key), 1 << 20))

    def head(self, key: str) -> Stored | None:
        try:
            with self._translated(key):
                found = self._client.head_object(Bucket=self._bucket, Key=self._name(key))
                until = found.get("ObjectLockRetainUntilDate")
                return Stored(key, found["ContentLength"], found["LastModified"], until)
        except NotFound:
            self._require_bucket()  # HEAD does not tell a missing bucket from a missing object
            return None

    def objects(self, prefix: str = "") -> Iterator[Stored]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._prefix}{prefix}"
        )
        with self._translated():
            for page in pages:
                page["IsTruncated"]  # what is no listing is not an empty one
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    if key != _PROBE:
                        yield Stored(key, item["Size"], item["LastModified"])

    def delete(self, key: str) -> None:
        with self._translated(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._name(key))

    def clean(self, prefix: str) -> list[str]:
        """Aborts uploads under ``prefix``, and those under the store's own prefix that are over a day old."""
        try:
            for upload in list(self._uploads()):
                name = upload["Key"]
                if name.startswith(f"{self._prefix}{prefix}") or upload["Initiated"] < now() - _ABANDONED:
                    self._abort(name, upload["UploadId"])
        except (Refused, NotFound) as error:
            return [f"uploads that never ended: {error.message}"]
        return []

    def _require_bucket(self) -> None:
        if not self._bucket_is_there:
            with self._translated():
                self._client.head_bucket(Bucket=self._bucket)
            self._bucket_is_there = True

    def _uploads(self) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix)
        with self._translated():
            for page in pages:
                page["IsTruncated"]
                yield from page.get("Uploads", ())

    def _name(self, key: str) -> str:
        check_key(key)
        return f"{self._prefix}{key}"

    def _protection(self) -> dict[str, Any]:
        """The arguments of a write that ask for lock and encryption; raises Refused where the bucket has no object lock."""
        options = self._options
        asked: dict[str, Any] = {}
        if options.server_side_encryption:
            asked["ServerSideEncryption"] = options.server_side_encryption
        if options.kms_key_id:
            asked["SSEKMSKeyId"] = options.kms_key_id
        if options.lock:
            try:
                with self._translated():
                    found = self._client.get_object_lock_configuration(Bucket=self._bucket)
            except NotFound:
                found = {}
            if found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
                raise Refused(
                    f"bucket {self._bucket} has no object lock, which this target asks for",
                    hint="a bucket gets object lock when it is created; or take object_lock out of the target",
                )
            mode, days = options.lock
            asked["ObjectLockMode"], asked["ObjectLockRetainUntilDate"] = mode, now() + timedelta(days=days)
            asked["ChecksumAlgorithm"] = "SHA256"  # a locked object must be sent with a checksum
        return asked

    def _refuses_a_taken_key(self) -> bool:
        """Whether the store honours ``IfNoneMatch``: asked with a small object that stays there for the next time."""
        for _ in range(2):
            try:
                with self._translated(_PROBE):
                    self._client.put_object(
                        Bucket=self._bucket, Key=f"{self._prefix}{_PROBE}", Body=b"written once\n", IfNoneMatch="*"
                    )
            except AlreadyThere:
                return True
        return False

    def _require_protection(self, key: str) -> None:
        """Raises Refused where the object did not get the lock or encryption that was asked for: some stores ignore it."""
        if not self._asked:
            return
        with self._translated(key):
            found = self._client.head_object(Bucket=self._bucket, Key=self._name(key))
        asked = {name: self._asked[name] for name in ("ServerSideEncryption", "ObjectLockMode") if name in self._asked}
        lacking: list[str] = [name for name, value in asked.items() if found.get(name) != value]
        until: datetime | None = found.get("ObjectLockRetainUntilDate")
        if self._options.lock and not lacking and (until is None or until < self._wanted_until()):
            lacking = ["ObjectLockRetainUntilDate"]
        if lacking:
            raise Refused(f"{self.shown} took {key} without {', '.join(lacking)}", hint="this store cannot do it")

    def _wanted_until(self) -> datetime:
        until: datetime = self._asked["ObjectLockRetainUntilDate"]
        return until - timedelta(minutes=1)  # stores round

    def _write_parts(self, name: str, first: bytes, source: BinaryIO, part_bytes: int) -> None:
        place = {"Bucket": self._bucket, "Key": name}
        upload = self._client.create_multipart_upload(**place, **self._asked)["UploadId"]
        try:
            with ThreadPoolExecutor(_IN_FLIGHT) as pool:
                parts = self._send(pool, place, upload, first, source, part_bytes)
            failpoints.reach("s3.complete_upload")
            self._client.complete_multipart_upload(
                **place, UploadId=upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
            )
        except BaseException:
            self._abort(name, upload, quietly=True)
            raise

    def _send(
        self, pool: ThreadPoolExecutor, place: dict[str, str], upload: str, first: bytes, source: BinaryIO, part_bytes: int
    ) -> list[dict[str, Any]]:
        """Sends the parts, at most ``_IN_FLIGHT`` of them in memory; returns what completing the upload needs."""

        def send(number: int, block: bytes) -> dict[str, Any]:
            extra = {"ChecksumAlgorithm": "SHA256"} if "ChecksumAlgorithm" in self._asked else {}
            sent = self._client.upload_part(**place, UploadId=upload, PartNumber=number, Body=block, **extra)
            checksum = {"ChecksumSHA256": sent["ChecksumSHA256"]} if "ChecksumSHA256" in sent else {}
            return {"PartNumber": number, "ETag": sent["ETag"], **checksum}

        sending: deque[Future[dict[str, Any]]] = deque()
        parts: list[dict[str, Any]] = []
        number, block = 0, first
        while block or sending:
            if block and len(sending) < _IN_FLIGHT:
                number += 1
                sending.append(pool.submit(send, number, block))
                failpoints.reach("s3.next_part")
                block = source.read(part_bytes)
            else:
                parts.append(sending.popleft().result())
        return parts

    def _abort(self, name: str, upload: str, *, quietly: bool = False) -> None:
        try:
            with self._translated():
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=name, UploadId=upload)
        except NotFound:
            pass  # it is gone
        except GoliveError:
            if not quietly:  # else another error is on its way, and the next run cleans
                raise

    @contextmanager
    def _translated(self, key: str = "") -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
        from botocore.parsers import ResponseParserError

        try:
            yield
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise Refused(f"no AWS credentials for {self.shown}", hint=_CREDENTIALS) from error
        except ClientError as error:
            raise self._meaning(error.response, key) from error
        except (ResponseParserError, KeyError) as error:  # KeyError: an answer without what S3's always have
            raise Unavailable(
                f"what answers at {self.shown} does not speak S3", detail=redact(str(error)), hint="check url and endpoint"
            ) from error
        except BotoCoreError as error:
            raise Unavailable(
                f"{self.shown} does not answer",
                detail=f"{type(error).__name__}: {redact(str(error))}",
                hint="try again later",
            ) from error

    def _meaning(self, response: dict[str, Any], key: str) -> GoliveError:
        problem = response.get("Error", {})
        code = str(problem.get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        detail = redact(f"{code}: {problem.get('Message', '')}"[:300])
        if code == "PreconditionFailed" or status == 412:
            return AlreadyThere(f"{key} is in {self.shown} already")
        if code == "NoSuchBucket" or (not key and code in ("404", "NotFound")):
            return NotFound(f"no bucket {self._bucket}", detail=detail, hint="create it, or correct the target's url")
        if status == 404:
            return NotFound(f"no {key or 'such thing'} in {self.shown}", detail=detail)
        if code in _FORBIDDEN or status in (401, 403):
            return Refused(
                f"{self.shown} refuses this access", detail=detail, hint=f"{_CREDENTIALS}; check the bucket's policy"
            )
        if code in _NOT_DONE or status in (405, 501):
            return Refused(f"{self.shown} cannot do what this target asks for", detail=detail)
        if status and 300 <= status < 500 and status not in (408, 409, 429):
            return Refused(f"{self.shown} refuses the request", detail=detail, hint="check url, endpoint and region")
        return Unavailable(f"{self.shown} failed", detail=detail, hint="try again later")


class _Body(io.RawIOBase):
    """An object's bytes; a connection that breaks is made anew from where it broke, a bounded number of times."""

    def __init__(self, store: S3Store, name: str, key: str) -> None:
        self._store, self._name, self._key = store, name, key
        self._at, self._failed = 0, 0
        self._etag, self._bytes = "", 0
        self._stream: Any = None
        self._open()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        from botocore.exceptions import BotoCoreError
        from urllib3.exceptions import HTTPError

        while True:
            try:
                block: bytes = self._stream.read(len(buffer))
                if not block and self._at < self._bytes and len(buffer):
                    raise OSError(f"ended after {self._at} of {self._bytes} bytes")
                buffer[: len(block)] = block
                self._at += len(block)
                return len(block)
            except (BotoCoreError, HTTPError, OSError) as error:
                self._failed += 1
                if self._failed >= self._store._options.attempts:
                    raise Unavailable(
                        f"{self._store.shown} breaks off while {self._key} is read ({self._failed} times)",
                        detail=redact(str(error)),
                        hint="try again later",
                    ) from error
                self._store._sleep(min(10.0, 0.2 * 2**self._failed) * random.uniform(0.5, 1))
                self._open()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        super().close()

    def _open(self) -> None:
        self._close_stream()
        again = {"Range": f"bytes={self._at}-", "IfMatch": self._etag} if self._at else {}
        try:
            with self._store._translated(self._key):
                found = self._store._client.get_object(Bucket=self._store._bucket, Key=self._name, **again)
        except AlreadyThere as error:  # the answer to IfMatch
            raise IntegrityMismatch(f"{self._key} in {self._store.shown} changed while it was read") from error
        self._stream = found["Body"]
        if not again:
            self._etag, self._bytes = found["ETag"], found["ContentLength"]
        elif not str(found.get("ContentRange", "")).startswith(f"bytes {self._at}-"):
            raise Unavailable(f"{self._store.shown} cannot go on with {self._key} where the connection broke")

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _client(options: Options) -> Any:
    """Raises Unavailable where the AWS settings do not work."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": options.attempts},
        s3={"addressing_style": "path" if options.endpoint else "auto"},
        # newer boto3 sends and expects checksums that many other stores do not know
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=2 * _IN_FLIGHT,
    )
    try:
        session = boto3.session.Session()
        region = options.region or session.region_name or "us-east-1"
        return session.client("s3", region_name=region, endpoint_url=options.endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise Unavailable(
            "the AWS settings do not work", detail=redact(str(error)), hint=f"{_CREDENTIALS}; check the endpoint"
        ) from error
