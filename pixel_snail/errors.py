"""What a user did wrong, told in one line."""


class UserError(Exception):
    """A mistake that the user can mend; the message says what was wrong and what to do.

    The command lines print it on stderr, without a traceback, and exit with code 2. Some of it may come out of files:
    what would break the line, or steer the terminal, is escaped.
    """

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def first_line(error: Exception) -> str:
    """Of what an error of another library says; its type, if it says nothing."""
    return (str(getattr(error, "message", error)).strip().splitlines() or [type(error).__name__])[0]
