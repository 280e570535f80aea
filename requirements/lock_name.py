"""Prints the lock file for the Python that runs this; exits 1 if too old.

Written so that the old Pythons it turns away can run it, hence the noqa.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
  sys.exit(
    "error: perceiver_jax needs Python 3.11 or newer, but "
    + sys.executable
    + " is "
    + sys.version.split()[0]
    + "; name another one: make setup PYTHON=python3.12"
  )
print("py311.txt" if sys.version_info < (3, 12) else "py312.txt")
