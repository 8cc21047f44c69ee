// The recipe on an engine that only writes down what it is told, and the schedules by themselves.
#include "check.hpp"

#include "search/recipe.hpp"

#include <cmath>
#include <map>

using namespace bqq::detail;
using bqq::DecomposeOptions;
using bqq::Error;
using bqq::Index;

namespace {

// Blocks of 10 entries whose errors after each call come from a script; all spreads 1 unless said.
struct Script final : Engine {
    std::vector<std::string> calls;
    std::vector<Spread> spread;
    std::map<std::string, std::vector<double>> after; ///< errors of all blocks once this call was made
    std::map<std::string, AnnealErrors> annealed;
    std::vector<double> now;
    OnSteps on_steps;

    explicit Script(Index blocks) : spread(std::size_t(blocks), {0, 1, 1}), now(std::size_t(blocks), 100) {
        sizes_.assign(std::size_t(blocks), 10);
    }
    static std::string names(const Selection& blocks) {
        std::string text;
        for (const Index b : blocks) text += char('a' + b);
        return text;
    }
    void call(const std::string& text) {
        calls.push_back(text);
        if (after.count(text)) now = after[text];
    }
    std::vector<Spread> begin_stack(Index i) override {
        call("begin " + std::to_string(i));
        return spread;
    }
    void descend(const Selection& blocks, const AmfdOptions& o, Index trial) override {
        call("descend " + names(blocks) + " " + std::to_string(o.steps) + " " + std::to_string(trial));
        on_steps(o.steps * Index(blocks.size()));
    }
    std::vector<AnnealErrors> anneal(const Selection& blocks, const RefineOptions& o, Index trial) override {
        const std::string text =
            "anneal " + names(blocks) + " " + std::to_string(o.sweeps) + " " + std::to_string(trial);
        call(text);
        on_steps(o.sweeps * Index(blocks.size()));
        std::vector<AnnealErrors> errors;
        for (const Index b : blocks) {
            const std::string one = text + " " + char('a' + b);
            errors.push_back(annealed.count(one) ? annealed[one] : AnnealErrors{10, 5});
        }
        return errors;
    }
    std::vector<double> errors(const Selection& blocks) override {
        std::vector<double> found;
        for (const Index b : blocks) found.push_back(now[std::size_t(b)]);
        return found;
    }
    void exchange(const Selection& blocks, Best what) override {
        call((what == Best::keep ? "keep " : "restore ") + names(blocks));
    }
};

// The calls of one stack, and whether progress adds up to the work.
std::vector<std::string> run(Script& engine, const SearchRecipe& recipe, Index i = 0) {
    Index done = 0;
    engine.on_steps = [&](Index steps) { done += steps; };
    search_stack(engine, recipe, i, engine.on_steps);
    CHECK_EQ(done, Index(engine.sizes().size()) * recipe.work());
    return engine.calls;
}

SearchRecipe small() {
    SearchRecipe recipe;
    recipe.amfd.steps = 20, recipe.refine.sweeps = 30;
    return recipe;
}

void check_calls(const std::vector<std::string>& got, const std::vector<std::string>& expected) {
    CHECK_EQ(got.size(), expected.size());
    for (std::size_t x = 0; x < std::min(got.size(), expected.size()); ++x) CHECK_EQ(got[x], expected[x]);
}

} // namespace

TEST(descend_anneal_keep) {
    Script engine(1);
    engine.after["anneal a 30 2"] = {50};
    check_calls(run(engine, small(), 2),
                {"begin 2", "keep a", "descend a 20 2", "keep a", "anneal a 30 2", "keep a", "restore a"});
}

TEST(what_is_not_better_is_not_kept) {
    Script engine(2);
    engine.after["anneal ab 30 0"] = {50, 200};
    check_calls(run(engine, small()),
                {"begin 0", "keep ab", "descend ab 20 0", "keep ab", "anneal ab 30 0", "keep a", "restore ab"});
}

TEST(a_block_with_nothing_left_is_left_alone) {
    Script engine(3);
    engine.spread[1] = {0, 0, 0};
    check_calls(run(engine, small()),
                {"begin 0", "keep abc", "keep abc", "descend ac 20 0", "keep ac", "anneal ac 30 0", "restore abc"});
    Script nothing(1);
    nothing.spread[0] = {0, 0, 0};
    check_calls(run(nothing, small()), {"begin 0", "keep a", "keep a", "restore a"});
}

TEST(the_best_of_several_starts_is_refined) {
    SearchRecipe recipe = small();
    recipe.restarts = 2, recipe.refine.sweeps = 3000;
    Script engine(1);
    engine.after["anneal a 2000 130"] = {70}, engine.after["anneal a 2000 195"] = {80};
    check_calls(run(engine, recipe),
                {"begin 0", "keep a", "descend a 20 0", "anneal a 2000 130", "keep a", "descend a 20 65",
                 "anneal a 2000 195", "restore a", "anneal a 3000 0", "restore a"});
}

TEST(a_longer_descent_where_annealing_gained_little) {
    SearchRecipe recipe = small();
    recipe.retry_steps = 99, recipe.min_gain = 0.06;
    Script engine(3);
    engine.annealed["anneal abc 30 1 b"] = {10, 9.5};   // 5 %
    engine.annealed["anneal abc 30 1 c"] = {10, 1e-10}; // exact: no other try
    engine.after["anneal abc 30 1"] = {90, 90, 90};
    engine.after["descend b 99 131"] = {90, 95, 90};
    engine.after["anneal b 30 196"] = {90, 60, 90};
    check_calls(run(engine, recipe, 1), {"begin 1", "keep abc", "descend abc 20 1", "keep abc", "anneal abc 30 1",
                                         "keep abc", "descend b 99 131", "anneal b 30 196", "keep b", "restore abc"});
}

TEST(options_become_a_recipe) {
    const bqq::Layout a = bqq::make_layout(64, 64, 1), large = bqq::make_layout(256, 256, 1),
                      wide = bqq::make_layout(64, 64, 1, 64);
    DecomposeOptions options;
    SearchRecipe r = make_recipe(options, a);
    CHECK(r.amfd.steps == 2000 && r.refine.sweeps == 20000 && r.restarts == 1 && r.retry_steps == 10000 &&
          r.amfd.robust);
    CHECK_EQ(make_recipe(options, large).refine.sweeps, 10000);
    CHECK(make_recipe(options, wide).retry_steps == 30000 && make_recipe(options, wide).min_gain == 0.3);
    options.steps = 7;
    CHECK(make_recipe(options, a).amfd.steps == 7 && make_recipe(options, a).retry_steps == 0);
    options = {}, options.effort = bqq::Effort::best, options.refine = -1;
    CHECK(make_recipe(options, a).refine.sweeps == 0 && make_recipe(options, a).restarts == 1);
    options.refine = 5;
    CHECK(make_recipe(options, a).refine.sweeps == 5 && make_recipe(options, a).restarts == 4);
    CHECK_EQ(make_recipe(options, a).work(), 4 * (2000 + 5) + 5);
    options = {}, options.schedule = bqq::Schedule::paper;
    r = make_recipe(options, a);
    CHECK(r.amfd.steps == 50000 && !r.amfd.robust && !r.amfd.stop_when_settled && r.refine.sweeps == 0);
    options.refine = bqq::kRefineOfEffort;
    CHECK_EQ(make_recipe(options, a).refine.sweeps, 20000);
    options.schedule = bqq::Schedule::adaptive;
    CHECK(make_recipe(options, a).refine.sweeps == 20000 && make_recipe(options, a).retry_steps == 10000);
    options.damping = 0;
    CHECK_EQ(damping_of(options), 0.1);
    options.damping = -1;
    CHECK_EQ(damping_of(options), 0);
    options.refine = -3;
    CHECK_THROWS(make_recipe(options, a), Error, "refine is -3");
}

TEST(a_descent_ends_when_nothing_has_moved_for_eight_steps) {
    AmfdOptions options;
    options.steps = 11, options.stop_when_settled = true;
    DescentSchedule schedule(options);
    CHECK_EQ(schedule.temperature(0), 0.2);
    CHECK_NEAR(schedule.temperature(10), 0.005, 1e-15);
    int still = 0;
    for (int step = 0; step < 7; ++step) CHECK(!schedule.settled(0, 0, still));
    CHECK(!schedule.settled(1e-3f, 0, still));
    for (int step = 0; step < 7; ++step) CHECK(!schedule.settled(0, 0, still));
    CHECK(!schedule.settled(0, 1e-3, still));
    for (int step = 0; step < 7; ++step) CHECK(!schedule.settled(0, 0, still));
    CHECK(schedule.settled(0, 0, still));
    options.stop_when_settled = false;
    CHECK(!DescentSchedule(options).settled(0, 0, still));
}

TEST(annealing_quenches_heats_cools_and_quenches) {
    RefineOptions options;
    options.sweeps = 800;
    const AnnealSchedule schedule(options);
    AnnealState s{};
    s.begin(schedule, 2);
    int quenched = 0, sweeps = 0, last = 0, recounts = 0, heated = 0;
    double T = 0, hottest = 0, coldest = 1e9;
    for (std::int64_t pass = 0; s.phase != AnnealPhase::done; ++pass) {
        CHECK(pass < schedule.most_passes());
        recounts += s.recount_due();
        quenched += s.phase == AnnealPhase::quench, last += s.phase == AnnealPhase::cool;
        if (s.phase == AnnealPhase::anneal) {
            ++sweeps, heated += s.temperature() > T;
            T = s.temperature(), hottest = std::max(hottest, T), coldest = std::min(coldest, T);
        } else {
            CHECK_EQ(s.temperature(), 0);
        }
        s.advance(schedule, 5, 1000, 2);
    }
    CHECK(quenched == 30 && sweeps == 800 && last == 200);
    CHECK_EQ(recounts, 800 / 64 + 1);
    CHECK_EQ(heated, 100);
    CHECK_NEAR(hottest, 2 * 3.5, 0.1);
    CHECK_NEAR(T, 0.6 * hottest, 0.05); // the last sweep's is one factor above
    s.begin(schedule, 2);
    for (int pass = 0; pass < 40; ++pass) s.advance(schedule, 50, 1000, 1); // more than melts
    CHECK(s.cooling && s.unit == 1 && s.T < options.anneal.T_first);
    s.begin(schedule, 2);
    s.advance(schedule, 0, 1000, 2);
    CHECK(s.phase == AnnealPhase::anneal);
    options.sweeps = 0;
    s.begin(AnnealSchedule(options), 2);
    CHECK(s.phase == AnnealPhase::cool && s.recount_due());
    s.advance(AnnealSchedule(options), 0, 1000, 2);
    CHECK(s.phase == AnnealPhase::done);
}
