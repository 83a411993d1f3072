/* Counts how often CMPXCHG16B leaves bits of another operand in EFLAGS.
 *
 * POPF makes an emulator keep EFLAGS as such; ADD keeps its operands instead, from which flags are computed when they
 * are needed. An emulator that forgets the latter takes the operand of ADD for EFLAGS. */
#include <stdint.h>
#include <stdio.h>

enum { ROUNDS = 1000, STATUS_FLAGS = 0x8d5, FIXED = 0x2, INTERRUPTS = 0x200 };

int main(void)
{
	static _Alignas(16) uint64_t memory[2];
	int wrong = 0;

	for (int round = 0; round < ROUNDS; round++) {
		uint64_t flags, operand = 0x04f10000;

		memory[0] = memory[1] = 0;
		__asm__ volatile("xor %%eax, %%eax\n"
				 "xor %%edx, %%edx\n"
				 "xor %%ebx, %%ebx\n"
				 "xor %%ecx, %%ecx\n"
				 "pushf\n"
				 "popf\n"
				 "jmp 1f\n"
				 "1: add %2, %%r9\n"
				 "cmpxchg16b %1\n"
				 "jne 2f\n"
				 "2: pushf\n"
				 "pop %0\n"
				 : "=r"(flags), "+m"(memory)
				 : "r"(operand)
				 : "rax", "rbx", "rcx", "rdx", "r9", "cc", "memory");
		if (flags & ~(uint64_t)(STATUS_FLAGS | FIXED | INTERRUPTS))
			wrong++;
	}
	printf("%d\n", wrong);
	return 0;
}
