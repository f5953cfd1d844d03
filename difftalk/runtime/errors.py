"""The two kinds of failure that are not bugs: a user's mistake, and a clip that cannot be used."""


class UserError(Exception):
    """A mistake that the user can correct: the message says what is wrong, where, and what to do.

    The command line prints it as one line, without a traceback, and exits with status 2.
    """


class ClipError(Exception):
    """One clip cannot be used. It ends as a row of the stage's rejects, and the stage goes on.

    Args:
        reason: one of `difftalk.runtime.rejects.REASONS`.
        detail: one line for a person: which file, which frame, which value against which threshold.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, self.detail)
