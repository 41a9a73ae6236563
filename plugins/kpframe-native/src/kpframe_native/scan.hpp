// The scans of P and P* for steps that are weights between pointwise gains, compiled for one instruction set.
//
//   forward    y_t     = q_t     + sum_k D_k[t] (W_k (S_k[t] y_{t-1})) + E[t] y_{t-1}
//   backward   y_{t-1} = r_{t-1} + sum_k S_k[t] (W_k^T (D_k[t] y_t))   + E[t] y_t
//
// A step is a product of a few rows with each weight, kept in a cache, and one pass over the rows in which all
// gains are applied. What is read is read once and what is written is written once.
//
// Threads share the rows, each walking all steps without waiting. Where rows are few they share the columns of
// the weights, with barriers at each step.

#pragma once
#include "tiles.hpp"

namespace KPN_ISA {

template <typename T> class Scan {
  public:
    Scan(const Problem& problem, const T* from, T* to, T* shared, Barrier& barrier, int index, int threads)
        : problem_(problem), states_(problem.states), to_(to), barrier_(barrier) {
        const int64_t rows = states_.probes * states_.batch;
        const bool columns = problem.share_columns;
        first_ = columns ? 0 : rows * index / threads;
        last_ = columns ? rows : rows * (index + 1) / threads;
        part_ = columns ? index : 0;
        parts_ = columns ? threads : 1;
        for (int64_t row = first_; row < last_; ++row)
            given_.push_back(from + row / states_.batch * states_.probe_stride +
                             row % states_.batch * states_.row_stride);
        back_ = columns ? shared : back_own_.at_least(back_size(problem, last_ - first_));
        if (problem.adjoint) plan_backward();
        else plan_forward();
    }

    // entries of the products of a step of P*, of all sites
    static int64_t back_size(const Problem& problem, int64_t rows) {
        int64_t size = 0;
        for (int64_t s = 0; s < problem.num_sites; ++s) size += padded<T>(problem.sites[s].width);
        return size * rows;
    }

    void run() {
        if (first_ == last_) return;
        begin(problem_.adjoint ? states_.steps - 1 : 0);
        if (parts_ > 1) barrier_.wait(parts_);
        if (problem_.adjoint)
            for (int64_t t = states_.steps - 1; t > 0; --t) backward(t);
        else
            for (int64_t t = 1; t < states_.steps; ++t) forward(t);
    }

  private:
    // A term of the sums of a step: gains, and where the other factor is
    struct Part {
        const T* gains;   // [steps, batch, units]
        const T* values;  // products of the first row, or null: a component of the old state
        int64_t row;      // how far the next row's products are
        int64_t source;   // where that component begins
    };
    struct Sum {
        int64_t target;  // where the sum goes: the beginning of a component, or of a block of columns
        std::vector<Part> parts;
        const T* more = nullptr;  // what is added as it is: products of the first row, or null
        int64_t more_row = 0;     // how far the next row's are
    };

    int64_t rows() const { return last_ - first_; }
    T* state(int64_t t, int64_t row) const {
        return to_ + (t * states_.probes * states_.batch + row) * states_.hidden;
    }
    const T* given(int64_t t, int64_t row) const { return given_[row - first_] + t * states_.step_stride; }
    const T* gain(const void* values, int64_t t, int64_t trial, int64_t width) const {
        return (const T*)values + (t * states_.batch + trial) * width;
    }
    // the share of this thread of so many panels or entries
    void share(int64_t count, int64_t& from, int64_t& to) const {
        from = count * part_ / parts_;
        to = count * (part_ + 1) / parts_;
    }
    // all rows of this thread, with the trial of each
    template <typename Each> void each_row(Each each) const {
        int64_t trial = first_ % states_.batch;
        for (int64_t row = first_; row < last_; ++row) {
            each(row, trial);
            if (++trial == states_.batch) trial = 0;
        }
    }
    static Sum& sum_to(std::vector<Sum>& sums, int64_t target) {
        for (Sum& known : sums)
            if (known.target == target) return known;
        sums.push_back(Sum{target, {}, nullptr, 0});
        return sums.back();
    }

    void begin(int64_t t) const {
        int64_t from, to;
        share(states_.hidden, from, to);
        for (int64_t row = first_; row < last_; ++row)
            std::memcpy(state(t, row) + from, given(t, row) + from, (to - from) * sizeof(T));
    }

    // ``to[target] = base[target] + sum`` of the entries from <= j < to of a component or block
    void add(const Sum& sum, int64_t t, int64_t row, int64_t trial, const T* old, const T* base, T* to, int64_t from,
             int64_t stop) {
        terms_.resize(sum.parts.size());
        for (size_t i = 0; i < sum.parts.size(); ++i) {
            const Part& part = sum.parts[i];
            const T* values = part.values ? part.values + (row - first_) * part.row : old + part.source;
            terms_[i] = {gain(part.gains, t, trial, states_.units) + from, values + from};
        }
        const T* more = sum.more ? sum.more + (row - first_) * sum.more_row + from : nullptr;
        sum_of<T>(base, more, terms_.data(), (int64_t)terms_.size(), to, stop - from);
    }

    // the gains of these sums at a step, for this thread's rows
    void look_ahead(const std::vector<Sum>& sums, int64_t t) {
        const int64_t trial = first_ % states_.batch, all = states_.batch;
        for (const Sum& sum : sums)
            for (const Part& part : sum.parts) {
                const int64_t bytes = states_.units * sizeof(T);
                if (trial + rows() <= all) ahead_.add(gain(part.gains, t, trial, states_.units), rows() * bytes);
                else ahead_.add(gain(part.gains, t, 0, states_.units), all * bytes);
            }
    }
    void look_ahead_at_given(int64_t t) {
        for (int64_t row = first_; row < last_; ++row) ahead_.add(given(t, row), states_.hidden * sizeof(T));
    }

    // -- forward --------------------------------------------------------------------------------------------

    void plan_forward() {
        int64_t size = 0;
        for (int64_t s = 0; s < problem_.num_sites; ++s) size += problem_.sites[s].blocks;
        pitch_ = size * padded<T>(states_.units);
        const T* at = products_.at_least(rows() * pitch_);
        for (int64_t s = 0; s < problem_.num_sites; ++s) {
            const Site& site = problem_.sites[s];
            for (int64_t g = 0; g < site.num_gains; ++g) {
                const Gain& own = site.gains[g];
                const T* values = at + own.block * padded<T>(states_.units);
                sum_to(sums_, own.state).parts.push_back({(const T*)own.values, values, pitch_, 0});
            }
            at += site.blocks * padded<T>(states_.units);
        }
        for (int64_t d = 0; d < problem_.num_direct; ++d) {
            const Direct& own = problem_.direct[d];
            sum_to(sums_, own.target).parts.push_back({(const T*)own.values, nullptr, 0, own.source});
        }
        for (int64_t c = 0; c < states_.hidden; c += states_.units) sum_to(sums_, c);  // some have no terms
    }

    void forward(int64_t t) {
        constexpr int P = panel<T>();
        const int64_t n = states_.units;
        int64_t from, to;
        share(panels<T>(n), from, to);
        T* products = products_.begin();
        ahead_.clear();
        look_ahead(sums_, t);
        look_ahead_at_given(t);
        ahead_.add(state(t, first_), rows() * states_.hidden * sizeof(T));
        ahead_.among(pitch_ / P * tiles_of(rows()) / parts_);
        for (int64_t s = 0; s < problem_.num_sites; ++s) {
            const Site& site = problem_.sites[s];
            const int64_t width = site.width;
            const T* read = state(t - 1, first_) + site.source;
            int64_t stride = states_.hidden;
            if (site.slope) {
                T* sloped = sloped_.at_least(rows() * width);
                each_row([&](int64_t row, int64_t trial) {
                    const Term<T> term{gain(site.slope, t, trial, width), state(t - 1, row) + site.source};
                    sum_of<T>(nullptr, nullptr, &term, 1, sloped + (row - first_) * width, width);
                });
                read = sloped, stride = width;
            }
            for (int64_t block = 0; block < site.blocks; ++block, products += padded<T>(n))
                multiply<T>(read, stride, rows(), (const T*)site.packed + block * panels<T>(n) * width * P, width * P,
                            width, n, from, to, products, pitch_, ahead_);
        }
        const int64_t start = from * P, stop = std::min(to * P, n);
        if (start < stop)
            each_row([&](int64_t row, int64_t trial) {
                const T* base = given(t, row);
                for (const Sum& sum : sums_)
                    add(sum, t, row, trial, state(t - 1, row), base + sum.target + start,
                        state(t, row) + sum.target + start, start, stop);
            });
        if (parts_ > 1) barrier_.wait(parts_);
    }

    // -- backward -------------------------------------------------------------------------------------------

    void plan_backward() {
        pitch_ = 0;
        for (int64_t s = 0; s < problem_.num_sites; ++s) {
            const Site& site = problem_.sites[s];
            pitch_ = std::max(pitch_, site.blocks * states_.units);
            columns_of_.emplace_back();
            for (int64_t block = 0; block < site.blocks; ++block) sum_to(columns_of_.back(), block * states_.units);
            for (int64_t g = 0; g < site.num_gains; ++g) {
                const Gain& own = site.gains[g];
                Sum& sum = sum_to(columns_of_.back(), own.block * states_.units);
                sum.parts.push_back({(const T*)own.values, nullptr, 0, own.state});
            }
        }
        products_.at_least(rows() * pitch_);
        for (int64_t d = 0; d < problem_.num_direct; ++d) {
            const Direct& own = problem_.direct[d];
            sum_to(sums_, own.source).parts.push_back({(const T*)own.values, nullptr, 0, own.target});
        }
        for (int64_t c = 0; c < states_.hidden; c += states_.units) sum_to(sums_, c);
        const T* back = back_;
        for (int64_t s = 0; s < problem_.num_sites; ++s) {
            const Site& site = problem_.sites[s];
            // a whole component, as it is: part of its sum
            bool fused = !site.slope && site.width == states_.units && site.source % states_.units == 0;
            if (fused) {
                Sum& sum = sum_to(sums_, site.source);
                if ((fused = !sum.more)) sum.more = back, sum.more_row = padded<T>(site.width);
            }
            fused_.push_back(fused);
            back += rows() * padded<T>(site.width);
        }
    }

    void backward(int64_t t) {
        const int64_t n = states_.units;
        T *columns = products_.begin(), *back = back_;
        ahead_.clear();
        look_ahead(sums_, t);
        look_ahead_at_given(t - 1);
        ahead_.add(state(t - 1, first_), rows() * states_.hidden * sizeof(T));
        for (const std::vector<Sum>& sums : columns_of_) look_ahead(sums, t - 1);
        ahead_.among(back_size(problem_, 1) / panel<T>() * tiles_of(rows()) / parts_);
        for (int64_t s = 0; s < problem_.num_sites; ++s) {
            const Site& site = problem_.sites[s];
            const int64_t depth = site.blocks * n, width = site.width;
            each_row([&](int64_t row, int64_t trial) {
                for (const Sum& sum : columns_of_[s])
                    add(sum, t, row, trial, state(t, row), nullptr, columns + (row - first_) * depth + sum.target, 0,
                        n);
            });
            int64_t from, to;
            share(panels<T>(width), from, to);
            multiply<T>(columns, depth, rows(), (const T*)site.packed_adjoint, depth * panel<T>(), depth, width, from,
                        to, back, padded<T>(width), ahead_);
            back += rows() * padded<T>(width);
        }
        if (parts_ > 1) barrier_.wait(parts_);  // a share of the sums takes products of several shares
        int64_t from, to;
        share(n, from, to);
        if (from < to)
            each_row([&](int64_t row, int64_t trial) {
                const T* base = given(t - 1, row);
                for (const Sum& sum : sums_)
                    add(sum, t, row, trial, state(t, row), base + sum.target + from,
                        state(t - 1, row) + sum.target + from, from, to);
                back = back_;
                for (int64_t s = 0; s < problem_.num_sites; ++s) {
                    const Site& site = problem_.sites[s];
                    const T* values = back + (row - first_) * padded<T>(site.width);
                    for (int64_t c = 0; !fused_[s] && c < states_.hidden; c += n)  // the thread's share of each
                        add_back(site, t, trial, values, state(t - 1, row), c + from, c + to);
                    back += rows() * padded<T>(site.width);
                }
            });
        if (parts_ > 1) barrier_.wait(parts_);
    }

    // what a site sends back to the entries from <= h < to of the state
    void add_back(const Site& site, int64_t t, int64_t trial, const T* values, T* to_row, int64_t from,
                  int64_t to) const {
        from = std::max(from, site.source), to = std::min(to, site.source + site.width);
        if (from >= to) return;
        T* out = to_row + from;
        values += from - site.source;
        if (site.slope) {
            const Term<T> term{gain(site.slope, t, trial, site.width) + from - site.source, values};
            sum_of<T>(out, nullptr, &term, 1, out, to - from);
        } else {
            for (int64_t j = 0; j < to - from; ++j) out[j] += values[j];
        }
    }

    const Problem& problem_;
    const States& states_;
    T *to_, *back_;
    Barrier& barrier_;
    int64_t first_, last_;  // rows of this thread
    int part_, parts_;      // of the columns
    int64_t pitch_;         // of the products of a row
    Buffer<T> products_, sloped_, back_own_;
    std::vector<Sum> sums_;                     // to the components of the new state
    std::vector<std::vector<Sum>> columns_of_;  // to the blocks of each site's columns
    std::vector<char> fused_;                   // whether a site's products are part of these sums
    std::vector<const T*> given_;               // q of each row
    std::vector<Term<T>> terms_;
    Ahead ahead_;
};

template <typename T> void scan(const Problem& problem, const T* from, T* to) {
    Barrier barrier;
    Buffer<T> back;
    if (problem.share_columns && problem.adjoint)
        back.at_least(Scan<T>::back_size(problem, problem.states.probes * problem.states.batch));
    // the threads of torch's own OpenMP: those of another pool would wait while torch's still spin
#pragma omp parallel num_threads(problem.states.threads) if (problem.states.threads > 1)
    {
        // one within another's threads
        Scan<T> own(problem, from, to, back.begin(), barrier, omp_get_thread_num(), omp_get_num_threads());
        own.run();
    }
}

void run(const Problem& problem, const void* from, void* to) {
    if (problem.states.doubles) scan<double>(problem, (const double*)from, (double*)to);
    else scan<float>(problem, (const float*)from, (float*)to);
}

}  // namespace KPN_ISA
