/* Runs something in a child process, because a sanitizer ends the process that it finds a fault in. */
#pragma once
#include <cuda_runtime.h>

#include <cstdio>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

/* What run() returned and printed, and what sanitizers wrote. */
template <class F> std::string output_of_child(F run)
{
    int fd[2];
    if (pipe(fd)) return "no pipe";
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(fd[1], 1), dup2(fd[1], 2);
        close(fd[0]), close(fd[1]);
        const std::string text = run();
        std::fputs(text.c_str(), stdout);
        std::fflush(stdout);
        _exit(0);
    }
    close(fd[1]);
    std::string out;
    char part[4096];
    for (ssize_t n; (n = read(fd[0], part, sizeof part)) > 0;) out.append(part, size_t(n));
    close(fd[0]);
    waitpid(child, nullptr, 0);
    return out;
}

/* Whether text holds one of the words, separated by |. */
inline bool has_one_of(const std::string &text, const std::string &words)
{
    for (size_t at = 0; at <= words.size();) {
        const size_t end = std::min(words.find('|', at), words.size());
        if (text.find(words.substr(at, end - at)) != std::string::npos) return true;
        at = end + 1;
    }
    return false;
}

#if defined(__SANITIZE_ADDRESS__)
constexpr bool address_checked = true;
#else
constexpr bool address_checked = false;
#endif
