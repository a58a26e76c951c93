/* SPDX-License-Identifier: MIT */
/* tree TASKS THREADS: that many processes with that many threads each, all asleep. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *sleep_on(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void threads(int count)
{
    pthread_attr_t small;
    pthread_t thread;

    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    for (int i = 1; i < count; i++)
        if (pthread_create(&thread, &small, sleep_on, NULL))
            exit(1);
}

int main(int argc, char **argv)
{
    int tasks = argc > 2 ? atoi(argv[1]) : 1, count = argc > 2 ? atoi(argv[2]) : 1;

    for (int i = 1; i < tasks; i++)
        if (fork() == 0) {
            threads(count);
            sleep_on(NULL);
        }
    threads(count);
    sleep(1);
    puts("READY");
    fflush(stdout);
    sleep_on(NULL);
    return 0;
}
