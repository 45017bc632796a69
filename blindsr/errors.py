"""Errors that a user can put right."""


class UserError(ValueError):
    """Bad input. The message is one line: what is wrong, where, what to do. The command line ends with exit code 2."""
