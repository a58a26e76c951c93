/* SPDX-License-Identifier: MIT */
/*
 * traffic server PORT: answers each byte on one connection with the same byte.
 * traffic client PORT FILE: holds an established connection and FILE, which it has unlinked while
 * another name of it, FILE.kept, remains (CRIU then makes a third one for the time of the dump);
 * says "tick" for each byte that came back and could be appended to the file.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void serve(int listener)
{
    int peer = accept(listener, NULL, NULL);
    char byte;

    while (read(peer, &byte, 1) == 1)
        if (write(peer, &byte, 1) != 1)
            return;
}

static void talk(int peer, int file)
{
    struct timespec pause = { .tv_nsec = 200 * 1000 * 1000 };
    char byte = 'x';

    for (;;) {
        if (write(peer, &byte, 1) != 1 || read(peer, &byte, 1) != 1 || write(file, &byte, 1) != 1)
            return;
        puts("tick");
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int peer = socket(AF_INET, SOCK_STREAM, 0), one = 1;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 3)
        return 64;
    address.sin_port = htons((unsigned short)atoi(argv[2]));
    setsockopt(peer, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (strcmp(argv[1], "server") == 0) {
        if (bind(peer, (void *)&address, sizeof(address)) || listen(peer, 1))
            return 1;
        serve(peer);
    } else {
        int file = open(argv[3], O_RDWR | O_CREAT | O_TRUNC, 0600);

        char kept[256];

        snprintf(kept, sizeof(kept), "%s.kept", argv[3]);
        if (file < 0 || link(argv[3], kept) || unlink(argv[3]) || connect(peer, (void *)&address, sizeof(address)))
            return 1;
        talk(peer, file);
    }
    return 1;
}
