"""The one error type for what a user can cause and mend."""


class UserError(Exception):
    """Its text is one line: what is wrong, where, and what to do. The entrypoints print it and exit with 2."""
