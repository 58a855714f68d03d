"""`python -m medseg`, the same as the command `medseg`."""

from medseg.cli import main

main()
