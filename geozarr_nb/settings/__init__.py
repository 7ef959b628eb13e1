"""Settings: the values of arguments that a call leaves out.

A value comes from the first of these that has it: the argument of the call, the environment variable, params.json, the
default. The column "default" says params.json for a setting that the file can hold; the other settings are read from
the environment only.

params.json is the file that $GEOZARR_PARAMS names, else ./params.json, else the file of the package. `image` and
`pvc_name` are read only from a file that $GEOZARR_PARAMS names, and refused in ./params.json: a folder that somebody
else wrote must not choose which image runs with your credentials.
"""

from geozarr_nb.settings.declared import SETTINGS, Setting, Settings
from geozarr_nb.settings.params import params_path, read_params

__all__ = ["SETTINGS", "Setting", "Settings", "params_path", "read_params"]
