"""Who a command of an image runs as, by the rules of Docker and the OCI specification."""

from __future__ import annotations

import pytest

from ballonet.errors import ConfigError
from ballonet.images.users import ResolvedUser, resolve_user

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment: x:1:1:::
web:x:1000:100:Web:/srv/web:/bin/false
nohome:x:1001:1001:::
2000:x:33:44::/named-like-a-number:
broken:x:not-a-number:5::/:
short:x:7
"""
GROUP = """root:x:0:
users:x:100:other
video:x:44:web,other
audio:x:29:web
bad:x:none:web
"""


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        (None, ResolvedUser(0, 0, (), "/root", "root")),
        ("", ResolvedUser(0, 0, (), "/root", "root")),
        ("web", ResolvedUser(1000, 100, (44, 29), "/srv/web", "web")),
        ("1000", ResolvedUser(1000, 100, (44, 29), "/srv/web", "web")),
        ("01000", ResolvedUser(1000, 100, (44, 29), "/srv/web", "web")),
        ("web:video", ResolvedUser(1000, 44, (), "/srv/web", "web")),
        ("web:7", ResolvedUser(1000, 7, (), "/srv/web", "web")),
        ("web:", ResolvedUser(1000, 100, (44, 29), "/srv/web", "web")),
        (":video", ResolvedUser(0, 44, (), "/root", "root")),
        ("5555", ResolvedUser(5555, 0)),
        ("5555:6666", ResolvedUser(5555, 6666)),
        ("nohome", ResolvedUser(1001, 1001, (), "/", "nohome")),
        ("2000", ResolvedUser(33, 44, (), "/named-like-a-number", "2000")),
        ("2147483647", ResolvedUser(2147483647, 0)),
    ],
)
def test_users_are_found(spec: str | None, found: ResolvedUser) -> None:
    assert resolve_user(spec, PASSWD, GROUP) == found


def test_root_needs_no_passwd() -> None:
    assert resolve_user(None, "", "") == ResolvedUser(0, 0)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nobody", "no user 'nobody'"),
        ("broken", "no user 'broken'"),
        ("web:nogroup", "no group 'nogroup'"),
        ("-1", "no user '-1'"),
        ("2147483648", "above the largest"),
        ("0:99999999999999999999", "above the largest"),
        ("٣", "no user"),
    ],
)
def test_users_that_are_not_there_are_refused(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve_user(spec, PASSWD, GROUP)
