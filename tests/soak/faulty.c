/* A disk that fails: of the calls that write below one folder, the n-th and all later ones (a full disk), or the n-th
   alone (a bad sector), end with an error number. Loaded by LD_PRELOAD; faults.py arms it in a forked process. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long calls, from = -1;
static int number, lasting;

void faulty_arm(const char *below, long first, int error, int all_later) {
    strncpy(folder, below, sizeof folder - 1);
    calls = 0, from = first, number = error, lasting = all_later;
}

long faulty_calls(void) { return calls; }

/* Whether this call fails; counts it if it writes below the folder. */
static int fails(const char *path) {
    if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
    long call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    if (from < 0 || (lasting ? call < from : call != from)) return 0;
    errno = number;
    return 1;
}

static int file_fails(int file) {
    char link[64], path[PATH_MAX];
    int before = errno;
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return 0;
    path[length] = 0;
    return fails(path);
}

#define CALL(type, name, parameters, arguments, test)         \
    type name parameters {                                    \
        static type(*real) parameters;                        \
        if (!real) real = dlsym(RTLD_NEXT, #name);            \
        if (test) return -1;                                  \
        return real arguments;                                \
    }
CALL(ssize_t, write, (int f, const void *b, size_t n), (f, b, n), file_fails(f))
CALL(ssize_t, writev, (int f, const struct iovec *v, int n), (f, v, n), file_fails(f))
CALL(ssize_t, pwrite, (int f, const void *b, size_t n, off_t o), (f, b, n, o), file_fails(f))
CALL(ssize_t, pwrite64, (int f, const void *b, size_t n, off64_t o), (f, b, n, o), file_fails(f))
CALL(int, ftruncate, (int f, off_t n), (f, n), file_fails(f))
CALL(int, ftruncate64, (int f, off64_t n), (f, n), file_fails(f))
CALL(int, fsync, (int f), (f), file_fails(f))
CALL(int, rename, (const char *a, const char *b), (a, b), fails(b))
