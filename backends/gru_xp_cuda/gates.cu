// The pointwise part of a step, forward and backward: one kernel each, for float and double.
//
// The letters are those of gru_xp/cell.py. All arrays are compact: gi, gh, dgi, dgh (rows, 3H); h, h1, ... (rows, H).
// A thread takes V neighbouring units at a time, in one load of 16 bytes where V > 1; any grid does all of the work.
//
// Only additions, multiplications, divisions, fma and operations on bits: each is exactly rounded and nothing is
// contracted (--fmad=false), so that any machine with IEEE 754 computes the same bits. That is how they can be judged
// on a host: tests/support/cuda_host.cpp.
//
// source.py appends which KERNELS there are to be, and defines THREADS, the size of a block.

typedef long long Size;

// ---- sigmoid and tanh, both from one exponential ------------------------------------------------------------------
//
//     x = n ln 2 + f, n whole, |f| <= ln 2 / 2      expm1(f) = f + f f q(f), q from Taylor's series
//     sigmoid(a) = 1 / (1 + E) or, for a < 0, E / (1 + E)       E = exp(-|a|) = 2**n (1 + expm1(f))
//     tanh(a)    = -M / (2 + M) with the sign of a              M = expm1(-2 |a|) = 2**n expm1(f) + (2**n - 1)
//
// The denominators lie between 1 and 2, so nothing overflows. NaN stays NaN: it fails every comparison.

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }
__device__ __forceinline__ float size_of(float a) { return fabsf(a); }
__device__ __forceinline__ double size_of(double a) { return fabs(a); }
__device__ __forceinline__ float with_sign(float a, float sign) { return copysignf(a, sign); }
__device__ __forceinline__ double with_sign(double a, double sign) { return copysign(a, sign); }

template <typename T> __device__ __forceinline__ T horner(T, T c) { return c; }
template <typename T, typename... Rest> __device__ __forceinline__ T horner(T f, T c, Rest... rest) {
    return multiply_add(horner(f, rest...), f, c);
}

template <typename T> struct Real;

template <> struct Real<float> {
    typedef unsigned Bits;
    static constexpr int mantissa = 23, bias = 127, lift = 64;
    static constexpr float per_ln2 = 1.44269504f, ln2_high = 0.693147182f, ln2_low = -1.90465430e-9f;
    static constexpr float down = 0x1p-64f;       // 2**-lift
    static constexpr float underflow = -104.0f;   // exp is below half the smallest subnormal
    static constexpr float saturated = -20.0f;    // exp adds nothing to 1
    static __device__ __forceinline__ float series(float f) {
        return horner(f, 1.f / 2, 1.f / 6, 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040);
    }
};

template <> struct Real<double> {
    typedef unsigned long long Bits;
    static constexpr int mantissa = 52, bias = 1023, lift = 512;
    static constexpr double per_ln2 = 1.4426950408889634, ln2_high = 0.69314718055994529;
    static constexpr double ln2_low = 2.3190468138462996e-17, down = 0x1p-512;
    static constexpr double underflow = -746.0, saturated = -40.0;
    static __device__ __forceinline__ double series(double f) {
        return horner(f, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880, 1. / 3628800,
                      1. / 39916800, 1. / 479001600, 1. / 6227020800.);
    }
};

// expm1(f), and n as the last bits of `whole`
template <typename T> __device__ __forceinline__ T reduced_expm1(T x, typename Real<T>::Bits& whole) {
    typedef Real<T> R;
    // a sum with the shifter is rounded to whole numbers, which stand in its last bits
    const T shifter = T(3ULL << (R::mantissa - 1));
    const T rounded = multiply_add(x, R::per_ln2, shifter);
    const T n = rounded - shifter;
    T f = multiply_add(n, -R::ln2_high, x);
    f = multiply_add(n, -R::ln2_low, f);
    whole = __builtin_bit_cast(typename R::Bits, rounded);
    return multiply_add(f * f, R::series(f), f);
}

// 2**n; what stands above n is shifted out
template <typename T> __device__ __forceinline__ T power_of_2(typename Real<T>::Bits n) {
    return __builtin_bit_cast(T, (n + Real<T>::bias) << Real<T>::mantissa);
}

template <typename T> __device__ __forceinline__ T sigmoid(T a) {
    typedef Real<T> R;
    typename R::Bits n;
    const bool negative = a < T(0);
    const T x = -size_of(a), floor = negative ? R::underflow : R::saturated;
    const T p = reduced_expm1(x < floor ? floor : x, n);
    const T s = power_of_2<T>(n + R::lift);  // two factors, so that a subnormal result is rounded once
    const T e = multiply_add(p, s, s) * R::down;
    return (negative ? e : T(1)) / (T(1) + e);
}

template <typename T> __device__ __forceinline__ T hyperbolic_tangent(T a) {
    typedef Real<T> R;
    typename R::Bits n;
    const T x = T(-2) * size_of(a);
    const T p = reduced_expm1(x < R::saturated ? R::saturated : x, n);
    const T s = power_of_2<T>(n);
    const T m = multiply_add(p, s, s - T(1));
    return with_sign(m / (T(2) + m), a);
}

// ---- V neighbours at a time ---------------------------------------------------------------------------------------

template <typename T, int V> struct alignas(V * sizeof(T)) Pack { T at[V]; };

template <typename T, int V> __device__ __forceinline__ Pack<T, V> load(const T* from) {
    return *reinterpret_cast<const Pack<T, V>*>(from);
}

template <typename T, int V> __device__ __forceinline__ void store(T* to, const Pack<T, V>& pack) {
    *reinterpret_cast<Pack<T, V>*>(to) = pack;
}

// every row and every V-th column, shared out among all threads of the grid
#define FOR_ALL(row, column)                                                                                         \
    _Pragma("unroll 1") for (Size row = Size(blockIdx.y) * blockDim.y + threadIdx.y; row < rows;                     \
                             row += Size(gridDim.y) * blockDim.y)                                                    \
        _Pragma("unroll 1") for (Size column = (Size(blockIdx.x) * blockDim.x + threadIdx.x) * V; column < H;        \
                                 column += Size(gridDim.x) * blockDim.x * V)

// ---- the step -----------------------------------------------------------------------------------------------------

// r, z, n and u are not touched without SAVE
template <typename T, int V, bool SAVE>
__device__ __forceinline__ void forward(const T* __restrict__ gi, const T* __restrict__ gh, const T* __restrict__ h,
                                        T* __restrict__ h1, T* __restrict__ r, T* __restrict__ z, T* __restrict__ n,
                                        T* __restrict__ u, Size rows, Size H) {
    FOR_ALL(row, column) {
        const Size at = row * H + column, wide = row * 3 * H + column;
        const Pack<T, V> i_r = load<T, V>(gi + wide), i_z = load<T, V>(gi + wide + H),
                         i_n = load<T, V>(gi + wide + 2 * H), h_r = load<T, V>(gh + wide),
                         h_z = load<T, V>(gh + wide + H), u_ = load<T, V>(gh + wide + 2 * H), old = load<T, V>(h + at);
        Pack<T, V> r_, z_, n_, out;
#pragma unroll
        for (int k = 0; k < V; ++k) {
            r_.at[k] = sigmoid(i_r.at[k] + h_r.at[k]);
            z_.at[k] = sigmoid(i_z.at[k] + h_z.at[k]);
            n_.at[k] = hyperbolic_tangent(multiply_add(r_.at[k], u_.at[k], i_n.at[k]));
            // at z = 1 this is h exactly: padding stands still
            out.at[k] = multiply_add(z_.at[k], old.at[k], (T(1) - z_.at[k]) * n_.at[k]);
        }
        store<T, V>(h1 + at, out);
        if (SAVE) {
            store<T, V>(r + at, r_);
            store<T, V>(z + at, z_);
            store<T, V>(n + at, n_);
            store<T, V>(u + at, u_);
        }
    }
}

template <typename T, int V>
__device__ __forceinline__ void backward(const T* __restrict__ dh1, const T* __restrict__ h, const T* __restrict__ r,
                                         const T* __restrict__ z, const T* __restrict__ n, const T* __restrict__ u,
                                         T* __restrict__ dgi, T* __restrict__ dgh, T* __restrict__ dh, Size rows,
                                         Size H) {
    FOR_ALL(row, column) {
        const Size at = row * H + column, wide = row * 3 * H + column;
        const Pack<T, V> g = load<T, V>(dh1 + at), old = load<T, V>(h + at), r_ = load<T, V>(r + at),
                         z_ = load<T, V>(z + at), n_ = load<T, V>(n + at), u_ = load<T, V>(u + at);
        Pack<T, V> da_r, da_z, da_n, da_u, out;
#pragma unroll
        for (int k = 0; k < V; ++k) {
            const T away = (T(1) - z_.at[k]) * g.at[k];
            da_n.at[k] = away * multiply_add(-n_.at[k], n_.at[k], T(1));
            da_z.at[k] = away * ((old.at[k] - n_.at[k]) * z_.at[k]);
            da_r.at[k] = da_n.at[k] * u_.at[k] * (r_.at[k] * (T(1) - r_.at[k]));
            da_u.at[k] = da_n.at[k] * r_.at[k];
            out.at[k] = z_.at[k] * g.at[k];
        }
        store<T, V>(dgi + wide, da_r);
        store<T, V>(dgi + wide + H, da_z);
        store<T, V>(dgi + wide + 2 * H, da_n);
        store<T, V>(dgh + wide, da_r);
        store<T, V>(dgh + wide + H, da_z);
        store<T, V>(dgh + wide + 2 * H, da_u);
        store<T, V>(dh + at, out);
    }
}

// NAME is the dtype, and how many neighbours are taken together
#define KERNELS(T, V, NAME)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                         \
        inference_##NAME(const T* __restrict__ gi, const T* __restrict__ gh, const T* __restrict__ h,                \
                         T* __restrict__ h1, Size rows, Size H) {                                                    \
        forward<T, V, false>(gi, gh, h, h1, nullptr, nullptr, nullptr, nullptr, rows, H);                            \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                         \
        forward_##NAME(const T* __restrict__ gi, const T* __restrict__ gh, const T* __restrict__ h,                  \
                       T* __restrict__ h1, T* __restrict__ r, T* __restrict__ z, T* __restrict__ n,                  \
                       T* __restrict__ u, Size rows, Size H) {                                                       \
        forward<T, V, true>(gi, gh, h, h1, r, z, n, u, rows, H);                                                     \
    }                                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 4)                                                         \
        backward_##NAME(const T* __restrict__ dh1, const T* __restrict__ h, const T* __restrict__ r,                 \
                        const T* __restrict__ z, const T* __restrict__ n, const T* __restrict__ u,                   \
                        T* __restrict__ dgi, T* __restrict__ dgh, T* __restrict__ dh, Size rows, Size H) {           \
        backward<T, V>(dh1, h, r, z, n, u, dgi, dgh, dh, rows, H);                                                   \
    }
