"""A place where weights lie: a local folder or file, or one in a Hugging Face repository.

Nothing is listed and nothing is downloaded but the files that are fetched. With a warm cache no network is needed.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

from core.errors import InvalidRequest, NotFound, Unavailable


@dataclass(frozen=True, slots=True)
class Place:
    """A folder or a file.

    Attributes:
        path: Its path: local, or inside the repository ("" is the root there).
        repo: Hugging Face repository id; None if it is local.
        revision: Branch, tag or commit of the repository; None for its main branch.
    """

    path: str
    repo: str | None = None
    revision: str | None = None

    @classmethod
    def parse_uri(cls, uri: str) -> Self:
        """A file from `hf://owner/name/path/in/repo?revision=main`.

        Raises:
            InvalidRequest: It is not written like that.
        """
        parts = urlsplit(uri)
        name, _, path = parts.path.lstrip("/").partition("/")
        if parts.scheme != "hf" or not (parts.netloc and name and path):
            raise InvalidRequest(
                f"'{uri}' names no file of a Hugging Face repository.", "Write hf://owner/name/path/of/file."
            )
        return cls(path, f"{parts.netloc}/{name}", parse_qs(parts.query).get("revision", [None])[0])

    @property
    def name(self) -> str:
        """How the place is called in messages: never a path of this machine."""
        if self.repo is None:
            return Path(self.path).name
        inside = f"//{self.path}" if self.path else ""
        return self.repo + inside + (f"@{self.revision}" if self.revision else "")

    def inside(self, name: str) -> Self:
        """A file or folder in this folder."""
        if self.repo is None:
            return replace(self, path=os.path.join(self.path, name))
        return replace(self, path=f"{self.path}/{name}" if self.path else name)

    def fetch(self) -> Path:
        """The file on this machine, downloaded if it is not in the cache.

        Raises:
            NotFound: There is no such file, or no such repository.
            Unavailable: The hub can not be asked, and the file is not in the cache.
        """
        if self.repo is None:
            if not Path(self.path).is_file():
                folder = Path(self.path).parent
                raise NotFound(f"There is no {self.name} in {folder.name}.", _what_is_there(folder))
            return Path(self.path)
        return self._download(self.repo)

    def _download(self, repo: str) -> Path:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        try:
            return Path(hf_hub_download(repo, self.path, revision=self.revision))
        except LocalEntryNotFoundError as error:
            raise Unavailable(
                f"{self.path} of {repo} is not in the Hugging Face cache of this node, and the hub can not be asked.",
                "Offline clusters need the files in the cache of every node.",
            ) from error
        except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            raise NotFound(
                f"The Hugging Face hub has no {self.path} in {repo}.",
                "Check the name, the revision, and whether HF_TOKEN may read the repository.",
            ) from error
        except OSError as error:
            raise Unavailable(f"{self.path} of {repo} could not be downloaded ({type(error).__name__}).") from error


def _what_is_there(folder: Path) -> str:
    if not folder.is_dir():
        return "There is no such folder, either."
    names = sorted(path.name for path in folder.iterdir())
    return f"The folder holds {', '.join(names[:8]) or 'nothing'}{' and more' if len(names) > 8 else ''}."
