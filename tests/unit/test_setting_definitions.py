"""The declaration of settings agrees with what is written by hand beside it: fields, Balloon, and the documentation."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from scripts.settings_table import PAGE, renewed

from ballonet.cli.commands import build_parser
from ballonet.cli.parser import all_actions
from ballonet.machine.disk import DEFAULT_DISK_MIB
from ballonet.sdk import sync
from ballonet.sdk.builder import SandboxBuilder
from ballonet.sdk.creation import Balloon, with_defaults
from ballonet.sdk.sandbox import Sandbox
from ballonet.settings import definitions
from ballonet.settings.config import SandboxConfig
from ballonet.settings.definitions import (
    CONFIGURED,
    OPTION_GROUPS,
    SETTINGS,
    BuilderSettings,
    CreateSettings,
    ModifySettings,
)
from ballonet.settings.field_types import field_types
from ballonet.settings.flags import LIFETIME_FIELDS, NETWORK_RULES, RESOURCE_FIELDS, flags
from ballonet.settings.setting import LIVE

FIELDS = {field.name: field for field in fields(SandboxConfig)}


def test_every_setting_of_a_configuration_has_a_field_of_its_type() -> None:
    assert {SETTINGS[name].field for name in CONFIGURED} == set(FIELDS) - {"name", "root", "confidential"}
    kinds = {"size": int, "number": int, "switch": bool, "text": str}
    for name in CONFIGURED:
        setting = SETTINGS[name]
        of, _, many = field_types(SandboxConfig)[setting.field]
        assert many == (setting.kind == "list"), name
        if setting.kind in kinds:
            assert of is kinds[setting.kind], name
        elif setting.kind == "choice":
            assert setting.choices == tuple(map(str, of)), name
        elif setting.kind == "list":
            assert of is setting.item, name


def test_defaults_are_those_of_the_fields() -> None:
    depends = {"net"}  # on the ports
    for name in CONFIGURED - depends:
        assert SETTINGS[name].default == FIELDS[SETTINGS[name].field].default, name
    assert str(SETTINGS["disk"].default_text).startswith(f"{DEFAULT_DISK_MIB // 1024}G ")
    created = with_defaults({"cpus": 2})
    assert created == {name: SETTINGS[name].default for name in CreateSettings.__annotations__} | {"cpus": 2}


def test_the_balloon_has_its_settings_with_their_defaults() -> None:
    declared = [
        *definitions.BalloonRange.__annotations__,
        *definitions.ControlSocket.__annotations__,
        *definitions.BalloonBehaviour.__annotations__,
    ]
    assert {field.name: field.default for field in fields(Balloon)} == {
        name.removeprefix("balloon_"): SETTINGS[name].default for name in declared
    }


def test_every_setting_is_declared_once() -> None:
    classes = [of for group in OPTION_GROUPS.values() for of in group]
    names = [name for of in (*classes, definitions.Target) for name in of.__annotations__]
    assert len(names) == len(set(names)) == len(SETTINGS)
    for of in (CreateSettings, ModifySettings, BuilderSettings):
        assert set(of.__annotations__) <= set(SETTINGS)
    assert len({setting.field for setting in SETTINGS.values()}) == len(SETTINGS)


def test_run_has_an_option_for_every_setting_but_the_target() -> None:
    known = {action.dest: action for action in all_actions(build_parser("run"))}
    for name in set(SETTINGS) - {"memory_target"}:
        assert SETTINGS[name].option in known[name].option_strings


def test_modify_has_an_option_for_each_of_its_settings() -> None:
    known = {option for action in all_actions(build_parser("modify")) for option in action.option_strings}
    assert {SETTINGS[name].option for name in ModifySettings.__annotations__} <= known


def test_what_is_no_field_takes_effect_at_once_and_so_do_limits_of_the_lifetime() -> None:
    for name in ModifySettings.__annotations__:
        field = SETTINGS[name].field
        at_once = name not in CONFIGURED or field in (*NETWORK_RULES, *LIFETIME_FIELDS, *RESOURCE_FIELDS)
        assert (SETTINGS[name].takes_effect == LIVE) == at_once, name


def test_the_flags_that_registries_keep_have_their_names_forms_and_order() -> None:
    kept = [
        ("--name", "name", False),
        ("--cpus", "cpus", False),
        ("--memory-mib", "memory_mib", False),
        ("--balloon-initial-mib", "balloon_initial_mib", False),
        ("--balloon-min-mib", "balloon_min_mib", False),
        ("--balloon-control-socket", "balloon_control_socket", False),
        ("--machine", "machine", False),
        ("--accel", "accel", False),
        ("--deflate-on-oom", "deflate_on_oom", False),
        ("--free-page-reporting", "free_page_reporting", False),
        ("--guard-mib", "guard_mib", False),
        ("--pressure-relief", "pressure_relief", False),
        ("--hard-cap", "hard_cap", False),
        ("--balloon-allow-users", "balloon_allow_users", False),
        ("--balloon-allow-groups", "balloon_allow_groups", False),
        ("--balloon-observe-users", "balloon_observe_users", False),
        ("--balloon-observe-groups", "balloon_observe_groups", False),
        ("--root", "root", False),
        ("--disk-mib", "disk_mib", False),
        ("--volume", "volumes", True),
        ("--tmpfs", "tmpfs", True),
        ("--net", "net", False),
        ("--publish", "ports", True),
        ("--ttl-s", "ttl_s", False),
        ("--idle-timeout-s", "idle_timeout_s", False),
        ("--on-idle", "on_idle", False),
    ]
    found = [(flag.name, flag.field, flag.repeated) for flag in flags()]
    assert [each for each in found if each in kept] == kept


@pytest.mark.parametrize("face", [Sandbox, sync.Sandbox])
def test_signatures_are_whole(face: Any) -> None:
    create, modify = inspect.signature(face.create).parameters, inspect.signature(face.modify).parameters
    assert set(create) == {
        *("name", "balloon", "command", "env", "cwd", "user", "detached", "admission", "cold"),
        *CreateSettings.__annotations__,
    }
    assert (create["memory"].default, create["memory"].annotation) == (512, int | str)
    assert (create["image"].default, create["image"].annotation) == (None, str | None)
    assert list(modify) == ["self", *ModifySettings.__annotations__]
    assert (modify["cpus"].default, modify["cpus"].annotation) == (None, int | None)
    assert inspect.signature(face.plan).parameters == modify
    for call, settings in ((face.create, CreateSettings), (face.modify, ModifySettings)):
        said = str(inspect.getdoc(call))
        assert ":param settings:" not in said
        for name in settings.__annotations__:
            assert f"\n:param {name}: {SETTINGS[name].help}" in said


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: Sandbox.create("box", memroy="1G"), "'memory'"),  # type: ignore[call-arg]
        (lambda: sync.Sandbox.create("box", ballon=True), "'balloon'"),  # type: ignore[call-arg]
        (lambda: SandboxBuilder("box").set(gaurd=64), "'guard'"),  # type: ignore[call-arg]
    ],
)
def test_a_mistyped_name_is_an_error_at_the_call_that_says_what_may_be_meant(
    call: Callable[[], object], meant: str
) -> None:
    with pytest.raises(TypeError, match=rf"got an unexpected keyword argument '\w+'; did you mean {meant}\?"):
        call()


def test_a_builder_sets_any_setting_by_name() -> None:
    builder = SandboxBuilder("box").set(memory="1G", guard="64M", ports=["80:80"])
    config = builder.set(balloon_control_socket="/run/box.sock", allow_users=[5]).build()
    assert (config.memory_mib, config.guard_mib, config.balloon_allow_users) == (1024, 64, (5,))
    assert (str(config.ports[0]), str(config.net)) == ("127.0.0.1:80:80/tcp", "user")


def test_the_documented_table_is_the_declaration() -> None:
    page = PAGE.read_text()
    assert renewed(page) == page, "renew it with: python scripts/settings_table.py"


@pytest.mark.parametrize(
    "module", ["ballonet.machine.main", "ballonet.cli.main", "ballonet.lifecycle.sandboxes"]
)
def test_the_declaration_is_not_loaded_where_only_flags_are_used(module: str) -> None:
    code = f"import sys, {module}; print('ballonet.settings.definitions' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
