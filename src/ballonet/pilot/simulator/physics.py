"""The constants of the simulator's guest model. ``docs/simulator.md`` has their sources."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Physics:
    """The model's constants, for guests on hardware."""

    #: Inflating: 0.95 GiB/s on hardware (published for virtio-balloon), 0.25 to 0.95 measured under emulation. The
    #: middle.
    inflate_mib_s: float = 600.0
    #: Deflating: 2.5 GiB in 1.4 s, measured.
    deflate_mib_s: float = 1800.0
    #: Share of a busy guest's time that a moving balloon takes: one of four processors.
    balloon_cost: float = 0.25
    #: What a kernel and an idle root use, and the share of the ceiling for page structures (1.6 %: 64 bytes per page).
    kernel_mib: float = 80.0
    kernel_share: float = 1 / 64
    #: Free memory that the kernel keeps back.
    watermark_mib: float = 8.0
    #: The highest allocation rate of a guest (3 GB/s, published), and the host's cost of a first touch (1 us per page).
    allocate_mib_s: float = 2861.0
    touch_mib_s: float = 4096.0
    #: The kernel's background thread reclaims clean caches at this speed; beyond it, the allocating task stalls and
    #: reclaims at the same speed.
    reclaim_mib_s: float = 2048.0
    #: A request to drop caches: the processor time of reclaiming them, and of compacting the memory that the guest has.
    #: At normal priority it shares the processor with the work, a gentle one takes a quarter of an idle one.
    trim_mib_s: float = 1024.0
    compact_mib_s: float = 4096.0
    gentle_share: float = 0.25
    #: The time that the work loses for each second in which it shares the processor with them.
    contention: float = 1.0
    #: The processor time of reporting free pages, by the guest and by the engine that returns them to the host.
    report_mib_s: float = 4096.0
    #: Share of a processor that the engine of an idle guest uses.
    idle_cpu: float = 0.005
    #: Rereading files: how often the work reads the same files, and the disk's speed.
    reread_s: float = 10.0
    disk_mib_s: float = 500.0
    #: Major faults per MiB read again: a quarter is mapped, with a read-ahead of 128 KiB.
    faults_per_mib: float = 2.0
    #: Free-page reporting: its delay, and the share of freed memory in blocks smaller than order 9, chosen so that a
    #: clang build results in the published 431 of 659 GiB·min.
    report_delay_s: float = 2.0
    fragmented: float = 0.25
    #: The same share of dropped caches.
    trim_fragmented: float = 0.25
    #: The share of small free blocks that compaction of an idle guest joins to blocks that can be reported. Measured:
    #: of 261 MiB on the host, 101 remained; the guest used 94.
    compacted: float = 0.9
    #: A guest that cannot reclaim anything kills a process after this time; with deflate-on-oom its balloon gives back
    #: this much per second instead.
    oom_after_s: float = 0.2
    oom_deflate_mib_s: float = 256.0
    #: Pressure relief: after this much stall in half a second (``machine/guest_memory.py``).
    relief_stall_s: float = 0.025
    relief_window_s: float = 0.5
    #: Resuming a paused guest: the start of its engine until its work goes on, and the speed at which its memory is
    #: filled. Measured: 0.18 s with 60 MiB, of which 25 ms were for the memory.
    resume_s: float = 0.16
    restore_mib_s: float = 2400.0


#: One processor under emulation, calibrated with :mod:`ballonet.pilot.simulator.fleet`: a page of the host costs 8 µs
#: instead of 1, and a request to drop caches at normal priority more than a second of the work.
EMULATION = Physics(
    touch_mib_s=370.0,
    trim_mib_s=100.0,
    compact_mib_s=400.0,
    report_mib_s=180.0,
    fragmented=0.02,
    trim_fragmented=0.45,
    contention=2.8,
    reread_s=2.0,
    disk_mib_s=150.0,
    balloon_cost=1.0,
)
