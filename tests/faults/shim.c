/* Makes system calls of a process fail, or wait, or tell another time, as a page of
 * memory says that a test shares with it. Loaded with LD_PRELOAD.
 *
 * FAULTS_PAGE names the file of that page, FAULTS_BELOW the folder whose files are meant. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct page {
    int64_t write_errno, sync_errno, read_errno; /* 0: it works */
    int64_t sync_delay_ms;
    int64_t clock_offset_s;
    int64_t hits; /* calls that were made to fail or wait */
};

static struct page nothing;
static volatile struct page *page = &nothing;
static const char *below;

__attribute__((constructor)) static void open_page(void) {
    const char *name = getenv("FAULTS_PAGE");
    below = getenv("FAULTS_BELOW");
    int file = name == NULL || below == NULL ? -1 : open(name, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    void *found = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found != MAP_FAILED)
        page = found;
}

static int is_meant(int file) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 0 && strncmp(path, below, strlen(below)) == 0;
}

static int fails(int64_t number, int file) {
    if (number == 0 || !is_meant(file))
        return 0;
    __atomic_add_fetch(&page->hits, 1, __ATOMIC_RELAXED);
    errno = (int)number;
    return 1;
}

static int sync_fails(int file) {
    struct timespec delay = {page->sync_delay_ms / 1000, page->sync_delay_ms % 1000 * 1000000};
    if ((delay.tv_sec || delay.tv_nsec) && is_meant(file)) {
        __atomic_add_fetch(&page->hits, 1, __ATOMIC_RELAXED);
        nanosleep(&delay, NULL);
    }
    return fails(page->sync_errno, file);
}

ssize_t write(int file, const void *data, size_t size) {
    return fails(page->write_errno, file) ? -1 : syscall(SYS_write, file, data, size);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    return fails(page->write_errno, file) ? -1 : syscall(SYS_pwrite64, file, data, size, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) {
    return pwrite64(file, data, size, offset);
}

ssize_t read(int file, void *data, size_t size) {
    return fails(page->read_errno, file) ? -1 : syscall(SYS_read, file, data, size);
}

ssize_t pread64(int file, void *data, size_t size, off64_t offset) {
    return fails(page->read_errno, file) ? -1 : syscall(SYS_pread64, file, data, size, offset);
}

ssize_t pread(int file, void *data, size_t size, off_t offset) {
    return pread64(file, data, size, offset);
}

int fsync(int file) { return sync_fails(file) ? -1 : (int)syscall(SYS_fsync, file); }

int fdatasync(int file) { return sync_fails(file) ? -1 : (int)syscall(SYS_fdatasync, file); }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += page->clock_offset_s;
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result != NULL)
        *result = now.tv_sec;
    return now.tv_sec;
}
