/* What libsodium's objects ask of their surroundings; with it here the linker takes nothing of its utils.o, core.o,
 * runtime.o and randombytes.o, which want an operating system. What they ask about the processor is answered with no, so
 * that their plain C is what runs. All of it runs on the monitor core alone. */
#include "lib/base.h"
#include "lib/log.h"

#define TRIES 10 /* of RDRAND before it counts as broken, as its maker has it (APM 3, RDRAND) */

void sodium_memzero(void *const at, const size_t length);
int sodium_memcmp(const void *const a, const void *const b, size_t length);
int sodium_is_zero(const unsigned char *at, const size_t length);
int sodium_runtime_has_avx(void), sodium_runtime_has_avx2(void), sodium_runtime_has_ssse3(void), sodium_runtime_has_sse2(void);
void randombytes_buf(void *const at, const size_t length);
_Noreturn void sodium_misuse(void), abort(void), __stack_chk_fail(void);

void sodium_memzero(void *const at, const size_t length)
{
    memset(at, 0, length);
    __asm__ volatile("" : : "r"(at) : "memory");
}

/* Both look at every byte, whatever the first ones were. */
int sodium_memcmp(const void *const a, const void *const b, size_t length)
{
    const volatile uint8_t *x = a, *y = b;
    uint8_t differ = 0;
    for (size_t i = 0; i < length; i++) {
        differ |= x[i] ^ y[i];
    }
    return differ == 0 ? 0 : -1;
}

int sodium_is_zero(const unsigned char *at, const size_t length)
{
    const volatile uint8_t *bytes = at;
    uint8_t any = 0;
    for (size_t i = 0; i < length; i++) {
        any |= bytes[i];
    }
    return any == 0;
}

int sodium_runtime_has_avx(void)
{
    return 0;
}

int sodium_runtime_has_avx2(void)
{
    return 0;
}

int sodium_runtime_has_ssse3(void)
{
    return 0;
}

int sodium_runtime_has_sse2(void)
{
    return 0;
}

static uint64_t random_word(void)
{
    for (unsigned i = 0; i < TRIES; i++) {
        uint64_t word;
        bool good;
        __asm__ volatile("rdrand %0" : "=r"(word), "=@ccc"(good));
        if (good && word != 0 && word != UINT64_MAX) { /* what some processors gave for ever after they had slept */
            return word;
        }
    }
    panic("the processor gives no random numbers");
}

void randombytes_buf(void *const at, const size_t length)
{
    for (size_t done = 0; done < length; done += 8) {
        uint64_t word = random_word();
        memcpy((uint8_t *)at + done, &word, length - done < 8 ? length - done : 8);
    }
}

void sodium_misuse(void)
{
    panic("libsodium was misused");
}

void abort(void)
{
    panic("libsodium has given up");
}

/* Debian builds it with a stack protector, whose canary is at FS:0x28: on the monitor core, whose FS begins at 0, a
 * word of low memory that nothing writes. */
void __stack_chk_fail(void)
{
    panic("libsodium overran its stack");
}
