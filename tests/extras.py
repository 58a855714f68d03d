"""Marks of tests that need an extra package."""

from importlib.util import find_spec

import pytest

HAS_CRF = find_spec("pydensecrf") is not None
needs_crf = pytest.mark.skipif(not HAS_CRF, reason="pydensecrf2 is not installed; it does not compile on Python 3.13")
