/* The TPM's registers and its quotes, before a TPM of the test's own that takes its commands apart byte by byte. */
#include "check.h"

#include <sodium.h>
#include <string.h>

#include "devices/tis.h"
#include "monitor/quote.h"

enum { ACCESS = 0x00, STATUS = 0x18, FIFO = 0x24, VENDOR = 0xf00 };
enum chip { ABSENT, SOUND, SILENT, BUSY, NO_BANK, OTHER_PASSWORD, TOO_LONG, SHORT, LIAR }; /* what is wrong with it */

extern uint64_t tsc_khz;
static enum chip chip = ABSENT;
static bool active, by_firmware; /* it was started before us */
static uint8_t command[256], answer[2048];
static size_t written, answered, taken; /* of the command; of the answer */
static uint8_t pcrs[24][32];
static unsigned extended, created, quoted;

static void say(unsigned size, uint64_t value)
{
    while (size-- > 0) {
        answer[answered++] = (uint8_t)(value >> 8 * size);
    }
}

static uint32_t at32(size_t at)
{
    return (uint32_t)command[at] << 24 | (uint32_t)command[at + 1] << 16 | (uint32_t)command[at + 2] << 8 | command[at + 3];
}

static void finish(uint32_t code)
{
    size_t length = code == 0 ? answered : 10;
    answered = 0;
    say(2, 0x8001);
    say(4, chip == TOO_LONG ? 5000 : length);
    say(4, code);
    answered = length;
}

static void extend(void)
{
    uint8_t joined[64];
    CHECK(written == 65 && at32(10) == 15 && at32(27) == 1 && command[31] == 0 && command[32] == 0x0b);
    memcpy(joined, pcrs[15], 32);
    memcpy(joined + 32, command + 33, 32);
    crypto_hash_sha256(pcrs[15], joined, 64);
    extended++;
}

static void create(void)
{
    static const uint8_t template[] = {0x00, 0x23, 0x00, 0x0b, 0x00, 0x05, 0x04, 0x72, 0x00, 0x00, 0x00, 0x10,
                                       0x00, 0x18, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x00, 0x00};
    CHECK(written == 65 && at32(10) == 0x4000000b && at32(14) == 9 && at32(18) == 0x40000009);
    CHECK(at32(27) == 0x00040000 && command[34] == sizeof(template) && memcmp(command + 35, template, sizeof(template)) == 0);
    say(4, 0x80000001);
    say(4, 90);
    say(2, chip == LIAR ? 0xffff : 88);
    memset(answer + answered, 0xaa, 88);
    answered += 88;
    created++;
}

static void read_pcr(void)
{
    unsigned number = 0;
    CHECK(written == 20 && at32(10) == 1 && command[14] == 0 && command[15] == 0x0b && command[16] == 3);
    while (number < 24 && !(command[17 + number / 8] & 1u << number % 8)) {
        number++;
    }
    CHECK(number < 10);
    say(4, 7);
    say(4, 1);
    say(2, 0x0b);
    say(1, 3);
    say(3, 0);
    say(4, chip == NO_BANK ? 0 : 1);
    say(2, 32);
    memcpy(answer + answered, pcrs[number], 32);
    answered += 32;
}

static void quote(void)
{
    static const uint8_t selection[] = {0x00, 0x0b, 0x03, 0xff, 0x83, 0x00};
    CHECK(written == 73 && at32(10) == 0x80000001 && command[27] == 0 && command[28] == 32);
    CHECK(command[61] == 0 && command[62] == 0x10 && at32(63) == 1 && memcmp(command + 67, selection, 6) == 0);
    say(4, chip == LIAR ? 900 : 200);
    memset(answer + answered, 0xbb, 168);
    answered += 168;
    memcpy(answer + answered, command + 29, 32); /* what it is for, at the end of what is said */
    answered += 32;
    quoted++;
}

static void obey(void)
{
    uint32_t code = at32(6);
    CHECK(written >= 10 && at32(2) == written);
    answered = 10;
    if (code == 0x144) {
        finish(by_firmware ? 0x100 : 0);
    } else if (code == 0x182) {
        extend();
        finish(chip == OTHER_PASSWORD ? 0x98e : 0);
    } else if (code == 0x131) {
        create();
        finish(0);
    } else if (code == 0x17e) {
        read_pcr();
        finish(0);
    } else {
        CHECK(code == 0x158);
        quote();
        finish(0);
    }
    if (chip == SHORT) {
        answered = 0;
        say(2, 0x8001);
        say(4, 3);
        say(4, 0);
    }
}

uint8_t tis_read8(uint32_t at)
{
    if (chip == ABSENT) {
        return 0xff;
    }
    if (at == ACCESS) {
        return 0x81 | (active ? 0x20 : 0);
    }
    CHECK(at == FIFO && taken < answered);
    return answer[taken++];
}

uint32_t tis_read32(uint32_t at)
{
    if (at == VENDOR) {
        return chip == ABSENT ? UINT32_MAX : 0x1014;
    }
    CHECK(at == STATUS);
    uint32_t expect = written < 10 || written < at32(2) ? 0x08 : 0;
    uint32_t available = taken < answered && chip != SILENT ? 0x10 : 0;
    return 0x80 | 0x40 | expect | available | 7u << 8; /* a few bytes at a time */
}

void tis_write8(uint32_t at, uint8_t value)
{
    if (at == ACCESS) {
        CHECK(value == 0x02);
        active = chip != BUSY;
        return;
    }
    CHECK(at == FIFO && active && written < sizeof(command));
    command[written++] = value;
}

void tis_write32(uint32_t at, uint32_t value)
{
    CHECK(at == STATUS && active);
    if (value == 0x20) {
        obey();
        return;
    }
    CHECK(value == 0x40);
    written = answered = taken = 0;
}

static size_t begun(enum chip as, uint8_t *at)
{
    static const uint8_t key[32] = {9};
    uint8_t digest[32];
    memset(digest, 0xdd, sizeof(digest));
    chip = as;
    active = false;
    quote_begin(key);
    return quote_take(digest, at);
}

void test_quote(void)
{
    static uint8_t taken_quote[QUOTE_SIZE];
    uint8_t joined[64] = {0}, expected[32];
    const uint8_t key[32] = {9};
    const uint64_t khz = tsc_khz;
    tsc_khz = 1; /* whoever waits has waited long enough soon */
    for (unsigned i = 0; i < 10; i++) {
        memset(pcrs[i], (int)i, 32);
    }
    for (enum chip as = SILENT; as <= LIAR; as++) {
        CHECK(begun(as, taken_quote) == 0);
    }
    CHECK(begun(ABSENT, taken_quote) == 0);
    memset(pcrs[15], 0, 32);
    extended = created = quoted = 0;
    CHECK(begun(SOUND, taken_quote) == 90 + 320 + 200 && extended == 1 && created == 1 && quoted == 1);
    CHECK(taken_quote[1] == 88 && taken_quote[2] == 0xaa && memcmp(taken_quote + 90, pcrs, 320) == 0);
    CHECK(taken_quote[410] == 0xbb && taken_quote[410 + 199] == 0xdd);
    crypto_hash_sha256(joined + 32, key, 32);
    crypto_hash_sha256(expected, joined, 64);
    CHECK(memcmp(pcrs[15], expected, 32) == 0); /* the key, and nothing before it */
    by_firmware = true;
    CHECK(begun(SOUND, taken_quote) > 0);
    chip = LIAR; /* one that becomes so later */
    CHECK(quote_take(expected, taken_quote) == 0);
    chip = ABSENT;
    tsc_khz = khz;
}
