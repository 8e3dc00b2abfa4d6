/* Connects to NAME at PORT and says what it reached. Linked with musl, whose
 * resolver reads /etc/resolv.conf itself and asks in parallel from one socket.
 * Ends with 0 when a line came, 1 when there was no name or no way. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int count, char **words)
{
    if (count != 3) {
        fprintf(stderr, "usage: musl-connect NAME PORT\n");
        return 3;
    }
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *at;
    int wrong = getaddrinfo(words[1], words[2], &hints, &found);
    if (wrong) {
        printf("no name: %s\n", gai_strerror(wrong));
        return 1;
    }
    for (at = found; at; at = at->ai_next) {
        char line[64] = "", text[64];
        int to = socket(at->ai_family, at->ai_socktype, 0);
        if (to < 0 || connect(to, at->ai_addr, at->ai_addrlen) < 0
            || write(to, "hello\n", 6) != 6 || read(to, line, sizeof line - 1) < 6) {
            printf("no way: %s\n", strerror(errno));
            continue;
        }
        getnameinfo(at->ai_addr, at->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        printf("reached %s, which says %s", text, line);
        return 0;
    }
    return 1;
}
