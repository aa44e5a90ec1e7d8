"""``python -m mlsde``."""

from mlsde.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
