// gates.cu built for the host: CUDA's words become C++'s, and `launch` goes through the grid thread by thread.
//
// Compiled with -DSOURCE="..." (what gru_xp_cuda.source gives for one dtype) by tests/support/cuda_on_host.py.

#include <cmath>
#include <cstddef>

struct Index {
    unsigned x, y;
};
static thread_local Index gridDim, blockDim, blockIdx, threadIdx;

#define __device__ inline
#define __forceinline__
#define __global__
#define __launch_bounds__(...)
#define __restrict__ __restrict

using std::copysign;
using std::fabs;
using std::fma;

#include SOURCE

static void call(void (*kernel)(), const Size* a, int count) {
    // addresses and sizes are passed alike, so that a kernel can be called with integers alone
    if (count == 6)
        ((void (*)(Size, Size, Size, Size, Size, Size))kernel)(a[0], a[1], a[2], a[3], a[4], a[5]);
    else if (count == 10)
        ((void (*)(Size, Size, Size, Size, Size, Size, Size, Size, Size, Size))kernel)(a[0], a[1], a[2], a[3], a[4],
                                                                                       a[5], a[6], a[7], a[8], a[9]);
    else if (count == 11)
        ((void (*)(Size, Size, Size, Size, Size, Size, Size, Size, Size, Size, Size))kernel)(
            a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10]);
    else
        __builtin_trap();
}

extern "C" void launch(void (*kernel)(), unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y,
                       const Size* a, int count) {
    gridDim = {grid_x, grid_y};
    blockDim = {block_x, block_y};
    for (blockIdx.y = 0; blockIdx.y < grid_y; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < grid_x; ++blockIdx.x)
            for (threadIdx.y = 0; threadIdx.y < block_y; ++threadIdx.y)
                for (threadIdx.x = 0; threadIdx.x < block_x; ++threadIdx.x) call(kernel, a, count);
}

// the last thread of a grid alone
extern "C" void launch_last(void (*kernel)(), unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y,
                            const Size* a, int count) {
    gridDim = {grid_x, grid_y};
    blockDim = {block_x, block_y};
    blockIdx = {grid_x - 1, grid_y - 1};
    threadIdx = {block_x - 1, block_y - 1};
    call(kernel, a, count);
}

extern "C" void activate(bool tangent, const Element* from, Element* to, Size count) {
    for (Size i = 0; i < count; ++i) to[i] = tangent ? hyperbolic_tangent(from[i]) : sigmoid(from[i]);
}
