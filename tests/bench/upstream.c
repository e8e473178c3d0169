/* The upstream of the benchmark: an OpenAI-like chat endpoint that costs next to nothing.
 *
 * One thread, epoll. What a call gets is said in its body, anywhere: `bench chunks=50 gap_us=20000`. chunks=0: a plain
 * answer; else a stream of so many chunks, one each gap_us microseconds (0: as fast as the client reads), then the
 * finish, the usage and [DONE]. Every chunk, and the plain answer, carries ` t=<CLOCK_MONOTONIC ns> `: the moment at
 * which it was handed to the kernel. Prints its port.
 *
 * The first chunk of a stream with a gap comes at once. Those after it keep to a phase that is the stream's own, spread
 * evenly over the gap: calls of many users have nothing to do with one another. Were a stream's chunks to follow the
 * moment of its call, a fast candidate would be given all streams' chunks together, in few wake-ups, for it is fast to
 * begin many streams, and a slower one each by itself.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 65536, HEAD_BYTES_MAX = 16384, OUT_BYTES = 65536, BATCH_BYTES = 16384 };

struct connection {
    int fd;
    char *in; /* head, and as much of the body as is needed to find the directive */
    size_t in_size, in_length;
    size_t body_left;
    int reading_body, streaming, want_write;
    int chunks, sent, gap_us, asks_usage;
    uint64_t due_ns;
    char out[OUT_BYTES];
    size_t out_start, out_end;
};

static struct connection *connections[CONNECTIONS_MAX];
static int epoll_fd;

/* Streams with a gap, in the order in which they are due. */
static int queue[CONNECTIONS_MAX], queue_head, queue_length;
static uint32_t streams_begun;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void enqueue(int fd) {
    int at = queue_length++;
    for (; at > 0; at--) { /* mostly it is the last: all of a run have the same gap */
        int before = queue[(queue_head + at - 1) % CONNECTIONS_MAX];
        if (!connections[before] || connections[before]->due_ns <= connections[fd]->due_ns) break;
        queue[(queue_head + at) % CONNECTIONS_MAX] = before;
    }
    queue[(queue_head + at) % CONNECTIONS_MAX] = fd;
}

/* When the second chunk is due: between one gap and two from now, at the stream's phase of the clock's gaps. The phases
 * of streams that follow one another lie a golden section apart, so that any number of them is spread evenly. */
static uint64_t second_due_ns(uint64_t gap_ns) {
    uint64_t part = (uint32_t)(streams_begun++ * 2654435769u); /* of 2^32 */
    return (now_ns() / gap_ns + 1) * gap_ns + (gap_ns * part >> 32);
}

static void drop(struct connection *c) {
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->in);
    free(c);
}

static void watch(struct connection *c, int write) {
    if (c->want_write == write) return;
    c->want_write = write;
    struct epoll_event e = {.events = EPOLLIN | (write ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
}

/* 0: the connection is gone. */
static int flush(struct connection *c) {
    while (c->out_start < c->out_end) {
        ssize_t n = send(c->fd, c->out + c->out_start, c->out_end - c->out_start, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) {
                watch(c, 1);
                return 1;
            }
            drop(c);
            return 0;
        }
        c->out_start += (size_t)n;
    }
    c->out_start = c->out_end = 0;
    watch(c, 0);
    return 1;
}

static void put_chunk(struct connection *c, const char *data, int length) {
    c->out_end += (size_t)sprintf(c->out + c->out_end, "%x\r\n%.*s\r\n", length, length, data);
}

static void put_event(struct connection *c) {
    char event[640];
    int length;
    static const char *head =
        "\"id\":\"chatcmpl-bench00000000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,"
        "\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench\"";
    if (c->sent < c->chunks)
        length = sprintf(event,
                         "data: {%s,\"choices\":[{\"index\":0,\"delta\":{\"content\":\" t=%llu \"},\"logprobs\":null,"
                         "\"finish_reason\":null}]}\n\n",
                         head, (unsigned long long)now_ns());
    else {
        length = sprintf(event,
                         "data: {%s,\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n",
                         head);
        put_chunk(c, event, length);
        if (c->asks_usage) {
            length = sprintf(event,
                             "data: {%s,\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":%d,"
                             "\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n",
                             head, c->chunks, c->chunks + 12);
            put_chunk(c, event, length);
        }
        length = sprintf(event, "data: [DONE]\n\n");
        put_chunk(c, event, length);
        c->out_end += (size_t)sprintf(c->out + c->out_end, "0\r\n\r\n");
        c->streaming = 0;
        return;
    }
    put_chunk(c, event, length);
    c->sent++;
}

static void stream_on(struct connection *c) {
    if (c->gap_us) {
        uint64_t gap_ns = (uint64_t)c->gap_us * 1000u;
        put_event(c);
        if (c->streaming) {
            c->due_ns = c->sent == 1 ? second_due_ns(gap_ns) : c->due_ns + gap_ns;
            enqueue(c->fd);
        }
        flush(c);
        return;
    }
    while (c->streaming) {
        while (c->streaming && c->out_end < BATCH_BYTES) put_event(c);
        if (!flush(c)) return;
        if (c->out_end) return; /* the client's turn to read: EPOLLOUT goes on */
    }
}

static int number_after(const char *text, size_t length, const char *name, int otherwise) {
    const char *found = memmem(text, length, name, strlen(name));
    return found ? atoi(found + strlen(name)) : otherwise;
}

static void answer(struct connection *c) {
    const char *directive = memmem(c->in, c->in_length, "bench chunks=", 13);
    size_t left = directive ? c->in_length - (size_t)(directive - c->in) : 0;
    if (left > 128) left = 128;
    c->chunks = directive ? number_after(directive, left, "chunks=", 0) : 0;
    c->gap_us = directive ? number_after(directive, left, "gap_us=", 0) : 0;
    c->asks_usage = memmem(c->in, c->in_length, "include_usage", 13) != NULL;
    c->sent = 0;
    c->in_length = 0;
    c->reading_body = 0;
    if (!c->chunks) {
        char body[1024];
        int length = sprintf(
            body,
            "{\"id\":\"chatcmpl-bench00000000000000000000\",\"object\":\"chat.completion\",\"created\":1764000000,\"model\":"
            "\"gpt-4o-mini-2024-07-18\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"O sol nasce, "
            "a sombra anda, e a hora se conta sozinha. t=%llu \",\"refusal\":null,\"annotations\":[]},\"logprobs\":null,"
            "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":18,\"total_tokens\":30,"
            "\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},\"completion_tokens_details\":"
            "{\"reasoning_tokens\":0,\"audio_tokens\":0,\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}},"
            "\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench\"}",
            (unsigned long long)now_ns());
        c->out_end += (size_t)sprintf(c->out + c->out_end,
                                      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                                      length, body);
        flush(c);
        return;
    }
    c->out_end += (size_t)sprintf(c->out + c->out_end,
                                  "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                                  "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
    c->streaming = 1;
    stream_on(c);
}

static void readable(struct connection *c) {
    for (;;) {
        if (c->in_length + 65536 > c->in_size) {
            c->in_size = c->in_length + 131072;
            c->in = realloc(c->in, c->in_size);
        }
        ssize_t n = recv(c->fd, c->in + c->in_length, c->in_size - c->in_length - 1, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            drop(c);
            return;
        }
        if (n < 0) return;
        if (c->reading_body) {
            c->body_left -= (size_t)n < c->body_left ? (size_t)n : c->body_left;
            /* Of a long body its beginning is enough: the directive stands there. include_usage stands at the end. */
            if (c->in_length > 65536 && c->body_left) {
                memmove(c->in + 32768, c->in + c->in_length + n - 32768 < c->in + 32768 ? c->in + 32768
                                                                                        : c->in + c->in_length + n - 32768,
                        32768);
                c->in_length = 65536;
            } else
                c->in_length += (size_t)n;
        } else {
            c->in_length += (size_t)n;
            c->in[c->in_length] = 0;
            char *end = memmem(c->in, c->in_length, "\r\n\r\n", 4);
            if (!end) {
                if (c->in_length > HEAD_BYTES_MAX) {
                    drop(c);
                    return;
                }
                continue;
            }
            char *length = strcasestr(c->in, "content-length:");
            size_t body = length && length < end ? strtoul(length + 15, NULL, 10) : 0;
            size_t have = c->in_length - (size_t)(end + 4 - c->in);
            c->reading_body = 1;
            c->body_left = body > have ? body - have : 0;
        }
        if (c->reading_body && !c->body_left) {
            answer(c);
            return;
        }
    }
}

int main(int argc, char **argv) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)(argc > 1 ? atoi(argv[1]) : 0)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 8192)) {
        perror("upstream");
        return 1;
    }
    socklen_t size = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    epoll_fd = epoll_create1(0);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[512];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &e);
    for (;;) {
        struct timespec wait = {.tv_sec = 1}, *timeout = NULL;
        if (queue_length) {
            struct connection *next = connections[queue[queue_head]];
            uint64_t now = now_ns(), due = next ? next->due_ns : 0;
            uint64_t left = due > now ? due - now : 0;
            wait.tv_sec = (time_t)(left / 1000000000u);
            wait.tv_nsec = (long)(left % 1000000000u);
            timeout = &wait;
        }
        int count = epoll_pwait2(epoll_fd, events, 512, timeout, NULL);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int accepted;
                while ((accepted = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (accepted >= CONNECTIONS_MAX) {
                        close(accepted);
                        continue;
                    }
                    setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    struct connection *c = connections[accepted] = calloc(1, sizeof *c);
                    c->fd = accepted;
                    struct epoll_event in = {.events = EPOLLIN, .data.fd = accepted};
                    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, accepted, &in);
                }
                continue;
            }
            struct connection *c = connections[fd];
            if (!c) continue;
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(c);
            if (connections[fd] == c && (events[i].events & EPOLLOUT) && flush(c) && !c->out_end && c->streaming && !c->gap_us)
                stream_on(c);
        }
        uint64_t now = now_ns();
        while (queue_length) {
            int fd = queue[queue_head];
            struct connection *c = connections[fd];
            if (c && c->streaming && c->due_ns > now) break;
            queue_head = (queue_head + 1) % CONNECTIONS_MAX;
            queue_length--;
            if (c && c->streaming && c->out_end < OUT_BYTES / 2)
                stream_on(c);
            else if (c && c->streaming) { /* it does not read: a slow client's chunks come later */
                c->due_ns += (uint64_t)c->gap_us * 1000u;
                enqueue(fd);
            }
        }
    }
}
