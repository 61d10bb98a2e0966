/* launch_floor.c - what a launch costs with nothing around it: cuLaunchKernel in a C loop.
 *
 * bench_launch.py compiles it with the machine's C compiler and calls it in its own process, so that the
 * floor and everything above it use one context, one stream, one kernel and one set of arguments. The one
 * prototype that it needs is declared here, and libcuda is opened by name: no CUDA header, no link flag.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <time.h>

typedef int (*launch_kernel_t)(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                               unsigned block_x, unsigned block_y, unsigned block_z,
                               unsigned shared_mem_bytes, void *stream, void **params, void **extra);

/* Launch `function` `launches` times with one CTA of 32 threads. Returns host nanoseconds for all of them,
 * -1 where libcuda or its symbol is missing, or -1000 - the driver's error code. */
double launch_floor_ns(void *function, void *stream, void **params, int launches) {
    void *libcuda = dlopen("libcuda.so.1", RTLD_NOW);
    launch_kernel_t launch = libcuda ? (launch_kernel_t)dlsym(libcuda, "cuLaunchKernel") : 0;
    if (!launch) return -1.0;

    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < launches; i++) {
        int error = launch(function, 1, 1, 1, 32, 1, 1, 0, stream, params, 0);
        if (error) return -1000.0 - error;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
}
