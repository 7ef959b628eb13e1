"""`python -m geozarr_nb` is `geozarr-nb`."""

from geozarr_nb.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
