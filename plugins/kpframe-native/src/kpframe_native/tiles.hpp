// Products of a few rows with a packed matrix, and sums of pointwise products: what scans and K are made of.
//
// A matrix lies in panels of PANEL columns, packed once, so that a panel stays in the first cache while all
// rows pass it; a tile of up to TILE rows and one panel is summed up in registers. Where a tile is small its
// sums are several chains, as a multiply-add can begin long before the last one has ended. A last panel that
// is at most half full takes half of the registers.

#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
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

namespace KPN_ISA {

constexpr int BYTES = KPN_BYTES;  // of a vector register
constexpr int TILE = KPN_TILE;    // most rows of a tile
constexpr int VECTORS = 2;        // registers of a panel's row

template <typename T, int SIZE = BYTES> struct Vector {
    typedef T type __attribute__((vector_size(SIZE), aligned(sizeof(T)), may_alias));
};

template <typename T> constexpr int lanes() { return BYTES / (int)sizeof(T); }
template <typename T> constexpr int panel() { return VECTORS * lanes<T>(); }
template <typename T> int64_t panels(int64_t columns) { return (columns + panel<T>() - 1) / panel<T>(); }
template <typename T> int64_t padded(int64_t columns) { return panels<T>(columns) * panel<T>(); }

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

// Memory that begins with a line of the cache and is not written before it is used.
template <typename T> class Buffer {
  public:
    T* at_least(int64_t size) {
        if (size > size_) {
            kept_.reset(new char[size * sizeof(T) + 64]);
            begin_ = (T*)(((uintptr_t)kept_.get() + 63) & ~(uintptr_t)63);
            size_ = size;
        }
        return begin_;
    }
    T* begin() const { return begin_; }

  private:
    std::unique_ptr<char[]> kept_;
    T* begin_ = nullptr;
    int64_t size_ = 0;
};

// -- products -----------------------------------------------------------------------------------------------

constexpr int chains(int sums) { return sums >= 8 ? 1 : sums >= 3 ? 2 : 4; }

// out[i][0:WIDE] (+)= sum_k rows[i * ROW + k * STEP] matrix[k * PANEL + (0:WIDE)], for ROWS rows
template <typename T, int ROWS, int WIDE, bool ADD>
inline void tile(const T* rows, int64_t row, int64_t step, const T* matrix, int64_t depth, T* out, int64_t stride) {
    typedef typename Vector<T>::type V;
    constexpr int N = lanes<T>(), CHAINS = chains(ROWS * WIDE);
    V sums[CHAINS][ROWS][WIDE];
    for (int c = 0; c < CHAINS; ++c)
        for (int i = 0; i < ROWS; ++i)
            for (int j = 0; j < WIDE; ++j) sums[c][i][j] = ADD && c == 0 ? *(const V*)(out + i * stride + j * N) : V{};
    auto add = [&](int64_t k, int c) __attribute__((always_inline)) {
        V weight[WIDE];
        for (int j = 0; j < WIDE; ++j) weight[j] = *(const V*)(matrix + (k * VECTORS + j) * N);
        for (int i = 0; i < ROWS; ++i) {
            const T value = rows[i * row + k * step];
            for (int j = 0; j < WIDE; ++j) sums[c][i][j] += value * weight[j];
        }
    };
    int64_t k = 0;
    for (; k + CHAINS <= depth; k += CHAINS)
        for (int c = 0; c < CHAINS; ++c) add(k + c, c);
    for (; k < depth; ++k) add(k, 0);
    for (int c = 1; c < CHAINS; ++c)
        for (int i = 0; i < ROWS; ++i)
            for (int j = 0; j < WIDE; ++j) sums[0][i][j] += sums[c][i][j];
    for (int i = 0; i < ROWS; ++i)
        for (int j = 0; j < WIDE; ++j) *(V*)(out + i * stride + j * N) = sums[0][i][j];
}

template <typename T, int WIDE, bool ADD>
inline void tile_of(int num, const T* rows, int64_t row, int64_t step, const T* matrix, int64_t depth, T* out,
                    int64_t stride) {
    switch (num) {
    case 1: return tile<T, 1, WIDE, ADD>(rows, row, step, matrix, depth, out, stride);
    case 2: return tile<T, 2, WIDE, ADD>(rows, row, step, matrix, depth, out, stride);
    case 3: return tile<T, 3, WIDE, ADD>(rows, row, step, matrix, depth, out, stride);
    case 4: return tile<T, 4, WIDE, ADD>(rows, row, step, matrix, depth, out, stride);
    case 5: return tile<T, 5, WIDE, ADD>(rows, row, step, matrix, depth, out, stride);
    default: return tile<T, 6, WIDE, ADD>(rows, row, step, matrix, depth, out, stride);
    }
}
static_assert(TILE == 6, "tile_of knows tiles of up to 6 rows");

// What the pass after a product will read, brought nearer while the product runs: some lines with each tile.
class Ahead {
  public:
    void clear() { ranges_.clear(), lines_ = 0, current_ = 0; }
    void add(const void* begin, int64_t bytes) {
        const uintptr_t from = (uintptr_t)begin & ~(uintptr_t)63, to = ((uintptr_t)begin + bytes + 63) & ~(uintptr_t)63;
        if (!ranges_.empty() && ranges_.back().to >= from && ranges_.back().from <= from) {
            if (to > ranges_.back().to) lines_ += (int64_t)(to - ranges_.back().to) / 64, ranges_.back().to = to;
            return;
        }
        ranges_.push_back({from, to});
        lines_ += (int64_t)(to - from) / 64;
    }
    // shared evenly among so many tiles
    void among(int64_t tiles) { each_ = tiles > 0 ? (lines_ + tiles - 1) / tiles : 0; }
    void some() {
        for (int64_t i = each_; i > 0 && current_ < ranges_.size(); --i) {
            Range& range = ranges_[current_];
            __builtin_prefetch((const void*)range.from, 0, 2);
            if ((range.from += 64) >= range.to) ++current_;
        }
    }

  private:
    struct Range {
        uintptr_t from, to;
    };
    std::vector<Range> ranges_;
    size_t current_ = 0;
    int64_t lines_ = 0, each_ = 0;
};

inline int64_t tiles_of(int64_t rows) { return (rows + TILE - 1) / TILE; }

// out[r][p * PANEL + j] = sum_k rows[r * stride + k] matrix[p * apart + k * PANEL + j], panels from <= p < to
template <typename T>
void multiply(const T* rows, int64_t stride, int64_t num, const T* matrix, int64_t apart, int64_t depth,
              int64_t columns, int64_t from, int64_t to, T* out, int64_t pitch, Ahead& ahead) {
    constexpr int P = panel<T>();
    for (int64_t p = from; p < to; ++p) {
        const bool half = columns - p * P <= lanes<T>();
        const T* own = matrix + p * apart;
        for (int64_t r = 0; r < num; r += TILE) {
            const int n = (int)std::min<int64_t>(TILE, num - r);
            T* at = out + r * pitch + p * P;
            if (half) tile_of<T, 1, false>(n, rows + r * stride, stride, 1, own, depth, at, pitch);
            else tile_of<T, VECTORS, false>(n, rows + r * stride, stride, 1, own, depth, at, pitch);
            ahead.some();
        }
    }
}

// -- sums of pointwise products -----------------------------------------------------------------------------

template <typename T> struct Term { const T *gain, *value; };

// Where entry j of a row lies: side by side, or each panel's entries ``pitch`` after those of the one before.
template <typename T> struct Row {
    T* begin;
    T* at(int64_t j) const { return begin + j; }
};
template <typename T> struct PanelRow {
    T* begin;
    int64_t pitch;
    T* at(int64_t j) const { return begin + j / panel<T>() * pitch + j % panel<T>(); }
};

// out[j] = base[j] + more[j] + sum_i gain_i[j] * value_i[j]; what is null is 0
template <typename T, int NUM, typename Out>
inline void sum(const T* base, const T* more, const Term<T>* terms, Out out, int64_t n) {
    constexpr int N = lanes<T>();
    const T *gain[NUM + 1], *value[NUM + 1];
    for (int i = 0; i < NUM; ++i) gain[i] = terms[i].gain, value[i] = terms[i].value;
    int64_t j = 0;
    auto entries = [&](auto zero) __attribute__((always_inline)) {  // one more vector, or one more number
        typedef decltype(zero) V;
        V total = base ? *(const V*)(base + j) : V{};
        if (more) total += *(const V*)(more + j);
        for (int i = 0; i < NUM; ++i) total += *(const V*)(gain[i] + j) * *(const V*)(value[i] + j);
        *(V*)out.at(j) = total;
    };
    for (; j + N <= n; j += N) entries(typename Vector<T>::type{});
    if (N > 2 && j + N / 2 <= n) entries(typename Vector<T, BYTES / 2>::type{}), j += N / 2;
    for (; j < n; ++j) entries(T{});
}

// The same with any number of terms.
template <typename T>
inline void sum_of(const T* base, const T* more, const Term<T>* terms, int64_t num, T* out, int64_t n) {
    for (; num > 4; num -= 4, terms += 4, base = out, more = nullptr) sum<T, 4>(base, more, terms, Row<T>{out}, n);
    switch (num) {
    case 0: return sum<T, 0>(base, more, terms, Row<T>{out}, n);
    case 1: return sum<T, 1>(base, more, terms, Row<T>{out}, n);
    case 2: return sum<T, 2>(base, more, terms, Row<T>{out}, n);
    case 3: return sum<T, 3>(base, more, terms, Row<T>{out}, n);
    default: return sum<T, 4>(base, more, terms, Row<T>{out}, n);
    }
}

}  // namespace KPN_ISA
