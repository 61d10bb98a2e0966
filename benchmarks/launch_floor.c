/* launch_floor.c - what a launch costs with nothing around it: the driver's call in a C loop.
 *
 * bench_launch.py compiles it with the machine's C compiler and calls it in its own process, so that the
 * floor and everything above it use one context, one stream, one kernel and one set of arguments. The
 * prototypes that it needs are declared here, and libcuda is opened by name: no CUDA header, no link flag.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <time.h>

typedef int (*launch_kernel_t)(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                               unsigned block_x, unsigned block_y, unsigned block_z,
                               unsigned shared_mem_bytes, void *stream, void **params, void **extra);

typedef int (*launch_kernel_ex_t)(const void *config, void *function, void **params, void **extra);
typedef int (*graph_launch_t)(void *executable, void *stream);

static void *symbol(const char *name) {
    void *libcuda = dlopen("libcuda.so.1", RTLD_NOW);
    return libcuda ? dlsym(libcuda, name) : 0;
}

/* Each makes its call `launches` times, and returns host nanoseconds for all of them, -1 where libcuda or
 * the symbol is missing, or -1000 - the driver's error code. */
#define TIMED_LOOP(CALL)                                                                 \
    struct timespec begin, end;                                                          \
    clock_gettime(CLOCK_MONOTONIC, &begin);                                              \
    for (int i = 0; i < launches; i++) {                                                 \
        int error = CALL;                                                                \
        if (error) return -1000.0 - error;                                               \
    }                                                                                    \
    clock_gettime(CLOCK_MONOTONIC, &end);                                                \
    return (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec)

/* One CTA of 32 threads. */
double launch_floor_ns(void *function, void *stream, void **params, int launches) {
    launch_kernel_t launch = (launch_kernel_t)symbol("cuLaunchKernel");
    if (!launch) return -1.0;
    TIMED_LOOP(launch(function, 1, 1, 1, 32, 1, 1, 0, stream, params, 0));
}

/* `config` is a CUlaunchConfig. */
double launch_ex_floor_ns(const void *config, void *function, void **params, int launches) {
    launch_kernel_ex_t launch = (launch_kernel_ex_t)symbol("cuLaunchKernelEx");
    if (!launch) return -1.0;
    TIMED_LOOP(launch(config, function, params, 0));
}

double graph_floor_ns(void *executable, void *stream, int launches) {
    graph_launch_t launch = (graph_launch_t)symbol("cuGraphLaunch");
    if (!launch) return -1.0;
    TIMED_LOOP(launch(executable, stream));
}
