"""``python -m ballonet``."""

from ballonet.cli.main import program

program()
