/* What can be asked on the management channel: docs/spec/microhypervisor-channel.md, 2. */
#ifndef MH_REQUESTS_H
#define MH_REQUESTS_H

#include "channel/frame.h"

enum request {
    REQUEST_HELLO = 0x00,
    REQUEST_LIST = 0x01,
    REQUEST_START = 0x02,
    REQUEST_STOP = 0x03,
    REQUEST_RESTART = 0x04,
    REQUEST_STATISTICS = 0x05,
    REQUEST_CONSOLE = 0x06,
    REQUEST_MEASURE = 0x07,
    REQUEST_ATTEST = 0x08,
    REQUEST_CHALLENGE = 0x09,
    REQUEST_ACT = 0x0a,
    REQUEST_PAGE = 0x0b,
    REQUEST_ACTS = 0x0c,
    REQUEST_TENANT = 0x0d,
};

#define REPLY 0x80
#define REPLY_REFUSED 0xff

enum refusal {
    REFUSED_KIND = 1,
    REFUSED_LENGTH = 2,
    REFUSED_NAME = 3,
    REFUSED_STATE = 4,
    REFUSED_HIDDEN = 5,
    REFUSED_CONSENT = 6, /* and those behind it: monitor/consent.h's answers, from CONSENT_MALFORMED on */
};

/* Do what a request asks, and write its reply. Every request has one; none does anything if it is refused. */
void request_answer(const struct frame *request, struct frame *reply);

#endif
