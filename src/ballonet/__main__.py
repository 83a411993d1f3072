"""``python -m ballonet``."""

from ballonet.cli.program import program

program()
