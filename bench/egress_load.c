/* Load for bench/egress.py: a server that answers at once, and clients that ask through a proxy, all in blocking threads.
 *
 *   serve CERT KEY                          prints the ports: without TLS, with TLS
 *   ask WAY HOST PORT CA CONNECTIONS SECONDS KEEP [COLD]
 *       WAY        direct, tcp:PORT (a proxy), or unix:PATH (a proxy)
 *       CA         PEM file of whom to trust; "-" for no TLS
 *       KEEP       1: each thread keeps its connection; 0: a new one (tunnel and TLS included) for each request
 *       COLD       1: HOST gets a number in front, another one for each connection
 *       prints     requests, failures, seconds, median and 99th percentile in microseconds
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
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

static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n{\"ok\":true,\"items\":[1,2,3]}";
static const char BODY[] = "{\"question\":\"what is it?\"}";

typedef struct {
    int fd;
    SSL *tls;
} Line;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Acknowledges at once: otherwise a proxy that leaves Nagle's algorithm on waits 40 ms for nothing. */
static int get(Line *line, char *to, int most) {
    int one = 1;
    setsockopt(line->fd, IPPROTO_TCP, TCP_QUICKACK, &one, sizeof one);
    return line->tls ? SSL_read(line->tls, to, most) : (int)read(line->fd, to, most);
}

static int put(Line *line, const char *from, int size) {
    return line->tls ? SSL_write(line->tls, from, size) == size : write(line->fd, from, size) == size;
}

/* Reads one message: head, and a body of Content-Length or in chunks. 0: the connection ended. */
static int message(Line *line, char *buffer, int most) {
    int have = 0;
    for (;;) {
        int n = get(line, buffer + have, most - 1 - have);
        if (n <= 0) return 0;
        have += n;
        buffer[have] = 0;
        char *end = strstr(buffer, "\r\n\r\n");
        if (!end) continue;
        char *length = strcasestr(buffer, "content-length:");
        char *chunked = strcasestr(buffer, "transfer-encoding: chunked");
        if (chunked && chunked < end) {
            if (!memcmp(buffer + have - 5, "0\r\n\r\n", 5) && have > end + 4 - buffer) return have;
            continue;
        }
        int body = length && length < end ? atoi(length + 15) : 0;
        if (have >= end + 4 - buffer + body) return have;
    }
}

static int tcp(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&at, sizeof at)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int local(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&at, sizeof at)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* ------------------------------------------------------------------------------------------------------- server */

static SSL_CTX *server_context;

typedef struct {
    int fd;
    int secure;
} Accepted;

static void *serve_one(void *given) {
    Accepted accepted = *(Accepted *)given;
    free(given);
    Line line = {accepted.fd, NULL};
    char buffer[65536];
    int one = 1;
    setsockopt(line.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (accepted.secure) {
        line.tls = SSL_new(server_context);
        SSL_set_fd(line.tls, line.fd);
        if (SSL_accept(line.tls) != 1) goto over;
    }
    while (message(&line, buffer, sizeof buffer) && put(&line, ANSWER, sizeof ANSWER - 1)) {
    }
over:
    if (line.tls) SSL_free(line.tls);
    close(line.fd);
    ERR_clear_error();
    return NULL;
}

typedef struct {
    int fd;
    int secure;
} Listening;

static void *serve_all(void *given) {
    Listening *listening = given;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&small, 256 << 10);
    for (;;) {
        int fd = accept(listening->fd, NULL, NULL);
        if (fd < 0) continue;
        Accepted *accepted = malloc(sizeof *accepted);
        *accepted = (Accepted){fd, listening->secure};
        pthread_t thread;
        if (pthread_create(&thread, &small, serve_one, accepted)) close(fd);
    }
    return NULL;
}

static int listening_port(int fd) {
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)&at, size) || listen(fd, 1024)) exit(1);
    getsockname(fd, (struct sockaddr *)&at, &size);
    return ntohs(at.sin_port);
}

static int serve(char **arguments) {
    server_context = SSL_CTX_new(TLS_server_method());
    if (SSL_CTX_use_certificate_chain_file(server_context, arguments[0]) != 1) return 1;
    if (SSL_CTX_use_PrivateKey_file(server_context, arguments[1], SSL_FILETYPE_PEM) != 1) return 1;
    static Listening both[2];
    int ports[2];
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) {
        both[i] = (Listening){socket(AF_INET, SOCK_STREAM, 0), i};
        ports[i] = listening_port(both[i].fd);
        pthread_create(&threads[i], NULL, serve_all, &both[i]);
    }
    printf("%d %d\n", ports[0], ports[1]);
    fflush(stdout);
    pthread_join(threads[0], NULL);
    return 0;
}

/* ------------------------------------------------------------------------------------------------------ clients */

static const char *way, *host;
static int port, keep, cold;
static double until;
static SSL_CTX *client_context;
static atomic_int failures, numbers;
#define MOST 2000000
static float *times;
static atomic_int count;

static int open_line(Line *line) {
    char buffer[4096], name[256];
    *line = (Line){-1, NULL};
    if (cold) snprintf(name, sizeof name, "h%d-%d.%s", (int)getpid(), atomic_fetch_add(&numbers, 1), host);
    else snprintf(name, sizeof name, "%s", host);
    int direct = !strcmp(way, "direct");
    line->fd = direct ? tcp(port) : !strncmp(way, "tcp:", 4) ? tcp(atoi(way + 4)) : local(way + 5);
    if (line->fd < 0) return 0;
    if (!direct) {
        int size = snprintf(buffer, sizeof buffer, "CONNECT %s:%d HTTP/1.1\r\nHost: %s:%d\r\n\r\n", name, port, name, port);
        if (!put(line, buffer, size)) return 0;
        int have = message(line, buffer, sizeof buffer);
        if (!have || strncmp(buffer + 9, "200", 3)) return 0;
    }
    if (client_context) {
        line->tls = SSL_new(client_context);
        SSL_set_fd(line->tls, line->fd);
        SSL_set_tlsext_host_name(line->tls, name);
        SSL_set1_host(line->tls, name);
        if (SSL_connect(line->tls) != 1) return 0;
    }
    if (cold) snprintf(buffer, sizeof buffer, "%s", name);
    return 1;
}

static void close_line(Line *line) {
    if (line->tls) SSL_free(line->tls);
    if (line->fd >= 0) close(line->fd);
    ERR_clear_error();
    *line = (Line){-1, NULL};
}

static void *ask_many(void *unused) {
    Line line = {-1, NULL};
    char request[1024], buffer[16384];
    (void)unused;
    while (now() < until) {
        double begun = now();
        if (line.fd < 0 && !open_line(&line)) {
            atomic_fetch_add(&failures, 1);
            close_line(&line);
            usleep(1000);
            continue;
        }
        const char *name = line.tls ? SSL_get_servername(line.tls, TLSEXT_NAMETYPE_host_name) : host;
        int size = snprintf(request, sizeof request,
                            "POST /v1/things HTTP/1.1\r\nHost: %s:%d\r\nAuthorization: Bearer PLACEHOLDER\r\n"
                            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
                            name, port, (int)sizeof BODY - 1, BODY);
        if (put(&line, request, size) && message(&line, buffer, sizeof buffer) && !strncmp(buffer + 9, "200", 3)) {
            int place = atomic_fetch_add(&count, 1);
            if (place < MOST) times[place] = (now() - begun) * 1e6;
            if (!keep) close_line(&line);
        } else {
            atomic_fetch_add(&failures, 1);
            close_line(&line);
        }
    }
    close_line(&line);
    return NULL;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static int ask(int given, char **arguments) {
    if (given < 7) return 2;
    way = arguments[0], host = arguments[1], port = atoi(arguments[2]);
    int connections = atoi(arguments[4]);
    double seconds = atof(arguments[5]);
    keep = atoi(arguments[6]), cold = given > 7 && atoi(arguments[7]);
    if (strcmp(arguments[3], "-")) {
        client_context = SSL_CTX_new(TLS_client_method());
        if (SSL_CTX_load_verify_locations(client_context, arguments[3], NULL) != 1) return 1;
        SSL_CTX_set_verify(client_context, SSL_VERIFY_PEER, NULL);
        SSL_CTX_set_session_cache_mode(client_context, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_alpn_protos(client_context, (const unsigned char *)"\x08http/1.1", 9);
    }
    times = malloc(MOST * sizeof *times);
    double begun = now();
    until = begun + seconds;
    pthread_t threads[1024];
    for (int i = 0; i < connections; i++) pthread_create(&threads[i], NULL, ask_many, NULL);
    for (int i = 0; i < connections; i++) pthread_join(threads[i], NULL);
    double took = now() - begun;
    int done = count < MOST ? count : MOST;
    qsort(times, done, sizeof *times, by_size);
    printf("%d %d %.3f %.1f %.1f\n", done, failures, took, done ? times[done / 2] : 0, done ? times[done * 99 / 100] : 0);
    return 0;
}

int main(int given, char **arguments) {
    signal(SIGPIPE, SIG_IGN);
    if (given > 3 && !strcmp(arguments[1], "serve")) return serve(arguments + 2);
    if (given > 2 && !strcmp(arguments[1], "ask")) return ask(given - 2, arguments + 2);
    return 2;
}
