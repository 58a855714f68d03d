"""Addresses that hold credentials: refused where parameters are read, and never printed or recorded.

A parameter is copied to `dvc.lock`, to the record of the run and to its report, all of which are shared.
"""

import re

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>\\]+")
_USER = re.compile(r"(?<=://)[^/?#]+@")
_SECRET_KEYS = "token|secret|passw|pwd|signature|credential|auth|key"
_QUERY = re.compile(rf"(?<=[?&;#])([^=&;#]*(?:{_SECRET_KEYS})[^=&;#]*|sig)=[^&;#]+", re.IGNORECASE)
HIDDEN = "***"
ADVICE = (
    "holds a user's name, password or token, which would stand in dvc.lock, in records and in reports. Give name and "
    "password in ~/.netrc (`machine HOST login NAME password WORD`), which downloads ask for the host; what needs a "
    "token, download by hand into a folder that the environment variable MEDSEG_DATA names"
)


def without_credentials(text: str) -> str:
    """The text with `***` in place of credentials in addresses: a user before `@`, and values of keys like `token`."""
    return _ADDRESS.sub(lambda address: _stripped(address[0]), text)


def has_credentials(text: str) -> bool:
    """Whether an address in the text holds credentials."""
    return without_credentials(text) != text


def _stripped(address: str) -> str:
    return _QUERY.sub(rf"\1={HIDDEN}", _USER.sub(f"{HIDDEN}@", address))
