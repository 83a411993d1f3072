"""The syntax of users. The guest looks up names (see test_agent_program.py)."""

from __future__ import annotations

import pytest

from ballonet.base.errors import ConfigError
from ballonet.images.users import check_user


@pytest.mark.parametrize(
    "spec",
    [
        None,
        "",
        "root",
        "app",
        "app:staff",
        "app:",
        ":staff",
        "1000",
        "1000:1000",
        "1000:1000,44,audio",
        "01000",
        "2147483647",
        "j.doe-2_x$",
        "DOMAIN\\some user",
        "ü",
        "٣",
        "x" * 256,
    ],
)
def test_users_of_the_right_form_are_accepted(spec: str | None) -> None:
    check_user(spec)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (":", "not USER"),
        ("a:b:c", "'a:b:c' is not USER"),
        ("a,b", "not USER"),
        ("a:b,,c", "invalid group ''"),
        ("-1", "invalid user '-1'"),
        ("0:-1", "invalid group '-1'"),
        ("+", "invalid user"),
        (" app", "invalid user ' app'"),
        ("app\n", "invalid user"),
        ("a\0b", "invalid user"),
        ("a\x1b[2J", "invalid user"),
        ("2147483648", "2147483648' is above the maximum, 2147483647"),
        ("0:99999999999999999999999", "above the maximum, 2147483647"),
        ("x" * 257, "longer than 256"),
        (1000, "must be a string, not int"),
    ],
)
def test_users_of_another_form_are_refused(spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check_user(spec)
    assert len(caught.value.message) < 300
