"""Why a command of this room cannot go on, said so that its reader can mend it."""

from core.errors import LensmithError


class CannotStart(LensmithError):
    """The service cannot start; the message is one sentence that says why and what to do."""
