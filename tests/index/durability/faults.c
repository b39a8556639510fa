/* Preloaded: dies at, or fails, the n-th call that makes something durable. SQLite's calls come through here too. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <unistd.h>

enum { BEFORE, AFTER, ERROR };
static int armed, counted, how, exchanges = 1;

void faults_arm(int at, int mode, int exchange) { armed = at; counted = 0; how = mode; exchanges = exchange; }
int faults_counted(void) { return counted; }

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

#define POINT(TYPE, NAME, ...)                                                  \
    int here = ++counted == armed;                                              \
    if (here && how == BEFORE) kill(getpid(), SIGKILL);                         \
    if (here && how == ERROR) { errno = EIO; return -1; }                       \
    int result = ((TYPE)next(NAME))(__VA_ARGS__);                               \
    if (here && how == AFTER) kill(getpid(), SIGKILL);                          \
    return result;

int fsync(int fd) { POINT(int (*)(int), "fsync", fd) }
int fdatasync(int fd) { POINT(int (*)(int), "fdatasync", fd) }
int rename(const char *from, const char *to) { POINT(int (*)(const char *, const char *), "rename", from, to) }
int renameat(int a, const char *from, int b, const char *to) {
    POINT(int (*)(int, const char *, int, const char *), "renameat", a, from, b, to)
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    if (!exchanges) { errno = EINVAL; return -1; }  /* as a file system that cannot exchange names */
    POINT(int (*)(int, const char *, int, const char *, unsigned), "renameat2", a, from, b, to, flags)
}
