"""A guest that swaps: what it wrote to its swap space, and read from there."""

from __future__ import annotations

import asyncio

import pytest

from ballonet.control.client import Client
from ballonet.guest.bundle import GuestBundle
from ballonet.sdk.sandbox import Sandbox

pytestmark = pytest.mark.extended
WAIT_S = 200
#: Pages of a tmpfs have no other place to go to; Linux 6.12 does not write those that are all zeros.
SWAPS = """
dd if=/dev/zero of=/disk/swap bs=1M count=128 2>/dev/null && chmod 600 /disk/swap && mkswap /disk/swap >/dev/null &&
swapon /disk/swap && mkdir /big && mount -t tmpfs -o size=128m big /big &&
yes swapped | head -c 110m >/big/file && cat /big/file /big/file | wc -c
"""


async def test_what_a_guest_swaps_is_in_its_statistics(guest: GuestBundle, run_directory: object) -> None:
    async with await Sandbox.create("swaps", memory="128M", disk="256M") as box:
        assert box.control_socket is not None
        async with await Client.connect(box.control_socket) as client:
            before = (await client.stats()).guest
            assert (before.swap_total_mib, before.swap_free_mib) == (0, 0), "it has no swap space yet"
            done = await box.shell(SWAPS, timeout=WAIT_S)
            assert (done.returncode, done.stdout) == (0, b"%d\n" % (220 << 20)), done.stderr
            vmstat = (await box.exec(["grep", "^pswp", "/proc/vmstat"])).stdout.decode().split()
            read, written = (int(pages) // 256 for pages in vmstat[1::2])
            assert min(read, written) > 0, "it swapped"
            async with asyncio.timeout(WAIT_S):
                while not (now := (await client.stats()).guest).swap_in_mib:
                    await asyncio.sleep(1)
            assert now.swap_total_mib == 127, "without the page of its header"
            assert now.swap_free_mib is not None
            assert 127 - now.swap_free_mib > 0
            assert now.swap_out_mib is not None
            assert now.swap_out_mib >= written
            assert now.swap_in_mib is not None
            assert now.swap_in_mib >= read
