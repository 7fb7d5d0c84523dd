"""Keys that callers brought for their jobs: in memory, while a job that needs one goes on.

A job's specification names a key by its fingerprint. What is forgotten here, or lost with the process, only the caller
can bring again.
"""

from dataclasses import replace

from core.autointerp.jobs.choices import AskedModel
from core.autointerp.jobs.specification import JobSpec
from core.autointerp.providers.keys import ProviderKey


class KeyRing:
    """Callers' keys, by fingerprint."""

    def __init__(self) -> None:
        self._keys: dict[str, ProviderKey] = {}
        self._brought: dict[str, str] = {}

    def bring(self, job_id: str, key: ProviderKey) -> None:
        """Keeps a key for a job, in place of the one that it had."""
        self.forget(job_id)
        self._keys[key.fingerprint] = key
        self._brought[job_id] = key.fingerprint

    def key_for(self, asked: AskedModel) -> ProviderKey | None:
        """The caller's key that is meant, if it is here."""
        return self._keys.get(fingerprint_of(asked))

    def has_all(self, spec: JobSpec) -> bool:
        """Whether every key is here that a job needs of its caller."""
        return all(
            self.key_for(asked) is not None
            for asked in (spec.asked, spec.judge)
            if asked is not None and asked.needs_caller
        )

    def forget(self, job_id: str) -> None:
        """Lets go of a job's key, unless another job has it too."""
        fingerprint = self._brought.pop(job_id, None)
        if fingerprint is not None and fingerprint not in self._brought.values():
            del self._keys[fingerprint]


def fingerprint_of(asked: AskedModel) -> str:
    """The fingerprint of the caller's key that is meant; empty if none is."""
    return (asked.key or "").removeprefix("caller:") if asked.needs_caller else ""


def with_key(spec: JobSpec, fingerprint: str) -> JobSpec:
    """The same with another caller's key in place of a caller's."""
    asked, judge = (
        replace(one, key=f"caller:{fingerprint}") if one is not None and one.needs_caller else one
        for one in (spec.asked, spec.judge)
    )
    return replace(spec, asked=asked, judge=judge)
