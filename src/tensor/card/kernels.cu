// The fused operations on a CUDA device, compiled by build.rs. `T` is float or bf16; all arithmetic is float.
// Matrices are row-major and contiguous.

struct bf16 { unsigned short bits; };

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

template <typename T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) {
    unsigned bits = __float_as_uint(x);
    // To the nearest, ties to even; a NaN keeps a bit of its payload.
    bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? bits | 0x00400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
    bf16 result;
    result.bits = (unsigned short)(bits >> 16);
    return result;
}

// What one load or store moves.
template <typename T> struct alignas(16) Pack {
    static const int N = 16 / sizeof(T);
    T at[N];
};

__device__ __forceinline__ float warp_sum(float x) {
    for (int by = 16; by > 0; by >>= 1) x += __shfl_xor_sync(0xffffffffu, x, by);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int by = 16; by > 0; by >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, by));
    return x;
}

// ---- Element by element: `op` of every value of one or two arrays. Threads stride over packs, then over the rest.

template <typename T, typename Op>
__device__ __forceinline__ void each(const T* a, const T* b, T* out, long n, Op op) {
    long thread = (long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long)gridDim.x * blockDim.x;
    const int N = Pack<T>::N;
    bool aligned = (((unsigned long long)a | (unsigned long long)b | (unsigned long long)out) & 15) == 0;
    long packs = aligned ? n / N : 0;
    for (long i = thread; i < packs; i += threads) {
        Pack<T> x = ((const Pack<T>*)a)[i], y = ((const Pack<T>*)b)[i], z;
#pragma unroll
        for (int j = 0; j < N; j++) z.at[j] = narrow<T>(op(wide(x.at[j]), wide(y.at[j])));
        ((Pack<T>*)out)[i] = z;
    }
    for (long i = packs * N + thread; i < n; i += threads) out[i] = narrow<T>(op(wide(a[i]), wide(b[i])));
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + __expf(-x)); }

struct Add {
    __device__ float operator()(float x, float y) const { return x + y; }
};
struct QuickGelu {
    __device__ float operator()(float x, float) const { return x * sigmoid(1.702f * x); }
};
struct QuickGeluBackward {
    __device__ float operator()(float x, float g) const {
        float s = sigmoid(1.702f * x);
        return g * s * (1.0f + 1.702f * x * (1.0f - s));
    }
};
struct Gelu {
    __device__ float operator()(float x, float) const { return x * normcdff(x); }
};
struct GeluBackward {
    __device__ float operator()(float x, float g) const {
        return g * (normcdff(x) + x * 0.3989422804f * __expf(-0.5f * x * x));
    }
};

// ---- Rows: a warp takes a row.

template <typename T>
__device__ __forceinline__ void moments(const T* x, int dim, float eps, float* mean, float* scale) {
    int lane = threadIdx.x & 31;
    float sum = 0.0f;
    for (int i = lane; i < dim; i += 32) sum += wide(x[i]);
    *mean = warp_sum(sum) / dim;
    float squares = 0.0f;
    for (int i = lane; i < dim; i += 32) {
        float d = wide(x[i]) - *mean;
        squares += d * d;
    }
    *scale = rsqrtf(warp_sum(squares) / dim + eps);
}

template <typename T>
__device__ void layer_norm(const T* xs, const float* w, const float* b, T* ys, int rows, int dim, float eps) {
    int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
    if (row >= rows) return;
    const T* x = xs + (long)row * dim;
    T* y = ys + (long)row * dim;
    float mean, scale;
    moments(x, dim, eps, &mean, &scale);
    for (int i = threadIdx.x & 31; i < dim; i += 32) y[i] = narrow<T>((wide(x[i]) - mean) * scale * w[i] + b[i]);
}

// Also keeps mean and scale of each row, `[rows, 2]`, for `norm_sums`.
template <typename T>
__device__ void layer_norm_backward(const T* xs, const float* w, const T* gs, T* dxs, float* kept, int rows, int dim,
                                    float eps) {
    int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    const T *x = xs + (long)row * dim, *g = gs + (long)row * dim;
    T* dx = dxs + (long)row * dim;
    float mean, scale;
    moments(x, dim, eps, &mean, &scale);
    float bias = 0.0f, along = 0.0f;
    for (int i = lane; i < dim; i += 32) {
        float gw = wide(g[i]) * w[i];
        bias += gw;
        along += gw * (wide(x[i]) - mean) * scale;
    }
    bias = warp_sum(bias) / dim;
    along = warp_sum(along) / dim;
    for (int i = lane; i < dim; i += 32) {
        float normed = (wide(x[i]) - mean) * scale;
        dx[i] = narrow<T>(scale * (wide(g[i]) * w[i] - bias - normed * along));
    }
    if (lane == 0) {
        kept[2 * (long)row] = mean;
        kept[2 * (long)row + 1] = scale;
    }
}

// Row r is token r % stride of `stride`, of which those from `tokens` on are padding and become zeros, as do the
// columns from `tokens` on. When `causal`, a token sees only those up to itself. `[rows, n]`, of `factor` times x.
//
// A row of up to `PACKS * 32` packs is read once and stays in registers; longer and unaligned ones are read anew.
template <typename T>
__device__ void softmax(const T* xs, T* ys, int rows, int n, int stride, int tokens, int causal, float factor) {
    int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    int token = row % stride;
    int seen = token >= tokens ? 0 : causal ? token + 1 : min(tokens, n);
    const T* x = xs + (long)row * n;
    T* y = ys + (long)row * n;
    const int N = Pack<T>::N, PACKS = 2;
    float top = __int_as_float(0xff800000), sum = 0.0f;
    if (n % N == 0 && n <= 32 * N * PACKS && (((unsigned long long)xs | (unsigned long long)ys) & 15) == 0) {
        float held[PACKS][N];
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int start = (p * 32 + lane) * N;
            if (start < seen) {
                Pack<T> pack = *(const Pack<T>*)(x + start);
#pragma unroll
                for (int j = 0; j < N; j++) {
                    held[p][j] = wide(pack.at[j]) * factor;
                    if (start + j < seen) top = fmaxf(top, held[p][j]);
                }
            }
        }
        top = warp_max(top);
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int start = (p * 32 + lane) * N;
#pragma unroll
            for (int j = 0; j < N; j++) {
                held[p][j] = start + j < seen ? __expf(held[p][j] - top) : 0.0f;
                sum += held[p][j];
            }
        }
        float scale = seen > 0 ? 1.0f / warp_sum(sum) : 0.0f;
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int start = (p * 32 + lane) * N;
            if (start < n) {
                Pack<T> pack;
#pragma unroll
                for (int j = 0; j < N; j++) pack.at[j] = narrow<T>(held[p][j] * scale);
                *(Pack<T>*)(y + start) = pack;
            }
        }
        return;
    }
    for (int i = lane; i < seen; i += 32) top = fmaxf(top, wide(x[i]));
    top = warp_max(top);
    for (int i = lane; i < seen; i += 32) sum += __expf((wide(x[i]) - top) * factor);
    float scale = 1.0f / warp_sum(sum);
    for (int i = lane; i < n; i += 32)
        y[i] = narrow<T>(i < seen ? __expf((wide(x[i]) - top) * factor) * scale : 0.0f);
}

template <typename T>
__device__ void softmax_backward(const T* ys, const T* gs, T* dxs, int rows, int n, float factor) {
    int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    const T *y = ys + (long)row * n, *g = gs + (long)row * n;
    T* dx = dxs + (long)row * n;
    const int N = Pack<T>::N, PACKS = 2;
    bool aligned = (((unsigned long long)ys | (unsigned long long)gs | (unsigned long long)dxs) & 15) == 0;
    float along = 0.0f;
    if (n % N == 0 && n <= 32 * N * PACKS && aligned) {
        Pack<T> a[PACKS], b[PACKS];
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int start = (p * 32 + lane) * N;
            if (start < n) {
                a[p] = *(const Pack<T>*)(y + start);
                b[p] = *(const Pack<T>*)(g + start);
#pragma unroll
                for (int j = 0; j < N; j++) along += wide(a[p].at[j]) * wide(b[p].at[j]);
            }
        }
        along = warp_sum(along);
#pragma unroll
        for (int p = 0; p < PACKS; p++) {
            int start = (p * 32 + lane) * N;
            if (start < n) {
                Pack<T> pack;
#pragma unroll
                for (int j = 0; j < N; j++)
                    pack.at[j] = narrow<T>(factor * wide(a[p].at[j]) * (wide(b[p].at[j]) - along));
                *(Pack<T>*)(dx + start) = pack;
            }
        }
        return;
    }
    for (int i = lane; i < n; i += 32) along += wide(y[i]) * wide(g[i]);
    along = warp_sum(along);
    for (int i = lane; i < n; i += 32) dx[i] = narrow<T>(factor * wide(y[i]) * (wide(g[i]) - along));
}

// ---- Sums over rows, in two steps so that their order is always the same: blocks of 32 columns by 8 threads each
// add up a stretch of rows into `partial`, `[stretches, sums, dim]`.

template <typename T, int SUMS, typename Of>
__device__ __forceinline__ void stretch_sums(float* partial, int rows, int dim, int stretch, Of of) {
    __shared__ float shared[SUMS][8][32];
    int column = blockIdx.x * 32 + threadIdx.x;
    float sums[SUMS];
    for (int s = 0; s < SUMS; s++) sums[s] = 0.0f;
    int end = min(rows, (int)(blockIdx.y + 1) * stretch);
    if (column < dim) {
        for (int row = blockIdx.y * stretch + threadIdx.y; row < end; row += 8) of(row, column, sums);
    }
    for (int s = 0; s < SUMS; s++) shared[s][threadIdx.y][threadIdx.x] = sums[s];
    __syncthreads();
    if (threadIdx.y != 0 || column >= dim) return;
    for (int s = 0; s < SUMS; s++) {
        float sum = 0.0f;
        for (int i = 0; i < 8; i++) sum += shared[s][i][threadIdx.x];
        partial[((long)blockIdx.y * SUMS + s) * dim + column] = sum;
    }
}

template <typename T> struct OfColumn {
    const T* xs;
    int dim;
    __device__ void operator()(int row, int column, float* sums) const { sums[0] += wide(xs[(long)row * dim + column]); }
};

template <typename T> struct OfNorm {
    const T *xs, *gs;
    const float* kept;
    int dim;
    __device__ void operator()(int row, int column, float* sums) const {
        float g = wide(gs[(long)row * dim + column]);
        sums[0] += g * (wide(xs[(long)row * dim + column]) - kept[2 * (long)row]) * kept[2 * (long)row + 1];
        sums[1] += g;
    }
};

extern "C" __global__ void add_stretches(const float* partial, float* out, int stretches, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float sum = 0.0f;
    for (int s = 0; s < stretches; s++) sum += partial[(long)s * n + i];
    out[i] = sum;
}

template <typename T> __device__ void add_bias(T* ys, const float* bias, long n, int dim) {
    long thread = (long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long)gridDim.x * blockDim.x;
    const int N = Pack<T>::N;
    // Rows of whole packs start at whole packs.
    long packs = dim % N == 0 && ((unsigned long long)ys & 15) == 0 ? n / N : 0;
    for (long i = thread; i < packs; i += threads) {
        Pack<T> y = ((Pack<T>*)ys)[i];
        int column = (int)(i * N % dim);
#pragma unroll
        for (int j = 0; j < N; j++) y.at[j] = narrow<T>(wide(y.at[j]) + bias[column + j]);
        ((Pack<T>*)ys)[i] = y;
    }
    for (long i = packs * N + thread; i < n; i += threads) ys[i] = narrow<T>(wide(ys[i]) + bias[i % dim]);
}

// ---- Heads: between `[batch, tokens, parts, heads, head]` and `[parts, batch, heads, stride, head]`, in which the
// tokens from `tokens` on are zeros: products of rows that fill whole vectors are several times faster. Apart lie
// `parts` parts from `first` on of the `all` that are joined.

template <typename T, bool SPLIT>
__device__ __forceinline__ void move_heads(const T* from, T* to, long n, int tokens, int stride, int parts, int first,
                                           int all, int heads, int head) {
    long batch = n / ((long)stride * parts * heads * head);
    long thread = (long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long)gridDim.x * blockDim.x;
    const int N = Pack<T>::N;
    int step = head % N == 0 && (((unsigned long long)from | (unsigned long long)to) & 15) == 0 ? N : 1;
    // i counts through `[parts, batch, heads, stride, head]`, n in all.
    for (long i = thread * step; i < n; i += threads * step) {
        long rest = i;
        int within = (int)(rest % head);
        rest /= head;
        int token = (int)(rest % stride);
        rest /= stride;
        int at_head = (int)(rest % heads);
        rest /= heads;
        long item = rest % batch;
        int part = (int)(rest / batch);
        bool padding = token >= tokens;
        if (padding && !SPLIT) continue;
        long joined = (((item * tokens + token) * all + first + part) * heads + at_head) * head + within;
        long source = SPLIT ? joined : i, target = SPLIT ? i : joined;
        if (step == N) {
            Pack<T> x;
            if (padding) {
#pragma unroll
                for (int j = 0; j < N; j++) x.at[j] = narrow<T>(0.0f);
            } else {
                x = *(const Pack<T>*)(from + source);
            }
            *(Pack<T>*)(to + target) = x;
        } else {
            to[target] = padding ? narrow<T>(0.0f) : from[source];
        }
    }
}

// ---- Steps of the optimizer, in place; `scale` is one value on the device that gradients are multiplied by.

extern "C" __global__ void adamw(float* w, float* m, float* v, const float* g, const float* scale, long n, float b1,
                                 float b2, float eps, float rate, float root2, float keep) {
    long threads = (long)gridDim.x * blockDim.x;
    float by = *scale;
    for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) {
        float gradient = g[i] * by;
        float mean = b1 * m[i] + (1.0f - b1) * gradient;
        float square = b2 * v[i] + (1.0f - b2) * gradient * gradient;
        m[i] = mean;
        v[i] = square;
        w[i] = w[i] * keep - rate * mean / (sqrtf(square) * root2 + eps);
    }
}

extern "C" __global__ void momentum(float* w, float* m, const float* g, const float* scale, long n, float keep,
                                    float decay, float rate) {
    long threads = (long)gridDim.x * blockDim.x;
    float by = *scale;
    for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) {
        float velocity = keep * m[i] + g[i] * by + decay * w[i];
        m[i] = velocity;
        w[i] -= rate * velocity;
    }
}

// The sum of squares that each block of 256 threads came upon, at `out[block]`.
extern "C" __global__ void square_sums(const float* g, float* out, long n) {
    __shared__ float shared[8];
    long threads = (long)gridDim.x * blockDim.x;
    float sum = 0.0f;
    for (long i = (long)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += threads) sum += g[i] * g[i];
    sum = warp_sum(sum);
    if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    float all = 0.0f;
    for (int i = 0; i < 8; i++) all += shared[i];
    out[blockIdx.x] = all;
}

// Both types of everything.
#define KERNELS(T, NAME)                                                                                              \
    extern "C" __global__ void add_##NAME(const T* x, const T* y, T* z, long n) { each(x, y, z, n, Add()); }           \
    extern "C" __global__ void quick_gelu_##NAME(const T* x, T* y, long n) { each(x, x, y, n, QuickGelu()); }          \
    extern "C" __global__ void quick_gelu_backward_##NAME(const T* x, const T* g, T* dx, long n) {                     \
        each(x, g, dx, n, QuickGeluBackward());                                                                       \
    }                                                                                                                 \
    extern "C" __global__ void gelu_##NAME(const T* x, T* y, long n) { each(x, x, y, n, Gelu()); }                     \
    extern "C" __global__ void gelu_backward_##NAME(const T* x, const T* g, T* dx, long n) {                           \
        each(x, g, dx, n, GeluBackward());                                                                            \
    }                                                                                                                 \
    extern "C" __global__ void layer_norm_##NAME(const T* x, const float* w, const float* b, T* y, int rows, int dim,  \
                                                 float eps) {                                                         \
        layer_norm(x, w, b, y, rows, dim, eps);                                                                       \
    }                                                                                                                 \
    extern "C" __global__ void layer_norm_backward_##NAME(const T* x, const float* w, const T* g, T* dx, float* kept,  \
                                                          int rows, int dim, float eps) {                             \
        layer_norm_backward(x, w, g, dx, kept, rows, dim, eps);                                                       \
    }                                                                                                                 \
    extern "C" __global__ void norm_sums_##NAME(const T* x, const T* g, const float* kept, float* partial, int rows,   \
                                                int dim, int stretch) {                                               \
        OfNorm<T> of = {x, g, kept, dim};                                                                             \
        stretch_sums<T, 2>(partial, rows, dim, stretch, of);                                                          \
    }                                                                                                                 \
    extern "C" __global__ void column_sums_##NAME(const T* x, float* partial, int rows, int dim, int stretch) {        \
        OfColumn<T> of = {x, dim};                                                                                    \
        stretch_sums<T, 1>(partial, rows, dim, stretch, of);                                                          \
    }                                                                                                                 \
    extern "C" __global__ void add_bias_##NAME(T* y, const float* bias, long n, int dim) { add_bias(y, bias, n, dim); } \
    extern "C" __global__ void softmax_##NAME(const T* x, T* y, int rows, int n, int stride, int tokens, int causal,   \
                                              float factor) {                                                         \
        softmax(x, y, rows, n, stride, tokens, causal, factor);                                                       \
    }                                                                                                                 \
    extern "C" __global__ void softmax_backward_##NAME(const T* y, const T* g, T* dx, int rows, int n, float factor) { \
        softmax_backward(y, g, dx, rows, n, factor);                                                                  \
    }                                                                                                                 \
    extern "C" __global__ void split_heads_##NAME(const T* from, T* to, long n, int tokens, int stride, int parts,     \
                                                  int first, int all, int heads, int head) {                          \
        move_heads<T, true>(from, to, n, tokens, stride, parts, first, all, heads, head);                             \
    }                                                                                                                 \
    extern "C" __global__ void merge_heads_##NAME(const T* from, T* to, long n, int tokens, int stride, int parts,     \
                                                  int first, int all, int heads, int head) {                          \
        move_heads<T, false>(from, to, n, tokens, stride, parts, first, all, heads, head);                            \
    }

KERNELS(float, f32)
KERNELS(bf16, bf16)
