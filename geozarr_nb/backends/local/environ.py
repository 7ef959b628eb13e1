"""The environment of a run on this machine: what it needs of its submitter's, and no more.

While a job waits, its environment lies in a file. A shell's environment holds much that no conversion needs, and some
of that is secret; so only these names are kept, and those that the setting `environment` adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

KEPT = (
    # where this account and its programs are
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TMP", "TEMP", "XDG_*"),
    *("LANG", "LANGUAGE", "LC_*", "TZ", "TZDIR"),
    *("PYTHON*", "VIRTUAL_ENV", "CONDA_*", "MAMBA_*", "LD_LIBRARY_PATH", "DYLD_*LIBRARY_PATH"),
    # how stores are reached
    *("FSSPEC_*", "AWS_*", "BOTO_CONFIG", "S3FS_*", "GOOGLE_*", "GCS_*", "GCSFS_*", "GCE_*", "CLOUDSDK_*"),
    *("AZURE_*", "STORAGE_EMULATOR_HOST", "NETRC", "SSL_CERT_*", "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE"),
    *("CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSH_AUTH_SOCK", "KRB5*"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    # how the converter and its libraries work
    *("GEOZARR_*", "EOPF_*", "ARGO_PROGRESS_FILE", "DASK_*", "ZARR_*", "XARRAY_*", "BLOSC_*", "NUMEXPR_*"),
    *("GDAL_*", "CPL_*", "PROJ_*", "OMP_*", "OPENBLAS_*", "MKL_*", "BLIS_*", "VECLIB_*", "MALLOC_*", "GLIBC_TUNABLES"),
)
# The address of a run's input is handed over by itself; the groups of its request were resolved when it was made.
NEVER = frozenset({"GEOZARR_INPUT", "ARGO_GROUPS"})


def kept(environ: Mapping[str, str], more: Iterable[str] = ()) -> dict[str, str]:
    """Return what a run gets of an environment.

    Parameters
    ----------
    more
        Further names; `*` stands for any letters.
    """
    patterns = (*KEPT, *more)
    return {
        name: value
        for name, value in environ.items()
        if name not in NEVER and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
