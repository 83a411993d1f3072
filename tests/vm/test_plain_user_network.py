"""A network with rules for a plain user, whose namespaces need no privileges. Only root can become one for the test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ballonet
from ballonet.base.paths import cache_dir
from ballonet.guest.bundle import GuestBundle
from tests.vm.test_network import listening

pytestmark = [
    pytest.mark.extended,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]
WAIT_S = 300
USER = pwd.getpwnam("nobody")
#: The distribution's, which every user can run.
PYTHON = "/usr/bin/python3"
#: As udev makes the device on a host, for processes in this mount namespace alone.
AS_USER = f"""
mount -t tmpfs -o mode=755 tmpfs /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
exec setpriv --reuid={USER.pw_uid} --regid={USER.pw_gid} --clear-groups -- "$@"
"""
#: What the guest tries: the open port of the host, a closed one, metadata, and a name that no rule allows.
TRIES = """
wget -qO- http://10.0.2.2:{open}/
wget -qO- http://10.0.2.2:{closed}/ || echo refused
wget -qO- http://169.254.169.254/ || echo refused
nslookup elsewhere.example 2>&1 | grep -o REFUSED | head -n 1
"""

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def plain_user(guest: GuestBundle) -> Iterator[Call]:
    """Runs ``ballonet`` as a plain user with directories of its own, which have the kernel already."""
    home = Path(tempfile.mkdtemp(prefix="ballonet-plain-", dir="/tmp"))
    kernels, cache = cache_dir() / "kernels", home / ".cache/ballonet"
    cache.mkdir(parents=True, mode=0o700)
    if kernels.is_dir():  # otherwise the host has one installed
        shutil.copytree(kernels, cache / "kernels", symlinks=True)
    subprocess.run(["chown", "-R", f"{USER.pw_uid}:{USER.pw_gid}", home], check=True)
    packages = (Path(ballonet.__file__).parents[1], Path(pytest.__file__).parents[1])
    environment = {
        "HOME": str(home),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": ":".join(map(str, packages)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BALLONET_RUN_DIR": str(home / "run"),
    }

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        argv = ["unshare", "--mount", "sh", "-c", AS_USER, "sh", PYTHON, "-P", "-m", "ballonet", *words]
        return subprocess.run(
            argv, env=environment, cwd="/", capture_output=True, text=True, timeout=WAIT_S, check=False
        )

    try:
        tried = call("version")
        if tried.returncode != 0:
            pytest.skip(f"{PYTHON} of a plain user cannot run this checkout: {tried.stderr.strip()[-200:]}")
        yield call
    finally:
        for name in call("ls", "-q").stdout.split():
            call("rm", "--force", name)
        shutil.rmtree(home)


def test_a_plain_user_has_a_network_with_rules(plain_user: Call) -> None:
    with listening() as served, listening() as other:
        script = TRIES.format(open=served, closed=other)
        rules = ("--net-allow-host", str(served), "--net-allow", "example.org:443")
        done = plain_user("run", *rules, "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["from the host's loopback", "refused", "refused", "REFUSED"]
    assert plain_user("ls", "-q").stdout == ""
