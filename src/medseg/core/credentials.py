"""Addresses that hold credentials: refused where parameters are read, and never printed or recorded.

A parameter is copied to `dvc.lock`, to the record of the run and to its report, all of which are shared.
"""

import re

# All take time in proportion to the text, however long and odd.
_ADDRESS = re.compile(r"://[^\s'\"<>\\]+")  # of any scheme, from its end on
_USER = re.compile(r"(?<=://)[^/?#]+@")
_PARAMETER = re.compile(r"(?<=[?&;#])([^=&;#?]*)=[^&;#]+")
_SECRET = re.compile(r"token|secret|passw|pwd|^sig$|signature|credential|auth|key", re.IGNORECASE)
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
    return _PARAMETER.sub(_hidden, _USER.sub(f"{HIDDEN}@", address))


def _hidden(parameter: re.Match[str]) -> str:
    return f"{parameter[1]}={HIDDEN}" if _SECRET.search(parameter[1]) else parameter[0]
