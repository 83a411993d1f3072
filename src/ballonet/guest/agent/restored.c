/* PID 1 only: a machine that was saved and restored gets a clock and random numbers of its own (RESTORED).
 *
 * Machines restored from one state would otherwise draw the same random bytes, and show the time when it was saved.
 * The monotonic clocks go on from there. */
#define _GNU_SOURCE
#include "restored.h"
#include "base.h"
#include "wire.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* linux/random.h, which not every C library has: a count in bits, a size in bytes, and the bytes. */
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)

/* random(4): the bytes count as entropy, and the generator takes a new key from the pool that they went to. */
static int reseed(const uint8_t *seed, uint32_t size)
{
	struct {
		int bits, size;
		uint8_t bytes[MAX_SEED];
	} entropy = {.bits = (int)size * 8, .size = (int)size};
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC), error = 0;

	if (fd < 0)
		return errno;
	memcpy(entropy.bytes, seed, size);
	if (ioctl(fd, RNDADDENTROPY, &entropy) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
		error = errno;
	close(fd);
	explicit_bzero(&entropy, sizeof entropy);
	return error;
}

int restored_renew(uint64_t wall_ns, const uint8_t *seed, uint32_t size)
{
	struct timespec wall = {.tv_sec = (time_t)(wall_ns / 1000000000), .tv_nsec = (long)(wall_ns % 1000000000)};
	int error = reseed(seed, size);

	if (error)
		complain("cannot reseed the random number generator: %s", strerror(error));
	if (clock_settime(CLOCK_REALTIME, &wall) < 0) {
		error = error ? error : errno;
		complain("cannot set the clock: %s", strerror(errno));
	}
	return error;
}
