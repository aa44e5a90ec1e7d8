"""The package's logger, ``mlsde``: silent unless a program asks to hear it.

``logging.basicConfig(level=logging.INFO)`` shows what pilots chose and where computations go on; warnings are of
levels that ran out of memory, and of chunks that failed.
"""

import logging

log = logging.getLogger("mlsde")
log.addHandler(logging.NullHandler())
