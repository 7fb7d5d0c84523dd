"""S3: keeps a finished graph in a bucket of the cluster's own, and signs a URL to fetch it from there.

The caller names `s3://bucket/key`; the credentials are the cluster's. So only buckets, or folders of buckets, that the
operator has listed can be written to, and none are listed by default. Endpoint, region, credentials and addressing come
from boto3's own environment (`AWS_ENDPOINT_URL_S3`, `AWS_REGION`, a role, ...), as operators know it.

Transfers are boto3's: in parts when large, retried with jitter, and aborted when interrupted, so that no parts stay
behind. They run in its threads; nothing here blocks the event loop.
"""

import asyncio
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from core.errors import UploadFailed, UrlRefused
from core.graph.spool import Spool, spooled

if TYPE_CHECKING:
    from s3transfer.manager import TransferManager

_SCHEME: Final = "s3://"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_FOLDER: Final = re.compile(rf"{_SCHEME}{_BUCKET.pattern}(/.*)?")
_LONGEST_KEY_BYTES: Final = 1024  # S3's own limit
_HINT: Final = "Name a place such as s3://bucket/folder/graph.json in a bucket that this cluster may write to."


@dataclass(frozen=True, slots=True)
class S3Place:
    """An object, or what may become one."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{_SCHEME}{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class S3Limits:
    """How long to try, and what counts as large.

    Attributes:
        total_s: Seconds for a transfer, after the body has been written.
        connect_s: Seconds to connect.
        idle_s: Seconds without a byte received.
        attempts: Attempts of each request.
        part_bytes: Bodies larger than this are sent in parts of this size; 5 MiB at least.
        url_lifetime_s: Seconds that a signed URL can be used; less if the cluster's credentials end before.
    """

    total_s: float = 300.0
    connect_s: float = 10.0
    idle_s: float = 30.0
    attempts: int = 5
    part_bytes: int = 16 * 2**20
    url_lifetime_s: int = 3600


@dataclass(frozen=True, slots=True)
class Stored:
    """What is stored.

    Attributes:
        place: Where.
        url: Fetches it without credentials for a while: a secret of its reader's.
        n_bytes: As it was sent, so compressed if it was.
    """

    place: S3Place
    url: str = field(repr=False)
    n_bytes: int


class S3Store:
    """Writes objects with the cluster's credentials.

    Args:
        allowed: Buckets and folders that may be written to, such as `s3://graphs` or `s3://shared/graphs/`.
        limits: How long to try.

    Raises:
        ValueError: One of `allowed` is neither.
    """

    def __init__(self, allowed: tuple[str, ...], limits: S3Limits | None = None) -> None:
        unclear = [prefix for prefix in allowed if not _FOLDER.fullmatch(prefix)]
        if unclear:
            raise ValueError(f"not a bucket or a folder of one: {unclear[0]!r}")
        self._allowed = tuple(f"{prefix.rstrip('/')}/" for prefix in allowed)
        self._limits = limits or S3Limits()
        self._connecting = threading.Lock()
        self._client: Any = None
        self._manager: TransferManager | None = None

    def check(self, destination: str) -> S3Place:
        """Reads `s3://bucket/key`.

        Raises:
            UrlRefused: It is no place in S3, or none that may be written to.
        """
        bucket, _, key = destination.removeprefix(_SCHEME).partition("/")
        well_formed = destination.startswith(_SCHEME) and _BUCKET.fullmatch(bucket) and key.isprintable()
        # Stores that keep objects as files would climb out of a folder by such a key.
        climbs = any(step in {"", ".", ".."} for step in key.split("/"))
        if not well_formed or climbs or len(key.encode()) > _LONGEST_KEY_BYTES:
            raise UrlRefused("The destination is not a place in S3.", _HINT)
        if not any(destination.startswith(prefix) for prefix in self._allowed):
            raise UrlRefused(f"This cluster does not write to {destination}.", _HINT)
        return S3Place(bucket, key)

    async def put(self, destination: str, parts: Iterable[bytes], *, compress: bool) -> Stored:
        """Stores a body; cancelling stops the transfer.

        Args:
            destination: `s3://bucket/key`.
            parts: The body, taken in a thread.
            compress: Whether to compress it.

        Raises:
            UrlRefused: The place may not be written to.
            UploadFailed: The storage refused, or did not take it in time.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        place = self.check(destination)
        async with spooled(parts, compress=compress) as body:
            scope = asyncio.timeout(self._limits.total_s)
            try:
                async with scope:
                    manager = await asyncio.to_thread(self._connect)
                    await self._transfer(manager, place, body)
                    url = await asyncio.to_thread(self._signed, place)
            except TimeoutError:
                if not scope.expired():
                    raise
                said = f"Storing {place} took longer than {self._limits.total_s:g} seconds."
                raise UploadFailed(said, "Try again later.") from None
            except ClientError as error:
                said = f"The storage did not take {place}: {error.response.get('Error', {}).get('Code')}."
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                raise UploadFailed(said, "See what the cluster's credentials may do there.", status) from None
            except BotoCoreError as error:
                said = f"{place} could not be stored: {type(error).__name__}."
                raise UploadFailed(said, "See the cluster's S3 credentials, region and endpoint.") from None
            return Stored(place, url, body.n_bytes)

    async def aclose(self) -> None:
        """Stops what is under way and ends its threads."""
        if self._manager is not None:
            await asyncio.to_thread(self._manager.shutdown, cancel=True)
            self._client.close()

    async def _transfer(self, manager: "TransferManager", place: S3Place, body: Spool) -> None:
        from s3transfer.subscribers import BaseSubscriber

        loop, done = asyncio.get_running_loop(), asyncio.Event()

        class Finish(BaseSubscriber):
            def on_done(self, future: Any, **_: Any) -> None:
                loop.call_soon_threadsafe(done.set)

        headers = {"ContentType": "application/json"} | ({"ContentEncoding": "gzip"} if body.compressed else {})
        body.file.seek(0)
        transfer = manager.upload(body.file, place.bucket, place.key, extra_args=headers, subscribers=[Finish()])
        try:
            await done.wait()
        except asyncio.CancelledError:
            transfer.cancel()
            raise
        transfer.result()

    def _connect(self) -> "TransferManager":
        """Looks for credentials and reads boto3's descriptions once, when the first body comes: that takes a while."""
        from boto3.session import Session
        from botocore.config import Config
        from s3transfer.manager import TransferConfig, TransferManager

        with self._connecting:
            if self._manager is None:
                limits = self._limits
                config = Config(
                    signature_version="s3v4",
                    connect_timeout=limits.connect_s,
                    read_timeout=limits.idle_s,
                    retries={"mode": "standard", "total_max_attempts": limits.attempts},
                )
                transfers = TransferConfig(
                    multipart_threshold=limits.part_bytes,
                    multipart_chunksize=limits.part_bytes,
                    max_request_concurrency=4,
                    max_submission_concurrency=1,
                    max_in_memory_upload_chunks=4,
                )
                self._client = Session().client("s3", config=config)
                self._manager = TransferManager(self._client, transfers)
            return self._manager

    def _signed(self, place: S3Place) -> str:
        return self._client.generate_presigned_url(
            "get_object",
            Params={"Bucket": place.bucket, "Key": place.key},
            ExpiresIn=self._limits.url_lifetime_s,
        )
