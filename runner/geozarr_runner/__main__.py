"""`python -m geozarr_runner` is `geozarr-runner`."""

from geozarr_runner.cli import main

raise SystemExit(main())
