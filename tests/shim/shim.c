/*
 * A library that is loaded before libc (LD_PRELOAD) into the server under test, and stands between it and the disk.
 *
 *   SHIM_DIRECTORY  the directory whose files are meant, without a symbolic link in its path
 *   SHIM_TRACE      a file to which it appends, in one total order, what changes those files, each sync of them, and
 *                   every byte that sockets bring and take: what was acknowledged before which operation of the disk
 *   SHIM_CONTROL    a file that says which calls fail, and counts them; it may be changed at any time
 *   SHIM_SKIP_SYNC  set: a sync succeeds without being made, and the trace says so
 *
 * One lock is held during each call and its record: the order in the trace is the order in which the calls were made.
 * Names that end in "-shm" are left out: SQLite makes the index of its log anew, and maps it.
 *
 * Files are found by their descriptor's path in /proc, so that duplicated and inherited descriptors are seen as well.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* tests/shim/trace.rs has the same numbers. */
enum kind {
    OPENED = 1,      /* detail: flags; data: path. offset: 1 for a file that was not there, 2 for one that was emptied */
    CLOSED = 2,
    WRITTEN = 3,     /* offset; data: bytes */
    RESIZED = 4,     /* offset: the new size */
    ALLOCATED = 5,   /* offset: the size that the file has at least now */
    SYNCED = 6,      /* detail: 1 for a directory */
    SYNC_SKIPPED = 7,
    UNLINKED = 8,    /* data: path */
    RENAMED = 9,     /* data: path, NUL, path */
    SENT = 10,       /* detail: port of the peer; data: bytes */
    RECEIVED = 11,   /* the same */
    NOT_MODELLED = 12, /* data: what */
    ACCEPTED = 13,   /* detail: port of the peer */
    STARTED = 14,    /* a process: what others had not synced is in the cache of the kernel still */
};

struct record {
    uint32_t kind;
    int32_t fd;
    int32_t error; /* errno; 0 for success */
    uint32_t detail;
    uint64_t inode;
    uint64_t offset;
    uint64_t length; /* of the data that follow */
};

/* Classes of calls that can fail. */
enum class { WRITE, SYNC, OPEN, RESIZE, CLASSES };

/* The control file. tests/shim/mod.rs has the same layout. */
struct control {
    struct {
        uint32_t every; /* each n-th call fails; 0 for none */
        uint32_t error;
        uint32_t calls; /* since `every` was set */
        uint32_t failed;
    } of[CLASSES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char directory[PATH_MAX];
static size_t directory_length;
static int trace = -1;
static int skip_sync;
static struct control *control;

#define REAL(name) ((__typeof__(&name))real(#name))
/* The functions are looked up once. */
#define NEXT(name)                                                                                                     \
    ({                                                                                                                 \
        static __typeof__(&name) next;                                                                                 \
        if (!next) {                                                                                                   \
            next = REAL(name);                                                                                         \
        }                                                                                                              \
        next;                                                                                                          \
    })

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) {
        static const char message[] = "shim: libc has no such function\n";
        syscall(SYS_write, 2, message, sizeof message - 1);
        abort();
    }
    return found;
}

static void record(struct record head, const struct iovec *data, int count);

__attribute__((constructor)) static void start(void) {
    const char *name = getenv("SHIM_DIRECTORY");
    if (name) {
        strncpy(directory, name, sizeof directory - 1);
        directory_length = strlen(directory);
    }
    if ((name = getenv("SHIM_TRACE"))) {
        trace = NEXT(open)(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (trace < 0) {
            abort();
        }
    }
    if ((name = getenv("SHIM_CONTROL"))) {
        int fd = NEXT(open)(name, O_RDWR | O_CLOEXEC);
        control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (control == MAP_FAILED) {
            abort();
        }
        NEXT(close)(fd);
    }
    skip_sync = getenv("SHIM_SKIP_SYNC") != NULL;
    record((struct record){.kind = STARTED}, NULL, 0);
}

static void record(struct record head, const struct iovec *data, int count) {
    if (trace < 0) {
        return;
    }
    struct iovec all[1 + IOV_MAX];
    size_t total = sizeof head;
    all[0] = (struct iovec){&head, sizeof head};
    head.length = 0;
    for (int i = 0; i < count; i++) {
        all[1 + i] = data[i];
        head.length += data[i].iov_len;
    }
    total += head.length;
    if (count + 1 > IOV_MAX || NEXT(writev)(trace, all, count + 1) != (ssize_t)total) {
        abort();
    }
}

static void record_path(struct record head, const char *path) {
    struct iovec data = {(void *)path, strlen(path)};
    record(head, &data, 1);
}

/* Bytes that a call has moved: as many of `data` as it says. */
static void record_moved(struct record head, const struct iovec *data, int count, ssize_t moved) {
    struct iovec cut[IOV_MAX];
    size_t left = moved > 0 ? (size_t)moved : 0;
    int used = 0;
    for (int i = 0; i < count && left > 0 && i < IOV_MAX; i++) {
        cut[used] = data[i];
        if (cut[used].iov_len > left) {
            cut[used].iov_len = left;
        }
        left -= cut[used++].iov_len;
    }
    record(head, cut, used);
}

static int is_meant(const char *path) {
    size_t length = strlen(path);
    return directory_length && strncmp(path, directory, directory_length) == 0 &&
           (path[directory_length] == '/' || path[directory_length] == 0) &&
           !(length > 4 && strcmp(path + length - 4, "-shm") == 0);
}

enum what { OTHER, MEANT_FILE, MEANT_DIRECTORY, SOCKET };

static enum what look(int fd, struct stat *status) {
    if (fstat(fd, status) != 0) {
        return OTHER;
    }
    if (S_ISSOCK(status->st_mode)) {
        return SOCKET;
    }
    if (!S_ISREG(status->st_mode) && !S_ISDIR(status->st_mode)) {
        return OTHER;
    }
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) {
        return OTHER;
    }
    path[length] = 0;
    static const char deleted[] = " (deleted)";
    if (status->st_nlink == 0 && length > (ssize_t)sizeof deleted) {
        path[length - (ssize_t)sizeof deleted + 1] = 0;
    }
    if (!is_meant(path)) {
        return OTHER;
    }
    return S_ISDIR(status->st_mode) ? MEANT_DIRECTORY : MEANT_FILE;
}

/* An errno with which this call must fail, or 0. */
static int fault(enum class class) {
    if (!control) {
        return 0;
    }
    uint32_t every = __atomic_load_n(&control->of[class].every, __ATOMIC_ACQUIRE);
    if (every == 0) {
        return 0;
    }
    uint32_t call = __atomic_add_fetch(&control->of[class].calls, 1, __ATOMIC_RELAXED);
    if (call % every != 0) {
        return 0;
    }
    __atomic_add_fetch(&control->of[class].failed, 1, __ATOMIC_RELAXED);
    return (int)control->of[class].error;
}

static uint32_t peer_port(int fd) {
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &length) != 0) {
        return 0;
    }
    if (peer.ss_family == AF_INET) {
        return ntohs(((struct sockaddr_in *)&peer)->sin_port);
    }
    if (peer.ss_family == AF_INET6) {
        return ntohs(((struct sockaddr_in6 *)&peer)->sin6_port);
    }
    return 0;
}

static void not_modelled(const char *what) {
    record_path((struct record){.kind = NOT_MODELLED}, what);
}

/* ---- Calls, from before they are made until after ---- */

/* A call between `before_...`, which takes the lock, and `after`, which lets go of it. */
struct call {
    enum what what;
    struct stat status;
    struct record record;
    int flags;
};

static struct call before(int fd) {
    struct call call = {.what = OTHER};
    pthread_mutex_lock(&lock);
    call.what = look(fd, &call.status);
    call.record.fd = fd;
    call.record.inode = call.what == OTHER ? 0 : call.status.st_ino;
    return call;
}

/* Gives the result of a call, with its errno, once the lock is free. */
static ssize_t after(ssize_t done, int error) {
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

/* `offset` is -1 for a write at the descriptor's position. */
static struct call before_write(int fd, off_t offset) {
    struct call call = before(fd);
    if (call.what == MEANT_FILE) {
        call.flags = fcntl(fd, F_GETFL);
        call.record.kind = WRITTEN;
        call.record.offset = (uint64_t)(call.flags & O_APPEND ? call.status.st_size
                                        : offset < 0          ? lseek(fd, 0, SEEK_CUR)
                                                              : offset);
        call.record.error = fault(WRITE);
    } else if (call.what == SOCKET) {
        call.record.kind = SENT;
        call.record.detail = peer_port(fd);
    }
    return call;
}

static ssize_t after_write(struct call *call, const struct iovec *data, int count, ssize_t done) {
    int error = call->record.error ? call->record.error : done < 0 ? errno : 0;
    if (call->what == MEANT_FILE) {
        call->record.error = error;
        record_moved(call->record, data, count, done);
        if (!error && call->flags & (O_SYNC | O_DSYNC)) {
            call->record.kind = skip_sync ? SYNC_SKIPPED : SYNCED;
            record(call->record, NULL, 0);
        }
    } else if (call->what == SOCKET && done > 0 && call->record.detail) {
        record_moved(call->record, data, count, done);
    }
    return after(done, error);
}

/* Sockets of the server do not block, so the lock is held for a moment only; others are left alone. */
static int is_recorded(int fd, int flags) {
    struct stat status;
    return trace >= 0 && !(flags & MSG_PEEK) && fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) &&
           peer_port(fd) != 0 && fcntl(fd, F_GETFL) & O_NONBLOCK;
}

static struct call before_read(int fd) {
    struct call call = before(fd);
    call.record.kind = RECEIVED;
    call.record.detail = peer_port(fd);
    return call;
}

static ssize_t after_read(struct call *call, const struct iovec *data, int count, ssize_t done) {
    int error = done < 0 ? errno : 0;
    if (done > 0 && call->record.detail) {
        record_moved(call->record, data, count, done);
    }
    return after(done, error);
}

static struct call before_change(enum class class, int fd, enum kind kind, off_t size) {
    struct call call = before(fd);
    if (call.what == MEANT_FILE || call.what == MEANT_DIRECTORY) {
        call.record.kind = kind;
        call.record.offset = (uint64_t)size;
        call.record.detail = call.what == MEANT_DIRECTORY;
        call.record.error = fault(class);
    }
    return call;
}

static int after_change(struct call *call, int done) {
    int error = call->record.error ? call->record.error : done < 0 ? errno : 0;
    if (call->record.kind) {
        call->record.error = error;
        record(call->record, NULL, 0);
    }
    return (int)after(done, error);
}

/* ---- Bytes of files and sockets ---- */

/* What is not watched does without the lock. So a signal's handler may write to its pipe while the thread that it
 * interrupted holds the lock. */
static int is_watched(int fd) {
    struct stat status;
    enum what what = look(fd, &status);
    return what == SOCKET ? peer_port(fd) != 0 : what != OTHER;
}

#define WRITE_CALL(fd, offset, data, count, made)                                                                      \
    if (!is_watched(fd)) {                                                                                             \
        return made;                                                                                                   \
    }                                                                                                                  \
    struct call call = before_write(fd, offset);                                                                       \
    return after_write(&call, data, count, call.record.error ? -1 : (made))

ssize_t write(int fd, const void *bytes, size_t size) {
    struct iovec data = {(void *)bytes, size};
    WRITE_CALL(fd, -1, &data, 1, NEXT(write)(fd, bytes, size));
}

ssize_t pwrite(int fd, const void *bytes, size_t size, off_t offset) {
    struct iovec data = {(void *)bytes, size};
    WRITE_CALL(fd, offset, &data, 1, NEXT(pwrite)(fd, bytes, size, offset));
}

ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t offset) {
    struct iovec data = {(void *)bytes, size};
    WRITE_CALL(fd, offset, &data, 1, NEXT(pwrite64)(fd, bytes, size, offset));
}

ssize_t writev(int fd, const struct iovec *data, int count) {
    WRITE_CALL(fd, -1, data, count, NEXT(writev)(fd, data, count));
}

ssize_t pwritev(int fd, const struct iovec *data, int count, off_t offset) {
    WRITE_CALL(fd, offset, data, count, NEXT(pwritev)(fd, data, count, offset));
}

ssize_t pwritev64(int fd, const struct iovec *data, int count, off64_t offset) {
    WRITE_CALL(fd, offset, data, count, NEXT(pwritev64)(fd, data, count, offset));
}

ssize_t send(int fd, const void *bytes, size_t size, int flags) {
    struct iovec data = {(void *)bytes, size};
    WRITE_CALL(fd, -1, &data, 1, NEXT(send)(fd, bytes, size, flags));
}

ssize_t sendto(int fd, const void *bytes, size_t size, int flags, const struct sockaddr *to, socklen_t length) {
    struct iovec data = {(void *)bytes, size};
    WRITE_CALL(fd, -1, &data, 1, NEXT(sendto)(fd, bytes, size, flags, to, length));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    WRITE_CALL(fd, -1, message->msg_iov, (int)message->msg_iovlen, NEXT(sendmsg)(fd, message, flags));
}

#define READ_CALL(fd, flags, data, count, made)                                                                        \
    if (!is_recorded(fd, flags)) {                                                                                     \
        return made;                                                                                                   \
    }                                                                                                                  \
    struct call call = before_read(fd);                                                                                \
    return after_read(&call, data, count, made)

ssize_t read(int fd, void *bytes, size_t size) {
    struct iovec data = {bytes, size};
    READ_CALL(fd, 0, &data, 1, NEXT(read)(fd, bytes, size));
}

ssize_t readv(int fd, const struct iovec *data, int count) {
    READ_CALL(fd, 0, data, count, NEXT(readv)(fd, data, count));
}

ssize_t recv(int fd, void *bytes, size_t size, int flags) {
    struct iovec data = {bytes, size};
    READ_CALL(fd, flags, &data, 1, NEXT(recv)(fd, bytes, size, flags));
}

ssize_t recvfrom(int fd, void *bytes, size_t size, int flags, struct sockaddr *from, socklen_t *length) {
    struct iovec data = {bytes, size};
    READ_CALL(fd, flags, &data, 1, NEXT(recvfrom)(fd, bytes, size, flags, from, length));
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
    READ_CALL(fd, flags, message->msg_iov, (int)message->msg_iovlen, NEXT(recvmsg)(fd, message, flags));
}

int accept4(int fd, struct sockaddr *peer, socklen_t *length, int flags) {
    pthread_mutex_lock(&lock);
    int done = NEXT(accept4)(fd, peer, length, flags);
    int error = done < 0 ? errno : 0;
    if (done >= 0) {
        record((struct record){.kind = ACCEPTED, .fd = done, .detail = peer_port(done)}, NULL, 0);
    }
    return (int)after(done, error);
}

/* ---- Sizes and syncs ---- */

#define CHANGE_CALL(class, fd, kind, size, made)                                                                       \
    struct call call = before_change(class, fd, kind, size);                                                           \
    return after_change(&call, call.record.error ? -1 : (made))

int ftruncate(int fd, off_t size) {
    CHANGE_CALL(RESIZE, fd, RESIZED, size, NEXT(ftruncate)(fd, size));
}

int ftruncate64(int fd, off64_t size) {
    CHANGE_CALL(RESIZE, fd, RESIZED, size, NEXT(ftruncate64)(fd, size));
}

/* Of the modes of fallocate only the plain one is in the model. */
int fallocate(int fd, int mode, off_t offset, off_t length) {
    if (mode) {
        not_modelled("fallocate with a mode");
    }
    CHANGE_CALL(RESIZE, fd, ALLOCATED, offset + length, NEXT(fallocate)(fd, mode, offset, length));
}

/* Returns its error instead of setting errno. */
int posix_fallocate(int fd, off_t offset, off_t length) {
    struct call call = before_change(RESIZE, fd, ALLOCATED, offset + length);
    int error = call.record.error ? call.record.error : NEXT(posix_fallocate)(fd, offset, length);
    errno = error;
    after_change(&call, error ? -1 : 0);
    return error;
}

static int synchronize(int fd, int (*made)(int)) {
    struct call call = before_change(SYNC, fd, skip_sync ? SYNC_SKIPPED : SYNCED, 0);
    int skipped = skip_sync && call.record.kind;
    return after_change(&call, call.record.error ? -1 : skipped ? 0 : made(fd));
}

int fsync(int fd) {
    return synchronize(fd, NEXT(fsync));
}

int fdatasync(int fd) {
    return synchronize(fd, NEXT(fdatasync));
}

/* sync_file_range promises nothing about sizes or the disk's cache. It is not seen, and so counts as not called. */

/* ---- Names ---- */

/* The path from the root, of a name that is relative to a directory. */
static void absolute(int at, const char *name, char *path) {
    char link[64];
    ssize_t length = 0;
    path[0] = 0;
    if (name[0] != '/') {
        if (at == AT_FDCWD) {
            length = getcwd(path, PATH_MAX) ? (ssize_t)strlen(path) : 0;
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", at);
            length = readlink(link, path, PATH_MAX - 1);
            length = length < 0 ? 0 : length;
        }
        path[length++] = '/';
    }
    snprintf(path + length, (size_t)(PATH_MAX - length), "%s", name);
}

static int open_at(int at, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    absolute(at, name, path);
    if (!is_meant(path)) {
        return NEXT(openat)(at, name, flags, mode);
    }
    pthread_mutex_lock(&lock);
    struct stat old, status;
    int there = stat(path, &old) == 0;
    int writes = (flags & O_ACCMODE) != O_RDONLY;
    int error = writes ? fault(OPEN) : 0;
    int fd = error ? -1 : NEXT(openat)(at, name, flags, mode);
    error = error ? error : fd < 0 ? errno : 0;
    struct record entry = {.kind = OPENED, .fd = fd, .error = error, .detail = (uint32_t)flags};
    if (fd >= 0 && fstat(fd, &status) == 0) {
        entry.inode = status.st_ino;
        entry.offset = !there ? 1 : flags & O_TRUNC ? 2 : 0;
    }
    record_path(entry, path);
    return (int)after(fd, error);
}

/* The mode is there only if a file may be made. */
#define MODE(flags)                                                                                                    \
    mode_t mode = 0;                                                                                                   \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                                           \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode = va_arg(list, mode_t);                                                                                   \
        va_end(list);                                                                                                  \
    }

int open(const char *name, int flags, ...) {
    MODE(flags)
    return open_at(AT_FDCWD, name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    MODE(flags)
    return open_at(AT_FDCWD, name, flags | O_LARGEFILE, mode);
}

int openat(int at, const char *name, int flags, ...) {
    MODE(flags)
    return open_at(at, name, flags, mode);
}

int openat64(int at, const char *name, int flags, ...) {
    MODE(flags)
    return open_at(at, name, flags | O_LARGEFILE, mode);
}

int creat(const char *name, mode_t mode) {
    return open_at(AT_FDCWD, name, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

int close(int fd) {
    struct call call = before(fd);
    if (call.what == MEANT_FILE) {
        call.record.kind = CLOSED;
        record(call.record, NULL, 0);
    }
    int done = NEXT(close)(fd);
    return (int)after(done, done < 0 ? errno : 0);
}

static int unlink_at(int at, const char *name, int flags) {
    char path[PATH_MAX];
    absolute(at, name, path);
    if (!is_meant(path)) {
        return NEXT(unlinkat)(at, name, flags);
    }
    pthread_mutex_lock(&lock);
    struct stat status;
    uint64_t inode = stat(path, &status) == 0 ? status.st_ino : 0;
    int done = NEXT(unlinkat)(at, name, flags);
    int error = done < 0 ? errno : 0;
    record_path((struct record){.kind = UNLINKED, .error = error, .inode = inode}, path);
    return (int)after(done, error);
}

int unlink(const char *name) {
    return unlink_at(AT_FDCWD, name, 0);
}

int unlinkat(int at, const char *name, int flags) {
    return unlink_at(at, name, flags);
}

int remove(const char *name) {
    return unlink_at(AT_FDCWD, name, 0);
}

static int rename_at(int at, const char *from, int to_at, const char *to, unsigned flags) {
    char from_path[PATH_MAX], to_path[PATH_MAX];
    absolute(at, from, from_path);
    absolute(to_at, to, to_path);
    if (!is_meant(from_path) && !is_meant(to_path)) {
        return NEXT(renameat2)(at, from, to_at, to, flags);
    }
    pthread_mutex_lock(&lock);
    struct stat status;
    uint64_t inode = stat(from_path, &status) == 0 ? status.st_ino : 0;
    int done = NEXT(renameat2)(at, from, to_at, to, flags);
    int error = done < 0 ? errno : 0;
    if (flags & RENAME_EXCHANGE) {
        not_modelled("an exchange of names");
    }
    struct iovec both[] = {{from_path, strlen(from_path) + 1}, {to_path, strlen(to_path)}};
    record((struct record){.kind = RENAMED, .error = error, .inode = inode}, both, 2);
    return (int)after(done, error);
}

int rename(const char *from, const char *to) {
    return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int at, const char *from, int to_at, const char *to) {
    return rename_at(at, from, to_at, to, 0);
}

int renameat2(int at, const char *from, int to_at, const char *to, unsigned flags) {
    return rename_at(at, from, to_at, to, flags);
}

/* ---- What would go past the trace ---- */

static void check_meant(int fd, const char *what) {
    struct call call = before(fd);
    if (call.what == MEANT_FILE) {
        not_modelled(what);
    }
    pthread_mutex_unlock(&lock);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) {
    if (fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED)) {
        check_meant(fd, "a writable mapping");
    }
    return NEXT(mmap)(address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset) {
    if (fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED)) {
        check_meant(fd, "a writable mapping");
    }
    return NEXT(mmap64)(address, length, protection, flags, fd, offset);
}

ssize_t copy_file_range(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t length, unsigned flags) {
    check_meant(out, "copy_file_range");
    return NEXT(copy_file_range)(in, in_offset, out, out_offset, length, flags);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t count) {
    check_meant(out, "sendfile");
    return NEXT(sendfile)(out, in, offset, count);
}
