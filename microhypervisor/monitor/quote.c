#include "monitor/quote.h"

#include <sodium/crypto_hash_sha256.h>

#include "devices/tis.h"
#include "lib/log.h"

/* Numbers of the TPM 2.0 Library, part 2: commands (6.5.2), and what stands in their parameters. */
enum {
    COMMAND_CREATE_PRIMARY = 0x131,
    COMMAND_STARTUP = 0x144,
    COMMAND_QUOTE = 0x158,
    COMMAND_PCR_READ = 0x17e,
    COMMAND_PCR_EXTEND = 0x182,
    TAG_PLAIN = 0x8001,
    TAG_AUTHORIZED = 0x8002,
    CODE_ALREADY = 0x100, /* TPM_RC_INITIALIZE: the firmware has started it */
    ENDORSEMENT = 0x4000000b,
    PASSWORD = 0x40000009,
    SHA256 = 0x000b,
    NOTHING = 0x0010, /* TPM_ALG_NULL */
    ECDSA = 0x0018,
    ECC = 0x0023,
    P256 = 0x0003,
    /* fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign (8.3): it signs what the TPM itself says. */
    ATTRIBUTES = 0x00050472,
};

#define HEADER 10
#define DIGEST 32
#define BOOTED 10  /* PCRs 0 to 9: what firmware and loader measured before us */
#define KEY_PCR 15 /* which nobody has used before: it is extended with our key once, and that is all that it ever says */

static uint8_t command[256], answer[1024];
static size_t length, got;
static bool there;
static uint8_t key_area[160]; /* the quoting key's public area, with its length before it (TPM2B_PUBLIC) */
static size_t key_length;
static uint32_t key_handle;
static uint8_t booted[BOOTED][DIGEST];

/* The TPM's numbers are big-endian. */
static void put(unsigned size, uint64_t value)
{
    while (size-- > 0) {
        command[length++] = (uint8_t)(value >> 8 * size);
    }
}

static void put_bytes(const uint8_t *bytes, size_t count)
{
    memcpy(command + length, bytes, count);
    length += count;
}

static uint32_t get32(size_t at)
{
    return (uint32_t)answer[at] << 24 | (uint32_t)answer[at + 1] << 16 | (uint32_t)answer[at + 2] << 8 | answer[at + 3];
}

static size_t get16(size_t at)
{
    return (size_t)answer[at] << 8 | answer[at + 1];
}

static void begin(uint16_t tag, uint32_t code)
{
    length = 0;
    put(2, tag);
    put(4, 0); /* its length, by run() */
    put(4, code);
}

/* With the empty password that a TPM has, unless somebody has set another one: then it quotes for nobody here. */
static void begin_authorized(uint32_t code, uint32_t handle)
{
    begin(TAG_AUTHORIZED, code);
    put(4, handle);
    put(4, 9);
    put(4, PASSWORD);
    put(5, 0); /* no nonce, no attributes, no password */
}

static void put_selection(uint32_t pcrs)
{
    put(4, 1);
    put(2, SHA256);
    put(1, 3);
    put(1, pcrs & 0xff); /* the lowest number first: not a number itself */
    put(1, pcrs >> 8 & 0xff);
    put(1, pcrs >> 16);
}

/* The answer's code; UINT32_MAX if none came. */
static uint32_t run(void)
{
    size_t whole = length;
    length = 2;
    put(4, whole);
    got = tis_transfer(command, whole, answer, sizeof(answer));
    return got < HEADER ? UINT32_MAX : get32(6);
}

static bool start(void)
{
    begin(TAG_PLAIN, COMMAND_STARTUP);
    put(2, 0); /* clear */
    uint32_t code = run();
    return code == 0 || code == CODE_ALREADY;
}

static bool extend(const uint8_t *key)
{
    uint8_t digest[DIGEST];
    crypto_hash_sha256(digest, key, 32);
    begin_authorized(COMMAND_PCR_EXTEND, KEY_PCR);
    put(4, 1);
    put(2, SHA256);
    put_bytes(digest, sizeof(digest));
    return run() == 0;
}

static bool read_pcr(unsigned number, uint8_t *value)
{
    enum { COUNT_AT = HEADER + 14, SIZE_AT = COUNT_AT + 4, VALUE_AT = SIZE_AT + 2 }; /* behind the update counter and the selection */
    begin(TAG_PLAIN, COMMAND_PCR_READ);
    put_selection(1u << number);
    if (run() != 0 || got != VALUE_AT + DIGEST || get32(COUNT_AT) != 1 || get16(SIZE_AT) != DIGEST) {
        return false; /* it keeps none by SHA-256 */
    }
    memcpy(value, answer + VALUE_AT, DIGEST);
    return true;
}

/* Derived from the TPM's own secret and what stands here, so it is the same one at each start: who trusts a machine knows it. */
static bool make_key(void)
{
    enum { HANDLE_AT = HEADER, AREA_AT = HEADER + 8 };
    begin_authorized(COMMAND_CREATE_PRIMARY, ENDORSEMENT);
    put(2, 4); /* no password of its own, and no secret from us */
    put(4, 0);
    put(2, 24); /* the bytes of what follows, up to the place */
    put(2, ECC);
    put(2, SHA256);
    put(4, ATTRIBUTES);
    put(2, 0); /* no policy */
    put(2, NOTHING);
    put(2, ECDSA);
    put(2, SHA256);
    put(2, P256);
    put(2, NOTHING);
    put(4, 0); /* no point: it says which */
    put(2, 0); /* nothing from outside in it, */
    put(4, 0); /* and no PCRs noted with it */
    if (run() != 0 || got < AREA_AT + 2) {
        return false;
    }
    size_t area = get16(AREA_AT) + 2;
    if (area > sizeof(key_area) || got < AREA_AT + area) {
        return false;
    }
    key_handle = get32(HANDLE_AT);
    key_length = area;
    memcpy(key_area, answer + AREA_AT, area);
    return true;
}

void quote_begin(const uint8_t *key)
{
    there = false;
    if (!tis_start()) {
        log_line("there is no TPM: nobody attests what is measured here");
        return;
    }
    bool good = start() && extend(key) && make_key();
    for (unsigned i = 0; good && i < BOOTED; i++) {
        good = read_pcr(i, booted[i]);
    }
    there = good;
    log_line(good ? "a TPM quotes what is measured here" : "the TPM does not do what is asked of it: nobody attests what is measured here");
}

size_t quote_take(const uint8_t digest[32], uint8_t at[QUOTE_SIZE])
{
    if (!there) {
        return 0;
    }
    begin_authorized(COMMAND_QUOTE, key_handle);
    put(2, DIGEST);
    put_bytes(digest, DIGEST);
    put(2, NOTHING); /* the key's own scheme */
    put_selection(((1u << BOOTED) - 1) | 1u << KEY_PCR);
    if (run() != 0 || got < HEADER + 4) {
        return 0;
    }
    size_t said = get32(HEADER); /* the quote and its signature */
    if (said > got - HEADER - 4 || said > QUOTE_SIZE - sizeof(booted) - sizeof(key_area)) {
        return 0;
    }
    memcpy(at, key_area, key_length);
    memcpy(at + key_length, booted, sizeof(booted));
    memcpy(at + key_length + sizeof(booted), answer + HEADER + 4, said);
    return key_length + sizeof(booted) + said;
}
