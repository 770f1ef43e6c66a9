from __future__ import annotations

import errno

import pytest

from airflow_emr_etl.local.s3.errors import from_os_error


@pytest.mark.parametrize(
    ("number", "code", "status"),
    [
        (errno.ENOSPC, "InsufficientStorage", 507),
        (errno.EDQUOT, "InsufficientStorage", 507),
        (errno.ENAMETOOLONG, "KeyTooLongError", 400),
        (errno.EACCES, "AccessDenied", 403),
        (errno.EIO, "InternalError", 500),
    ],
)
def test_what_the_file_system_refuses_has_a_name_in_s3(number, code, status):
    error = from_os_error(OSError(number, "told so", "/x"))
    assert (error.code, error.status) == (code, status)
    assert "told so" in error.message or number == errno.ENAMETOOLONG
