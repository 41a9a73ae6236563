// K for weights behind pointwise gains, compiled for one instruction set.
//
//   (K r)_s = D_s W' z_s,   W' = sum_s (D_s r_s) z_s^T,   s a step of a trial
//
// Threads share the steps of trials: each adds up a W' of its own, then all share the sum of these, then each
// multiplies its own steps by it. Where W' is large they share its columns instead, in one W'. A block of steps
// stays in the second cache; preactivations are not written down beyond it.

#pragma once
#include "tiles.hpp"

#define KPN_BLOCK_BYTES 131072  // of what a block of steps holds at once, in the second cache

namespace KPN_ISA {

// What one thread does for one set of reads and one probe.
template <typename T> class Product {
  public:
    static constexpr int P = panel<T>();

    Product(const Kernel& kernel, const Read& site, const T* from, T* to, T* weights, int64_t index, int64_t threads)
        : states_(kernel.states), site_(site), from_(from), to_(to), weights_(weights), index_(index),
          threads_(threads) {
        first_ = rows() * index / threads;
        last_ = rows() * (index + 1) / threads;
    }

    // entries of W': [blocks, panels, width, P]
    static int64_t size(const Kernel& kernel, const Read& site) {
        return site.blocks * panels<T>(kernel.states.units) * weight_size(site);
    }

    // this thread's part of W', into ``own``: of its steps, or its panels of all steps
    void pull(T* own, bool columns_shared, Buffer<T>& room) {
        const int64_t n = states_.units, num = panels<T>(n), all = site_.blocks * num;
        const int64_t begin = columns_shared ? 0 : first_, end = columns_shared ? rows() : last_;
        const int64_t from = columns_shared ? all * index_ / threads_ : 0;
        const int64_t to = columns_shared ? all * (index_ + 1) / threads_ : all;
        std::memset(own + from * weight_size(site_), 0, (to - from) * weight_size(site_) * sizeof(T));
        const int64_t most = block_rows(n + site_.width);
        T* columns = room.at_least(num * P * most);
        for (int64_t start = begin; start < end; start += most) {
            const int64_t stop = std::min(start + most, end);
            for (int64_t block = from / num; block * num < to; ++block) {
                gather(start, stop, block, columns);
                ahead_.clear();  // what is gathered next
                if ((block + 1) * num < to) look_ahead(start, stop, block + 1, true);
                else look_ahead(stop, std::min(stop + most, end), from / num, true), look_ahead_at_z(stop, most);
                const int64_t last = std::min(num, to - block * num);
                ahead_.among(last * tiles_of(site_.width));
                for (int64_t p = std::max<int64_t>(0, from - block * num); p < last; ++p)
                    outer(start, stop, columns + p * (stop - start) * P, own + (block * num + p) * weight_size(site_),
                          n - p * P <= lanes<T>());
            }
        }
    }

    // this thread's share of the sum over the parts of W' of all threads, ``apart`` from each other
    void reduce(int64_t apart, bool columns_shared) {
        const int64_t each = weight_size(site_), count = site_.blocks * panels<T>(states_.units);
        for (int64_t place = count * index_ / threads_; place < count * (index_ + 1) / threads_; ++place) {
            T* own = weights_ + place * each;
            for (int64_t other = 1; !columns_shared && other < threads_; ++other)
                for (int64_t j = 0; j < each; ++j) own[j] += own[other * apart + j];
            for (int64_t j = 0; site_.ones > 1 && j < P; ++j)  // as many biases move alike
                own[(site_.width - 1) * P + j] *= (T)site_.ones;
        }
    }

    // what W' does in this thread's steps; ``begun``: which components another set of reads has written to
    void push(const std::vector<char>& begun, Buffer<T>& room) {
        const int64_t n = states_.units, pitch = site_.blocks * padded<T>(n), width = site_.width;
        const int64_t most = block_rows(pitch + width);
        T* products = room.at_least(most * pitch);
        std::vector<Term<T>> terms;
        for (int64_t start = first_; start < last_; start += most) {
            const int64_t stop = std::min(start + most, last_);
            ahead_.clear();
            for (int64_t block = 0; block < site_.blocks; ++block) look_ahead(start, stop, block, false);
            look_ahead_at_z(stop, most);
            ahead_.among(site_.blocks * panels<T>(n) * tiles_of(stop - start));
            for (int64_t block = 0; block < site_.blocks; ++block)
                multiply<T>(z(start), width, stop - start, weights_ + block * panels<T>(n) * weight_size(site_),
                            weight_size(site_), width, n, 0, panels<T>(n), products + block * padded<T>(n), pitch,
                            ahead_);
            each_step(start, stop, [&](int64_t k, int64_t t, int64_t row) {
                T* to = to_ + (t * states_.probes * states_.batch + row) * states_.hidden;
                for (int64_t c = 0; c < states_.hidden; c += n) {
                    terms.clear();
                    for (int64_t g = 0; g < site_.num_gains; ++g) {
                        const Gain& own = site_.gains[g];
                        if (own.state == c)
                            terms.push_back({gain(own, k), products + (k - start) * pitch + own.block * padded<T>(n)});
                    }
                    const T* base = begun[c / n] ? to + c : nullptr;
                    if (base && terms.empty()) continue;
                    sum_of<T>(base, nullptr, terms.data(), (int64_t)terms.size(), to + c, n);
                }
            });
        }
    }

  private:
    static int64_t weight_size(const Read& site) { return site.width * P; }
    int64_t rows() const { return states_.steps * states_.batch; }
    static int64_t block_rows(int64_t entries) {
        const int64_t fit = KPN_BLOCK_BYTES / (int64_t)sizeof(T) / std::max<int64_t>(entries, 1);
        return std::max<int64_t>(8, fit / TILE) * TILE;
    }
    const T* z(int64_t k) const { return (const T*)site_.rows + k * site_.width; }
    const T* gain(const Gain& own, int64_t k) const { return (const T*)own.values + k * states_.units; }

    // all of these steps, with the step in time and the trial of each
    template <typename Each> void each_step(int64_t start, int64_t stop, Each each) const {
        int64_t t = start / states_.batch, row = start % states_.batch;
        for (int64_t k = start; k < stop; ++k) {
            each(k, t, row);
            if (++row == states_.batch) row = 0, ++t;
        }
    }

    // a panel of W' += what is read times a panel of columns
    void outer(int64_t start, int64_t stop, const T* columns, T* weight, bool half) {
        const int64_t width = site_.width, depth = stop - start;
        for (int64_t i = 0; i < width; i += TILE) {
            const T* read = z(start) + i;
            const int num = (int)std::min<int64_t>(TILE, width - i);
            if (half) tile_of<T, 1, true>(num, read, 1, width, columns, depth, weight + i * P, P);
            else tile_of<T, VECTORS, true>(num, read, 1, width, columns, depth, weight + i * P, P);
            ahead_.some();
        }
    }

    // the gains of a block of preactivations, and the states that they multiply
    void look_ahead(int64_t start, int64_t stop, int64_t block, bool states) {
        if (start >= stop) return;
        for (int64_t g = 0; g < site_.num_gains; ++g) {
            const Gain& own = site_.gains[g];
            if (own.block != block) continue;
            ahead_.add(gain(own, start), (stop - start) * states_.units * sizeof(T));
            if (states && block == 0)
                each_step(start, stop, [&](int64_t, int64_t t, int64_t row) {
                    ahead_.add(from_ + t * states_.step_stride + row * states_.row_stride + own.state,
                               states_.units * sizeof(T));
                });
        }
    }

    void look_ahead_at_z(int64_t start, int64_t most) {
        const int64_t stop = std::min(start + most, last_);
        if (start < stop) ahead_.add(z(start), (stop - start) * site_.width * sizeof(T));
    }

    // what reaches a block of preactivations, D_s r_s, in panels
    void gather(int64_t start, int64_t stop, int64_t block, T* columns) const {
        const int64_t n = states_.units, pitch = (stop - start) * P;
        std::vector<Term<T>> terms;
        each_step(start, stop, [&](int64_t k, int64_t t, int64_t row) {
            const T* state = from_ + t * states_.step_stride + row * states_.row_stride;
            terms.clear();
            for (int64_t g = 0; g < site_.num_gains; ++g) {
                const Gain& own = site_.gains[g];
                if (own.block == block) terms.push_back({gain(own, k), state + own.state});
            }
            sum_into(terms, PanelRow<T>{columns + (k - start) * P, pitch}, n);
        });
    }

    static void sum_into(const std::vector<Term<T>>& terms, PanelRow<T> out, int64_t n) {
        switch (terms.size()) {
        case 0: return sum<T, 0>(nullptr, nullptr, terms.data(), out, n);
        case 1: return sum<T, 1>(nullptr, nullptr, terms.data(), out, n);
        case 2: return sum<T, 2>(nullptr, nullptr, terms.data(), out, n);
        default: break;
        }
        std::vector<T> whole(n);
        sum_of<T>(nullptr, nullptr, terms.data(), (int64_t)terms.size(), whole.data(), n);
        for (int64_t j = 0; j < n; ++j) *out.at(j) = whole[j];
    }

    const States& states_;
    const Read& site_;
    const T* from_;
    T *to_, *weights_;
    int64_t index_, threads_, first_, last_;
    Ahead ahead_;
};

template <typename T> void multiply(const Kernel& kernel, const T* from, T* to) {
    Buffer<T> weights;
    const States& states = kernel.states;
    int64_t apart = 0;
    for (int64_t s = 0; s < kernel.num_reads; ++s) apart = std::max(apart, Product<T>::size(kernel, kernel.reads[s]));
    apart = (apart + 15) / 16 * 16;
    const bool columns = kernel.share_columns;
    weights.at_least(columns ? apart : apart * states.threads);
    Barrier barrier;
#pragma omp parallel num_threads(states.threads) if (states.threads > 1)
    {
        const int index = omp_get_thread_num(), threads = omp_get_num_threads();
        Buffer<T> room;
        for (int64_t probe = 0; probe < states.probes; ++probe) {
            std::vector<char> begun(states.hidden / states.units, 0);
            for (int64_t s = 0; s < kernel.num_reads; ++s) {
                Product<T> own(kernel, kernel.reads[s], from + probe * states.probe_stride,
                               to + probe * states.batch * states.hidden, weights.begin(), index, threads);
                own.pull(weights.begin() + (columns ? 0 : index * apart), columns, room);
                barrier.wait(threads);
                own.reduce(apart, columns);
                barrier.wait(threads);
                own.push(begun, room);
                barrier.wait(threads);
                std::fill(begun.begin(), begun.end(), 1);
            }
        }
    }
}

void run(const Kernel& kernel, const void* from, void* to) {
    if (kernel.states.doubles) multiply<double>(kernel, (const double*)from, (double*)to);
    else multiply<float>(kernel, (const float*)from, (float*)to);
}

}  // namespace KPN_ISA
