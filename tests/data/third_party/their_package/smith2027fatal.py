"""A Method That Takes Along Whoever Imports It (Fatal).

Idea
    To end the process as soon as it is imported, as a library does that was built for another processor.
"""

import os
import signal

from their_package.smith2027mine import Mine

os.kill(os.getpid(), signal.SIGKILL)


class Fatal(Mine):
    """Is never defined."""
