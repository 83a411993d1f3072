"""Who a command runs as: ``USER[:GROUP]`` looked up in the image's own passwd and group. Pure.

The rules are those of Docker and of the OCI image specification ("conversion to OCI runtime configuration").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ballonet.errors import ConfigError

#: The largest number of a user or group: above, the kernel keeps -1 for "leave as it is".
MAX_ID = 2**31 - 1


@dataclass(frozen=True)
class ResolvedUser:
    """Numbers for the guest's kernel, and the home directory."""

    uid: int
    gid: int
    #: Supplementary groups; none where a group was named.
    groups: tuple[int, ...] = ()
    home: str = "/"
    name: str | None = None


def resolve_user(spec: str | None, passwd: str, group: str) -> ResolvedUser:
    """Look ``spec`` up: ``USER`` or ``USER:GROUP``, each a name or a number; nothing is root.

    A number need not be in ``passwd``: its group is then 0 and its home ``/``. Without ``GROUP``, the user's groups
    are those of ``passwd`` and ``group``; with it, that one only.

    :param passwd: the text of the image's ``/etc/passwd``, ``group`` that of its ``/etc/group``.
    :raises ConfigError: a name is in neither, or a number is out of range.
    """
    user, colon, group_name = (spec or "0").partition(":")
    user = user or "0"
    known = [fields for fields in _entries(passwd, 7) if _is_id(fields[2], fields[3])]
    # A name comes before a number that is spelled the same.
    entry = next((fields for fields in known if fields[0] == user), None)
    if entry is None and _is_id(user):
        entry = next((fields for fields in known if int(fields[2]) == int(user)), None)
    if entry is not None:
        found = ResolvedUser(int(entry[2]), int(entry[3]), home=entry[5] or "/", name=entry[0])
    else:
        found = ResolvedUser(_number(user, "user", "/etc/passwd"), 0)
    if colon and group_name:
        return ResolvedUser(found.uid, _find_group(group_name, group), (), found.home, found.name)
    member_of = tuple(
        int(fields[2])
        for fields in _entries(group, 4)
        if found.name is not None and found.name in fields[3].split(",") and _is_id(fields[2])
    )
    return ResolvedUser(found.uid, found.gid, member_of, found.home, found.name)


def _find_group(name: str, group: str) -> int:
    for fields in _entries(group, 4):
        if fields[0] == name and _is_id(fields[2]):
            return int(fields[2])
    return _number(name, "group", "/etc/group")


def _number(text: str, what: str, file: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise ConfigError(
            f"there is no {what} {text[:64]!r} in the image's {file}", hint="a number works without"
        )
    if len(text) > 10 or int(text) > MAX_ID:
        raise ConfigError(f"{what} {text[:64]} is above the largest number, {MAX_ID}")
    return int(text)


def _entries(text: str, fields: int) -> Iterator[list[str]]:
    for line in text.splitlines():
        found = line.strip().split(":")
        if len(found) >= fields and not line.startswith("#"):
            yield found


def _is_id(*texts: str) -> bool:
    return all(
        text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= MAX_ID for text in texts
    )
