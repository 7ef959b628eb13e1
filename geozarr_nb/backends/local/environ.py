"""The environment variables of a run on this machine: those of its submitter that a run needs, and no others.

While a job waits, its environment is stored in a file. The environment of a shell holds many variables that no
conversion needs, some of them secret. Therefore only these names are stored, and those that the setting `environment`
adds.
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
# A run gets its input and its groups with its request, and not from the environment.
NEVER = frozenset({"GEOZARR_INPUT", "ARGO_GROUPS"})


def kept(environ: Mapping[str, str], more: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables of an environment that a run gets.

    Parameters
    ----------
    more
        Further names; `*` stands for any characters.
    """
    patterns = (*KEPT, *more)
    return {
        name: value
        for name, value in environ.items()
        if name not in NEVER and any(fnmatchcase(name, pattern) for pattern in patterns)
    }
