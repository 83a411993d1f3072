"""Every error that ballonet raises: the public name of :mod:`ballonet.base.errors`."""

from ballonet.base.code_errors import *  # noqa: F403
from ballonet.base.errors import *  # noqa: F403
