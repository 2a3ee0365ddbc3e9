// What wasi-libc does on start: arguments, environment, buffered stdio.
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    puts("hello from c");
    for (int i = 0; i < argc; i++)
        printf("arg: %s\n", argv[i]);
    const char *path = getenv("PATH");
    printf("PATH: %s\n", path ? path : "(none)");
    return 0;
}
