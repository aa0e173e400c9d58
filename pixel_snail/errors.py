"""What a user did wrong, told in one line."""


class UserError(Exception):
    """A mistake that the user can mend; the message says what was wrong and what to do.

    The command lines print it on stderr, without a traceback, and exit with code 2.
    """
