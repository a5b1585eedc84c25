"""The one exception that a user's mistake or a damaged input raises; entry points print it as one line and exit with 2."""


class UserError(Exception):
    """One clear line that names the thing at fault and the choices."""
