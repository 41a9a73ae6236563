// The scans of P and P* for steps that are weights between pointwise gains, compiled for one instruction set.
//
//   forward    s_t     += sum_k D_k[t] (W_k (S_k[t] s_{t-1})) + E[t] s_{t-1}
//   backward   s_{t-1} += sum_k S_k[t] (W_k^T (D_k[t] s_t))   + E[t] s_t
//
// A step is a product of a few rows with a weight, times gains, added to the state. The weight lies in panels
// of PANEL columns, packed once, so that a panel stays in the first cache while all rows pass it; a tile of
// up to TILE rows and one panel is held in registers, and the gains are applied before it leaves them.
//
// Threads share the rows, each walking all steps without waiting. Where rows are few they share the columns of
// the weights, with a barrier at each step.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num() { return 0; }
static int omp_get_num_threads() { return 1; }
#endif

#include "problem.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#define KPN_PAUSE() _mm_pause()
#else
#define KPN_PAUSE() ((void)0)
#endif

#define KPN_BLOCK_BYTES 196608  // of what is read, in the second cache beside a panel

namespace KPN_ISA {

constexpr int BYTES = KPN_BYTES;  // of a vector register
constexpr int TILE = KPN_TILE;    // most rows of a tile
constexpr int VECTORS = 2;        // registers of a panel's row

template <typename T> struct Vector;
template <> struct Vector<float> { typedef float type __attribute__((vector_size(BYTES), aligned(4))); };
template <> struct Vector<double> { typedef double type __attribute__((vector_size(BYTES), aligned(8))); };

template <typename T> constexpr int lanes() { return BYTES / (int)sizeof(T); }
template <typename T> constexpr int panel() { return VECTORS * lanes<T>(); }

class Barrier {
  public:
    void wait(int threads) {
        if (threads == 1) return;
        const int phase = phase_.load(std::memory_order_relaxed);
        if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            waiting_.store(0, std::memory_order_relaxed);
            phase_.store(phase + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; ++spins) {
            if (spins < 4096) KPN_PAUSE();
            else std::this_thread::yield();  // somebody else needs the processor
        }
    }

  private:
    alignas(64) std::atomic<int> waiting_{0};
    alignas(64) std::atomic<int> phase_{0};
};

// out[i][0:PANEL] = sum_k rows[i * stride + k] packed[k * PANEL + (0:PANEL)], for ROWS rows
template <typename T, int ROWS>
inline void tile(const T* rows, int64_t stride, const T* packed, int64_t depth, T* out) {
    typedef typename Vector<T>::type V;
    constexpr int N = lanes<T>();
    V sums[ROWS][VECTORS];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) sums[i][j] = V{} ;
    for (int64_t k = 0; k < depth; ++k) {
        V weight[VECTORS];
        for (int j = 0; j < VECTORS; ++j) weight[j] = *(const V*)(packed + (k * VECTORS + j) * N);
        for (int i = 0; i < ROWS; ++i) {
            const T value = rows[i * stride + k];
            for (int j = 0; j < VECTORS; ++j) sums[i][j] += value * weight[j];
        }
    }
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < VECTORS; ++j) *(V*)(out + (i * VECTORS + j) * N) = sums[i][j];
}

template <typename T>
inline void tile_of(int rows, const T* from, int64_t stride, const T* packed, int64_t depth, T* out) {
    switch (rows) {
    case 1: return tile<T, 1>(from, stride, packed, depth, out);
    case 2: return tile<T, 2>(from, stride, packed, depth, out);
    case 3: return tile<T, 3>(from, stride, packed, depth, out);
    case 4: return tile<T, 4>(from, stride, packed, depth, out);
    case 5: return tile<T, 5>(from, stride, packed, depth, out);
    default: return tile<T, 6>(from, stride, packed, depth, out);
    }
}
static_assert(TILE == 6, "tile_of knows tiles of up to 6 rows");

// out[j] += gain[j] * value[j]; whole panels, which are most, without a loop
template <typename T>
inline void add_product(T* __restrict out, const T* __restrict gain, const T* __restrict value, int64_t n) {
    typedef typename Vector<T>::type V;
    constexpr int N = lanes<T>();
    if (n == panel<T>()) {
        for (int j = 0; j < VECTORS; ++j)
            *(V*)(out + j * N) += *(const V*)(gain + j * N) * *(const V*)(value + j * N);
        return;
    }
    for (int64_t j = 0; j < n; ++j) out[j] += gain[j] * value[j];
}

template <typename T> struct Scan {
    const Problem& problem;
    T* states;
    Barrier& barrier;
    int64_t first, last;  // rows of this thread
    int part, parts;      // of the columns
    std::vector<T> buffer, out;

    T* state(int64_t t, int64_t row) const { return states + t * problem.step_stride + row * problem.row_stride; }
    const T* gain(const void* values, int64_t t, int64_t row, int64_t width) const {
        return (const T*)values + (t * problem.batch + row % problem.batch) * width;
    }
    // the share of this thread of so many panels or entries
    void share(int64_t count, int64_t& from, int64_t& to) const {
        from = count * part / parts;
        to = count * (part + 1) / parts;
    }
    int64_t rows() const { return last - first; }
    int64_t tile_rows() const {
        const int64_t tiles = (rows() + TILE - 1) / TILE;
        return (rows() + tiles - 1) / tiles;  // tiles of even size
    }

    void forward(int64_t t) {
        constexpr int P = panel<T>();
        const int64_t n = problem.units, panels = (n + P - 1) / P;
        int64_t from, to;
        share(panels, from, to);
        for (int64_t s = 0; s < problem.num_sites; ++s) {
            const Site& site = problem.sites[s];
            const int64_t width = site.width;
            buffer.resize(rows() * width);
            for (int64_t row = first; row < last; ++row) {
                const T* source = state(t - 1, row) + site.source;
                T* to_row = buffer.data() + (row - first) * width;
                if (!site.slope) { std::memcpy(to_row, source, width * sizeof(T)); continue; }
                const T* slope = gain(site.slope, t, row, width);
                for (int64_t j = 0; j < width; ++j) to_row[j] = slope[j] * source[j];
            }
            const int64_t each = tile_rows();
            for (int64_t block = 0; block < site.blocks; ++block)
                for (int64_t p = from; p < to; ++p) {
                    const T* packed = (const T*)site.packed + (block * panels + p) * width * P;
                    const int64_t start = p * P, count = std::min<int64_t>(P, n - start);
                    for (int64_t row = first; row < last; row += each) {
                        const int64_t num = std::min(each, last - row);
                        tile_of<T>((int)num, buffer.data() + (row - first) * width, width, packed, width, out.data());
                        for (int64_t g = 0; g < site.num_gains; ++g) {
                            const Gain& own = site.gains[g];
                            if (own.block != block) continue;
                            for (int64_t i = 0; i < num; ++i)
                                add_product(state(t, row + i) + own.state + start,
                                            gain(own.values, t, row + i, n) + start, out.data() + i * P, count);
                        }
                    }
                }
        }
        const int64_t start = from * P, count = std::min(to * P, n) - start;
        for (int64_t d = 0; d < problem.num_direct && count > 0; ++d) {
            const Direct& own = problem.direct[d];
            for (int64_t row = first; row < last; ++row)
                add_product(state(t, row) + own.target + start, gain(own.values, t, row, n) + start,
                            state(t - 1, row) + own.source + start, count);
        }
        if (parts > 1) barrier.wait(parts);
    }

    void backward(int64_t t) {
        constexpr int P = panel<T>();
        const int64_t n = problem.units;
        for (int64_t s = 0; s < problem.num_sites; ++s) {
            const Site& site = problem.sites[s];
            const int64_t width = site.width, depth = site.blocks * n, panels = (width + P - 1) / P;
            buffer.resize(rows() * depth);
            for (int64_t row = first; row < last; ++row) {
                T* columns = buffer.data() + (row - first) * depth;
                std::memset(columns, 0, depth * sizeof(T));
                for (int64_t g = 0; g < site.num_gains; ++g) {
                    const Gain& own = site.gains[g];
                    add_product(columns + own.block * n, gain(own.values, t, row, n), state(t, row) + own.state, n);
                }
            }
            int64_t from, to;
            share(panels, from, to);
            const int64_t each = tile_rows();
            for (int64_t p = from; p < to; ++p) {
                const T* packed = (const T*)site.packed_adjoint + p * depth * P;
                const int64_t start = p * P, count = std::min<int64_t>(P, width - start);
                for (int64_t row = first; row < last; row += each) {
                    const int64_t num = std::min(each, last - row);
                    tile_of<T>((int)num, buffer.data() + (row - first) * depth, depth, packed, depth, out.data());
                    for (int64_t i = 0; i < num; ++i) {
                        T* back = state(t - 1, row + i) + site.source + start;
                        const T* values = out.data() + i * P;
                        if (site.slope) add_product(back, gain(site.slope, t, row + i, width) + start, values, count);
                        else for (int64_t j = 0; j < count; ++j) back[j] += values[j];
                    }
                }
            }
            if (parts > 1) barrier.wait(parts);  // another site may send to the same entries
        }
        int64_t from, to;
        share(n, from, to);
        for (int64_t d = 0; d < problem.num_direct; ++d) {
            const Direct& own = problem.direct[d];
            for (int64_t row = first; row < last; ++row)
                add_product(state(t - 1, row) + own.source + from, gain(own.values, t, row, n) + from,
                            state(t, row) + own.target + from, to - from);
        }
        if (parts > 1 && problem.num_direct) barrier.wait(parts);
    }

    void run() {
        out.resize(TILE * panel<T>());
        if (problem.adjoint)
            for (int64_t t = problem.steps - 1; t > 0; --t) backward(t);
        else
            for (int64_t t = 1; t < problem.steps; ++t) forward(t);
    }
};

template <typename T> void scan(const Problem& problem, void* states) {
    Barrier barrier;
    // the threads of torch's own OpenMP: those of another pool would wait while torch's still spin
#pragma omp parallel num_threads(problem.threads) if (problem.threads > 1)
    {
        const int index = omp_get_thread_num(), threads = omp_get_num_threads();  // one within another's threads
        const bool columns = problem.share_columns;
        const int64_t rows = problem.rows;
        Scan<T> own{problem, (T*)states, barrier,
                    columns ? 0 : rows * index / threads, columns ? rows : rows * (index + 1) / threads,
                    columns ? index : 0, columns ? threads : 1, {}, {}};
        if (own.first < own.last) own.run();
    }
}

// -- K ------------------------------------------------------------------------------------------------------
//
// (K r)_s = D_s W' z_s with W' = sum_s (D_s r_s) z_s^T, s a step of a trial. Threads share the columns of W',
// and then, when it is complete, the steps. A block of steps stays in the second cache while all panels of
// units pass it, and nothing but the parts of a panel is written down in between.

// out[i][0:PANEL] += sum_k turned[k][i] columns[k][0:PANEL], for the TILE entries i
template <typename T> inline void outer(const T* turned, const T* columns, int64_t depth, T* out) {
    typedef typename Vector<T>::type V;
    constexpr int N = lanes<T>();
    V sums[TILE][VECTORS];
    for (int i = 0; i < TILE; ++i)
        for (int j = 0; j < VECTORS; ++j) sums[i][j] = *(const V*)(out + (i * VECTORS + j) * N);
    for (int64_t k = 0; k < depth; ++k) {
        V column[VECTORS];
        for (int j = 0; j < VECTORS; ++j) column[j] = *(const V*)(columns + (k * VECTORS + j) * N);
        for (int i = 0; i < TILE; ++i) {
            const T value = turned[k * TILE + i];
            for (int j = 0; j < VECTORS; ++j) sums[i][j] += value * column[j];
        }
    }
    for (int i = 0; i < TILE; ++i)
        for (int j = 0; j < VECTORS; ++j) *(V*)(out + (i * VECTORS + j) * N) = sums[i][j];
}

// What one thread does for one set of reads and one probe.
template <typename T> struct Share {
    const Kernel& kernel;
    const Read& site;
    const T* from;
    T *to, *weights;  // weights: [panels, blocks, width, P], filled up to whole tiles
    std::vector<T>&columns, &out;

    static constexpr int P = panel<T>();
    int64_t rows() const { return kernel.steps * kernel.batch; }
    int64_t tiles() const { return (site.width + TILE - 1) / TILE; }
    int64_t panels() const { return (kernel.units + P - 1) / P; }
    int64_t size() const { return panels() * site.blocks * tiles() * TILE * P; }
    int64_t count(int64_t p) const { return std::min<int64_t>(P, kernel.units - p * P); }
    int64_t block_rows() const {
        const int64_t fit = KPN_BLOCK_BYTES / (int64_t)sizeof(T) / std::max<int64_t>(site.width, 1);
        return std::max<int64_t>(1, fit / TILE) * TILE;
    }
    const T* gain(const Gain& own, int64_t k, int64_t p) const {
        return (const T*)own.values + k * kernel.units + p * P;
    }
    T* weight(int64_t p, int64_t block) { return weights + (p * site.blocks + block) * tiles() * TILE * P; }

    void pull(int64_t start, int64_t stop, int64_t p, int64_t block, int64_t first, int64_t last) {
        columns.assign((stop - start) * P, 0);
        for (int64_t g = 0; g < site.num_gains; ++g) {
            const Gain& own = site.gains[g];
            if (own.block != block) continue;
            int64_t t = start / kernel.batch, row = start % kernel.batch;
            for (int64_t k = start; k < stop; ++k) {
                add_product(columns.data() + (k - start) * P, gain(own, k, p),
                            from + t * kernel.step_stride + row * kernel.row_stride + own.state + p * P, count(p));
                if (++row == kernel.batch) row = 0, ++t;
            }
        }
        for (int64_t i = first; i < last; ++i)
            outer<T>((const T*)site.turned + (i * rows() + start) * TILE, columns.data(), stop - start,
                     weight(p, block) + i * TILE * P);
    }

    void push(int64_t start, int64_t stop, int64_t p, int64_t block) {
        for (int64_t k = start; k < stop; k += TILE) {
            const int64_t num = std::min<int64_t>(TILE, stop - k);
            tile_of<T>((int)num, (const T*)site.rows + k * site.width, site.width, weight(p, block), site.width,
                       out.data());
            for (int64_t g = 0; g < site.num_gains; ++g) {
                const Gain& own = site.gains[g];
                if (own.block != block) continue;
                int64_t t = k / kernel.batch, row = k % kernel.batch;
                for (int64_t i = 0; i < num; ++i) {
                    add_product(to + (t * kernel.probes * kernel.batch + row) * kernel.hidden + own.state + p * P,
                                gain(own, k + i, p), out.data() + i * P, count(p));
                    if (++row == kernel.batch) row = 0, ++t;
                }
            }
        }
    }

    // the columns of W' for this thread's entries of z
    void pull(int64_t index, int64_t threads) {
        const int64_t first = tiles() * index / threads, last = tiles() * (index + 1) / threads, step = block_rows();
        if (first == last) return;
        for (int64_t p = 0; p < panels(); ++p)
            for (int64_t block = 0; block < site.blocks; ++block)
                std::fill(weight(p, block) + first * TILE * P, weight(p, block) + last * TILE * P, T(0));
        for (int64_t start = 0; start < rows(); start += step)
            for (int64_t p = 0; p < panels(); ++p)
                for (int64_t block = 0; block < site.blocks; ++block)
                    pull(start, std::min(start + step, rows()), p, block, first, last);
        const int64_t one = site.width - 1;
        if (site.ones > 1 && first * TILE <= one && one < last * TILE)  // as many biases move alike
            for (int64_t p = 0; p < panels(); ++p)
                for (int64_t block = 0; block < site.blocks; ++block)
                    for (int64_t j = 0; j < P; ++j) weight(p, block)[one * P + j] *= (T)site.ones;
    }

    // what W' does in this thread's steps
    void push(int64_t index, int64_t threads) {
        const int64_t last = rows() * (index + 1) / threads, step = block_rows();
        for (int64_t start = rows() * index / threads; start < last; start += step)
            for (int64_t p = 0; p < panels(); ++p)
                for (int64_t block = 0; block < site.blocks; ++block)
                    push(start, std::min(start + step, last), p, block);
    }
};

template <typename T> void multiply(const Kernel& kernel, const void* from, void* to) {
    std::vector<T> weights;
    Barrier barrier;
#pragma omp parallel num_threads(kernel.threads) if (kernel.threads > 1)
    {
        const int64_t index = omp_get_thread_num(), threads = omp_get_num_threads();
        std::vector<T> columns, out(TILE * panel<T>());
        for (int64_t probe = 0; probe < kernel.probes; ++probe)
            for (int64_t s = 0; s < kernel.num_reads; ++s) {
                Share<T> own{kernel, kernel.reads[s], (const T*)from + probe * kernel.probe_stride,
                             (T*)to + probe * kernel.batch * kernel.hidden, nullptr, columns, out};
                if (index == 0) weights.resize(std::max<int64_t>(own.size(), weights.size()));
                barrier.wait((int)threads);
                own.weights = weights.data();
                own.pull(index, threads);
                barrier.wait((int)threads);
                own.push(index, threads);
                barrier.wait((int)threads);
            }
    }
}

void run(const Kernel& kernel, const void* from, void* to) {
    if (kernel.doubles) multiply<double>(kernel, from, to);
    else multiply<float>(kernel, from, to);
}

void run(const Problem& problem, void* states) {
    if (problem.doubles) scan<double>(problem, states);
    else scan<float>(problem, states);
}

}  // namespace KPN_ISA
