"""Buckets of tenants, `s3://tenant:bucket/...`, as Ceph and EODC have them."""

from __future__ import annotations

from typing import Any


def allow_tenants(filesystem: Any) -> None:
    """Let an s3fs filesystem read buckets whose names have a colon, which servers know and botocore does not.

    See https://github.com/fsspec/s3fs/issues/893: the check of names is unregistered, as botocore's maintainers say.
    """
    from botocore.handlers import validate_bucket_name

    connect = filesystem.set_session

    async def set_session(*arguments: Any, **options: Any) -> Any:
        client = await connect(*arguments, **options)
        client.meta.events.unregister("before-parameter-build.s3", validate_bucket_name)
        return client

    filesystem.set_session = set_session
