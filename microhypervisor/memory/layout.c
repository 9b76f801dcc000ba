#include "memory/layout.h"

#define LONGEST_LINE 640

struct line {
    const char *key, *value;
    size_t key_length, value_length;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static struct line split(const char *text, size_t length)
{
    size_t start = 0;
    while (start < length && is_space(text[start])) {
        start++;
    }
    while (length > start && is_space(text[length - 1])) {
        length--;
    }
    size_t end = start;
    while (end < length && !is_space(text[end])) {
        end++;
    }
    struct line line = {text + start, text + end, end - start, 0};
    while (end < length && is_space(text[end])) {
        end++;
    }
    line.value = text + end;
    line.value_length = length - end;
    return line;
}

static bool key_is(const struct line *line, const char *key)
{
    return line->key_length == strlen(key) && memcmp(line->key, key, line->key_length) == 0;
}

static bool number(const struct line *line, uint64_t least, uint64_t most, uint64_t *value)
{
    *value = 0;
    for (size_t i = 0; i < line->value_length; i++) {
        char c = line->value[i];
        if (c < '0' || c > '9' || i >= 9) {
            return false;
        }
        *value = *value * 10 + (uint64_t)(c - '0');
    }
    return line->value_length > 0 && *value >= least && *value <= most;
}

/* Copy the value as text; with `names`, only the letters of names are let through, else whatever is printable. */
static bool text(const struct line *line, char *at, size_t size, bool names)
{
    if (line->value_length == 0 || line->value_length >= size) {
        return false;
    }
    for (size_t i = 0; i < line->value_length; i++) {
        char c = line->value[i];
        bool in_names = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
        if (names ? !in_names : (c < ' ' || c > '~')) {
            return false;
        }
        at[i] = c;
    }
    at[line->value_length] = '\0';
    return true;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool device(const struct line *line, struct wanted *wanted) /* bb:ss.f */
{
    const char *v = line->value;
    if (line->value_length != 7 || v[2] != ':' || v[5] != '.' || wanted->device_count == MAX_DEVICES) {
        return false;
    }
    int digits[5] = {hex(v[0]), hex(v[1]), hex(v[3]), hex(v[4]), hex(v[6])};
    for (unsigned i = 0; i < COUNT(digits); i++) {
        if (digits[i] < 0) {
            return false;
        }
    }
    int slot = digits[2] * 16 + digits[3];
    if (slot > 31 || digits[4] > 7) {
        return false;
    }
    wanted->devices[wanted->device_count++] = (uint16_t)((digits[0] * 16 + digits[1]) << 8 | slot << 3 | digits[4]);
    return true;
}

static bool tenant(const struct line *line, struct wanted *wanted)
{
    if (line->value_length != 2 * TENANT_SIZE || wanted->has_tenant) {
        return false;
    }
    for (unsigned i = 0; i < TENANT_SIZE; i++) {
        int high = hex(line->value[2 * i]), low = hex(line->value[2 * i + 1]);
        if (high < 0 || low < 0) {
            return false;
        }
        wanted->tenant[i] = (uint8_t)(high << 4 | low);
        wanted->has_tenant |= wanted->tenant[i] != 0;
    }
    return wanted->has_tenant;
}

static bool property(const struct line *line, struct wanted *wanted)
{
    uint64_t value = 0;
    if (key_is(line, "cores")) {
        bool good = number(line, 1, MAX_CORES, &value);
        wanted->cores = (unsigned)value;
        return good;
    }
    if (key_is(line, "memory")) {
        bool good = number(line, 128, 3072, &value) && value % 2 == 0;
        wanted->memory = value << 20;
        return good;
    }
    if (key_is(line, "kernel")) {
        return text(line, wanted->kernel, sizeof(wanted->kernel), true);
    }
    if (key_is(line, "initrd")) {
        return text(line, wanted->initrd, sizeof(wanted->initrd), true);
    }
    if (key_is(line, "cmdline")) {
        return text(line, wanted->cmdline, sizeof(wanted->cmdline), false);
    }
    if (key_is(line, "device")) {
        return device(line, wanted);
    }
    if (key_is(line, "tenant")) {
        return tenant(line, wanted);
    }
    if (key_is(line, "start")) {
        wanted->starts_asked = true;
        return line->value_length == 5 && memcmp(line->value, "asked", 5) == 0;
    }
    if (key_is(line, "console")) {
        wanted->console_shown = true;
        return line->value_length == 5 && memcmp(line->value, "shown", 5) == 0;
    }
    return false;
}

static bool complete(const struct wanted *wanted)
{
    return wanted->cores > 0 && wanted->memory > 0 && wanted->kernel[0] != '\0';
}

static bool begin(struct layout *layout, const struct line *line)
{
    if (layout->count == MAX_PARTITIONS || (layout->count > 0 && !complete(&layout->partitions[layout->count - 1]))) {
        return false;
    }
    struct wanted *wanted = &layout->partitions[layout->count];
    if (!text(line, wanted->name, sizeof(wanted->name), true)) {
        return false;
    }
    for (unsigned i = 0; i < layout->count; i++) {
        if (same_text(layout->partitions[i].name, wanted->name)) {
            return false;
        }
    }
    layout->count++;
    return true;
}

static bool read_line(struct layout *layout, const char *at, size_t length)
{
    if (length > LONGEST_LINE) {
        return false;
    }
    struct line line = split(at, length);
    if (line.key_length == 0 || line.key[0] == '#') {
        return true;
    }
    if (key_is(&line, "partition")) {
        return begin(layout, &line);
    }
    return layout->count > 0 && property(&line, &layout->partitions[layout->count - 1]);
}

/* No device twice: it would belong to two partitions. */
static bool devices_apart(const struct layout *layout)
{
    for (unsigned i = 0; i < layout->count * MAX_DEVICES; i++) {
        const struct wanted *a = &layout->partitions[i / MAX_DEVICES];
        for (unsigned j = 0; j < i; j++) {
            const struct wanted *b = &layout->partitions[j / MAX_DEVICES];
            if (i % MAX_DEVICES < a->device_count && j % MAX_DEVICES < b->device_count &&
                a->devices[i % MAX_DEVICES] == b->devices[j % MAX_DEVICES]) {
                return false;
            }
        }
    }
    return true;
}

bool layout_read(struct layout *layout, const char *at, size_t length)
{
    memset(layout, 0, sizeof(*layout));
    unsigned number_of_line = 0;
    for (size_t start = 0; start < length;) {
        size_t end = start;
        while (end < length && at[end] != '\n') {
            end++;
        }
        number_of_line++;
        if (!read_line(layout, at + start, end - start)) {
            layout->wrong_line = number_of_line;
            return false;
        }
        start = end + 1;
    }
    if (layout->count == 0 || !complete(&layout->partitions[layout->count - 1]) || !devices_apart(layout)) {
        layout->wrong_line = number_of_line + 1;
        return false;
    }
    return true;
}
