/*
 * Prints the frequency of this host's time-stamp counter in kHz.
 *
 * This program runs on the host. Its output becomes the tsc_early_khz= parameter of a guest kernel that has no other clock
 * to measure the counter with (QEMU's microvm under emulation).
 *
 * The counter is compared with CLOCK_MONOTONIC_RAW over a pause. At both ends, counter, clock and counter are read many
 * times, and the reading with the smallest difference is used, which was not interrupted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

enum { BRACKETS = 64, PAUSE_NS = 25 * 1000 * 1000 };

struct instant {
    uint64_t ticks; /* of the counter, at the middle of the bracket */
    int64_t ns;     /* of the clock */
};

static uint64_t read_counter(void)
{
    _mm_lfence(); /* not before what precedes it in the program */
    uint64_t ticks = __rdtsc();
    _mm_lfence(); /* nor after what follows */
    return ticks;
}

static int read_instant(struct instant *best)
{
    uint64_t tightest = UINT64_MAX;

    for (int i = 0; i < BRACKETS; i++) {
        struct timespec now;
        uint64_t before = read_counter();
        if (clock_gettime(CLOCK_MONOTONIC_RAW, &now) < 0)
            return -1;
        uint64_t width = read_counter() - before;
        if (width < tightest) {
            tightest = width;
            best->ticks = before + width / 2;
            best->ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
        }
    }
    return 0;
}

/* Stays on one processor, so that the same counter is read. Not fatal if it fails. */
static void stay_here(void)
{
    cpu_set_t here;
    int cpu = sched_getcpu();

    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return;
    CPU_ZERO(&here);
    CPU_SET(cpu, &here);
    (void)sched_setaffinity(0, sizeof(here), &here);
}

int main(void)
{
    const struct timespec pause = { .tv_nsec = PAUSE_NS };
    struct instant first, last;

    stay_here();
    if (read_instant(&first) < 0)
        goto failed;
    nanosleep(&pause, NULL);
    if (read_instant(&last) < 0)
        goto failed;
    if (last.ns <= first.ns || last.ticks <= first.ticks) {
        fprintf(stderr, "tsckhz: the counter or the clock stood still\n");
        return 1;
    }
    /* ticks per ns, times 10^6, rounded: some 10^8 ticks * 10^6 stays below 2^64 for pauses of minutes */
    uint64_t ns = (uint64_t)(last.ns - first.ns);
    uint64_t khz = ((last.ticks - first.ticks) * 1000000 + ns / 2) / ns;
    return printf("%llu\n", (unsigned long long)khz) < 0 || fflush(stdout) == EOF;

failed:
    fprintf(stderr, "tsckhz: CLOCK_MONOTONIC_RAW: %s\n", strerror(errno));
    return 1;
}
