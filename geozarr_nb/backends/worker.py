"""The worker's name of version 0.1.0, for its SDK in a kernel that was running when this version was installed."""

from geozarr_nb.backends.local.worker import main

if __name__ == "__main__":
    main()
