/* A tenant's consent to one act on its memory: docs/spec/microhypervisor-consent.md. Monitor core only. */
#ifndef MH_CONSENT_H
#define MH_CONSENT_H

#include "lib/base.h"

#define CONSENT_STATEMENT 184
#define CONSENT_SIZE 248
#define CONSENT_NAME 16
#define CONSENT_HASH 32

enum consent_operation { CONSENT_DUMP = 1, CONSENT_INTROSPECT = 2, CONSENT_MIGRATE = 3 };

struct consent {
    enum consent_operation operation;
    char name[CONSENT_NAME];
    uint64_t page, pages, launch, ticks;
    uint8_t challenge[CONSENT_HASH], requester[CONSENT_HASH], purpose[CONSENT_HASH], arguments[CONSENT_HASH];
};

/* What is about to be done, as L0 itself knows it, and the tenant's key, which was measured at launch. */
struct act {
    enum consent_operation operation;
    char name[CONSENT_NAME];
    uint64_t page, pages, launch;
    uint8_t arguments[CONSENT_HASH];
    uint8_t tenant[32];
};

/* The challenge that was issued last; good for one act. */
struct challenge {
    bool open;
    uint64_t issued; /* in the clock's ticks */
    uint8_t bytes[CONSENT_HASH];
};

enum consent_answer {
    CONSENT_GIVEN,
    CONSENT_MALFORMED,
    CONSENT_NOT_SIGNED,
    CONSENT_OTHER_CHALLENGE,
    CONSENT_OTHER_ACT,
    CONSENT_EXPIRED,
    CONSENT_NO_TENANT, /* the last two are monitor/monitor.c's: there is nobody who could consent, */
    CONSENT_NOT_NEXT,  /* and a page that the act does not come to now */
    CONSENT_ANSWERS,
};

/* Read a statement; false if it is not in its one encoding. Nothing beyond CONSENT_STATEMENT bytes is read. */
bool consent_read(struct consent *consent, const uint8_t *bytes, size_t length);

/* Whether the act may be done now. The challenge is used up, unless what came was no consent to anything. */
enum consent_answer consent_decide(const uint8_t *bytes, size_t length, const struct act *act, struct challenge *challenge,
                                   uint64_t now);

#endif
