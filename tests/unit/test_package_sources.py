"""The preset ``packages``: the servers that this host's apt, pip and npm name."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from ballonet.base.errors import HostError
from ballonet.host.package_sources import package_sources, pip_urls
from ballonet.sdk.builder import SandboxBuilder
from ballonet.sdk.creation import with_defaults, with_presets
from ballonet.vmm.attach import Net

_APT = """#!/bin/sh
echo http://deb.example.org/debian/
echo mirror+https://Mirrors.Example.Org:8443/list
echo 'cdrom:[x]/'
"""
_PIP = """#!/bin/sh
echo https://index.example.com/simple https://files.example.com
echo "global.cert='/etc/ssl/certs'"
echo ":env:.find-links='/opt/wheels https://wheels.example.net/a'"
"""
_NPM = """#!/bin/sh
echo '{"registry": "https://npm.example.com/", "@own:registry": "http://203.0.113.9:4873/", "json": true}'
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for tools, the only one that is searched."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("ballonet.base.process._EXTRA_PATH", ())
    monkeypatch.setattr("ballonet.host.package_sources.sys.executable", str(tmp_path / "python3"))
    return tmp_path


def install(tools: Path, **scripts: str) -> None:
    for name, text in scripts.items():
        program = tools / name.replace("_", "-")
        program.write_text(text)
        program.chmod(0o755)


def test_each_tool_names_its_servers(tools: Path) -> None:
    install(tools, apt_get=_APT, python3=_PIP, npm=_NPM)
    assert package_sources() == (
        "deb.example.org:80/tcp",
        "mirrors.example.org:8443/tcp",
        "index.example.com:443/tcp",
        "files.example.com:443/tcp",
        "wheels.example.net:443/tcp",
        "npm.example.com:443/tcp",
        "203.0.113.9:4873/tcp",
    )


def test_an_index_that_is_configured_replaces_the_default() -> None:
    output = "https://index.example.com/simple https://files.example.com\n"
    output += "global.index-url='https://own.example.org/simple'\nglobal.extra-index-url='file:///a http://b.test/c'\n"
    assert list(pip_urls(output)) == ["https://own.example.org/simple", "file:///a", "http://b.test/c"]


def test_a_tool_that_fails_or_says_nonsense_adds_none(tools: Path) -> None:
    fails = "#!/bin/sh\necho broken >&2; exit 1\n"
    install(tools, apt_get=fails, python3="#!/bin/sh\necho a; echo global.index-url=b\n", npm=_NPM)
    assert package_sources()[0] == "npm.example.com:443/tcp"
    install(tools, npm="#!/bin/sh\necho '[]'\n")
    with pytest.raises(HostError, match="no source of packages was found"):
        package_sources()


def test_servers_on_the_host_itself_are_no_rules(tools: Path) -> None:
    hosts = (
        "http://localhost:3142/",
        "http://127.0.0.1:8080/",
        "http://[::1]/",
        "file:///srv",
        "http://a.test:x/",
    )
    install(tools, apt_get="#!/bin/sh\n" + "".join(f"echo '{url}'\n" for url in hosts))
    with pytest.raises(HostError):
        package_sources()


def test_the_preset_becomes_rules_where_it_is_given(tools: Path) -> None:
    install(tools, npm=_NPM)
    config = SandboxBuilder("box").net_allow("a.test", "packages").build()
    assert list(map(str, config.net_allow)) == ["a.test", "npm.example.com:443/tcp", "203.0.113.9:4873/tcp"]
    assert config.net is Net.USER
    settings: Any = asyncio.run(with_presets(cast(Any, with_defaults({"net_allow": ["packages"]}))))
    assert list(map(str, settings["net_allow"])) == ["npm.example.com:443/tcp", "203.0.113.9:4873/tcp"]
