// What a C program does with a directory that it has open: `handles DIRECTORY STEP PATH [PATH]...`.
// STEP is open, mkdir, unlink, rmdir, lstat, readlink, symlink (TARGET first), rename, link; a line for each.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int opened(int directory, const char *path) {
    char text[64];
    int file = openat(directory, path, O_RDONLY);
    if (file < 0)
        return -1;
    ssize_t length = read(file, text, sizeof text);
    if (length < 0)
        return -1;
    printf("%.*s\n", (int)length, text);
    return close(file) + 1;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return 2;
    int directory = open(argv[1], O_RDONLY | O_DIRECTORY);
    if (directory < 0)
        return perror(argv[1]), 1;
    for (int i = 2; i + 1 < argc; i++) {
        const char *step = argv[i], *path = argv[++i];
        struct stat stat;
        char target[64];
        ssize_t length;
        int done = -1;
        if (!strcmp(step, "open"))
            done = opened(directory, path);
        else if (!strcmp(step, "mkdir"))
            done = mkdirat(directory, path, 0777);
        else if (!strcmp(step, "unlink"))
            done = unlinkat(directory, path, 0);
        else if (!strcmp(step, "rmdir"))
            done = unlinkat(directory, path, AT_REMOVEDIR);
        else if (!strcmp(step, "lstat")) {
            done = fstatat(directory, path, &stat, AT_SYMLINK_NOFOLLOW);
            if (done == 0)
                done = 1, puts(S_ISLNK(stat.st_mode) ? "link" : S_ISDIR(stat.st_mode) ? "dir" : "file");
        } else if (!strcmp(step, "readlink")) {
            // Shorter than what is there, too.
            length = readlinkat(directory, path, target, 5);
            if (length >= 0)
                done = 1, printf("%.*s\n", (int)length, target);
        } else if (i + 1 < argc && !strcmp(step, "symlink"))
            done = symlinkat(path, directory, argv[++i]);
        else if (i + 1 < argc && !strcmp(step, "rename"))
            done = renameat(directory, path, directory, argv[++i]);
        else if (i + 1 < argc && !strcmp(step, "link"))
            done = linkat(directory, path, directory, argv[++i], 0);
        else
            return 2;
        if (done <= 0)
            puts(done == 0 ? "ok" : strerror(errno));
    }
    return 0;
}
