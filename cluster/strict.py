"""What all typed arguments share: a key that nobody knows is refused, and nothing changes after it was checked."""

from pydantic import BaseModel, ConfigDict


class StrictArguments(BaseModel):
    """Arguments of an application or of a part of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
