/* The client of the benchmark: a closed loop of calls on kept connections, every answer checked.
 *
 *   client PORT PATH KEY BODY_FILE CONNECTIONS CALLS CHUNKS [OPEN_FILE]
 *
 * CHUNKS=0: plain answers; else streams that must hold so many stamps and [DONE]. One thread, epoll. A chunk's latency
 * is its arrival less the stamp ` t=<ns> ` in it; a call's first byte is that of its body after the request was sent.
 * With OPEN_FILE, that file is made once every connection's stream is open: a moment to measure memory. Prints one line
 * of JSON; times in nanoseconds; exits with 1 where an answer was wrong. BENCH_HEADERS in the environment holds further
 * header lines, each with its CRLF.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 65536, HEAD_BYTES_MAX = 32768, READ_BYTES = 65536 };
enum framing { HEAD, LENGTH, SIZE_LINE, CHUNK, CHUNK_END, TRAILER };

struct connection {
    int fd;
    size_t sent;
    char head[HEAD_BYTES_MAX];
    size_t head_length;
    enum framing at;
    uint64_t left;
    int stamps, stamp_at, done_at, dones, finished, busy, want_write;
    uint64_t stamp, started_ns, first_ns;
};

static struct connection *connections[CONNECTIONS_MAX];
static char *request;
static size_t request_length;
static int epoll_fd, calls_left, calls_running, wrong, expected, port;
static uint64_t *latencies, *firsts, *totals;
static size_t latency_count, latency_room, call_count;
static char wrong_text[512];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void complain(struct connection *c, const char *what) {
    if (!wrong++) snprintf(wrong_text, sizeof wrong_text, "%s; head: %.200s", what, c->head);
    for (char *p = wrong_text; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') *p = ' ';
}

static void watch(struct connection *c, int write) {
    if (c->want_write == write) return;
    c->want_write = write;
    struct epoll_event e = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

static void open_connection(void);

static void send_on(struct connection *c) {
    while (c->sent < request_length) {
        ssize_t n = send(c->fd, request + c->sent, request_length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            watch(c, 1);
            return;
        }
        if (n < 0) return; /* the reading side finds out */
        c->sent += (size_t)n;
    }
    c->started_ns = now_ns();
    watch(c, 0);
}

static void begin(struct connection *c) {
    if (!calls_left) {
        c->busy = 0;
        return;
    }
    calls_left--;
    calls_running++;
    c->busy = 1;
    c->sent = c->head_length = 0;
    c->at = HEAD;
    c->stamps = c->stamp_at = c->done_at = c->dones = c->finished = 0;
    c->first_ns = 0;
    c->started_ns = now_ns();
    send_on(c);
}

/* Looks for ` t=<digits> ` and for `[DONE]` in what may be cut anywhere. */
static void look(struct connection *c, const char *data, size_t length, uint64_t now) {
    static const char *stamp = " t=", *done = "[DONE]";
    for (size_t i = 0; i < length; i++) {
        char b = data[i];
        if (c->stamp_at == 3) {
            if (b >= '0' && b <= '9') {
                c->stamp = c->stamp * 10 + (uint64_t)(b - '0');
            } else {
                c->stamp_at = 0;
                c->stamps++;
                if (latency_count < latency_room) latencies[latency_count++] = now > c->stamp ? now - c->stamp : 0;
            }
        } else if (b == stamp[c->stamp_at]) {
            if (++c->stamp_at == 3) c->stamp = 0;
        } else
            c->stamp_at = b == ' ';
        c->done_at = b == done[c->done_at] ? c->done_at + 1 : b == '[';
        if (c->done_at == 6) {
            c->dones++;
            c->done_at = 0;
        }
    }
}

static void complete(struct connection *c, uint64_t now) {
    if (c->stamps != (expected ? expected : 1)) complain(c, "an answer lacks chunks");
    if (expected && c->dones != 1) complain(c, "a stream lacks [DONE]");
    firsts[call_count] = c->first_ns - c->started_ns;
    totals[call_count++] = now - c->started_ns;
    calls_running--;
    begin(c);
}

/* 0: the connection was closed. */
static int take(struct connection *c, const char *data, size_t length, uint64_t now) {
    size_t i = 0;
    while (i < length) {
        if (!c->busy) {
            complain(c, "bytes after the end");
            return 0;
        }
        switch (c->at) {
        case HEAD: {
            size_t from = c->head_length > 3 ? c->head_length - 3 : 0, part = length - i;
            if (c->head_length + part >= HEAD_BYTES_MAX) part = HEAD_BYTES_MAX - 1 - c->head_length;
            memcpy(c->head + c->head_length, data + i, part);
            size_t have = c->head_length + part;
            c->head[have] = 0;
            char *end = memmem(c->head + from, have - from, "\r\n\r\n", 4);
            if (!end) {
                c->head_length = have;
                i += part;
                if (have >= HEAD_BYTES_MAX - 1) {
                    complain(c, "a head too long");
                    return 0;
                }
                break;
            }
            end[2] = 0;
            i += (size_t)(end + 4 - c->head) - c->head_length;
            if (strncmp(c->head, "HTTP/1.1 200", 12)) {
                complain(c, "not a 200");
                return 0;
            }
            char *found = strcasestr(c->head, "\r\ncontent-length:");
            c->at = found ? LENGTH : SIZE_LINE;
            c->left = found ? strtoull(found + 17, NULL, 10) : 0;
            if (!found && !strcasestr(c->head, "\r\ntransfer-encoding: chunked")) {
                complain(c, "no framing");
                return 0;
            }
            break;
        }
        case SIZE_LINE:
            for (; i < length; i++) {
                char b = data[i];
                if (b == '\n') {
                    i++;
                    c->at = c->left ? CHUNK : TRAILER;
                    break;
                }
                if (b >= '0' && b <= '9') c->left = c->left * 16 + (uint64_t)(b - '0');
                else if ((b | 32) >= 'a' && (b | 32) <= 'f') c->left = c->left * 16 + (uint64_t)((b | 32) - 'a' + 10);
            }
            break;
        case LENGTH:
        case CHUNK: {
            if (!c->first_ns) c->first_ns = now;
            size_t part = length - i < c->left ? length - i : (size_t)c->left;
            look(c, data + i, part, now);
            i += part;
            c->left -= part;
            if (!c->left) {
                if (c->at == LENGTH) complete(c, now);
                else c->at = CHUNK_END;
            }
            break;
        }
        case CHUNK_END:
            if (data[i++] == '\n') c->at = SIZE_LINE;
            break;
        case TRAILER:
            if (data[i++] == '\n') complete(c, now);
            break;
        }
    }
    return 1;
}

static void lost(struct connection *c, const char *why) {
    int fd = c->fd, busy = c->busy;
    if (busy) {
        complain(c, why);
        calls_running--;
    }
    connections[fd] = NULL;
    close(fd);
    free(c);
    if (!wrong || wrong < 100) open_connection();
}

static void readable(struct connection *c) {
    static char data[READ_BYTES];
    for (;;) {
        ssize_t n = recv(c->fd, data, sizeof data, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            lost(c, "the connection was closed");
            return;
        }
        if (!take(c, data, (size_t)n, now_ns())) {
            lost(c, "an answer was wrong");
            return;
        }
        if (n < READ_BYTES) return;
    }
}

static void open_connection(void) {
    if (!calls_left) return;
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) {
        perror("client: connect");
        exit(1);
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct connection *c = connections[fd] = calloc(1, sizeof *c);
    c->fd = fd;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e);
    begin(c);
}

static int by_size(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t at(uint64_t *sorted, size_t count, double part) {
    return count ? sorted[(size_t)((double)(count - 1) * part)] : 0;
}

int main(int argc, char **argv) {
    if (argc < 8) return 2;
    port = atoi(argv[1]);
    struct stat file;
    int body = open(argv[4], O_RDONLY);
    if (body < 0 || fstat(body, &file)) return 2;
    const char *more = getenv("BENCH_HEADERS") ? getenv("BENCH_HEADERS") : "";
    request = malloc((size_t)file.st_size + strlen(more) + 2048);
    request_length = (size_t)sprintf(request,
                                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\n"
                                     "Content-Type: application/json\r\nAccept: application/json\r\n"
                                     "User-Agent: bench\r\n%sContent-Length: %lld\r\n\r\n",
                                     argv[2], port, argv[3], more, (long long)file.st_size);
    if (read(body, request + request_length, (size_t)file.st_size) != file.st_size) return 2;
    request_length += (size_t)file.st_size;
    int parallel = atoi(argv[5]);
    calls_left = atoi(argv[6]);
    expected = atoi(argv[7]);
    const char *open_file = argc > 8 ? argv[8] : NULL;
    latency_room = (size_t)calls_left * (size_t)(expected ? expected : 1);
    latencies = malloc(latency_room * sizeof *latencies);
    firsts = calloc((size_t)calls_left + 1, sizeof *firsts);
    totals = calloc((size_t)calls_left + 1, sizeof *totals);

    epoll_fd = epoll_create1(0);
    uint64_t start = now_ns();
    for (int i = 0; i < parallel; i++) open_connection();
    struct epoll_event events[512];
    uint64_t quiet_since = now_ns();
    while (calls_running || calls_left) {
        int count = epoll_wait(epoll_fd, events, 512, 1000);
        if (count) quiet_since = now_ns();
        else if (now_ns() - quiet_since > 60000000000ull) {
            fprintf(stderr, "client: nothing came for 60 s, %d calls open\n", calls_running);
            return 1;
        }
        for (int i = 0; i < count; i++) {
            struct connection *c = connections[events[i].data.fd];
            if (!c) continue;
            if (events[i].events & EPOLLOUT) send_on(c);
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(c);
        }
        if (open_file) {
            int open_streams = 0;
            for (int fd = 0; fd < CONNECTIONS_MAX; fd++) open_streams += connections[fd] && connections[fd]->first_ns && connections[fd]->busy;
            if (open_streams >= parallel) {
                close(open(open_file, O_CREAT | O_WRONLY, 0600));
                open_file = NULL;
            }
        }
        if (wrong >= 100) break;
    }
    double seconds = (double)(now_ns() - start) / 1e9;
    qsort(latencies, latency_count, sizeof *latencies, by_size);
    qsort(firsts, call_count, sizeof *firsts, by_size);
    qsort(totals, call_count, sizeof *totals, by_size);
    printf("{\"calls\":%zu,\"chunks\":%zu,\"seconds\":%.6f,\"wrong\":%d,\"why\":\"%s\",\"chunk_p50\":%llu,\"chunk_p99\":%llu,\"chunk_max\":%llu,"
           "\"first_p50\":%llu,\"first_p99\":%llu,\"total_p50\":%llu,\"total_p99\":%llu}\n",
           call_count, expected ? latency_count : 0, seconds, wrong, wrong_text, (unsigned long long)at(latencies, latency_count, 0.5),
           (unsigned long long)at(latencies, latency_count, 0.99), (unsigned long long)at(latencies, latency_count, 1),
           (unsigned long long)at(firsts, call_count, 0.5), (unsigned long long)at(firsts, call_count, 0.99),
           (unsigned long long)at(totals, call_count, 0.5), (unsigned long long)at(totals, call_count, 0.99));
    return wrong != 0;
}
