"""Snapshots: copies of the jobs' file in an object store, for hosts whose disks do not last.

    file --SQLite's backup, consistent while it is written to--> copy --> s3://bucket/folder/jobs.sqlite
    no file at the start <--------------------------------------------------------------+

A copy is made every few seconds if anything has changed, so a host that is lost with its disk loses those seconds:
units that had ended in them are done again, and what they asked is in the reply cache if that was kept. Endpoint,
region and credentials are boto3's own, from the environment.

Deliberately not here: a lock. Two hosts must not work on copies of the same jobs, and one replica sees to that.
"""

import asyncio
import logging
import tempfile
from pathlib import Path
from typing import Any, Final

from core.autointerp.jobs.schema import JobFile
from core.errors import Unavailable
from core.graph.s3 import S3Place, S3Store

_LOG = logging.getLogger("ray.serve")
_NAME: Final = "jobs.sqlite"
_ATTEMPTS: Final = 5
_CONNECT_S: Final = 10.0
_READ_S: Final = 60.0


class Snapshots:
    """Copies of one file at one place; to be closed with `aclose`.

    Args:
        folder: `s3://bucket/folder`.
        every_s: Seconds between two copies.

    Raises:
        ValueError: It is no place in S3.
    """

    def __init__(self, folder: str, every_s: float = 5.0) -> None:
        place = f"{folder.rstrip('/')}/{_NAME}"
        self._place: S3Place = S3Store((folder,)).check(place)
        self._every_s = every_s
        self._client: Any = None
        self._stored: int | None = None
        self._loop: asyncio.Task[None] | None = None

    def restore(self, path: Path) -> bool:
        """Fetches the last copy if there is no file; whether there was one. Blocks.

        Raises:
            Unavailable: The store does not answer, or refuses.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        for rest in ("-wal", "-shm"):  # of a file that was removed; they would be taken for this one's
            path.with_name(f"{path.name}{rest}").unlink(missing_ok=True)
        part = path.with_name(f"{path.name}.part")
        try:
            self._connected().download_file(self._place.bucket, self._place.key, str(part))
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return False
            raise Unavailable(f"{self._place} could not be read.", "See the cluster's S3 credentials.") from None
        except BotoCoreError as error:
            said = f"{self._place} could not be read: {type(error).__name__}."
            raise Unavailable(said, "See the cluster's S3 credentials, region and endpoint.") from None
        part.rename(path)
        return True

    def start(self, file: JobFile) -> None:
        """Makes copies from now on."""
        self._loop = asyncio.create_task(self._keep(file))

    async def store(self, file: JobFile) -> bool:
        """Makes a copy now, if anything has changed since the last; whether it did."""
        version = await asyncio.to_thread(lambda: file.version)
        if version == self._stored:
            return False
        await asyncio.to_thread(self._store, file)
        self._stored = version
        return True

    async def aclose(self, file: JobFile | None = None) -> None:
        """Makes no more copies, after a last one of the file if it is given."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        if file is not None:
            await self._try(file)

    async def _keep(self, file: JobFile) -> None:
        while True:
            await self._try(file)
            await asyncio.sleep(self._every_s)

    async def _try(self, file: JobFile) -> None:
        """A store that is down for a while costs copies and not jobs."""
        try:
            await self.store(file)
        except Exception:
            _LOG.exception("the jobs could not be copied to %s; it is tried again", self._place)

    def _store(self, file: JobFile) -> None:
        with tempfile.TemporaryDirectory(dir=file.path.parent) as folder:
            copy = Path(folder) / _NAME
            file.copy_to(copy)
            self._connected().upload_file(str(copy), self._place.bucket, self._place.key)

    def _connected(self) -> Any:
        if self._client is None:
            from boto3.session import Session
            from botocore.config import Config

            config = Config(
                signature_version="s3v4",
                connect_timeout=_CONNECT_S,
                read_timeout=_READ_S,
                retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            )
            self._client = Session().client("s3", config=config)
        return self._client
