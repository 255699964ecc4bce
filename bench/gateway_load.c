/* Load for bench/gateway.py: a model that answers at once, and clients that ask it, all in blocking threads.
 *
 *   serve                                   prints its port. Answers a POST with a message, as events when it asks for a
 *                                           stream (20 deltas), each request of a connection after the other
 *   ask WAY BODY CONNECTIONS SECONDS        closed loop: each thread keeps one connection and asks again at once
 *       WAY        tcp:PORT, or unix:PATH, where %d in the path is the number of the thread
 *       BODY       file with the body of the request
 *       prints     requests, failures, seconds, median and 99th percentile in microseconds
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define USAGE                                                                                                       \
    "{\"input_tokens\":10,\"output_tokens\":5,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":0}"
static const char MESSAGE[] = "{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-opus-5-5\","
                              "\"content\":[{\"type\":\"text\",\"text\":\"ok\"}],\"stop_reason\":\"end_turn\","
                              "\"stop_sequence\":null,\"usage\":" USAGE "}";
static const char *const EVENTS[] = {
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":"
    "\"assistant\",\"model\":\"claude-opus-5-5\",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":" USAGE
    "}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\","
    "\"text\":\"\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\","
    "\"text\":\"some words of an answer \"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},"
    "\"usage\":{\"output_tokens\":5}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
};
#define DELTAS 20
#define MOST (1 << 20)

static char whole[2048], streamed[16384];
static int whole_size, streamed_size;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int put(int fd, const char *from, int size) {
    while (size > 0) {
        int n = (int)write(fd, from, size);
        if (n <= 0) return 0;
        from += n, size -= n;
    }
    return 1;
}

/* Reads one message: head, and a body of Content-Length or in chunks. Its size; 0: the connection ended. */
static int message(int fd, char *buffer, int most, char **body) {
    int have = 0, one = 1;
    for (;;) {
        if (have >= most - 1) return 0;
        setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
        int n = (int)read(fd, buffer + have, most - 1 - have);
        if (n <= 0) return 0;
        have += n;
        buffer[have] = 0;
        char *end = strstr(buffer, "\r\n\r\n");
        if (!end) continue;
        *body = end + 4;
        char kept = *end;
        *end = 0;
        char *length = strcasestr(buffer, "\r\ncontent-length:"), *chunked = strcasestr(buffer, "\r\ntransfer-encoding: chunked");
        int size = length ? atoi(length + 17) : 0;
        *end = kept;
        if (chunked) {
            if (buffer + have - *body >= 5 && !memcmp(buffer + have - 5, "0\r\n\r\n", 5)) return have;
        } else if (buffer + have - *body >= size) return have;
    }
}

/* ------------------------------------------------------------------------------------------------------- server */

static int wants_stream(const char *body) {
    const char *at = strstr(body, "\"stream\"");
    if (!at) return 0;
    at += 8;
    while (*at == ' ' || *at == ':') at++;
    return !strncmp(at, "true", 4);
}

static void *serve_one(void *given) {
    int fd = (int)(long)given, one = 1;
    char *buffer = malloc(MOST), *body;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    while (message(fd, buffer, MOST, &body)) {
        int stream = wants_stream(body);
        if (!put(fd, stream ? streamed : whole, stream ? streamed_size : whole_size)) break;
    }
    close(fd);
    free(buffer);
    return NULL;
}

static int serve(void) {
    whole_size = sprintf(whole, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                         (int)sizeof MESSAGE - 1, MESSAGE);
    char *to = streamed;
    to += sprintf(to, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < (int)(sizeof EVENTS / sizeof *EVENTS); i++)
        for (int times = i == 2 ? DELTAS : 1; times; times--) to += sprintf(to, "%x\r\n%s\r\n", (int)strlen(EVENTS[i]), EVENTS[i]);
    to += sprintf(to, "0\r\n\r\n");
    streamed_size = (int)(to - streamed);
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&at, size) || listen(fd, 1024)) return 1;
    getsockname(fd, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&small, 256 << 10);
    for (;;) {
        long accepted = accept(fd, NULL, NULL);
        pthread_t thread;
        if (accepted >= 0 && pthread_create(&thread, &small, serve_one, (void *)accepted)) close((int)accepted);
    }
}

/* ------------------------------------------------------------------------------------------------------ clients */

static const char *way;
static char *request;
static int request_size;
static double until;
#define MOST_TIMES 2000000
static float *times;
static atomic_int count, failures;

static int connected(int number) {
    int fd, one = 1;
    if (!strncmp(way, "tcp:", 4)) {
        struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(way + 4))};
        at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        fd = socket(AF_INET, SOCK_STREAM, 0);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (!connect(fd, (struct sockaddr *)&at, sizeof at)) return fd;
    } else {
        struct sockaddr_un at = {.sun_family = AF_UNIX};
        snprintf(at.sun_path, sizeof at.sun_path, way + 5, number);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (!connect(fd, (struct sockaddr *)&at, sizeof at)) return fd;
    }
    close(fd);
    return -1;
}

static void *ask_many(void *given) {
    int fd = -1;
    char *buffer = malloc(MOST), *body;
    while (now() < until) {
        double begun = now();
        if (fd < 0 && (fd = connected((int)(long)given)) < 0) {
            atomic_fetch_add(&failures, 1);
            usleep(1000);
            continue;
        }
        if (put(fd, request, request_size) && message(fd, buffer, MOST, &body) && !strncmp(buffer + 9, "200", 3)) {
            int place = atomic_fetch_add(&count, 1);
            if (place < MOST_TIMES) times[place] = (float)((now() - begun) * 1e6);
        } else {
            atomic_fetch_add(&failures, 1);
            close(fd);
            fd = -1;
        }
    }
    if (fd >= 0) close(fd);
    free(buffer);
    return NULL;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static int ask(char **arguments) {
    way = arguments[0];
    FILE *file = fopen(arguments[1], "r");
    if (!file) return 1;
    char *body = malloc(MOST);
    int size = (int)fread(body, 1, MOST - 1, file);
    request = malloc(size + 1024);
    request_size = sprintf(request,
                           "POST /v1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           "x-api-key: sk-bench-4f1c0b7e92aa4d6d8f0e31c5\r\nanthropic-version: 2023-06-01\r\nContent-Length: %d\r\n\r\n",
                           size);
    memcpy(request + request_size, body, size);
    request_size += size;
    int connections = atoi(arguments[2]);
    times = malloc(MOST_TIMES * sizeof *times);
    pthread_t threads[1024];
    if (connections > 1024) return 2;
    double begun = now();
    until = begun + atof(arguments[3]);
    for (long i = 0; i < connections; i++) pthread_create(&threads[i], NULL, ask_many, (void *)i);
    for (int i = 0; i < connections; i++) pthread_join(threads[i], NULL);
    double took = now() - begun;
    int done = count < MOST_TIMES ? count : MOST_TIMES;
    qsort(times, done, sizeof *times, by_size);
    printf("%d %d %.3f %.1f %.1f\n", done, failures, took, done ? times[done / 2] : 0, done ? times[done * 99 / 100] : 0);
    return 0;
}

int main(int given, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    if (given == 2 && !strcmp(arguments[1], "serve")) return serve();
    if (given == 6 && !strcmp(arguments[1], "ask")) return ask(arguments + 2);
    return 2;
}
